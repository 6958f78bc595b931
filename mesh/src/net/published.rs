//! TCP connections to what hosts publish: a program on a host's own loopback, reached over a stream of `mesh/net/1` as a
//! port of a machine is, whatever is between. A host connects to the ports that it publishes now and to no others,
//! whoever asks and whatever they know from before.
//!
//! ```text
//! length: u16 | Header  ->
//!                       <- Answer: u8, 0 = connected
//! bytes of the connection <->
//! ```

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use iroh::endpoint::{RecvStream, SendStream};
use minicbor::{Decode, Encode};
use proto::{
    id::HostId,
    wire::{self, Kind, Message},
};
use tokio::{io::Join, net::TcpStream};
use tokio_util::either::Either;

use super::{Net, forward, hosts::Unreachable};

/// A connection to what a host publishes.
pub type Stream = Either<TcpStream, Join<RecvStream, SendStream>>;

/// Why there is no connection to what a host publishes.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The host is not reachable.
    #[error("the host is not reachable")]
    Unreachable(#[source] Unreachable),
    /// It does not publish the port.
    #[error("the host does not publish port {0}")]
    Unpublished(u16),
    /// No program of the host listens on the port.
    #[error("port {0} of the host refused the connection")]
    Refused(u16),
    /// It did not answer in time.
    #[error("port {0} of the host did not answer")]
    TimedOut(u16),
    /// The connection broke before it stood.
    #[error("the connection broke")]
    Broke(#[source] io::Error),
}

#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Header {
    #[n(0)]
    pub(super) port: u16,
}

impl Message for Header {
    const KIND: Kind = Kind::ConnectHost;
}

/// Opens a connection to a port that a host publishes, this one among them.
pub(super) async fn dial(net: &Net, host: HostId, port: u16) -> Result<Stream, PublishedError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => PublishedError::Unpublished(port),
        io::ErrorKind::ConnectionRefused => PublishedError::Refused(port),
        io::ErrorKind::TimedOut => PublishedError::TimedOut(port),
        _ => PublishedError::Broke(error),
    };
    let me = net.0.me();
    if me == Some(host) {
        return connect(net, port).await.map(Either::Left).map_err(refused);
    }
    let link = net.0.hosts.link(net, host);
    let connection = link.connection(net).await.map_err(PublishedError::Unreachable)?;
    forward::ask(&connection, &wire::encode(&Header { port })).await.map(Either::Right).map_err(refused)
}

/// Connects to a port of this host's loopback, if this host publishes it.
pub(super) async fn connect(net: &Net, port: u16) -> io::Result<TcpStream> {
    if !net.0.tables().published.contains(&port) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let stream = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        // A program may listen on one of the two only.
        Err(error) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)?,
        Ok(stream) => stream,
    };
    stream.set_nodelay(true).ok();
    Ok(stream)
}
