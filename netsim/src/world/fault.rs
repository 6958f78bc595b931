//! What goes wrong and what users do, and the story of one seed: hosts come up, a topology is asked
//! for, a minute of trouble follows, then all is well again and everything must come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    id::{HostId, Name, SessionId},
    random::Random,
    run::{Rules, lead},
    session::{Replace, Share},
    time::Moment,
    topology::{
        Content, Contents, Egress, Failover, FileSpec, Group, ImageRef, Intent, Parcel, Place, Probe, Ready,
        Restart, Service, Topology,
    },
    trust::May,
    wire::rpc::Request,
};

use super::{
    Event, Key, World,
    calls::{Asker, For},
    invariants::Violation,
};

/// Trouble lasts this long.
const TROUBLE_MS: u64 = 40_000;
/// Hosts have heard of each other by then, and somebody asks for a session.
const FIRST_MS: u64 = 2_500;
/// What is soft has converged within this time after the cause's end.
const SOFT_MS: u64 = 60_000;
/// After that everything must be at rest within this time: the longest pause between two tries of
/// anything is 60 s, and a machine may need two such tries.
const REST_MS: u64 = 150_000;

/// Something that happens to the world from outside.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The agent is killed; shims and QEMUs go on.
    AgentDies(HostId),
    /// The agent is told to end, and ends in order.
    AgentEnds(HostId),
    /// The agent starts again.
    AgentStarts(HostId),
    /// The host loses power.
    PowerOff(HostId),
    /// The host boots, its agent starts.
    PowerOn(HostId),
    /// A QEMU on this host dies, counted from its first.
    QemuDies(HostId, u64),
    /// A shim on this host, counted from its first, answers nobody for so many milliseconds.
    ShimSilent(HostId, u64, u64),
    /// The network falls apart.
    Cut(BTreeMap<HostId, u8>),
    /// It is whole again.
    Heal,
    /// So many messages of a hundred get lost.
    Loss(u64),
    /// A host's log of a session is lost while its agent is down for a moment. It happens only when most of
    /// the voters still have theirs.
    LogLost(HostId, SessionId),
    /// The same with its share and with whom it believes.
    ShareLost(HostId, SessionId),
    /// A host's disk takes no files: its logs close.
    DiskFull(HostId),
    /// It takes files again.
    DiskWell(HostId),
    /// A host that was never a voter wants to be believed: it says that it leads, and sends shares.
    Lies(HostId, SessionId),
    /// A user asks for a topology at this host, over any plan or over the one that is seen there.
    Up(HostId, SessionId, Box<Intent>, Replace, Basis),
    /// A user stops or starts a machine at this host.
    Wish(HostId, Key, bool),
    /// A user ends the session at this host.
    Down(HostId, SessionId),
    /// A host becomes a member.
    Joins(HostId),
    /// A host gets the newest program; machines run on.
    Upgraded(HostId),
    /// A host is lost for good, and an operator says so.
    Gone(HostId),
    /// Every host has power and an agent, every message arrives.
    AllIsWell,
}

/// Over which plan a user asks for a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Over whatever is current.
    Anything,
    /// Over the plan that the asked host knows.
    Here,
}

impl World {
    /// Lets it happen.
    pub fn suffer(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::AgentDies(id) => {
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.agent.is_some()) {
                    host.agent = None;
                    self.tell(Some(id), || "the agent dies; machines run on".into());
                }
            }
            Fault::AgentEnds(id) => {
                if self.hosts.get(&id).is_some_and(|host| host.agent.is_some()) {
                    self.tell(Some(id), || "the agent ends; machines run on".into());
                    self.end_agent(id);
                }
            }
            Fault::AgentStarts(id) => {
                if self.hosts.get(&id).is_some_and(|host| host.on && host.agent.is_none()) {
                    self.tell(Some(id), || "the agent starts".into());
                    self.start_agent(id);
                }
            }
            Fault::PowerOff(id) => {
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.on) {
                    (host.on, host.agent) = (false, None);
                    host.shims.clear();
                    self.history.lost_power(id);
                    self.tell(Some(id), || "loses power".into());
                }
            }
            Fault::PowerOn(id) => {
                let gone = self.gone.contains(&id);
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| !host.on && !gone) {
                    (host.on, host.booted) = (true, now);
                    self.tell(Some(id), || "boots".into());
                    self.start_agent(id);
                }
            }
            Fault::QemuDies(id, which) => {
                if let Some(machine) = self.living(id, which) {
                    self.crash(id, &machine);
                }
            }
            Fault::ShimSilent(id, which, millis) => {
                if let Some(machine) = self.living(id, which) {
                    self.falls_silent(id, &machine, millis);
                }
            }
            Fault::Cut(sides) => {
                let left: Vec<String> =
                    sides.iter().filter(|(_, side)| **side == 0).map(|(id, _)| self.name(*id)).collect();
                self.tell(None, || format!("the network falls apart: {} | the rest", left.join(", ")));
                self.net.cut(sides);
            }
            Fault::Heal => {
                self.net.heal();
                self.tell(None, || "the network is whole".into());
            }
            Fault::Loss(percent) => {
                self.net.loss = percent;
                self.tell(None, || format!("{percent} % of all messages get lost"));
            }
            Fault::LogLost(id, session) => self.lose_log(id, session),
            Fault::ShareLost(id, session) => self.lose_share(id, session),
            Fault::DiskFull(id) => {
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.full = true;
                    host.disk.logs.values_mut().for_each(|log| log.closed = true);
                    self.tell(Some(id), || "the disk takes no files".into());
                }
            }
            Fault::DiskWell(id) => {
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.full) {
                    host.full = false;
                    self.tell(Some(id), || "the disk takes files again".into());
                }
            }
            Fault::Lies(id, session) => self.lie(id, session),
            Fault::Up(id, session, intent, replace, seen) => {
                if self.agent_mut(id).is_none() {
                    return self.tell(Some(id), || "up: no agent runs there".into());
                }
                let named = intent.named();
                let mut contents = Contents::default();
                for bytes in FILES.iter().filter(|bytes| named.contains(&Content::of(bytes))) {
                    contents.add(bytes);
                }
                if !self.quorums.contains_key(&session) {
                    return self.begin(id, session, Parcel { intent: *intent, contents });
                }
                let share = self.hosts.get(&id).and_then(|host| host.disk.shares.get(&session));
                let index = share.map(|share| share.generation.0).filter(|_| seen == Basis::Here);
                let request = Request::Up { session, intent, index, replace, contents, mandate: None };
                self.ask_coordinator(id, session, request, Asker::User("up".into()));
            }
            Fault::Wish(id, (session, machine), run) => {
                let request = Request::Wish { session, machine, run, mandate: None };
                self.ask_coordinator(id, session, request, Asker::User("wish".into()));
            }
            Fault::Down(id, session) => {
                self.ask_coordinator(
                    id,
                    session,
                    Request::Down { session, mandate: None },
                    Asker::User("down".into()),
                );
            }
            Fault::Joins(id) => self.join(id),
            Fault::Upgraded(id) => self.upgrade(id),
            Fault::Gone(id) => self.goes(id),
            Fault::AllIsWell => self.all_is_well(),
        }
    }

    /// Picks a living process of a host.
    fn living(&self, id: HostId, which: u64) -> Option<Key> {
        let shims = &self.hosts.get(&id)?.shims;
        let alive: Vec<_> = shims.iter().filter(|(_, p)| p.alive()).map(|(machine, _)| machine).collect();
        alive.get((which % alive.len().max(1) as u64) as usize).map(|machine| Key::clone(machine))
    }

    fn all_is_well(&mut self) {
        self.suffer(Fault::Heal);
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            self.suffer(Fault::DiskWell(id));
            self.suffer(Fault::PowerOn(id));
            self.suffer(Fault::AgentStarts(id));
            if let Some(agent) = self.agent_mut(id) {
                agent.lies = None;
            }
        }
    }

    /// Ends the agent for a moment, because nothing that it keeps open is lost under its hands.
    pub(super) fn restart(&mut self, id: HostId) {
        self.suffer(Fault::AgentDies(id));
        self.at(1_000, Fault::AgentStarts(id));
    }

    fn lose_log(&mut self, id: HostId, session: SessionId) {
        let Some(quorum) = self.quorums.get(&session) else { return };
        if !self.survives_without(id, session) {
            return;
        }
        // Nor in the moment in which only the log names the newest voters: nobody else could tell who they are.
        let written = self.hosts.get(&id).and_then(|host| host.disk.voices.get(&session));
        if !written.is_some_and(|voices| quorum.voters.values().all(|voter| voices.contains(voter))) {
            return;
        }
        let here = |host: &mut super::host::Host| host.disk.logs.remove(&session).is_some();
        if self.hosts.get_mut(&id).is_some_and(here) {
            self.tell(Some(id), || "loses its log".into());
            self.restart(id);
        }
    }

    fn lose_share(&mut self, id: HostId, session: SessionId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.disk.voices.remove(&session);
        if Arc::make_mut(&mut host.disk.shares).remove(&session).is_some() {
            host.disk.contents.remove(&session);
            self.history.share_gone(id, session);
            self.tell(Some(id), || "loses its share".into());
            self.restart(id);
        }
    }

    fn lie(&mut self, id: HostId, session: SessionId) {
        let believed = self.hosts.values().any(|host| {
            let agent = host.agent.as_ref();
            agent.is_some_and(|agent| agent.knowledge.voices(session).contains(&id))
        });
        // Who was asked for a log is about to be believed.
        let asked = self.hosts.get(&id).is_some_and(|host| host.disk.logs.contains_key(&session));
        let votes = asked
            || self.quorums.get(&session).is_some_and(|quorum| quorum.voters.values().any(|v| *v == id));
        let Some(state) = self.committed(session).cloned() else { return };
        let kept = self.hosts.values().any(|h| h.disk.voices.get(&session).is_some_and(|v| v.contains(&id)));
        if believed || votes || kept || self.agent_mut(id).is_none() {
            return;
        }
        self.tell(Some(id), || "lies".into());
        if let Some(agent) = self.agent_mut(id) {
            agent.lies = Some(session);
        }
        let others: Vec<HostId> = self.names.keys().copied().filter(|other| *other != id).collect();
        for to in others {
            if let Ok(share) = lead::share_for(Some(&state), to, May::ALL) {
                let share = Share { version: u64::MAX, machines: Vec::new(), ..share };
                self.call(id, to, Request::PutShare(Box::new(share)), For::Nobody);
            }
        }
    }

    /// Puts a fault at a moment from now.
    pub fn at(&mut self, millis: u64, fault: Fault) {
        self.after(millis, Event::Fault(fault));
    }
}

/// Runs the story of one seed.
pub fn story(seed: u64, rules: Rules, log: Option<Vec<String>>) -> (Vec<String>, Result<(), Violation>) {
    // A chance of its own, so that what goes wrong does not depend on how the world uses its own.
    let mut random = Random::new(seed ^ 0x5eed_0000);
    let count = random.between(3, 9);
    let names = ["nas", "attic", "laptop", "vps", "cellar", "desk", "pi", "tv", "garage"];
    let host = |name: &&str, random: &mut Random| {
        (name.parse().expect("a valid name"), random.between(2000, 6000), random.chance(30))
    };
    let mut hosts: Vec<_> = names.iter().take(count as usize).map(|name| host(name, &mut random)).collect();
    hosts[0].2 = true;
    let sessions = ["shop", "blog", "wiki"];
    let count = random.between(1, sessions.len() as u64) as usize;
    let mut world = World::new(seed, rules, &hosts, &sessions[..count]);
    world.log = log;
    let ids: Vec<HostId> = world.hosts.keys().copied().collect();
    let labels: Vec<SessionId> = world.labels.keys().copied().collect();
    for (session, id) in labels.into_iter().zip(ids.iter().cycle()) {
        let intent = Box::new(topology(&mut random));
        world.at(FIRST_MS, Fault::Up(*id, session, intent, Replace::default(), Basis::Anything));
    }
    trouble(&mut world, &mut random, &ids);
    world.draw_levels(seed, TROUBLE_MS);
    world.draw_gone(seed, TROUBLE_MS);
    let outcome = live(&mut world);
    (world.log.take().unwrap_or_default(), outcome)
}

/// Draws the trouble.
fn trouble(world: &mut World, random: &mut Random, ids: &[HostId]) {
    let sessions: Vec<SessionId> = world.labels.keys().copied().collect();
    for _ in 0..random.between(5, 16) {
        let at = random.between(FIRST_MS + 900, TROUBLE_MS);
        let lasts = random.between(200, 15_000);
        let (Some(id), Some(session)) = (random.pick(ids), random.pick(&sessions)) else { return };
        match random.between(0, 19) {
            0 | 1 => {
                let orderly = random.chance(40);
                world.at(at, if orderly { Fault::AgentEnds(id) } else { Fault::AgentDies(id) });
                world.at(at + lasts, Fault::AgentStarts(id));
            }
            2 | 3 => {
                world.at(at, Fault::PowerOff(id));
                world.at(at + lasts, Fault::PowerOn(id));
            }
            4 | 5 => world.at(at, Fault::QemuDies(id, random.draw())),
            6 | 7 => {
                let side = |id: &HostId| (*id, (random.draw() % 2) as u8);
                world.at(at, Fault::Cut(ids.iter().map(side).collect()));
                world.at(at + lasts, Fault::Heal);
            }
            8 => world.at(at, Fault::Loss(random.between(5, 40))),
            9 => {
                let machine = format!("web-{}", random.between(1, 3)).parse().expect("a valid machine");
                world.at(at, Fault::Wish(id, (session, machine), random.chance(60)));
            }
            11 => {
                let (which, silence) = (random.draw(), random.between(1_000, 60_000));
                world.at(at, Fault::ShimSilent(id, which, silence));
            }
            15 => world.at(at, Fault::LogLost(id, session)),
            16 => world.at(at, Fault::ShareLost(id, session)),
            17 => {
                world.at(at, Fault::DiskFull(id));
                world.at(at + lasts, Fault::DiskWell(id));
            }
            18 => world.at(at, Fault::Lies(id, session)),
            10 | 19 if random.chance(30) => world.at(at, Fault::Down(id, session)),
            _ => people(world, random, ids, (at, session, id)),
        }
    }
    world.at(TROUBLE_MS, Fault::AllIsWell);
    if let (Some(id), Some(session)) = (random.pick(ids), random.pick(&sessions)) {
        // Late enough that no later plan brings it a share anyway.
        let fault =
            if random.chance(50) { Fault::ShareLost(id, session) } else { Fault::LogLost(id, session) };
        world.at(TROUBLE_MS + 13_000, fault);
    }
    // A user who saw nothing of it tries once more, so that there is a plan at all.
    for session in sessions {
        let intent = Box::new(topology(random));
        world.at(TROUBLE_MS + 5_000, Fault::Up(ids[0], session, intent, Replace::all(), Basis::Anything));
    }
}

/// Somebody brings a session up; now and then two people do it at once.
fn people(
    world: &mut World,
    random: &mut Random,
    ids: &[HostId],
    (at, session, id): (u64, SessionId, HostId),
) {
    let replace = if random.chance(60) { Replace::all() } else { Replace::default() };
    let seen = if random.chance(40) { Basis::Here } else { Basis::Anything };
    world.at(at, Fault::Up(id, session, Box::new(topology(random)), replace.clone(), seen));
    if let Some(other) = random.pick(ids).filter(|_| random.chance(30)) {
        let intent = Box::new(topology(random));
        world.at(at + random.between(0, 300), Fault::Up(other, session, intent, replace, seen));
    }
}

fn live(world: &mut World) -> Result<(), Violation> {
    world.run_until(Moment(TROUBLE_MS + 16_000))?;
    // Starts of agents that were drawn late are over now; nothing dies any more.
    world.suffer(Fault::AllIsWell);
    let states = world.quorums.iter().filter_map(|(id, quorum)| Some((*id, quorum.committed.clone()?)));
    let stopped: Vec<Key> =
        states.flat_map(|(id, state)| state.stopped.clone().into_iter().map(move |m| (id, m))).collect();
    let first = world.hosts.keys().next().copied();
    for (machine, id) in stopped.into_iter().zip(first.into_iter().cycle()) {
        world.at(8_000, Fault::Wish(id, machine, true));
    }
    world.run_until(world.now.plus_ms(10_000))?;
    let healed = world.now;
    loop {
        let at = world.now.plus_ms(1_000);
        world.run_until(at)?;
        let waited = world.now.since_ms(healed);
        match world.settled() {
            Ok(()) => return Ok(()),
            Err(what) if waited >= REST_MS => return Err(Violation::Unsettled(waited / 1000, what)),
            Err(_) if waited >= SOFT_MS => {
                world.converged().map_err(|what| Violation::Stuck(waited / 1000, what))?
            }
            Err(_) => {}
        }
    }
}

/// All that files in the world can hold.
pub const FILES: [&[u8]; 4] = [b"", b"one", b"another", b"a third"];

/// Draws a topology: a database, some web machines that need it, perhaps workers that need those.
fn topology(random: &mut Random) -> Intent {
    let (mut groups, mut files) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |name: &str, count: u64, needs: &str, random: &mut Random| {
        let memory_mib = if random.chance(20) { 384 } else { 256 };
        let mut group = group(count as u32, memory_mib, needs);
        if random.chance(25) {
            group.setup.push("true".into());
        }
        if random.chance(40) {
            // Grows in place, and shrinks only to an empty disk.
            group.disk_mib = Some(100 * random.between(1, 4));
        }
        group.place.spread_host = random.chance(30);
        if random.chance(30) {
            group.egress = Egress::Internet;
        }
        for (number, bytes) in FILES.iter().enumerate().filter(|_| random.chance(30)) {
            let source = format!("{number}.txt");
            files.insert(source.clone(), Content::of(bytes));
            group.files.insert(format!("/etc/{number}"), FileSpec { source, mode: 0o644, owner: None });
        }
        groups.insert(name.parse::<Name>().expect("a valid name"), group);
    };
    add("db", 1, "", random);
    add("web", random.between(1, 4), "db", random);
    if random.chance(40) {
        add("app", random.between(1, 2), "web", random);
    }
    Intent {
        topology: Topology { session: "shop".parse().expect("a valid name"), groups },
        files,
        ssh_keys: BTreeMap::new(),
    }
}

/// Makes a group of machines with one checked service; `needs` is a list with commas.
pub fn group(count: u32, memory_mib: u64, needs: &str) -> Group {
    let ready = Ready { probe: Probe::Tcp, interval_ms: 2000, grace_ms: 60_000 };
    let service = Service { ready: Some(ready), ..Service::at(80) };
    let needs: BTreeSet<Name> = needs.split(',').filter_map(|name| name.parse().ok()).collect();
    Group {
        image: ImageRef::Named("tiny".into()),
        cpus: 1,
        memory_mib,
        disk_mib: None,
        count,
        role: None,
        needs,
        failover: Failover::Hold,
        restart: Restart::Always,
        place: Place::default(),
        setup: vec![],
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        ssh_keys: vec![],
        user: None,
        services: [("main".parse().expect("a valid name"), service)].into(),
        egress: Egress::None,
    }
}
