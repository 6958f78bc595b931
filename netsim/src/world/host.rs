//! One host of the world: what its disk keeps through anything, what its shims keep until the power
//! goes, what its agent knows until it ends. Facts only; what an agent does is in `agent`.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Epoch, HostId, MachineName, Name},
    names::{DEFAULT_ZONE, Zone},
    picture::{self, Acted, Member, Picture},
    session::{
        MachineReport, Share, State, order,
        reconcile::{self, Failed, Image, Observed, Seen, Settings, Shim},
    },
    time::Timestamp,
    wire::{
        api::MemberState,
        record::{Body, RecordKey, SessionRecord},
    },
};

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
    /// The agent, if it runs.
    pub agent: Option<Agent>,
    /// Its disk.
    pub disk: Disk,
    /// Shims with their QEMUs, and the ends they wrote down.
    pub shims: BTreeMap<MachineName, Process>,
}

/// What outlives everything.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The share, written before it is acted on.
    pub share: Option<Rc<Share>>,
    /// The Raft log's state, on voters.
    pub replica: Option<Rc<State>>,
    /// Whether the one image of this world is complete here.
    pub image: bool,
    /// Machines with a `launch.json` and a disk.
    pub launched: BTreeMap<MachineName, Settings>,
    /// Counts the agent's starts, so that newer records win.
    pub generation: u64,
}

/// A shim and its QEMU.
#[derive(Clone, Debug)]
pub struct Process {
    /// Tells processes of one machine apart.
    pub pid: u64,
    /// What it was launched with.
    pub settings: Settings,
    /// What it does.
    pub shim: Shim,
    /// From when until when the shim answers nobody; QEMU runs on.
    pub silent: Option<(Timestamp, Timestamp)>,
}

/// What an agent knows: gone when it ends.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// Tells agents of one host apart, so that work of a dead one never finishes.
    pub run: u64,
    /// The term in which it believes to lead.
    pub leading: Option<u64>,
    /// When it last knew of a living leader.
    pub led_at: Timestamp,
    /// First starts that the coordinator allowed.
    pub granted: BTreeMap<MachineName, Epoch>,
    /// Actions under way, by the work's number.
    pub busy: BTreeMap<MachineName, u64>,
    /// Actions that failed last.
    pub failed: BTreeMap<MachineName, Failed>,
    /// Ends in a row.
    pub ends: BTreeMap<MachineName, u32>,
    /// What hosts said, the newest word of each.
    pub view: BTreeMap<HostId, Rc<Record>>,
    /// When a newer word of each arrived.
    pub heard: BTreeMap<HostId, Timestamp>,
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
    /// Its machines.
    pub reports: Vec<MachineReport>,
    /// The version of its share.
    pub version: u64,
    /// If it leads: term and version of the hard state.
    pub head: Option<(u64, u64)>,
    /// Whether the image is complete there.
    pub image: bool,
}

impl Host {
    /// Gives the version of the share on the disk, 0 without one.
    pub fn version(&self) -> u64 {
        self.disk.share.as_ref().map_or(0, |share| share.version)
    }

    /// Tells whether the agent has heard that host lately.
    pub fn hears(&self, other: HostId, now: Timestamp) -> bool {
        let Some(agent) = &self.agent else { return false };
        other == self.id || agent.heard.get(&other).is_some_and(|at| now.since_ms(*at) < SILENT_MS)
    }

    /// Finds the coordinator by the newest head that was heard.
    pub fn coordinator(&self) -> Option<(HostId, u64)> {
        let agent = self.agent.as_ref()?;
        let own = agent.leading.map(|term| (term, self.id, u64::MAX));
        let heads = agent.view.values().filter_map(|r| r.head.map(|(term, version)| (term, r.host, version)));
        heads
            .filter(|(_, host, _)| *host != self.id)
            .chain(own)
            .max()
            .map(|(_, host, version)| (host, version))
    }

    /// Gives what this host knows, as its agent would put it together.
    pub fn picture(&self, names: &BTreeMap<HostId, Name>, now: Timestamp) -> Picture {
        let mut picture = Picture::new(self.id);
        let (Some(agent), Some(share)) = (&self.agent, &self.disk.share) else { return picture };
        let member = |(id, name): (&HostId, &Name)| {
            let state = if self.hears(*id, now) { MemberState::Up } else { MemberState::Down };
            (*id, Member { name: name.clone(), state, issuer: false, way: None })
        };
        picture.members = Arc::new(names.iter().map(member).collect());
        picture.shares = Arc::new([(share.session, Arc::new(Share::clone(share)))].into());
        let own = agent.view.get(&self.id).map(|record| {
            let acted = Acted { version: record.version, machines: record.reports.clone() };
            (share.session, acted)
        });
        picture.reports = Arc::new(own.into_iter().collect());
        let said = |(id, record): (&HostId, &Rc<Record>)| {
            let record = SessionRecord { version: record.version, machines: record.reports.clone() };
            ((*id, RecordKey::Session(share.session)), Body::Session(record))
        };
        picture.records = Arc::new(agent.view.iter().map(said).collect());
        picture
    }

    /// Gives the zone that this host answers from.
    pub fn zone(&self, names: &BTreeMap<HostId, Name>, now: Timestamp) -> Zone {
        picture::zone::zone(&self.picture(names, now), Zone { zone: DEFAULT_ZONE.into(), ..Zone::default() })
    }

    /// Gathers what `reconcile` asks for.
    pub fn observed(&self, ready: BTreeSet<MachineName>, now: Timestamp) -> Observed {
        let (Some(agent), Some(share)) = (&self.agent, &self.disk.share) else { return Observed::default() };
        let listed = share.machines.iter().map(|spec| &spec.machine);
        let dropped = share.drops.iter().map(|(machine, _)| machine);
        let machines = listed.chain(dropped).chain(self.disk.launched.keys());
        Observed { machines: machines.map(|m| (m.clone(), self.seen(agent, m, now))).collect(), ready }
    }

    fn seen(&self, agent: &Agent, machine: &MachineName, now: Timestamp) -> Seen {
        Seen {
            busy: agent.busy.contains_key(machine),
            image: if self.disk.image { Image::Complete } else { Image::Absent },
            launched: self.disk.launched.get(machine).copied(),
            shim: self.shims.get(machine).map(|process| process.seen(now)).unwrap_or_default(),
            ends: agent.ends.get(machine).copied().unwrap_or(0),
            granted: agent.granted.get(machine).copied(),
            failed: agent.failed.get(machine).cloned(),
        }
    }

    /// Says what each machine of the share is doing.
    pub fn reports(&self, observed: &Observed, now: Timestamp) -> Vec<MachineReport> {
        let Some(share) = &self.disk.share else { return Vec::new() };
        let unseen = Seen::default();
        let report = |spec: &proto::session::MachineSpec| {
            let waits = order::waits_for(&share.directory, &spec.machine, |m| observed.ready.contains(m));
            let seen = observed.machines.get(&spec.machine).unwrap_or(&unseen);
            let (phase, reason) = reconcile::phase(spec, seen, &waits, now);
            MachineReport { machine: spec.machine.clone(), epoch: spec.epoch, phase, reason }
        };
        share.machines.iter().map(report).collect()
    }
}

impl Process {
    /// Gives what an agent sees of it.
    pub fn seen(&self, now: Timestamp) -> Shim {
        match self.silent {
            Some((since, until)) if self.alive() && now < until => {
                Shim::Unseen { since, tried: since, because: "its shim does not answer".into() }
            }
            _ => self.shim.clone(),
        }
    }

    /// Tells whether QEMU may be running guest code.
    pub fn alive(&self) -> bool {
        matches!(self.shim, Shim::Starting { .. } | Shim::Running { .. })
    }
}
