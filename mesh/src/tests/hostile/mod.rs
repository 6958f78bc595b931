//! A member that does what no honest one does, one behaviour after the other. After each the others are up, right and
//! able to talk: what they say reaches each other, requests are answered, and nothing grows.

mod beats;
mod behaviours;
mod frames;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{AsyncWriteExt, future::BoxFuture};
use libp2p::{Stream, StreamProtocol};
use proto::{
    id::{Digest, HostId, MeshId},
    seal::Seed,
    wire::{
        record::RecordKey,
        rpc::{Answer, Request},
    },
};

use super::{harness::*, living::image};
use crate::{Serve, identity, transport::protocols};

/// A record, a request or an answer between honest hosts takes no longer, whatever a third one does.
const SOON: Duration = Duration::from_secs(12);
/// Tasks of four hosts in one process, and what is allowed to one member.
const MOST_TASKS: usize = 4_000;
/// Memory that all behaviours together may leave behind.
const MOST_GROWTH_MIB: u64 = 600;

/// The hostile member, and what it knows.
struct Bot {
    host: Host,
    seed: Seed,
    mesh: MeshId,
    /// Of whom it lies.
    victim: HostId,
    victim_start: u64,
    /// To whom it lies.
    target: HostId,
    target_start: u64,
    /// Streams that it leaves open until its next behaviour of this kind: a connection has only so many.
    left: tokio::sync::Mutex<Vec<Stream>>,
}

type Behaviour = for<'a> fn(&'a Bot) -> BoxFuture<'a, ()>;

impl Bot {
    async fn open(&self, protocol: StreamProtocol) -> Option<Stream> {
        self.host.mesh.streams().open(self.target, protocol, SOON).await.ok()
    }

    /// Sends frames of gossip, as far as the receiver takes them.
    async fn gossip(&self, frames: Vec<Vec<u8>>) {
        let Some(mut stream) = self.open(protocols::GOSSIP).await else { return };
        for frame in frames {
            let written = protocols::write_frame(&mut stream, &frame);
            if !matches!(tokio::time::timeout(Duration::from_secs(1), written).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Begins streams and leaves them as they are. What is given up is held until all is over.
    async fn leave(&self, protocol: StreamProtocol, count: usize, bytes: &[u8]) -> Vec<Stream> {
        let mut left = Vec::new();
        for _ in 0..count {
            let opened = tokio::time::timeout(Duration::from_millis(200), self.open(protocol.clone())).await;
            let Ok(Some(mut stream)) = opened else { break };
            let written = async {
                stream.write_all(bytes).await.ok();
                stream.flush().await.ok();
            };
            tokio::time::timeout(Duration::from_millis(200), written).await.ok();
            left.push(stream);
        }
        left
    }

    async fn ask(&self, request: Request) -> Option<Answer> {
        self.host.mesh.call(self.target, request, SOON).await.ok()
    }
}

fn start_of(host: &Host) -> u64 {
    let text = std::fs::read_to_string(host.dir.path().join("mesh/generation")).unwrap();
    text.trim().parse().unwrap()
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The honest hosts: the one that is lied to, the one that is lied about, and a third.
struct Honest {
    hosts: [Host; 3],
    said: BTreeSet<RecordKey>,
}

impl Honest {
    async fn check(&mut self, number: u8, name: &str) {
        let began = Instant::now();
        let key = RecordKey::Image(Digest([number; 32]));
        self.hosts[1].mesh.publish(key.clone(), Some(image())).await;
        self.said.insert(key.clone());
        let place = (self.hosts[1].id(), key);
        for host in &self.hosts {
            let mut records = host.mesh.records();
            let heard = records.wait_for(|records| records.contains_key(&place));
            let heard = tokio::time::timeout(SOON, heard).await.is_ok();
            assert!(heard, "after {name}, {} did not hear what another said within {SOON:?}", host.name);
            let of_victim = |(host, _): &&(HostId, RecordKey)| *host == place.0;
            let records = host.mesh.records().borrow().clone();
            let held: BTreeSet<RecordKey> =
                records.keys().filter(of_victim).map(|(_, key)| key.clone()).collect();
            assert!(held.is_subset(&self.said), "after {name}, {} believes {held:?}", host.name);
        }
        for (from, to) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
            let (from, to) = (&self.hosts[from], &self.hosts[to]);
            let answer = from.mesh.call(to.id(), Request::Ping, SOON).await;
            assert_eq!(answer.ok(), Some(Answer::Done), "after {name}, {} asks {}", from.name, to.name);
        }
        let ids: Vec<HostId> = self.hosts.iter().map(Host::id).collect();
        for host in &self.hosts {
            let all_up = |members: &Arc<crate::Members>| {
                let up: BTreeSet<HostId> = members.up().map(|member| member.id).collect();
                ids.iter().all(|id| up.contains(id))
            };
            host.sees("all honest hosts up", all_up).await;
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(tasks < MOST_TASKS, "after {name} there are {tasks} tasks");
        eprintln!("{name}: {:?}, {tasks} tasks, {} MiB", began.elapsed(), memory_mib());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_member_keeps_the_others_from_nothing() {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let cellar = Host::joiner("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
    let mallory = Host::joiner("mallory", &token).await;
    for host in [&attic, &cellar, &garden, &mallory] {
        host.sees("four up", |members| members.up().count() == 4).await;
    }
    let identity = identity::load(mallory.dir.path()).unwrap();
    let bot = Bot {
        seed: identity.seed.clone(),
        mesh: identity.mesh,
        victim: cellar.id(),
        victim_start: start_of(&cellar),
        target: attic.id(),
        target_start: start_of(&attic),
        left: tokio::sync::Mutex::default(),
        host: mallory,
    };
    let mut honest = Honest { hosts: [attic, cellar, garden], said: BTreeSet::from([RecordKey::Host]) };
    honest.check(0, "nothing").await;
    let before = memory_mib();
    assert!(behaviours::ALL.len() >= 30);
    for (number, (name, behave)) in (1..).zip(behaviours::ALL) {
        if tokio::time::timeout(2 * SOON, behave(&bot)).await.is_err() {
            eprintln!("{name} took the bot too long");
        }
        honest.check(number, name).await;
    }
    let grown = memory_mib().saturating_sub(before);
    assert!(grown < MOST_GROWTH_MIB, "{grown} MiB more than before");
    for host in honest.hosts {
        host.stop().await;
    }
    bot.host.kill().await;
}
