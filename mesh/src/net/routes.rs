//! Where a packet of one session goes, and whether it may come from where it came. Pure: cut from
//! the session's directory, nothing is learned from traffic.

use std::{collections::HashMap, net::IpAddr};

use proto::{
    id::{Epoch, HostId, MachineName, SessionId},
    session::{Directory, overlay},
};

/// The routes of one session as one host sees them.
#[derive(Debug)]
pub(super) struct Routes {
    me: HostId,
    by_address: HashMap<IpAddr, Route>,
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
}

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
        Routes { me, by_address: by_address.collect() }
    }

    /// Sends a packet on that a machine of this host, in its incarnation `epoch`, gave us.
    pub fn leaving(&self, packet: &[u8], from: &MachineName, epoch: Epoch) -> Result<Next<'_>, Lost> {
        let (source, destination) = ends(packet)?;
        let source = self.by_address.get(&source).ok_or(Lost::Forged)?;
        if source.machine != *from {
            return Err(Lost::Forged);
        }
        // A machine that moved away is stale here, whatever its epoch.
        if source.host != self.me || epoch < source.epoch {
            return Err(Lost::Stale);
        }
        let route = self.by_address.get(&destination).ok_or(Lost::NoRoute)?;
        Ok(if route.host == self.me { Next::Here(&route.machine) } else { Next::Host(route.host) })
    }

    /// Accepts a packet that another host sent for one of this host's machines.
    pub fn arriving(&self, packet: &[u8], from: HostId, epoch: Epoch) -> Result<&MachineName, Lost> {
        let (source, destination) = ends(packet)?;
        let source = self.by_address.get(&source).ok_or(Lost::Forged)?;
        if source.host != from {
            return Err(Lost::Forged);
        }
        if epoch < source.epoch {
            return Err(Lost::Stale);
        }
        let route = self.by_address.get(&destination).filter(|route| route.host == self.me);
        route.map(|route| &route.machine).ok_or(Lost::NoRoute)
    }

    /// Tells which host runs a machine.
    pub fn host_of(&self, machine: &MachineName) -> Option<HostId> {
        self.route(machine).map(|route| route.host)
    }

    /// Says whether this host runs a machine and no newer incarnation of it is known.
    pub fn is_current(&self, machine: &MachineName, epoch: Epoch) -> bool {
        self.route(machine).is_some_and(|route| route.host == self.me && epoch >= route.epoch)
    }

    fn route(&self, machine: &MachineName) -> Option<&Route> {
        self.by_address.values().find(|route| route.machine == *machine)
    }
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
