//! What a mesh costs that has nothing to say, and how soon it knows what one host says.

use std::time::{Duration, Instant};

use proto::{id::Digest, wire::record::RecordKey};

use super::{harness::*, living::image};
use crate::Serve;

/// Bytes of gossip a second of one host at rest: two summaries in ten seconds, and an exchange in thirty, and those that
/// others begin. Measured are 7 and 15.
const MOST_BYTES: u64 = 200;
/// Long enough for two rounds of everybody.
const WATCHED: Duration = Duration::from_secs(20);

async fn mesh_of(count: usize) -> Vec<Host> {
    let mut hosts = vec![Host::founder("h0", Serve::Off).await];
    let token = hosts[0].token().await;
    for number in 1..count {
        hosts.push(Host::joiner(&format!("h{number}"), &token).await);
    }
    for host in &hosts {
        host.sees("all up", |members| members.up().count() == count).await;
        let mut connected = host.mesh.streams().connected();
        let all = connected.wait_for(|hosts| hosts.len() == count - 1);
        tokio::time::timeout(WITHIN, all).await.expect("all are connected").unwrap();
    }
    hosts
}

/// Gives the bytes of gossip that one host sends in a second, while nothing happens.
async fn at_rest(hosts: &[Host]) -> u64 {
    let sent = || hosts.iter().map(|host| host.mesh.gossip_sent()).sum::<u64>();
    // What came with the last join passes first.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = sent();
    tokio::time::sleep(WATCHED).await;
    (sent() - before) / WATCHED.as_secs() / hosts.len() as u64
}

/// Gives how long a word of the first host takes to all others.
async fn spread(hosts: &[Host], number: u8) -> Duration {
    let key = RecordKey::Image(Digest([number; 32]));
    let place = (hosts[0].id(), key.clone());
    let began = Instant::now();
    hosts[0].mesh.publish(key, Some(image())).await;
    for host in hosts {
        eventually(host.mesh.records(), "the record", |records| records.contains_key(&place)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_hosts_know_within_a_second_what_one_says_and_are_quiet_afterwards() {
    let hosts = mesh_of(8).await;
    let mut times = Vec::new();
    for number in 1..=5 {
        times.push(spread(&hosts, number).await);
    }
    times.sort();
    let bytes = at_rest(&hosts).await;
    eprintln!("8 hosts: known to all after {times:?}; {bytes} bytes of gossip a second and host at rest");
    // Not the slowest: this computer does other things besides.
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
    assert!(bytes < MOST_BYTES, "{bytes} bytes a second");
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_at_rest_hardly_speak() {
    let hosts = mesh_of(3).await;
    let bytes = at_rest(&hosts).await;
    eprintln!("3 hosts: {bytes} bytes of gossip a second and host at rest");
    assert!(bytes < MOST_BYTES / 2, "{bytes} bytes a second");
    for host in hosts {
        host.stop().await;
    }
}
