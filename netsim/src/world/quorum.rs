//! Raft as the rules see it: one log, written only by the newest leader while a majority of voters
//! is reachable, copied to voters as they can be reached. How Raft achieves that is tested elsewhere.

use std::{collections::BTreeSet, rc::Rc};

use proto::{
    id::HostId,
    session::{Command, Refused, State, state},
};

/// The session's group of voters.
#[derive(Clone, Debug, Default)]
pub struct Quorum {
    /// Who votes.
    pub voters: BTreeSet<HostId>,
    /// The newest leader, who may be dead or cut off.
    pub leader: Option<HostId>,
    /// Counts leaders.
    pub term: u64,
    /// What a majority has.
    pub committed: Option<Rc<State>>,
}

/// There was no majority, or a newer leader.
#[derive(Debug, PartialEq, Eq)]
pub struct NoQuorum;

impl Quorum {
    /// Tells whether these hosts, which `by` reaches, are a majority of the voters.
    pub fn majority(&self, reached: &BTreeSet<HostId>) -> bool {
        self.voters.intersection(reached).count() * 2 > self.voters.len()
    }

    /// Makes `by` the leader, with everything that was committed.
    pub fn elect(&mut self, by: HostId) -> u64 {
        self.term += 1;
        self.leader = Some(by);
        self.term
    }

    /// Confirms that `by` still leads: the quorum round of reads and first starts.
    pub fn confirm(&self, by: HostId, term: u64, reached: &BTreeSet<HostId>) -> Result<(), NoQuorum> {
        let leads = self.leader == Some(by) && self.term == term && self.voters.contains(&by);
        if leads && self.majority(reached) { Ok(()) } else { Err(NoQuorum) }
    }

    /// Writes one command.
    pub fn commit(
        &mut self,
        by: HostId,
        term: u64,
        reached: &BTreeSet<HostId>,
        command: Command,
    ) -> Result<Result<(), Refused>, NoQuorum> {
        self.confirm(by, term, reached)?;
        let (next, outcome) = state::apply(self.committed.as_deref().cloned(), command);
        if outcome.is_ok() {
            self.committed = next.map(Rc::new);
        }
        Ok(outcome)
    }
}
