//! What must never happen, asked after every step. The history here is the omniscient view that no
//! host has: which incarnation ran where, what was ever ready, what was reported as removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    id::{Epoch, Generation, HostId, MachineName, Name, SessionId},
    level::{self, Level},
    limits::VOTER_SILENT_MS,
    names::Resolution,
    session::{GroupEntry, MachineEntry, MachineReport, Phase, Replace, State},
};

use super::{Key, World, host::Host};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two QEMUs of one machine at once.
    #[error("{0} runs on {1} and on {2} at once")]
    Twice(MachineName, String, String),
    /// One incarnation on two hosts, even one after the other.
    #[error("{0} epoch {1} ran on {2} and now on {3}")]
    Wandered(MachineName, Epoch, String, String),
    /// Something is left of what was reported as removed.
    #[error("{0} epoch {1} is on {2} although its removal was written down")]
    Undead(MachineName, Epoch, String),
    /// Something that only grows went back.
    #[error("{0} went back")]
    WentBack(String),
    /// A machine started before what it needs.
    #[error("{0} started before {1} was ever ready")]
    OutOfOrder(MachineName, MachineName),
    /// A machine started again before what it needs.
    #[error("{0} started again before {1} was ready again")]
    TooEarly(MachineName, MachineName),
    /// A host says more than is so.
    #[error("{1} says that {0} is ready, and its services never answered")]
    TooSoon(MachineName, String),
    /// An incarnation started for the first time although nobody allowed it.
    #[error("{0} epoch {1} started although that was never granted")]
    Unasked(MachineName, Epoch),
    /// An incarnation started on what an earlier one left.
    #[error("{0} epoch {1} started on the disk of epoch {2}")]
    OtherDisk(MachineName, Epoch, Epoch),
    /// A disk that was used is gone.
    #[error("the disk of {0} epoch {1} was replaced although nobody said so")]
    LostDisk(MachineName, Epoch),
    /// A name answered without its owner's word.
    #[error("{0} answers for {1} on {2} although its owner never said it is ready")]
    Hearsay(String, MachineName, String),
    /// The planner proposed what the hard state must refuse.
    #[error("the planner's own plan is not safe: {0}")]
    UnsafePlan(String),
    /// A host has a share that no coordinator made.
    #[error("{0} has a share that nobody wrote")]
    Invented(String),
    /// A host takes a share of a session of which it knows that it was buried.
    #[error("{0} takes a share of {1} although that is buried")]
    Raised(String, String),
    /// A share counts although what it names is not here.
    #[error("{0} shows a share of {1} before its files are there")]
    Unfetched(String, String),
    /// A session was buried although something of it is left.
    #[error("{0} is buried although {1} is on {2}")]
    BuriedAlive(String, MachineName, String),
    /// A plan was committed over another one than its user saw.
    #[error("a plan that was made for {0} was committed over {1}")]
    Unseen(u64, u64),
    /// A voter that was away for a moment was replaced.
    #[error("{0} votes no more although it was away for a moment only")]
    Replaced(String),
    /// A voter's log has what only newer programs understand.
    #[error("{0} understands level {1} and votes by a log that needs level {2}")]
    Above(String, Level, Level),
    /// A machine came to a host that does not understand the session.
    #[error("{0} was placed on {1}, which does not understand the session")]
    Misplaced(MachineName, String),
    /// Something soft did not converge after everything was healed.
    #[error("not converged {0} s after all was well again: {1}")]
    Stuck(u64, String),
    /// The world came to no rest after everything was healed.
    #[error("not settled {0} s after all was well again: {1}")]
    Unsettled(u64, String),
    /// Somebody acts without end.
    #[error("acts without end: {0} s after the beginning more than {1} things are under way")]
    Restless(u64, usize),
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    ran: BTreeMap<Key, BTreeMap<Epoch, HostId>>,
    removed: BTreeMap<Key, BTreeMap<HostId, Epoch>>,
    ready: BTreeSet<(Key, HostId, Epoch)>,
    /// As `ready`, since the power of the host came back.
    ready_now: BTreeSet<(Key, HostId, Epoch)>,
    versions: BTreeMap<(HostId, SessionId), u64>,
    /// Incarnations whose first start was ever committed.
    granted: BTreeSet<(Key, Epoch)>,
    sessions: BTreeMap<SessionId, Past>,
    broken: Option<Violation>,
}

/// What a session's hard state was when it was looked at last.
#[derive(Clone, Debug, Default)]
struct Past {
    seen: Option<Arc<State>>,
    /// What was said of disks when the newest plan was committed.
    told: Option<Replace>,
    placed: BTreeMap<MachineName, Epoch>,
    generation: Generation,
    epochs: BTreeMap<MachineName, Epoch>,
    level: Level,
}

impl History {
    /// Notes a removal that the hard state has.
    pub fn dropped(&mut self, host: HostId, machine: &Key, epoch: Epoch) {
        let highest = self.removed.entry(machine.clone()).or_default().entry(host).or_default();
        *highest = epoch.max(*highest);
    }

    /// Notes that a plan was refused for another reason than that a newer one is current.
    pub fn unsafe_plan(&mut self, because: &str) {
        self.broken = Some(Violation::UnsafePlan(because.to_owned()));
    }

    /// Notes over which plan a topology was committed, and which one its user saw.
    pub fn seen(&mut self, seen: u64, parent: u64) {
        if seen != parent {
            self.broken = Some(Violation::Unseen(seen, parent));
        }
    }

    /// Notes that a host takes a share of a session that it knows to be buried.
    pub fn took_buried(&mut self, host: HostId, session: &Name) {
        self.broken = Some(Violation::Raised(host.short(), session.to_string()));
    }

    /// Notes that a host shows a share whose files are not on its disk.
    pub fn unfetched(&mut self, host: HostId, session: &Name) {
        self.broken = Some(Violation::Unfetched(host.short(), session.to_string()));
    }

    /// Notes that a host has no share of a session any more, so that an older one may come.
    pub fn share_gone(&mut self, host: HostId, session: SessionId) {
        self.versions.remove(&(host, session));
    }

    /// Notes that a process was started beside a living one of the same machine.
    pub fn twice_here(&mut self, machine: &Key, host: &str) {
        self.broken = Some(Violation::Twice(machine.1.clone(), host.to_owned(), host.to_owned()));
    }

    /// Checks what a host is about to say of its own machines against what runs.
    pub fn said(&mut self, host: &Host, session: SessionId, reports: &[MachineReport]) {
        let unready = |report: &&MachineReport| {
            let process = host.shims.get(&(session, report.machine.clone()));
            process.is_some_and(|process| process.alive() && !process.ready)
        };
        if let Some(report) = reports.iter().filter(|report| report.phase == Phase::Ready).find(unready) {
            self.broken = Some(Violation::TooSoon(report.machine.clone(), host.name.to_string()));
        }
    }

    /// Checks a start of an incarnation where this one lies on the disk, if one does.
    pub fn started(&mut self, machine: &Key, epoch: Epoch, here: Option<Epoch>) {
        let broken = match here {
            Some(other) if other != epoch => Violation::OtherDisk(machine.1.clone(), epoch, other),
            None if !self.granted.contains(&(machine.clone(), epoch)) => {
                Violation::Unasked(machine.1.clone(), epoch)
            }
            _ => return,
        };
        self.broken.get_or_insert(broken);
    }

    /// Notes what a host says of its own machines.
    pub fn reported(&mut self, host: HostId, session: SessionId, reports: &[MachineReport]) {
        for report in reports.iter().filter(|report| report.phase == Phase::Ready) {
            self.ready.insert(((session, report.machine.clone()), host, report.epoch));
            self.ready_now.insert(((session, report.machine.clone()), host, report.epoch));
        }
    }

    /// Notes that nothing runs on a host any more.
    pub fn lost_power(&mut self, host: HostId) {
        self.ready_now.retain(|(_, of, _)| *of != host);
    }

    /// Notes whose disks a user let go with the plan that was just committed.
    pub fn told(&mut self, session: SessionId, replace: Replace) {
        self.sessions.entry(session).or_default().told = Some(replace);
    }

    /// Checks the order of any start: what is needed was ready since the power came back.
    pub fn start(&mut self, machine: &Key, needed: &[&MachineEntry]) {
        let key = |m: &MachineEntry| ((machine.0, m.machine.clone()), m.host, m.epoch);
        let since = |m: &&&MachineEntry| self.ready_now.contains(&key(m));
        if let Some(missing) = needed.iter().find(|m| !since(m)) {
            let early = Violation::TooEarly(machine.1.clone(), missing.machine.clone());
            self.broken.get_or_insert(early);
        }
    }

    /// Checks the order of a first start: everything needed was ready at some time.
    pub fn first_start(&mut self, machine: &Key, needed: &[&MachineEntry]) {
        let key = |m: &MachineEntry| ((machine.0, m.machine.clone()), m.host, m.epoch);
        let ever = |m: &&&MachineEntry| self.ready.contains(&key(m));
        if let Some(missing) = needed.iter().find(|m| !ever(m)) {
            self.broken = Some(Violation::OutOfOrder(machine.1.clone(), missing.machine.clone()));
        }
    }

    /// Checks one answer about a group that `host` gave its guests.
    pub fn check_answer(
        &self,
        host: &Name,
        session: SessionId,
        group: &GroupEntry,
        answer: &Resolution,
    ) -> Result<(), Violation> {
        let Resolution::Addresses(list) = answer else { return Ok(()) };
        let told = |entry: &&MachineEntry| {
            self.ready.contains(&((session, entry.machine.clone()), entry.host, entry.epoch))
        };
        let in_answer = |entry: &&MachineEntry| list.contains(&std::net::IpAddr::V4(entry.address));
        let mut answered = group.machines.iter().filter(in_answer);
        match answered.find(|entry| !told(entry)) {
            Some(entry) => {
                Err(Violation::Hearsay(format!("{list:?}"), entry.machine.clone(), host.to_string()))
            }
            None => Ok(()),
        }
    }
}

impl World {
    /// Asks every invariant.
    pub(super) fn check(&mut self) -> Result<(), Violation> {
        if let Some(broken) = self.history.broken.take() {
            return Err(broken);
        }
        self.check_processes()?;
        self.check_growth()
    }

    /// Checks that nothing of a session is left that is being buried, nor may be as far as is written down.
    pub(super) fn check_burial(&mut self, session: SessionId) {
        let committed = self.committed(session).cloned();
        let dropping = committed.iter().flat_map(|state| &state.drops);
        if let Some((machine, drop)) =
            dropping.flat_map(|(m, drops)| drops.iter().map(move |d| (m, d))).next()
        {
            let name = committed.as_ref().map(|state| state.name.to_string()).unwrap_or_default();
            let alive = Violation::BuriedAlive(name, machine.clone(), self.name(drop.host));
            self.history.broken = Some(alive);
            return;
        }
        let left = self.staying().find_map(|host| {
            let (_, machine) = host.disk.launched.keys().find(|(of, _)| *of == session)?;
            let name = self.committed(session).map(|state| state.name.to_string()).unwrap_or_default();
            Some(Violation::BuriedAlive(name, machine.clone(), host.name.to_string()))
        });
        if left.is_some() {
            self.history.broken = left;
        }
    }

    /// Checks that a change of voters leaves out nobody who still has its log and was heard lately.
    pub(super) fn check_voters(&mut self, by: HostId, session: SessionId, before: &BTreeMap<u64, HostId>) {
        let Some(quorum) = self.quorums.get(&session) else { return };
        let replaced = |(node, host): &(&u64, &HostId)| {
            let log = self.hosts.get(*host).and_then(|host| host.disk.logs.get(&session));
            let agent = self.hosts.get(&by).and_then(|host| host.agent.as_ref());
            let heard = agent.and_then(|agent| agent.heard.get(*host).copied()).unwrap_or_default();
            !quorum.voters.contains_key(*node)
                && log.is_some_and(|log| log.node == **node)
                && self.now.since_ms(heard) < VOTER_SILENT_MS
        };
        // One that is lost is replaced at once, and may take another with it: an odd number is left.
        let lost = before.values().filter(|host| self.gone.contains(host)).count();
        if let Some((_, host)) =
            before.iter().filter(|(_, host)| !self.gone.contains(*host)).filter(replaced).nth(lost)
        {
            self.history.broken = Some(Violation::Replaced(self.name(*host)));
        }
    }

    /// Checks that nobody votes by a log that holds what is above his level.
    pub(super) fn check_levels(&mut self, session: SessionId) {
        let Some(quorum) = self.quorums.get(&session) else { return };
        let staying = quorum.voters.values().filter(|host| !self.gone.contains(host));
        let mut voters = staying.filter_map(|host| self.hosts.get(host));
        if let Some(host) = voters.find(|host| host.level < quorum.needs) {
            self.history.broken = Some(Violation::Above(host.name.to_string(), host.level, quorum.needs));
        }
    }

    /// Tells whether everything soft is as the hard state says, on every host.
    pub fn converged(&self) -> Result<(), String> {
        self.quorums.keys().try_for_each(|session| self.converged_in(*session))
    }

    pub(super) fn converged_in(&self, session: SessionId) -> Result<(), String> {
        let Some(quorum) = self.quorums.get(&session) else { return Err("no session".into()) };
        let Some(state) = &quorum.committed else { return Err("no session".into()) };
        if state.gone() {
            let left = |host: &&super::host::Host| {
                let agent = host.agent.as_ref();
                host.disk.shares.contains_key(&session)
                    || host.disk.logs.contains_key(&session)
                    || host.disk.launched.keys().any(|(of, _)| *of == session)
                    || agent.is_some_and(|agent| agent.heads.contains_key(&session))
            };
            let left = self.staying().find(left);
            return left
                .map_or(Ok(()), |host| Err(format!("something of {} is left on {}", state.name, host.name)));
        }
        for host in self.staying() {
            if host.version(session) != state.version {
                let (name, has) = (&host.name, host.version(session));
                return Err(format!("{name} has version {has} of {}", state.version));
            }
            let Some(agent) = &host.agent else { continue };
            if agent.heads.contains_key(&session) != (quorum.leader == Some(host.id)) {
                return Err(format!("{} is wrong about leading {}", host.name, state.name));
            }
            if host.coordinator(session) != quorum.leader {
                return Err(format!("{} does not know who coordinates {}", host.name, state.name));
            }
        }
        self.converged_voters(session)
    }

    fn converged_voters(&self, session: SessionId) -> Result<(), String> {
        let Some(quorum) = self.quorums.get(&session) else { return Ok(()) };
        if self.staying().any(|host| host.agent.is_none()) {
            return Ok(());
        }
        let level = quorum.committed.as_ref().map(|state| state.level).unwrap_or_default();
        if level < level::lowest(self.staying().map(|host| host.level)) {
            return Err(format!("everybody understands more than level {level}"));
        }
        let of = |count: usize| match count {
            0..=2 => 1,
            3..=6 => 3,
            _ => 5,
        };
        let staying = self.staying().filter(|host| host.level >= level).count();
        // Who is lost takes members with it, and voters are kept while they live.
        let (wanted, most) = (of(staying), of(staying + self.gone.len()));
        let voters = quorum.voters.len();
        if !(wanted..=most).contains(&voters) || voters % 2 == 0 {
            return Err(format!("{voters} voters of {wanted}"));
        }
        let votes = |(node, host): &(&u64, &HostId)| {
            let log = self.hosts.get(*host).and_then(|host| host.disk.logs.get(&session));
            log.is_some_and(|log| log.node == **node && !log.closed && log.state == quorum.committed)
        };
        match quorum.voters.iter().find(|voter| !votes(voter)) {
            Some((_, host)) => Err(format!("{} votes without its log", self.name(*host))),
            None => Ok(()),
        }
    }

    fn check_processes(&mut self) -> Result<(), Violation> {
        let mut running: BTreeMap<&Key, HostId> = BTreeMap::new();
        for host in self.hosts.values().filter(|host| !self.gone.contains(&host.id)) {
            for (machine, process) in host.shims.iter().filter(|(_, process)| process.alive()) {
                let epoch = process.settings.epoch;
                if let Some(other) = running.insert(machine, host.id) {
                    return Err(Violation::Twice(machine.1.clone(), self.name(other), host.name.to_string()));
                }
                let first = match self.history.ran.get_mut(machine) {
                    Some(epochs) => *epochs.entry(epoch).or_insert(host.id),
                    None => {
                        self.history.ran.insert(machine.clone(), [(epoch, host.id)].into());
                        host.id
                    }
                };
                if first != host.id {
                    let (was, is) = (self.name(first), host.name.to_string());
                    return Err(Violation::Wandered(machine.1.clone(), epoch, was, is));
                }
            }
            for (machine, settings) in &host.disk.launched {
                let removed = self.history.removed.get(machine).and_then(|hosts| hosts.get(&host.id));
                if removed.is_some_and(|removed| *removed >= settings.epoch) {
                    let (epoch, host) = (settings.epoch, host.name.to_string());
                    return Err(Violation::Undead(machine.1.clone(), epoch, host));
                }
            }
        }
        Ok(())
    }

    fn check_growth(&mut self) -> Result<(), Violation> {
        for host in self.hosts.values() {
            for session in self.quorums.keys() {
                let known = self.history.versions.entry((host.id, *session)).or_default();
                if host.version(*session) < *known {
                    return Err(Violation::WentBack(format!("the share of {}", host.name)));
                }
                *known = host.version(*session);
                if *known > self.quorums[session].committed.as_ref().map_or(0, |state| state.version) {
                    return Err(Violation::Invented(host.name.to_string()));
                }
            }
        }
        self.sessions().into_iter().try_for_each(|session| self.check_growth_of(session))
    }

    fn check_growth_of(&mut self, session: SessionId) -> Result<(), Violation> {
        let committed = self.quorums.get(&session).and_then(|quorum| quorum.committed.as_ref());
        let Some(state) = committed else { return Ok(()) };
        let past = self.history.sessions.entry(session).or_default();
        if past.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, state)) {
            let granted = state.granted.iter();
            let granted = granted.map(|(machine, epoch)| ((session, machine.clone()), *epoch));
            self.history.granted.extend(granted);
            past.seen = Some(state.clone());
        }
        if state.level < past.level {
            return Err(Violation::WentBack("the session's level".into()));
        }
        past.level = state.level;
        if state.generation() < past.generation {
            return Err(Violation::WentBack("the plan".into()));
        }
        if state.generation() == past.generation {
            return Ok(());
        }
        past.generation = state.generation();
        let plan = state.plan.iter().flat_map(|plan| &plan.placements);
        let placed: BTreeMap<_, _> = plan.map(|p| (p.machine.clone(), p.epoch)).collect();
        let before = std::mem::replace(&mut past.placed, placed);
        let older = |host: &HostId| self.hosts.get(host).filter(|host| host.level < state.level);
        for p in state.plan.iter().flat_map(|plan| &plan.placements) {
            if let (None, Some(host)) =
                (before.get(&p.machine).filter(|epoch| **epoch == p.epoch), older(&p.host))
            {
                return Err(Violation::Misplaced(p.machine.clone(), host.name.to_string()));
            }
        }
        if let Some(told) = past.told.take() {
            let ran = |m: &MachineName, epoch: &Epoch| {
                let host = self.history.ran.get(&(session, m.clone())).and_then(|ran| ran.get(epoch));
                host.is_some_and(|host| !self.gone.contains(host))
            };
            let replaced = |(m, epoch): &(&MachineName, &Epoch)| {
                past.placed.get(*m).is_some_and(|now| now != *epoch) && ran(m, epoch) && !told.allows(m)
            };
            if let Some((machine, epoch)) = before.iter().find(replaced) {
                return Err(Violation::LostDisk(machine.clone(), *epoch));
            }
        }
        for (machine, before) in &past.epochs {
            if state.highest_epoch(machine) < *before {
                return Err(Violation::WentBack(format!("the epoch of {machine}")));
            }
        }
        past.epochs = state.epochs.clone();
        Ok(())
    }
}
