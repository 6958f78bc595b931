//! The session network between hosts: ALPN `mesh/net/1`. Packets of guests travel as datagrams; TCP connections into
//! guests, flows of their UDP services, and connections to what hosts publish, as streams. Owns the attached machines,
//! the routes and one link per remote host; decides nothing about membership, which the endpoint's hook did before.
//!
//! ```text
//! shim -- port -> local -> routes -> hosts -- datagrams -> hosts -> routes -> local -- port -> shim
//! ```
//!
//! A packet goes only where the session's directory says, and comes only from the host and the
//! epoch that the directory names. Queues are bounded and drop the newest, counted by reason.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use iroh::{
    Endpoint,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use proto::{
    id::{Epoch, HostId, MachineName, SessionId},
    session::Directory,
};
use tokio::{net::UnixStream, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    clock::Clock,
    identity::host_of_endpoint,
    link::{Carrier, PortMessage, split::Tag},
};
use answers::Answers;
pub use counts::Counts;
use counts::{Count, Counters};
use datagrams::Flows;
pub use datagrams::{DATAGRAM_BYTES, datagrams};
pub use forward::{ForwardError, Stream};
use hosts::Hosts;
pub use published::PublishedError;
pub use recent::Recent;
use routes::{Known, Lost, Next, Routes};
pub use splice::{End, splice, splices};

mod answers;
mod counts;
mod datagrams;
pub(crate) mod forward;
mod hosts;
mod local;
mod published;
mod recent;
mod routes;
mod splice;
#[cfg(test)]
pub(crate) mod tests;

/// The protocol's name.
pub use crate::transport::protocols::NET as ALPN;

/// Opens the packet port of a machine's shim; called again whenever the port is lost.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, io::Result<UnixStream>> + Send + Sync>;
/// Opens a TCP connection to a port of the guest through its shim.
pub type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, io::Result<UnixStream>> + Send + Sync>;
/// Answers a DNS question of the guest that came by this carrier; `None` = no answer.
pub type Resolve = Arc<dyn Fn(Bytes, Carrier) -> BoxFuture<'static, Option<Bytes>> + Send + Sync>;

/// Tells whether a host may enter machines: their consoles, and ports that no service declares.
pub type Enters = Arc<dyn Fn(HostId) -> bool + Send + Sync>;

/// Waits until this host serves a member, and tells whether it does.
pub(crate) type LetsIn = Arc<dyn Fn(HostId) -> BoxFuture<'static, bool> + Send + Sync>;

/// What a machine of this host brings to the session network.
#[derive(Clone)]
pub struct Local {
    /// Its packets and DNS questions.
    pub network: Connect,
    /// Its TCP ports.
    pub dial: Dial,
    /// Its name server.
    pub resolve: Resolve,
}

/// The session network of one host. A cheap handle.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

struct Shared {
    /// From which other hosts are dialled, and who of them: both ends of a connection serve each other. Without it they
    /// are unreachable.
    outside: Option<(Endpoint, LetsIn)>,
    enters: Enters,
    tables: RwLock<Tables>,
    hosts: Hosts,
    /// What stays on this host, or never got further.
    here: Counters,
}

#[derive(Default)]
struct Tables {
    /// Ports of this host's loopback that members may reach.
    published: BTreeSet<u16>,
    routes: HashMap<SessionId, Routes>,
    /// Machines of this host. Looked up for each packet, so the key is not a pair, which would have to be made.
    locals: HashMap<SessionId, HashMap<MachineName, Attached>>,
    /// Where answers to hosts go.
    known: Known,
    interface: Option<Interface>,
}

/// This host's own place on the networks of these sessions.
struct Interface {
    sessions: BTreeSet<SessionId>,
    to_host: mpsc::Sender<Bytes>,
    /// What machines may say to this host.
    answers: Mutex<Answers>,
}

struct Attached {
    epoch: Epoch,
    to_guest: mpsc::Sender<PortMessage>,
    dial: Dial,
    flows: Flows,
    /// Ends with the entry.
    _task: AbortOnDropHandle<()>,
}

/// Takes the connections of other hosts, for iroh's router.
#[derive(Clone)]
pub struct NetHandler(Net);

impl Net {
    /// Makes a network without machines. Other hosts are dialled from the endpoint; machines of one host need none.
    pub(crate) fn new(outside: Option<(Endpoint, LetsIn)>, enters: Enters) -> (Net, NetHandler) {
        let net = Net(Arc::new(Shared {
            outside,
            enters,
            tables: RwLock::default(),
            hosts: Hosts::default(),
            here: Counters::default(),
        }));
        (net.clone(), NetHandler(net))
    }

    /// Replaces the routes of a session.
    pub fn set_routes(&self, session: SessionId, directory: &Directory, me: HostId) {
        let routes = Routes::new(session, directory, me);
        self.0.tables_mut().routes.insert(session, routes);
    }

    /// Forgets a session: its routes, and its machines here.
    pub fn forget(&self, session: SessionId) {
        let mut tables = self.0.tables_mut();
        tables.routes.remove(&session);
        tables.locals.remove(&session);
    }

    /// Connects a machine of this host. Attaching the same incarnation again does nothing, a newer
    /// one takes the place of an older one, an older one is refused with `false`.
    pub fn attach(&self, session: SessionId, machine: &MachineName, epoch: Epoch, local: Local) -> bool {
        let mut tables = self.0.tables_mut();
        let locals = tables.locals.entry(session).or_default();
        if let Some(attached) = locals.get(machine)
            && attached.epoch >= epoch
        {
            return attached.epoch == epoch;
        }
        let (to_guest, queue) = mpsc::channel(local::QUEUE);
        let dial = local.dial.clone();
        let place = local::Place { session, machine: machine.clone(), epoch };
        let answers = to_guest.clone();
        let task = tokio::spawn(local::run(self.clone(), place, local, answers, queue));
        let (flows, task) = (Flows::default(), AbortOnDropHandle::new(task));
        locals.insert(machine.clone(), Attached { epoch, to_guest, dial, flows, _task: task });
        true
    }

    /// Disconnects a machine of this host.
    pub fn detach(&self, session: SessionId, machine: &MachineName) {
        let mut tables = self.0.tables_mut();
        if let Some(locals) = tables.locals.get_mut(&session) {
            locals.remove(machine);
            if locals.is_empty() {
                tables.locals.remove(&session);
            }
        }
    }

    /// Opens a TCP connection to a port of a machine, wherever it runs.
    pub async fn dial(
        &self,
        session: SessionId,
        machine: &MachineName,
        port: u16,
    ) -> Result<Stream, ForwardError> {
        forward::dial(self, session, machine, port).await
    }

    /// Opens a flow of datagrams to a UDP port of a machine, wherever it runs. [`datagrams`] says how they follow each
    /// other on the stream.
    pub async fn dial_datagrams(
        &self,
        session: SessionId,
        machine: &MachineName,
        port: u16,
    ) -> Result<Box<dyn End>, ForwardError> {
        forward::dial_datagrams(self, session, machine, port).await
    }

    /// Puts this host itself on networks of sessions: what answers it goes to `to_host`.
    pub fn open_interface(&self, to_host: mpsc::Sender<Bytes>) {
        let (sessions, answers) = (BTreeSet::new(), Mutex::default());
        self.0.tables_mut().interface = Some(Interface { sessions, to_host, answers });
    }

    /// Says on which sessions' networks this host is.
    pub fn set_interface(&self, sessions: BTreeSet<SessionId>) {
        if let Some(interface) = &mut self.0.tables_mut().interface {
            interface.sessions = sessions;
        }
    }

    /// Takes this host off all of them.
    pub fn close_interface(&self) {
        self.0.tables_mut().interface = None;
    }

    /// Carries a packet that this host itself sent, to the one of its sessions that has the destination.
    pub fn from_this_host(&self, packet: Bytes) {
        let tables = self.0.tables();
        let destination = routes::destination(&packet);
        let mut sessions = tables.interface.iter().flat_map(|interface| &interface.sessions);
        let found = sessions.find_map(|session| {
            let routes = tables.routes.get(session)?;
            destination.is_some_and(|address| routes.holds(address)).then_some((*session, routes))
        });
        let Some((session, routes)) = found else { return self.0.here.add(Count::NoRoute) };
        let next = routes.own_leaving(&packet);
        if let (Ok(_), Some(interface)) = (&next, &tables.interface) {
            interface.answers().sent(&packet, Clock.moment());
        }
        match next {
            Ok(Next::Here(machine)) => self.0.here.add(deliver(&tables, session, machine, packet)),
            Ok(Next::Host(host)) => {
                drop(tables);
                // A host has no incarnations.
                self.0.hosts.send(self, host, Tag { session, epoch: Epoch::default() }, packet);
            }
            Ok(Next::Me | Next::Gateway) => self.0.here.add(Count::NoRoute),
            Err(lost) => self.0.here.add(lost.into()),
        }
    }

    /// Lets members reach these ports of this host's loopback from now on, and no others.
    pub fn publish(&self, ports: BTreeSet<u16>) {
        self.0.tables_mut().published = ports;
    }

    /// Opens a connection to a port that a host publishes.
    pub async fn dial_host(&self, host: HostId, port: u16) -> Result<published::Stream, PublishedError> {
        published::dial(self, host, port).await
    }

    /// Tells what was carried and what was lost since the start: among the machines of this host, and with each other
    /// host.
    pub fn counts(&self) -> (Counts, Vec<(HostId, Counts)>) {
        (self.0.here.counts(), self.0.hosts.counts())
    }

    /// Ends all tasks and connections. The handle goes on to exist, without machines.
    pub fn shutdown(&self) {
        *self.0.tables_mut() = Tables::default();
        self.0.hosts.close();
    }

    /// Carries a packet that a machine of this host sent.
    fn leaving(&self, place: &local::Place, packet: Bytes) {
        let tables = self.0.tables();
        let Some(routes) = tables.routes.get(&place.session) else {
            return self.0.here.add(Count::NoRoute);
        };
        match routes.leaving(&packet, (&place.machine, place.epoch), &tables.known) {
            Ok(Next::Here(machine)) => self.0.here.add(deliver(&tables, place.session, machine, packet)),
            Ok(Next::Host(host)) => {
                drop(tables);
                let tag = Tag { session: place.session, epoch: place.epoch };
                self.0.hosts.send(self, host, tag, packet);
            }
            Ok(Next::Me) => self.0.here.add(hand_over(&tables, place.session, packet)),
            Ok(Next::Gateway) => {
                let attached = tables.attached(place.session, &place.machine);
                let lost = attached.map_or(Some(Count::NoRoute), |attached| attached.flows.heard(&packet));
                lost.into_iter().for_each(|lost| self.0.here.add(lost));
            }
            Err(lost) => self.0.here.add(lost.into()),
        }
    }

    /// Carries a packet that another host sent, and tells what became of it.
    fn arriving(&self, from: HostId, tag: Tag, packet: Bytes) -> Count {
        let (count, new) = self.0.tables().arriving(from, tag, packet);
        if let Some(address) = new {
            self.0.tables_mut().known.insert(address, from);
        }
        count
    }
}

impl Tables {
    fn attached(&self, session: SessionId, machine: &MachineName) -> Option<&Attached> {
        self.locals.get(&session)?.get(machine)
    }

    /// Takes what another host sent. Gives the address of its own that it sent from, when that is news: its id proves
    /// it, so what answers there goes to it.
    fn arriving(&self, from: HostId, tag: Tag, packet: Bytes) -> (Count, Option<IpAddr>) {
        let Some(routes) = self.routes.get(&tag.session) else { return (Count::NoRoute, None) };
        match routes.arriving(&packet, from, tag.epoch) {
            Ok(Next::Here(machine)) => {
                let own = routes.own_address(&packet, from);
                let new = own.filter(|address| self.known.get(address) != Some(&from));
                (deliver(self, tag.session, machine, packet), new)
            }
            Ok(Next::Me) => (hand_over(self, tag.session, packet), None),
            Ok(Next::Host(_) | Next::Gateway) => (Count::NoRoute, None),
            Err(lost) => (lost.into(), None),
        }
    }
}

impl Interface {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives this host a packet for itself.
fn hand_over(tables: &Tables, session: SessionId, packet: Bytes) -> Count {
    let interface = tables.interface.as_ref().filter(|interface| interface.sessions.contains(&session));
    let Some(interface) = interface else { return Count::NoRoute };
    // No machine reaches its host's programs.
    if !interface.answers().is_answer(&packet, Clock.moment()) {
        return Count::NoRoute;
    }
    let bytes = packet.len();
    match interface.to_host.try_send(packet) {
        Ok(()) => Count::Delivered(bytes),
        Err(_) => Count::QueueFull,
    }
}

fn deliver(tables: &Tables, session: SessionId, machine: &MachineName, packet: Bytes) -> Count {
    let Some(attached) = tables.attached(session, machine) else { return Count::NoRoute };
    let bytes = packet.len();
    match attached.to_guest.try_send(PortMessage::Packet(packet)) {
        Ok(()) => Count::Delivered(bytes),
        Err(_) => Count::QueueFull,
    }
}

impl Shared {
    /// Gives this host, unless it is of no mesh.
    fn me(&self) -> Option<HostId> {
        self.outside.as_ref().map(|(endpoint, _)| host_of_endpoint(&endpoint.id()))
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Lost> for Count {
    fn from(lost: Lost) -> Count {
        match lost {
            Lost::Malformed => Count::Malformed,
            Lost::NoRoute => Count::NoRoute,
            Lost::Forged => Count::Forged,
            Lost::Stale => Count::Stale,
        }
    }
}

impl ProtocolHandler for NetHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let host = host_of_endpoint(&connection.remote_id());
        hosts::run(self.0.clone(), host, connection, hosts::Dialer::Them).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.0.shutdown();
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl fmt::Debug for NetHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetHandler")
    }
}
