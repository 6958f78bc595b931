//! A listener that has no more than so many connections open at once, and takes the next one also
//! while no descriptor is left: it keeps one in reserve.

use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use proto::wire::api::{Error, Kind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// Pause after a connection could not be taken.
const AGAIN: Duration = Duration::from_millis(50);
/// Descriptors in reserve: a connection, and the file that answering it may open or write.
const RESERVE: usize = 3;

/// The listener.
pub struct Bounded {
    listener: UnixListener,
    slots: Arc<Semaphore>,
    reserve: Vec<File>,
}

/// A connection that holds one of the places.
pub struct Held {
    stream: UnixStream,
    slot: OwnedSemaphorePermit,
}

/// Places for connections that last as long as somebody likes. They are fewer than those of all, so
/// that a short question always finds one.
#[derive(Clone)]
pub struct Lasting {
    places: Arc<Semaphore>,
    most: usize,
}

/// One of these places, given back when dropped.
pub type Place = OwnedSemaphorePermit;

impl Lasting {
    /// Shares `most` places of connections out: a quarter is kept for what is short.
    pub fn of(most: usize) -> Lasting {
        let most = (most * 3 / 4).max(1);
        Lasting { places: Arc::new(Semaphore::new(most)), most }
    }

    /// Takes a place, or says why there is none.
    pub fn take(&self) -> Result<Place, Error> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            Error::new(Kind::Refused, "too many connections to this agent stay open")
                .because(format!(
                    "ssh sessions, consoles, followed events and image pulls hold {}, all that `ulimit -n` allows",
                    self.most
                ))
                .next("end one of them, or start the agent after: ulimit -n 4096")
        })
    }
}

impl Bounded {
    /// Bounds a listener.
    pub fn new(listener: UnixListener, most: usize) -> Bounded {
        let mut bounded = Bounded { listener, slots: Arc::new(Semaphore::new(most)), reserve: Vec::new() };
        bounded.refill();
        bounded
    }

    fn refill(&mut self) {
        while self.reserve.len() < RESERVE {
            let Ok(spare) = File::open("/dev/null") else { return };
            self.reserve.push(spare);
        }
    }

    async fn accept_one(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(taken) => return taken,
                // Without a descriptor left, those in reserve are given up for this connection.
                Err(_) if !self.reserve.is_empty() => self.reserve.clear(),
                Err(error) => {
                    tracing::debug!(%error, "a connection to the API was not taken");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        self.refill();
        loop {
            // The semaphore is never closed; if it were, nothing more would be taken.
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                sleep(AGAIN).await;
                continue;
            };
            let (stream, address) = self.accept_one().await;
            return (Held { stream, slot }, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Held {
    /// Gives the socket, and the place that the connection holds until it is dropped.
    pub fn into_parts(self) -> (UnixStream, OwnedSemaphorePermit) {
        (self.stream, self.slot)
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
