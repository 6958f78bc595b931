//! The shell of the machines that keep this host in its mesh, `proto::membership` and `proto::reachability`: gathers
//! what happens, carries out what follows, publishes the host record, and tells what it sees. Nothing is decided here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use iroh::{Endpoint, Watcher};
use proto::{
    facts::Fact,
    id::HostId,
    liveness::{Circle, Presence, sought},
    membership::{Owed, Silence, Spread, owed, returning, spread},
    reachability::{
        Effect, Event, Reachability, Sight,
        fallback::Foreign,
        path::{Path, PathKind},
        turns::Turns,
    },
    seal::Seed,
    trust::{Certificate, Grant, GrantState, OutBecause, Statement},
    wire::record::{Body, HostRecord, Reach, RecordKey},
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};

use crate::{
    clock::Clock,
    gossip::{Gossip, Records},
    identity::Identity,
    members::{
        presence::Presences,
        roster::{Roll, Roster, SayError},
        view as members,
        view::{Members, Sources},
    },
    reach::{
        addresses::Interfaces,
        book::{Book, Hint},
        describe as reach,
        interfaces::interfaces,
        relay::Serving,
        relays::{self, Relays},
    },
    transport::{gate::Gate, swarm::Streams, threshold},
};

/// How often dials, paths and the home relay are looked at.
const TICK: Duration = Duration::from_millis(250);
/// The same as long as nobody else is a member.
const TICK_ALONE: Duration = Duration::from_secs(2);
/// How often the system is asked for its interfaces, beside when an address comes or goes.
const LOOK_AROUND: Duration = Duration::from_secs(10);

mod statements;
mod ways;

pub(crate) use statements::Ended;

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
    pub(crate) offer: watch::Receiver<Option<Serving>>,
    pub(crate) loopback: bool,
    /// Whether a token is being made.
    pub(crate) awaits: Arc<AtomicBool>,
    /// Relays of strangers.
    pub(crate) foreign: Arc<Foreign>,
    pub(crate) about: watch::Receiver<HostRecord>,
    /// What was last said of it.
    pub(crate) said: Option<HostRecord>,
    pub(crate) reach: watch::Sender<Reach>,
    pub(crate) members: watch::Sender<Arc<Members>>,
    pub(crate) facts: broadcast::Sender<Fact>,
    /// Who was heard just now by gossip.
    pub(crate) silence: Silence,
    /// Who answers.
    pub(crate) presences: watch::Receiver<Arc<Presences>>,
    /// With whom connections are kept.
    pub(crate) kept: watch::Sender<Arc<BTreeSet<HostId>>>,
    /// What that was made from: who answers probes, and who does not.
    pub(crate) arranged: (BTreeSet<HostId>, BTreeSet<HostId>),
    /// How members are reached.
    pub(crate) reachability: Reachability,
    /// With whom statements are compared.
    pub(crate) spread: Spread,
    /// Long questions under way.
    pub(crate) asking: JoinSet<(HostId, bool)>,
    /// What was told of the ways to members.
    pub(crate) turns: Turns,
    /// Comparisons under way.
    pub(crate) comparing: JoinSet<Ended>,
    /// This host's networks.
    pub(crate) interfaces: watch::Sender<Arc<Interfaces>>,
}

impl Keeper {
    /// Gives what this host knows before anything has happened.
    pub(crate) fn first_view(roster: &Roster, me: HostId, book: &Book) -> Members {
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
            levels: &book.levels(),
            foreign: &Foreign::default(),
        })
    }

    /// Runs until the gossip or the swarm is gone.
    pub(crate) async fn run(mut self) {
        let mut roll = self.roster.watch();
        let mut records = self.gossip.records();
        let mut live = self.gossip.live();
        let mut presences = self.presences.clone();
        let mut connected = self.streams.connected();
        let mut addresses = self.endpoint.watch_addr().stream();
        let mut tick = ticks(&roll.borrow());
        let mut look = tokio::time::interval(LOOK_AROUND);
        let mut before = BTreeSet::new();
        self.spread(spread::Event::Members(self.roster.roll().members.len())).await;
        self.learn().await;
        loop {
            let spread_due = self.spread.next();
            // Cancel-safe: intervals, a timer, watches, tasks that have ended, and a stream; work is done in the
            // arms' bodies.
            tokio::select! {
                _ = tick.tick() => self.look().await,
                () = Clock.sleep_until(spread_due) => self.spread(spread::Event::Time).await,
                Some(ended) = self.comparing.join_next() => match ended {
                    Ok(ended) => self.compared(ended).await,
                    // Nobody aborts them, and a panic is caught where it happens.
                    Err(error) => tracing::error!(%error, "a comparison of statements ended badly"),
                },
                Some(asked) = self.asking.join_next() => match asked {
                    Ok((host, answered)) => self.reach_out(Event::Asked { host, answered }).await,
                    Err(error) => tracing::error!(%error, "a long question ended badly"),
                },
                result = roll.changed() => {
                    if result.is_err() { return }
                    tick = ticks(&roll.borrow_and_update());
                    if !self.stays().await { return }
                }
                result = records.changed() => {
                    if result.is_err() { return }
                    records.mark_unchanged();
                    self.learn().await;
                }
                Ok(()) = live.changed() => live.mark_unchanged(),
                Ok(()) = presences.changed() => presences.mark_unchanged(),
                result = connected.changed() => {
                    if result.is_err() { return }
                    let now = connected.borrow_and_update().clone();
                    self.meet(&before, &now).await;
                    before = now;
                }
                Some(hint) = self.hints.recv() => self.take(hint).await,
                Some(_) = addresses.next() => self.look_around().await,
                _ = look.tick() => self.look_around().await,
                // Who needs no proof of its way in has nobody who tells of it.
                Ok(()) = self.offer.changed() => {
                    self.offer.mark_unchanged();
                    self.offer(Vec::new()).await;
                    self.publish().await;
                }
                Ok(()) = self.about.changed() => self.publish().await,
            }
            self.show();
        }
    }

    /// Tells the machines with whom this host is connected.
    async fn meet(&mut self, before: &BTreeSet<HostId>, now: &BTreeSet<HostId>) {
        self.reach_out(Event::Lost(before.difference(now).copied().collect())).await;
        self.spread(spread::Event::Connected(now.clone())).await;
        self.come_back(returning::Event::Connected(now.clone())).await;
    }

    /// Takes note of new statements. Tells whether this host goes on: one that is cut off does not, one that leaves does
    /// until all know it.
    async fn stays(&mut self) -> bool {
        let roll = self.roster.roll();
        roll.out.keys().for_each(|host| self.gate.cut_off(host));
        if roll.out.get(&self.identity.host()).is_some_and(|me| me.because != OutBecause::Left) {
            self.show();
            return false;
        }
        self.spread(spread::Event::Members(roll.members.len())).await;
        let (all, issuers) = threshold::members(&roll);
        self.come_back(returning::Event::Members { all, issuers }).await;
        for (from, statements) in self.roster.news() {
            self.spread(spread::Event::Learned { statements, from }).await;
        }
        self.learn().await;
        self.publish().await;
        true
    }

    /// Tells the machine what is seen now.
    async fn look(&mut self) {
        self.come_back(returning::Event::Time).await;
        let connected = self.streams.connected().borrow().clone();
        let paths: BTreeMap<HostId, Path> =
            connected.iter().filter_map(|host| Some((*host, self.gate.path(host)?))).collect();
        // Where members are connected they may be again when nothing else is known.
        let direct = paths.iter().filter(|(_, path)| path.kind == PathKind::Direct);
        let held = direct.filter_map(|(host, path)| Some((path.via.parse::<SocketAddr>().ok()?, *host)));
        let changed = self.book.hold(held.collect());
        self.reach_out(Event::Ways(changed)).await;
        let relayed = paths.into_iter().filter(|(_, path)| path.kind == PathKind::Relayed);
        let ways = self.book.ways();
        let served = ways
            .iter()
            .filter_map(|(host, way)| Some((relays::spelled(way.reach.serves.clone()?)?.url, *host)));
        let served = served.collect();
        let known = ways.iter().filter(|(_, way)| way.leads_somewhere()).map(|(host, _)| *host).collect();
        self.keep_to(&known);
        self.relays.look().await;
        let sight = Sight {
            known: sought(&self.kept.borrow(), &known, &connected),
            connected,
            soundings: self.gate.soundings(),
            relayed: relayed.map(|(host, path)| (host, self.relays.told_text(path.via))).collect(),
            homes: self.relays.homes(),
            alone: self.is_alone(),
            served,
        };
        self.reach_out(Event::Look(sight)).await;
    }

    /// Notes with whom connections are kept: this host's neighbours among those that answer probes, and those of
    /// before, which keep one with everybody.
    fn keep_to(&mut self, known: &BTreeSet<HostId>) {
        let (presences, me) = (self.presences.borrow().clone(), self.identity.host());
        let answering: BTreeSet<HostId> = presences.keys().copied().chain([me]).collect();
        let older: BTreeSet<HostId> = known.difference(&answering).copied().collect();
        let arranged = (answering, older);
        if self.arranged != arranged {
            let neighbours = Circle::of(&arranged.0).neighbours(&me);
            self.kept.send_replace(Arc::new(neighbours.union(&arranged.1).copied().collect()));
            self.arranged = arranged;
        }
    }

    /// Tells whether there is nobody to be met: no other member, and no token.
    fn is_alone(&self) -> bool {
        let (roll, now) = (self.roster.roll(), self.roster.now());
        let is_live =
            |grant: &Grant| matches!(roll.set.grant_state(&grant.token, now), GrantState::Live { .. });
        let awaits = self.awaits.load(Ordering::Relaxed);
        roll.members.len() < 2 && !awaits && !roll.set.grants().into_iter().any(is_live)
    }

    /// Asks the machine how members are reached, and does it.
    async fn reach_out(&mut self, event: Event) {
        for effect in self.reachability.on(event, Clock.moment()) {
            match effect {
                Effect::Dial(host) => {
                    tracing::debug!(?host, "dialling");
                    self.streams.dial(host);
                }
                Effect::StartOver(host, because) => {
                    tracing::debug!(host = %host.short(), ?because, "its connections start over");
                    self.turns.broke(host, because, Clock.moment());
                    self.gate.close(&host);
                }
                Effect::AskLong(host) => self.ask_long(host),
                Effect::UseRelays { used, offered } => self.relays.bring_about(used, &offered).await,
                Effect::Lend(urls) => {
                    // They are dialled again with these at their next turn.
                    self.book.lend(urls);
                }
                Effect::LeaveRelays(urls) => {
                    tracing::info!(?urls, "the home relay is silent; leaving it");
                    self.relays.leave().await;
                }
            }
        }
    }

    /// Feeds iroh: addresses of all members, relays of those who serve one.
    async fn learn(&mut self) {
        let records = self.gossip.records().borrow().clone();
        let me = self.identity.host();
        let roll = self.roster.roll();
        let said: BTreeMap<HostId, Reach> = roll
            .members
            .values()
            .filter(|member| member.host != me)
            .filter_map(|member| Some((member.host, members::reach(&records, member)?)))
            .collect();
        let changed = self.book.say(said, |host| roll.members.contains_key(host));
        let told = roll.members.keys().filter_map(|host| {
            Some((*host, members::host_record(&records, *host).filter(|_| *host != me)?.level))
        });
        self.book.told(told.collect());
        self.offer(changed).await;
    }

    async fn take(&mut self, hint: Hint) {
        let (roll, me) = (self.roster.roll(), self.identity.host());
        let changed = self.book.hint(hint, |host| *host != me && roll.members.contains_key(host));
        self.offer(changed).await;
    }

    /// Tells the machine whose ways changed, and which relays there are.
    async fn offer(&mut self, changed: Vec<HostId>) {
        self.reach_out(Event::Ways(changed)).await;
        let serving = self.offer.borrow().clone();
        self.relays.serve(serving.as_ref());
        let all = serving.map(|serving| serving.offer).into_iter().chain(self.book.relays());
        let offers = all.filter_map(relays::spelled).collect();
        self.reach_out(Event::Offered(offers)).await;
    }

    async fn look_around(&mut self) {
        let found = interfaces().await;
        let here: BTreeSet<IpAddr> = found.lans().into_iter().map(|net| net.address).collect();
        let lost = self.interfaces.borrow().lans().into_iter().any(|net| !here.contains(&net.address));
        self.interfaces.send_if_modified(|known| {
            let changed = **known != found;
            *known = Arc::new(found);
            changed
        });
        if lost {
            self.relays.moved();
            self.reach_out(Event::Moved).await;
        }
        self.publish().await;
    }

    /// Says what this host is and how it is reached, when that changed.
    async fn publish(&mut self) {
        let me = self.identity.host();
        let bound = self.endpoint.bound_sockets();
        let interfaces = self.interfaces.borrow().clone();
        let own = self.endpoint.addr();
        let serves = self.offer.borrow().clone().map(|serving| serving.offer);
        let mut described = reach::describe(&own, &interfaces, serves, (self.loopback, &bound));
        for url in &mut described.relays {
            *url = self.relays.told_text(std::mem::take(url));
        }
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
        if self.said.as_ref() != Some(&record) {
            self.gossip.publish(RecordKey::Host, Some(Body::Host(record.clone()))).await;
            self.said = Some(record);
        }
    }

    fn show(&mut self) {
        let roll = self.roster.roll();
        let records = self.gossip.records().borrow().clone();
        let (live, fading) = self.heard();
        let new = members::compose(&Sources {
            me: self.identity.host(),
            roll: &roll,
            records: &records,
            live: &live,
            fading: &fading,
            path: &|host| self.gate.path(host),
            levels: &self.book.levels(),
            foreign: &self.foreign,
        });
        self.tell_turns(&new);
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

    /// Gives who is there and who is suspected: by probes, and those that answer none, of before, by gossip.
    fn heard(&mut self) -> (BTreeSet<HostId>, BTreeSet<HostId>) {
        let mut live = self.gossip.live().borrow().clone();
        let mut fading = self.silence.note(&live, Clock.moment());
        let presences = self.presences.borrow().clone();
        for (host, presence) in presences.iter() {
            live.remove(host);
            fading.remove(host);
            match presence {
                Presence::Up => drop(live.insert(*host)),
                Presence::Suspect => drop(fading.insert(*host)),
                Presence::Down => {}
            }
        }
        (live, fading)
    }

    /// Does what an issuer and the root's holder owe the others.
    fn keep_house(&mut self) {
        let (roll, (live, _)) = (self.roster.roll(), self.heard());
        let holds_root = self.identity.holds_root();
        for owed in owed(&roll.set, self.identity.host(), holds_root, &live, self.roster.now()) {
            match (owed, self.identity.root()) {
                (Owed::ByRoot(certificate), Some(root)) => self.sign(certificate, root),
                (Owed::ByRoot(_), None) => {}
                (Owed::ByHost(certificate), _) => self.sign(certificate, &self.identity.seed),
            }
        }
    }

    fn sign(&self, certificate: Certificate, seed: &Seed) {
        match self.roster.say(&Statement::Certificate(certificate), seed) {
            Ok(()) => {}
            Err(SayError::Refused(because)) => tracing::warn!(%because, "a certificate was not accepted"),
            // A disk that is full is told by its owner, and this is tried again at every look.
            Err(SayError::Store(error)) => tracing::debug!(%error, "a certificate was not stored"),
        }
    }
}

/// Gives the beat of looking: slower as long as there is nobody to be reached.
fn ticks(roll: &Roll) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(if roll.members.len() > 1 { TICK } else { TICK_ALONE });
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}
