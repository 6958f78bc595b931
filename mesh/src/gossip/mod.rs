//! Gossip: what every host says about itself, in signed records, and who is alive. Carried by
//! chitchat behind this interface, so that nothing else knows chitchat's words.
//! Soft: liveness here is a hint and never starts or kills a machine.

mod carrier;
mod ledger;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use proto::{
    facts::Fact,
    firewall::{self, Firewall, GossipId},
    id::HostId,
    level::Feature,
    limits::MAX_RECORDS_PER_HOST,
    membership::{Opening, Pushes},
    reasons::{Code, GossipRefusal},
    seal::SignedRecord,
    time::Moment,
    wire::{
        Summary,
        record::{Body, HostRecord, RecordKey},
    },
};
use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::{
    disk,
    identity::Identity,
    members::roster::{Roll, Roster},
    transport::{inbound::Inlet, swarm::Streams},
};
use carrier::{Carrier, Entrance, OpenEntrance, Posts};
use ledger::Ledger;

pub use proto::picture::Records;

#[cfg(feature = "fuzz")]
pub(crate) use carrier::taste;

/// How often chitchat looks at the time. What it would say then is not sent: `Pushes` begins the exchanges that matter.
const INTERVAL: Duration = Duration::from_secs(30);
/// Who is there is watched by probes; this is a second opinion, after a minute: so many of the usual pauses between two
/// heartbeats.
const PHI: f64 = 8.0;
const USUAL_PAUSE: Duration = Duration::from_millis(7_500);
const WINDOW: usize = 100;
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// A connected host that said nothing for so long is not heard any more. It matters for those that answer no probes, which
/// speak twice a second.
const UNHEARD: Duration = Duration::from_secs(10);
/// How long chitchat keeps a dead host; deletions within it may be missed by others.
const DEAD_GRACE: Duration = Duration::from_secs(10 * 60);
/// How often the state is looked at besides when something came.
const LOOK: Duration = Duration::from_millis(500);
/// Between something new and the look at it.
const SETTLE: Duration = Duration::from_millis(10);
/// As long as nobody else is a member, nobody else changes it.
const LOOK_ALONE: Duration = Duration::from_secs(5);
/// Publications that wait; the publisher waits when there are more.
const PUBLISH_QUEUE: usize = 64;
/// Pause before chitchat is started again, so that a frame that kills it does not spin.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Gossip {
    publish: mpsc::Sender<(RecordKey, Option<Body>)>,
    live: watch::Receiver<BTreeSet<HostId>>,
    records: watch::Receiver<Arc<Records>>,
    #[cfg(test)]
    sent: Arc<std::sync::atomic::AtomicU64>,
}

impl Gossip {
    /// Tells how many bytes were sent.
    #[cfg(test)]
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Says something about this host, or withdraws it.
    pub(crate) async fn publish(&self, key: RecordKey, body: Option<Body>) {
        // Err only at shutdown, when nobody listens any more.
        self.publish.send((key, body)).await.ok();
    }

    /// Watches who is alive, this host not included.
    pub(crate) fn live(&self) -> watch::Receiver<BTreeSet<HostId>> {
        self.live.clone()
    }

    /// Watches the records.
    pub(crate) fn records(&self) -> watch::Receiver<Arc<Records>> {
        self.records.clone()
    }
}

/// Everything that the gossip task works with.
struct Task {
    identity: Identity,
    roster: Arc<Roster>,
    streams: Streams,
    posts: Posts,
    door: OpenEntrance,
    inbox: mpsc::Receiver<(RecordKey, Option<Body>)>,
    live: watch::Sender<BTreeSet<HostId>>,
    records: watch::Sender<Arc<Records>>,
    /// What this host says, signed anew at each start.
    own: BTreeMap<RecordKey, Option<Body>>,
    ledger: Ledger,
    /// When hosts spoke last, over their own connection.
    heard: BTreeMap<HostId, Moment>,
    /// With whom exchanges begin.
    pushes: Pushes,
    /// Woken when something new came in.
    news: Arc<Notify>,
    facts: broadcast::Sender<Fact>,
}

/// Builds the gossip; the future runs it until its handles are gone.
pub(crate) fn build(
    identity: Identity,
    roster: Arc<Roster>,
    streams: Streams,
    inlet: Inlet,
    facts: broadcast::Sender<Fact>,
) -> (Gossip, impl Future<Output = ()>) {
    let (publish, inbox) = mpsc::channel(PUBLISH_QUEUE);
    let (live_tx, live) = watch::channel(BTreeSet::new());
    let (records_tx, records) = watch::channel(Arc::default());
    let door = OpenEntrance::default();
    let receive = carrier::receive(inlet, identity.mesh, door.clone(), facts.clone());
    let posts = Posts::new(streams.clone());
    #[cfg(test)]
    let sent = posts.sent.clone();
    let task = Task {
        posts,
        ledger: Ledger::new(identity.mesh),
        identity,
        roster,
        streams,
        door,
        inbox,
        live: live_tx,
        records: records_tx,
        own: BTreeMap::new(),
        heard: BTreeMap::new(),
        pushes: Pushes::new(rand::random(), crate::Clock.moment()),
        news: Arc::default(),
        facts,
    };
    let run = async move {
        tokio::select! { // both run until the end; dropping either loses nothing that lasts
            () = receive => {}
            () = task.run() => {}
        }
    };
    let gossip = Gossip {
        publish,
        live,
        records,
        #[cfg(test)]
        sent,
    };
    (gossip, run)
}

/// Why one start of chitchat ended.
enum Ended {
    NobodyLeft,
    Died(String),
}

impl Task {
    async fn run(mut self) {
        loop {
            match self.run_once().await {
                Ended::NobodyLeft => return,
                Ended::Died(because) => {
                    tracing::error!(%because, "gossip ended; starting it again");
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
            }
        }
    }

    async fn run_once(&mut self) -> Ended {
        let generation = match next_generation(&self.identity) {
            Ok(generation) => generation,
            Err(error) => return Ended::Died(error.to_string()),
        };
        let mut roll = self.roster.watch();
        let handle = match self.start(generation).await {
            Ok(handle) => Running(handle),
            Err(error) => return Ended::Died(error.to_string()),
        };
        let mut voice = Voice { generation, seq: 0 };
        for (key, body) in &self.own {
            self.speak(&handle.0, &mut voice, key, body).await;
        }
        let ended = self.attend(&handle.0, &mut voice, &mut roll).await;
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ended
    }

    async fn start(&self, generation: u64) -> anyhow::Result<ChitchatHandle> {
        let me = GossipId::new(self.identity.mesh, self.identity.host(), generation);
        let (sender, inbox) = mpsc::channel(carrier::INBOX);
        let roll = self.roster.roll();
        self.posts.set_members(self.identity.mesh, &roll);
        let config = config(&me, firewall::cluster(self.identity.mesh));
        let firewall = Firewall::new(self.identity.mesh, me);
        let entrance = Entrance::new(firewall, sender, &roll, self.news.clone());
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(entrance);
        spawn_chitchat(config, Vec::new(), &Carrier::new(self.posts.clone(), inbox)).await
    }

    async fn attend(
        &mut self,
        handle: &ChitchatHandle,
        voice: &mut Voice,
        roll: &mut watch::Receiver<Arc<Roll>>,
    ) -> Ended {
        let mut connected = self.streams.connected();
        connected.mark_changed();
        let mut neighbours: BTreeSet<HostId> = BTreeSet::new();
        let mut look = tokio::time::interval(often(&roll.borrow()));
        let mut ended = std::pin::pin!(handle.termination_watcher());
        let news = self.news.clone();
        loop {
            let until_push = self.pushes.wake().since(crate::Clock.moment());
            // Cancel-safe: an interval, a sleep, watches, a receive, a wake-up; the watcher is polled in place.
            tokio::select! {
                _ = look.tick() => self.look(handle).await,
                () = tokio::time::sleep(until_push) => {
                    self.push(handle, &neighbours).await;
                    self.look(handle).await;
                }
                () = news.notified() => {
                    // Chitchat takes it in meanwhile, and what else comes.
                    tokio::time::sleep(SETTLE).await;
                    self.look(handle).await;
                }
                said = self.inbox.recv() => {
                    let Some((key, body)) = said else { return Ended::NobodyLeft };
                    self.say(handle, voice, key, body).await;
                    self.look(handle).await;
                }
                Ok(()) = connected.changed() => {
                    let now = connected.borrow_and_update().clone();
                    now.difference(&neighbours).for_each(|host| self.pushes.meets(*host));
                    neighbours = now;
                    self.push(handle, &neighbours).await;
                }
                Ok(()) = roll.changed() => {
                    let roll = roll.borrow_and_update().clone();
                    look = tokio::time::interval(often(&roll));
                    self.posts.set_members(self.identity.mesh, &roll);
                    if let Some(entrance) = self.door.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                        entrance.set_members(&roll);
                    }
                }
                result = &mut ended => {
                    return Ended::Died(result.err().map_or("stopped".to_owned(), |error| error.to_string()));
                }
            }
        }
    }

    /// Begins with those with whom it is time to.
    async fn push(&mut self, handle: &ChitchatHandle, neighbours: &BTreeSet<HostId>) {
        let present = self.live.borrow().union(neighbours).count() + 1;
        let ours = handle.with_chitchat(|chitchat| summary(chitchat)).await;
        for (host, opening) in self.pushes.due(neighbours, present, ours, crate::Clock.moment()) {
            let to = firewall::address(self.identity.mesh, host);
            match opening {
                Opening::Compare if self.reads_summaries(host) => self.posts.post(to, ours.encode()),
                _ => {
                    self.posts.begin(to);
                    // Err only when chitchat has ended, which the watcher tells.
                    handle.gossip(to).ok();
                }
            }
        }
    }

    fn reads_summaries(&self, host: HostId) -> bool {
        let record = self.records.borrow().get(&(host, RecordKey::Host)).cloned();
        matches!(record, Some(Body::Host(record)) if record.level.allows(Feature::Summary))
    }

    async fn say(&mut self, handle: &ChitchatHandle, voice: &mut Voice, key: RecordKey, body: Option<Body>) {
        if self.own.get(&key) == Some(&body) {
            return;
        }
        if self.own.len() >= MAX_RECORDS_PER_HOST && !self.own.contains_key(&key) {
            // A withdrawn key makes room only once all others have seen it go; a restart does.
            tracing::warn!(%key, "too many records of this host; not published");
            return;
        }
        self.speak(handle, voice, &key, &body).await;
        if is_urgent(self.own.get(&key).and_then(Option::as_ref), body.as_ref()) {
            self.pushes.said(crate::Clock.moment());
        }
        self.own.insert(key, body);
    }

    async fn speak(&self, handle: &ChitchatHandle, voice: &mut Voice, key: &RecordKey, body: &Option<Body>) {
        voice.seq += 1;
        let record = SignedRecord {
            mesh: self.identity.mesh,
            host: self.identity.host(),
            generation: voice.generation,
            seq: voice.seq,
            key: key.clone(),
            body: body.clone(),
        };
        match record.seal(&self.identity.seed) {
            Ok(text) => {
                let key = key.to_string();
                handle.with_chitchat(|chitchat| chitchat.self_node_state().set(&key, &text)).await;
            }
            Err(error) => {
                // Chitchat counts what is said, and what is signed is no further than that.
                voice.seq -= 1;
                tracing::warn!(%key, %error, "a record cannot be published");
            }
        }
    }

    /// Gives in which starts hosts spoke themselves, and what hosts told that they hold, since this was asked last.
    fn came(&self) -> (BTreeSet<(HostId, u64)>, BTreeMap<HostId, Summary>) {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.as_mut().map(|door| (door.take_spoken(), door.take_told())).unwrap_or_default()
    }

    async fn look(&mut self, handle: &ChitchatHandle) {
        let roll = self.roster.roll();
        let names: BTreeMap<String, HostId> =
            roll.members.keys().map(|host| (firewall::node_name(*host), *host)).collect();
        let me = self.identity.host();
        let now = crate::Clock.moment();
        let (spoken, held) = self.came();
        held.into_iter().for_each(|(host, theirs)| self.pushes.told(host, theirs, now));
        let ledger = &mut self.ledger;
        self.heard.retain(|host, at| roll.members.contains_key(host) && now.since(*at) < UNHEARD);
        self.heard.extend(spoken.iter().map(|(host, _)| (*host, now)));
        let (told, heard) = handle
            .with_chitchat(|chitchat| {
                (live(chitchat, &names, me), ledger.read(chitchat, &names, &spoken, now))
            })
            .await;
        if heard.changed {
            self.records.send_replace(Arc::new(self.ledger.records()));
        }
        if heard.is_urgent {
            self.pushes.heard(now);
        }
        for (host, refusal) in heard.refused {
            self.facts.send(refused(host, &refusal)).ok();
        }
        // Of whom is not connected others know best.
        let connected = self.streams.connected().borrow().clone();
        let far = told.into_iter().filter(|host| !connected.contains(host));
        let live = self.heard.keys().copied().chain(far).collect();
        self.live.send_if_modified(|old| {
            let changed = *old != live;
            *old = live;
            changed
        });
    }
}

/// Tells whether others may wait for what a host says now in the place of what it said before. How much disk is free
/// moves all the time, and nobody does.
fn is_urgent(before: Option<&Body>, now: Option<&Body>) -> bool {
    match (before, now) {
        (Some(Body::Host(before)), Some(Body::Host(now))) => {
            HostRecord { disk_mib: now.disk_mib, ..before.clone() } != *now
        }
        (before, now) => before != now,
    }
}

/// Gives the news that gossip of a member was refused.
fn refused(from: HostId, refusal: &GossipRefusal) -> Fact {
    let why = Code::of(refusal);
    Fact::GossipRefused { member: from.short(), because: why.text.clone(), why: Some(why) }
}

/// Ends chitchat's task with the one that attends to it.
struct Running(ChitchatHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Numbers the records of one start.
struct Voice {
    generation: u64,
    seq: u64,
}

fn live(chitchat: &Chitchat, names: &BTreeMap<String, HostId>, me: HostId) -> BTreeSet<HostId> {
    let hosts = chitchat.live_nodes().filter_map(|id| names.get(&*id.node_id).copied());
    hosts.filter(|host| *host != me).collect()
}

/// Sums up what is exchanged: chitchat says nothing any more of those whom it will forget.
fn summary(chitchat: &Chitchat) -> Summary {
    let ends: BTreeSet<&ChitchatId> = chitchat.scheduled_for_deletion_nodes().collect();
    let stays = chitchat.node_states().iter().filter(|(id, _)| !ends.contains(id));
    Summary::of(
        chitchat.self_chitchat_id().generation_id,
        stays.map(|(id, state)| (&*id.node_id, id.generation_id, state.max_version())),
    )
}

/// Gives how often the state is looked at.
fn often(roll: &Roll) -> Duration {
    if roll.members.len() > 1 { LOOK } else { LOOK_ALONE }
}

fn config(me: &GossipId, cluster_id: String) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(me.node.as_str(), me.generation, me.address),
        cluster_id,
        gossip_interval: INTERVAL,
        listen_addr: me.address,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::new(
            PHI,
            WINDOW,
            MAX_INTERVAL,
            USUAL_PAUSE,
            DEAD_GRACE,
        ),
        marked_for_deletion_grace_period: DEAD_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

/// Counts the starts on disk, so that no start is ever taken for an earlier one, whatever the clock.
fn next_generation(identity: &Identity) -> std::io::Result<u64> {
    let path: PathBuf = identity.data.join("mesh/generation");
    let stored = disk::read(&path)?.and_then(|bytes| String::from_utf8(bytes).ok());
    let stored: u64 = stored.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let next = (stored + 1).max(crate::Clock.timestamp().0);
    disk::replace(&path, format!("{next}\n").as_bytes())?;
    Ok(next)
}
