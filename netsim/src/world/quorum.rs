//! Raft as the rules see it: one log a session, written only by the newest leader while a majority of voters
//! is reachable, copied to voters as they can be reached. How Raft achieves that is tested elsewhere. A voter
//! is a log, not a host: one that was lost and made anew has another number.
//!
//! This is the model of a library and of when its voters stand for election (`mesh/src/quorum`): surroundings, as
//! the network is. Beside it only gossip's failure detector (`picture`) is a model of
//! something that decides, and both are libraries.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    id::{HostId, SessionId},
    level::{Feature, Level},
    run::Rules,
    session::{Command, Refused, State, state},
};

use super::{World, host::Host};

/// Without a leader for so long, a voter that reaches a majority takes over.
const ELECTION_MS: u64 = 2_000;

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

impl World {
    /// Votes: takes over when there was no leader for too long, steps down when someone else leads.
    pub(super) fn vote(&mut self, id: HostId, session: SessionId) {
        let (reached, logs, now) = (self.reached(id), self.reached_logs(id, session), self.now);
        let Some(quorum) = self.quorums.get_mut(&session) else { return };
        let (leader, term) = (quorum.leader, quorum.term);
        let led = leader.is_some_and(|leader| {
            let leads = |host: &Host| {
                host.agent.as_ref().is_some_and(|a| a.leading.get(&session) == Some(&term))
                    && host.disk.logs.get(&session).is_some_and(|log| !log.closed)
            };
            reached.contains(&leader) && self.hosts.get(&leader).is_some_and(leads)
        });
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (Some(agent), Some(log)) = (&mut host.agent, host.disk.logs.get_mut(&session)) else { return };
        let voter = quorum.voters.contains_key(&log.node);
        log.removed |= led && !voter && log.voters.contains_key(&log.node);
        if led {
            agent.led_at.insert(session, now);
            agent.leaders.extend(leader.map(|leader| (session, leader)));
            if leader != Some(id) {
                agent.leading.remove(&session);
            }
            if voter && !log.closed {
                (log.state, log.voters) = (quorum.committed.clone(), quorum.voters.clone());
            }
            return;
        }
        agent.leaders.remove(&session);
        let led_at = agent.led_at.get(&session).copied().unwrap_or(agent.since);
        if voter && !log.closed && quorum.majority(&logs) && now.since_ms(led_at) >= ELECTION_MS {
            agent.leading.insert(session, quorum.elect(id));
            agent.led_at.insert(session, now);
            agent.leaders.insert(session, id);
            (log.state, log.voters) = (quorum.committed.clone(), quorum.voters.clone());
            self.tell(Some(id), || "coordinates the session".into());
        }
    }
}

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
