//! Names of addresses (RFC 1035, 3.5): those of this host's forwards for hosts, those of its session for a guest.
//! Pure: everything comes from the zone.
//!
//! Whoever believes that there is nothing wants the SOA of a zone that the name is in (RFC 2308). Reverse zones end at
//! whole octets, or digits, so ours are the /16 of the forward range, and the /24 and /64 of a session's networks.

use std::net::Ipv4Addr;

use super::{FORWARD_RANGE, Kind, Resolution, View, Zone, published, within};
use crate::session::{MachineEntry, Prefix, Share, overlay};

/// The domain of names of IPv4 addresses.
const DOMAIN: &str = "in-addr.arpa";
/// The domain of names of IPv6 addresses, which are said digit by digit (RFC 3596, 2.5).
const DOMAIN_V6: &str = "ip6.arpa";
/// The digits of an IPv6 address, and those of them that are a network's.
const DIGITS: usize = 32;
const CUT_V6: usize = 16;

/// Gives the name of the zone of ours that a name is in: the owner of its SOA. `None`: it is not ours.
pub fn origin(zone: &Zone, view: View, name: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == zone.zone || within(zone, &name).is_some() {
        return Some(zone.zone.clone());
    }
    if let Some((digits, _)) = digits(&name) {
        guests_v6(zone, view, &digits)?;
        let labels: String = digits[..CUT_V6].chars().rev().map(|digit| format!("{digit}.")).collect();
        return Some(format!("{labels}{DOMAIN_V6}"));
    }
    let Address { octets, .. } = address(&name)?;
    Some(spelled(octets.get(..cut(zone, view, &octets)?)?))
}

/// Answers for a name that is not in the mesh's own zone.
pub(super) fn answer(zone: &Zone, view: View, name: &str, kind: Kind) -> Resolution {
    if let Some((digits, beyond)) = digits(name) {
        return answer_v6(zone, view, &digits, beyond, kind);
    }
    let Some(Address { octets, beyond }) = address(name) else { return Resolution::Refused };
    let Some(cut) = cut(zone, view, &octets) else { return Resolution::Refused };
    let found = match octets[..] {
        _ if beyond => false,
        [a, b, c, d] => match name_of(zone, view, Ipv4Addr::new(a, b, c, d)) {
            Some(found) if kind == Kind::Ptr => return Resolution::Name(format!("{found}.{}", zone.zone)),
            found => found.is_some(),
        },
        _ => octets.len() == cut || any_below(zone, view, &octets),
    };
    if found { Resolution::NoData } else { Resolution::NoName }
}

/// An address as such a name says it.
struct Address {
    /// Its octets, the first one first: up to four.
    octets: Vec<u8>,
    /// Whether something stands before them that no address has.
    beyond: bool,
}

fn address(name: &str) -> Option<Address> {
    let inner = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    // Spelled otherwise it is another name.
    let octet = |label: &str| label.parse::<u8>().ok().filter(|octet| octet.to_string() == label);
    let octets: Vec<u8> = inner.rsplit('.').map_while(octet).take(4).collect();
    Some(Address { beyond: inner.split('.').count() > octets.len(), octets })
}

fn spelled(octets: &[u8]) -> String {
    let labels: String = octets.iter().rev().map(|octet| format!("{octet}.")).collect();
    format!("{labels}{DOMAIN}")
}

/// Gives how many octets the zone has that such a name is in, if it is in one of ours.
fn cut(zone: &Zone, view: View, octets: &[u8]) -> Option<usize> {
    let (cut, prefix) = match view {
        View::Host => (2, FORWARD_RANGE),
        View::Guest(..) => (3, guests(zone, view)?.directory.subnet),
    };
    let mut whole = [0; 4];
    whole[..cut].copy_from_slice(octets.get(..cut)?);
    prefix.contains(Ipv4Addr::from(whole)).then_some(cut)
}

/// Gives the session that a guest is of, as long as there is one.
fn guests(zone: &Zone, view: View) -> Option<&Share> {
    let View::Guest(own, _) = view else { return None };
    zone.sessions.get(&own).map(AsRef::as_ref).filter(|session| !session.ended)
}

fn name_of(zone: &Zone, view: View, address: Ipv4Addr) -> Option<String> {
    if view == View::Host {
        let of_session = zone.forwards.iter().find(|(_, forward)| forward.address == address);
        let Some(((id, label), _)) = of_session else { return published::pointer(zone, address) };
        let (session, _) = zone.labels.iter().find(|(_, of)| *of == id)?;
        return Some(format!("{label}.{session}"));
    }
    let session = guests(zone, view)?;
    let entry = session.directory.machines().find(|entry| entry.address == address)?;
    Some(format!("{}.{}", entry.machine, session.name))
}

/// Tells whether an address that begins with these octets has a name.
fn any_below(zone: &Zone, view: View, octets: &[u8]) -> bool {
    let mut base = [0; 4];
    base[..octets.len()].copy_from_slice(octets);
    let below = Prefix { base: base.into(), len: 8 * octets.len() as u8 };
    match view {
        View::Host => {
            let mut forwards = zone.forwards.values().chain(zone.host_forwards.values());
            forwards.any(|forward| below.contains(forward.address))
        }
        View::Guest(..) => {
            guests(zone, view).is_some_and(|s| s.directory.machines().any(|e| below.contains(e.address)))
        }
    }
}

fn answer_v6(zone: &Zone, view: View, digits: &str, beyond: bool, kind: Kind) -> Resolution {
    let Some(session) = guests_v6(zone, view, digits) else { return Resolution::Refused };
    let below = |entry: &&MachineEntry| {
        let address = overlay::machine_v6(session.session, &entry.machine);
        format!("{:032x}", address.to_bits()).starts_with(digits)
    };
    match session.directory.machines().find(below) {
        _ if beyond => Resolution::NoName,
        Some(entry) if digits.len() == DIGITS && kind == Kind::Ptr => {
            Resolution::Name(format!("{}.{}.{}", entry.machine, session.name, zone.zone))
        }
        Some(_) => Resolution::NoData,
        None if digits.len() == CUT_V6 => Resolution::NoData,
        None => Resolution::NoName,
    }
}

/// Gives the digits that the name of an IPv6 address says, the first one first, and whether something stands before
/// them that no address has.
fn digits(name: &str) -> Option<(String, bool)> {
    let inner = name.strip_suffix(DOMAIN_V6)?.strip_suffix('.')?;
    let digit = |label: &&str| matches!(label.as_bytes(), [b'0'..=b'9' | b'a'..=b'f']);
    let digits: String = inner.rsplit('.').take_while(digit).take(DIGITS).collect();
    let beyond = inner.split('.').count() > digits.len();
    Some((digits, beyond))
}

/// Gives the session of a guest when such digits are of its network.
fn guests_v6<'z>(zone: &'z Zone, view: View, digits: &str) -> Option<&'z Share> {
    let session = guests(zone, view)?;
    let network = format!("{:032x}", overlay::subnet_v6(session.session).to_bits());
    digits.starts_with(&network[..CUT_V6]).then_some(session)
}
