//! Forward addresses: how programs of this host reach a group or one machine without root. Each such
//! label (`web`, `web-1`) has one address in 127.64.0.0/10; declared services listen there on demand, because a listener on it
//! excludes 0.0.0.0 listeners of the user's own programs. What a name's query opened ends after an idle day, because a
//! proxy resolves a name once; what somebody opened by hand stays until it is closed, also over restarts.
//!
//! Owns the listeners and the remembered addresses and ports. Decides nothing about names.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mesh::net::{End, splice};
use proto::{
    id::{HostId, MachineName, SessionId},
    names,
};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

use crate::host::{durable, limits::Shares};

/// A forward that nobody asked for or used in this time gives its ports back.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Connections through one label's port at once: a browser opens six, a load test stops here.
const MAX_CONNECTIONS: usize = 512;
/// What one connection holds in each direction.
const COPY_BYTES: usize = 32 * 1024;
/// A client that has closed its socket may look like one that listens on; its kernel knows, and is asked
/// after so much silence, this often, this many times.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);
/// Addresses tried for one label before giving up; two labels of one host rarely meet.
const ADDRESS_TRIES: u32 = 64;

/// Opens a stream to a port of a machine, wherever it runs.
pub type Dial =
    Arc<dyn Fn(SessionId, MachineName, u16) -> BoxFuture<'static, io::Result<Box<dyn End>>> + Send + Sync>;

/// Gives the ready machines behind a label, nearest first.
pub type Targets = Arc<dyn Fn(SessionId, &str) -> Vec<MachineName> + Send + Sync>;

/// Handle to all forwards of this host.
#[derive(Clone)]
pub struct Forwards {
    inner: Arc<Inner>,
}

struct Inner {
    me: HostId,
    path: PathBuf,
    dial: Dial,
    targets: Targets,
    kept: Mutex<Kept>,
    open: Mutex<BTreeMap<(SessionId, String), Open>>,
    /// One caller at a time opens: a second would find the port taken, by us.
    opening: tokio::sync::Mutex<()>,
    /// Ports that may listen at once, and connections through all of them: the rest of this process
    /// needs descriptors too.
    most: usize,
    carried: Arc<Semaphore>,
    /// Connections to each machine from this host.
    busy: Mutex<BTreeMap<(SessionId, MachineName), usize>>,
}

/// A connection into a machine, counted until it is dropped.
pub struct Carried {
    stream: Box<dyn End>,
    counted: Counted,
}

impl Carried {
    /// Gives the bytes, and what counts them as long as it lives.
    pub fn into_parts(self) -> (Box<dyn End>, Counted) {
        (self.stream, self.counted)
    }
}

/// One connection in the count of a machine's.
pub struct Counted {
    inner: Arc<Inner>,
    machine: (SessionId, MachineName),
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut busy = lock(&self.inner.busy);
        let left = busy.get(&self.machine).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => busy.remove(&self.machine),
            left => busy.insert(self.machine.clone(), left),
        };
    }
}

/// What survives a restart: addresses people may have written down, and ports that stood in.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    labels: BTreeMap<SessionId, BTreeMap<String, KeptLabel>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeptLabel {
    address: Ipv4Addr,
    /// Port asked for -> port that listens, where they differ.
    ports: BTreeMap<u16, u16>,
    /// Ports that listen until somebody closes them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    held: BTreeSet<u16>,
}

struct Open {
    used: Arc<Mutex<Instant>>,
    listeners: BTreeMap<u16, (u16, JoinHandle<()>)>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for (_, task) in self.listeners.values() {
            task.abort();
        }
    }
}

impl Forwards {
    /// Reads the remembered addresses from `path`. An unreadable file starts afresh: only stability
    /// of addresses is lost.
    pub fn new(me: HostId, path: PathBuf, dial: Dial, targets: Targets, shares: Shares) -> Forwards {
        let kept = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let (kept, open, opening) = (Mutex::new(kept), Mutex::default(), tokio::sync::Mutex::default());
        let Shares { listening: most, forwarded, .. } = shares;
        let carried = Arc::new(Semaphore::new(forwarded));
        let busy = Mutex::default();
        Forwards {
            inner: Arc::new(Inner { me, path, dial, targets, kept, open, opening, most, carried, busy }),
        }
    }

    /// Gives the address of a label, assigning one at the first call.
    pub fn address(&self, session: SessionId, label: &str) -> Option<Ipv4Addr> {
        if let Some(known) = self.known(session, label) {
            return Some(known);
        }
        self.assign(session, &[label.to_owned()]);
        self.known(session, label)
    }

    /// Gives every label of a session that has none an address, with one write for all.
    pub fn assign(&self, session: SessionId, labels: &[String]) {
        let mut kept = lock(&self.inner.kept);
        let has = |label: &&String| kept.labels.get(&session).is_some_and(|all| all.contains_key(*label));
        let new: Vec<&String> = labels.iter().filter(|label| !has(label)).collect();
        if new.is_empty() {
            return;
        }
        let mut taken: BTreeSet<Ipv4Addr> =
            kept.labels.values().flat_map(|labels| labels.values().map(|kept| kept.address)).collect();
        for label in new {
            let address = (0..ADDRESS_TRIES)
                .map(|i| names::forward_address(self.inner.me, session, label, i))
                .find(|candidate| !taken.contains(candidate) && bindable(*candidate));
            let Some(address) = address else { continue };
            taken.insert(address);
            let entry = KeptLabel { address, ports: BTreeMap::new(), held: BTreeSet::new() };
            kept.labels.entry(session).or_default().insert(label.clone(), entry);
        }
        self.save(&kept);
    }

    fn known(&self, session: SessionId, label: &str) -> Option<Ipv4Addr> {
        lock(&self.inner.kept).labels.get(&session)?.get(label).map(|kept| kept.address)
    }

    /// Makes every port of a label listen, and gives address and real port of each.
    pub async fn open(
        &self,
        session: SessionId,
        label: &str,
        ports: impl IntoIterator<Item = u16>,
    ) -> io::Result<BTreeMap<u16, SocketAddrV4>> {
        let address = self.address(session, label).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "no free forward address in 127.64.0.0/10")
        })?;
        let mut found = BTreeMap::new();
        let _one = self.inner.opening.lock().await;
        for port in ports {
            let here = match self.asked(session, label, port) {
                Some(here) => here,
                None => SocketAddrV4::new(address, self.listen(session, label, address, port).await?),
            };
            found.insert(port, here);
        }
        Ok(found)
    }

    /// Makes a port of a label listen until [`Forwards::close`], also after a restart.
    pub async fn hold(&self, session: SessionId, label: &str, port: u16) -> io::Result<SocketAddrV4> {
        let open = self.open(session, label, [port]).await?;
        self.remember(session, label, |kept| kept.held.insert(port));
        open.get(&port).copied().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Ends the listening on a port; connections that it took go on. Tells whether there was any.
    pub fn close(&self, session: SessionId, label: &str, port: u16) -> bool {
        let held = self.remember(session, label, |kept| kept.held.remove(&port));
        let mut open = lock(&self.inner.open);
        let ended = open.get_mut(&(session, label.to_owned())).and_then(|open| open.listeners.remove(&port));
        if let Some((_, task)) = &ended {
            task.abort();
        }
        held || ended.is_some()
    }

    /// Opens again what is to listen until it is closed. It counts as use.
    pub async fn open_held(&self) {
        let held: Vec<(SessionId, String, BTreeSet<u16>)> = {
            let kept = lock(&self.inner.kept);
            let of = |(session, labels): (&SessionId, &BTreeMap<String, KeptLabel>)| {
                let session = *session;
                let held = labels.iter().filter(|(_, kept)| !kept.held.is_empty());
                held.map(|(label, kept)| (session, label.clone(), kept.held.clone())).collect::<Vec<_>>()
            };
            kept.labels.iter().flat_map(of).collect()
        };
        for (session, label, ports) in held {
            if let Err(error) = self.open(session, &label, ports).await {
                tracing::warn!(label, %error, "what was opened by hand does not listen now");
            }
        }
    }

    /// Changes what is remembered of a label. Tells what `change` does: whether anything changed.
    fn remember(&self, session: SessionId, label: &str, change: impl FnOnce(&mut KeptLabel) -> bool) -> bool {
        let mut kept = lock(&self.inner.kept);
        let of = kept.labels.get_mut(&session).and_then(|labels| labels.get_mut(label));
        let changed = of.is_some_and(change);
        if changed {
            self.save(&kept);
        }
        changed
    }

    /// Gives the port that stands in for `port` on this host, listening or remembered.
    pub fn port_here(&self, session: SessionId, label: &str, port: u16) -> u16 {
        if let Some(here) =
            lock(&self.inner.open).get(&(session, label.to_owned())).and_then(|o| o.listeners.get(&port))
        {
            return here.0;
        }
        let kept = lock(&self.inner.kept);
        let remembered = kept
            .labels
            .get(&session)
            .and_then(|labels| labels.get(label))
            .and_then(|kept| kept.ports.get(&port));
        remembered.copied().unwrap_or(port)
    }

    /// Forgets all other sessions: closes their listeners and gives their addresses back.
    pub fn keep(&self, exists: impl Fn(SessionId) -> bool) {
        lock(&self.inner.open).retain(|(session, _), _| exists(*session));
        let mut kept = lock(&self.inner.kept);
        let before = kept.labels.len();
        kept.labels.retain(|session, _| exists(*session));
        if kept.labels.len() != before {
            self.save(&kept);
        }
    }

    /// Closes what was idle for too long. Called now and then by the daemon.
    pub fn sweep(&self, now: Instant) {
        lock(&self.inner.open).retain(|_, open| now.saturating_duration_since(*lock(&open.used)) < IDLE);
    }

    /// Gives where a port of a label listens on this host now, if it does.
    pub fn listening(&self, session: SessionId, label: &str, port: u16) -> Option<SocketAddrV4> {
        let address = self.address(session, label)?;
        let open = lock(&self.inner.open);
        let open = open.get(&(session, label.to_owned()))?;
        open.listeners.get(&port).map(|(here, _)| SocketAddrV4::new(address, *here))
    }

    /// Like [`Forwards::listening`], and counts as use.
    fn asked(&self, session: SessionId, label: &str, port: u16) -> Option<SocketAddrV4> {
        let here = self.listening(session, label, port)?;
        if let Some(open) = lock(&self.inner.open).get(&(session, label.to_owned())) {
            *lock(&open.used) = Instant::now();
        }
        Some(here)
    }

    /// Counts the connections into machines from this host, and the attempts.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        lock(&self.inner.busy).values().sum()
    }

    /// Connects to a port of a ready machine behind a label, for a connection that another listener of this host took.
    pub async fn connect(&self, session: SessionId, label: &str, port: u16) -> io::Result<Carried> {
        connect(&self.inner, session, label, port).await
    }

    async fn listen(&self, session: SessionId, label: &str, address: Ipv4Addr, port: u16) -> io::Result<u16> {
        let listening: usize = lock(&self.inner.open).values().map(|open| open.listeners.len()).sum();
        if listening >= self.inner.most {
            let because =
                format!("{listening} ports of services listen already, all that `ulimit -n` allows");
            return Err(io::Error::other(because));
        }
        let listener = self.bind(session, label, address, port).await?;
        let here = listener.local_addr()?.port();
        let mut open = lock(&self.inner.open);
        let entry = open.entry((session, label.to_owned())).or_insert_with(|| Open {
            used: Arc::new(Mutex::new(Instant::now())),
            listeners: BTreeMap::new(),
        });
        let serve = serve(self.inner.clone(), listener, session, label.to_owned(), port, entry.used.clone());
        entry.listeners.insert(port, (here, tokio::spawn(serve)));
        drop(open);
        if here != port {
            self.remember(session, label, |kept| kept.ports.insert(port, here) != Some(here));
        }
        Ok(here)
    }

    /// Binds the port itself, else the remembered stand-in, else 8000 + port for privileged ones,
    /// else any free port.
    async fn bind(
        &self,
        session: SessionId,
        label: &str,
        address: Ipv4Addr,
        port: u16,
    ) -> io::Result<TcpListener> {
        let stand_in = (port < 1024).then_some(8000 + port);
        for candidate in
            [Some(port), Some(self.port_here(session, label, port)), stand_in].into_iter().flatten()
        {
            if let Ok(listener) = TcpListener::bind((address, candidate)).await {
                return Ok(listener);
            }
        }
        TcpListener::bind((address, 0)).await
    }

    fn save(&self, kept: &Kept) {
        let written = serde_json::to_vec_pretty(kept)
            .map_err(io::Error::other)
            .and_then(|bytes| durable::write(&self.inner.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %self.inner.path.display(), %error, "forward addresses are not remembered");
        }
    }
}

/// Accepts until aborted. Each connection goes to the first ready machine that takes it. One that
/// came waits for its turn: a port that nobody uses must hold nothing that others could use.
async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    session: SessionId,
    label: String,
    port: u16,
    used: Arc<Mutex<Instant>>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
        let (inner, label, used) = (inner.clone(), label.clone(), used.clone());
        tokio::spawn(async move {
            carry(&inner, client, session, &label, port).await;
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

/// Carries one connection. When no machine takes it, the client sees a reset, as if refused.
async fn carry(inner: &Arc<Inner>, mut client: TcpStream, session: SessionId, label: &str, port: u16) {
    let lost = match connect(inner, session, label, port).await {
        Ok(mut carried) => {
            let done = splice(&mut client, &mut carried.stream, COPY_BYTES).await;
            tracing::trace!(machine = %carried.counted.machine.1, port, ?done, "forward ended");
            done.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
        }
        Err(error) => {
            tracing::debug!(label, port, %error, "a connection was taken by no machine");
            true
        }
    };
    if lost && let Err(error) = client.set_zero_linger() {
        tracing::trace!(%error, "a connection that was refused or lost bytes ends without a reset");
    }
}

/// Connects to a port of a ready machine behind a label: the one with the fewest connections from here, among equals
/// the nearest; the next one where that fails.
async fn connect(inner: &Arc<Inner>, session: SessionId, label: &str, port: u16) -> io::Result<Carried> {
    let mut machines = (inner.targets)(session, label);
    {
        let busy = lock(&inner.busy);
        // Stable: among equally busy machines the nearest stays first.
        machines.sort_by_key(|machine| busy.get(&(session, machine.clone())).copied().unwrap_or(0));
    }
    let mut last = io::Error::new(io::ErrorKind::NotConnected, "no machine behind it is ready");
    for machine in machines {
        // Counted from the attempt on: of many that come at once, each sees those before it.
        *lock(&inner.busy).entry((session, machine.clone())).or_default() += 1;
        let counted = Counted { inner: inner.clone(), machine: (session, machine.clone()) };
        match (inner.dial)(session, machine, port).await {
            Ok(stream) => return Ok(Carried { stream, counted }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bindable(address: Ipv4Addr) -> bool {
    std::net::TcpListener::bind((address, 0)).is_ok()
}

/// A poisoned lock only means that another task panicked between two plain assignments.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A dialer whose machines answer with their name, except those that are away.
    fn dial(away: &'static [&'static str]) -> Dial {
        Arc::new(move |_, machine, _| {
            Box::pin(async move {
                if away.contains(&machine.to_string().as_str()) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let (near, mut far) = tokio::io::duplex(1024);
                tokio::spawn(async move { far.write_all(machine.to_string().as_bytes()).await });
                Ok(Box::new(near) as Box<dyn End>)
            })
        })
    }

    fn forwards(
        dir: &tempfile::TempDir,
        away: &'static [&'static str],
        ready: &'static [&'static str],
    ) -> Forwards {
        let targets: Targets = Arc::new(move |_, _| ready.iter().map(|name| name.parse().unwrap()).collect());
        let shares = Shares { api: 1, names: 1, forwarded: 2, listening: 8, browsing: 1, proxied: 1 };
        Forwards::new(HostId([1; 32]), dir.path().join("forward.json"), dial(away), targets, shares)
    }

    async fn ask(address: SocketAddrV4) -> String {
        let mut text = String::new();
        let mut client = TcpStream::connect(address).await.unwrap();
        // A reset is an empty answer here.
        let _ended = client.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_first_machine_that_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (session, label) = (SessionId([5; 16]), "web");
        let forwards = forwards(&dir, &["web-1"], &["web-1", "web-2"]);
        let found = forwards.open(session, label, [0x5eed]).await.unwrap();
        assert_eq!(ask(found[&0x5eed]).await, "web-2");
    }

    #[tokio::test]
    async fn ports_that_nobody_uses_take_nothing_from_those_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let forwards = forwards(&dir, &[], &["web-1"]);
        let ports = [0x5ef1, 0x5ef2, 0x5ef3, 0x5ef4, 0x5ef5];
        let found = forwards.open(SessionId([10; 16]), "web", ports).await.unwrap();
        for _ in 0..2 {
            for here in found.values() {
                let answer = tokio::time::timeout(Duration::from_secs(10), ask(*here)).await;
                assert_eq!(answer.as_deref(), Ok("web-1"), "{here}");
            }
        }
    }

    #[tokio::test]
    async fn without_a_ready_machine_the_connection_is_reset() {
        let dir = tempfile::tempdir().unwrap();
        let (session, label) = (SessionId([6; 16]), "web");
        let forwards = forwards(&dir, &[], &[]);
        let found = forwards.open(session, label, [0x5eee]).await.unwrap();
        assert_eq!(ask(found[&0x5eee]).await, "");
    }

    #[tokio::test]
    async fn a_taken_port_gets_a_stand_in_that_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (session, label) = (SessionId([7; 16]), "web");
        let one = forwards(&dir, &[], &["web-1"]);
        let address = one.address(session, label).unwrap();
        let taken = std::net::TcpListener::bind((address, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let here = one.open(session, label, [port]).await.unwrap()[&port];
        assert_ne!(here.port(), port);
        drop(one);
        drop(taken);
        let again = forwards(&dir, &[], &["web-1"]);
        assert_eq!(again.address(session, label), Some(address));
        assert_eq!(again.port_here(session, label, port), here.port());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn asked_for_twice_at_once_it_is_one_listener() {
        let dir = tempfile::tempdir().unwrap();
        let session = SessionId([9; 16]);
        let forwards = forwards(&dir, &[], &["web-1"]);
        let asking = (0..20).map(|_| {
            let forwards = forwards.clone();
            tokio::spawn(async move { forwards.open(session, "web", [0x5ef0]).await.unwrap() })
        });
        for found in futures::future::join_all(asking).await {
            assert_eq!(found.unwrap()[&0x5ef0].port(), 0x5ef0);
        }
    }

    #[tokio::test]
    async fn idle_forwards_give_their_ports_back() {
        let dir = tempfile::tempdir().unwrap();
        let (session, label) = (SessionId([8; 16]), "web");
        let forwards = forwards(&dir, &[], &["web-1"]);
        let found = forwards.open(session, label, [0x5eef]).await.unwrap();
        forwards.sweep(Instant::now());
        assert_eq!(ask(found[&0x5eef]).await, "web-1");
        forwards.sweep(Instant::now() + 2 * IDLE);
        assert!(forwards.listening(session, label, 0x5eef).is_none());
    }

    #[tokio::test]
    async fn what_was_opened_by_hand_stays_over_restarts_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (session, label, port) = (SessionId([12; 16]), "web", 0x5eff);
        let first = forwards(&dir, &[], &["web-1"]);
        let here = first.hold(session, label, port).await.unwrap();
        first.open_held().await;
        first.sweep(Instant::now());
        assert_eq!(first.listening(session, label, port), Some(here));
        // As the end of the process would.
        lock(&first.inner.open).clear();
        while std::net::TcpListener::bind(here).is_err() {
            tokio::task::yield_now().await;
        }

        let again = forwards(&dir, &[], &["web-1"]);
        assert_eq!(again.listening(session, label, port), None);
        again.open_held().await;
        assert_eq!(again.listening(session, label, port), Some(here));
        assert_eq!(ask(here).await, "web-1");

        assert!(again.close(session, label, port));
        assert!(!again.close(session, label, port), "there is nothing to close any more");
        again.open_held().await;
        assert_eq!(again.listening(session, label, port), None);
    }
}
