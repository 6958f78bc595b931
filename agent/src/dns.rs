//! Speaks DNS for `proto::names`: an authoritative server on loopback for this host's programs, and
//! the answers that guests get through their gateway. Decides nothing about names: `respond` writes for both
//! what `zone` finds, `answers` remembers what was written, `udp` and `tcp` carry it.

mod answers;
mod ask;
mod memory;
mod respond;
mod tcp;
mod udp;
pub mod zone;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::pin,
    sync::Arc,
};

use futures::future::{BoxFuture, Either, select};
use proto::names::{Kind, Resolution, View};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

pub use answers::Answers;
pub use ask::ask;

use crate::host::listen;

/// What a question leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The answer.
    pub resolution: Resolution,
    /// The zone that the name is in; `None` = none of ours.
    pub origin: Option<String>,
    /// Whether whoever asks the same in the same edition finds the same, and nothing is to be done for it again.
    pub lasting: bool,
}

/// Answers questions.
#[derive(Clone)]
pub struct Resolve {
    /// Answers one: who asks, full name, kind. May open a forward before it answers.
    pub find: Arc<dyn Fn(View, String, Kind) -> BoxFuture<'static, Found> + Send + Sync>,
    /// Gives the number of the edition that questions are answered from now. It only grows.
    pub edition: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A bound server that does not serve yet.
pub struct Bound {
    udp: UdpSocket,
    tcp: TcpListener,
    /// Where it will answer.
    pub address: SocketAddr,
}

/// What everybody's name server uses where nothing else is said. Never 53 by itself: that is the system's own
/// resolver's, or a Pi-hole's.
const USUAL: u16 = 7453;

/// Binds the `wanted` port and no other, or without one the usual port as [`listen::bind`] does. UDP and TCP get the
/// same port.
pub async fn bind(kept: &Path, wanted: Option<u16>) -> io::Result<Bound> {
    match wanted {
        Some(port) => Ok(bind_both(port).await?.0),
        None => listen::bind(USUAL, kept, bind_both).await,
    }
}

/// Gives the port that was remembered.
pub fn kept(path: &Path) -> Option<u16> {
    listen::kept(USUAL, path)
}

/// Finds the port that a server gets that has none yet: the usual one, or the next free.
pub async fn free() -> io::Result<u16> {
    for port in listen::usual(USUAL) {
        if bind_both(port).await.is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

async fn bind_both(port: u16) -> io::Result<(Bound, u16)> {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address).await?;
    Ok((Bound { udp, tcp, address }, address.port()))
}

/// Serves until `stop`, over TCP no more than `most` connections at once.
pub async fn serve(bound: Bound, resolve: Resolve, most: usize, stop: CancellationToken) {
    let answers = Arc::new(Answers::new(View::Host, resolve));
    let udp = udp::serve(bound.udp, answers.clone(), stop.clone());
    let tcp = stop.run_until_cancelled(tcp::serve(bound.tcp, most, answers));
    // Whoever ends early ends both: the agent is told, and begins anew. At `stop` the thread of UDP ends last.
    let udp = match select(pin!(udp), pin!(tcp)).await {
        Either::Left((udp, _)) => udp,
        Either::Right((_, udp)) => udp.await,
    };
    if let Err(error) = udp {
        tracing::error!(%error, "names are not answered by UDP");
    }
}

#[cfg(test)]
mod tests;
