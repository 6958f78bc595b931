//! Puts the mesh together and hands out its handle. Builds in order, runs every part, and ends them
//! in reverse; a part that ends by itself ends the whole, because the rest would be half a mesh.

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures::FutureExt;
use iroh::{Endpoint, address_lookup::memory::MemoryLookup, protocol::Router};
use proto::{
    facts::Fact,
    id::{HostId, MeshId, Name, SessionId},
    membership::{Silence, Spread},
    reachability::{Reachability, fallback::Foreign, turns::Turns},
    session::{Mandate, SignedMandate},
    time::Timestamp,
    trust::{Capability, Statement, Token},
    wire::{
        record::{Body, HostRecord, Reach, RecordKey, RelayOffer},
        rpc::{Answer, Request},
    },
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    gossip::{self, Gossip, Records},
    identity::Identity,
    join::{self, MeetError, Met, door::Door},
    members::{
        cache::Cache,
        keeper::Keeper,
        presence::{self, Observing},
        roster::{Roll, Roster, SayError},
        view::Members,
    },
    net::Net,
    reach::{
        addresses::Interfaces,
        book::{Book, Hint},
        dialback::{DialBack, Word},
        interfaces::interfaces,
        lan::{Looks, Search},
        outside::{Outside, WayIn},
        pins::Pins,
        relay::{Serve, Serving, Standing},
        relays::{self, Relays},
    },
    transport::{
        answer::{self, Answering},
        endpoint::Ports,
        gate::Gate,
        protocols,
        rpc::{self, RpcError},
        swarm::{self, Streams},
        threshold::Behind,
    },
};

mod around;
mod bound;
mod given;
mod membership;
mod running;
mod tokens;

pub use given::{Config, Handlers, MeshError};
use membership::{check_membership, why_ended};
use running::{Running, part};

pub use around::Surroundings;

/// Hints that wait for the keeper.
const HINTS: usize = 64;
/// Claims from the LAN that wait to be looked into; in a flood the rest is passed over.
const CLAIMS: usize = 16;

/// A cheap handle to the running mesh.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    endpoint: Endpoint,
    roster: Arc<Roster>,
    gate: Gate,
    streams: Streams,
    net: Net,
    gossip: Gossip,
    observing: Observing,
    about: watch::Sender<HostRecord>,
    reach: watch::Receiver<Reach>,
    members: watch::Receiver<Arc<Members>>,
    interfaces: watch::Receiver<Arc<Interfaces>>,
    hints: mpsc::Sender<Hint>,
    awaits: Arc<AtomicBool>,
    foreign: Arc<Foreign>,
    #[cfg(test)]
    claims: mpsc::Sender<crate::reach::lan::Claim>,
    serves: watch::Receiver<Option<Serving>>,
    way_in: watch::Receiver<WayIn>,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

impl Mesh {
    /// Gives this host's id.
    pub fn me(&self) -> HostId {
        self.inner.identity.host()
    }

    /// Gives the mesh's id.
    pub fn mesh_id(&self) -> MeshId {
        self.inner.identity.mesh
    }

    /// Gives the mesh's label, once its charter is known.
    pub fn mesh_name(&self) -> Option<Name> {
        self.inner.roster.roll().set.name().cloned()
    }

    /// Gives this host's label, as the mesh knows it.
    pub fn name(&self) -> Name {
        let roll = self.inner.roster.roll();
        let member = roll.members.get(&self.me()).map(|member| member.name.clone());
        let label = member.or_else(|| roll.set.label(self.me()));
        label.expect("a member set that held this host's certificate holds one for ever")
    }

    /// Gives the endpoint, for protocols of others.
    pub fn endpoint(&self) -> Endpoint {
        self.inner.endpoint.clone()
    }

    /// Gives the session network between this host's machines and others'.
    pub fn net(&self) -> Net {
        self.inner.net.clone()
    }

    /// Watches all members.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.inner.members.clone()
    }

    /// Watches the verified gossip records, this host's included.
    pub fn records(&self) -> watch::Receiver<Arc<Records>> {
        self.inner.gossip.records()
    }

    /// Watches the statements: certificates, session births and ends.
    pub fn roll(&self) -> watch::Receiver<Arc<Roll>> {
        self.inner.roster.watch()
    }

    /// Signs a statement of this host, stores it, and spreads it.
    pub fn say(&self, statement: &Statement) -> Result<(), SayError> {
        self.inner.roster.say(statement, &self.inner.identity.seed)
    }

    /// Signs what an operator on this host wants of a session.
    pub fn mandate(&self, mandate: &Mandate) -> SignedMandate {
        mandate.sign(&self.inner.identity.seed)
    }

    /// Publishes or withdraws a record. Of the host record the mesh fills in name, tags, reach and
    /// issuer itself.
    pub async fn publish(&self, key: RecordKey, body: Option<Body>) {
        match (key, body) {
            (RecordKey::Host, Some(Body::Host(about))) => {
                self.inner.about.send_replace(about);
            }
            (key, body) => self.inner.gossip.publish(key, body).await,
        }
    }

    /// Asks another member.
    pub async fn call(&self, to: HostId, request: Request, within: Duration) -> Result<Answer, RpcError> {
        self.check_member(to)?;
        rpc::call(&self.inner.streams, to, &request, within).await
    }

    /// Sends a Raft message to another voter.
    pub async fn raft(
        &self,
        to: HostId,
        session: SessionId,
        frame: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, RpcError> {
        self.check_member(to)?;
        let bytes = [&session.0[..], &frame].concat();
        rpc::ask(&self.inner.streams, &answer::raft_exchange(), to, &bytes, within).await
    }

    fn check_member(&self, host: HostId) -> Result<(), RpcError> {
        let is_member = self.inner.roster.roll().members.contains_key(&host);
        is_member.then_some(()).ok_or(RpcError::NotMember)
    }

    /// Takes the addresses that a token of this mesh tells of members, and waits until one of these is connected.
    pub async fn meet(&self, token: &Token, within: Duration) -> Result<Met, MeetError> {
        let roll = self.inner.roster.roll();
        let members = join::member::others(token, self.mesh_id(), self.me(), &roll)?;
        // It fails only when the mesh has ended.
        self.inner.hints.send(Hint::Token(token.bootstrap.clone())).await.ok();
        let mut connected = self.inner.streams.connected();
        let is_there =
            |hosts: &BTreeSet<HostId>| members.is_empty() || members.iter().any(|host| hosts.contains(host));
        tokio::time::timeout(within, connected.wait_for(is_there)).await.ok();
        let hosts = connected.borrow().clone();
        let name = |host: &HostId| roll.members.get(host).map(|member| member.name.clone());
        let (reached, silent): (Vec<HostId>, Vec<HostId>) =
            members.iter().partition(|host| hosts.contains(*host));
        Ok(Met {
            reached: reached.iter().filter_map(name).collect(),
            silent: silent.iter().filter_map(name).collect(),
        })
    }

    /// Gives the relay that this host serves.
    pub fn relay(&self) -> Option<RelayOffer> {
        self.inner.serves.borrow().as_ref().map(|serving| serving.offer.clone())
    }

    /// Watches how this host is reached from outside.
    pub fn way_in(&self) -> watch::Receiver<WayIn> {
        self.inner.way_in.clone()
    }

    /// Watches how this host can be reached.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.inner.reach.clone()
    }

    /// Watches this host's networks.
    pub fn interfaces(&self) -> watch::Receiver<Arc<Interfaces>> {
        self.inner.interfaces.clone()
    }

    /// Takes what somebody on the LAN says.
    #[cfg(test)]
    pub(crate) async fn hear(&self, host: HostId, place: SocketAddr) {
        self.inner.claims.send((host, place)).await.unwrap();
    }

    #[cfg(test)]
    pub(crate) fn gate(&self) -> Gate {
        self.inner.gate.clone()
    }

    /// Tells how many bytes of gossip were sent.
    #[cfg(test)]
    pub(crate) fn gossip_sent(&self) -> u64 {
        self.inner.gossip.sent()
    }

    #[cfg(test)]
    pub(crate) fn streams(&self) -> Streams {
        self.inner.streams.clone()
    }

    /// Gives the mesh's time.
    pub fn now(&self) -> Timestamp {
        self.inner.roster.now()
    }

    /// Says goodbye to everybody and waits until it is done.
    pub async fn shutdown(&self) {
        self.inner.observing.leave().await;
        self.inner.stop.cancel();
        let mut stopped = self.inner.stopped.clone();
        // Err means that the future of the mesh is gone, which is as good.
        stopped.wait_for(|stopped| *stopped).await.ok();
    }
}

/// Binds and puts everything together. Nothing runs until the future is polled.
pub async fn build(
    config: Config,
    identity: Identity,
    handlers: Handlers,
    facts: broadcast::Sender<Fact>,
) -> Result<(Mesh, impl Future<Output = Result<(), MeshError>> + Send + use<>), MeshError> {
    let roster = Arc::new(Roster::load(&identity)?);
    check_membership(&roster, identity.host())?;
    // Nobody would use it.
    let relays = roster.roll().may(identity.host(), Capability::Relay);
    let mut config = Config { serve: if relays { config.serve } else { Serve::Off }, ..config };
    let gate = Gate::new(identity.host(), roster.clone());
    let (word, standing) = (Word::default(), Standing::default());
    let (awaits, foreign) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(std::mem::take(&mut config.foreign).spelled(relays::spelled)),
    );
    let (pins, lookup) = (Pins::new(facts.clone()), MemoryLookup::with_provenance("mesh"));
    let book = Book::new(Cache::load(&identity.data), lookup.clone());
    let bound = bound::bind(&config, &identity, &gate, (&roster, &word), &pins, &lookup).await?;
    let (endpoint, relay) = (bound.endpoint, bound.relay);
    let public = relay.as_ref().map(|relay| relay.offer.clone());
    if let Some(offer) = &public {
        facts.send(Fact::RelayServed { url: offer.url.clone() }).ok();
    }
    let (kept, keeps) = watch::channel(Arc::default());
    let (built, run_swarm) = swarm::build(endpoint.clone(), &identity, gate.clone(), (book.watch(), keeps));
    let streams = built.streams;
    let (gossip, run_gossip) =
        gossip::build(identity.clone(), roster.clone(), streams.clone(), built.gossip, facts.clone());
    let found = ((roster.clone(), gate.clone()), (streams.clone(), gossip.clone()));
    let (run_pulses, heard) = gate.clone().pulses();
    let (observing, run_observer) =
        presence::build(identity.clone(), found.0, found.1, (built.beats, heard), facts.clone());
    let tells = (facts.clone(), gate.threshold());
    let door = Door::new(identity.clone(), roster.clone(), streams.clone(), gossip.records(), tells);
    let (about, about_rx) = watch::channel(config.about);
    let (reach_tx, reach) = watch::channel(Reach::default());
    let (members_tx, members) = watch::channel(Arc::new(Keeper::first_view(&roster, identity.host(), &book)));
    let (interfaces_tx, interfaces) = watch::channel(Arc::new(interfaces().await));
    let serving = public.clone().map(|offer| Serving { offer, inside: None });
    let (offer_tx, serves) = watch::channel(serving);
    let (way_in_tx, way_in) = watch::channel(WayIn::default());
    let (hints, hints_rx) = mpsc::channel(HINTS);
    let (claims, claims_rx) = mpsc::channel(CLAIMS);
    let looks = Looks { ports: config.ports, pins: pins.clone(), claims: claims_rx, hints: hints.clone() };
    let keeper = Keeper {
        identity: identity.clone(),
        endpoint: endpoint.clone(),
        gate: gate.clone(),
        roster: roster.clone(),
        streams: streams.clone(),
        gossip: gossip.clone(),
        relays: Relays::new(endpoint.clone(), pins),
        book,
        hints: hints_rx,
        offer: serves.clone(),
        loopback: config.ports == Ports::Loopback,
        awaits: awaits.clone(),
        foreign: foreign.clone(),
        about: about_rx,
        said: None,
        reach: reach_tx,
        members: members_tx,
        facts: facts.clone(),
        silence: Silence::default(),
        kept,
        arranged: Default::default(),
        presences: observing.watch(),
        reachability: Reachability::new(identity.host(), Clock.moment())
            .falling_back_on(Foreign::clone(&foreign)),
        spread: Spread::new(identity.host(), rand::random(), Clock.moment()),
        comparing: JoinSet::new(),
        asking: JoinSet::new(),
        turns: Turns::default(),
        interfaces: interfaces_tx,
    };
    let outside = Outside {
        data: identity.data.clone(),
        ports: config.ports,
        serve: config.serve,
        outward: config.outward,
        endpoint: endpoint.clone(),
        gate: gate.clone(),
        roster: roster.clone(),
        streams: streams.clone(),
        interfaces: interfaces.clone(),
        word,
        standing: standing.clone(),
        offer: offer_tx,
        way_in: way_in_tx,
        facts,
    };
    let stop = CancellationToken::new();
    let (stopped_tx, stopped) = watch::channel(false);
    let dial_back = DialBack::new(gate.clone(), config.ports);
    let answering = Answering {
        roster: roster.clone(),
        door: door.clone(),
        gate: gate.clone(),
        dial_back,
        requests: handlers.requests,
    };
    let judged = roster.clone();
    let enters = move |host: HostId| judged.roll().may(host, Capability::Operate);
    let asked = gate.clone();
    let lets_in = move |host: HostId| {
        let gate = asked.clone();
        async move { gate.lets_in(&host).await }.boxed()
    };
    let others = (endpoint.clone(), Arc::new(lets_in) as _);
    let (net, net_handler) = Net::new(Some(others), Arc::new(enters));
    let mut router = Router::builder(endpoint.clone())
        .incoming_filter(gate.filter())
        .accept(protocols::LIBP2P, built.accept)
        .accept(protocols::JOIN, door)
        .accept(protocols::NET, Behind::new(gate.threshold(), Box::new(net_handler)));
    for (alpn, handler) in handlers.extra {
        router = router.accept(alpn, Behind::new(gate.threshold(), handler));
    }
    let search = Search {
        me: identity.host(),
        port: endpoint.bound_sockets().first().map_or(0, SocketAddr::port),
        interfaces: interfaces.clone(),
        connected: streams.connected(),
        roll: roster.watch(),
        claims: claims.clone(),
    };
    let mut parts = vec![
        part("swarm", run_swarm),
        part("gossip", run_gossip),
        part("keeper", keeper.run()),
        part("pulses", run_pulses),
        run_observer.boxed(),
        part("requests", answer::serve_requests(built.rpc, answering)),
        part("raft messages", answer::serve_raft(built.raft, gate.clone(), handlers.raft)),
    ];
    parts.push(part("looks on the LAN", looks.run()));
    // Who has a public address, or serves in any case, needs no proof; who may not serve is still told of its ports.
    if public.is_none() && (config.outward.map || config.outward.public.is_some()) {
        parts.push(part("way in", outside.run()));
    }
    if config.ports != Ports::Loopback {
        parts.push(part("search on the LAN", search.run()));
    }
    let relays = (relay, standing);
    let running =
        Running { router, endpoint: endpoint.clone(), relays, stop: stop.clone(), stopped: stopped_tx };
    let (known, me) = (roster.clone(), identity.host());
    let run = async move { why_ended(running.run(parts).await, &known, me) };
    let inner = Inner {
        identity,
        endpoint,
        roster,
        gate,
        streams,
        net,
        gossip,
        observing,
        about,
        reach,
        members,
        interfaces,
        hints,
        awaits,
        foreign,
        #[cfg(test)]
        claims,
        serves,
        way_in,
        stop,
        stopped,
    };
    Ok((Mesh { inner: Arc::new(inner) }, run))
}
