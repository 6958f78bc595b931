//! Groups of one, two and three voters in one process, on a wire of closures that can be cut. Cut
//! links swallow a frame until its time is over, as a dead host does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::FutureExt;
use proptest::prelude::*;
use proto::{
    id::{Generation, Name},
    level::Level,
    session::{Plan, Prefix},
    time::Timestamp,
    topology::{Intent, Topology},
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{elect, *};

mod disks;
mod failures;
pub(crate) mod golden;
mod liars;
mod storage;

const SESSION: SessionId = SessionId([7; 16]);
/// Long enough for a busy test machine, never waited for in full when all is well.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the issue of a dead leader may take.
const FAILOVER: Duration = Duration::from_secs(4);

fn host(number: u8) -> HostId {
    HostId([number; 32])
}

fn create() -> Command {
    let name = "shop".parse::<Name>().unwrap();
    Command::Create { id: SESSION, name, stamp: Timestamp(1), ssh_seed: [1; 32] }
}

/// The command that moves the state from one generation to the next, with a key of this size.
fn apply(parent: u64, bytes: usize) -> Command {
    let topology = Topology { session: "shop".parse().unwrap(), groups: BTreeMap::new() };
    let ssh_keys = BTreeMap::from([("web".parse().unwrap(), vec!["x".repeat(bytes)])]);
    let plan = Plan {
        generation: Generation(parent + 1),
        parent: Generation(parent),
        subnet: Prefix { base: "10.64.1.0".parse().unwrap(), len: 24 },
        placements: Vec::new(),
        level: Level::FIRST,
    };
    let intent = Intent { topology, files: BTreeMap::new(), ssh_keys };
    Command::Apply { intent, plan, replace: Default::default() }
}

#[derive(Default)]
struct Links {
    groups: HashMap<HostId, Group>,
    cut: BTreeSet<(HostId, HostId)>,
    /// Whether a cut link says so at once, as a closed connection does.
    says_so: bool,
    /// How long a frame of more than 64 KiB takes.
    slow: Duration,
}

/// Several hosts, their stores and the links between them.
struct Hosts {
    links: Arc<Mutex<Links>>,
    dirs: BTreeMap<u8, TempDir>,
    disk: disks::Disk,
}

impl Hosts {
    async fn new(numbers: impl IntoIterator<Item = u8>) -> Hosts {
        let mut hosts = Hosts { links: Arc::default(), dirs: BTreeMap::new(), disk: disks::Disk::default() };
        for number in numbers {
            hosts.dirs.insert(number, tempfile::tempdir().unwrap());
            hosts.start(number).await;
        }
        hosts
    }

    /// Makes hosts of which the first has created the session and all vote.
    async fn voting(numbers: std::ops::RangeInclusive<u8>) -> Hosts {
        let hosts = Hosts::new(numbers.clone()).await;
        let first = hosts.group(*numbers.start());
        first.init().await.unwrap();
        hosts.leads(&first).await;
        assert_eq!(first.write(create(), PATIENCE).await, Ok(Ok(())));
        first.set_voters(hosts.voters(numbers), PATIENCE).await.unwrap();
        hosts
    }

    fn voters(&self, numbers: impl IntoIterator<Item = u8>) -> BTreeMap<u64, HostId> {
        numbers.into_iter().map(|number| (self.group(number).node_id(), host(number))).collect()
    }

    async fn start(&self, number: u8) {
        let create = self.disk.of(number);
        let place =
            disk::Place { create, ..disk::Place::new(self.dirs[&number].path(), SESSION, host(number)) };
        let group = Group::open_at(place, self.wire(host(number))).await.unwrap();
        self.links.lock().unwrap().groups.insert(host(number), group);
    }

    async fn stop(&self, number: u8) {
        let group = self.links.lock().unwrap().groups.remove(&host(number)).unwrap();
        group.shutdown().await;
    }

    fn group(&self, number: u8) -> Group {
        self.links.lock().unwrap().groups[&host(number)].clone()
    }

    fn cut(&self, number: u8) {
        let mut links = self.links.lock().unwrap();
        for other in self.dirs.keys().filter(|other| **other != number) {
            links.cut.insert((host(number), host(*other)));
            links.cut.insert((host(*other), host(number)));
        }
    }

    fn heal(&self) {
        self.links.lock().unwrap().cut.clear();
    }

    /// Cut links say so from now on.
    fn say_so(&self) {
        self.links.lock().unwrap().says_so = true;
    }

    fn slow(&self, large: Duration) {
        self.links.lock().unwrap().slow = large;
    }

    fn wire(&self, from: HostId) -> Wire {
        let links = self.links.clone();
        Wire::new(move |to, frame, within| carry(links.clone(), from, to, frame, within).boxed())
    }

    async fn leads(&self, group: &Group) {
        see(group.lead(), "it leads", |lead| lead.leading).await;
    }

    /// Waits until one of these hosts leads, and gives its number.
    async fn leader(&self, among: &[u8]) -> u8 {
        let waits = among.iter().map(|number| {
            let group = self.group(*number);
            async move {
                self.leads(&group).await;
                *number
            }
            .boxed()
        });
        futures::future::select_all(waits).await.0
    }

    /// Writes on whichever of these hosts leads, until it is done.
    async fn write(&self, among: &[u8], command: Command) -> Result<(), Refused> {
        let until = Instant::now() + PATIENCE;
        loop {
            let leader = self.group(self.leader(among).await);
            match leader.write(command.clone(), Duration::from_secs(2)).await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn carry(
    links: Arc<Mutex<Links>>,
    from: HostId,
    to: HostId,
    frame: Vec<u8>,
    within: Duration,
) -> Result<Vec<u8>, String> {
    let way = || {
        let links = links.lock().unwrap();
        let open = !links.cut.contains(&(from, to));
        let lost = if links.says_so { Duration::from_millis(20) } else { within };
        (links.groups.get(&to).cloned().filter(|_| open), links.slow, lost)
    };
    let (Some(group), slow, _) = way() else {
        tokio::time::sleep(way().2).await;
        return Err("no answer".into());
    };
    if frame.len() > 64 * 1024 {
        tokio::time::sleep(slow).await;
    }
    let answer = group.handle(from, &frame).await;
    if way().0.is_none() {
        tokio::time::sleep(within).await;
        return Err("no answer".into());
    }
    Ok(answer)
}

/// Waits until the watch shows what the test wants; says what it showed last when it never does.
async fn see<T: std::fmt::Debug + Clone>(
    mut watch: watch::Receiver<T>,
    what: &str,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    let last = watch.clone();
    match tokio::time::timeout(PATIENCE, watch.wait_for(|value| wanted(value))).await {
        Ok(value) => value.expect("the group lives").clone(),
        Err(_) => panic!("not in time: {what}; last seen: {:?}", *last.borrow()),
    }
}

async fn sees_generation(group: &Group, generation: u64) {
    see(group.state(), "the generation", |state| {
        state.as_ref().is_some_and(|state| state.generation() == Generation(generation))
    })
    .await;
}

#[tokio::test]
async fn one_voter_commits_reads_and_refuses() {
    let hosts = Hosts::new([1]).await;
    let group = hosts.group(1);
    assert!(matches!(group.write(create(), PATIENCE).await, Err(WriteError::NotLeader { leader: None })));
    group.init().await.unwrap();
    hosts.leads(&group).await;
    assert_eq!(group.read(PATIENCE).await.map(|_| ()), Err(ReadError::Empty));
    assert_eq!(group.write(create(), PATIENCE).await, Ok(Ok(())));
    assert_eq!(group.write(create(), PATIENCE).await, Ok(Err(Refused::Existence)));
    assert_eq!(group.write(apply(0, 10), PATIENCE).await, Ok(Ok(())));
    let (state, term) = group.read(PATIENCE).await.unwrap();
    assert_eq!((state.generation(), term), (Generation(1), 1));
    let too_large = group.write(apply(1, proto::limits::MAX_RAFT_BYTES), PATIENCE).await;
    assert!(matches!(too_large, Err(WriteError::TooLarge(_))));
    group.init().await.unwrap();
}

#[tokio::test]
async fn one_voter_leads_again_after_a_restart_with_all_it_had() {
    let hosts = Hosts::voting(1..=1).await;
    let node = hosts.group(1).node_id();
    for parent in 0..5 {
        hosts.group(1).write(apply(parent, 10), PATIENCE).await.unwrap().unwrap();
    }
    hosts.stop(1).await;
    hosts.start(1).await;
    let group = hosts.group(1);
    hosts.leads(&group).await;
    assert_eq!(group.node_id(), node);
    let (state, _) = group.read(PATIENCE).await.unwrap();
    assert_eq!(state.generation(), Generation(5));
}

#[tokio::test]
async fn three_voters_hold_one_state_and_name_their_leader() {
    let hosts = Hosts::voting(1..=3).await;
    hosts.group(1).write(apply(0, 10), PATIENCE).await.unwrap().unwrap();
    for number in 1..=3 {
        sees_generation(&hosts.group(number), 1).await;
        let lead = see(hosts.group(number).lead(), "three voters", |lead| lead.voters.len() == 3).await;
        assert_eq!(lead.leader, Some(host(1)));
    }
    let elsewhere = hosts.group(2).write(apply(1, 10), PATIENCE).await;
    assert_eq!(elsewhere, Err(WriteError::NotLeader { leader: Some(host(1)) }));
    let read = hosts.group(2).read(PATIENCE).await.map(|_| ());
    assert_eq!(read, Err(ReadError::NotLeader { leader: Some(host(1)) }));
}

#[tokio::test]
async fn writes_that_wait_share_an_entry() {
    let hosts = Hosts::voting(1..=1).await;
    let group = hosts.group(1);
    let before = group.raft.metrics().borrow().last_log_index.unwrap();
    let many = (0..200).map(|_| group.write(create(), PATIENCE));
    for answer in futures::future::join_all(many).await {
        assert_eq!(answer, Ok(Err(Refused::Existence)));
    }
    let entries = group.raft.metrics().borrow().last_log_index.unwrap() - before;
    assert!(entries < 50, "{entries} entries for 200 writes");
}

#[tokio::test]
async fn a_new_voter_gets_a_snapshot_when_the_log_is_gone() {
    let hosts = Hosts::voting(1..=1).await;
    let group = hosts.group(1);
    for parent in 0..600 {
        group.write(apply(parent, 10), PATIENCE).await.unwrap().unwrap();
    }
    see(group.raft.metrics(), "the log was purged", |metrics| metrics.purged.is_some()).await;
    let mut hosts = hosts;
    hosts.dirs.insert(2, tempfile::tempdir().unwrap());
    hosts.start(2).await;
    group.set_voters(hosts.voters([1, 2]), PATIENCE).await.unwrap();
    sees_generation(&hosts.group(2), 600).await;
    hosts.stop(2).await;
    hosts.start(2).await;
    sees_generation(&hosts.group(2), 600).await;
    group.write(apply(600, 10), PATIENCE).await.unwrap().unwrap();
    sees_generation(&hosts.group(2), 601).await;
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_does_not_become_a_voter() {
    let hosts = Hosts::voting(1..=2).await;
    let group = hosts.group(1);
    let mut voters = hosts.voters([1, 2]);
    voters.insert(99, host(9));
    let refused = group.set_voters(voters, Duration::from_secs(1)).await;
    assert_eq!(refused, Err(VotersError::Behind(host(9))));
    assert_eq!(group.lead().borrow().voters, hosts.voters([1, 2]));
    assert_eq!(group.write(apply(0, 1), PATIENCE).await, Ok(Ok(())));
    assert_eq!(group.set_voters(BTreeMap::new(), PATIENCE).await, Err(VotersError::Empty));
    let elsewhere = hosts.group(2).set_voters(hosts.voters([2]), PATIENCE).await;
    assert_eq!(elsewhere, Err(VotersError::NotLeader { leader: Some(host(1)) }));
}

#[tokio::test]
async fn a_dead_voter_is_replaced_and_a_leader_may_leave() {
    let hosts = Hosts::new([1, 2, 3, 4]).await;
    let group = hosts.group(1);
    group.init().await.unwrap();
    hosts.leads(&group).await;
    group.write(create(), PATIENCE).await.unwrap().unwrap();
    group.set_voters(hosts.voters([1, 2, 3]), PATIENCE).await.unwrap();
    hosts.cut(3);
    let wanted = hosts.voters([1, 2, 4]);
    group.set_voters(wanted.clone(), PATIENCE).await.unwrap();
    see(group.lead(), "the new voters", |lead| lead.voters == wanted).await;
    group.set_voters(hosts.voters([2, 4]), PATIENCE).await.unwrap();
    assert_eq!(hosts.write(&[2, 4], apply(0, 1)).await, Ok(()));
}

#[test]
fn a_voter_says_yes_only_without_a_leader_and_to_one_candidate() {
    let question = || elect::Question {
        leading: false,
        quorum_age: None,
        silence: LEASE * 2,
        own_last: None,
        their_last: None,
        promised_to_other: false,
    };
    assert!(elect::would_vote(&question()));
    assert!(!elect::would_vote(&elect::Question { silence: LEASE / 2, ..question() }));
    assert!(!elect::would_vote(&elect::Question { promised_to_other: true, ..question() }));
    let own_last = Some(openraft::LogId::default());
    assert!(!elect::would_vote(&elect::Question { own_last, ..question() }));
    let leading = |quorum_age| elect::Question { leading: true, quorum_age, ..question() };
    assert!(!elect::would_vote(&leading(None)));
    assert!(!elect::would_vote(&leading(Some(LEASE / 2))));
    assert!(elect::would_vote(&leading(Some(LEASE * 2))));
}

#[test]
fn a_change_of_voters_that_is_not_done_shows_the_voters_before_it() {
    let set = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
    let nodes: BTreeMap<u64, Voter> = (1..=4).map(|node| (node, Voter { host: host(node as u8) })).collect();
    let settled = |config| super::settled(&openraft::Membership::new(config, nodes.clone()));
    assert_eq!(settled(vec![set(&[1])]), set(&[1]));
    assert_eq!(settled(vec![set(&[1]), set(&[1, 2, 3])]), set(&[1]));
    assert_eq!(settled(vec![set(&[1, 2, 3]), set(&[1, 2, 4])]), set(&[1, 2, 3]));
}

#[test]
fn windows_of_ranks_do_not_overlap_and_start_after_the_lease() {
    assert!(elect::window(0, 0) > LEASE);
    for rank in 0..5 {
        assert!(elect::window(rank, 99) < elect::window(rank + 1, 100));
    }
    assert!(elect::window(4, 99) + HEARTBEAT < FAILOVER);
}

#[test]
fn a_quorum_is_a_majority_of_every_voter_set() {
    let set = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
    let joint = [set(&[1, 2, 3]), set(&[3, 4, 5])];
    let cases = [
        (vec![set(&[1])], set(&[1]), true),
        (vec![set(&[1, 2])], set(&[1]), false),
        (vec![set(&[1, 2, 3])], set(&[1, 3]), true),
        (joint.to_vec(), set(&[1, 2, 3]), false),
        (joint.to_vec(), set(&[1, 3, 4]), true),
        (vec![], set(&[1]), false),
    ];
    for (sets, yes, expected) in cases {
        assert_eq!(elect::is_quorum(&sets, &yes), expected, "{sets:?} {yes:?}");
    }
}

#[test]
fn hostile_frames_never_panic_and_change_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hosts = runtime.block_on(Hosts::voting(1..=1));
    let group = hosts.group(1);
    let before = group.lead().borrow().clone();
    proptest!(ProptestConfig::with_cases(200), |(mut frame in proptest::collection::vec(any::<u8>(), 0..80))| {
        // Half of them get past the check of the receiver's id.
        if frame.len() > 30 {
            let call = net::Call::Ask { last: None };
            let mut named = wire::encode(&net::Frame { to: group.node_id(), from: 1, call });
            let at = named.len() - 1 - usize::from(frame[0] % 12);
            named[at] = frame[1];
            frame = named;
        }
        drop(runtime.block_on(group.handle(host(9), &frame)));
    });
    assert_eq!(group.lead().borrow().leading, before.leading);
    runtime.block_on(async { group.read(PATIENCE).await.unwrap() });
}
