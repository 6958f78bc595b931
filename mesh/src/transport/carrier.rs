//! libp2p's transport on iroh's connections: one socket, one key and one path for each pair of hosts.
//! A libp2p connection is an iroh connection of [`LIBP2P`], a substream is a QUIC stream.
//! Nothing here knows an address: libp2p dials by peer id, iroh finds the way.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use iroh::{
    Endpoint, EndpointId, TransportAddr,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
        transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
};
use proto::{
    id::HostId,
    liveness::MAX_BEAT_BYTES,
    reachability::ways::{Way, Ways},
    time::Moment,
};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    identity,
    reach::describe as reach,
    transport::{endpoint::connect as connect_to, protocols::LIBP2P},
};

/// A dial through a relay takes two round trips; one that takes longer than this meets a dead host.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// How much of that belongs to the ways that hold now, when there are old ones too.
const FIRST_TURN: Duration = Duration::from_secs(4);
/// iroh forgets a host's ways when its last connection is gone, which takes it a moment.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);
/// Accepted connections waiting for the swarm. More than this arrive only from a flood.
const ACCEPT_QUEUE: usize = 64;
/// Datagrams that wait to be heard: a burst of words from everybody whom a host is connected with.
const DATAGRAM_QUEUE: usize = 1024;
/// Datagrams of one connection that are heard in a second. Of many deaths at once a host hears about so much.
const DATAGRAMS_A_SECOND: u32 = 200;

/// What comes in beside the streams, with who sent it.
pub(crate) type Datagrams = mpsc::Receiver<(HostId, Bytes)>;

/// Takes accepted connections from iroh's router and hands them to the swarm.
#[derive(Clone, Debug)]
pub(crate) struct Accept(mpsc::Sender<Connection>);

impl ProtocolHandler for Accept {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.0.send(connection).await.map_err(AcceptError::from_err)
    }
}

type Upgrade = BoxFuture<'static, io::Result<(PeerId, StreamMuxerBox)>>;

/// The transport.
pub(crate) struct Carrier {
    endpoint: Endpoint,
    ways: watch::Receiver<Arc<Ways>>,
    heard: mpsc::Sender<(HostId, Bytes)>,
    accepted: mpsc::Receiver<Connection>,
    listener: Option<ListenerId>,
    events: VecDeque<TransportEvent<Upgrade, io::Error>>,
}

impl Carrier {
    /// Makes the transport, the handler that feeds it, and what hears its datagrams.
    pub(crate) fn new(endpoint: Endpoint, ways: watch::Receiver<Arc<Ways>>) -> (Carrier, Accept, Datagrams) {
        let (sender, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (heard, datagrams) = mpsc::channel(DATAGRAM_QUEUE);
        let carrier = Carrier { endpoint, ways, heard, accepted, listener: None, events: VecDeque::new() };
        (carrier, Accept(sender), datagrams)
    }
}

/// The only kind of address that libp2p sees: who, never where.
pub(crate) fn address(peer: PeerId) -> Multiaddr {
    Multiaddr::empty().with(Protocol::P2p(peer))
}

impl Transport for Carrier {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.listener = Some(id);
        self.events.push_back(TransportEvent::NewAddress { listener_id: id, listen_addr: address });
        Ok(())
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        self.listener.take().is_some()
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Upgrade, TransportError<io::Error>> {
        let Some(Protocol::P2p(peer)) = address.iter().last() else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let id = identity::host_of(&peer).and_then(|host| identity::endpoint_id(&host));
        let Some(id) = id else { return Err(TransportError::MultiaddrNotSupported(address)) };
        let (endpoint, ways, heard) = (self.endpoint.clone(), self.ways.clone(), self.heard.clone());
        let dial = async move {
            let connect = connect(endpoint, id, ways);
            let connection = tokio::time::timeout(DIAL_TIMEOUT, connect).await.map_err(io::Error::other)?;
            Ok((peer, Muxer::boxed(connection?, heard)))
        };
        Ok(dial.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        let Some(listener_id) = self.listener else { return Poll::Pending };
        let Poll::Ready(Some(connection)) = self.accepted.poll_recv(context) else { return Poll::Pending };
        let peer = identity::peer_of_endpoint(&connection.remote_id());
        let local_addr = address(identity::peer_of_endpoint(&self.endpoint.id()));
        let heard = self.heard.clone();
        let upgrade = async move { Ok((peer, Muxer::boxed(connection, heard))) }.boxed();
        Poll::Ready(TransportEvent::Incoming {
            listener_id,
            upgrade,
            local_addr,
            send_back_addr: address(peer),
        })
    }
}

/// Connects by the ways that are known, and starts again when others become known: iroh asks for them
/// only when a dial begins, and the first record of a host that has just started lacks its relay.
async fn connect(
    endpoint: Endpoint,
    id: EndpointId,
    mut ways: watch::Receiver<Arc<Ways>>,
) -> io::Result<Connection> {
    let host = identity::host_of_endpoint(&id);
    loop {
        let known = ways.borrow_and_update().get(&host).cloned();
        let way = known.clone().unwrap_or_default();
        // Cancel-safe: a dial that is dropped is closed, and a watch keeps its last value.
        tokio::select! {
            connected = by_turns(&endpoint, id, &way) => return connected,
            Ok(_) = ways.wait_for(|ways| ways.get(&host) != known.as_ref()) => {}
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
}

/// Dials where the host is now; when nothing comes of that soon, also where it ever was.
async fn by_turns(endpoint: &Endpoint, id: EndpointId, way: &Way) -> io::Result<Connection> {
    let now = reach::endpoint_addr(id, &way.reach, &[]);
    if !way.more.is_empty() || !way.foreign.is_empty() {
        let first = tokio::time::timeout(FIRST_TURN, connect_to(endpoint, now, LIBP2P)).await;
        if let Ok(Ok(connection)) = first {
            return Ok(connection);
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
    let mut all = reach::endpoint_addr(id, &way.reach, &way.more);
    all.addrs.extend(way.foreign.iter().filter_map(|url| url.parse().ok()).map(TransportAddr::Relay));
    connect_to(endpoint, all, LIBP2P).await
}

type Opening = BoxFuture<'static, io::Result<Substream>>;

struct Muxer {
    connection: Connection,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    beside: Beside,
}

impl Muxer {
    fn boxed(connection: Connection, heard: mpsc::Sender<(HostId, Bytes)>) -> StreamMuxerBox {
        let from = identity::host_of_endpoint(&connection.remote_id());
        let beside = Beside { from, heard, next: None, since: Moment(0), count: 0 };
        StreamMuxerBox::new(Muxer { connection, inbound: None, outbound: None, beside })
    }
}

/// The datagrams of a connection.
struct Beside {
    from: HostId,
    heard: mpsc::Sender<(HostId, Bytes)>,
    next: Option<BoxFuture<'static, Option<Bytes>>>,
    /// How many came in this second.
    since: Moment,
    count: u32,
}

impl Beside {
    /// Hands on what has come, until nothing more has.
    fn poll(&mut self, connection: &Connection, context: &mut Context<'_>) {
        loop {
            let next = self.next.get_or_insert_with(|| {
                let connection = connection.clone();
                async move { connection.read_datagram().await.ok() }.boxed()
            });
            let Poll::Ready(datagram) = next.poll_unpin(context) else { return };
            let Some(datagram) = datagram else {
                // The end of the connection is told by its streams.
                self.next = Some(futures::future::pending().boxed());
                return;
            };
            self.next = None;
            let now = Clock.moment();
            if now.since_ms(self.since) >= 1000 {
                (self.since, self.count) = (now, 0);
            }
            self.count = self.count.saturating_add(1);
            // An empty one is a pulse: it came, and that is all that it says.
            let says = (1..=MAX_BEAT_BYTES).contains(&datagram.len());
            if self.count <= DATAGRAMS_A_SECOND && says {
                // A full queue loses some, as the way does.
                self.heard.try_send((self.from, datagram)).ok();
            }
        }
    }
}

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        let connection = self.connection.clone();
        let opening = self.inbound.get_or_insert_with(|| {
            let accept = async move {
                let (send, receive) = connection.accept_bi().await.map_err(io::Error::other)?;
                Ok(Substream { send, receive })
            };
            accept.boxed()
        });
        let polled = opening.poll_unpin(context);
        if polled.is_ready() {
            self.inbound = None;
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        let connection = self.connection.clone();
        let opening = self.outbound.get_or_insert_with(|| {
            let open = async move {
                let (send, receive) = connection.open_bi().await.map_err(io::Error::other)?;
                Ok(Substream { send, receive })
            };
            open.boxed()
        });
        let polled = opening.poll_unpin(context);
        if polled.is_ready() {
            self.outbound = None;
        }
        polled
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.close(0u32.into(), b"closed");
        Poll::Ready(Ok(()))
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let Muxer { connection, beside, .. } = &mut *self;
        beside.poll(connection, context);
        Poll::Pending // paths change below this transport; its address never does
    }
}

struct Substream {
    send: SendStream,
    receive: RecvStream,
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = tokio::io::ReadBuf::new(buffer);
        tokio::io::AsyncRead::poll_read(Pin::new(&mut self.receive), context, &mut buffer)
            .map_ok(|()| buffer.filled().len())
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.send), context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.send), context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.send), context)
    }
}
