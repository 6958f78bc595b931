//! Many hosts of pure `proto` rules on a virtual clock, drawn from one seed: messages get lost, hosts
//! and agents die, plans change, and after every step the invariants are asked. Nothing here sleeps,
//! nothing touches the real network, and a seed says everything: `replay(seed)` prints its log.
//!
//! - `host`: what one host keeps and knows; `agent`: what its agent does, by the rules of `proto`;
//! - `picture`: what it sees and tells; `coordinator`: the agent beside a session's log; `knowledge`: what it knows of sessions; `calls`: what
//!   agents ask each other; `quorum`, `net`: Raft and the network as models;
//! - `fault`: what goes wrong and what users do, `levels`: who runs an older program, `gone`: who is lost for good; `invariants`: what must never happen.

pub mod agent;
mod birth;
pub mod calls;
pub mod coordinator;
pub mod fault;
mod gone;
pub mod host;
pub mod invariants;
pub mod knowledge;
mod levels;
pub mod net;
pub mod picture;
pub mod quorum;
mod shim;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Epoch, HostId, MachineName, Name, SessionId},
    level::{LEVEL, Level},
    picture::{acks, readiness},
    random::Random,
    run::Rules,
    session::{Command, Share, State, reconcile::Settings},
    time::Moment,
    wire::rpc::{Answer, Request},
};

use fault::Fault;
use host::Host;
use invariants::{History, Violation};
use net::Net;
use picture::Record;
use quorum::Quorum;

/// The first session of a world, and the only one of a story that is told in words.
pub const SESSION: SessionId = SessionId([7; 16]);
/// Events ahead, of which a world of some dozen machines has a few hundred.
const MOST_AHEAD: usize = 20_000;

/// What hosts take for wall time when a world begins, one after the other: right, in 1970, an hour behind, five
/// years ahead.
const WALLS: [u64; 4] =
    [1_795_132_800_000, 0, 1_795_132_800_000 - 3_600_000, 1_795_132_800_000 + 5 * 365 * 86_400_000];

/// A machine of one of the world's sessions.
pub type Key = (SessionId, MachineName);

/// The world.
pub struct World {
    /// The virtual clock.
    pub now: Moment,
    /// The hosts by id.
    pub hosts: BTreeMap<HostId, Host>,
    /// The labels of the members: of all hosts but those that are still to join.
    pub names: BTreeMap<HostId, Name>,
    /// The labels of the sessions that are, or will be.
    pub labels: BTreeMap<SessionId, Name>,
    /// The hosts that are lost for good.
    pub gone: BTreeSet<HostId>,
    /// The hosts that the births of sessions name: statements, which everybody has.
    pub births: BTreeMap<SessionId, Vec<HostId>>,
    /// The voters of each session.
    pub quorums: BTreeMap<SessionId, Quorum>,
    /// The network.
    pub net: Net,
    /// What has happened, for people; kept only when asked for.
    pub log: Option<Vec<String>>,
    random: Random,
    queue: BTreeMap<(Moment, u64), Event>,
    serial: u64,
    history: History,
    rules: Rules,
}

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// An agent's loop runs, if it is still that agent.
    Tick(HostId, u64),
    /// A message arrives.
    Arrive(HostId, HostId, Message),
    /// Work of an agent ends, if it is still that agent.
    Finish {
        /// Where.
        host: HostId,
        /// The agent's run.
        run: u64,
        /// For which machine.
        machine: Key,
        /// The work's number.
        number: u64,
        /// What it was.
        work: Work,
    },
    /// A fetch of an agent ends, if it is still that agent.
    Fetched(HostId, u64, SessionId),
    /// The moment comes that an agent wanted to be woken at for a session.
    Wake(HostId, u64, SessionId, Moment),
    /// A shim has something to say to who listens.
    ShimProcess(HostId, Key),
    /// A shim did not answer when it was asked.
    Silence(HostId, Key, u64),
    /// An agent that was told to end has no time left.
    CutOff(HostId, u64),
    /// A process gets on with its life, if it is still there.
    Process(HostId, Key, u64, Step),
    /// An agent that waits for a moment looks again, at a session's log or at what it knows.
    Look(HostId, u64, Option<SessionId>),
    /// A question has had no answer for too long.
    Expire(HostId, u64, u64),
    /// A question goes on its way to a coordinator.
    Route(HostId, u64, u64),
    /// A command of a question reaches the log.
    Write(HostId, u64, u64, Box<Command>),
    /// A raise of a session's level reaches the log.
    Raise(HostId, u64, SessionId, u64, Level),
    /// What a lost host had is written off.
    Release(HostId, u64, SessionId, u64, Box<Command>),
    /// A change of voters comes to its end.
    SetVoters(HostId, u64, SessionId, u64, BTreeMap<u64, HostId>),
    /// A share reaches the disk, and who is believed.
    Stored(HostId, u64, Arc<Share>, Option<BTreeSet<HostId>>),
    /// Something goes wrong, or a user does something.
    Fault(Fault),
}

/// Work of an agent that takes time.
#[derive(Clone, Debug)]
pub enum Work {
    /// Making disks and starting the shim.
    Launch(Settings),
    /// Ending QEMU in order.
    Stop,
    /// Looking for a process that does not answer; after a long silence it is ended.
    Find {
        /// Whether silence is still borne.
        patient: bool,
    },
    /// Deleting an incarnation.
    Remove(Epoch),
}

/// A step in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// QEMU runs.
    Run,
    /// The guest answers.
    Boot,
    /// Its services answer.
    Ready,
}

/// A message between agents.
#[derive(Clone, Debug)]
pub enum Message {
    /// What the sender knows of everybody.
    Gossip(Vec<Rc<Record>>),
    /// A question, with its number.
    Request(u64, Box<Request>),
    /// The answer to the question of this number.
    Answer(u64, Box<Answer>),
}

impl World {
    /// Builds a world of these hosts: name, memory in MiB, whether the image is there. The sessions of these
    /// names are born when somebody asks for them first.
    pub fn new(seed: u64, rules: Rules, hosts: &[(Name, u64, bool)], sessions: &[&str]) -> World {
        let mut world = World {
            now: Moment(0),
            hosts: BTreeMap::new(),
            names: BTreeMap::new(),
            labels: BTreeMap::new(),
            gone: BTreeSet::new(),
            births: BTreeMap::new(),
            quorums: BTreeMap::new(),
            net: Net::default(),
            log: None,
            random: Random::new(seed),
            queue: BTreeMap::new(),
            serial: 0,
            history: History::default(),
            rules,
        };
        for (number, (name, memory_mib, image)) in (1..).zip(hosts) {
            let id = HostId([number; 32]);
            let disk = host::Disk { image: *image, ..host::Disk::default() };
            let (name, memory_mib) = (name.clone(), *memory_mib);
            world.names.insert(id, name.clone());
            let wall = *WALLS.get(number as usize % WALLS.len()).unwrap_or(&0);
            let (booted, full, shims) = (Moment(0), false, BTreeMap::new());
            let level = LEVEL;
            let host =
                Host { id, name, memory_mib, level, on: true, full, booted, wall, agent: None, disk, shims };
            world.hosts.insert(id, host);
        }
        for (number, name) in (7..).zip(sessions) {
            world.labels.insert(SessionId([number; 16]), name.parse().expect("a valid name"));
        }
        let ids: Vec<HostId> = world.hosts.keys().copied().collect();
        ids.into_iter().for_each(|id| world.start_agent(id));
        world
    }

    /// Lists the sessions that were born.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.quorums.keys().copied().collect()
    }

    /// Gives what a majority of a session's voters has.
    pub fn committed(&self, session: SessionId) -> Option<&Arc<State>> {
        self.quorums.get(&session)?.committed.as_ref()
    }

    /// Lets the next event happen and asks the invariants. `false` = nothing is left to happen.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), event)) = self.queue.pop_first() else { return Ok(false) };
        self.now = at;
        if self.queue.len() > MOST_AHEAD {
            return Err(Violation::Restless(at.0 / 1000, MOST_AHEAD));
        }
        match event {
            Event::Tick(host, run) => self.tick(host, run)?,
            Event::Arrive(from, to, message) => {
                let alive = self.hosts.get(&to).is_some_and(|host| host.agent.is_some());
                if alive && self.net.connected(from, to) {
                    self.receive(from, to, message);
                }
            }
            Event::Finish { host, run, machine, number, work } => {
                self.finish(host, run, machine, number, work);
            }
            Event::Fetched(host, run, session) => self.fetched(host, run, session),
            Event::Wake(host, run, session, at) => self.wake(host, run, session, at),
            Event::ShimProcess(host, machine) => self.hear_shim(host, &machine),
            Event::Silence(host, machine, pid) => self.miss_shim(host, &machine, pid),
            Event::CutOff(host, run) => self.cut_off(host, run),
            Event::Process(host, machine, pid, step) => self.progress(host, &machine, pid, step),
            Event::Look(host, run, session) if self.runs(host, run) => self.look_again(host, session),
            Event::Expire(host, run, call) if self.runs(host, run) => self.replied(host, call, None),
            Event::Route(host, run, route) if self.runs(host, run) => self.route_on(host, route),
            Event::Write(host, run, question, command) if self.runs(host, run) => {
                self.write(host, question, *command);
            }
            Event::SetVoters(host, run, session, change, voters) if self.runs(host, run) => {
                self.set_voters(host, session, change, voters);
            }
            Event::Raise(host, run, session, raise, level) if self.runs(host, run) => {
                self.raise(host, session, raise, level);
            }
            Event::Release(host, run, session, release, command) if self.runs(host, run) => {
                self.release(host, session, release, *command);
            }
            Event::Stored(host, run, share, voices) if self.runs(host, run) => {
                self.stored(host, share, voices);
            }
            // The agent is another one, or none.
            Event::Look(..)
            | Event::Expire(..)
            | Event::Route(..)
            | Event::Write(..)
            | Event::SetVoters(..)
            | Event::Raise(..)
            | Event::Release(..)
            | Event::Stored(..) => {}
            Event::Fault(fault) => self.suffer(fault),
        }
        self.check()?;
        Ok(true)
    }

    /// Lets everything happen until `until`.
    pub fn run_until(&mut self, until: Moment) -> Result<(), Violation> {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.step()?;
        }
        self.now = until;
        Ok(())
    }

    /// Tells whether everything is as the committed plans want it, on every host.
    pub fn settled(&mut self) -> Result<(), String> {
        let sessions: Vec<SessionId> = self.labels.keys().copied().collect();
        sessions.into_iter().try_for_each(|session| self.settled_in(session))
    }

    fn settled_in(&mut self, session: SessionId) -> Result<(), String> {
        let Some(state) = self.committed(session).cloned() else { return Err("no session".into()) };
        if let Some((machine, drops)) = state.drops.first_key_value() {
            let host = drops.first().map(|drop| self.name(drop.host)).unwrap_or_default();
            return Err(format!("{machine} is not removed from {host}"));
        }
        self.converged_in(session)?;
        if state.ended {
            return Ok(());
        }
        let plan = state.plan.as_ref().ok_or("no plan")?;
        // What hosts say follows what is so in a moment: both must be as the plan wants it.
        for p in &plan.placements {
            let process =
                self.hosts.get(&p.host).and_then(|host| host.shims.get(&(session, p.machine.clone())));
            let runs = process
                .is_some_and(|process| process.alive() && process.ready && process.settings.epoch == p.epoch);
            if runs == state.stopped.contains(&p.machine) {
                let is = if runs { "still runs" } else { "does not run" };
                return Err(format!("{} {is} on {}", p.machine, self.name(p.host)));
            }
        }
        for host in self.hosts.values_mut() {
            host.observe(&self.names, self.now);
            let (Some(agent), Some(share)) = (&host.agent, host.disk.shares.get(&session)) else { continue };
            let picture = &agent.picture;
            for entry in share.directory.machines() {
                if readiness::is_ready(picture, session, entry) != entry.run {
                    let is = if entry.run { "not ready" } else { "still ready" };
                    return Err(format!("{} sees {} as {is}", host.name, entry.machine));
                }
            }
            if let Some(other) = acks::behind(picture, share).first() {
                let other = picture.name(*other);
                return Err(format!(
                    "{} was not told that {other} sees the same of {}",
                    host.name, share.name
                ));
            }
        }
        Ok(())
    }

    /// Tells whether this is still the agent of that host.
    fn runs(&self, id: HostId, run: u64) -> bool {
        self.hosts.get(&id).and_then(|host| host.agent.as_ref()).is_some_and(|agent| agent.run == run)
    }

    /// Lets an agent look again at a moment that it named.
    fn look_later(&mut self, id: HostId, session: Option<SessionId>, at: Moment) {
        let now = self.here(id);
        let Some(agent) = self.agent_mut(id) else { return };
        if agent.looks.get(&session).is_some_and(|known| *known <= at && *known >= now) {
            return;
        }
        agent.looks.insert(session, at);
        let run = agent.run;
        self.after(at.since_ms(now), Event::Look(id, run, session));
    }

    fn look_again(&mut self, id: HostId, session: Option<SessionId>) {
        let now = self.here(id);
        let Some(agent) = self.agent_mut(id) else { return };
        if agent.looks.get(&session) != Some(&now) {
            return;
        }
        agent.looks.remove(&session);
        match session {
            Some(session) => self.look_after(id, session, true),
            None => self.look_out(id, true),
        }
    }

    /// Reads a host's own clock.
    fn here(&self, id: HostId) -> Moment {
        self.hosts.get(&id).map(|host| host.moment(self.now)).unwrap_or_default()
    }

    /// Gives a host's label.
    pub fn name(&self, host: HostId) -> String {
        self.hosts.get(&host).map(|host| host.name.to_string()).unwrap_or_default()
    }

    /// Lists the hosts whose agents `from` reaches now, itself included if its agent runs.
    fn reached(&self, from: HostId) -> BTreeSet<HostId> {
        let alive = self.hosts.values().filter(|host| host.agent.is_some()).map(|host| host.id);
        alive.filter(|to| self.net.connected(from, *to)).collect()
    }

    fn send(&mut self, from: HostId, to: HostId, message: Message) {
        if matches!(message, Message::Request(..)) && self.random.chance(2) {
            // Whoever asks again after a time-out asks twice, and much later.
            let late = self.random.between(2_000, 20_000);
            self.after(late, Event::Arrive(from, to, message.clone()));
        }
        if let Some(delay) = self.net.delay(&mut self.random) {
            self.after(delay, Event::Arrive(from, to, message));
        }
    }

    fn after(&mut self, millis: u64, event: Event) {
        let serial = self.number();
        self.queue.insert((self.now.plus_ms(millis), serial), event);
    }

    fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Notes something that people want to read. The text is only made when a log is kept.
    fn tell(&mut self, host: Option<HostId>, text: impl FnOnce() -> String) {
        let name = host.map(|host| self.name(host)).unwrap_or_default();
        let seconds = self.now.0 as f64 / 1000.0;
        if let Some(log) = &mut self.log {
            log.push(format!("{seconds:8.3}  {name:8} {}", text()).trim_end().to_owned());
        }
    }
}

/// What one seed came to.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What broke.
    pub what: String,
    /// Everything that happened before.
    pub log: Vec<String>,
}

/// Runs one seed; on failure runs it again with a log.
pub fn check(seed: u64, rules: Rules) -> Result<(), Failure> {
    match fault::story(seed, rules, None) {
        (_, Ok(())) => Ok(()),
        _ => {
            let (log, outcome) = fault::story(seed, rules, Some(Vec::new()));
            let what = outcome.err().map(|violation| violation.to_string()).unwrap_or_default();
            Err(Failure { seed, what, log })
        }
    }
}

/// Runs one seed and gives its log, the last line saying how it ended.
pub fn replay(seed: u64) -> Vec<String> {
    let (mut log, outcome) = fault::story(seed, Rules::default(), Some(Vec::new()));
    log.push(outcome.map_or_else(|violation| format!("BROKEN: {violation}"), |()| "well".to_owned()));
    log
}

#[cfg(test)]
mod tests;
