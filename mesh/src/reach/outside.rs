//! Whether this host is reached from outside, and what follows from it. Looks for what could be true (the owner says an
//! address, the router maps ports, others see this host at an address of its port), serves a relay for it, has members
//! dial back, and tells of the relay once they did. `proto::reachability::proof` decides; here it is only carried out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use iroh::{Endpoint, TransportAddr};
use portmapper::Protocol;
use proto::{
    addresses::is_public,
    backoff::BackOff,
    facts::Fact,
    id::{Digest, HostId},
    reachability::proof::{Claim, Effect, Event, Proof, Public, Verdict},
    time::Moment,
    wire::{
        record::RelayOffer,
        rpc::{Answer, Refusal, Request},
    },
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};

use crate::{
    clock::Clock,
    members::roster::Roster,
    reach::{
        addresses::Interfaces,
        dialback::Word,
        mapping::Mapping,
        relay::{Relay, Serve, Serving, Standing},
    },
    transport::{
        endpoint::{Pair, Ports},
        gate::Gate,
        rpc,
        swarm::Streams,
    },
};

/// How often everything here is looked at.
const TICK: Duration = Duration::from_secs(2);
/// How long a member may take to dial back; it has bounds of its own.
const ASK_WITHIN: Duration = Duration::from_secs(15);
/// Before a relay that could not be served is tried again.
const SERVE_AGAIN: BackOff = BackOff::new(10_000, 600_000);

/// What the owner says of the way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outward {
    /// Where others reach this host.
    pub public: Option<Public>,
    /// Whether its router is asked to map ports.
    pub map: bool,
}

/// How this host is reached from outside, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayIn {
    /// Where the router says that it lets others in.
    pub mapped: Option<SocketAddr>,
    /// Where it would be reached, if it is.
    pub claimed: Option<SocketAddr>,
    /// Whether a member has dialled it there.
    pub proved: bool,
}

/// Everything the loop works with.
pub(crate) struct Outside {
    pub(crate) data: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) serve: Serve,
    pub(crate) outward: Outward,
    pub(crate) endpoint: Endpoint,
    pub(crate) gate: Gate,
    pub(crate) roster: Arc<Roster>,
    pub(crate) streams: Streams,
    pub(crate) interfaces: watch::Receiver<Arc<Interfaces>>,
    pub(crate) word: Word,
    pub(crate) standing: Standing,
    /// The relay that others are told of.
    pub(crate) offer: watch::Sender<Option<Serving>>,
    pub(crate) way_in: watch::Sender<WayIn>,
    pub(crate) facts: broadcast::Sender<Fact>,
}

/// What could be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// The owner says so; the ports there are as here, or these.
    Told(SocketAddr),
    /// The router lets others in here.
    Mapped(SocketAddr),
    /// Others see this host here, at the port that it has: nothing on the way changes ports. Or it is an address of
    /// IPv6 on an interface, and its router may let others in.
    Seen(SocketAddr),
}

/// What the loop has made.
#[derive(Default)]
struct Made {
    proof: Proof,
    endpoint: Option<Mapping>,
    relay: Option<Served>,
    failures: u32,
    next: Moment,
    external: BTreeSet<SocketAddr>,
    asking: JoinSet<(HostId, Claim, Verdict)>,
}

struct Served {
    /// Its own ports, and the certificate of its address discovery.
    port: u16,
    discovery: u16,
    certificate: Digest,
    /// The same ports as the router maps them.
    mappings: Option<[Mapping; 2]>,
}

impl Outside {
    /// Runs until the mesh ends.
    pub(crate) async fn run(mut self) {
        let port = self.endpoint.bound_sockets().first().and_then(|bound| NonZeroU16::new(bound.port()));
        let Some(port) = port else { return std::future::pending().await };
        let mut made = Made::default();
        if self.outward.map {
            made.endpoint = Some(Mapping::new(port, Protocol::Udp, Clock.moment()));
        }
        let mut lans = self.interfaces.borrow().lans_v4();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: an interval, a watch, and tasks that have ended.
            tokio::select! {
                _ = tick.tick() => {}
                result = self.interfaces.changed() => {
                    if result.is_err() { return }
                    let now_here = self.interfaces.borrow_and_update().lans_v4();
                    // What a container or a VPN changes is nothing to the router.
                    if now_here != lans {
                        lans = now_here;
                        made.anew(Clock.moment());
                    }
                }
                Some(ended) = made.asking.join_next() => match ended {
                    Ok((by, claim, verdict)) => self.conclude(&mut made, by, claim, verdict),
                    Err(error) => tracing::error!(%error, "a dial back ended badly"),
                },
            }
            self.look(&mut made, port.get()).await;
        }
    }

    async fn look(&self, made: &mut Made, port: u16) {
        let now = Clock.moment();
        made.map(now);
        let lead = self.lead(made, port);
        self.tell_endpoint(made, lead).await;
        self.serve_for(made, lead, port, now).await;
        let claim = lead.and_then(|lead| made.claim(lead, port));
        for effect in made.proof.on(Event::Claims(claim), now) {
            self.carry_out(made, effect);
        }
        let helpers = self.helpers();
        for effect in made.proof.on(Event::Look(helpers), now) {
            self.carry_out(made, effect);
        }
        self.show(made, lead);
    }

    fn show(&self, made: &Made, lead: Option<Lead>) {
        let address = |lead| match lead {
            Lead::Told(address) | Lead::Mapped(address) | Lead::Seen(address) => address,
        };
        let way = WayIn {
            mapped: made.endpoint.as_ref().and_then(Mapping::external),
            claimed: lead.map(address),
            proved: made.proof.proved().is_some(),
        };
        self.way_in.send_if_modified(|old| {
            let changed = *old != way;
            *old = way;
            changed
        });
    }

    /// Finds what could be true, the surest first.
    fn lead(&self, made: &Made, port: u16) -> Option<Lead> {
        if let Some(public) = self.outward.public {
            return Some(Lead::Told(SocketAddr::new(public.ip, public.port.unwrap_or(port))));
        }
        let mapped = made.endpoint.as_ref().and_then(Mapping::external);
        // A router behind another one maps to where nobody is led.
        if let Some(mapped) = mapped.filter(|mapped| is_public(&mapped.ip())) {
            return Some(Lead::Mapped(mapped));
        }
        let interfaces = self.interfaces.borrow().clone();
        let own: BTreeSet<IpAddr> = interfaces.addresses().collect();
        let seen = self.endpoint.addr().addrs.into_iter().filter_map(|address| match address {
            TransportAddr::Ip(address) => Some(address),
            _ => None,
        });
        let mut outside = seen.filter(|address| {
            let ip = address.ip();
            address.port() == port && ip.is_ipv4() && is_public(&ip) && !own.contains(&ip)
        });
        let own_v6 = || own.iter().copied().find(|ip| ip.is_ipv6() && is_public(ip));
        let seen = outside.next().or_else(|| own_v6().map(|ip| SocketAddr::new(ip, port)));
        seen.map(Lead::Seen)
    }

    /// Makes the endpoint tell where it is led to, in what it says to others and to hole punching.
    async fn tell_endpoint(&self, made: &mut Made, lead: Option<Lead>) {
        let wanted: BTreeSet<SocketAddr> = lead
            .into_iter()
            .filter_map(|lead| match lead {
                Lead::Told(address) | Lead::Mapped(address) => Some(address),
                // It knows.
                Lead::Seen(_) => None,
            })
            .collect();
        for gone in made.external.difference(&wanted) {
            self.endpoint.remove_external_addr(gone).await;
        }
        for new in wanted.difference(&made.external) {
            self.endpoint.add_external_addr(*new).await;
        }
        made.external = wanted;
    }

    /// Serves a relay as long as there is a lead.
    async fn serve_for(&self, made: &mut Made, lead: Option<Lead>, port: u16, now: Moment) {
        let wanted = lead.is_some() && self.serve == Serve::Auto;
        if !wanted {
            made.relay = None;
            if let Some(relay) = self.standing.take() {
                relay.shutdown().await;
            }
            return;
        }
        let is_mapped = matches!(lead, Some(Lead::Mapped(_)));
        if let Some(served) = &mut made.relay {
            // Served before the router answered.
            if is_mapped && served.mappings.is_none() {
                served.mappings = Served::map((served.port, served.discovery), now);
            }
            return;
        }
        if now < made.next {
            return;
        }
        let pair = match self.ports {
            Ports::Fixed(_) => Pair(port),
            Ports::Loopback => Pair::ANY,
        };
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        let keepers = (&self.gate, &self.roster, &self.word);
        match Relay::serve(&self.data, (self.ports, pair), nowhere, keepers).await {
            Ok(relay) => {
                let (port, discovery) = (relay.port, relay.offer.qad_port);
                let mappings = is_mapped.then(|| Served::map((port, discovery), now)).flatten();
                made.failures = 0;
                made.relay = Some(Served { port, discovery, certificate: relay.offer.certificate, mappings });
                self.standing.keep(relay);
            }
            Err(error) => {
                made.failures = made.failures.saturating_add(1);
                made.next = now.plus_ms(SERVE_AGAIN.after_ms(made.failures));
                tracing::info!(%error, "others could reach this host, but it cannot serve a relay");
            }
        }
    }

    /// Lists the members that see this host from outside: straight, and not on a network that both are in.
    fn helpers(&self) -> BTreeSet<HostId> {
        let here = self.interfaces.borrow().here();
        let connected = self.streams.connected().borrow().clone();
        let from_outside = |host: &HostId| {
            self.gate
                .places(host)
                .iter()
                .any(|place| self.ports == Ports::Loopback || !here.shares(&place.ip()))
        };
        connected.into_iter().filter(from_outside).collect()
    }

    fn carry_out(&self, made: &mut Made, effect: Effect) {
        match effect {
            Effect::Ask(host, claim) => {
                let Some(served) = &made.relay else { return };
                let word: [u8; 16] = rand::random();
                self.word.expect(&word);
                let certificate = served.certificate;
                let (streams, heard) = (self.streams.clone(), self.word.clone());
                made.asking.spawn(async move {
                    let request = Request::DialBack { claim, certificate, word };
                    let answer = rpc::call(&streams, host, &request, ASK_WITHIN).await;
                    tracing::debug!(host = %host.short(), ?answer, "dialled back");
                    let verdict = match answer {
                        // The relay itself must have heard the word; to say so is not enough.
                        Ok(Answer::DialledBack(mut reached)) => {
                            reached.relay &= heard.take(&word);
                            Verdict::Dialled(reached)
                        }
                        Ok(Answer::Refused(Refusal::Failed(_))) | Err(_) => Verdict::Later,
                        Ok(_) => Verdict::Unable,
                    };
                    (host, claim, verdict)
                });
            }
            Effect::Offer(claim) => {
                let Some(served) = &made.relay else { return };
                let url = format!("http://{}", SocketAddr::new(claim.endpoint.ip(), claim.relay));
                self.facts.send(Fact::RelayServed { url: url.clone() }).ok();
                let certificate = served.certificate;
                let offer = RelayOffer { url, qad_port: claim.discovery, certificate };
                self.offer.send_replace(Some(Serving { offer, inside: Some(served.port) }));
            }
            Effect::Withdraw => {
                if let Some(Serving { offer, .. }) = self.offer.send_replace(None) {
                    self.facts.send(Fact::RelayWithdrawn { url: offer.url }).ok();
                }
            }
        }
    }

    fn conclude(&self, made: &mut Made, by: HostId, claim: Claim, verdict: Verdict) {
        let now = Clock.moment();
        let was = made.proof.proved().is_some();
        for effect in made.proof.on(Event::Ended(by, claim, verdict), now) {
            self.carry_out(made, effect);
        }
        if was && made.proof.proved().is_none() {
            // A router that was started anew has forgotten what it mapped, and does not say so. What was never proved
            // is tried ever less often instead.
            made.anew(now);
        }
    }
}

impl Served {
    /// Has the router map the relay, by TCP, and its address discovery, by UDP.
    fn map((relay, discovery): (u16, u16), now: Moment) -> Option<[Mapping; 2]> {
        let map = |port, protocol| Some(Mapping::new(NonZeroU16::new(port)?, protocol, now));
        Some([map(relay, Protocol::Tcp)?, map(discovery, Protocol::Udp)?])
    }
}

impl Made {
    fn mappings(&mut self) -> impl Iterator<Item = &mut Mapping> {
        let relay = self.relay.as_mut().and_then(|served| served.mappings.as_mut());
        self.endpoint.iter_mut().chain(relay.into_iter().flatten())
    }

    fn map(&mut self, now: Moment) {
        self.mappings().for_each(|mapping| mapping.look(now));
    }

    fn anew(&mut self, now: Moment) {
        self.mappings().for_each(|mapping| mapping.anew(now));
    }

    /// Puts together where everything would be reached that others need.
    fn claim(&self, lead: Lead, port: u16) -> Option<Claim> {
        let served = self.relay.as_ref()?;
        let (relay, discovery) = (served.port, served.discovery);
        match lead {
            Lead::Mapped(endpoint) => {
                let [tcp, udp] = served.mappings.as_ref()?;
                let (tcp, udp) = (tcp.external()?, udp.external()?);
                let one = tcp.ip() == endpoint.ip() && udp.ip() == endpoint.ip();
                one.then_some(Claim { endpoint, relay: tcp.port(), discovery: udp.port() })
            }
            // As the ports are here, unless the owner says others: then they come one after the other.
            Lead::Told(endpoint) if endpoint.port() != port => {
                Some(Claim { endpoint, relay: endpoint.port(), discovery: endpoint.port().saturating_add(1) })
            }
            Lead::Told(endpoint) | Lead::Seen(endpoint) => Some(Claim { endpoint, relay, discovery }),
        }
    }
}
