//! One Raft group per session: the hard state that its voters store. [`Group`] is a handle on one
//! voter; everything that it needs to reach the others is the [`Wire`] it is given.
//!
//! - `wire`: how all of it is written; `disk`: the file; `store`: openraft's log on it, with group commit;
//! - `machine`: the state, by `proto::session::state::apply`;
//! - `net`: frames; `kept`: who has lost what it acknowledged; `elect`: when to try to lead; `merge`: many writes in one entry;
//! - `voters`: changing who votes.
//!
//! Nothing here forwards a request: who is not the leader says who is.

mod disk;
mod elect;
mod kept;
mod machine;
mod merge;
mod net;
mod store;
mod voters;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    Config, Membership, ServerState, SnapshotPolicy,
    error::{CheckIsLeaderError, ForwardToLeader, InitializeError, RaftError},
};
use proto::{
    id::{HostId, SessionId},
    session::{Command, Refused, State},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

pub use self::{disk::StoreError, net::Wire, voters::VotersError};

/// The longest that one message of Raft may take, and openraft's beat (it beats every 1.5 of it):
/// above the round trip of a relayed path with some load.
const HEARTBEAT: Duration = Duration::from_millis(400);
/// A voter that heard the leader within this time votes for nobody else: two and a half beats.
const LEASE: Duration = Duration::from_millis(1500);
/// Entries after which a snapshot replaces the log.
const ENTRIES_PER_SNAPSHOT: u64 = 256;
/// Entries kept behind a snapshot, for voters that are a little late.
const ENTRIES_KEPT: u64 = 16;
/// Writes that wait to be merged. A coordinator has one user and a few machines at a time.
const MAX_WRITES: usize = 256;

openraft::declare_raft_types!(
    /// How openraft is used here.
    pub Types: D = Batch, R = Vec<Result<(), Refused>>, Node = Voter
);

type Raft = openraft::Raft<Types>;
type Record = openraft::Entry<Types>;

/// Commands that share one log entry; their answers keep the order.
#[derive(Clone, Debug)]
pub struct Batch(Vec<Command>);

/// The host behind a Raft node id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    host: HostId,
}

impl Default for Voter {
    fn default() -> Voter {
        Voter { host: HostId([0; 32]) }
    }
}

/// Who leads, as far as this voter knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// The leader's host.
    pub leader: Option<HostId>,
    /// Whether this voter leads. It may have been deposed already: only [`Group::read`] is sure.
    pub leading: bool,
    /// The Raft term.
    pub term: u64,
    /// The voters' hosts by node id; while they change, the ones before, because nothing happens
    /// without them yet.
    pub voters: BTreeMap<u64, HostId>,
    /// Every host that the group names: voters before and after a change, and those that learn.
    pub named: BTreeSet<HostId>,
    /// The nodes whose store is older than what they acknowledged: they have to come back as new ones.
    pub outdated: BTreeSet<u64>,
    /// Why this voter stopped for good, such as a failed disk.
    pub stopped: Option<String>,
}

/// Why a group cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// openraft refuses what it was given.
    #[error("cannot start the session's voter: {0}")]
    Start(String),
}

impl GroupError {
    /// Tells whether the store is there and will never be of use again.
    pub fn is_damage(&self) -> bool {
        matches!(self, GroupError::Store(StoreError::Corrupt { .. }))
    }
}

/// Why a write has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another voter leads, or none does.
    #[error("this host does not lead the session")]
    NotLeader {
        /// The leader's host, if known.
        leader: Option<HostId>,
    },
    /// No quorum answered in time. Whether the write happens is not known.
    #[error("no quorum of voters answered in time")]
    TimedOut,
    /// The command does not fit a Raft message.
    #[error("the command of {0} bytes is too large")]
    TooLarge(usize),
    /// The voter has stopped.
    #[error("the session's voter has stopped: {0}")]
    Stopped(String),
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another voter leads, or none does.
    #[error("this host does not lead the session")]
    NotLeader {
        /// The leader's host, if known.
        leader: Option<HostId>,
    },
    /// No quorum answered in time.
    #[error("no quorum of voters answered in time")]
    NoQuorum,
    /// The session has no first entry yet.
    #[error("the session has no state yet")]
    Empty,
    /// The voter has stopped.
    #[error("the session's voter has stopped: {0}")]
    Stopped(String),
}

/// One voter of one session. Cheap to clone; [`Group::shutdown`] ends it for all clones.
#[derive(Clone)]
pub struct Group {
    raft: Raft,
    seat: net::Seat,
    store: store::Store,
    me: HostId,
    applied: watch::Receiver<machine::Applied>,
    shown: watch::Receiver<Option<Arc<State>>>,
    lead: watch::Receiver<Lead>,
    writes: mpsc::Sender<merge::Write>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Group {
    /// Opens this host's store of a session in `dir`, or makes one, and starts its voter. It votes
    /// and leads only once [`Group::init`] or a leader's [`Group::set_voters`] made it a voter.
    pub async fn open(dir: &Path, session: SessionId, me: HostId, wire: Wire) -> Result<Group, GroupError> {
        Group::open_at(disk::Place::new(dir, session, me), wire).await
    }

    async fn open_at(place: disk::Place, wire: Wire) -> Result<Group, GroupError> {
        let (dir, session, me) = (place.dir.clone(), place.session, place.host);
        let opened = tokio::task::spawn_blocking(move || store::Store::open(place)).await;
        let (store, node, snapshot) = opened.map_err(|error| GroupError::Start(error.to_string()))??;
        let (show, shown) = watch::channel(None);
        let (machine, applied) =
            machine::StateMachine::new(store.clone(), snapshot, show).map_err(|error| {
                disk::Flaw::from(error).of("what the snapshot holds").at(&dir.join(disk::FILE))
            })?;
        let kept = kept::Kept::new();
        let link = net::Connections { node, wire, kept: kept.clone() };
        let config = config(session).map_err(GroupError::Start)?;
        let raft = Raft::new(node, config, net::Factory(link.clone()), store.clone(), machine)
            .await
            .map_err(|error| GroupError::Start(error.to_string()))?;
        let ballot = elect::Ballot::new(node, store.clone());
        let (writes, waiting) = mpsc::channel(MAX_WRITES);
        let (tell, lead) = watch::channel(Lead::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(elect::run(raft.clone(), link.clone(), ballot.clone()));
        tasks.spawn(merge::run(raft.clone(), store.clone(), waiting));
        tasks.spawn(tell_lead(raft.clone(), kept, tell));
        let tasks = Arc::new(Mutex::new(tasks));
        let seat = net::Seat { raft: raft.clone(), ballot, link };
        Ok(Group { raft, seat, store, me, applied, shown, lead, writes, tasks })
    }

    /// Gives this store's Raft node id: random, and never that of an earlier store.
    pub fn node_id(&self) -> u64 {
        self.seat.link.node
    }

    /// Makes this voter the only one of a new session. Repeating it does nothing.
    pub async fn init(&self) -> Result<(), GroupError> {
        let first = BTreeMap::from([(self.node_id(), Voter { host: self.me })]);
        match self.raft.initialize(first).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupError::Start(error.to_string())),
        }
    }

    /// Commits a command. The inner result is the state's own answer.
    pub async fn write(&self, command: Command, within: Duration) -> Result<Result<(), Refused>, WriteError> {
        let bytes = proto::wire::len(&command);
        if bytes > merge::MAX_COMMAND_BYTES {
            return Err(WriteError::TooLarge(bytes));
        }
        if !self.lead.borrow().leading {
            return Err(self.not_leader());
        }
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + within;
        let write = merge::Write { command, bytes, until, answer };
        let both = async {
            let stopped = || WriteError::Stopped("it was shut down".into());
            self.writes.send(write).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        tokio::time::timeout_at(until, both).await.map_err(|_| WriteError::TimedOut)?
    }

    /// Reads the state as it is after a round in which a quorum said, later than this call, that
    /// this voter still leads. Gives the term of that round.
    pub async fn read(&self, within: Duration) -> Result<(Arc<State>, u64), ReadError> {
        tokio::time::timeout(within, self.read_round()).await.map_err(|_| ReadError::NoQuorum)?
    }

    async fn read_round(&self) -> Result<(Arc<State>, u64), ReadError> {
        let (read, _) = self.raft.get_read_log_id().await.map_err(|error| match error {
            RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)) => {
                ReadError::NotLeader { leader: host(&forward) }
            }
            RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)) => ReadError::NoQuorum,
            RaftError::Fatal(fatal) => ReadError::Stopped(fatal.to_string()),
        })?;
        let read = read.ok_or(ReadError::NoQuorum)?;
        let mut applied = self.applied.clone();
        let there = |applied: &machine::Applied| applied.log.is_some_and(|log| log.index >= read.index);
        let applied = applied.wait_for(there).await;
        let applied = applied.map_err(|_| ReadError::Stopped("it was shut down".into()))?;
        let state = applied.state.clone().ok_or(ReadError::Empty)?;
        Ok((state, read.leader_id.term))
    }

    /// Shows the state as far as this voter has applied it. It may be old: see [`Group::read`].
    pub fn state(&self) -> watch::Receiver<Option<Arc<State>>> {
        self.shown.clone()
    }

    /// Shows who leads.
    pub fn lead(&self) -> watch::Receiver<Lead> {
        self.lead.clone()
    }

    /// Answers a frame that another host's [`Wire`] sent here.
    pub async fn handle(&self, from: HostId, frame: &[u8]) -> Vec<u8> {
        net::answer(&self.seat, from, frame).await
    }

    /// Tells whether this store's own log names this voter. One that is not named has never voted:
    /// its store may go. Also answers after [`Group::shutdown`].
    pub fn is_named(&self) -> bool {
        self.store.names(self.node_id())
    }

    /// Tells whether another voter said that this one was taken out while it was away. Node ids never
    /// come back, so its store may go.
    pub fn is_removed(&self) -> bool {
        self.seat.ballot.is_removed()
    }

    /// Ends this voter and closes its store. The store can be opened again afterwards.
    pub async fn shutdown(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        drop(tasks);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the session's voter did not end in order");
        }
        self.store.close().await;
    }

    fn not_leader(&self) -> WriteError {
        let lead = self.lead.borrow();
        match &lead.stopped {
            Some(because) => WriteError::Stopped(because.clone()),
            None => WriteError::NotLeader { leader: lead.leader },
        }
    }
}

fn config(session: SessionId) -> Result<Arc<Config>, String> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: session.to_string(),
        heartbeat_interval: millis(HEARTBEAT),
        // Only the time-out of a vote and the lease: our own elector decides when to try.
        election_timeout_min: millis(LEASE) - 1,
        election_timeout_max: millis(LEASE),
        enable_elect: false,
        install_snapshot_timeout: millis(net::TRANSFER),
        max_payload_entries: 64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| error.to_string())
}

/// Gives the host of the leader that openraft names.
fn host(forward: &ForwardToLeader<u64, Voter>) -> Option<HostId> {
    forward.leader_node.as_ref().map(|voter| voter.host)
}

/// Turns openraft's metrics into [`Lead`], as long as the group lives.
async fn tell_lead(raft: Raft, kept: kept::Kept, tell: watch::Sender<Lead>) {
    let (mut metrics, mut outdated) = (raft.metrics(), kept.outdated());
    loop {
        let lead = {
            let seen = metrics.borrow_and_update();
            let members = seen.membership_config.membership();
            let host_of = |node: &u64| members.get_node(node).map(|voter| voter.host);
            kept.keep_only(&members.nodes().map(|(node, _)| *node).collect());
            Lead {
                leader: seen.current_leader.as_ref().and_then(host_of),
                leading: seen.state == ServerState::Leader && seen.running_state.is_ok(),
                term: seen.current_term,
                voters: settled(members)
                    .into_iter()
                    .filter_map(|node| Some((node, host_of(&node)?)))
                    .collect(),
                named: members.nodes().map(|(_, voter)| voter.host).collect(),
                outdated: outdated.borrow_and_update().clone(),
                stopped: seen.running_state.as_ref().err().map(ToString::to_string),
            }
        };
        tell.send_if_modified(|told| {
            let changed = *told != lead;
            *told = lead;
            changed
        });
        // Both only wake the loop.
        let changed = tokio::select! {
            changed = metrics.changed() => changed,
            changed = outdated.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Gives the voters that must agree whatever a change that is under way comes to. A leader that dies in
/// the middle of one leaves it to the next, which would take both sets together for the wanted one.
fn settled(members: &Membership<u64, Voter>) -> BTreeSet<u64> {
    members.get_joint_config().first().cloned().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
