//! One host of the world: what its disk keeps through anything, what its shims keep until the power
//! goes, what its agent knows until it ends. Facts only; what an agent does is in `agent`.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use proto::{
    id::{Epoch, HostId, MachineName, Name, SessionId},
    names::{DEFAULT_ZONE, HostEntry, SessionEntry, Zone},
    session::{
        MachineReport, Share, State, order,
        reconcile::{self, Failed, Image, Observed, Seen, Settings, Shim},
    },
    time::Moment,
};

use super::Key;

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
    pub shims: BTreeMap<Key, Process>,
}

/// What outlives everything.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The shares, written before they are acted on.
    pub shares: BTreeMap<SessionId, Rc<Share>>,
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
    /// Tells processes of one machine apart.
    pub pid: u64,
    /// What it was launched with.
    pub settings: Settings,
    /// What it does.
    pub shim: Shim,
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
    /// First starts that the coordinator allowed.
    pub granted: BTreeMap<Key, Epoch>,
    /// Actions under way, by the work's number.
    pub busy: BTreeMap<Key, u64>,
    /// Actions that failed last.
    pub failed: BTreeMap<Key, Failed>,
    /// Ends in a row.
    pub ends: BTreeMap<Key, u32>,
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

    /// Builds the zone that this host answers from.
    pub fn zone(&self, names: &BTreeMap<HostId, Name>, now: Moment) -> Zone {
        let mut zone = Zone { zone: DEFAULT_ZONE.into(), ..Zone::default() };
        let Some(agent) = &self.agent else { return zone };
        for share in self.disk.shares.values() {
            zone.sessions.insert(share.session, SessionEntry::of(share));
        }
        for (id, name) in names {
            let up = self.hears(*id, now);
            zone.hosts
                .insert(*id, HostEntry { name: name.clone(), up, addresses: vec![], same_computer: false });
        }
        for (id, record) in &agent.view {
            for (session, word) in &record.sessions {
                zone.reports.insert((*id, *session), word.reports.clone());
            }
        }
        zone
    }

    /// Gathers what `reconcile` asks for.
    pub fn observed(&self, share: &Share, ready: BTreeSet<MachineName>, now: Moment) -> Observed {
        let Some(agent) = &self.agent else { return Observed::default() };
        let here = |(of, machine): &'_ Key| (*of == share.session).then(|| machine.clone());
        let listed = share.machines.iter().map(|spec| &spec.machine);
        let dropped = share.drops.iter().map(|(machine, _)| machine);
        let launched = self.disk.launched.keys().filter_map(here);
        let machines = listed.chain(dropped).cloned().chain(launched);
        let seen = |m: MachineName| (m.clone(), self.seen(agent, &(share.session, m), now));
        Observed { machines: machines.map(seen).collect(), ready }
    }

    fn seen(&self, agent: &Agent, machine: &Key, now: Moment) -> Seen {
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
    pub fn reports(&self, share: &Share, observed: &Observed, now: Moment) -> Vec<MachineReport> {
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
    pub fn seen(&self, now: Moment) -> Shim {
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
