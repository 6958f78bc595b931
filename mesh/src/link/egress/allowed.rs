//! Pure: where a guest may go outside of its session. One decision, asked with the very address that is
//! connected to, never with a name: what a name resolves to is its owner's choice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::topology::Egress;

/// What this host's own network looks like, as far as guests must not reach it: prefixes with their lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNet {
    /// What the host itself answers: every address of it.
    pub own: Vec<(IpAddr, u8)>,
    /// Where it knows a nearer way than its default one: its wires, and what a VPN or a second router leads to.
    pub nearer: Vec<(IpAddr, u8)>,
    /// Of these, the wire that leads to its default router: its LAN. Guests with [`Egress::Lan`] reach what is private
    /// there.
    pub lan: Vec<(IpAddr, u8)>,
    /// Whether it has an IPv6 address of the internet and a way there.
    pub v6: bool,
}

/// Ranges that lead to this host, to its wire or to nobody, whatever a topology says.
const NEVER_V4: [(Ipv4Addr, u8); 11] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Azure answers its virtual machines there: metadata, certificates, its resolver.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::new(255, 255, 255, 255), 32),
];
/// Private networks: behind a VPN or a second router they are somebody's home, and no internet.
const PRIVATE_V4: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];
const PRIVATE_V6: [(Ipv6Addr, u8); 1] = [(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)];
/// What there is beside private networks: global unicast.
const GLOBAL_V6: [(Ipv6Addr, u8); 1] = [(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)];
/// Parts of both that lead to nobody or carry an IPv4 address (RFC 6890), and the metadata of clouds.
const NEVER_V6: [(Ipv6Addr, u8); 4] = [
    // Teredo, benchmarks, names of hosts that are no addresses, and what else protocols were given.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
];

/// Translators to IPv4 (RFC 6052): whoever sends there reaches the address in the last 32 bits.
const NAT64: [(Ipv6Addr, u8); 1] = [(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)];

/// Says whether the host has a way to an address that a guest may reach, as far as it knows.
pub(super) fn has_way(host: Option<&HostNet>, address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => within(&PRIVATE_V6, v6) || host.is_some_and(|host| host.v6),
    }
}

/// Says whether a guest with this egress may exchange packets with `address`. Of a host whose network is not
/// known nobody can say what is not part of it, so nothing is reached.
pub fn allowed(egress: Egress, host: Option<&HostNet>, address: IpAddr) -> bool {
    let Some(host) = host else { return false };
    let address = address.to_canonical();
    if let IpAddr::V6(v6) = address
        && within(&NAT64, v6)
    {
        // A translator that serves what is private is none that everybody uses.
        let public = if egress == Egress::Lan { Egress::Internet } else { egress };
        return allowed(public, Some(host), Ipv4Addr::from_bits(v6.to_bits() as u32).into());
    }
    let (never, private) = match address {
        IpAddr::V4(v4) => (within(&NEVER_V4, v4), within(&PRIVATE_V4, v4)),
        IpAddr::V6(v6) => {
            let private = within(&PRIVATE_V6, v6);
            (within(&NEVER_V6, v6) || !(private || within(&GLOBAL_V6, v6)), private)
        }
    };
    if never || longest(&host.own, address).is_some() {
        return false;
    }
    match egress {
        Egress::None => false,
        Egress::Lan if private => on_lan(host, address),
        Egress::Internet | Egress::Lan => !private && longest(&host.nearer, address).is_none(),
    }
}

/// Says whether the host's LAN is where an address is: what a VPN or a second router leads to goes before it. An address
/// that is not one neighbour's is none: the host itself may answer it.
fn on_lan(host: &HostNet, address: IpAddr) -> bool {
    let lan = longest(&host.lan, address);
    let shared = host.lan.iter().any(|&prefix| shared(prefix) == Some(address));
    lan.is_some() && lan >= longest(&host.nearer, address) && !shared
}

/// Gives the length of the longest of these prefixes that an address is in.
fn longest(prefixes: &[(IpAddr, u8)], address: IpAddr) -> Option<u8> {
    let holds = |&&(base, len): &&(IpAddr, u8)| match (base.to_canonical(), address) {
        (IpAddr::V4(base), IpAddr::V4(v4)) => within(&[(base, len)], v4),
        (IpAddr::V6(base), IpAddr::V6(v6)) => within(&[(base, len)], v6),
        _ => false,
    };
    prefixes.iter().filter(holds).map(|&(_, len)| len).max()
}

/// An address as a number, to be compared by prefix.
trait Bits: Copy {
    /// Its bits, the first one highest.
    fn bits(self) -> u128;
}

impl Bits for Ipv4Addr {
    fn bits(self) -> u128 {
        u128::from(self.to_bits()) << 96
    }
}

impl Bits for Ipv6Addr {
    fn bits(self) -> u128 {
        self.to_bits()
    }
}

fn within<A: Bits>(prefixes: &[(A, u8)], address: A) -> bool {
    prefixes.iter().any(|&(base, len)| {
        let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
        (base.bits() ^ address.bits()) & mask == 0
    })
}

/// Gives the address of a network that is nobody's own: IPv4's broadcast, IPv6's anycast of its routers, of which the host
/// may be one (RFC 4291, 2.6.1).
fn shared((base, len): (IpAddr, u8)) -> Option<IpAddr> {
    match base {
        IpAddr::V4(base) if len < 31 => {
            Some(Ipv4Addr::from_bits(base.to_bits() | u32::MAX >> u32::from(len)).into())
        }
        IpAddr::V6(base) if len < 127 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            Some(Ipv6Addr::from_bits(base.to_bits() & mask).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostNet {
        let prefix = |(address, len): &(&str, u8)| (address.parse().unwrap(), *len);
        let own = [("203.0.113.9", 32), ("192.168.1.5", 32), ("198.51.100.64", 28), ("2001:db8:2::5", 128)];
        let nearer = [
            ("192.168.1.5", 24),
            ("192.168.1.192", 26),
            ("203.0.113.9", 28),
            ("9.9.0.0", 16),
            ("10.8.0.0", 24),
            ("fd00:1::", 64),
            ("fd00:2::", 64),
            ("2001:db8:1::5", 64),
        ];
        let lan = [("192.168.1.0", 24), ("203.0.113.0", 28), ("fd00:1::", 64), ("2001:db8:1::", 64)];
        let [own, nearer, lan] = [&own[..], &nearer, &lan].map(|all| all.iter().map(prefix).collect());
        HostNet { own, nearer, lan, v6: true }
    }

    fn check(egress: Egress, cases: &[(&str, bool)]) {
        for &(address, expected) in cases {
            let got = allowed(egress, Some(&host()), address.parse().unwrap());
            assert_eq!(got, expected, "{egress:?} {address}");
        }
    }

    #[test]
    fn the_internet_is_reached_and_nothing_of_the_host_or_its_wire() {
        check(
            Egress::Internet,
            &[
                ("1.1.1.1", true),
                ("203.0.113.80", true),
                ("100.63.255.255", true),
                ("100.128.0.0", true),
                ("172.32.0.1", true),
                ("198.20.0.1", true),
                ("223.255.255.255", true),
                ("0.0.0.0", false),
                ("0.1.2.3", false),
                ("10.0.0.1", false),
                ("10.64.3.2", false),
                ("100.64.0.1", false),
                ("100.127.255.255", false),
                ("127.0.0.1", false),
                ("127.64.3.2", false),
                ("169.254.169.254", false),
                ("172.31.0.1", false),
                ("192.0.0.170", false),
                ("192.168.1.5", false),
                ("192.168.1.1", false),
                ("192.168.2.1", false),
                ("168.63.129.15", true),
                ("168.63.129.16", false),
                ("9.9.255.255", false),
                ("9.10.0.0", true),
                ("198.51.100.70", false),
                ("198.51.100.80", true),
                ("198.18.0.1", false),
                ("198.19.255.255", false),
                ("203.0.113.9", false),
                ("203.0.113.1", false),
                ("224.0.0.251", false),
                ("239.255.255.250", false),
                ("240.0.0.1", false),
                ("255.255.255.255", false),
            ],
        );
    }

    #[test]
    fn the_same_holds_for_ipv6_and_for_addresses_that_wrap_others() {
        check(
            Egress::Internet,
            &[
                ("2606:4700::1111", true),
                ("2001:db8:1::77", false),
                ("2001:db8:2::5", false),
                ("2001:db8:2::6", true),
                ("::", false),
                ("::1", false),
                ("::ffff:127.0.0.1", false),
                ("::ffff:192.168.1.1", false),
                ("::ffff:1.1.1.1", true),
                ("::127.0.0.1", false),
                ("64:ff9b::101:101", true),
                ("64:ff9b::7f00:1", false),
                ("64:ff9b::c0a8:101", false),
                ("64:ff9b::cb00:7109", false),
                ("64:ff9b:1::101:101", false),
                ("2001:0:1::1", false),
                ("2001:2::1", false),
                ("2001:10::1", false),
                ("2001:200::1", true),
                ("100::1", false),
                ("5f00::1", false),
                ("fec0::1", false),
                ("2002:7f00:1::1", false),
                ("fe80::1", false),
                ("fd00:ec2::254", false),
                ("fc00::1", false),
                ("ff02::fb", false),
            ],
        );
    }

    #[test]
    fn the_lan_is_reached_on_request_but_never_the_host_itself() {
        check(
            Egress::Lan,
            &[
                ("1.1.1.1", true),
                ("2606:4700::1111", true),
                ("192.168.1.1", true),
                ("::ffff:192.168.1.1", true),
                ("fd00:1::7", true),
                ("fd00:1::", false),
                // The host itself.
                ("192.168.1.5", false),
                ("203.0.113.9", false),
                ("198.51.100.70", false),
                ("127.0.0.1", false),
                // What is private and not on its wire, or that another way leads to.
                ("192.168.1.200", false),
                ("192.168.2.1", false),
                ("10.8.0.1", false),
                ("10.0.0.1", false),
                ("10.64.3.2", false),
                ("fd00:2::7", false),
                ("fd12::1", false),
                // Whoever is beside it in public is no part of a private network.
                ("203.0.113.1", false),
                ("2001:db8:1::77", false),
                ("9.9.1.1", false),
                // And everything that is never reached.
                ("192.168.1.255", false),
                ("0.0.0.0", false),
                ("100.64.0.1", false),
                ("168.63.129.16", false),
                ("169.254.169.254", false),
                ("224.0.0.251", false),
                ("fd00:ec2::254", false),
                ("64:ff9b::c0a8:101", false),
                ("2002:c0a8:101::1", false),
                ("fe80::1", false),
                ("ff02::fb", false),
            ],
        );
    }

    #[test]
    fn without_egress_nothing_is_reached() {
        check(Egress::None, &[("1.1.1.1", false), ("192.168.1.1", false), ("2606:4700::1111", false)]);
    }

    #[test]
    fn of_a_host_whose_network_is_not_known_nothing_is_reached() {
        for egress in [Egress::Internet, Egress::Lan, Egress::None] {
            assert!(!allowed(egress, None, "1.1.1.1".parse().unwrap()));
        }
    }

    #[test]
    fn any_prefix_length_is_taken() {
        let nine: IpAddr = Ipv4Addr::new(9, 9, 9, 9).into();
        for len in 0..=u8::MAX {
            let host = HostNet { nearer: vec![(nine, len)], ..HostNet::default() };
            assert!(!allowed(Egress::Internet, Some(&host), nine));
        }
    }
}
