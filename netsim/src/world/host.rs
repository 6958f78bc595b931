//! One host of the world: what its disk keeps through anything, what its shims keep until the power
//! goes, what its agent knows until it ends. Facts only; what an agent does is in `agent`.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Digest, HostId, MachineName, Name, SessionId},
    names::{DEFAULT_ZONE, Zone},
    picture::{self, Acted, Member, Picture},
    run::host::{self as rules, Ending, Life, Told},
    session::{
        MachineReport, Share, State,
        reconcile::{Settings, Setup},
    },
    time::{Moment, Timestamp},
    wire::{
        api::MemberState,
        record::{Body, RecordKey, SessionRecord},
    },
};

use super::{Key, coordinator::image};

/// How long a host may be silent before others call it down.
pub const SILENT_MS: u64 = 5_000;

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its key.
    pub id: HostId,
    /// Its label.
    pub name: Name,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether it has power.
    pub on: bool,
    /// When it booted; its own clock counts from there.
    pub booted: Moment,
    /// What it took for wall time when the world began: nothing that runs depends on it.
    pub wall: u64,
    /// The agent, if it runs.
    pub agent: Option<Agent>,
    /// Its disk.
    pub disk: Disk,
    /// Shims with their QEMUs, and the ends they wrote down.
    pub shims: BTreeMap<Key, Process>,
}

/// What outlives everything.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The shares, written before they are acted on.
    pub shares: BTreeMap<SessionId, Arc<Share>>,
    /// The state of each Raft log, on voters.
    pub replicas: BTreeMap<SessionId, Rc<State>>,
    /// Whether the one image of this world is complete here.
    pub image: bool,
    /// Machines with a `launch.json` and a disk.
    pub launched: BTreeMap<Key, Settings>,
    /// Counts the agent's starts, so that newer records win.
    pub generation: u64,
}

/// A shim and its QEMU.
#[derive(Clone, Debug)]
pub struct Process {
    /// Tells processes apart.
    pub pid: u64,
    /// What it was launched with.
    pub settings: Settings,
    /// Since when the guest runs, by the host's own clock.
    pub began: Option<Moment>,
    /// Whether the guest answers.
    pub booted: bool,
    /// Whether its services answer.
    pub ready: bool,
    /// How it ended.
    pub ended: Option<Ending>,
    /// From when until when the shim answers nobody; QEMU runs on.
    pub silent: Option<(Moment, Moment)>,
}

/// What an agent knows: gone when it ends.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// Tells agents of one host apart, so that work of a dead one never finishes.
    pub run: u64,
    /// The term in which it believes to lead a session.
    pub leading: BTreeMap<SessionId, u64>,
    /// When it last knew of a living leader; never = since it started.
    pub led_at: BTreeMap<SessionId, Moment>,
    /// When it started.
    pub since: Moment,
    /// What it does next in each session.
    pub machines: BTreeMap<SessionId, rules::Host>,
    /// When each of these wants to be woken, by the host's own clock.
    pub wake: BTreeMap<SessionId, Moment>,
    /// Shims that it listens to.
    pub watched: BTreeSet<Key>,
    /// Orders that wait for the coordinator's answer.
    pub asked: BTreeMap<Key, u64>,
    /// What it says of its own machines, and of which version of the share.
    pub reports: BTreeMap<SessionId, (u64, Vec<MachineReport>)>,
    /// Who is ready, as far as it was looked at.
    pub ready: BTreeMap<SessionId, BTreeSet<MachineName>>,
    /// Whether it was told to end.
    pub ending: bool,
    /// What hosts said, the newest word of each.
    pub view: BTreeMap<HostId, Rc<Record>>,
    /// When a newer word of each arrived.
    pub heard: BTreeMap<HostId, Moment>,
    /// Counts its own words.
    pub seq: u64,
    /// Hosts that it heard once and does not hear now.
    pub lost: BTreeSet<HostId>,
}

/// What a host says about itself.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who says it.
    pub host: HostId,
    /// Newer words are greater.
    pub at: (u64, u64),
    /// Its word on each session that it has a share of, or leads.
    pub sessions: BTreeMap<SessionId, Word>,
    /// Whether the image is complete there.
    pub image: bool,
}

/// What a host says about itself in one session.
#[derive(Clone, Debug, Default)]
pub struct Word {
    /// Its machines.
    pub reports: Vec<MachineReport>,
    /// The version of its share.
    pub version: u64,
    /// If it leads: term and version of the hard state.
    pub head: Option<(u64, u64)>,
    /// Memory that its machines take, in MiB.
    pub memory_mib: u64,
}

impl Host {
    /// Gives the version of a session's share on the disk, 0 without one.
    pub fn version(&self, session: SessionId) -> u64 {
        self.disk.shares.get(&session).map_or(0, |share| share.version)
    }

    /// Tells whether the agent has heard that host lately.
    pub fn hears(&self, other: HostId, now: Moment) -> bool {
        let Some(agent) = &self.agent else { return false };
        other == self.id || agent.heard.get(&other).is_some_and(|at| now.since_ms(*at) < SILENT_MS)
    }

    /// Finds a session's coordinator by the newest head that was heard.
    pub fn coordinator(&self, session: SessionId) -> Option<(HostId, u64)> {
        let agent = self.agent.as_ref()?;
        let own = agent.leading.get(&session).map(|term| (*term, self.id, u64::MAX));
        let head = |r: &Rc<Record>| {
            let (term, version) = r.sessions.get(&session)?.head?;
            Some((term, r.host, version))
        };
        let heads = agent.view.values().filter_map(head);
        heads
            .filter(|(_, host, _)| *host != self.id)
            .chain(own)
            .max()
            .map(|(_, host, version)| (host, version))
    }

    /// Gives what this host knows, as its agent would put it together.
    pub fn picture(&self, names: &BTreeMap<HostId, Name>, now: Moment) -> Picture {
        let mut picture = Picture::new(self.id);
        let Some(agent) = &self.agent else { return picture };
        let member = |(id, name): (&HostId, &Name)| {
            let state = if self.hears(*id, now) { MemberState::Up } else { MemberState::Down };
            (*id, Member { name: name.clone(), state, issuer: false, way: None })
        };
        picture.members = Arc::new(names.iter().map(member).collect());
        picture.shares = Arc::new(self.disk.shares.clone());
        let own = agent.view.get(&self.id).into_iter().flat_map(|record| &record.sessions);
        let acted = |word: &Word| Acted { version: word.version, machines: word.reports.clone() };
        picture.reports = Arc::new(own.map(|(session, word)| (*session, acted(word))).collect());
        let others = agent.view.iter().filter(|(id, _)| **id != self.id);
        let said = others.flat_map(|(id, record)| {
            record.sessions.iter().map(|(session, word)| {
                let record = SessionRecord { version: word.version, machines: word.reports.clone() };
                ((*id, RecordKey::Session(*session)), Body::Session(record))
            })
        });
        picture.records = Arc::new(said.collect());
        picture
    }

    /// Gives the zone that this host answers from.
    pub fn zone(&self, names: &BTreeMap<HostId, Name>, now: Moment) -> Zone {
        picture::zone::zone(&self.picture(names, now), Zone { zone: DEFAULT_ZONE.into(), ..Zone::default() })
    }

    /// Gives the moment on the host's own clock, which counts from its boot.
    pub fn moment(&self, now: Moment) -> Moment {
        Moment(now.since_ms(self.booted))
    }

    /// Gives what the host takes for wall time.
    pub fn wall(&self, now: Moment) -> Timestamp {
        Timestamp(self.wall.saturating_add(now.0))
    }

    /// Lists the images that are complete here.
    pub fn images(&self) -> BTreeSet<Digest> {
        self.disk.image.then(|| image().digest).into_iter().collect()
    }
}

impl Process {
    /// Begins a process that prepares QEMU.
    pub fn new(pid: u64, settings: Settings) -> Process {
        Process { pid, settings, began: None, booted: false, ready: false, ended: None, silent: None }
    }

    /// Gives what it says of itself.
    pub fn told(&self) -> Told {
        Told {
            life: Life(self.pid),
            runs: self.began.is_some(),
            began: self.began,
            booted: self.booted,
            setup: Setup::Done,
            paused: None,
            ended: self.ended.clone(),
        }
    }

    /// Tells whether its shim answers nobody although it lives.
    pub fn is_silent(&self, now: Moment) -> bool {
        self.alive() && self.silent.is_some_and(|(since, until)| since <= now && now < until)
    }

    /// Tells whether QEMU may be running guest code.
    pub fn alive(&self) -> bool {
        self.ended.is_none()
    }
}
