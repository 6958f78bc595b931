//! Where a packet of one session goes, and whether it may come from where it came. Pure: cut from
//! the session's directory, nothing is learned from traffic.

use std::{collections::HashMap, net::Ipv4Addr};

use proto::{
    id::{Epoch, HostId, MachineName},
    session::Directory,
};

/// The routes of one session as one host sees them.
#[derive(Debug)]
pub(super) struct Routes {
    me: HostId,
    by_address: HashMap<Ipv4Addr, Route>,
}

#[derive(Debug)]
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
    /// It is no IPv4 packet.
    Malformed,
    /// No machine of the session has its destination, or not on this host.
    NoRoute,
    /// Its source is not a machine of the host that sent it.
    Forged,
    /// Its source is an incarnation that has a successor.
    Stale,
}

impl Routes {
    pub fn new(directory: &Directory, me: HostId) -> Routes {
        let machines = directory.groups.values().flat_map(|group| &group.machines);
        let by_address = machines
            .map(|entry| {
                let machine = entry.machine.clone();
                (entry.address, Route { host: entry.host, machine, epoch: entry.epoch })
            })
            .collect();
        Routes { me, by_address }
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

fn ends(packet: &[u8]) -> Result<(Ipv4Addr, Ipv4Addr), Lost> {
    let header = etherparse::Ipv4HeaderSlice::from_slice(packet).map_err(|_| Lost::Malformed)?;
    Ok((header.source_addr(), header.destination_addr()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proto::session::{GroupEntry, Guard, MachineEntry, Prefix};

    use super::*;

    const HERE: HostId = HostId([1; 32]);
    const THERE: HostId = HostId([2; 32]);

    /// web-1 (.2) and web-3 (.4) here, web-2 (.3) there in its fifth epoch.
    fn routes() -> Routes {
        let entry = |index: u8, host, epoch| MachineEntry {
            machine: format!("web-{index}").parse().unwrap(),
            host,
            epoch: Epoch(epoch),
            address: Ipv4Addr::new(10, 64, 7, 1 + index),
            guard: Guard::Hold,
            user: None,
        };
        let group = GroupEntry {
            services: BTreeMap::new(),
            needs: BTreeSet::new(),
            machines: vec![entry(1, HERE, 2), entry(2, THERE, 5), entry(3, HERE, 1)],
        };
        let subnet = Prefix { base: Ipv4Addr::new(10, 64, 7, 0), len: 24 };
        let groups = BTreeMap::from([("web".parse().unwrap(), group)]);
        Routes::new(&Directory { subnet, groups }, HERE)
    }

    fn packet(from: u8, to: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 64, 7, from], [10, 64, 7, to], 64)
            .udp(1, 2)
            .write_to_vec(&mut bytes, b"hi")
            .unwrap();
        bytes
    }

    #[test]
    fn packets_leave_for_the_host_of_their_destination() {
        let (routes, web_1) = (routes(), "web-1".parse().unwrap());
        let leaving = |from, to, epoch| routes.leaving(&packet(from, to), &web_1, Epoch(epoch));
        assert_eq!(leaving(2, 3, 2), Ok(Next::Host(THERE)));
        assert_eq!(leaving(2, 4, 2), Ok(Next::Here(&"web-3".parse().unwrap())));
        assert_eq!(leaving(2, 4, 3), Ok(Next::Here(&"web-3".parse().unwrap())), "newer than we know");
        assert_eq!(leaving(2, 9, 2), Err(Lost::NoRoute));
        assert_eq!(leaving(4, 3, 2), Err(Lost::Forged));
        assert_eq!(leaving(2, 3, 1), Err(Lost::Stale));
        assert_eq!(routes.leaving(b"junk", &web_1, Epoch(2)), Err(Lost::Malformed));
    }

    #[test]
    fn an_incarnation_that_moved_away_is_not_heard_here() {
        let routes = routes();
        let web_2 = "web-2".parse().unwrap();
        assert_eq!(routes.leaving(&packet(3, 2), &web_2, Epoch(4)), Err(Lost::Stale));
    }

    #[test]
    fn packets_arrive_only_from_the_host_of_their_source_and_its_newest_epoch() {
        let routes = routes();
        let arriving =
            |from, to, host, epoch| routes.arriving(&packet(from, to), host, Epoch(epoch)).cloned();
        assert_eq!(arriving(3, 2, THERE, 5), Ok("web-1".parse().unwrap()));
        assert_eq!(arriving(3, 2, THERE, 6), Ok("web-1".parse().unwrap()));
        assert_eq!(arriving(3, 2, THERE, 4), Err(Lost::Stale));
        assert_eq!(arriving(3, 2, HostId([3; 32]), 5), Err(Lost::Forged));
        assert_eq!(arriving(4, 2, THERE, 5), Err(Lost::Forged));
        assert_eq!(arriving(9, 2, THERE, 5), Err(Lost::Forged));
        assert_eq!(arriving(3, 3, THERE, 5), Err(Lost::NoRoute));
        assert_eq!(arriving(3, 9, THERE, 5), Err(Lost::NoRoute));
    }

    #[test]
    fn machines_are_found_by_name() {
        let routes = routes();
        assert_eq!(routes.host_of(&"web-2".parse().unwrap()), Some(THERE));
        assert_eq!(routes.host_of(&"web-9".parse().unwrap()), None);
        let current = |name: &str, epoch| routes.is_current(&name.parse().unwrap(), Epoch(epoch));
        assert!(current("web-1", 2) && current("web-1", 3) && !current("web-1", 1));
        assert!(!current("web-2", 5), "runs elsewhere");
    }
}
