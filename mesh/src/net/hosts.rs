//! The other hosts of the session network: one link per host, dialed on demand.
//!
//! Both sides may dial, so two connections can exist. Packets are received on all of them and
//! sent on the one that the host with the lower id dialed, or else on any; so both sides agree
//! without asking. Whoever waits for a connection waits for the same attempt, and after a failed
//! one everybody fails at once until the back-off is over. A host dials only when it has no
//! connection; so when it does, what we still hold from before was lost by its restart.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::endpoint::{Connection, SendDatagramError, VarInt};
use proto::{backoff::BackOff, id::HostId, time::Moment};
use tokio::{sync::mpsc, task::JoinSet, time};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ALPN, Net,
    counts::{Count, Counters, Counts},
    forward,
};
use crate::{
    clock::Clock,
    identity::endpoint_id,
    link::split::{self, Joiner, Split, Tag},
    transport::endpoint::connect,
};

/// Packets to one host that may wait for its connection: one window of a guest's TCP.
const QUEUE: usize = 256;
/// Packets that are given to a connection in one go.
const BATCH: usize = 64;
/// Bytes that may wait inside a connection for the path to take them. More would only be delay:
/// 200 ms on 10 Mbit/s, where iroh's own limit is 1 MiB.
const BUFFER: usize = 256 * 1024;
/// Long enough for a relayed handshake that has to be repeated.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// TCP forwards that one host may have open into this one.
const STREAMS: u32 = 512;
const DONE: VarInt = VarInt::from_u32(0);

/// Which side dialed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialer {
    Us,
    Them,
}

#[derive(Default)]
pub(super) struct Hosts(Mutex<HashMap<HostId, Arc<Neighbour>>>);

/// Everything about one other host.
pub(super) struct Neighbour {
    host: HostId,
    queue: mpsc::Sender<(Tag, Bytes)>,
    open: Mutex<Vec<Open>>,
    /// Held while dialing.
    dialing: tokio::sync::Mutex<Attempts>,
    tasks: Mutex<JoinSet<()>>,
    counters: Counters,
    pump: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Clone)]
struct Open {
    connection: Connection,
    dialer: Dialer,
    since: Instant,
    /// What its datagram buffer holds when empty.
    capacity: usize,
}

/// Why there is no connection to a host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreachable {
    /// There is no endpoint, or the id is no key.
    #[error("the host cannot be dialed")]
    NotNow,
    /// An attempt failed a moment ago.
    #[error("the last attempt failed; the next one is in {0:?}")]
    BackOff(Duration),
    /// This attempt failed.
    #[error("the host does not answer: {0}")]
    Failed(String),
}

/// Spaces attempts: from half a second to 15 seconds, and from the start after a calm minute.
#[derive(Debug, Default)]
struct Attempts {
    tries: u32,
    last: Option<Moment>,
}

impl Attempts {
    const PAUSES: BackOff = BackOff::new(500, 15_000);
    const CALM: Duration = Duration::from_secs(60);

    /// Begins an attempt, or tells how long it has to wait.
    fn begin(&mut self, now: Moment) -> Result<(), Duration> {
        let pause = Self::PAUSES.after(self.tries);
        match self.last.map(|last| now.since(last)) {
            Some(since) if since < pause => return Err(pause - since),
            Some(since) if since < Self::CALM => self.tries += 1,
            _ => self.tries = 1,
        }
        self.last = Some(now);
        Ok(())
    }
}

impl Hosts {
    /// Sends a packet to a host, now or never.
    pub fn send(&self, net: &Net, host: HostId, tag: Tag, packet: Bytes) {
        let link = self.link(net, host);
        if link.queue.try_send((tag, packet)).is_err() {
            link.counters.add(Count::QueueFull);
        }
    }

    /// Gives the link to a host.
    pub fn link(&self, net: &Net, host: HostId) -> Arc<Neighbour> {
        let mut links = lock(&self.0);
        let link = links.entry(host).or_insert_with(|| {
            let (queue, packets) = mpsc::channel(QUEUE);
            let link = Arc::new(Neighbour {
                host,
                queue,
                open: Mutex::default(),
                dialing: tokio::sync::Mutex::default(),
                tasks: Mutex::default(),
                counters: Counters::default(),
                pump: Mutex::default(),
            });
            let task = tokio::spawn(pump(net.clone(), link.clone(), packets));
            *lock(&link.pump) = Some(AbortOnDropHandle::new(task));
            link
        });
        link.clone()
    }

    /// Tells what was carried to and from each host, and what was lost.
    pub fn counts(&self) -> Vec<(HostId, Counts)> {
        let mut all: Vec<_> =
            lock(&self.0).iter().map(|(host, link)| (*host, link.counters.counts())).collect();
        all.sort_by_key(|(host, _)| *host);
        all
    }

    /// Closes all connections and ends all tasks.
    pub fn close(&self) {
        for (_, link) in lock(&self.0).drain() {
            lock(&link.pump).take();
            for open in lock(&link.open).drain(..) {
                open.connection.close(DONE, b"bye");
            }
            lock(&link.tasks).abort_all();
        }
    }
}

impl Neighbour {
    /// Gives the connection to send on, dialing when there is none.
    pub async fn connection(self: &Arc<Self>, net: &Net) -> Result<Connection, Unreachable> {
        Ok(self.pick_or_dial(net).await?.connection)
    }

    async fn pick_or_dial(self: &Arc<Self>, net: &Net) -> Result<Open, Unreachable> {
        if let Some(open) = self.pick(net) {
            return Ok(open);
        }
        let mut attempts = self.dialing.lock().await;
        // Somebody else may have dialed while we waited, or the host itself.
        if let Some(open) = self.pick(net) {
            return Ok(open);
        }
        let (endpoint, lets_in) = net.0.outside.as_ref().ok_or(Unreachable::NotNow)?;
        if !lets_in(self.host).await {
            return Err(Unreachable::NotNow);
        }
        let id = endpoint_id(&self.host).ok_or(Unreachable::NotNow)?;
        attempts.begin(Clock.moment()).map_err(Unreachable::BackOff)?;
        let connection = match time::timeout(CONNECT_WITHIN, connect(endpoint, id, ALPN)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(Unreachable::Failed(error.to_string())),
            Err(_) => return Err(Unreachable::Failed("no answer in time".to_owned())),
        };
        let open = self.add(connection.clone(), Dialer::Us);
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(serve(net.clone(), self.clone(), connection));
        Ok(open)
    }

    fn pick(&self, net: &Net) -> Option<Open> {
        let me = net.0.me()?;
        let open = lock(&self.open);
        let alive = || open.iter().filter(|open| open.connection.close_reason().is_none());
        let wanted = preferred(me, self.host);
        alive().rfind(|open| open.dialer == wanted).or_else(|| alive().next_back()).cloned()
    }

    fn add(&self, connection: Connection, dialer: Dialer) -> Open {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
        let capacity = connection.datagram_send_buffer_space();
        let now = Instant::now();
        let open = Open { connection, dialer, since: now, capacity };
        let mut all = lock(&self.open);
        if dialer == Dialer::Them {
            // Two attempts that cross are at most this far apart.
            for lost in all.iter().filter(|open| now - open.since > CONNECT_WITHIN) {
                lost.connection.close(DONE, b"replaced");
            }
        }
        all.push(open.clone());
        open
    }

    fn remove(&self, connection: &Connection) {
        let id = connection.stable_id();
        lock(&self.open).retain(|open| open.connection.stable_id() != id);
    }
}

/// Decides whose connection both sides send on.
fn preferred(me: HostId, them: HostId) -> Dialer {
    if me < them { Dialer::Us } else { Dialer::Them }
}

/// Serves a connection that another host dialed, until it ends.
pub(super) async fn run(net: Net, host: HostId, connection: Connection, dialer: Dialer) {
    let link = net.0.hosts.link(&net, host);
    link.add(connection.clone(), dialer);
    serve(net, link, connection).await;
}

/// Receives everything that comes over a connection, until it ends.
async fn serve(net: Net, link: Arc<Neighbour>, connection: Connection) {
    tokio::select! {
        () = datagrams(&net, &link, &connection) => {}
        () = streams(&net, link.host, &connection) => {}
    }
    link.remove(&connection);
    connection.close(DONE, b"bye");
}

async fn datagrams(net: &Net, link: &Neighbour, connection: &Connection) {
    let mut joiner = Joiner::default();
    while let Ok(bytes) = connection.read_datagram().await {
        let Some(datagram) = split::read(bytes) else {
            link.counters.add(Count::Malformed);
            continue;
        };
        if let Some((tag, packet)) = joiner.join(datagram, Instant::now()) {
            link.counters.add(net.arriving(link.host, tag, packet));
        }
    }
}

async fn streams(net: &Net, from: HostId, connection: &Connection) {
    // Ends with the connection; QUIC bounds how many there are.
    let mut forwards = JoinSet::new();
    while let Ok((send, recv)) = connection.accept_bi().await {
        while forwards.try_join_next().is_some() {}
        forwards.spawn(forward::serve(net.clone(), from, send, recv));
    }
}

/// Carries the packets for one host to its connection.
async fn pump(net: Net, link: Arc<Neighbour>, mut packets: mpsc::Receiver<(Tag, Bytes)>) {
    let mut id = 0u32;
    let mut batch = Vec::with_capacity(BATCH);
    // The sender is in the link, which we hold, so the queue never ends.
    while packets.recv_many(&mut batch, BATCH).await > 0 {
        match link.pick_or_dial(&net).await {
            Ok(open) => {
                let mut way = Way::new(&open);
                for (tag, packet) in batch.drain(..) {
                    id = id.wrapping_add(1);
                    link.counters.add(way.transmit(tag, &packet, id));
                }
            }
            Err(error) => {
                tracing::trace!(host = %link.host.short(), %error, "packets are lost");
                batch.drain(..).for_each(|_| link.counters.add(Count::Unreachable));
            }
        }
    }
}

/// What a connection takes at the moment. Asking it costs a lock that its own task wants, so it is asked once for many packets.
struct Way<'a> {
    open: &'a Open,
    /// Bytes of a datagram; none while the other side takes no datagrams.
    max: Option<usize>,
    /// Bytes of the buffer that are free at least.
    space: usize,
}

impl Way<'_> {
    fn new(open: &Open) -> Way<'_> {
        let connection = &open.connection;
        Way { open, max: connection.max_datagram_size(), space: connection.datagram_send_buffer_space() }
    }

    fn is_full(&self, max: usize) -> bool {
        // Two halves and their tags are shorter than twice the packet's limit.
        self.space < 2 * max || self.open.capacity.saturating_sub(self.space) > BUFFER
    }

    /// Sends a packet, and tells what became of it.
    fn transmit(&mut self, tag: Tag, packet: &Bytes, id: u32) -> Count {
        let connection = &self.open.connection;
        // The path decides how much a datagram holds, and paths change, also between the question and the sending.
        for _ in 0..2 {
            let Some(max) = self.max else { return Count::Unreachable };
            if self.is_full(max) {
                self.space = connection.datagram_send_buffer_space();
                if self.is_full(max) {
                    return Count::QueueFull;
                }
            }
            let (sent, what) = match split::split(tag, packet, id, max) {
                Split::Whole(datagram) => (connection.send_datagram(datagram), Count::Sent(packet.len())),
                Split::Halves(first, second) => {
                    let first = connection.send_datagram(first);
                    (first.and_then(|()| connection.send_datagram(second)), Count::SentInTwo(packet.len()))
                }
                Split::TooLong => return Count::TooLong,
            };
            // What the connection keeps beside the bytes is not worth a question.
            self.space = self.space.saturating_sub(packet.len());
            match sent {
                Ok(()) => return what,
                Err(SendDatagramError::TooLarge) => *self = Way::new(self.open),
                Err(error) => {
                    tracing::trace!(%error, "a packet is lost");
                    return Count::Unreachable;
                }
            }
        }
        Count::TooLong
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_choose_the_same_connection() {
        let (low, high) = (HostId([1; 32]), HostId([2; 32]));
        assert_eq!(preferred(low, high), Dialer::Us);
        assert_eq!(preferred(high, low), Dialer::Them);
    }

    #[test]
    fn attempts_get_rarer_and_start_over_after_a_calm_minute() {
        let (start, mut attempts) = (Moment(1_000_000), Attempts::default());
        let at = |ms| start.plus_ms(ms);
        assert_eq!(attempts.begin(at(0)), Ok(()));
        assert_eq!(attempts.begin(at(400)), Err(Duration::from_millis(100)));
        assert_eq!(attempts.begin(at(500)), Ok(()));
        assert_eq!(attempts.begin(at(1000)), Err(Duration::from_millis(500)));
        for second in 1..10 {
            assert_eq!(attempts.begin(at(1000 + second * 16_000)), Ok(()));
        }
        assert_eq!(attempts.begin(at(145_001)), Err(Duration::from_millis(14_999)));
        assert_eq!(attempts.begin(at(210_000)), Ok(()));
        assert_eq!(attempts.begin(at(210_500)), Ok(()));
    }
}
