//! The loop that keeps this host in its mesh: dials members, spreads statements, feeds iroh with
//! addresses and relays, publishes the host record, remembers addresses, and tells what it sees.
//! Each change of an input leads through the same steps; nothing here is remembered but back-offs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use iroh::{Endpoint, RelayUrl, Watcher};
use proto::{
    facts::Fact,
    id::HostId,
    limits::MAX_RPC_BYTES,
    time::Timestamp,
    trust::Statement,
    wire::{
        record::{Body, HostRecord, Reach, RecordKey, RelayOffer},
        rpc::{Answer, Request},
    },
};
use tokio::sync::{broadcast, mpsc, watch};

use crate::{
    gossip::{Gossip, Records},
    identity::Identity,
    members::{
        roster::{self, Roster, SayError},
        view as members,
        view::{Members, Sources},
    },
    reach::{
        addresses::Interfaces,
        book::{Book, Hint},
        deaf::Hearing,
        describe as reach,
        dialer::Dialer,
        interfaces::interfaces,
        path::{Path, PathKind},
        relays::Relays,
    },
    transport::{
        gate::Gate,
        rpc::{self, Exchange},
        swarm::Streams,
    },
};

/// How often dials, paths and the home relay are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often certificates are renewed and hosts promoted, and statements compared with everybody.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Statements that arrive together are spread together.
const SPREAD_PAUSE: Duration = Duration::from_millis(50);
/// Members that are told at once.
const SPREAD_WIDTH: usize = 8;
/// How long a host that gossip has lost is only suspected: a hiccup of a loaded host ends sooner.
const SILENCE: Duration = Duration::from_secs(3);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the system is asked for its interfaces, beside when an address comes or goes.
const LOOK_AROUND: Duration = Duration::from_secs(10);

/// Everything the loop works with.
pub(crate) struct Keeper {
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) gate: Gate,
    pub(crate) roster: Arc<Roster>,
    pub(crate) streams: Streams,
    pub(crate) gossip: Gossip,
    pub(crate) relays: Relays,
    pub(crate) book: Book,
    pub(crate) hints: mpsc::Receiver<Hint>,
    pub(crate) offer: Option<RelayOffer>,
    pub(crate) loopback: bool,
    pub(crate) about: watch::Receiver<HostRecord>,
    pub(crate) reach: watch::Sender<Reach>,
    pub(crate) members: watch::Sender<Arc<Members>>,
    pub(crate) facts: broadcast::Sender<Fact>,
    /// Hosts that are or were just live, and when they last were.
    pub(crate) heard: BTreeMap<HostId, Instant>,
    /// This host's networks.
    pub(crate) interfaces: watch::Sender<Arc<Interfaces>>,
}

impl Keeper {
    /// Gives what this host knows before anything has happened.
    pub(crate) fn first_view(roster: &Roster, me: HostId) -> Members {
        let (records, nobody) = (Records::new(), BTreeSet::new());
        let roll = roster.roll();
        let none = |_: &HostId| None;
        members::compose(&Sources {
            me,
            roll: &roll,
            records: &records,
            live: &nobody,
            fading: &nobody,
            path: &none,
        })
    }

    /// Runs until the gossip or the swarm is gone.
    pub(crate) async fn run(mut self) {
        let mut roll = self.roster.watch();
        let mut records = self.gossip.records();
        let mut live = self.gossip.live();
        let mut connected = self.streams.connected();
        let mut addresses = self.endpoint.watch_addr().stream();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut look = tokio::time::interval(LOOK_AROUND);
        let mut dialer = Dialer::new(self.identity.host(), Instant::now());
        let mut hearing = Hearing::default();
        let mut before = BTreeSet::new();
        let (changed, spreading) = watch::channel(());
        let spread = tokio::spawn(spread(self.streams.clone(), self.roster.clone(), spreading));
        let _spread = AbortOnDrop(spread);
        let me = self.identity.host();
        self.learn(&mut dialer).await;
        loop {
            // Cancel-safe: intervals, watches and a stream; work is done in the arms' bodies.
            tokio::select! {
                _ = tick.tick() => {
                    self.note_paths(&mut dialer);
                    self.dial(&mut dialer);
                    let left = self.relays.watch().await;
                    self.leave(&left);
                    for host in hearing.note(&self.gate.soundings(), Instant::now()) {
                        tracing::info!(host = %host.short(), "its connections hold on to a dead way; starting over");
                        self.gate.close(&host);
                    }
                }
                _ = housekeeping.tick() => {
                    self.roster.catch_up();
                    self.keep_house();
                    retry(&mut dialer, self.book.age());
                    changed.send_replace(());
                }
                result = roll.changed() => {
                    if result.is_err() { return }
                    roll.mark_unchanged();
                    changed.send_replace(());
                    self.keep_house();
                    self.learn(&mut dialer).await;
                }
                result = records.changed() => {
                    if result.is_err() { return }
                    records.mark_unchanged();
                    self.learn(&mut dialer).await;
                }
                result = live.changed() => {
                    if result.is_err() { return }
                    live.mark_unchanged();
                }
                result = connected.changed() => {
                    if result.is_err() { return }
                    let now = connected.borrow_and_update().clone();
                    self.note_connections(&before, &now);
                    before = now;
                }
                Some(hint) = self.hints.recv() => {
                    let roll = self.roster.roll();
                    let is_member = |host: &HostId| *host != me && roll.members.contains_key(host);
                    let changed = self.book.hint(hint, is_member);
                    if changed.is_empty() {
                        continue;
                    }
                    retry(&mut dialer, changed);
                    self.set_relays().await;
                }
                Some(_) = addresses.next() => self.look_around().await,
                _ = look.tick() => self.look_around().await,
                result = self.about.changed() => {
                    if result.is_err() { return }
                }
            }
            self.publish().await;
            self.show();
        }
    }

    fn dial(&self, dialer: &mut Dialer) {
        let ways = self.book.ways();
        let known = ways.iter().filter(|(_, way)| way.leads_somewhere()).map(|(host, _)| *host).collect();
        let connected = self.streams.connected().borrow().clone();
        for host in dialer.due(&known, &connected, Instant::now()) {
            tracing::debug!(?host, "dialling");
            self.streams.dial(host);
        }
    }

    /// Ends connections that only a dead relay carries: iroh would try that way until they time out.
    fn leave(&self, relays: &[RelayUrl]) {
        let is_left = |path: &Path| relays.iter().any(|url| url.as_str() == path.via);
        for host in self.streams.connected().borrow().iter().filter(|_| !relays.is_empty()) {
            if self.gate.path(host).is_some_and(|path| path.kind == PathKind::Relayed && is_left(&path)) {
                self.gate.close(host);
            }
        }
    }

    /// A handshake is the moment to compare statements; the end of a connection is the moment to
    /// make iroh forget its ways.
    fn note_connections(&self, before: &BTreeSet<HostId>, now: &BTreeSet<HostId>) {
        for lost in before.difference(now) {
            self.gate.close(lost);
        }
        for host in now.difference(before).copied() {
            let (streams, roster) = (self.streams.clone(), self.roster.clone());
            tokio::spawn(async move { exchange(&streams, &roster, host).await });
        }
    }

    /// Feeds iroh: addresses of all members, relays of those who serve one.
    async fn learn(&mut self, dialer: &mut Dialer) {
        let records = self.gossip.records().borrow().clone();
        let me = self.identity.host();
        let roll = self.roster.roll();
        let said: BTreeMap<HostId, Reach> = roll
            .members
            .keys()
            .filter(|host| **host != me)
            .filter_map(|host| Some((*host, members::host_record(&records, *host)?.reach.clone())))
            .collect();
        retry(dialer, self.book.say(said, |host| roll.members.contains_key(host)));
        self.set_relays().await;
    }

    async fn set_relays(&mut self) {
        let all = self.offer.clone().into_iter().chain(self.book.relays());
        self.relays.set(all).await;
    }

    /// Remembers where members are connected: they may be there again when nothing else is known.
    fn note_paths(&mut self, dialer: &mut Dialer) {
        let connected = self.streams.connected().borrow().clone();
        let direct = connected.into_iter().filter_map(|host| {
            let path = self.gate.path(&host).filter(|path| path.kind == PathKind::Direct)?;
            Some((path.via.parse::<SocketAddr>().ok()?, host))
        });
        retry(dialer, self.book.hold(direct.collect()));
    }

    async fn look_around(&self) {
        let found = interfaces().await;
        self.interfaces.send_if_modified(|known| {
            let changed = **known != found;
            *known = Arc::new(found);
            changed
        });
    }

    async fn publish(&self) {
        let me = self.identity.host();
        let bound = self.endpoint.bound_sockets();
        let interfaces = self.interfaces.borrow().clone();
        let own = self.endpoint.addr();
        let described = reach::describe(&own, &interfaces, self.offer.clone(), self.loopback);
        let reach = reach::or_loopback(described, &bound);
        self.reach.send_if_modified(|old| {
            let changed = *old != reach;
            old.clone_from(&reach);
            changed
        });
        let Some(member) = self.roster.roll().members.get(&me).cloned() else { return };
        let about = self.about.borrow().clone();
        let issuer = member.is_issuer();
        let mut tags = about.tags.clone();
        // What was said at the founding or by the token stands above the host's own settings.
        tags.extend(member.tags);
        let record = HostRecord { name: member.name, tags, reach, issuer, ..about };
        // Gossip itself drops what it has said already.
        self.gossip.publish(RecordKey::Host, Some(Body::Host(record))).await;
    }

    /// Gives the hosts that were live until less than [`SILENCE`] ago.
    fn note_silence(&mut self, live: &BTreeSet<HostId>) -> BTreeSet<HostId> {
        let now = Instant::now();
        self.heard.extend(live.iter().map(|host| (*host, now)));
        self.heard.retain(|_, at| now - *at < SILENCE);
        self.heard.keys().filter(|host| !live.contains(*host)).copied().collect()
    }

    fn show(&mut self) {
        let roll = self.roster.roll();
        let records = self.gossip.records().borrow().clone();
        let live = self.gossip.live().borrow().clone();
        let fading = self.note_silence(&live);
        let new = members::compose(&Sources {
            me: self.identity.host(),
            roll: &roll,
            records: &records,
            live: &live,
            fading: &fading,
            path: &|host| self.gate.path(host),
        });
        let old = self.members.borrow().clone();
        if *old == new {
            return;
        }
        for fact in members::facts(&old, &new) {
            tracing::debug!(%fact);
            self.facts.send(fact).ok();
        }
        self.members.send_replace(Arc::new(new));
    }

    /// Does what an issuer and the root's holder owe the others: renewals and promotions.
    fn keep_house(&self) {
        let (roll, now) = (self.roster.roll(), self.roster.now());
        if let Some(root) = &self.identity.root {
            for host in roll.set.awaiting_promotion() {
                self.sign(roll.set.promotion(host, now), root);
            }
        }
        if roll.set.is_issuer(self.identity.host()) {
            for host in roll.members.keys() {
                if self.is_renewer(&roll, *host, now) {
                    self.sign(roll.set.renewal(*host, now), &self.identity.seed);
                }
            }
        }
    }

    /// One issuer renews each certificate: the first that is up, so that issuers do not compete.
    fn is_renewer(&self, roll: &roster::Roll, host: HostId, now: Timestamp) -> bool {
        if roll.set.renewal(host, now).is_none() {
            return false;
        }
        let live = self.gossip.live().borrow().clone();
        let me = self.identity.host();
        let mut issuers = roll.members.values().filter(|member| member.is_issuer());
        issuers.find(|member| member.host == me || live.contains(&member.host)).map(|first| first.host)
            == Some(me)
    }

    fn sign(&self, certificate: Option<proto::trust::Certificate>, seed: &proto::seal::Seed) {
        let Some(certificate) = certificate else { return };
        match self.roster.say(&Statement::Certificate(certificate), seed) {
            Ok(()) => {}
            Err(SayError::Refused(because)) => tracing::warn!(%because, "a certificate was not accepted"),
            // A disk that is full is told by its owner, and this is tried again at every look.
            Err(SayError::Store(error)) => tracing::debug!(%error, "a certificate was not stored"),
        }
    }
}

fn retry(dialer: &mut Dialer, hosts: Vec<HostId>) {
    for host in hosts {
        dialer.retry(&host, Instant::now());
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Compares statements with every connected member after each change.
async fn spread(streams: Streams, roster: Arc<Roster>, mut changed: watch::Receiver<()>) {
    while changed.changed().await.is_ok() {
        tokio::time::sleep(SPREAD_PAUSE).await;
        changed.mark_unchanged();
        let connected = streams.connected().borrow().clone();
        stream::iter(connected)
            .for_each_concurrent(SPREAD_WIDTH, |host| exchange(&streams, &roster, host))
            .await;
    }
}

/// Gives a member all statements and takes those that this host lacks.
async fn exchange(streams: &Streams, roster: &Roster, host: HostId) {
    let request = Request::Statements(roster::pack(&roster.roll().set.all()));
    let request = proto::wire::encode(&request);
    let protocol = Exchange { protocol: rpc::RPC, limit: MAX_RPC_BYTES };
    match rpc::ask(streams, &protocol, host, &request, EXCHANGE_TIMEOUT).await {
        Ok(answer) => {
            if let Ok(Answer::Statements { lacking, time }) = proto::wire::decode(&answer, MAX_RPC_BYTES) {
                roster.hear_clock(host, time);
                roster.take(roster::unpack(&lacking));
            }
        }
        // It will be compared again at the next change, handshake or minute.
        Err(error) => tracing::debug!(?host, %error, "statements not exchanged"),
    }
}
