//! The session network's addresses: which /24 a session takes, which address and MAC a machine has.
//! Derived from ids, so that two planners come to the same answer without asking anybody.

use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    id::{HostId, MachineName, SessionId},
    session::Prefix,
};

/// Where session networks live, the first choice first: 10.64.0.0/10, which home routers do not hand
/// out, then the other private ranges.
pub(super) const RANGES: [Prefix; 4] = [
    Prefix { base: Ipv4Addr::new(10, 64, 0, 0), len: 10 },
    Prefix { base: Ipv4Addr::new(172, 16, 0, 0), len: 12 },
    Prefix { base: Ipv4Addr::new(192, 168, 0, 0), len: 16 },
    Prefix { base: Ipv4Addr::new(100, 64, 0, 0), len: 10 },
];
/// Where hosts are on every session's network by IPv4: what RFC 2544 set aside for benchmarks, which no home and no
/// session has.
const HOSTS: Prefix = Prefix { base: Ipv4Addr::new(198, 18, 0, 0), len: 15 };
/// First address byte given to machines; those below are kept for the gateway and services of ours.
const FIRST_MACHINE: u8 = 10;
/// The most machines for which a /24 is taken: it holds 245, and a session may grow.
const SMALL: usize = 200;
/// How many networks of each range are tried: enough to meet nearly every /24 of the smallest one.
const TRIES: u32 = 2048;

/// A session's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// A /24, or a /22 for many machines.
    pub prefix: Prefix,
    /// How many of the hosts' own networks it overlaps.
    pub overlaps: usize,
}

/// Chooses the session's network: the first of a sequence drawn from its id that overlaps nothing in
/// `avoid`, else the one that overlaps least. Guest addresses never touch a host's routing, so nobody's
/// networks can refuse a session.
pub fn subnet(session: SessionId, machines: usize, avoid: &[Prefix]) -> Subnet {
    let len = if machines > SMALL { 22 } else { 24 };
    let mut best: Option<Subnet> = None;
    for (range, i) in RANGES.iter().flat_map(|range| (0..TRIES).map(move |i| (range, i))) {
        let prefix = candidate(session, range, i, len);
        let overlaps = avoid.iter().filter(|net| net.overlaps(&prefix)).count();
        if best.is_none_or(|best| overlaps < best.overlaps) {
            best = Some(Subnet { prefix, overlaps });
        }
        if overlaps == 0 {
            break;
        }
    }
    best.unwrap_or(Subnet { prefix: candidate(session, &RANGES[0], 0, len), overlaps: 0 })
}

/// Chooses an address for a new machine: the first that nobody ever had, else the first that nobody
/// has now.
pub fn address(subnet: Prefix, ever: &BTreeSet<Ipv4Addr>, now: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let all = || subnet.addresses().filter(|address| subnet.holds_machine(*address));
    all().find(|a| !ever.contains(a) && !now.contains(a)).or_else(|| all().find(|a| !now.contains(a)))
}

/// Derives a machine's MAC address: locally administered, unicast.
pub fn mac(session: SessionId, machine: &MachineName) -> [u8; 6] {
    let mut hasher = blake3::Hasher::new_derive_key("mesh machine mac 1");
    hasher.update(&session.0).update(machine.to_string().as_bytes());
    let hash = hasher.finalize();
    let mut mac = [0x52, 0, 0, 0, 0, 0];
    mac[1..].copy_from_slice(&hash.as_bytes()[..5]);
    mac
}

/// Derives the session's IPv6 network, a /64: `fd` and 56 bits of the id's hash (RFC 4193). Two sessions never share
/// one, and nothing of it has to be agreed upon.
pub fn subnet_v6(session: SessionId) -> Ipv6Addr {
    let mut hasher = blake3::Hasher::new_derive_key("mesh session subnet v6 1");
    hasher.update(&session.0);
    let hash = hasher.finalize();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&hash.as_bytes()[..7]);
    Ipv6Addr::from(octets)
}

/// Gives the gateway of a session's IPv6 network.
pub fn gateway_v6(subnet: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet.to_bits() | 1)
}

/// Gives the IPv6 address of a machine: the one that a guest makes itself out of its card's MAC, a modified EUI-64
/// (RFC 4291, appendix A). So the plan knows it, no guest has to be told, and it outlives epochs as the MAC does.
pub fn address_v6(subnet: Ipv6Addr, mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(subnet.to_bits() | u128::from(interface))
}

/// Gives the IPv6 address of a machine that the plan gave its MAC.
pub fn machine_v6(session: SessionId, machine: &MachineName) -> Ipv6Addr {
    address_v6(subnet_v6(session), mac(session, machine))
}

/// Gives a host's IPv4 address on every session's network, which its own programs send from. Drawn from its id: nobody
/// hands addresses out, and of 100 hosts two have the same one in 4 meshes of 100; that pair is to speak IPv6.
pub fn host_v4(host: HostId) -> Ipv4Addr {
    let [a, b, c, ..] = host_hash("mesh host address v4 1", host, &[]);
    Ipv4Addr::from(u32::from(HOSTS.base) | u32::from_be_bytes([0, a & 1, b, 1 + c % 254]))
}

/// Tells whether an IPv4 address may be a host's.
pub fn is_host_v4(address: Ipv4Addr) -> bool {
    HOSTS.contains(address)
}

/// Gives a host's address on a session's IPv6 network: none that a card's MAC makes.
pub fn host_v6(session: SessionId, host: HostId) -> Ipv6Addr {
    let mut interface = host_hash("mesh host address v6 1", host, &session.0);
    interface[3] = 0;
    Ipv6Addr::from_bits(subnet_v6(session).to_bits() | u128::from(u64::from_be_bytes(interface)))
}

fn host_hash(context: &'static str, host: HostId, more: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let [a, b, c, d, e, f, g, h, ..] = *hasher.update(&host.0).update(more).finalize().as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Tells whether an address is of a session's IPv6 network.
pub fn holds_v6(subnet: Ipv6Addr, address: Ipv6Addr) -> bool {
    (subnet.to_bits() ^ address.to_bits()) >> 64 == 0
}

fn candidate(session: SessionId, range: &Prefix, i: u32, len: u8) -> Prefix {
    let mut hasher = blake3::Hasher::new_derive_key("mesh session subnet 1");
    hasher.update(&session.0).update(&i.to_be_bytes());
    let hash = hasher.finalize();
    let [a, b, ..] = *hash.as_bytes();
    // Drawn bits between the range's, which are eight at least, and the network's own.
    let drawn = u32::from_be_bytes([0, a, b, 0]) & !range.mask() & Prefix { len, ..*range }.mask();
    Prefix { base: Ipv4Addr::from(u32::from(range.base) | drawn), len }
}

impl Prefix {
    /// Stands for "no network yet": it holds no machine.
    pub const NONE: Prefix = Prefix { base: Ipv4Addr::UNSPECIFIED, len: 32 };

    /// Tells whether the address is inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.base)) & self.mask() == 0
    }

    /// Tells whether the two share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let mask = self.mask() & other.mask();
        (u32::from(self.base) ^ u32::from(other.base)) & mask == 0
    }

    /// Gives the gateway of a session network: its second address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from((u32::from(self.base) & self.mask()) | 1)
    }

    /// Tells whether a machine may have this address: inside, above what is kept for us, and not
    /// the broadcast address.
    pub fn holds_machine(&self, address: Ipv4Addr) -> bool {
        let first = (u32::from(self.base) & self.mask()).saturating_add(u32::from(FIRST_MACHINE));
        let last = u32::from(self.base) | !self.mask();
        (first..last).contains(&u32::from(address))
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = u32::from(self.base) & self.mask();
        (first..=first | !self.mask()).map(Ipv4Addr::from)
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_ipv6_address_is_the_one_that_its_guest_makes_of_its_mac() {
        let subnet: Ipv6Addr = "fd12:3456:789a:bcde::".parse().unwrap();
        // RFC 4291, appendix A, with the locally administered MACs that machines have.
        let address = address_v6(subnet, [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(address, "fd12:3456:789a:bcde:5054:ff:fe01:203".parse::<Ipv6Addr>().unwrap());
        assert_eq!(gateway_v6(subnet), "fd12:3456:789a:bcde::1".parse::<Ipv6Addr>().unwrap());
        assert!(holds_v6(subnet, address) && !holds_v6(subnet, "fd12:3456:789a:bcdf::1".parse().unwrap()));
    }

    #[test]
    fn a_sessions_ipv6_network_is_its_own_and_stays() {
        let (one, other) = (subnet_v6(SessionId([7; 16])), subnet_v6(SessionId([8; 16])));
        assert_ne!(one, other);
        assert_eq!(one.octets()[0], 0xfd, "RFC 4193");
        assert_eq!(one.to_bits() as u64, 0, "a /64");
        // Members of any version have to come to the same one.
        assert_eq!(one.to_string(), "fd4d:faef:5724:ae90::");
    }

    #[test]
    fn a_host_has_an_address_of_its_own_that_no_machine_can_have() {
        let session = SessionId([7; 16]);
        for byte in 0..=u8::MAX {
            let host = HostId([byte; 32]);
            let (v4, v6) = (host_v4(host), host_v6(session, host));
            assert!(is_host_v4(v4) && ![0, 255].contains(&v4.octets()[3]), "{v4}");
            assert!(!RANGES.iter().any(|range| range.contains(v4)), "{v4}");
            assert!(holds_v6(subnet_v6(session), v6) && v6.octets()[11] != 0xff, "{v6}: no EUI-64");
            assert_eq!((host_v4(host), host_v6(session, host)), (v4, v6));
            assert_ne!(v6, host_v6(session, HostId([byte.wrapping_add(1); 32])));
        }
        assert_eq!(host_v4(HostId([1; 32])).to_string(), "198.18.28.123");
        assert_eq!(host_v6(session, HostId([1; 32])).to_string(), "fd4d:faef:5724:ae90:15ba:2d00:e170:2fea");
    }
}
