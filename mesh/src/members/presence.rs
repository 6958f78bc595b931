//! The shell of `proto::liveness`: carries beats, which are datagrams on the connections that are there, signs this
//! host's words and checks others', and tells who is there. Nothing is decided here.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use proto::{
    facts::Fact,
    id::HostId,
    level::Feature,
    liveness::{Beat, Effect, Event, Liveness, Presence, Signed, Testimony},
    time::Moment,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    MeshError,
    clock::Clock,
    disk,
    gossip::Gossip,
    identity::Identity,
    members::{roster::Roster, view::host_record},
    transport::{carrier::Datagrams, gate::Gate, swarm::Streams},
};

/// A goodbye is a datagram; those who do not hear it miss this host a second later.
const GOODBYE: Duration = Duration::from_millis(50);

/// What is seen of those members that answer probes.
pub(crate) type Presences = BTreeMap<HostId, Presence>;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Observing {
    presences: watch::Receiver<Arc<Presences>>,
    single: watch::Receiver<bool>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
}

impl Observing {
    /// Watches who is there.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Presences>> {
        self.presences.clone()
    }

    /// Waits until it is as sure as can be that no other computer runs as this host, by a copy of its data directory:
    /// whoever it met would have told it. Gives `false` when it ends before.
    pub(crate) async fn is_single(&self) -> bool {
        self.single.clone().wait_for(|single| *single).await.is_ok()
    }

    /// Tells everybody that this host stops.
    pub(crate) async fn leave(&self) {
        let (said, heard) = oneshot::channel();
        // Err only when the task has ended.
        if self.leave.send(said).await.is_ok() && heard.await.is_ok() {
            tokio::time::sleep(GOODBYE).await;
        }
    }
}

struct Observer {
    identity: Identity,
    roster: Arc<Roster>,
    gate: Gate,
    streams: Streams,
    gossip: Gossip,
    beats: Datagrams,
    /// Of whom something came, whatever it was.
    heard: mpsc::Receiver<BTreeSet<HostId>>,
    leaving: mpsc::Receiver<oneshot::Sender<()>>,
    machine: Liveness,
    members: BTreeSet<HostId>,
    told: BTreeSet<HostId>,
    presences: watch::Sender<Arc<Presences>>,
    facts: broadcast::Sender<Fact>,
    /// Whether this host may take itself for the only one.
    single: watch::Sender<bool>,
    /// It has to stop.
    stands_down: bool,
}

/// Builds the observer of others; the future runs it until the mesh ends.
pub(crate) fn build(
    identity: Identity,
    (roster, gate): (Arc<Roster>, Gate),
    (streams, gossip): (Streams, Gossip),
    (beats, heard): (Datagrams, mpsc::Receiver<BTreeSet<HostId>>),
    facts: broadcast::Sender<Fact>,
) -> (Observing, impl Future<Output = MeshError>) {
    let (presences, seen) = watch::channel(Arc::default());
    let (leave, leaving) = mpsc::channel(1);
    let me = (identity.mesh, identity.host());
    let (before, now) = (last_start(&identity), Clock.moment());
    let mut machine = Liveness::new(me, start_after(before), rand::random(), now);
    // Of a directory that never ran there is no copy that does, and who is alone has nobody who would tell.
    let asks = before.is_some() && roster.roll().members.len() > 1;
    if asks {
        machine = machine.asking(now);
    }
    let (single, is_single) = watch::channel(!asks);
    let (members, told) = (BTreeSet::new(), BTreeSet::new());
    let observer = Observer {
        identity,
        roster,
        gate,
        streams,
        gossip,
        beats,
        heard,
        leaving,
        machine,
        members,
        told,
        presences,
        facts,
        single,
        stands_down: false,
    };
    (Observing { presences: seen, single: is_single, leave }, observer.run())
}

impl Observer {
    async fn run(mut self) -> MeshError {
        let mut roll = self.roster.watch();
        let mut records = self.gossip.records();
        let mut connected = self.streams.connected();
        self.arrange();
        while !self.stands_down {
            // Cancel-safe: channels, watches and a timer. What came in is heard before time passes: a host that was
            // late itself would miss what waits for it. Each connection brings a few beats a second only, and looks are four.
            tokio::select! {
                biased;
                datagram = self.beats.recv() => match datagram {
                    Some((from, bytes)) => self.hear(from, &bytes),
                    None => return MeshError::Ended("observer"),
                },
                heard = self.heard.recv() => match heard {
                    Some(hosts) => self.happen(Event::Heard(hosts)),
                    None => return MeshError::Ended("observer"),
                },
                result = connected.changed() => {
                    if result.is_err() { return MeshError::Ended("observer") }
                    let connected = connected.borrow_and_update().clone();
                    self.happen(Event::Connected(connected));
                }
                result = roll.changed() => {
                    if result.is_err() { return MeshError::Ended("observer") }
                    roll.mark_unchanged();
                    self.arrange();
                }
                result = records.changed() => {
                    if result.is_err() { return MeshError::Ended("observer") }
                    records.mark_unchanged();
                    self.arrange();
                }
                Some(said) = self.leaving.recv() => {
                    self.happen(Event::Stop);
                    // Err only when nobody waits for it any more.
                    said.send(()).ok();
                }
                () = until(self.machine.next()) => self.happen(Event::Time),
            }
        }
        MeshError::Twice
    }

    /// Tells the machine who answers probes, and of whom gossip holds something. Hosts whose level is not known are
    /// taken for such as answer; those of before are judged by gossip.
    fn arrange(&mut self) {
        let (roll, records) = (self.roster.roll(), self.gossip.records().borrow().clone());
        let hosts = || roll.members.keys().copied();
        let answers = |host: &HostId| {
            let record = host_record(&records, *host);
            *host == self.identity.host() || record.is_none_or(|record| record.level.allows(Feature::Probes))
        };
        let members: BTreeSet<HostId> = hosts().filter(answers).collect();
        let told: BTreeSet<HostId> = hosts().filter(|host| host_record(&records, *host).is_some()).collect();
        if self.members != members {
            self.members.clone_from(&members);
            self.happen(Event::Members(members));
        }
        if self.told != told {
            self.told.clone_from(&told);
            self.happen(Event::Told(told));
        }
    }

    fn hear(&mut self, from: HostId, bytes: &[u8]) {
        // Of a later version, or no beat: nothing that this host could do about it.
        let Ok(beat) = Beat::decode(bytes) else { return };
        if let Beat::Testimony(bytes) = &beat {
            let (machine, now) = (&self.machine, Clock.moment());
            let wanted = |testimony: &Testimony| machine.wants(&from, testimony, now);
            match Signed::open(bytes, self.identity.mesh, wanted) {
                Ok(Some(signed)) => self.happen(Event::Word(from, signed)),
                Ok(None) => {}
                Err(error) => tracing::debug!(host = %from.short(), %error, "a word is not believed"),
            }
        }
        self.happen(Event::Beat(from, beat));
    }

    fn happen(&mut self, event: Event) {
        let mut turned = BTreeMap::new();
        for effect in self.machine.on(event, Clock.moment()) {
            match effect {
                Effect::Send(to, beat) => self.send(&beat, &[to]),
                Effect::Testify(testimony, to) => {
                    let signed = testimony.sign(&self.identity.seed);
                    self.send(&Beat::Testimony(signed.bytes), &to);
                }
                Effect::Pass(signed, to) => self.pass(signed, &to),
                Effect::Twice(host) => self.tell_twice(host),
                Effect::Raise(start) => self.keep_start(start),
                Effect::Single => drop(self.single.send_replace(true)),
                Effect::StandDown => self.stands_down = true,
                Effect::Turn(host, presence) => drop(turned.insert(host, presence)),
            }
        }
        let members = &self.members;
        if turned.is_empty() && self.presences.borrow().keys().eq(members) {
            return;
        }
        self.presences.send_if_modified(|seen| {
            let mut new = (**seen).clone();
            new.extend(turned);
            new.retain(|host, _| members.contains(host));
            for host in members {
                new.entry(*host).or_insert(Presence::Down);
            }
            let changed = **seen != new;
            if changed {
                *seen = Arc::new(new);
            }
            changed
        });
    }

    fn pass(&self, signed: Signed, to: &[HostId]) {
        let about = signed.testimony.about;
        let bytes = Bytes::from(Beat::Testimony(signed.bytes).encode());
        for host in to {
            match *host == about {
                // Two computers may run as it: each has connections of its own.
                true => self.gate.send_to_all(host, &bytes),
                false => self.gate.send(host, &bytes),
            }
        }
    }

    /// Keeps the start in which this host speaks, so that the next one is later.
    fn keep_start(&self, start: u64) {
        let path = self.identity.data.join("mesh/generation");
        if let Err(error) = disk::replace(&path, format!("{start}\n").as_bytes()) {
            tracing::warn!(%error, "the number of this start is not kept");
        }
    }

    fn tell_twice(&self, host: HostId) {
        if let Some(member) = self.roster.roll().members.get(&host) {
            let member = member.name.clone();
            tracing::error!(%member, "two computers run as it: its data directory was copied");
            // Nobody listening is no error.
            self.facts.send(Fact::MemberTwice { member }).ok();
        }
    }

    fn send(&self, beat: &Beat, to: &[HostId]) {
        let bytes = Bytes::from(beat.encode());
        for host in to {
            self.gate.send(host, &bytes);
        }
    }
}

/// Gives the number of the last start: gossip counts them on disk, and begins this one later.
fn last_start(identity: &Identity) -> Option<u64> {
    let stored = disk::read(&identity.data.join("mesh/generation")).ok().flatten()?;
    String::from_utf8(stored).ok()?.trim().parse().ok()
}

/// Gives a number that is higher at each start, whatever the clock says.
fn start_after(last: Option<u64>) -> u64 {
    last.map_or(0, |last| last.saturating_add(1)).max(Clock.timestamp().0)
}

async fn until(due: Option<Moment>) {
    match due {
        Some(due) => Clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}
