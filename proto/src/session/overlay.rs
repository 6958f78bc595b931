//! The session network's addresses: which /24 a session takes, which address and MAC a machine has.
//! Derived from ids, so that two planners come to the same answer without asking anybody.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use crate::{
    id::{MachineName, SessionId},
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
