//! Which addresses of a host are good for whom. Pure: the networks come in as values; nothing here asks the system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    /// The address.
    pub address: IpAddr,
    /// Prefix length, 0 to 32 or 128.
    pub len: u8,
}

impl Net {
    /// Tells whether another address is in the same network. A network of one address holds nobody else.
    pub fn holds(&self, other: &IpAddr) -> bool {
        let differ = |a: u128, b: u128, bits: u32| {
            let len = u32::from(self.len).min(bits);
            len > 0 && (a ^ b) >> (bits - len) == 0
        };
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => differ(u32::from(a).into(), u32::from(*b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => differ(a.into(), (*b).into(), 128),
            _ => false,
        }
    }
}

/// The networks of the host that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// On real networks, that others may share.
    pub lans: Vec<Net>,
    /// On networks that end inside this computer, such as container bridges. Other computers have the same ones.
    pub inner: Vec<Net>,
    /// On VPNs and other point-to-point ways: whoever is there is mostly met in a better way.
    pub tunnels: Vec<Net>,
}

impl Here {
    /// Tells whether this host has the address.
    pub fn has(&self, address: &IpAddr) -> bool {
        self.lans.iter().chain(&self.inner).chain(&self.tunnels).any(|net| net.address == *address)
    }

    /// Tells whether an address is another computer's in a network that this host is in, too.
    pub fn shares(&self, address: &IpAddr) -> bool {
        !self.has(address) && self.lans.iter().any(|net| net.holds(address))
    }

    /// Orders what another computer tells of itself as it is good for the one who asks here: on a shared network
    /// first, then as told. An address that this host has itself leads nowhere but here and is left out. One in a network
    /// inside this computer leads to somebody else, and one of a VPN around: both stand for want of another of their
    /// family only.
    pub fn order(&self, told: &[IpAddr]) -> Vec<IpAddr> {
        let is_near = |nets: &[Net], address: &IpAddr| nets.iter().any(|net| net.holds(address));
        let leads_inside = |address: &IpAddr| is_near(&self.inner, address) && !is_near(&self.lans, address);
        let by_tunnel = |address: &IpAddr| {
            !is_near(&self.lans, address) && (is_near(&self.tunnels, address) || is_shared(address))
        };
        let is_poor = |address: &IpAddr| leads_inside(address) || by_tunnel(address);
        let mut useful: Vec<IpAddr> = told.iter().copied().filter(|address| !self.has(address)).collect();
        useful.sort_by_key(|address| {
            (leads_inside(address), by_tunnel(address), !is_near(&self.lans, address))
        });
        let has_good = |v4: bool| useful.iter().any(|address| address.is_ipv4() == v4 && !is_poor(address));
        let (good_v4, good_v6) = (has_good(true), has_good(false));
        useful.retain(|address| !is_poor(address) || !(if address.is_ipv4() { good_v4 } else { good_v6 }));
        useful
    }
}

/// Tells whether a host can be at this address for others: it belongs to one interface, and to no computer's inside.
pub fn is_somewhere(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 0/8 is this very computer, 240/4 is reserved (RFC 6890).
            !(first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

/// Tells whether an interface with this address is reachable from everywhere. Documentation ranges
/// count: labs use them as their internet.
pub fn is_public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public_v4(&v4),
            None => is_public_v6(v6),
        },
    }
}

/// Tells whether an address is of the range that carrier-grade NATs and VPNs share.
fn is_shared(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]))
}

fn is_public_v4(address: &Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let benchmark = a == 198 && (b == 18 || b == 19);
    let protocols = (a, b, c) == (192, 0, 0);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || is_shared(&IpAddr::V4(*address))
        || benchmark
        || protocols)
}

fn is_public_v6(address: &Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xe000 == 0x2000 // 2000::/3: everything else is local, reserved or not an address
}

/// Picks at most `max` of a host's addresses, best first, so that every kind of asker finds one: on the LAN, from
/// outside, with one family only.
pub fn pick<T: Copy>(best_first: &[T], max: usize, ip: impl Fn(&T) -> IpAddr) -> Vec<T> {
    let first = |wanted: &dyn Fn(IpAddr) -> bool| best_first.iter().position(|one| wanted(ip(one)));
    let lan = |ip: IpAddr| !is_public(&ip);
    let needs = [
        first(&|_| true),
        first(&|ip| ip.is_ipv4() && lan(ip)).or_else(|| first(&lan)),
        first(&|ip| ip.is_ipv4()),
        first(&|ip| ip.is_ipv6()),
        first(&|ip| ip.is_ipv4() && !lan(ip)).or_else(|| first(&|ip| !lan(ip))),
    ];
    let mut picked = Vec::new();
    for index in needs.into_iter().flatten().chain(0..best_first.len()) {
        if picked.len() < max && !picked.contains(&index) {
            picked.push(index);
        }
    }
    picked.sort_unstable();
    picked.into_iter().map(|index| best_first[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn nets(text: &str) -> Vec<Net> {
        let net = |word: &str| {
            let (address, len) = word.split_once('/').unwrap();
            Net { address: address.parse().unwrap(), len: len.parse().unwrap() }
        };
        text.split_whitespace().map(net).collect()
    }

    #[test]
    fn documentation_ranges_are_public_and_home_ranges_are_not() {
        for public in ips("203.0.113.5 198.51.100.1 192.0.2.1 8.8.8.8 2001:db8::1 2a00::1") {
            assert!(is_public(&public), "{public}");
        }
        let private = "10.0.0.1 192.168.1.1 172.16.0.1 100.64.0.1 127.0.0.1 169.254.1.1 0.0.0.0 198.18.0.1 224.0.0.1 \
                       255.255.255.255 ::1 fe80::1 fd00::1 :: ::ffff:10.0.0.1";
        for private in ips(private) {
            assert!(!is_public(&private), "{private}");
        }
    }

    #[test]
    fn a_network_holds_its_neighbours() {
        let net = |text| nets(text)[0];
        assert!(net("192.168.1.2/24").holds(&ips("192.168.1.77")[0]));
        assert!(!net("192.168.1.2/24").holds(&ips("192.168.2.2")[0]));
        assert!(!net("192.168.1.2/24").holds(&ips("fd00::1")[0]));
        assert!(net("fd00:0:0:1::2/64").holds(&ips("fd00:0:0:1:2::3")[0]));
        assert!(!net("fd00:0:0:1::2/64").holds(&ips("fd00:0:0:2::2")[0]));
        assert!(!net("10.0.0.1/0").holds(&ips("10.0.0.2")[0]), "a point-to-point way without a network");
    }

    #[test]
    fn an_answer_prefers_a_shared_network_and_never_holds_what_the_asker_has() {
        let cases = [
            // (LANs here, bridges here, told, answered)
            ("192.168.1.2/24", "172.17.0.1/16", "172.17.0.1 192.168.1.3", "192.168.1.3"),
            ("192.168.1.2/24", "", "203.0.113.9 192.168.1.3", "192.168.1.3 203.0.113.9"),
            (
                "10.0.0.2/24 192.168.1.2/24",
                "",
                "10.9.0.3 10.0.0.3 192.168.1.3",
                "10.0.0.3 192.168.1.3 10.9.0.3",
            ),
            ("192.168.1.2/24 fd00::2/64", "", "2001:db8::1 fd00::3", "fd00::3 2001:db8::1"),
            // Another home with the same addresses: ours is not theirs.
            ("192.168.1.2/24", "", "192.168.1.2 203.0.113.9", "203.0.113.9"),
            // In a bridge of ours lives a container of ours.
            ("192.168.1.2/24", "172.17.0.1/16", "172.17.0.5 203.0.113.9", "203.0.113.9"),
            ("192.168.1.2/24", "172.17.0.1/16", "172.17.0.5", "172.17.0.5"),
            // Both are on a VPN as well; and one that this host is not on.
            ("192.168.1.2/24", "", "100.64.0.9 192.168.1.3", "192.168.1.3"),
            ("192.168.1.2/24", "", "10.8.0.9 203.0.113.9", "203.0.113.9"),
            ("192.168.1.2/24", "", "10.8.0.9 fd00::3", "fd00::3 10.8.0.9"),
            ("100.64.0.2/10", "", "203.0.113.9 100.64.0.9", "100.64.0.9 203.0.113.9"),
            ("192.168.1.2/24", "172.17.0.1/16", "172.17.0.1", ""),
            ("", "", "10.0.0.2 10.0.0.1", "10.0.0.2 10.0.0.1"),
        ];
        for (lans, inner, told, answered) in cases {
            let here = Here { lans: nets(lans), inner: nets(inner), tunnels: nets("10.8.0.2/24") };
            assert_eq!(here.order(&ips(told)), ips(answered), "{told} seen from {lans} and {inner}");
        }
    }

    #[test]
    fn a_few_addresses_serve_every_kind_of_asker() {
        let cases = [
            ("2001:db8::1 2001:db8::2 2001:db8::3 192.168.1.2", "2001:db8::1 2001:db8::2 192.168.1.2"),
            ("192.168.1.2 10.0.0.1 10.0.0.2 203.0.113.9 2001:db8::1", "192.168.1.2 203.0.113.9 2001:db8::1"),
            ("203.0.113.9 2001:db8::1 192.168.1.2 192.168.2.2", "203.0.113.9 2001:db8::1 192.168.1.2"),
            ("203.0.113.9 203.0.113.10 203.0.113.11 fd00::1", "203.0.113.9 203.0.113.10 fd00::1"),
            ("192.168.1.2 fd00::1", "192.168.1.2 fd00::1"),
            ("", ""),
        ];
        for (all, few) in cases {
            assert_eq!(pick(&ips(all), 3, |ip| *ip), ips(few), "of {all}");
        }
        assert_eq!(pick(&ips("10.0.0.1 10.0.0.2"), 0, |ip| *ip), ips(""));
    }
}
