//! Where members are, kept together: on disk, for the swarm, and for iroh. `ways` decides; each change here tells whom
//! it concerns, so that they are dialled again at once.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use iroh::address_lookup::memory::MemoryLookup;
use proto::{
    id::HostId,
    level::Level,
    reachability::ways::{self, Sightings, Ways},
    trust::Bootstrap,
    wire::record::{Reach, RelayOffer},
};
use tokio::sync::watch;

use crate::{clock::Clock, identity, members::cache::Cache, reach::describe as reach};

/// Where a member may be, told by something other than its record.
#[derive(Debug)]
pub(crate) enum Hint {
    /// By a token.
    Token(Vec<Bootstrap>),
    /// By a handshake on the LAN.
    Seen(HostId, SocketAddr),
}

/// The book.
pub(crate) struct Book {
    cache: Cache,
    seen: Sightings,
    held: BTreeMap<SocketAddr, HostId>,
    lent: Vec<String>,
    lookup: MemoryLookup,
    ways: watch::Sender<Arc<Ways>>,
}

impl Book {
    /// Opens the book with what was remembered.
    pub(crate) fn new(cache: Cache, lookup: MemoryLookup) -> Book {
        let (seen, held, ways) = (Sightings::default(), BTreeMap::new(), watch::Sender::default());
        let mut book = Book { cache, seen, held, lent: Vec::new(), lookup, ways };
        book.compose();
        book
    }

    /// Watches how members are dialled.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Ways>> {
        self.ways.subscribe()
    }

    /// Gives how members are dialled.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        self.ways.borrow().clone()
    }

    /// Lists the relays that members serve.
    pub(crate) fn relays(&self) -> Vec<RelayOffer> {
        self.cache.known().values().filter_map(|known| known.reach.serves.clone()).collect()
    }

    /// Takes what members say of themselves.
    pub(crate) fn say(
        &mut self,
        said: BTreeMap<HostId, Reach>,
        is_member: impl Fn(&HostId) -> bool,
    ) -> Vec<HostId> {
        self.seen.keep(&is_member);
        let written = self.cache.update(said, is_member);
        self.compose_after(written)
    }

    /// Takes what members understand, by their own word.
    pub(crate) fn told(&mut self, levels: Vec<(HostId, Level)>) {
        if let Err(error) = self.cache.told(levels) {
            tracing::warn!(%error, "cannot remember what members understand");
        }
    }

    /// Gives what members understand, as each told last.
    pub(crate) fn levels(&self) -> BTreeMap<HostId, Level> {
        self.cache.levels()
    }

    /// Takes the relays of strangers through which members that are not connected are dialled as well.
    pub(crate) fn lend(&mut self, urls: Vec<String>) -> Vec<HostId> {
        self.lent = urls;
        self.compose()
    }

    /// Forgets what is too old.
    pub(crate) fn age(&mut self) -> Vec<HostId> {
        self.compose()
    }

    /// Takes at which addresses members are connected.
    pub(crate) fn hold(&mut self, held: BTreeMap<SocketAddr, HostId>) -> Vec<HostId> {
        if held == self.held {
            return Vec::new();
        }
        let new = held.iter().filter(|(address, host)| self.held.get(*address) != Some(*host));
        let new: Vec<(HostId, SocketAddr)> = new.map(|(address, host)| (*host, *address)).collect();
        self.held = held;
        let written = self.cache.prove(new);
        self.compose_after(written)
    }

    /// Takes a hint.
    pub(crate) fn hint(&mut self, hint: Hint, is_member: impl Fn(&HostId) -> bool) -> Vec<HostId> {
        match hint {
            Hint::Token(entries) => {
                let written = self.cache.hint(&entries, is_member);
                self.compose_after(written)
            }
            Hint::Seen(host, address) if is_member(&host) => {
                match self.seen.note(host, address, Clock.moment()) {
                    true => self.compose(),
                    false => Vec::new(),
                }
            }
            Hint::Seen(..) => Vec::new(),
        }
    }

    fn compose_after(&mut self, written: io::Result<()>) -> Vec<HostId> {
        if let Err(error) = written {
            tracing::warn!(%error, "cannot remember the members' addresses");
        }
        self.compose()
    }

    /// Gives those whose ways changed.
    fn compose(&mut self) -> Vec<HostId> {
        let old = self.ways();
        let mut new = ways::compose(self.cache.known(), &self.seen, &self.held, Clock.moment());
        for way in new.values_mut() {
            let new = self.lent.iter().filter(|url| !way.reach.relays.contains(*url));
            way.foreign = new.cloned().collect();
        }
        let is_new = |(host, way): &(&HostId, &ways::Way)| old.get(*host) != Some(*way);
        let mut changed = Vec::new();
        for (host, way) in new.iter().filter(is_new) {
            if let Some(id) = identity::endpoint_id(host) {
                self.lookup.set_endpoint_info(reach::endpoint_addr(id, &way.reach, &[]));
                changed.push(*host);
            }
        }
        if *old != new {
            self.ways.send_replace(Arc::new(new));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_that_is_repeated_or_of_a_stranger_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        let mut book = Book::new(Cache::load(dir.path()), MemoryLookup::new());
        let host = identity::host_of_endpoint(&iroh::SecretKey::from_bytes(&[7; 32]).public());
        let place: SocketAddr = "192.168.1.2:7440".parse().unwrap();
        let token = || Hint::Token(vec![Bootstrap { host, addresses: vec![place], relay: None }]);
        assert_eq!(book.hint(Hint::Seen(host, place), |_| true), [host]);
        assert_eq!(book.hint(Hint::Seen(host, place), |_| true), []);
        assert_eq!(book.hint(Hint::Seen(HostId([9; 32]), place), |_| false), []);
        let elsewhere = SocketAddr::new(place.ip(), 7442);
        assert_eq!(book.hint(Hint::Seen(host, elsewhere), |_| true), [host]);
        assert_eq!(book.hint(token(), |_| true), [host]);
        assert_eq!(book.hint(token(), |_| true), []);
    }
}
