//! Pure: how this host can be reached, as gossip and tokens carry it, and how iroh is told of others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use iroh::{EndpointAddr, TransportAddr};
use proto::{
    addresses::is_public,
    reachability::ways::MAX_RELAYS,
    wire::record::{Reach, RelayOffer},
};

use crate::reach::addresses::Interfaces;

/// Addresses of one kind that are dialled at once, whatever a member says of itself.
const MAX_DIALLED: usize = 16;

/// Chooses the address under which an own relay is offered, of those that are best first: IPv4, because every host
/// has it.
pub(crate) fn relay_address(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().filter(is_public).min_by_key(IpAddr::is_ipv6)
}

/// Makes the record's part of what iroh knows of this host.
pub(crate) fn describe(
    own: &EndpointAddr,
    interfaces: &Interfaces,
    serves: Option<RelayOffer>,
    loopback: bool,
) -> Reach {
    let direct = own.addrs.iter().filter_map(|address| match address {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    });
    let useful: Vec<SocketAddr> = direct.filter(|address| is_useful(&address.ip(), loopback)).collect();
    let addresses = interfaces.choose(&useful);
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
pub(crate) fn endpoint_addr(id: iroh::EndpointId, reach: &Reach, more: &[SocketAddr]) -> EndpointAddr {
    let direct = reach.addresses.iter().take(MAX_DIALLED).chain(more.iter().take(MAX_DIALLED));
    let direct = direct.map(|address| TransportAddr::Ip(*address));
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
