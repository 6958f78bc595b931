//! What a host can tell of its own place in the network: its addresses, its relays, how far the others are.

use std::net::SocketAddr;

use iroh::{TransportAddr, Watcher};
use proto::{
    id::{HostId, Name},
    reachability::{path::Path, relays::Home, traffic::Lately},
    trust::ClockError,
    wire::rpc::Rtt,
};

use super::Mesh;
use crate::{members::view::relay_owner, reach::addresses::Tier, transport::answer};

/// How this host stands, as its own parts tell it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The addresses that it has or is seen at, the best first, and whether others are told of them.
    pub places: Vec<(Tier, SocketAddr, bool)>,
    /// The relays through which it is reached.
    pub homes: Vec<Home>,
    /// What its connections carried.
    pub lately: Lately,
}

impl Mesh {
    /// Tells whether this host's clock is off, as most members see it.
    pub fn clock_error(&self) -> Option<ClockError> {
        self.inner.roster.clock_error(&self.inner.streams.connected().borrow())
    }

    /// Waits until it is as sure as can be that no other computer runs as this host, by a copy of its data directory.
    /// Gives `false` when the mesh ends before.
    pub async fn is_single(&self) -> bool {
        self.inner.observing.is_single().await
    }

    /// Tells how a member is reached at this moment, and whose relay carries it if one does.
    pub fn path(&self, host: HostId) -> Option<(Path, Option<Name>)> {
        let path = self.inner.gate.path(&host)?;
        let owner = relay_owner(
            (self.me(), &self.inner.foreign),
            &self.inner.roster.roll(),
            &self.records().borrow(),
            &path,
        );
        Some((path, owner))
    }

    /// Tells how this host stands in the network.
    pub fn surroundings(&self) -> Surroundings {
        let own = self.inner.endpoint.addr();
        let direct = own.addrs.iter().filter_map(|address| match address {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        });
        let told = self.inner.reach.borrow().addresses.clone();
        let mut all: Vec<SocketAddr> = direct.chain(told.iter().copied()).collect();
        all.sort();
        all.dedup();
        let places = self.inner.interfaces.borrow().places(&all);
        let homes = self.inner.endpoint.home_relay_status().get();
        let home = |home: &iroh::endpoint::RelayStatus| Home {
            url: home.url().to_string(),
            is_connected: home.is_connected(),
        };
        Surroundings {
            places: places.into_iter().map(|(tier, at)| (tier, at, told.contains(&at))).collect(),
            homes: homes.iter().map(home).collect(),
            lately: self.inner.gate.lately(),
        }
    }

    /// Tells how far the members are with whom there is a connection.
    pub fn rtts(&self) -> Vec<Rtt> {
        answer::rtts(&self.inner.roster.roll(), &self.inner.gate)
    }
}
