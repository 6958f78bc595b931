//! One host of the world: what its disk keeps through anything, what its shims keep until the power
//! goes, what its agent knows until it ends. Facts only; what an agent does is in `agent`.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Digest, Generation, HostId, MachineName, Name, SessionId},
    level::Level,
    membership::Silence,
    picture::{Change, Picture, Shares, acks::Ends},
    run::{
        host::{self as rules, Ending, Life, Told},
        knowledge::{Knowledge, View, route},
        lead::{Lead, Overview},
    },
    session::reconcile::{Action, Settings, Setup},
    time::{Moment, Timestamp},
    topology::Content,
    wire::record::HeadRecord,
};

use super::{
    Key,
    calls::{For, Routed},
    coordinator::Asked as Question,
    picture::{Record, image},
    quorum::Log,
};

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its key.
    pub id: HostId,
    /// Its label.
    pub name: Name,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What its program understands; an upgrade raises it while the agent is down.
    pub level: Level,
    /// Whether it has power.
    pub on: bool,
    /// Whether its disk takes no files.
    pub full: bool,
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
    pub shares: Arc<Shares>,
    /// Who is believed in each session.
    pub voices: BTreeMap<SessionId, BTreeSet<HostId>>,
    /// The bytes that shares name.
    pub contents: BTreeMap<SessionId, BTreeSet<Content>>,
    /// The Raft logs.
    pub logs: BTreeMap<SessionId, Log>,
    /// The statements that a session has ended and nothing of it is left.
    pub buried: BTreeSet<SessionId>,
    /// The statements that hosts are out of the mesh.
    pub out: BTreeSet<HostId>,
    /// Whether the one image of this world is complete here.
    pub image: bool,
    /// Machines with a `launch` and a disk.
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
#[derive(Clone, Debug)]
pub struct Agent {
    /// Tells agents of one host apart, so that work of a dead one never finishes.
    pub run: u64,
    /// The term in which it believes to lead a session.
    pub leading: BTreeMap<SessionId, u64>,
    /// When it last knew of a living leader; never = since it started.
    pub led_at: BTreeMap<SessionId, Moment>,
    /// The leader of each session whose log is here, if one is known.
    pub leaders: BTreeMap<SessionId, HostId>,
    /// When it started.
    pub since: Moment,
    /// What it knows of sessions.
    pub knowledge: Knowledge,
    /// What that looked at last.
    pub seen_view: Option<View>,
    /// The machines beside its logs.
    pub leads: BTreeMap<SessionId, Lead>,
    /// What those looked at last.
    pub seen: BTreeMap<SessionId, Overview>,
    /// What it tells gossip of sessions that it leads.
    pub heads: BTreeMap<SessionId, HeadRecord>,
    /// A session of which it says that it leads it, although it does not.
    pub lies: Option<SessionId>,
    /// When it looks again at its logs and at what it knows, by the host's own clock.
    pub looks: BTreeMap<Option<SessionId>, Moment>,
    /// Its questions to other agents.
    pub calls: BTreeMap<u64, (HostId, For)>,
    /// Its questions on their way to coordinators.
    pub routes: BTreeMap<u64, Routed>,
    /// Questions of others that its knowledge will answer.
    pub tickets: BTreeMap<u64, (HostId, u64)>,
    /// Questions of others that it answers as a coordinator.
    pub questions: BTreeMap<u64, Question>,
    /// Plans that people were told of.
    pub told: BTreeSet<(u64, Option<Generation>)>,
    /// Sessions whose machines were told that they are buried.
    pub told_buried: BTreeSet<SessionId>,
    /// What it does next in each session.
    pub machines: BTreeMap<SessionId, rules::Host>,
    /// When each of these wants to be woken, by the host's own clock.
    pub wake: BTreeMap<SessionId, Moment>,
    /// Shims that it listens to.
    pub watched: BTreeSet<Key>,
    /// Orders that wait for the coordinator's answer, and for which incarnation.
    pub asked: BTreeMap<Key, (u64, Action)>,
    /// What it sees; taken in by `observe`.
    pub picture: Picture,
    /// Whose readers have not looked yet.
    pub changes: BTreeSet<Change>,
    /// Hosts whose words the picture has not taken in yet.
    pub news: BTreeSet<HostId>,
    /// Who was heard until a moment ago.
    pub silence: Silence,
    /// The ends of sessions that it heard of.
    pub ends: Ends,
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

impl Agent {
    /// An agent that has just started and knows what is on its disk.
    pub fn new(run: u64, since: Moment, knowledge: Knowledge, picture: Picture) -> Agent {
        Agent {
            run,
            leading: BTreeMap::new(),
            led_at: BTreeMap::new(),
            leaders: BTreeMap::new(),
            since,
            knowledge,
            seen_view: None,
            leads: BTreeMap::new(),
            seen: BTreeMap::new(),
            heads: BTreeMap::new(),
            lies: None,
            looks: BTreeMap::new(),
            calls: BTreeMap::new(),
            routes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            questions: BTreeMap::new(),
            told: BTreeSet::new(),
            told_buried: BTreeSet::new(),
            machines: BTreeMap::new(),
            wake: BTreeMap::new(),
            watched: BTreeSet::new(),
            asked: BTreeMap::new(),
            picture,
            changes: BTreeSet::new(),
            news: BTreeSet::new(),
            silence: Silence::default(),
            ends: Ends::default(),
            ready: BTreeMap::new(),
            ending: false,
            view: BTreeMap::new(),
            heard: BTreeMap::new(),
            seq: 0,
            lost: BTreeSet::new(),
        }
    }
}

impl Host {
    /// Gives the version of a session's share on the disk, 0 without one.
    pub fn version(&self, session: SessionId) -> u64 {
        self.disk.shares.get(&session).map_or(0, |share| share.version)
    }

    /// Names the coordinator of a session as far as this host can tell.
    pub fn coordinator(&self, session: SessionId) -> Option<HostId> {
        let agent = self.agent.as_ref()?;
        let led = agent.leaders.get(&session).copied();
        route::coordinator(led, agent.knowledge.head(session).map(|(host, _)| host))
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
            v6: self.booted,
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
