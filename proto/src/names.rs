//! The zone `mesh.internal`: which name stands for which addresses, seen from a host or from a guest.
//! Pure: shares say which names exist and who owns them, readiness comes from `picture::readiness`.
//! Nothing here asks a machine, and nothing here speaks DNS messages.
//!
//! ```text
//! GROUP.SESSION            guests: ready machines; hosts: the group's forward address
//! MACHINE.SESSION          guests: the machine if ready; hosts: its forward address if ready
//! HOST.host                the host's own addresses, those that the asker reaches best first
//! _SERVICE._tcp.GROUP.SESSION   SRV: ready machines; on hosts the port that really listens
//! *.in-addr.arpa           PTR of the addresses above
//! ```
//! Declared but nothing ready = no data; undeclared = no such name; outside the zone = refused.

pub mod sites;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use crate::{
    addresses::Here,
    id::{HostId, MachineName, Name, SessionId},
    session::{Directory, GroupEntry, MachineEntry, Prefix, Share},
};

/// The zone's default name; `.internal` is reserved for private use.
pub const DEFAULT_ZONE: &str = "mesh.internal";
/// Time to live of every answer, and the SOA minimum, in seconds: readiness changes at any moment.
pub const TTL_S: u32 = 1;
/// Where forward addresses live: loopback, far from what people use by hand.
const FORWARD_RANGE: Prefix = Prefix { base: Ipv4Addr::new(127, 64, 0, 0), len: 10 };
/// Addresses in one answer, so that it fits the 512 bytes of plain DNS.
const MAX_ADDRESSES: usize = 24;

/// Everything that names depend on; [`crate::picture::zone`] fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name without dots at its ends, such as `mesh.internal`.
    pub zone: String,
    /// The members by id.
    pub hosts: BTreeMap<HostId, HostEntry>,
    /// The sessions that exist; ended ones may be among them.
    pub sessions: BTreeMap<SessionId, Arc<Share>>,
    /// The machines that are ready.
    pub ready: BTreeSet<(SessionId, MachineName)>,
    /// This host's forward addresses, by session and label (`web` or `web-1`).
    pub forwards: BTreeMap<(SessionId, String), Forward>,
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
    /// A guest of this session, for whom other sessions do not exist.
    Guest(SessionId),
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
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        return pointer(zone, view, reversed, kind);
    }
    if name == zone.zone {
        return Resolution::NoData;
    }
    let Some(inner) = name.strip_suffix(&zone.zone).and_then(|name| name.strip_suffix('.')) else {
        return Resolution::Refused;
    };
    let labels: Vec<&str> = inner.split('.').rev().collect();
    match labels.as_slice() {
        ["host"] => Resolution::NoData,
        ["host", host] => host_addresses(zone, host, kind),
        ["host", ..] => Resolution::NoName,
        [session, rest @ ..] => match find_session(zone, view, session) {
            Some(found) => found.answer(rest, kind),
            None => Resolution::NoName,
        },
        [] => Resolution::NoData,
    }
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
    let hash = hasher.finalize();
    let [a, b, c, ..] = hash.as_bytes();
    Ipv4Addr::new(127, 64 + (a & 0x3f), *b, 1 + c % 254)
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
    let by_label = || labels(&zone.sessions).get(label).copied();
    let id = match view {
        View::Host => by_label()?,
        // Its guests know a session by its own name, whoever else has that name outside.
        View::Guest(own) => {
            let session = zone.sessions.get(&own).filter(|session| !session.ended)?;
            (session.name.as_str() == label || by_label() == Some(own)).then_some(own)?
        }
    };
    Some(Found { zone, view, id, label: label.to_owned(), directory: &zone.sessions.get(&id)?.directory })
}

impl Found<'_> {
    /// Answers for the labels below the session, outermost first.
    fn answer(&self, labels: &[&str], kind: Kind) -> Resolution {
        let group = |label: &str| {
            let (name, group) = self.directory.groups.iter().find(|(name, _)| name.as_str() == label)?;
            Some((name, group))
        };
        match labels {
            [] => Resolution::NoData,
            [label] => match group(label) {
                Some((_, group)) => self.group(label, group, kind),
                None => self.machine(label, kind),
            },
            [label, "_tcp"] if group(label).is_some() => Resolution::NoData,
            [label, "_tcp", service] => match (group(label), service.strip_prefix('_')) {
                (Some((name, group)), Some(service)) => self.service(name, group, service, kind),
                _ => Resolution::NoName,
            },
            _ => Resolution::NoName,
        }
    }

    fn group(&self, label: &str, group: &GroupEntry, kind: Kind) -> Resolution {
        match self.view {
            View::Host => self.forward(label, kind),
            View::Guest(_) => {
                let ready = self.ready(group).map(|entry| IpAddr::V4(entry.address));
                of_kind(ready, kind)
            }
        }
    }

    fn machine(&self, label: &str, kind: Kind) -> Resolution {
        let machine = label.parse::<MachineName>().ok();
        let Some(entry) = machine.and_then(|machine| self.directory.find(&machine)) else {
            return Resolution::NoName;
        };
        match self.view {
            _ if !self.is_ready(entry) => Resolution::NoData,
            View::Host => self.forward(label, kind),
            View::Guest(_) => of_kind([IpAddr::V4(entry.address)], kind),
        }
    }

    fn forward(&self, label: &str, kind: Kind) -> Resolution {
        let forward = self.zone.forwards.get(&(self.id, label.to_owned()));
        of_kind(forward.map(|forward| IpAddr::V4(forward.address)), kind)
    }

    fn service(&self, name: &Name, group: &GroupEntry, service: &str, kind: Kind) -> Resolution {
        let Some((service, port)) = group.services.iter().find(|(name, _)| name.as_str() == service) else {
            return Resolution::NoName;
        };
        if kind != Kind::Srv {
            return Resolution::NoData;
        }
        let full = |label: &dyn std::fmt::Display| format!("{label}.{}.{}", self.label, self.zone.zone);
        let mut ready = self.ready(group).peekable();
        let targets: Vec<Target> = match self.view {
            View::Guest(_) => {
                let target = |entry: &MachineEntry| Target { name: full(&entry.machine), port: *port };
                ready.map(target).take(MAX_ADDRESSES).collect()
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

    fn is_ready(&self, entry: &MachineEntry) -> bool {
        self.zone.ready.contains(&(self.id, entry.machine.clone()))
    }
}

fn host_addresses(zone: &Zone, label: &str, kind: Kind) -> Resolution {
    // Of two hosts with one name the lower id keeps it; certificates make that rare.
    match zone.hosts.values().find(|host| host.name.as_str() == label) {
        Some(host) if host.same_computer => of_kind(host.addresses.iter().copied(), kind),
        Some(host) => of_kind(zone.here.order(&host.addresses), kind),
        None => Resolution::NoName,
    }
}

fn of_kind(addresses: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Resolution {
    let fits = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Srv | Kind::Ptr | Kind::Other => false,
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.into_iter().filter(fits).take(MAX_ADDRESSES) {
        // One address is often there with several ports.
        if !found.contains(&address) {
            found.push(address);
        }
    }
    let addresses = found;
    if addresses.is_empty() { Resolution::NoData } else { Resolution::Addresses(addresses) }
}

/// Answers for `d.c.b.a` of an IPv4 address of ours.
fn pointer(zone: &Zone, view: View, reversed: &str, kind: Kind) -> Resolution {
    let mut parts: Vec<&str> = reversed.split('.').collect();
    parts.reverse();
    let Ok(address) = parts.join(".").parse::<Ipv4Addr>() else { return Resolution::Refused };
    let label = |id: SessionId| labels(&zone.sessions).into_iter().find(|(_, of)| *of == id);
    let found = match view {
        View::Host if !FORWARD_RANGE.contains(address) => return Resolution::Refused,
        View::Host => {
            let forward = zone.forwards.iter().find(|(_, forward)| forward.address == address);
            forward.and_then(|((id, name), _)| Some(format!("{name}.{}", label(*id)?.0)))
        }
        View::Guest(own) => match zone.sessions.get(&own).filter(|session| !session.ended) {
            Some(session) if session.directory.subnet.contains(address) => {
                let entry = session.directory.machines().find(|entry| entry.address == address);
                entry.map(|entry| format!("{}.{}", entry.machine, session.name))
            }
            _ => return Resolution::Refused,
        },
    };
    match found {
        Some(name) if kind == Kind::Ptr => Resolution::Name(format!("{name}.{}", zone.zone)),
        Some(_) => Resolution::NoData,
        None => Resolution::NoName,
    }
}

#[cfg(test)]
mod tests;
