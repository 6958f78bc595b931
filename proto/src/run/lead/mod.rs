//! What the coordinator of one session does next: it tells gossip who leads, brings every member its share,
//! keeps the voters right, raises the session's level, and buries the session once nothing of it is left. It runs beside every log of a
//! session and acts only while its host leads. It never plans by itself: plans come from `question`, when a
//! person asks. A second coordinator would be wasteful, not dangerous: shares carry versions, and every
//! write goes through Raft.
//!
//! - `deliveries`: to whom a share is sent now; `change`: one change of voters; `raise`: the session's level;
//! - `attempts`: entries that it writes by itself, one at a time;
//! - `overview`: what it looks at; `release`: what hosts that are out for good will never say themselves;
//! - `question`: what is asked of a coordinator, and how it is answered.

mod attempts;
mod change;
mod deliveries;
mod overview;
pub mod question;
mod raise;
mod release;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::overview::{Member, Overview, Place, Standing};
use self::{
    attempts::Attempts,
    change::{Changes, Step},
    deliveries::Deliveries,
};
use crate::{
    facts::Fact,
    id::{Epoch, HostId, MachineName},
    level::{LEVEL, Level},
    run::{Mutant, Rules},
    session::{Share, State, slice, voters},
    time::Moment,
    trust::{Capability, May},
    wire::{record::HeadRecord, rpc::Refusal},
};

/// What was refused or did not arrive is looked at again after this time, at the latest.
const TICK_MS: u64 = 1_000;
/// The longest sleep between two looks: no watch tells that a log was taken out of its group.
const LOOK_MS: u64 = 2_000;
/// A log that no leader takes in for this long is removed: longer than any change of voters.
const ORPHAN_MS: u64 = 120_000;
/// First pause before a log that could not be written is opened again; it doubles with each try.
const REOPEN_FIRST_MS: u64 = 1_000;
/// Longest pause between two tries to open a log again.
const REOPEN_LAST_MS: u64 = 16_000;

/// What happens to a coordinator.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something changed, or a moment has come: look at everything.
    Look(Box<Overview>),
    /// A delivery ended: the version that the member has now, or that it took none.
    Delivered(HostId, Option<u64>),
    /// A host that was asked to vote gave the node id of its log, or did not.
    Voter {
        /// The change's number.
        change: u64,
        /// Who was asked.
        host: HostId,
        /// The node id of its log.
        node: Option<u64>,
    },
    /// A change of voters ended, well or not.
    VotersSet {
        /// The change's number.
        change: u64,
        /// Whether the voters are now those that were named.
        well: bool,
    },
    /// A raise of the level ended, well or not.
    Raised {
        /// The raise's number.
        raise: u64,
        /// Whether it is written.
        well: bool,
    },
    /// What a host that is out had to remove is written off, or not.
    Released {
        /// The number.
        release: u64,
        /// Whether it is written.
        well: bool,
    },
    /// The log was tried to be opened again and is still closed. Once it is open, another machine goes on.
    StillClosed,
}

/// What is to be done for a coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Let gossip say this of the session; `None` = nothing, another host leads.
    Announce(Option<Box<HeadRecord>>),
    /// Send a member its share.
    Deliver(HostId, Box<Share>),
    /// Ask a host for the node id of its log of this session, which it makes when it has none.
    AskVoter {
        /// The change's number.
        change: u64,
        /// Whom.
        host: HostId,
        /// Its log that is older than what it acknowledged, and of no use.
        outdated: Option<u64>,
    },
    /// Make these logs the voters.
    SetVoters {
        /// The change's number.
        change: u64,
        /// Hosts by node id.
        voters: BTreeMap<u64, HostId>,
    },
    /// Write into the hard state that everybody understands this level.
    Raise {
        /// The raise's number.
        raise: u64,
        /// The level.
        level: Level,
    },
    /// Write into the hard state that nothing of this incarnation is left on a host, which is out of the mesh and
    /// says it itself no more.
    Release {
        /// The number.
        release: u64,
        /// The machine.
        machine: MachineName,
        /// The host.
        host: HostId,
        /// The incarnation.
        epoch: Epoch,
    },
    /// State that the session has ended and nothing of it is left. Repeated until it is known.
    Bury,
    /// Tell a fact.
    Tell(Fact),
    /// Open the log again, if the disk takes files.
    Reopen,
    /// Look again at this moment.
    Wake(Moment),
    /// Nothing more is to be done here: the session is buried, and the host's machine clears it away.
    Rest,
    /// The same, and nothing but the log is here: remove it.
    Forget,
    /// The group has no place for this log: close and remove it.
    Retire,
}

#[derive(Clone, Copy, Debug)]
struct Reopening {
    pause_ms: u64,
    at: Moment,
    under_way: bool,
}

/// The machine of one session's coordinator on one host.
#[derive(Clone, Debug)]
pub struct Lead {
    me: HostId,
    rules: Rules,
    deliveries: Deliveries,
    changes: Changes,
    raises: Attempts,
    releases: Attempts,
    /// Since when members are not heard.
    down: BTreeMap<HostId, Moment>,
    /// Since when the group has no place for this host's log.
    outside: Option<Moment>,
    reopening: Option<Reopening>,
    /// What gossip was told last.
    head: Option<HeadRecord>,
    leader: Option<HostId>,
    /// Whom people were told of.
    told_voters: BTreeSet<HostId>,
}

impl Lead {
    /// Begins. What an earlier process told gossip is taken back: it may have led.
    pub fn new(me: HostId, rules: Rules, now: Moment) -> (Lead, Vec<Effect>) {
        let lead = Lead {
            me,
            rules,
            deliveries: Deliveries::default(),
            changes: Changes::new(now),
            raises: Attempts::new(now),
            releases: Attempts::new(now),
            down: BTreeMap::new(),
            outside: None,
            reopening: None,
            head: None,
            leader: None,
            told_voters: BTreeSet::new(),
        };
        (lead, vec![Effect::Announce(None)])
    }

    /// Takes an event and says what to do. Events may come late and in any order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Look(seen) => self.look(&seen, now, &mut effects),
            Event::Delivered(host, taken) => {
                self.deliveries.ended(host, taken, now);
                effects.push(Effect::Wake(now));
            }
            Event::Voter { change, host, node } => {
                let step = self.changes.answered(change, host, node, now);
                self.step(step, &mut effects);
            }
            Event::VotersSet { change, well } => {
                self.changes.set(change, well, now);
                effects.push(Effect::Wake(now));
            }
            Event::Raised { raise, well } => {
                self.raises.ended(raise, well, now);
                effects.push(Effect::Wake(now));
            }
            Event::Released { release, well } => {
                self.releases.ended(release, well, now);
                effects.push(Effect::Wake(now));
            }
            Event::StillClosed => {
                if let Some(reopening) = &mut self.reopening {
                    let pause_ms = (reopening.pause_ms * 2).min(REOPEN_LAST_MS);
                    *reopening = Reopening { pause_ms, at: now.plus_ms(pause_ms), under_way: false };
                    effects.push(Effect::Wake(reopening.at));
                }
            }
        }
        effects
    }

    fn look(&mut self, seen: &Overview, now: Moment, effects: &mut Vec<Effect>) {
        self.listen(seen, now);
        if seen.buried {
            self.rest(effects);
            return effects.push(if seen.shared { Effect::Rest } else { Effect::Forget });
        }
        if seen.group.stopped.is_some() {
            return self.start_over(now, effects);
        }
        self.reopening = None;
        if self.has_no_place(seen.group.place, now) {
            self.rest(effects);
            return effects.push(Effect::Retire);
        }
        self.tell(seen, effects);
        match &seen.state {
            // Before the first plan there is nothing to tell: `up` writes it right after the birth.
            Some(state) if seen.group.leading && state.plan.is_some() && !seen.out.contains(&self.me) => {
                self.lead(seen, state, now, effects);
            }
            _ if self.rules.broken(Mutant::LeadsOn) => {}
            _ => self.rest(effects),
        }
        let deliveries = self.deliveries.next(now).unwrap_or(now.plus_ms(LOOK_MS));
        effects.push(Effect::Wake(deliveries.min(self.changes.next(now)).min(now.plus_ms(LOOK_MS))));
    }

    /// Notes who is there, also while another host leads: a new leader must know how long a voter has
    /// been silent. One that was never heard counts from the first look.
    fn listen(&mut self, seen: &Overview, now: Moment) {
        self.down.retain(|host, _| seen.members.get(host).is_some_and(|member| !member.up));
        for (host, _) in seen.members.iter().filter(|(_, member)| !member.up) {
            self.down.entry(*host).or_insert(now);
        }
    }

    /// The log could not be written. As soon as the disk takes files it is opened again, as a restart of
    /// the agent would: what the disk holds counts, and nothing was acknowledged beyond it.
    fn start_over(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.rest(effects);
        let first =
            Reopening { pause_ms: REOPEN_FIRST_MS, at: now.plus_ms(REOPEN_FIRST_MS), under_way: false };
        let reopening = self.reopening.get_or_insert(first);
        if reopening.under_way {
            return;
        }
        if now < reopening.at {
            return effects.push(Effect::Wake(reopening.at));
        }
        reopening.under_way = true;
        effects.push(Effect::Reopen);
    }

    /// Tells whether the group has taken this host out, or never took it in.
    fn has_no_place(&mut self, place: Place, now: Moment) -> bool {
        match place {
            Place::Inside => self.outside = None,
            Place::Removed => return true,
            Place::Outside => {
                let since = *self.outside.get_or_insert(now);
                return now.since_ms(since) > ORPHAN_MS;
            }
        }
        false
    }

    fn lead(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        let head = HeadRecord {
            name: state.name.clone(),
            stamp: state.stamp,
            term: seen.group.term,
            recovery: state.recovery,
            version: state.version,
            generation: state.generation(),
            voters: seen.group.hosts().into_iter().collect(),
            ended: state.ended,
        };
        self.announce(Some(head), effects);
        self.raise(seen, state, now, effects);
        self.deliver(seen, state, now, effects);
        self.keep_voters(seen, state, now, effects);
        self.release(seen, state, now, effects);
        self.bury(seen, state, now, effects);
    }

    fn rest(&mut self, effects: &mut Vec<Effect>) {
        self.announce(None, effects);
        self.deliveries.forget();
        self.changes.abandon();
        self.raises.abandon();
        self.releases.abandon();
    }

    fn announce(&mut self, head: Option<HeadRecord>, effects: &mut Vec<Effect>) {
        if self.head != head {
            self.head = head.clone();
            effects.push(Effect::Announce(head.map(Box::new)));
        }
    }

    /// Sends every member that is up the newest share, unless it has it or one is on the way.
    fn deliver(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        for to in self.deliveries.due(seen.up(), state.version, now) {
            self.deliveries.begun(to);
            let may = seen.members.get(&to).map_or(May::only([]), |member| member.may);
            effects.push(Effect::Deliver(to, Box::new(slice::share_of(state, to, may))));
        }
    }

    /// Raises the session's level when all members understand more: each has a share, or will be brought one.
    fn raise(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        if state.ended || self.changes.under_way() || !self.raises.may_begin(now) {
            return;
        }
        let alone = self.rules.broken(Mutant::RaisesAlone);
        let levels =
            seen.present().map(|(_, member)| if alone { LEVEL } else { member.level.unwrap_or_default() });
        if let Some(level) = raise::due(state.level, levels) {
            effects.push(Effect::Raise { raise: self.raises.begin(), level });
        }
    }

    /// Writes off what hosts that are out had to remove.
    fn release(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        if self.releases.may_begin(now)
            && let Some((machine, host, epoch)) = release::due(state, &seen.out)
        {
            effects.push(Effect::Release { release: self.releases.begin(), machine, host, epoch });
        }
    }

    /// Changes the voters when the mesh grew, or one was silent for too long or lost its log.
    fn keep_voters(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        let voting = seen.group.hosts();
        let waits = voting.is_empty() || self.raises.under_way();
        if state.ended || waits || !self.changes.may_begin(now) {
            return;
        }
        let candidate = |(host, member): (&HostId, &Member)| {
            let silent_ms = match self.down.get(host) {
                Some(_) if self.rules.broken(Mutant::ReplacesVotersAtOnce) => u64::MAX,
                Some(since) => now.since_ms(*since),
                None => 0,
            };
            // A voter that has not told it yet to this host has told it to the one that took it in.
            let known = member.level.map_or(voting.contains(host), |level| level >= state.level);
            let understands = known || self.rules.broken(Mutant::TakesOldVoters);
            let may = member.may.has(Capability::Vote);
            (*host, voters::Candidate { up: member.up, steady: member.steady, silent_ms, understands, may })
        };
        // A voter that is out is no candidate: it is replaced at once.
        let candidates = seen.present().map(candidate).collect();
        let wanted = voters::choose(&candidates, &voting, self.me);
        let verify = self.changes.must_verify(now) && !self.rules.broken(Mutant::NeverVerifies);
        let keep = self.rules.broken(Mutant::KeepsFirstVoters);
        if keep || (wanted == voting && !verify) {
            return;
        }
        let up = seen.up().collect();
        match self.changes.begin(&seen.group.voters, &wanted, &up, now) {
            Step::Ask(hosts) => {
                let change = self.changes.number();
                let mut outdated = BTreeMap::new();
                for node in &seen.group.outdated {
                    outdated.extend(seen.group.voters.get(node).map(|host| (*host, *node)));
                }
                let ask = |host| Effect::AskVoter { change, host, outdated: outdated.get(&host).copied() };
                effects.extend(hosts.into_iter().map(ask));
            }
            step => self.step(step, effects),
        }
    }

    fn step(&mut self, step: Step, effects: &mut Vec<Effect>) {
        if let Step::Set(voters) = step {
            effects.push(Effect::SetVoters { change: self.changes.number(), voters });
        }
    }

    /// Once every machine is gone and every member that is up has heard the end, the session is buried: a
    /// statement tells hosts that are away now.
    fn bury(&mut self, seen: &Overview, state: &State, now: Moment, effects: &mut Vec<Effect>) {
        let gone = state.gone() || (state.ended && self.rules.broken(Mutant::BuriesAtOnce));
        if !gone {
            return;
        }
        if seen.up().all(|host| self.deliveries.has(host, state.version)) {
            effects.extend([Effect::Bury, Effect::Wake(now.plus_ms(TICK_MS))]);
        }
    }

    /// Tells people who leads and who votes.
    fn tell(&mut self, seen: &Overview, effects: &mut Vec<Effect>) {
        let Some(session) = seen.state.as_ref().map(|state| state.name.clone()) else { return };
        let name = |host: &HostId| seen.members.get(host).map(|member| member.name.clone());
        let leader = seen.group.leader;
        if leader != self.leader && leader.is_some() {
            // One whose name is not known yet is told once it is.
            if let Some(coordinator) = leader.as_ref().and_then(name) {
                self.leader = leader;
                let fact = Fact::CoordinatorChanged { session: session.clone(), coordinator };
                effects.push(Effect::Tell(fact));
            }
        }
        let voters = seen.group.hosts();
        if voters != self.told_voters {
            let named = voters.iter().filter_map(name).collect();
            self.told_voters = voters;
            effects.push(Effect::Tell(Fact::VotersChanged { session, voters: named }));
        }
    }
}

/// Cuts a host's share out of what a voter's log has. That may be old: shares are ordered, and a newer one
/// follows.
pub fn share_for(state: Option<&State>, host: HostId, may: May) -> Result<Share, Refusal> {
    state.map(|state| slice::share_of(state, host, may)).ok_or(Refusal::UnknownSession)
}
