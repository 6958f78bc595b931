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
    (loopback, bound): (bool, &[SocketAddr]),
) -> Reach {
    let direct = own.addrs.iter().filter_map(|address| match address {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    });
    // The endpoint passes those over that are of a network's own as long as it has others.
    let port = bound.iter().find(|socket| socket.is_ipv6()).map(SocketAddr::port);
    let inner = port.into_iter().flat_map(|port| {
        let nets = interfaces.lans().into_iter().map(|net| net.address).filter(is_ula);
        nets.map(move |ip| SocketAddr::new(ip, port))
    });
    let all = direct.chain(inner);
    let useful: Vec<SocketAddr> = all.filter(|address| is_useful(&address.ip(), loopback)).collect();
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

fn is_ula(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unique_local())
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
    use proto::addresses::Net;

    use super::*;
    use crate::reach::addresses::{Interface, Kind};

    #[test]
    fn a_host_without_any_network_is_reached_on_its_own_computer() {
        let bound: Vec<SocketAddr> = vec!["[::]:7440".parse().unwrap(), "0.0.0.0:7440".parse().unwrap()];
        let lonely = or_loopback(Reach::default(), &bound);
        assert_eq!(lonely.addresses, ["127.0.0.1:7440".parse().unwrap()]);
        let relayed = Reach { relays: vec!["http://203.0.113.1:7440".into()], ..Reach::default() };
        assert_eq!(or_loopback(relayed.clone(), &bound), relayed);
    }

    #[test]
    fn addresses_of_the_networks_own_are_told_beside_those_that_everybody_reaches() {
        let net = |text: &str, len| Net { address: text.parse().unwrap(), len };
        let nets = vec![net("192.168.1.2", 24), net("2001:db8::2", 64), net("fd00::2", 64)];
        let lan = Interface { name: "eth0".into(), kind: Kind::Lan, default: Some(100), nets };
        let interfaces = Interfaces::new(vec![lan]);
        let listed = ["192.168.1.2:7440", "[2001:db8::2]:7441"].map(|text| text.parse().unwrap());
        let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
        let own = EndpointAddr::from_parts(id, listed.map(TransportAddr::Ip));
        let bound: Vec<SocketAddr> = vec!["0.0.0.0:7440".parse().unwrap(), "[::]:7441".parse().unwrap()];
        let told = describe(&own, &interfaces, None, (false, &bound));
        let expected: [SocketAddr; 3] =
            ["192.168.1.2:7440", "[2001:db8::2]:7441", "[fd00::2]:7441"].map(|text| text.parse().unwrap());
        assert_eq!(told.addresses, expected);
        let without = describe(&own, &interfaces, None, (false, &bound[..1]));
        assert_eq!(without.addresses, expected[..2]);
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
