//! Raft as the rules see it: one log a session, written only by the newest leader while a majority of voters
//! is reachable, copied to voters as they can be reached. How Raft achieves that is tested elsewhere. A voter
//! is a log, not a host: one that was lost and made anew has another number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    id::HostId,
    level::{Feature, Level},
    run::Rules,
    session::{Command, Refused, State, state},
};

/// The session's group of voters.
#[derive(Clone, Debug, Default)]
pub struct Quorum {
    /// Who votes: hosts by the numbers of their logs.
    pub voters: BTreeMap<u64, HostId>,
    /// The newest leader, who may be dead or cut off.
    pub leader: Option<HostId>,
    /// Counts leaders.
    pub term: u64,
    /// What a majority has.
    pub committed: Option<Arc<State>>,
    /// What who reads the log has to understand.
    pub needs: Level,
}

/// A host's log of a session.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Its number.
    pub node: u64,
    /// What it has.
    pub state: Option<Arc<State>>,
    /// The voters that it names.
    pub voters: BTreeMap<u64, HostId>,
    /// Whether another voter said that this log was taken out.
    pub removed: bool,
    /// Whether it cannot be written and is closed.
    pub closed: bool,
}

/// There was no majority, or a newer leader.
#[derive(Debug, PartialEq, Eq)]
pub struct NoQuorum;

impl Quorum {
    /// Tells whether these logs are a majority of the voters.
    pub fn majority(&self, reached: &BTreeSet<u64>) -> bool {
        most(&self.voters, reached)
    }

    /// Makes `by` the leader, with everything that was committed.
    pub fn elect(&mut self, by: HostId) -> u64 {
        self.term += 1;
        self.leader = Some(by);
        self.term
    }

    /// Confirms that `by` still leads: the quorum round of reads and first starts.
    pub fn confirm(&self, by: HostId, term: u64, reached: &BTreeSet<u64>) -> Result<(), NoQuorum> {
        let leads = self.leader == Some(by) && self.term == term;
        if leads && self.majority(reached) { Ok(()) } else { Err(NoQuorum) }
    }

    /// Writes one command.
    pub fn commit(
        &mut self,
        (by, term): (HostId, u64),
        reached: &BTreeSet<u64>,
        command: Command,
        rules: Rules,
    ) -> Result<Result<(), Refused>, NoQuorum> {
        self.confirm(by, term, reached)?;
        // An entry is in the log whatever it comes to.
        self.needs = self.needs.max(command.feature().map(Feature::since).unwrap_or_default());
        let (next, outcome) = state::apply_under(rules, self.committed.as_deref().cloned(), command);
        if outcome.is_ok() {
            self.committed = next.map(Arc::new);
        }
        Ok(outcome)
    }

    /// Makes these logs the voters: it needs most of the old and most of the new ones, and all that are new.
    pub fn change(
        &mut self,
        (by, term): (HostId, u64),
        reached: &BTreeSet<u64>,
        voters: BTreeMap<u64, HostId>,
    ) -> Result<(), NoQuorum> {
        self.confirm(by, term, reached)?;
        let mut new = voters.keys().filter(|node| !self.voters.contains_key(*node));
        if !new.all(|node| reached.contains(node)) || !most(&voters, reached) {
            return Err(NoQuorum);
        }
        self.voters = voters;
        Ok(())
    }
}

fn most(voters: &BTreeMap<u64, HostId>, reached: &BTreeSet<u64>) -> bool {
    voters.keys().filter(|node| reached.contains(*node)).count() * 2 > voters.len()
}
