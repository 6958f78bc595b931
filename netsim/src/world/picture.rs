//! What a host of the world sees and tells: gathers what `proto::picture` takes in, and gossips what `proto::picture`
//! makes of it. That hosts fall silent is the world's; what follows from it is not decided here.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Digest, HostId, Name, SessionId},
    names::{DEFAULT_ZONE, Zone},
    picture::{Change, Images, Input, Member, Members, acks, inventory, readiness, told, zone},
    run::host as rules,
    session::{Accelerator, ImageFacts, Inventory},
    time::{Moment, Timestamp},
    trust::{May, Tombstone},
    wire::{
        api::MemberState,
        record::{Body, HeadRecord, HostRecord, ImageRecord, Reach, RecordKey},
    },
};

use super::{
    Message, World,
    host::{Agent, Host},
    invariants::Violation,
};

/// How long gossip hears a host after its last word: the model of its failure detector.
const HEARD_MS: u64 = 5_000;
/// When the one image of this world got its name.
const NAMED: Timestamp = Timestamp(1);

/// All that a host tells gossip.
pub type Bodies = BTreeMap<RecordKey, Body>;

/// What a host says about itself.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who says it.
    pub host: HostId,
    /// Newer words are greater.
    pub at: (u64, u64),
    /// The ended sessions that it knows of: statements, which go with every word.
    pub buried: BTreeSet<SessionId>,
    /// The hosts that it knows to be out, in the same way.
    pub out: BTreeSet<HostId>,
    /// What it says.
    pub bodies: Rc<Bodies>,
}

/// The one image of this world.
pub fn image() -> ImageFacts {
    ImageFacts { digest: Digest([1; 32]), size: 64 << 20, arch: "x86_64".into() }
}

impl Host {
    /// Tells whether gossip hears that host.
    fn hears(&self, other: HostId, now: Moment) -> bool {
        let heard = self.agent.as_ref().and_then(|agent| agent.heard.get(&other));
        other == self.id || heard.is_some_and(|at| now.since_ms(*at) < HEARD_MS)
    }

    /// Lets the agent's picture take in what has changed since it was looked at last.
    pub fn observe(&mut self, names: &BTreeMap<HostId, Name>, now: Moment) {
        let here = self.moment(now);
        let out = &self.disk.out;
        let names = names.iter().filter(|(id, _)| !out.contains(*id));
        let live: BTreeSet<HostId> =
            names.clone().map(|(id, _)| *id).filter(|id| self.hears(*id, now)).collect();
        let Some(agent) = &mut self.agent else { return };
        let fading = agent.silence.note(&live, here);
        let member = |(id, name): (&HostId, &Name)| {
            let state = MemberState::heard(live.contains(id), fading.contains(id));
            (
                *id,
                Member {
                    name: name.clone(),
                    state,
                    issuer: false,
                    may: May::ALL,
                    level: agent.level_of(*id),
                    way: None,
                },
            )
        };
        let members: Members = names.map(member).collect();
        if *agent.picture.members != members {
            agent.take_in(Input::Members(Arc::new(members)));
        }
        if agent.picture.out.len() != out.len() {
            agent.take_in(Input::Out(Arc::new(out.iter().map(|host| (*host, None)).collect())));
        }
        if !Arc::ptr_eq(&agent.picture.shares, &self.disk.shares) {
            agent.take_in(Input::Shares(self.disk.shares.clone()));
        }
        if self.disk.image == agent.picture.images.is_empty() {
            agent.take_in(Input::Images(Arc::new(images(self.disk.image))));
        }
        if !agent.news.is_empty() {
            let mut records = (*agent.picture.records).clone();
            for host in std::mem::take(&mut agent.news) {
                records.retain(|(of, _), _| *of != host);
                let said = agent.view.get(&host).into_iter().flat_map(|record| record.bodies.iter());
                records.extend(said.map(|(key, body)| ((host, key.clone()), body.clone())));
            }
            agent.take_in(Input::Records(Arc::new(records)));
        }
        let buried = self.disk.buried.iter();
        let ends: Vec<_> =
            buried.map(|of| Tombstone { session: *of, made: Timestamp(0), mandate: None }).collect();
        agent.ends.hear(ends.iter());
    }

    /// Gives what the host says of itself now.
    fn bodies(&self) -> Bodies {
        let Some(agent) = &self.agent else { return Bodies::new() };
        let mut bodies: Bodies = told::sessions(&agent.picture.reports).collect();
        bodies.insert(RecordKey::Host, Body::Host(self.host_record()));
        for (digest, image) in agent.picture.images.iter() {
            bodies.insert(RecordKey::Image(*digest), Body::Image(image.clone()));
        }
        let lies = agent.lies.map(|session| (session, lie(self.id)));
        for (session, head) in agent.heads.clone().into_iter().chain(lies) {
            bodies.insert(RecordKey::Head(session), Body::Head(head));
        }
        bodies.insert(RecordKey::Seen, Body::Seen(acks::seen(&agent.picture, &agent.ends)));
        bodies
    }

    fn host_record(&self) -> HostRecord {
        HostRecord {
            name: self.name.clone(),
            version: String::new(),
            reach: Reach::default(),
            arch: image().arch,
            accelerator: Some(Accelerator::Kvm),
            cpus: 4,
            memory_mib: self.memory_mib,
            disk_mib: 100_000,
            disk_kept_mib: 0,
            trouble: None,
            runs_machines: true,
            memory_used_mib: told::memory_used_mib(&self.disk.shares),
            tags: BTreeMap::new(),
            prefixes: Vec::new(),
            steady: true,
            issuer: false,
            tells_seen: true,
            level: self.level,
            published: BTreeMap::new(),
            lan: false,
            publishes: false,
        }
    }

    /// Gives the zone that this host answers from.
    pub fn zone(&self) -> Zone {
        let own = Zone { zone: DEFAULT_ZONE.into(), ..Zone::default() };
        self.agent.as_ref().map(|agent| zone::zone(&agent.picture, own)).unwrap_or_default()
    }
}

impl Agent {
    /// Lets the picture take one observation in, and remembers whose readers have to look.
    pub fn take_in(&mut self, input: Input) {
        self.changes.extend(self.picture.apply(input));
    }

    /// Gives what a host told of its level, as far as it was heard since the agent started.
    fn level_of(&self, host: HostId) -> Option<proto::level::Level> {
        match self.view.get(&host)?.bodies.get(&RecordKey::Host)? {
            Body::Host(record) => Some(record.level),
            _ => None,
        }
    }
}

impl World {
    /// Lets a host see what is so now.
    pub fn look(&mut self, id: HostId) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.observe(&self.names, self.now);
        }
    }

    /// Gives what the planner of a host is given.
    pub(super) fn inventory(&mut self, id: HostId, session: SessionId) -> Inventory {
        self.look(id);
        let agent = self.hosts.get(&id).and_then(|host| host.agent.as_ref());
        agent.map(|agent| inventory::inventory(&agent.picture, session)).unwrap_or_default()
    }

    /// Hears what a host says of itself.
    pub(super) fn hear(&mut self, id: HostId, record: Rc<Record>) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(agent) = &mut host.agent else { return };
        let known = agent.view.get(&record.host);
        if record.host == id || known.is_some_and(|known| known.at >= record.at) {
            return;
        }
        if known.is_none_or(|known| !Rc::ptr_eq(&known.bodies, &record.bodies)) {
            agent.news.insert(record.host);
        }
        host.disk.buried.extend(record.buried.iter().copied());
        host.disk.out.extend(record.out.iter().copied());
        agent.heard.insert(record.host, now);
        agent.view.insert(record.host, record);
    }

    /// Tells the machines of this host who is ready, and looks at what it answers, where something changed.
    pub(super) fn look_around(&mut self, id: HostId) -> Result<(), Violation> {
        let Some(agent) = self.agent_mut(id) else { return Ok(()) };
        let changes = std::mem::take(&mut agent.changes);
        if changes.is_empty() {
            return Ok(());
        }
        for change in changes {
            let Change::Session(session) = change else { continue };
            let Some(agent) = self.agent_mut(id) else { return Ok(()) };
            let Some(share) = agent.picture.share(session) else { continue };
            let ready = readiness::ready(&agent.picture, share);
            if agent.ready.get(&session) != Some(&ready) {
                agent.ready.insert(session, ready.clone());
                self.happen(id, session, rules::Event::Ready(ready));
            }
        }
        self.check_names(id)
    }

    /// Says what is so of this host.
    pub(super) fn say(&mut self, id: HostId) {
        self.look(id);
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(agent) = &host.agent else { return };
        let bodies = host.bodies();
        let said = agent.view.get(&id).map(|record| record.bodies.clone());
        let same = said.filter(|said| **said == bodies);
        let (at, buried) = ((host.disk.generation, agent.seq + 1), host.disk.buried.clone());
        let out = host.disk.out.clone();
        let Some(agent) = self.agent_mut(id) else { return };
        agent.seq += 1;
        if same.is_none() {
            agent.news.insert(id);
        }
        let bodies = same.unwrap_or_else(|| Rc::new(bodies));
        agent.view.insert(id, Rc::new(Record { host: id, at, buried, out, bodies }));
    }

    /// Says what is so of this host, and passes on what it heard, to three others.
    pub(super) fn publish(&mut self, id: HostId) {
        self.say(id);
        let Some(agent) = self.agent_mut(id) else { return };
        let all: Vec<Rc<Record>> = agent.view.values().cloned().collect();
        let others: Vec<HostId> = self.names.keys().copied().filter(|other| *other != id).collect();
        for _ in 0..3 {
            if let Some(to) = self.random.pick(&others) {
                self.send(id, to, Message::Gossip(all.clone()));
            }
        }
    }
}

fn images(complete: bool) -> Images {
    let image = image();
    let names = [("tiny".to_owned(), NAMED)].into();
    let record =
        ImageRecord { names, size: image.size, allocated: image.size, arch: image.arch, complete: true };
    complete.then_some((image.digest, record)).into_iter().collect()
}

/// What a host says that wants to be believed and has no right to.
fn lie(host: HostId) -> HeadRecord {
    HeadRecord {
        name: "shop".parse().expect("a valid name"),
        stamp: Timestamp(0),
        term: u64::MAX,
        recovery: u64::MAX,
        version: u64::MAX,
        generation: proto::id::Generation(u64::MAX),
        voters: vec![host],
        ended: false,
    }
}
