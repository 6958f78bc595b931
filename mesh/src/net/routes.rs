//! Where a packet of one session goes, and whether it may come from where it came. Pure: cut from
//! the session's directory, nothing is learned from traffic.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use proto::{
    id::{Epoch, HostId, MachineName, Name, SessionId},
    session::{Directory, overlay},
};

use super::recent::Recent;
use crate::link;

/// The routes of one session as one host sees them.
#[derive(Debug)]
pub(super) struct Routes {
    session: SessionId,
    me: HostId,
    gateway: Ipv4Addr,
    by_address: HashMap<IpAddr, Route>,
    /// The ports of the services of each group.
    services: HashMap<Name, BTreeSet<u16>>,
}

#[derive(Clone, Debug)]
struct Route {
    host: HostId,
    machine: MachineName,
    epoch: Epoch,
}

/// Where a packet goes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// To a machine of this host.
    Here(&'a MachineName),
    /// To another host.
    Host(HostId),
    /// To this host itself.
    Me,
    /// To the machine's own gateway: an answer to this host.
    Gateway,
}

/// Hosts that have sent packets of their own lately, by the address that they sent from.
pub(super) type Known = Recent<IpAddr, HostId, MAX_KNOWN>;
/// Some for each host of the largest mesh.
const MAX_KNOWN: usize = 4096;

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is no IP packet.
    Malformed,
    /// No machine of the session has its destination, or not on this host.
    NoRoute,
    /// Its source is not a machine of the host that sent it.
    Forged,
    /// Its source is an incarnation that has a successor.
    Stale,
}

impl Routes {
    pub fn new(session: SessionId, directory: &Directory, me: HostId) -> Routes {
        let machines = directory.groups.values().flat_map(|group| &group.machines);
        let by_address = machines.flat_map(|entry| {
            let machine = entry.machine.clone();
            let address_v6 = overlay::machine_v6(session, &machine);
            let route = Route { host: entry.host, machine, epoch: entry.epoch };
            [(entry.address.into(), route.clone()), (address_v6.into(), route)]
        });
        let services = directory.groups.iter();
        let services =
            services.map(|(name, group)| (name.clone(), group.services.values().copied().collect()));
        let (gateway, by_address) = (link::gateway(directory.subnet), by_address.collect());
        Routes { session, me, gateway, by_address, services: services.collect() }
    }

    /// Says whether a machine of the session has an address.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Says whether an address is a host's own on this network.
    fn is_of(&self, host: HostId, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => overlay::is_host_v4(v4) && v4 == overlay::host_v4(host),
            IpAddr::V6(v6) => v6 == overlay::host_v6(self.session, host),
        }
    }

    /// Sends a packet on that this host itself put on the network: under its own address alone.
    pub fn own_leaving(&self, packet: &[u8]) -> Result<Next<'_>, Lost> {
        let (source, destination) = ends(packet)?;
        if !self.is_of(self.me, source) {
            return Err(Lost::Forged);
        }
        let route = self.by_address.get(&destination).ok_or(Lost::NoRoute)?;
        Ok(if route.host == self.me { Next::Here(&route.machine) } else { Next::Host(route.host) })
    }

    /// Tells from which address of its own a host sent a packet, if it did.
    pub fn own_address(&self, packet: &[u8], from: HostId) -> Option<IpAddr> {
        let (source, _) = ends(packet).ok()?;
        (!self.holds(source) && self.is_of(from, source)).then_some(source)
    }

    /// Sends a packet on that a machine of this host, in its incarnation `epoch`, gave us.
    pub fn leaving(
        &self,
        packet: &[u8],
        (from, epoch): (&MachineName, Epoch),
        known: &Known,
    ) -> Result<Next<'_>, Lost> {
        let (source, destination) = ends(packet)?;
        let source = self.by_address.get(&source).ok_or(Lost::Forged)?;
        if source.machine != *from {
            return Err(Lost::Forged);
        }
        // A machine that moved away is stale here, whatever its epoch.
        if source.host != self.me || epoch < source.epoch {
            return Err(Lost::Stale);
        }
        match self.by_address.get(&destination) {
            Some(route) if route.host == self.me => Ok(Next::Here(&route.machine)),
            Some(route) => Ok(Next::Host(route.host)),
            None if destination == self.gateway => Ok(Next::Gateway),
            None if self.is_of(self.me, destination) => Ok(Next::Me),
            None => known.get(&destination).map(|host| Next::Host(*host)).ok_or(Lost::NoRoute),
        }
    }

    /// Accepts a packet that another host sent: of one of its machines or its own, for one of this host's machines,
    /// or of one of its machines for this host itself.
    pub fn arriving(&self, packet: &[u8], from: HostId, epoch: Epoch) -> Result<Next<'_>, Lost> {
        let (source, destination) = ends(packet)?;
        let of_machine = match self.by_address.get(&source) {
            Some(route) if route.host != from => return Err(Lost::Forged),
            Some(route) if epoch < route.epoch => return Err(Lost::Stale),
            Some(_) => true,
            None if self.is_of(from, source) => false,
            None => return Err(Lost::Forged),
        };
        match self.by_address.get(&destination) {
            Some(route) if route.host == self.me => Ok(Next::Here(&route.machine)),
            None if of_machine && self.is_of(self.me, destination) => Ok(Next::Me),
            _ => Err(Lost::NoRoute),
        }
    }

    /// Gives the addresses at the two ends of a machine's wire: of its gateway, and its own.
    pub fn wire_of(&self, machine: &MachineName) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let own = self.by_address.iter().find_map(|(address, route)| match address {
            IpAddr::V4(address) if route.machine == *machine => Some(*address),
            _ => None,
        });
        Some((self.gateway, own?))
    }

    /// Tells which host runs a machine.
    pub fn host_of(&self, machine: &MachineName) -> Option<HostId> {
        self.route(machine).map(|route| route.host)
    }

    /// Says whether this host runs a machine and no newer incarnation of it is known.
    pub fn is_current(&self, machine: &MachineName, epoch: Epoch) -> bool {
        self.route(machine).is_some_and(|route| route.host == self.me && epoch >= route.epoch)
    }

    /// Says whether a service of a machine's group has this port.
    pub fn serves(&self, machine: &MachineName, port: u16) -> bool {
        self.services.get(&machine.group).is_some_and(|ports| ports.contains(&port))
    }

    fn route(&self, machine: &MachineName) -> Option<&Route> {
        self.by_address.values().find(|route| route.machine == *machine)
    }
}

/// Reads where a packet goes; `None` when it is none of IP.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    ends(packet).ok().map(|(_, destination)| destination)
}

fn ends(packet: &[u8]) -> Result<(IpAddr, IpAddr), Lost> {
    let ends = match packet.first().map(|first| first >> 4) {
        Some(6) => {
            let header = etherparse::Ipv6HeaderSlice::from_slice(packet).ok();
            header.map(|header| (header.source_addr().into(), header.destination_addr().into()))
        }
        _ => {
            let header = etherparse::Ipv4HeaderSlice::from_slice(packet).ok();
            header.map(|header| (header.source_addr().into(), header.destination_addr().into()))
        }
    };
    ends.ok_or(Lost::Malformed)
}

#[cfg(test)]
mod tests;
