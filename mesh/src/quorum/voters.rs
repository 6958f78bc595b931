//! Changing who votes. A new voter first learns the log, checked by us: openraft's own check takes
//! an unreachable host for caught up while the log is short. Removed voters leave the group whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use proto::id::HostId;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Group, Voter, host};

/// Pause before a change is tried again while an earlier one is in the log.
const RETRY: Duration = Duration::from_millis(100);

/// Why the voters were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VotersError {
    /// Another voter leads, or none does.
    #[error("this host does not lead the session")]
    NotLeader {
        /// The leader's host, if known.
        leader: Option<HostId>,
    },
    /// A new voter did not take the log in time; it is no voter now.
    #[error("host {} did not take the session's log in time", .0.short())]
    Behind(HostId),
    /// No quorum answered in time. Whether the change happens is not known.
    #[error("no quorum of voters answered in time")]
    TimedOut,
    /// There must be a voter.
    #[error("a session needs a voter")]
    Empty,
    /// The voter has stopped.
    #[error("the session's voter has stopped: {0}")]
    Stopped(String),
}

impl Group {
    /// For the leader: makes exactly `voters` (host by node id) vote. A leader that is not among
    /// them steps down once the change is committed.
    pub async fn set_voters(
        &self,
        voters: BTreeMap<u64, HostId>,
        within: Duration,
    ) -> Result<(), VotersError> {
        if voters.is_empty() {
            return Err(VotersError::Empty);
        }
        let until = Instant::now() + within;
        let voting = self.lead.borrow().voters.clone();
        for (node, host) in voters.iter().filter(|(node, _)| !voting.contains_key(node)) {
            let learner = ChangeMembers::AddNodes(BTreeMap::from([(*node, Voter { host: *host })]));
            self.change(learner, true, until).await?;
            if !self.has_caught_up(*node, until).await {
                let gone = ChangeMembers::RemoveNodes(BTreeSet::from([*node]));
                // Its time is over; taking it out again gets a moment of its own.
                self.change(gone, false, Instant::now() + super::LEASE).await.ok();
                return Err(VotersError::Behind(*host));
            }
        }
        let wanted: BTreeSet<u64> = voters.keys().copied().collect();
        if wanted == voting.keys().copied().collect() {
            return Ok(());
        }
        self.change(ChangeMembers::ReplaceAllVoters(wanted), false, until).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Voter>,
        retain: bool,
        until: Instant,
    ) -> Result<(), VotersError> {
        loop {
            let changed = timeout_at(until, self.raft.change_membership(change.clone(), retain)).await;
            match changed.map_err(|_| VotersError::TimedOut)? {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    return Err(VotersError::NotLeader { leader: host(&forward) });
                }
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => {
                    timeout_at(until, sleep(RETRY)).await.map_err(|_| VotersError::TimedOut)?;
                }
                Err(error) => return Err(VotersError::Stopped(error.to_string())),
            }
        }
    }

    /// Waits until the learner has everything that this leader had when the wait began.
    async fn has_caught_up(&self, node: u64, until: Instant) -> bool {
        let mut metrics = self.raft.metrics();
        let goal = metrics.borrow().last_log_index.unwrap_or(0);
        let there = metrics.wait_for(|metrics| {
            let replication = metrics.replication.as_ref().and_then(|all| all.get(&node));
            replication.and_then(Option::as_ref).is_some_and(|log| log.index >= goal)
        });
        matches!(timeout_at(until, there).await, Ok(Ok(_)))
    }
}
