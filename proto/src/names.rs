//! The zone `mesh.internal`: which name stands for which addresses, seen from a host or from a guest.
//! Pure: shares say which names exist and who owns them, readiness comes from `picture::readiness`.
//! Nothing here asks a machine, and nothing here speaks DNS messages.
//!
//! ```text
//! GROUP.SESSION            guests: ready machines; hosts: the group's forward address
//! nearest.GROUP.SESSION    the nearest ready machine of the group alone; hosts: its forward address
//! MACHINE.SESSION          guests: the machine as soon as it has a place; hosts: its forward address if ready
//! HOST.host                the host's own addresses, those that the asker reaches best first; only guests that
//!                          may go to their host's network know hosts
//! SERVICE.HOST.host        what a host publishes itself ([`published`])
//! _SERVICE._tcp.GROUP.SESSION   SRV: ready machines; on hosts the port that really listens; _udp of UDP services
//! *.in-addr.arpa, *.ip6.arpa    PTR of the addresses above
//! ```
//! Declared but nothing ready = no data; undeclared = no such name; outside the zone = refused. A name above one that
//! exists exists (RFC 8020). No answer leads out of the session's network, the forward range, and where hosts can be.

pub mod published;
mod reverse;
pub mod sites;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use crate::{
    addresses::{self, Here},
    id::{HostId, MachineName, Name, SessionId},
    limits,
    session::{Directory, GroupEntry, MachineEntry, Prefix, Share, overlay},
    topology::{Egress, Protocol},
};

pub use reverse::origin;

/// The zone's default name; `.internal` is reserved for private use.
pub const DEFAULT_ZONE: &str = "mesh.internal";
/// Time to live of every answer, and the SOA minimum, in seconds: readiness changes at any moment.
pub const TTL_S: u32 = 1;
/// Where forward addresses live: loopback, far from what people use by hand.
const FORWARD_RANGE: Prefix = Prefix { base: Ipv4Addr::new(127, 64, 0, 0), len: 10 };
/// Records in one answer: all machines of a group. What does not fit a datagram is asked again by TCP.
const MAX_RECORDS: usize = limits::MAX_COUNT as usize;
/// Below a group: its nearest ready machine.
const NEAREST: &str = "nearest";

/// Everything that names depend on; [`crate::picture::zone`] fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name without dots at its ends, such as `mesh.internal`.
    pub zone: String,
    /// The members by id.
    pub hosts: BTreeMap<HostId, HostEntry>,
    /// The sessions that exist; ended ones may be among them.
    pub sessions: BTreeMap<SessionId, Arc<Share>>,
    /// The label under which each living session is found, as [`labels`] gives it.
    pub labels: BTreeMap<String, SessionId>,
    /// The machines that are ready.
    pub ready: BTreeSet<(SessionId, MachineName)>,
    /// Of each group with a ready machine the one that is nearest to this host.
    pub nearest: BTreeMap<(SessionId, Name), MachineName>,
    /// Those whose guests have their IPv6 addresses: others would be tried in vain.
    pub v6: BTreeSet<(SessionId, MachineName)>,
    /// This host's forward addresses, by session and label (`web` or `web-1`).
    pub forwards: BTreeMap<(SessionId, String), Forward>,
    /// This host's forward addresses for what other hosts publish.
    pub host_forwards: BTreeMap<HostId, Forward>,
    /// This host's own networks.
    pub here: Here,
}

/// A member in the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// Its label.
    pub name: Name,
    /// Where it is, as it says: best first.
    pub addresses: Vec<IpAddr>,
    /// Whether it lives on the asker's own computer: the asker itself, or an agent beside it.
    pub same_computer: bool,
    /// Whether it and the asker are in one network, so that its own addresses lead to it.
    pub near: bool,
    /// What it publishes: ports on its loopback by name.
    pub published: BTreeMap<Name, u16>,
}

/// Where this host listens for a group or a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The address, in 127.64.0.0/10.
    pub address: Ipv4Addr,
    /// The ports that really listen, by service.
    pub ports: BTreeMap<Name, u16>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A program on this host.
    Host,
    /// A guest of this session, for whom other sessions do not exist, and where it may go.
    Guest(SessionId, Egress),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and their hosts.
    Srv,
    /// The name of an address.
    Ptr,
    /// Anything else: the name may exist, but has nothing of this kind.
    Other,
}

/// What is answered. Every answer lives for [`TTL_S`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// To `A` and `Aaaa`.
    Addresses(Vec<IpAddr>),
    /// To `Srv`.
    Services(Vec<Target>),
    /// To `Ptr`: a full name without the last dot.
    Name(String),
    /// The name exists and has nothing of this kind now.
    NoData,
    /// No such name.
    NoName,
    /// Not of this zone: hosts are refused, guests' questions are passed on.
    Refused,
}

/// One SRV record; priority and weight are always equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A full name without the last dot.
    pub name: String,
    /// The port there.
    pub port: u16,
}

/// Answers one question. `name` may be in any case and may end in a dot.
pub fn answer(zone: &Zone, view: View, name: &str, kind: Kind) -> Resolution {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == zone.zone {
        return Resolution::NoData;
    }
    let Some(inner) = within(zone, &name) else { return reverse::answer(zone, view, &name, kind) };
    let labels: Vec<&str> = inner.split('.').rev().collect();
    match labels.as_slice() {
        // A guest that may not go there is not told who is in the mesh.
        ["host", ..] if matches!(view, View::Guest(_, Egress::None | Egress::Internet)) => Resolution::NoName,
        ["host"] => Resolution::NoData,
        ["host", host] => {
            published::host(zone, view, host, kind).unwrap_or_else(|| host_addresses(zone, host, kind))
        }
        ["host", host, below @ ..] => published::service(zone, view, host, below, kind),
        [session, rest @ ..] => match find_session(zone, view, session) {
            Some(found) => found.answer(rest, kind),
            None => Resolution::NoName,
        },
        [] => Resolution::NoData,
    }
}

/// Gives the forward of this host that the answer to its programs leads to, whose ports must listen by then.
pub fn forward_for(zone: &Zone, name: &str, kind: Kind) -> Option<(SessionId, String)> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = within(zone, &name)?.split('.').rev().collect();
    let (session, label) = match (labels.as_slice(), kind) {
        (["host", ..], _) => return None,
        ([session, label], Kind::A) => (session, (*label).to_owned()),
        ([session, group, NEAREST], Kind::A) => {
            let found = find_session(zone, View::Host, session)?;
            (session, found.nearest(found.group(group)?.0)?.to_string())
        }
        ([session, group, "_tcp" | "_udp", _], Kind::Srv) => (session, (*group).to_owned()),
        _ => return None,
    };
    let key = (find_session(zone, View::Host, session)?.id, label);
    zone.forwards.contains_key(&key).then_some(key)
}

/// Gives what stands before the zone in a name of it.
fn within<'a>(zone: &Zone, name: &'a str) -> Option<&'a str> {
    name.strip_suffix(&zone.zone)?.strip_suffix('.')
}

/// Gives each living session the label under which its names are found: its own, unless an older
/// session has the same one; then `NAME-xxxx` with the first digits of its id.
pub fn labels(sessions: &BTreeMap<SessionId, Arc<Share>>) -> BTreeMap<String, SessionId> {
    let mut by_age: Vec<_> = sessions.iter().filter(|(_, session)| !session.ended).collect();
    by_age.sort_by_key(|(id, session)| (session.stamp, **id));
    let mut labels = BTreeMap::new();
    for (id, session) in by_age {
        let spellings = [0, 4, 8, 32].into_iter().map(|digits| match digits {
            0 => session.name.to_string(),
            _ => format!("{}-{}", session.name, &id.to_string()[..digits]),
        });
        let mut spellings = spellings.filter(|label| !labels.contains_key(label));
        if let Some(free) = spellings.next() {
            labels.insert(free, *id);
        }
    }
    labels
}

/// Gives the candidate number `i` for a forward address of this host. The first that can be bound is
/// taken and remembered. Never the first or last address of a /24, which some programs treat apart.
pub fn forward_address(host: HostId, session: SessionId, label: &str, i: u32) -> Ipv4Addr {
    let mut hasher = blake3::Hasher::new_derive_key("mesh forward address 1");
    hasher.update(&host.0).update(&session.0).update(&i.to_be_bytes()).update(label.as_bytes());
    in_forward_range(hasher.finalize().as_bytes())
}

/// Gives the candidate number `i` for the address of this host that leads to another one, as [`forward_address`] does.
pub fn host_forward_address(me: HostId, host: HostId, i: u32) -> Ipv4Addr {
    let mut hasher = blake3::Hasher::new_derive_key("mesh forward address of a host 1");
    hasher.update(&me.0).update(&host.0).update(&i.to_be_bytes());
    in_forward_range(hasher.finalize().as_bytes())
}

fn in_forward_range(hash: &[u8; 32]) -> Ipv4Addr {
    let [a, b, c, ..] = hash;
    Ipv4Addr::new(127, 64 + (a & 0x3f), *b, 1 + c % 254)
}

/// Reads the label that says what services below it speak (RFC 2782).
fn spoken(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// A session as one asker sees it.
struct Found<'a> {
    zone: &'a Zone,
    view: View,
    id: SessionId,
    label: String,
    directory: &'a Directory,
}

fn find_session<'a>(zone: &'a Zone, view: View, label: &str) -> Option<Found<'a>> {
    let by_label = || zone.labels.get(label).copied();
    let id = match view {
        View::Host => by_label()?,
        // Its guests know a session by its own name, whoever else has that name outside.
        View::Guest(own, _) => {
            let session = zone.sessions.get(&own).filter(|session| !session.ended)?;
            (session.name.as_str() == label || by_label() == Some(own)).then_some(own)?
        }
    };
    Some(Found { zone, view, id, label: label.to_owned(), directory: &zone.sessions.get(&id)?.directory })
}

impl Found<'_> {
    /// Answers for the labels below the session, outermost first.
    fn answer(&self, labels: &[&str], kind: Kind) -> Resolution {
        match labels {
            [] => Resolution::NoData,
            [label] => match self.group(label) {
                Some((_, group)) => self.machines(label, group, kind),
                None => self.machine(label, kind),
            },
            [label, rest @ ..] => match (self.group(label), rest) {
                (Some((name, _)), [NEAREST]) => self.nearest_address(name, kind),
                (Some((_, group)), [label]) if spoken(label).is_some() => {
                    let has = group.ports().any(|(_, port)| Some(port.protocol) == spoken(label));
                    if has { Resolution::NoData } else { Resolution::NoName }
                }
                (Some((name, group)), [label, service]) => {
                    match spoken(label).zip(service.strip_prefix('_')) {
                        Some((protocol, service)) => self.service((name, group), (service, protocol), kind),
                        None => Resolution::NoName,
                    }
                }
                _ => Resolution::NoName,
            },
        }
    }

    fn group(&self, label: &str) -> Option<(&Name, &GroupEntry)> {
        self.directory.groups.iter().find(|(name, _)| name.as_str() == label)
    }

    fn machines(&self, label: &str, group: &GroupEntry, kind: Kind) -> Resolution {
        match self.view {
            View::Host => self.forward(label, kind),
            View::Guest(..) => of_kind(self.ready(group).flat_map(|entry| self.addresses(entry)), kind),
        }
    }

    fn machine(&self, label: &str, kind: Kind) -> Resolution {
        let machine = label.parse::<MachineName>().ok();
        let Some(entry) = machine.and_then(|machine| self.directory.find(&machine)) else {
            return Resolution::NoName;
        };
        match self.view {
            View::Host if !self.is_ready(entry) => Resolution::NoData,
            View::Host => self.forward(label, kind),
            // Ready or not: those of a quorum find each other before any of them is ready.
            View::Guest(..) => of_kind(self.addresses(entry), kind),
        }
    }

    fn nearest(&self, group: &Name) -> Option<&MachineName> {
        self.zone.nearest.get(&(self.id, group.clone()))
    }

    fn nearest_address(&self, group: &Name, kind: Kind) -> Resolution {
        let Some(machine) = self.nearest(group) else { return Resolution::NoData };
        match self.view {
            View::Host => self.forward(&machine.to_string(), kind),
            View::Guest(..) => {
                let entry = self.directory.find(machine);
                of_kind(entry.into_iter().flat_map(|entry| self.addresses(entry)), kind)
            }
        }
    }

    fn forward(&self, label: &str, kind: Kind) -> Resolution {
        let forward = self.zone.forwards.get(&(self.id, label.to_owned()));
        of_kind(forward.map(|forward| IpAddr::V4(forward.address)), kind)
    }

    fn service(
        &self,
        (name, group): (&Name, &GroupEntry),
        (service, protocol): (&str, Protocol),
        kind: Kind,
    ) -> Resolution {
        let mut ports = group.ports().filter(|(_, port)| port.protocol == protocol);
        let Some((service, port)) = ports.find(|(name, _)| name.as_str() == service) else {
            return Resolution::NoName;
        };
        if kind != Kind::Srv {
            return Resolution::NoData;
        }
        let full = |label: &dyn std::fmt::Display| format!("{label}.{}.{}", self.label, self.zone.zone);
        let mut ready = self.ready(group).peekable();
        let targets: Vec<Target> = match self.view {
            View::Guest(..) => {
                let target = |entry: &MachineEntry| Target { name: full(&entry.machine), port: port.number };
                ready.map(target).take(MAX_RECORDS).collect()
            }
            View::Host if ready.peek().is_none() => Vec::new(),
            View::Host => {
                let forward = self.zone.forwards.get(&(self.id, name.to_string()));
                let port = forward.and_then(|forward| forward.ports.get(service));
                port.map(|port| Target { name: full(name), port: *port }).into_iter().collect()
            }
        };
        if targets.is_empty() { Resolution::NoData } else { Resolution::Services(targets) }
    }

    fn ready<'b>(&'b self, group: &'b GroupEntry) -> impl Iterator<Item = &'b MachineEntry> {
        group.machines.iter().filter(|entry| self.is_ready(entry))
    }

    /// Gives where guests find a machine: in the session's own networks, whatever its share says.
    fn addresses(&self, entry: &MachineEntry) -> impl Iterator<Item = IpAddr> + use<> {
        let has_v6 = self.zone.v6.contains(&(self.id, entry.machine.clone()));
        let v6 = has_v6.then(|| IpAddr::V6(overlay::machine_v6(self.id, &entry.machine)));
        let v4 = self.directory.subnet.contains(entry.address).then_some(IpAddr::V4(entry.address));
        v4.into_iter().chain(v6)
    }

    fn is_ready(&self, entry: &MachineEntry) -> bool {
        self.zone.ready.contains(&(self.id, entry.machine.clone()))
    }
}

fn host_addresses(zone: &Zone, label: &str, kind: Kind) -> Resolution {
    // Of two hosts with one name the lower id keeps it; certificates make that rare.
    let Some(host) = zone.hosts.values().find(|host| host.name.as_str() == label) else {
        return Resolution::NoName;
    };
    let told: Vec<IpAddr> = host.addresses.iter().copied().filter(addresses::is_somewhere).collect();
    of_kind(if host.same_computer { told } else { zone.here.order(&told) }, kind)
}

fn of_kind(addresses: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Resolution {
    let fits = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Srv | Kind::Ptr | Kind::Other => false,
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.into_iter().filter(fits).take(MAX_RECORDS) {
        // One address is often there with several ports.
        if !found.contains(&address) {
            found.push(address);
        }
    }
    let addresses = found;
    if addresses.is_empty() { Resolution::NoData } else { Resolution::Addresses(addresses) }
}

#[cfg(test)]
mod tests;
