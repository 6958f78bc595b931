//! Pure: what kind of network an interface leads to, and which of this host's addresses others are told, in which
//! order. A computer has many more addresses than ways: six container bridges with the lowest numbers, and one LAN.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use proto::{
    addresses::{Here, Net, is_public, pick},
    reachability::ways::MAX_ADDRESSES,
    session::{Prefix, overlay},
};

/// What an interface leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hardware, or a bridge, bond or VLAN on it: a network that others may be on.
    Lan,
    /// Ethernet without hardware, such as veth and TAP: the way out of a container, or into one.
    Soft,
    /// A VPN or another point-to-point way.
    Tunnel,
    /// A bridge without hardware, and what hangs on it: a network inside this computer.
    Inner,
}

/// One interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it leads to.
    pub kind: Kind,
    /// The metric of its default route; the smaller one is used first.
    pub default: Option<u32>,
    /// Its addresses, those first that last.
    pub nets: Vec<Net>,
}

/// This host's interfaces, the best first, without loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces(Vec<Interface>);

/// Where an address stands when it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// On the network of the default route.
    Default,
    /// On another LAN.
    Lan,
    /// What others see of this host, on no interface.
    Outside,
    /// One more of the same family on the same interface.
    More,
    /// On a VPN.
    Tunnel,
    /// Inside this computer.
    Inner,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Default => "on the network of the default route",
            Tier::Lan => "on a LAN",
            Tier::Outside => "how others see this host",
            Tier::More => "one more on an interface that has another",
            Tier::Tunnel => "on a VPN",
            Tier::Inner => "inside this computer, the same on every computer",
        })
    }
}

impl Interfaces {
    /// Sorts them.
    pub(crate) fn new(mut all: Vec<Interface>) -> Interfaces {
        // One that leads to sessions alone is no way to this host.
        let ours = |net: &Net| matches!(net.address, IpAddr::V4(v4) if overlay::is_host_v4(v4));
        all.retain(|interface| !interface.nets.iter().any(ours));
        all.sort_by_key(|interface| {
            (interface.default.is_none(), interface.kind, interface.default, interface.name.clone())
        });
        Interfaces(all)
    }

    /// Lists all addresses, the best first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut nets: Vec<(Tier, IpAddr)> = self.tiers().collect();
        nets.sort_by_key(|(tier, _)| *tier);
        nets.into_iter().map(|(_, address)| address)
    }

    /// Lists the IPv4 networks.
    pub fn prefixes(&self) -> Vec<Prefix> {
        let prefix = |net: &Net| match net.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(net.len)).unwrap_or(0);
                Some(Prefix { base: (u32::from(address) & mask).into(), len: net.len })
            }
            IpAddr::V6(_) => None,
        };
        let mut prefixes: Vec<Prefix> = self.nets().filter_map(prefix).collect();
        prefixes.sort();
        prefixes.dedup();
        prefixes
    }

    /// Tells apart what others may be on and what ends inside this computer.
    pub fn here(&self) -> Here {
        let mut here = Here::default();
        for interface in &self.0 {
            match self.tier(interface) {
                Tier::Inner => here.inner.extend(&interface.nets),
                Tier::Tunnel => here.tunnels.extend(&interface.nets),
                _ => here.lans.extend(&interface.nets),
            }
        }
        here
    }

    /// Lists the networks on which others of the same LAN can be met: addresses and their prefixes.
    pub(crate) fn lans(&self) -> Vec<Net> {
        let real = self.0.iter().filter(|interface| self.tier(interface) <= Tier::Lan);
        real.flat_map(|interface| interface.nets.iter().copied()).collect()
    }

    /// Lists those of them that a router of IPv4 stands before.
    pub(crate) fn lans_v4(&self) -> Vec<Net> {
        let mut lans = self.lans();
        lans.retain(|net| net.address.is_ipv4());
        lans
    }

    fn nets(&self) -> impl Iterator<Item = &Net> {
        self.0.iter().flat_map(|interface| &interface.nets)
    }

    fn tier(&self, interface: &Interface) -> Tier {
        let anything_real = || self.0.iter().any(|other| other.kind == Kind::Lan || is_way_out(other));
        match interface.kind {
            _ if is_way_out(interface) => Tier::Default,
            Kind::Lan => Tier::Lan,
            Kind::Tunnel => Tier::Tunnel,
            // The only network there is: two containers, two machines of a laboratory.
            Kind::Soft if !anything_real() => Tier::Lan,
            Kind::Soft | Kind::Inner => Tier::Inner,
        }
    }

    fn tiers(&self) -> impl Iterator<Item = (Tier, IpAddr)> {
        self.0.iter().flat_map(|interface| {
            let tier = self.tier(interface);
            interface.nets.iter().enumerate().map(move |(index, net)| {
                let family = |other: &Net| other.address.is_ipv4() == net.address.is_ipv4();
                let more = interface.nets[..index].iter().any(family);
                let tier = if more && tier <= Tier::Lan { Tier::More } else { tier };
                (tier, net.address)
            })
        })
    }

    /// Says of each of this host's addresses where it stands, the best first.
    pub fn places(&self, own: &[SocketAddr]) -> Vec<(Tier, SocketAddr)> {
        let known: Vec<(Tier, IpAddr)> = self.tiers().collect();
        let tier = |address: &SocketAddr| {
            let found = known.iter().find(|(_, ip)| *ip == address.ip());
            found.map_or(Tier::Outside, |(tier, _)| *tier)
        };
        let mut places: Vec<_> = own.iter().map(|address| (tier(address), *address)).collect();
        places.sort();
        places
    }

    /// Chooses which of `own` are told, and in which order. What is on no interface is what others see.
    pub(crate) fn choose(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let known: Vec<(Tier, IpAddr)> = self.tiers().collect();
        let mut ranked: Vec<((Tier, usize), SocketAddr)> = Vec::new();
        for address in own {
            let at = known.iter().position(|(_, ip)| *ip == address.ip());
            let rank = at.map_or_else(
                || {
                    (
                        Tier::Outside,
                        2 * usize::from(!is_public(&address.ip())) + usize::from(address.is_ipv6()),
                    )
                },
                |index| (known[index].0, index),
            );
            ranked.push((rank, *address));
        }
        ranked.sort();
        ranked.dedup();
        // Container bridges are the same on every computer: told only by a host that has nothing else.
        if ranked.iter().any(|((tier, _), _)| *tier < Tier::Inner) {
            ranked.retain(|((tier, _), _)| *tier < Tier::Inner);
        }
        let addresses: Vec<SocketAddr> = ranked.into_iter().map(|(_, address)| address).collect();
        pick(&addresses, MAX_ADDRESSES, SocketAddr::ip)
    }
}

/// A default route makes a way out of everything but a VPN, which carries all traffic when it is told to and leads to
/// no other host of ours.
fn is_way_out(interface: &Interface) -> bool {
    interface.default.is_some() && interface.kind != Kind::Tunnel
}

/// What the system shows of an interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signs {
    /// ARPHRD number; 1 = Ethernet.
    pub(crate) link_type: Option<u32>,
    /// It is hardware, also of a hypervisor.
    pub(crate) hardware: bool,
    /// It is a bridge, bond, VLAN or the like, and there is hardware below it.
    pub(crate) on_hardware: bool,
    /// It is a bridge.
    pub(crate) bridge: bool,
    /// It hangs on a bridge.
    pub(crate) port: bool,
    /// DEVTYPE: `wlan`, `bridge`, `vlan`, `wireguard`.
    pub(crate) devtype: String,
}

const ETHERNET: u32 = 1;
const PPP: u32 = 512;

/// Names by which the interfaces of containers, virtual machines and VPNs are known where the system says no more.
const INNER: &[&str] = &[
    "docker",
    "br-",
    "veth",
    "virbr",
    "vnet",
    "vmnet",
    "vboxnet",
    "lxcbr",
    "lxdbr",
    "cni",
    "podman",
    "flannel",
    "cali",
    "bridge",
    "vEthernet",
];
const TUNNELS: &[&str] =
    &["tun", "tap", "utun", "wg", "tailscale", "zt", "ipsec", "ppp", "gif", "stf", "nebula"];

/// Tells what an interface leads to. `default` = it has a default route.
pub(crate) fn classify(name: &str, signs: &Signs, default: bool) -> Kind {
    let Some(link_type) = signs.link_type else {
        let named = |names: &[&str]| names.iter().any(|prefix| name.starts_with(prefix));
        return match () {
            () if named(INNER) => Kind::Inner,
            () if named(TUNNELS) => Kind::Tunnel,
            () => Kind::Lan,
        };
    };
    match () {
        () if signs.hardware || signs.on_hardware || signs.devtype == "wlan" => Kind::Lan,
        // A modem's line, unless it is a VPN beside another way out.
        () if link_type == PPP && default => Kind::Lan,
        () if link_type != ETHERNET || signs.devtype == "wireguard" => Kind::Tunnel,
        () if signs.bridge || signs.port => Kind::Inner,
        () => Kind::Soft,
    }
}

/// Reads /proc/net/route: the interfaces with a default route, and its metric. The two halves by which a VPN covers
/// everything are none.
pub(crate) fn default_routes_v4(text: &str) -> Vec<(String, u32)> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, "00000000", _, flags, _, _, metric, "00000000", ..] = fields[..] else { return None };
        let up = u32::from_str_radix(flags, 16).ok()? & 1 == 1;
        up.then_some((name.to_owned(), metric.parse().ok()?))
    };
    text.lines().filter_map(route).collect()
}

/// Reads /proc/net/ipv6_route in the same way. What refuses packets (metric 2^32 - 1, on lo) is no route.
pub(crate) fn default_routes_v6(text: &str) -> Vec<(String, u32)> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, _, metric, _, _, _, name] = fields[..] else { return None };
        let metric = u32::from_str_radix(metric, 16).ok()?;
        let real = destination.bytes().all(|byte| byte == b'0') && metric != u32::MAX && name != "lo";
        real.then_some((name.to_owned(), metric))
    };
    text.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests;
