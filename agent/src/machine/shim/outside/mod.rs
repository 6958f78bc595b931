//! The sockets of one guest's connections to the outside. Each has one task, which waits for its socket so
//! that the edge never does; where a guest may go was decided before anything comes here. They live in the
//! shim, so they outlive the agent.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::link::{Heard, Kind, Unconnected, Upstream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{descriptors::Descriptors, happening::Happening, names::Names};

mod datagrams;
mod stream;
#[cfg(test)]
mod tests;

/// Datagrams of one socket that wait to be sent.
const MAX_QUEUED: usize = 64;
/// Datagrams of all sockets that wait to be sent: 5 MiB.
const MAX_WAITING: usize = 4096;
/// How old what is known of the host's own network may be.
const FRESH: Duration = Duration::from_secs(1);

/// All sockets of one guest.
pub struct Outside {
    streams: BTreeMap<u64, Stream>,
    sockets: BTreeMap<u64, Socket>,
    told: Told,
    names: Names,
    gateway: Ipv4Addr,
    looked: Option<Instant>,
    descriptors: Descriptors,
    /// Streams that both sides have ended and whose last bytes the outside has not taken yet.
    ending: TaskTracker,
    waiting: Arc<Semaphore>,
}

/// Tells the edge, as long as it is the one that asked.
#[derive(Clone)]
pub struct Told {
    /// Which edge: a guest that is reset gets a new one, whose ids begin anew.
    pub edge: u64,
    /// To the edge.
    pub happen: mpsc::Sender<Happening>,
}

impl Told {
    async fn tell(&self, heard: Heard) -> Result<(), Over> {
        self.happen.send(Happening::Heard(self.edge, heard)).await.map_err(|_| Over)
    }
}

/// Nobody carries the network any more.
struct Over;

struct Stream {
    /// Bytes for the outside; `None` = no more. Never more than the edge's window, so it needs no bound.
    output: mpsc::UnboundedSender<Option<Bytes>>,
    /// How many bytes the guest takes now.
    room: Arc<Semaphore>,
    /// Ends the task; disarmed when what is queued shall still be written.
    over: DropGuard,
    /// Cancelled when both sides have ended it.
    ended: CancellationToken,
}

/// A datagram that waits to be sent, with its place.
type Waiting = (SocketAddr, Bytes, OwnedSemaphorePermit);

struct Socket {
    output: mpsc::Sender<Waiting>,
    _over: DropGuard,
}

impl Outside {
    /// Makes a guest's outside without any socket.
    pub fn new(told: Told, names: Names, gateway: Ipv4Addr, descriptors: Descriptors) -> Outside {
        Outside {
            streams: BTreeMap::new(),
            sockets: BTreeMap::new(),
            told,
            names,
            gateway,
            looked: None,
            descriptors,
            ending: TaskTracker::new(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Begins anew for the next edge: all that the last one had open is over, but for what was ended in order.
    pub fn begin_anew(&mut self) {
        self.streams.clear();
        self.sockets.clear();
        self.told.edge += 1;
    }

    /// Says which edge this is for.
    pub fn edge(&self) -> u64 {
        self.told.edge
    }

    /// Counts the streams that are over for the guest and still hold their descriptors.
    pub fn ending(&self) -> usize {
        self.ending.len()
    }

    /// Says whether the host's own network is to be looked at again.
    pub fn stale(&mut self, now: Instant) -> bool {
        let stale = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= FRESH);
        if stale {
            self.looked = Some(now);
        }
        stale
    }

    /// Forgets a stream that told its end.
    pub fn forget(&mut self, heard: &Heard) {
        match heard {
            Heard::Failed { id, .. } | Heard::Gone { id } => drop(self.streams.remove(id)),
            Heard::Shut { id } => drop(self.sockets.remove(id)),
            _ => {}
        }
    }

    /// Carries out what the edge wants.
    pub fn on(&mut self, upstream: Upstream) {
        match upstream {
            Upstream::Connect { id, to, room } => self.connect(id, to, room),
            Upstream::Send { id, bytes } => self.output(id, Some(bytes)),
            Upstream::End { id } => self.output(id, None),
            Upstream::Room { id, bytes } => {
                if let Some(stream) = self.streams.get(&id) {
                    stream.room.add_permits(bytes);
                }
            }
            Upstream::Close { id, clean } => {
                if let Some(stream) = self.streams.remove(&id).filter(|_| clean) {
                    // Its task ends when all is written, or has waited long enough.
                    stream.ended.cancel();
                    stream.over.disarm();
                }
            }
            Upstream::Open { id, kind } => self.open(id, kind),
            Upstream::Datagram { id, to, bytes } => {
                // A full queue loses it, as a wire would.
                if let Some(socket) = self.sockets.get(&id)
                    && let Ok(place) = self.waiting.clone().try_acquire_owned()
                {
                    socket.output.try_send((to, bytes, place)).ok();
                }
            }
            Upstream::Shut { id } => drop(self.sockets.remove(&id)),
        }
    }

    fn output(&mut self, id: u64, bytes: Option<Bytes>) {
        if let Some(stream) = self.streams.get(&id) {
            // A task that ended has told so.
            stream.output.send(bytes).ok();
        }
    }

    /// Says no; the edge, which called, takes no word while it waits.
    fn refuse(&self, no: Heard) {
        let told = self.told.clone();
        tokio::spawn(async move { told.tell(no).await.ok() });
    }

    fn connect(&mut self, id: u64, to: SocketAddr, room: usize) {
        let names = (to.ip() == self.gateway).then(|| self.names.clone());
        // Of a service of the gateway both ends are here.
        let Some(held) = self.descriptors.stream(if names.is_some() { 2 } else { 1 }) else {
            return self.refuse(Heard::Failed { id, because: Unconnected::Busy });
        };
        let (output, queued) = mpsc::unbounded_channel();
        let line = stream::Line {
            id,
            room: Arc::new(Semaphore::new(room)),
            told: self.told.clone(),
            over: CancellationToken::new(),
            ended: CancellationToken::new(),
            ending: self.ending.clone(),
            _held: held,
        };
        let (over, ended) = (line.over.clone().drop_guard(), line.ended.clone());
        self.streams.insert(id, Stream { output, room: line.room.clone(), over, ended });
        tokio::spawn(async move {
            // What the edge hears last is up to it.
            let _ = match names {
                Some(names) => line.ask_names(names, queued).await,
                None => line.connect(to, room, queued).await,
            };
        });
    }

    fn open(&mut self, id: u64, kind: Kind) {
        let Some(held) = self.descriptors.socket() else {
            return self.refuse(Heard::Shut { id });
        };
        let (output, queued) = mpsc::channel(MAX_QUEUED);
        let over = CancellationToken::new();
        let (told, stop) = (self.told.clone(), over.clone());
        self.sockets.insert(id, Socket { output, _over: over.drop_guard() });
        tokio::spawn(async move {
            // A datagram that is lost half-way is lost.
            let ended = stop.run_until_cancelled(datagrams::carry(id, kind, &told, queued)).await;
            drop(held);
            // Of one that is not wanted any more the edge knows.
            if matches!(ended, Some(Err(_))) {
                told.tell(Heard::Shut { id }).await.ok();
            }
        });
    }
}
