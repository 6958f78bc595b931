//! Inbound streams by protocol name, through queues that hold a burst. libp2p-stream opens streams
//! well, but of two that arrive at once it drops one; so streams are opened by it and accepted here.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, InboundUpgrade, UpgradeInfo, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
use proto::id::HostId;
use tokio::sync::{mpsc, watch};

use crate::identity;

/// Streams of one protocol that wait to be taken.
const QUEUE: usize = 256;

/// The streams of one protocol, with who opened them.
pub(crate) type Inlet = mpsc::Receiver<(HostId, Stream)>;

/// Those with whom a connection is kept although nothing goes over it.
pub(crate) type Kept = watch::Receiver<Arc<BTreeSet<HostId>>>;

type Outlets = HashMap<StreamProtocol, mpsc::Sender<(HostId, Stream)>>;

/// The behaviour that accepts.
pub(crate) struct Inbound {
    outlets: Outlets,
    kept: Kept,
}

impl Inbound {
    /// Makes the behaviour and one inlet for each protocol.
    pub(crate) fn new<const N: usize>(protocols: [StreamProtocol; N], kept: Kept) -> (Inbound, [Inlet; N]) {
        let mut outlets = Outlets::new();
        let inlets = protocols.map(|protocol| {
            let (outlet, inlet) = mpsc::channel(QUEUE);
            outlets.insert(protocol, outlet);
            inlet
        });
        (Inbound { outlets, kept }, inlets)
    }

    fn handler(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let host =
            identity::host_of(&peer).ok_or_else(|| ConnectionDenied::new("the peer id holds no key"))?;
        Ok(Handler { host, outlets: self.outlets.clone(), kept: self.kept.clone() })
    }
}

impl NetworkBehaviour for Inbound {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// Accepts on one connection.
pub(crate) struct Handler {
    host: HostId,
    outlets: Outlets,
    kept: Kept,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offered;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Offered> {
        SubstreamProtocol::new(Offered(self.outlets.keys().cloned().collect()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.kept.borrow().contains(&self.host)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offered, DeniedUpgrade>) {
        let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) = event else {
            return;
        };
        let (protocol, stream) = protocol;
        if let Some(outlet) = self.outlets.get(&protocol) {
            // Full: dropping the stream tells the other side that nothing of it was read.
            if outlet.try_send((self.host, stream)).is_err() {
                tracing::debug!(host = ?self.host, %protocol, "inbound stream dropped");
            }
        }
    }
}

/// The upgrade that does nothing but remember which protocol was chosen.
pub(crate) struct Offered(Vec<StreamProtocol>);

impl UpgradeInfo for Offered {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offered {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
