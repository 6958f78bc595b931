//! How this host can be reached: its addresses as the system and iroh know them, sorted and cut to
//! what gossip and tokens carry. The rules are pure; only [`interfaces`] asks the system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use iroh::{EndpointAddr, TransportAddr};
use netwatch::interfaces::{IpNet, State};
use proto::{
    session::Prefix,
    wire::record::{Reach, RelayOffer},
};

/// Direct addresses in one record.
const MAX_ADDRESSES: usize = 6;
/// Relays in one record.
const MAX_RELAYS: usize = 2;

/// What the system says about this host's networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Addresses of interfaces that are up, without loopback.
    pub addresses: Vec<IpAddr>,
    /// Their IPv4 networks.
    pub prefixes: Vec<Prefix>,
}

/// Asks the system.
pub async fn interfaces() -> Interfaces {
    let state = State::new().await;
    let mut found = Interfaces::default();
    for interface in state.interfaces.values().filter(|interface| interface.is_up()) {
        for net in interface.addrs().filter(|net| !net.addr().is_loopback()) {
            found.addresses.push(net.addr());
            if let IpNet::V4(net) = net {
                found.prefixes.push(Prefix { base: net.network(), len: net.prefix_len() });
            }
        }
    }
    found.addresses.sort();
    found.prefixes.sort_by_key(|prefix| (prefix.base, prefix.len));
    found.prefixes.dedup();
    found
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

fn is_public_v4(address: &Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b); // carrier-grade NAT and VPNs
    let benchmark = a == 198 && (b == 18 || b == 19);
    let protocols = (a, b, c) == (192, 0, 0);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || shared
        || benchmark
        || protocols)
}

fn is_public_v6(address: &Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xe000 == 0x2000 // 2000::/3: everything else is local, reserved or not an address
}

/// Chooses the address under which an own relay is offered: IPv4 first, because every host has it.
pub(crate) fn relay_address(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().filter(is_public).min_by_key(|address| (address.is_ipv6(), *address))
}

/// Makes the record's part: public addresses first, then those of the LAN, then the rest.
pub(crate) fn describe(own: &EndpointAddr, serves: Option<RelayOffer>, loopback: bool) -> Reach {
    let mut addresses: Vec<SocketAddr> = own
        .addrs
        .iter()
        .filter_map(|address| match address {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        })
        .filter(|address| is_useful(&address.ip(), loopback))
        .collect();
    addresses.sort_by_key(|address| (!is_public(&address.ip()), address.is_ipv6(), *address));
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    let relay = |address: &TransportAddr| match address {
        TransportAddr::Relay(url) => Some(url.to_string()),
        _ => None,
    };
    let relays = own.addrs.iter().filter_map(relay).take(MAX_RELAYS).collect();
    Reach { addresses, relays, serves }
}

/// Adds loopback to a host that has no other way in: without any network, agents of one computer can
/// still find each other.
pub(crate) fn or_loopback(mut reach: Reach, bound: &[SocketAddr]) -> Reach {
    if reach.addresses.is_empty() && reach.relays.is_empty() {
        let port = bound.iter().find(|socket| socket.is_ipv4()).map(SocketAddr::port);
        reach.addresses.extend(port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }
    reach
}

/// Tells whether another host could try this address.
fn is_useful(address: &IpAddr, loopback: bool) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_unspecified()
        && !address.is_multicast()
        && !link_local
        && (loopback || !address.is_loopback())
}

/// Gives what iroh needs to dial a host.
pub(crate) fn endpoint_addr(id: iroh::EndpointId, reach: &Reach) -> EndpointAddr {
    let direct = reach.addresses.iter().take(MAX_ADDRESSES).map(|address| TransportAddr::Ip(*address));
    let relays = reach.relays.iter().take(MAX_RELAYS).map(String::as_str);
    let own = reach.serves.as_ref().map(|offer| offer.url.as_str());
    let relays = relays.chain(own).filter_map(|url| url.parse().ok()).map(TransportAddr::Relay);
    EndpointAddr::from_parts(id, direct.chain(relays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_any_network_is_reached_on_its_own_computer() {
        let bound: Vec<SocketAddr> = vec!["[::]:7440".parse().unwrap(), "0.0.0.0:7440".parse().unwrap()];
        let lonely = or_loopback(Reach::default(), &bound);
        assert_eq!(lonely.addresses, ["127.0.0.1:7440".parse().unwrap()]);
        let relayed = Reach { relays: vec!["http://203.0.113.1:7440".into()], ..Reach::default() };
        assert_eq!(or_loopback(relayed.clone(), &bound), relayed);
    }

    #[test]
    fn documentation_ranges_are_public_and_home_ranges_are_not() {
        for public in ["203.0.113.5", "198.51.100.1", "192.0.2.1", "8.8.8.8", "2001:db8::1", "2a00::1"] {
            assert!(is_public(&public.parse().unwrap()), "{public}");
        }
        for private in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "::",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(&private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn a_relay_is_offered_on_ipv4_first() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let mixed = addresses(&["2001:db8::1", "192.168.0.2", "203.0.113.5"]);
        assert_eq!(relay_address(&mixed), Some("203.0.113.5".parse().unwrap()));
        assert_eq!(
            relay_address(&addresses(&["192.168.0.2", "2001:db8::1"])),
            Some("2001:db8::1".parse().unwrap())
        );
        assert_eq!(relay_address(&addresses(&["192.168.0.2"])), None);
    }
}
