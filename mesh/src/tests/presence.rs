//! Who is there, by real probes on real connections.

use std::time::{Duration, Instant};

use proto::{facts::Fact, id::HostId};
use tokio::sync::{mpsc, oneshot};

use super::harness::*;
use crate::{MemberState, Serve};

/// The mesh needs half of it; the computers that test it are busy.
const SOON: Duration = Duration::from_secs(6);
/// What a host of three may hear at rest, bytes a second of QUIC: measured are 110 to 140; with probes beside the pulses
/// and gossip exchanged each 10 s they were 300 to 340.
const AT_REST: u64 = 240;

async fn mesh(labels: &[&str]) -> Vec<Host> {
    let first = Host::founder("attic", Serve::Off).await;
    let token = first.token().await;
    let mut hosts = vec![first];
    for label in labels {
        hosts.push(Host::joiner(label, &token).await);
    }
    are_up(&hosts, hosts.len()).await;
    hosts
}

async fn are_up(hosts: &[Host], count: usize) {
    for host in hosts {
        host.sees("all up", |members| members.up().count() == count).await;
    }
}

/// Waits until all see a host in this state; gives how long that took.
async fn all_see(hosts: &[Host], of: HostId, state: MemberState) -> Duration {
    let begun = Instant::now();
    for host in hosts {
        host.sees("the state", |members| members.hosts[&of].state == state).await;
    }
    begun.elapsed()
}

/// Lists whom a host has called gone.
fn called_gone(host: &mut Host) -> Vec<String> {
    let mut gone = Vec::new();
    while let Ok(fact) = host.facts.try_recv() {
        if let Fact::MemberDown { member } = fact {
            gone.push(member.to_string());
        }
    }
    gone
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_five_that_is_killed_is_known_to_be_gone_and_one_that_stops_at_once() {
    let mut hosts = mesh(&["cellar", "garden", "shed", "loft"]).await;
    let killed = hosts.pop().unwrap();
    let id = killed.id();
    let begun = Instant::now();
    killed.kill().await;
    all_see(&hosts, id, MemberState::Down).await;
    println!("killed: known after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let stopped = hosts.pop().unwrap();
    let (id, begun) = (stopped.id(), Instant::now());
    let (took, (dir, name)) = tokio::join!(all_see(&hosts, id, MemberState::Down), stopped.stop());
    println!("stopped: known after {took:?} of {:?}", begun.elapsed());
    assert!(took < Duration::from_secs(2), "{took:?}");
    hosts.push(Host::start(dir, name.as_str(), Serve::Off).await);
    are_up(&hosts, 4).await;
    for host in hosts {
        host.stop().await;
    }
}

/// A host on a thread of its own, which can stand still.
struct Freezer {
    id: HostId,
    freeze: mpsc::Sender<Duration>,
    thawed: mpsc::Receiver<Vec<String>>,
    thread: std::thread::JoinHandle<()>,
}

async fn freezer(token: String) -> Freezer {
    let (freeze, mut waits) = mpsc::channel::<Duration>(1);
    let (told, thawed) = mpsc::channel(1);
    let (started, id) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut host = Host::joiner("garden", &token).await;
            started.send(host.id()).unwrap();
            while let Some(wait) = waits.recv().await {
                called_gone(&mut host);
                std::thread::sleep(wait);
                tokio::time::sleep(Duration::from_secs(3)).await;
                told.send(called_gone(&mut host)).await.unwrap();
            }
            host.stop().await;
        });
    });
    Freezer { id: id.await.unwrap(), freeze, thawed, thread }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stands_still_is_gone_until_it_answers_and_holds_it_against_nobody() {
    let mut hosts = mesh(&["cellar", "shed"]).await;
    let mut frozen = freezer(hosts[0].token().await).await;
    are_up(&hosts, 4).await;
    // Every way has been asked a few times.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    frozen.freeze.send(Duration::from_secs(7)).await.unwrap();
    all_see(&hosts, frozen.id, MemberState::Down).await;
    println!("frozen: known after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    all_see(&hosts, frozen.id, MemberState::Up).await;
    println!("thawed: known after {:?}", begun.elapsed());
    assert_eq!(frozen.thawed.recv().await.unwrap(), Vec::<String>::new());
    for host in &mut hosts {
        assert_eq!(called_gone(host), ["garden"], "by {}", host.name);
    }
    drop(frozen.freeze);
    tokio::task::spawn_blocking(|| frozen.thread.join()).await.unwrap().unwrap();
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_at_rest_say_little_to_each_other() {
    let hosts = mesh(&["cellar", "garden"]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let heard =
        |host: &Host| host.mesh.gate().soundings().iter().map(|sounding| sounding.received).sum::<u64>();
    let before: Vec<u64> = hosts.iter().map(heard).collect();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    for (host, before) in hosts.iter().zip(before) {
        let each = (heard(host) - before) as f64 / begun.elapsed().as_secs_f64();
        println!("{} hears {each:.0} bytes a second", host.name);
        assert!(each < AT_REST as f64, "{each}");
    }
    for host in hosts {
        host.stop().await;
    }
}
