//! Forward addresses: how programs of this host reach a group, one machine or what another host publishes, without root.
//! Each such place has one address in 127.64.0.0/10; its ports listen there on demand, because a listener on it
//! excludes 0.0.0.0 listeners of the user's own programs. What a name's query opened ends after an idle day, because a
//! proxy resolves a name once; what somebody opened by hand stays until it is closed, also over restarts.
//!
//! TCP is carried by connection, UDP by flow (`datagrams`).
//!
//! Owns the listeners. Decides nothing about names, nor where a connection goes.

mod datagrams;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh::net::splice;
use proto::{
    id::HostId,
    topology::{Port, Protocol},
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;

use datagrams::Flows;

use super::{
    balance::{Balance, Carried, Ways},
    places::{Place, Places, lock},
};
use crate::host::{limits::Shares, listen};

/// A forward that nobody asked for or used in this time gives its ports back.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Connections through one place's port at once: a browser opens six; those beyond wait in the kernel.
const MAX_CONNECTIONS: usize = 512;
/// What one connection holds in each direction.
const COPY_BYTES: usize = 32 * 1024;
/// A client that has closed its socket may look like one that listens on; its kernel knows, and is asked
/// after so much silence, this often, this many times.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Handle to all forwards of this host.
#[derive(Clone)]
pub struct Forwards {
    inner: Arc<Inner>,
}

struct Inner {
    places: Places,
    balance: Balance,
    open: Mutex<BTreeMap<Place, Open>>,
    /// See [`Forwards::edition`].
    edition: AtomicU64,
    /// One caller at a time opens: a second would find the port taken, by us.
    opening: tokio::sync::Mutex<()>,
    /// Ports that may listen at once, and connections through all of them: the rest of this process
    /// needs descriptors too.
    most: usize,
    carried: Arc<Semaphore>,
    /// Those of them that others in this host's own network may have, whoever they are.
    strangers: Arc<Semaphore>,
    flows: Flows,
}

struct Open {
    used: Arc<Mutex<Instant>>,
    listeners: BTreeMap<Port, (u16, JoinHandle<()>)>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for (_, task) in self.listeners.values() {
            task.abort();
        }
    }
}

impl Forwards {
    /// Reads the remembered addresses from `path`.
    pub fn new(me: HostId, path: PathBuf, ways: Ways, shares: Shares) -> Forwards {
        let Shares { listening: most, forwarded, .. } = shares;
        let (open, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        let carried = Arc::new(Semaphore::new(forwarded));
        let strangers = Arc::new(Semaphore::new(forwarded.div_ceil(2)));
        let flows = Flows::default();
        let (places, balance) = (Places::read(me, path), Balance::new(ways));
        let edition = AtomicU64::default();
        let inner = Inner { places, balance, open, edition, opening, most, carried, strangers, flows };
        Forwards { inner: Arc::new(inner) }
    }

    /// Gives the address of a place, assigning one at the first call.
    pub fn address(&self, place: impl Into<Place>) -> Option<Ipv4Addr> {
        let place = place.into();
        self.inner.places.address(&place).or_else(|| {
            self.assign(std::slice::from_ref(&place));
            self.inner.places.address(&place)
        })
    }

    /// Gives every place that has none an address, with one write for all.
    pub fn assign(&self, places: &[Place]) {
        self.inner.places.assign(places);
    }

    /// Makes every port of a place listen, and gives address and real port of each.
    pub async fn open(
        &self,
        place: impl Into<Place>,
        ports: impl IntoIterator<Item = impl Into<Port>>,
    ) -> io::Result<BTreeMap<Port, SocketAddrV4>> {
        let place = place.into();
        let address = self.address(place.clone()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "no free forward address in 127.64.0.0/10")
        })?;
        let mut found = BTreeMap::new();
        let _one = self.inner.opening.lock().await;
        for port in ports {
            let port = port.into();
            let here = match self.asked(&place, port) {
                Some(here) => here,
                None => SocketAddrV4::new(address, self.listen(&place, address, port).await?),
            };
            found.insert(port, here);
        }
        Ok(found)
    }

    /// Makes a port of a place listen until [`Forwards::close`], also after a restart.
    pub async fn hold(&self, place: impl Into<Place>, port: impl Into<Port>) -> io::Result<SocketAddrV4> {
        let (place, port) = (place.into(), port.into());
        let open = self.open(place.clone(), [port]).await?;
        self.inner.places.hold(&place, port);
        open.get(&port).copied().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Ends the listening on a port, and its flows; connections that it took go on. Tells whether there was any.
    pub fn close(&self, place: impl Into<Place>, port: impl Into<Port>) -> bool {
        let (place, port) = (place.into(), port.into());
        let held = self.inner.places.release(&place, port);
        let mut open = lock(&self.inner.open);
        let ended = open.get_mut(&place).and_then(|open| open.listeners.remove(&port));
        if let Some((_, task)) = &ended {
            task.abort();
            self.inner.edition.fetch_add(1, Ordering::Release);
        }
        held || ended.is_some()
    }

    /// Opens again what is to listen until it is closed. It counts as use.
    pub async fn open_held(&self) {
        for (place, ports) in self.inner.places.held() {
            if let Err(error) = self.open(place.clone(), ports).await {
                tracing::warn!(?place, %error, "what was opened by hand does not listen now");
            }
        }
    }

    /// Gives the port that stands in for `port` on this host, listening or remembered.
    pub fn port_here(&self, place: impl Into<Place>, port: impl Into<Port>) -> u16 {
        let (place, port) = (place.into(), port.into());
        if let Some(here) = lock(&self.inner.open).get(&place).and_then(|open| open.listeners.get(&port)) {
            return here.0;
        }
        self.inner.places.stand_in(&place, port).unwrap_or(port.number)
    }

    /// Forgets all other places: closes their listeners and gives their addresses back.
    pub fn keep(&self, exists: impl Fn(&Place) -> bool) {
        let mut open = lock(&self.inner.open);
        let before = open.len();
        open.retain(|place, _| exists(place));
        if open.len() < before {
            self.inner.edition.fetch_add(1, Ordering::Release);
        }
        drop(open);
        self.inner.places.keep(exists);
    }

    /// Closes what was idle for too long. Called now and then by the daemon.
    pub fn sweep(&self, now: Instant) {
        let mut open = lock(&self.inner.open);
        open.retain(|_, open| now.saturating_duration_since(*lock(&open.used)) < IDLE);
        self.inner.edition.fetch_add(1, Ordering::Release);
    }

    /// Gives a number that grows with whatever ends that a port listens, and with each sweep. While it is the same, what
    /// [`Forwards::open`] made listen listens; whoever takes that as an answer and asks no more asks again after each
    /// sweep, so that it counts as use.
    pub fn edition(&self) -> u64 {
        self.inner.edition.load(Ordering::Acquire)
    }

    /// Gives where a port of a place listens on this host now, if it does.
    pub fn listening(&self, place: impl Into<Place>, port: impl Into<Port>) -> Option<SocketAddrV4> {
        let (place, port) = (place.into(), port.into());
        let address = self.inner.places.address(&place)?;
        let open = lock(&self.inner.open);
        open.get(&place)?.listeners.get(&port).map(|(here, _)| SocketAddrV4::new(address, *here))
    }

    /// Like [`Forwards::listening`], and counts as use.
    fn asked(&self, place: &Place, port: Port) -> Option<SocketAddrV4> {
        let here = self.listening(place.clone(), port)?;
        if let Some(open) = lock(&self.inner.open).get(place) {
            *lock(&open.used) = Instant::now();
        }
        Some(here)
    }

    /// Counts the connections from this host, and the attempts.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.inner.balance.connections()
    }

    /// Tells how many connections to a place were refused because their turn at its machines did not come.
    pub fn refused(&self, place: impl Into<Place>) -> u64 {
        self.inner.balance.refused(&place.into())
    }

    /// Connects to a port of a place, for a connection that another listener of this host took.
    pub async fn connect(&self, place: impl Into<Place>, port: impl Into<Port>) -> io::Result<Carried> {
        self.inner.balance.connect(&place.into(), port.into()).await
    }

    /// Leads strangers' connections to a port of a place, until the handle is dropped; those that stand go on.
    pub fn lead(&self, listener: TcpListener, place: Place, port: u16) -> AbortOnDropHandle<()> {
        let (used, slots) = (Arc::new(Mutex::new(Instant::now())), self.inner.strangers.clone());
        let listening = Listening { place, port: port.into(), used };
        AbortOnDropHandle::new(tokio::spawn(serve(self.inner.clone(), listener, listening, slots)))
    }

    async fn listen(&self, place: &Place, address: Ipv4Addr, port: Port) -> io::Result<u16> {
        let listening: usize = lock(&self.inner.open).values().map(|open| open.listeners.len()).sum();
        if listening >= self.inner.most {
            let because =
                format!("{listening} ports of services listen already, all that `ulimit -n` allows");
            return Err(io::Error::other(because));
        }
        let bound = match port.protocol {
            Protocol::Tcp => Bound::Tcp(self.bind(place, address, port, listen::tcp)?),
            Protocol::Udp => Bound::Udp(self.bind(place, address, port, listen::udp)?),
        };
        let here = bound.local_addr()?.port();
        let mut open = lock(&self.inner.open);
        let entry = open.entry(place.clone()).or_insert_with(|| Open {
            used: Arc::new(Mutex::new(Instant::now())),
            listeners: BTreeMap::new(),
        });
        let listening = Listening { place: place.clone(), port, used: entry.used.clone() };
        let inner = self.inner.clone();
        let task = match bound {
            Bound::Tcp(listener) => {
                let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                tokio::spawn(serve(inner, listener, listening, slots))
            }
            Bound::Udp(socket) => tokio::spawn(datagrams::serve(inner, socket, listening)),
        };
        entry.listeners.insert(port, (here, task));
        drop(open);
        if here != port.number {
            self.inner.places.stands_in(place, port, here);
        }
        Ok(here)
    }

    /// Binds the port itself, else the remembered stand-in, else 8000 + port for privileged ones,
    /// else any free port.
    fn bind<T>(
        &self,
        place: &Place,
        address: Ipv4Addr,
        port: Port,
        listen: impl Fn(SocketAddr) -> io::Result<T>,
    ) -> io::Result<T> {
        let stand_in = (port.number < 1024).then_some(8000 + port.number);
        let remembered = self.port_here(place.clone(), port);
        for candidate in [Some(port.number), Some(remembered), stand_in].into_iter().flatten() {
            if let Ok(bound) = listen(SocketAddrV4::new(address, candidate).into()) {
                return Ok(bound);
            }
        }
        listen(SocketAddrV4::new(address, 0).into())
    }
}

/// What listens at a port.
enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Bound {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Bound::Tcp(listener) => listener.local_addr(),
            Bound::Udp(socket) => socket.local_addr(),
        }
    }
}

/// What a listener is for.
struct Listening {
    place: Place,
    port: Port,
    used: Arc<Mutex<Instant>>,
}

/// Accepts until aborted, as many at once as there are `slots`. Each connection goes to the first ready machine that
/// takes it. One that came waits for its turn: a port that nobody uses must hold nothing that others could use.
async fn serve(inner: Arc<Inner>, listener: TcpListener, listening: Listening, slots: Arc<Semaphore>) {
    let Listening { place, port, used } = listening;
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = keep_alive(&client) {
            tracing::debug!(%error, "a client that goes without a word will not be noticed");
        }
        *lock(&used) = Instant::now();
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok(carried) = inner.carried.clone().acquire_owned().await else { return };
        let (inner, place, used) = (inner.clone(), place.clone(), used.clone());
        tokio::spawn(async move {
            carry(&inner, client, &place, port).await;
            *lock(&used) = Instant::now();
            drop((slot, carried));
        });
    }
}

fn keep_alive(client: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEP_ALIVE;
    sockopt::set_tcp_keepidle(client, idle)?;
    sockopt::set_tcp_keepintvl(client, interval)?;
    sockopt::set_tcp_keepcnt(client, count)?;
    Ok(sockopt::set_socket_keepalive(client, true)?)
}

/// Carries one connection. When nobody takes it, the client sees a reset, as if refused.
async fn carry(inner: &Arc<Inner>, mut client: TcpStream, place: &Place, port: Port) {
    let lost = match inner.balance.connect(place, port).await {
        Ok(mut carried) => {
            let done = splice(&mut client, &mut carried.stream, COPY_BYTES).await;
            tracing::trace!(behind = ?carried.counted.behind, ?port, ?done, "forward ended");
            done.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
        }
        Err(error) => {
            tracing::debug!(?place, ?port, %error, "a connection was taken by nobody");
            true
        }
    };
    if lost && let Err(error) = client.set_zero_linger() {
        tracing::trace!(%error, "a connection that was refused or lost bytes ends without a reset");
    }
}

#[cfg(test)]
mod tests;
