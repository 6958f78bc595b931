//! What the addresses of this host in 127.64.0.0/10 stand for, and which is whose: people write them down, so they
//! outlive the agent.
//!
//! Owns the file that remembers them. Listens to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto::{
    id::{HostId, SessionId},
    names,
    topology::{Port, Protocol},
};
use serde::{Deserialize, Serialize};

use crate::host::durable;

/// Addresses tried for one place before giving up; two places of one host rarely meet.
const ADDRESS_TRIES: u32 = 64;

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A group of a session, or one of its machines (`web`, `web-1`).
    Label(SessionId, String),
    /// What another host publishes.
    Host(HostId),
}

impl From<(SessionId, &str)> for Place {
    fn from((session, label): (SessionId, &str)) -> Place {
        Place::Label(session, label.to_owned())
    }
}

impl From<HostId> for Place {
    fn from(host: HostId) -> Place {
        Place::Host(host)
    }
}

/// What survives a restart: addresses people may have written down, and ports that stood in.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    labels: BTreeMap<SessionId, BTreeMap<String, KeptPlace>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    hosts: BTreeMap<HostId, KeptPlace>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeptPlace {
    address: Ipv4Addr,
    /// Port asked for -> port that listens, where they differ.
    ports: BTreeMap<u16, u16>,
    /// Ports that listen until somebody closes them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    held: BTreeSet<u16>,
    /// What stands in for ports of UDP.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    udp_ports: BTreeMap<u16, u16>,
    /// Ports of UDP that listen until somebody closes them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    udp_held: BTreeSet<u16>,
}

impl KeptPlace {
    fn new(address: Ipv4Addr) -> KeptPlace {
        let (ports, udp_ports) = (BTreeMap::new(), BTreeMap::new());
        KeptPlace { address, ports, held: BTreeSet::new(), udp_ports, udp_held: BTreeSet::new() }
    }

    fn of(&mut self, protocol: Protocol) -> (&mut BTreeMap<u16, u16>, &mut BTreeSet<u16>) {
        match protocol {
            Protocol::Tcp => (&mut self.ports, &mut self.held),
            Protocol::Udp => (&mut self.udp_ports, &mut self.udp_held),
        }
    }

    fn held(&self) -> BTreeSet<Port> {
        let port = |protocol| move |number: &u16| Port { number: *number, protocol };
        let udp = self.udp_held.iter().map(port(Protocol::Udp));
        self.held.iter().map(port(Protocol::Tcp)).chain(udp).collect()
    }
}

impl Kept {
    fn get(&self, place: &Place) -> Option<&KeptPlace> {
        match place {
            Place::Label(session, label) => self.labels.get(session)?.get(label),
            Place::Host(host) => self.hosts.get(host),
        }
    }

    fn get_mut(&mut self, place: &Place) -> Option<&mut KeptPlace> {
        match place {
            Place::Label(session, label) => self.labels.get_mut(session)?.get_mut(label),
            Place::Host(host) => self.hosts.get_mut(host),
        }
    }

    fn insert(&mut self, place: &Place, kept: KeptPlace) {
        match place {
            Place::Label(session, label) => {
                self.labels.entry(*session).or_default().insert(label.clone(), kept);
            }
            Place::Host(host) => drop(self.hosts.insert(*host, kept)),
        }
    }

    fn all(&self) -> impl Iterator<Item = (Place, &KeptPlace)> {
        let labels = self.labels.iter().flat_map(|(session, labels)| {
            labels.iter().map(|(label, kept)| (Place::Label(*session, label.clone()), kept))
        });
        labels.chain(self.hosts.iter().map(|(host, kept)| (Place::Host(*host), kept)))
    }
}

/// The remembered addresses of this host.
pub struct Places {
    me: HostId,
    path: PathBuf,
    kept: Mutex<Kept>,
}

impl Places {
    /// Reads what is remembered in `path`. An unreadable file starts afresh: only stability of addresses is lost.
    pub fn read(me: HostId, path: PathBuf) -> Places {
        let bytes = std::fs::read(&path).ok();
        let kept = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Places { me, path, kept: Mutex::new(kept) }
    }

    /// Gives a place's address, if it has one.
    pub fn address(&self, place: &Place) -> Option<Ipv4Addr> {
        lock(&self.kept).get(place).map(|kept| kept.address)
    }

    /// Gives every place that has none an address, with one write for all.
    pub fn assign(&self, places: &[Place]) {
        let mut kept = lock(&self.kept);
        let new: Vec<&Place> = places.iter().filter(|place| kept.get(place).is_none()).collect();
        if new.is_empty() {
            return;
        }
        let mut taken: BTreeSet<Ipv4Addr> = kept.all().map(|(_, kept)| kept.address).collect();
        for place in new {
            let address = (0..ADDRESS_TRIES)
                .map(|i| self.candidate(place, i))
                .find(|candidate| !taken.contains(candidate) && bindable(*candidate));
            let Some(address) = address else { continue };
            taken.insert(address);
            kept.insert(place, KeptPlace::new(address));
        }
        self.save(&kept);
    }

    fn candidate(&self, place: &Place, i: u32) -> Ipv4Addr {
        match place {
            Place::Label(session, label) => names::forward_address(self.me, *session, label, i),
            Place::Host(host) => names::host_forward_address(self.me, *host, i),
        }
    }

    /// Gives the port that stood in for `port` last.
    pub fn stand_in(&self, place: &Place, port: Port) -> Option<u16> {
        lock(&self.kept).get_mut(place)?.of(port.protocol).0.get(&port.number).copied()
    }

    /// Remembers which port stands in for `port`.
    pub fn stands_in(&self, place: &Place, port: Port, here: u16) {
        self.change(place, |kept| kept.of(port.protocol).0.insert(port.number, here) != Some(here));
    }

    /// Remembers that a port is to listen until it is closed.
    pub fn hold(&self, place: &Place, port: Port) {
        self.change(place, |kept| kept.of(port.protocol).1.insert(port.number));
    }

    /// Forgets that. Tells whether it was so.
    pub fn release(&self, place: &Place, port: Port) -> bool {
        self.change(place, |kept| kept.of(port.protocol).1.remove(&port.number))
    }

    /// Lists what is to listen until it is closed.
    pub fn held(&self) -> Vec<(Place, BTreeSet<Port>)> {
        let kept = lock(&self.kept);
        let held = kept.all().map(|(place, kept)| (place, kept.held()));
        held.filter(|(_, held)| !held.is_empty()).collect()
    }

    /// Forgets all other places: their addresses are free again.
    pub fn keep(&self, exists: impl Fn(&Place) -> bool) {
        let mut kept = lock(&self.kept);
        let gone: Vec<Place> = kept.all().map(|(place, _)| place).filter(|place| !exists(place)).collect();
        for place in &gone {
            match place {
                Place::Label(session, label) => {
                    let labels = kept.labels.get_mut(session);
                    labels.map(|labels| labels.remove(label));
                }
                Place::Host(host) => drop(kept.hosts.remove(host)),
            }
        }
        if !gone.is_empty() {
            kept.labels.retain(|_, labels| !labels.is_empty());
            self.save(&kept);
        }
    }

    /// Changes what is remembered of a place. Tells what `change` does: whether anything changed.
    fn change(&self, place: &Place, change: impl FnOnce(&mut KeptPlace) -> bool) -> bool {
        let mut kept = lock(&self.kept);
        let changed = kept.get_mut(place).is_some_and(change);
        if changed {
            self.save(&kept);
        }
        changed
    }

    fn save(&self, kept: &Kept) {
        let written = serde_json::to_vec_pretty(kept)
            .map_err(io::Error::other)
            .and_then(|bytes| durable::write(&self.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "forward addresses are not remembered");
        }
    }
}

fn bindable(address: Ipv4Addr) -> bool {
    std::net::TcpListener::bind((address, 0)).is_ok()
}

/// A poisoned lock only means that another task panicked between two plain assignments.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
