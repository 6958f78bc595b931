//! The libp2p swarm: who is connected, and streams by protocol name. It decides nothing: the gate
//! says who may connect, `dialer` says whom to dial, iroh finds the way.
//! The word *peer* lives only here and in `carrier`; everywhere else it is a host.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt;
use iroh::Endpoint;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, Transport,
    connection_limits::{self, ConnectionLimits},
    core::{transport::PortUse, upgrade::Version},
    identify, ping,
    swarm::{
        self, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use libp2p_stream::Control;
use proto::{
    id::HostId,
    limits::MAX_MEMBERS,
    reachability::{open::Open, ways::Ways},
};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    identity::{self, Identity},
    transport::{
        carrier::{self, Carrier, Datagrams},
        gate::Gate,
        inbound::{Inbound, Inlet, Kept},
        protocols::{GOSSIP, IDENTIFY, RAFT, RPC},
    },
};

/// Requests to the swarm that wait; a dial is asked again when it did not fit.
const COMMAND_QUEUE: usize = 256;
/// Two hosts that dial each other at once make two connections; a third is a mistake.
const MAX_CONNECTIONS_PER_HOST: u32 = 4;
/// Handshakes of strangers that wait at once.
const MAX_PENDING: u32 = 64;
/// Streams of one host whose protocol is being agreed on; QUIC lets it open a hundred at a time.
const MAX_NEGOTIATING: usize = 256;
/// After this time a connection with somebody who is no neighbour is closed when nothing goes over it.
const IDLE: Duration = Duration::from_secs(60);

/// A cheap handle to the swarm.
#[derive(Clone)]
pub(crate) struct Streams {
    control: Control,
    commands: mpsc::Sender<Command>,
    connected: watch::Receiver<BTreeSet<HostId>>,
}

#[derive(Debug)]
enum Command {
    Dial(PeerId),
}

/// Why no stream came up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The id is no key.
    #[error("the host id is no valid key")]
    NoKey,
    /// There is no way to the host now.
    #[error("cannot reach the host: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("cannot reach the host within {0:?}")]
    TimedOut(Duration),
}

impl Streams {
    /// Opens a stream, dialling first when there is no connection.
    pub(crate) async fn open(
        &self,
        to: HostId,
        protocol: StreamProtocol,
        within: Duration,
    ) -> Result<Stream, OpenError> {
        let peer = identity::peer_of(&to).ok_or(OpenError::NoKey)?;
        let mut control = self.control.clone();
        match tokio::time::timeout(within, control.open_stream(peer, protocol)).await {
            Ok(opened) => opened.map_err(|error| OpenError::Unreachable(error.to_string())),
            Err(_) => Err(OpenError::TimedOut(within)),
        }
    }

    /// Asks for a connection. Nothing happens when there is one, or a dial is under way.
    pub(crate) fn dial(&self, to: HostId) {
        if let Some(peer) = identity::peer_of(&to) {
            // A full queue means that many dials wait already; the dialer asks again.
            self.commands.try_send(Command::Dial(peer)).ok();
        }
    }

    /// Watches who is connected.
    pub(crate) fn connected(&self) -> watch::Receiver<BTreeSet<HostId>> {
        self.connected.clone()
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    // Those that deny come first: the ones before a denial would keep phantom state.
    admission: Admission,
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    inbound: Inbound,
    outbound: libp2p_stream::Behaviour,
}

/// What [`build`] makes beside the future.
pub(crate) struct Built {
    /// The handle.
    pub(crate) streams: Streams,
    /// For iroh's router.
    pub(crate) accept: carrier::Accept,
    /// Inbound streams.
    pub(crate) gossip: Inlet,
    /// Inbound streams.
    pub(crate) rpc: Inlet,
    /// Inbound streams.
    pub(crate) raft: Inlet,
    /// What comes in beside them.
    pub(crate) beats: Datagrams,
}

/// Builds the swarm; the future runs it until its handles are gone.
pub(crate) fn build(
    endpoint: Endpoint,
    identity: &Identity,
    gate: Gate,
    (ways, kept): (watch::Receiver<Arc<Ways>>, Kept),
) -> (Built, impl Future<Output = ()> + use<>) {
    let keypair = identity.keypair();
    let me = keypair.public().to_peer_id();
    let (transport, accept, beats) = Carrier::new(endpoint, ways);
    let limits = ConnectionLimits::default()
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_HOST))
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_established(Some(2 * MAX_MEMBERS as u32));
    let (inbound, [gossip, rpc, raft]) = Inbound::new([GOSSIP, RPC, RAFT], kept);
    let behaviour = Behaviour {
        admission: Admission(gate),
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identify::Config::new(IDENTIFY.into(), keypair.public())),
        // Observers ask more often; hosts of before ask by this, and are to hear that it is spoken here.
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(Duration::from_secs(300)).with_timeout(Duration::from_secs(10)),
        ),
        inbound,
        outbound: libp2p_stream::Behaviour::new(),
    };
    let control = behaviour.outbound.new_control();
    // Lazy: one round trip less for each request, because every stream offers one protocol only.
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let mut swarm = Swarm::new(transport.boxed(), behaviour, me, config);
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let (connected_tx, connected) = watch::channel(BTreeSet::new());
    let run = async move {
        if let Err(error) = swarm.listen_on(carrier::address(me)) {
            tracing::error!(%error, "the swarm cannot listen");
            return;
        }
        run(swarm, inbox, connected_tx).await;
    };
    let streams = Streams { control, commands, connected };
    (Built { streams, accept, gossip, rpc, raft, beats }, run)
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut inbox: mpsc::Receiver<Command>,
    connected: watch::Sender<BTreeSet<HostId>>,
) {
    let mut open = Open::default();
    loop {
        // Both arms are cancel-safe: a stream's next item and a channel's receive.
        tokio::select! {
            event = swarm.select_next_some() => {
                for dead in stale(&mut open, &event) {
                    swarm.close_connection(dead);
                }
                note(event, &connected);
            }
            command = inbox.recv() => match command {
                Some(Command::Dial(peer)) => {
                    let condition = PeerCondition::DisconnectedAndNotDialing;
                    let opts = DialOpts::peer_id(peer).condition(condition).build();
                    if let Err(error) = swarm.dial(opts) {
                        tracing::trace!(%error, "not dialled");
                    }
                }
                None => return,
            },
        }
    }
}

fn note(event: SwarmEvent<BehaviourEvent>, connected: &watch::Sender<BTreeSet<HostId>>) {
    match event {
        SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
            tracing::debug!(%peer_id, dialled = endpoint.is_dialer(), "connected");
            if let Some(host) = identity::host_of(&peer_id) {
                connected.send_if_modified(|hosts| hosts.insert(host));
            }
        }
        SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
            tracing::debug!(%peer_id, ?cause, "connection closed");
            if let Some(host) = identity::host_of(&peer_id) {
                connected.send_if_modified(|hosts| hosts.remove(&host));
            }
        }
        SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
            tracing::debug!(?peer_id, %error, "dial failed");
        }
        SwarmEvent::IncomingConnectionError { peer_id, error, .. } => {
            tracing::debug!(?peer_id, %error, "inbound connection refused");
        }
        _ => {}
    }
}

/// Tells the rule of dead connections what happened, and gives those that are to be closed.
fn stale(open: &mut Open<PeerId, ConnectionId>, event: &SwarmEvent<BehaviourEvent>) -> Vec<ConnectionId> {
    match event {
        SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
            open.opened(*peer_id, *connection_id, endpoint.is_listener(), Clock.moment())
        }
        SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
            open.closed(peer_id, *connection_id);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Denies every connection of a host that is no member, and tells libp2p that a member's address
/// is its id.
struct Admission(Gate);

#[derive(Debug)]
struct NotMember;

impl fmt::Display for NotMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a member")
    }
}

impl std::error::Error for NotMember {}

impl Admission {
    fn check(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        match identity::host_of(peer).is_some_and(|host| self.0.is_member(&host)) {
            true => Ok(dummy::ConnectionHandler),
            false => Err(ConnectionDenied::new(NotMember)),
        }
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        self.check(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: libp2p::core::Endpoint,
        _: PortUse,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        self.check(&peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: libp2p::core::Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.map(carrier::address).into_iter().collect())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
