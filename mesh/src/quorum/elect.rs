//! When a voter tries to lead. openraft 0.9 draws its election time once per process and has no
//! pre-vote: two survivors can tie for ever, and a host that was away deposes a healthy leader. So
//! its own elections are off; a voter that has heard nothing for its window first asks the others
//! whether they would vote for it, and each promises itself to one candidate at a time.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use openraft::{LogId, ServerState};
use proto::backoff::BackOff;
use tokio::time::Instant;

use super::{
    HEARTBEAT, LEASE, Raft,
    net::{Call, Connections, Response},
    store::Store,
};

/// Between the windows of two neighbouring ranks: longer than a round of questions takes.
const STEP: Duration = Duration::from_millis(200);
/// Spread within one window, drawn anew for each try.
const SPREAD_MS: u64 = 100;
/// Pauses after rounds without a quorum; a voter that was removed without hearing of it is no burden
/// at the last.
const PAUSES: BackOff = BackOff::new(60, 960);
/// How long a promise lasts, and how long a question may take.
const PROMISE: Duration = HEARTBEAT;

/// What a voter remembers between questions; gone after a restart, which only costs time.
#[derive(Clone)]
pub(super) struct Ballot {
    node: u64,
    store: Store,
    memory: Arc<Mutex<Memory>>,
}

struct Memory {
    heard: Instant,
    promised: Option<(u64, Instant)>,
    /// Another voter said that this one votes no more.
    removed: bool,
}

/// What a voter knows when a candidate asks.
pub(super) struct Question {
    pub leading: bool,
    /// For a leader: how long ago a quorum answered it.
    pub quorum_age: Option<Duration>,
    /// For others: how long ago a leader was heard.
    pub silence: Duration,
    pub own_last: Option<LogId<u64>>,
    pub their_last: Option<LogId<u64>>,
    pub promised_to_other: bool,
}

/// Decides whether to vote for a candidate if it asked in earnest.
pub(super) fn would_vote(question: &Question) -> bool {
    let leaderless = if question.leading {
        question.quorum_age.is_some_and(|age| age > LEASE)
    } else {
        question.silence > LEASE
    };
    leaderless && !question.promised_to_other && question.their_last >= question.own_last
}

/// Gives the silence after which the voter of this rank tries. `random` is any number.
pub(super) fn window(rank: usize, random: u64) -> Duration {
    let rank = u32::try_from(rank).unwrap_or(u32::MAX).min(10);
    LEASE + Duration::from_millis(20 + random % SPREAD_MS) + STEP * rank
}

/// Tells whether the voters that said yes are a majority of every voter set in force.
pub(super) fn is_quorum(sets: &[BTreeSet<u64>], yes: &BTreeSet<u64>) -> bool {
    !sets.is_empty() && sets.iter().all(|set| set.intersection(yes).count() > set.len() / 2)
}

impl Ballot {
    pub(super) fn new(node: u64, store: Store) -> Ballot {
        let memory = Memory { heard: Instant::now(), promised: None, removed: false };
        Ballot { node, store, memory: Arc::new(Mutex::new(memory)) }
    }

    /// Notes that a leader spoke.
    pub(super) fn heard(&self) {
        let mut memory = self.memory();
        memory.heard = Instant::now();
        memory.removed = false;
    }

    /// Answers a candidate, and promises itself when the answer is yes.
    pub(super) fn asked(&self, raft: &Raft, candidate: u64, last: Option<LogId<u64>>) -> bool {
        let question = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            let mut memory = self.memory();
            Question {
                leading: metrics.state == ServerState::Leader,
                quorum_age: metrics.millis_since_quorum_ack.map(Duration::from_millis),
                silence: memory.heard.elapsed(),
                own_last: self.store.last_log_id(),
                their_last: last,
                promised_to_other: !memory.is_free_for(candidate),
            }
        };
        let yes = would_vote(&question);
        if yes {
            self.memory().promised = Some((candidate, Instant::now() + PROMISE));
        }
        yes
    }

    pub(super) fn is_removed(&self) -> bool {
        self.memory().removed
    }

    /// Tells how long ago a leader was heard.
    pub(super) fn silence(&self) -> Duration {
        self.memory().heard.elapsed()
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn is_free_for(&mut self, candidate: u64) -> bool {
        if self.promised.is_some_and(|(_, until)| until <= Instant::now()) {
            self.promised = None;
        }
        self.promised.is_none_or(|(node, _)| node == candidate)
    }
}

/// Runs as long as the group: waits for silence, asks, and starts the election.
pub(super) async fn run(raft: Raft, link: Connections, ballot: Ballot) {
    let mut metrics = raft.server_metrics();
    let mut random: u64 = rand::random();
    let mut failed_rounds = 0;
    loop {
        let (state, config) = {
            let seen = metrics.borrow_and_update();
            (seen.state, seen.membership_config.clone())
        };
        let voters: BTreeSet<u64> = config.voter_ids().collect();
        let rank = voters.iter().position(|voter| *voter == link.node);
        let (Some(rank), ServerState::Follower | ServerState::Candidate) = (rank, state) else {
            // A leader that steps down counts its silence from then on.
            if metrics.changed().await.is_err() {
                return;
            }
            ballot.heard();
            failed_rounds = 0;
            continue;
        };
        // Alone there is nobody to have heard of.
        let alone = voters.len() == 1;
        let window = if alone { Duration::ZERO } else { window(rank, random) };
        let wait = window.saturating_sub(ballot.silence());
        if !wait.is_zero() {
            failed_rounds = 0;
            tokio::select! {
                // Both only wait; nothing is lost when one is dropped.
                () = tokio::time::sleep(wait) => {}
                changed = metrics.changed() => if changed.is_err() { return },
            }
            continue;
        }
        random = rand::random();
        let sets = config.membership().get_joint_config().clone();
        let hosts = config.nodes().map(|(node, voter)| (*node, voter.host)).collect::<Vec<_>>();
        let others = hosts.into_iter().filter(|to| to.0 != link.node && voters.contains(&to.0));
        let yes = ask_all(&link, &ballot, others.collect(), &sets).await;
        let pause = if yes && (alone || ballot.silence() > LEASE) {
            if raft.trigger().elect().await.is_err() {
                return;
            }
            PROMISE + STEP * u32::try_from(rank).unwrap_or(0)
        } else {
            failed_rounds += 1;
            PAUSES.after(failed_rounds)
        };
        tokio::time::sleep(pause + Duration::from_millis(random % SPREAD_MS)).await;
    }
}

/// Asks all other voters at once. Ends at a quorum of yes, or when all have answered or timed out.
async fn ask_all(
    link: &Connections,
    ballot: &Ballot,
    others: Vec<(u64, proto::id::HostId)>,
    sets: &[BTreeSet<u64>],
) -> bool {
    if !ballot.memory().is_free_for(ballot.node) {
        return false;
    }
    ballot.memory().promised = Some((ballot.node, Instant::now() + PROMISE));
    let last = ballot.store.last_log_id();
    let mut open: FuturesUnordered<_> = others
        .into_iter()
        .map(|to| async move { (to.0, link.call(to, Call::Ask { last }, PROMISE).await) })
        .collect();
    let mut yes = BTreeSet::from([ballot.node]);
    while !is_quorum(sets, &yes) {
        match open.next().await {
            Some((node, Ok(Response::Ask(true)))) => drop(yes.insert(node)),
            Some((_, Ok(Response::Removed))) => ballot.memory().removed = true,
            Some(_) => {}
            None => {
                ballot.memory().promised = None;
                return false;
            }
        }
    }
    true
}
