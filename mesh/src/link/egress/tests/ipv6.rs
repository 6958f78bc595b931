//! The same way out by IPv6, where the host has one.

use std::net::Ipv6Addr;

use super::*;

const SITE_V6: &str = "2001:db8:9::80";
const ME_V6: &str = "fd00:6d65:7368:7:5054:ff:fe01:203";

fn edge_v6(egress: Mode, v6: bool) -> (Edge, Instant) {
    edge_of(
        egress,
        Some(HostNet { v6, own: vec![("2001:db8:9::1".parse().unwrap(), 128)], ..HostNet::default() }),
    )
}

fn octets(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().unwrap().octets()
}

fn packet_v6(to: &str) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC).ipv6(octets(ME_V6), octets(to), 64)
}

fn event(bytes: &[u8]) -> Event {
    Event::Frames(vec![BytesMut::from(bytes)])
}

fn syn_v6(port: u16, to: &str) -> Event {
    let mut bytes = Vec::new();
    packet_v6(to).tcp(port, 80, 1000, 64_000).syn().write(&mut bytes, &[]).unwrap();
    event(&bytes)
}

fn udp_v6(port: u16, to: &str, payload: &[u8]) -> Event {
    let mut bytes = Vec::new();
    packet_v6(to).udp(port, 5000).write(&mut bytes, payload).unwrap();
    event(&bytes)
}

fn ping_v6(to: &str) -> Event {
    let mut bytes = Vec::new();
    packet_v6(to).icmpv6_echo_request(77, 3).write(&mut bytes, b"payload").unwrap();
    event(&bytes)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Tells frames as IPv6 ones of the site's; anything else fails.
fn from_site(effects: Vec<Effect>) -> Vec<String> {
    for effect in &effects {
        let Effect::ToGuest(frame) = effect else { panic!("{effect:?}") };
        assert_eq!(frame[12..14], [0x86, 0xdd], "its frame is one of IPv6");
        assert_eq!((&frame[22..38], &frame[38..54]), (&octets(SITE_V6)[..], &octets(ME_V6)[..]));
    }
    all(effects)
}

#[test]
fn a_connection_is_made_refused_and_carried_as_by_ipv4() {
    let (mut edge, now) = edge_v6(Mode::Internet, true);
    let asked = edge.on(syn_v6(4000, SITE_V6), now);
    let [Effect::Upstream(Upstream::Connect { id, to, .. })] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(to, at(SITE_V6, 80));
    let stands = from_site(edge.on(Event::Heard(Heard::Connected { id }), now));
    assert_eq!(stands, ["tcp syn true ack true rst false number 1001"]);
    for (because, expected) in [
        (Unconnected::Refused, "tcp syn false ack true rst true number 1001"),
        (Unconnected::Unreachable, "DestinationUnreachable(Address)"),
    ] {
        let asked = edge.on(syn_v6(4001, SITE_V6), now);
        let [Effect::Upstream(Upstream::Connect { id, .. })] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(all(edge.on(Event::Heard(Heard::Failed { id, because }), now)), [expected]);
    }
    assert_eq!(open(&edge), (1, 0));
}

#[test]
fn datagrams_and_pings_come_back_and_a_port_has_a_socket_of_each_protocol() {
    let (mut edge, now) = edge_v6(Mode::Internet, true);
    let sent = edge.on(udp_v6(4000, SITE_V6, b"one"), now);
    let [Effect::Upstream(Upstream::Open { id, kind }), _] = sent[..] else { panic!("{sent:?}") };
    assert_eq!(kind, Kind::Udp(Family::V6, 4000));
    assert_eq!(edge.on(udp(4000, SITE, b"two"), now).len(), 2, "another socket");
    let back = |from, bytes: Bytes| Event::Heard(Heard::Datagram { id, from, bytes });
    assert_eq!(from_site(edge.on(back(at(SITE_V6, 53), b"hello"[..].into()), now)), ["udp 53 > 4000"]);
    assert_eq!(edge.on(back(SocketAddr::from((SITE, 53)), b"hello"[..].into()), now), [], "of the other one");
    let longest = from_site(edge.on(back(at(SITE_V6, 53), vec![0; 1232].into()), now));
    assert_eq!(longest.len(), 1);
    assert_eq!(edge.on(back(at(SITE_V6, 53), vec![0; 1233].into()), now), [], "longer than the guest's wire");

    let sent = edge.on(ping_v6(SITE_V6), now);
    let [_, Effect::Upstream(Upstream::Datagram { id, to, bytes })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((*to, bytes[0]), (at(SITE_V6, 0), 128));
    let header = Icmpv6Type::EchoReply(IcmpEchoHeader { id: 9, seq: 3 });
    let header = header.to_header(octets(SITE_V6), octets("2001:db8:9::1"), b"payload").unwrap();
    let mut reply = header.to_bytes().to_vec();
    reply.extend_from_slice(b"payload");
    let heard = Heard::Datagram { id: *id, from: *to, bytes: reply.into() };
    let told = from_site(edge.on(Event::Heard(heard), now));
    assert_eq!(told, ["EchoReply(IcmpEchoHeader { id: 77, seq: 3 })"]);
}

#[test]
fn where_the_host_has_no_way_the_guest_is_told_at_once_and_nothing_is_tried() {
    let (mut edge, now) = edge_v6(Mode::Internet, false);
    for sent in [syn_v6(4000, SITE_V6), udp_v6(4000, SITE_V6, b"?"), ping_v6(SITE_V6)] {
        assert_eq!(all(edge.on(sent, now)), ["DestinationUnreachable(NoRoute)"]);
    }
    assert_eq!(open(&edge), (0, 0));
    let host = HostNet { v6: true, ..HostNet::default() };
    assert_eq!(edge.on(Event::Heard(Heard::Host(host)), now), []);
    assert_eq!(edge.on(syn_v6(4000, SITE_V6), now).len(), 1, "it has one by now");
}

#[test]
fn what_is_denied_is_told_whatever_it_is_dressed_as() {
    let denied = [
        "::1",
        "::ffff:1.1.1.1",
        "::ffff:127.0.0.1",
        "::1.1.1.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "2001:0:1::1",
        "fd00:ec2::254",
        "fd00:6d65:7368:8::2",
        "fc00::1",
        "2001:db8:9::1",
    ];
    for to in denied {
        let (mut edge, now) = edge_v6(Mode::Internet, true);
        for sent in [syn_v6(4000, to), udp_v6(4000, to, b"?"), ping_v6(to)] {
            assert_eq!(all(edge.on(sent, now)), ["DestinationUnreachable(Prohibited)"], "{to}");
        }
        assert_eq!((edge.losses().denied, open(&edge)), (3, (0, 0)));
    }
    let (mut closed, now) = edge_v6(Mode::None, true);
    assert_eq!(all(closed.on(syn_v6(4000, SITE_V6), now)), ["DestinationUnreachable(Prohibited)"]);
}

#[test]
fn fragments_and_other_protocols_are_not_carried() {
    let (mut edge, now) = edge_v6(Mode::Internet, true);
    let with = |next: u8| {
        let Event::Frames(mut frames) = udp_v6(4000, SITE_V6, &[0; 16]) else { panic!("no frame") };
        frames[0][20] = next;
        Event::Frames(frames)
    };
    assert_eq!(edge.on(with(44), now), [], "a fragment");
    let told = all(edge.on(with(132), now));
    assert!(told.len() == 1 && told[0].starts_with("ParameterProblem"), "{told:?}");
    assert_eq!((edge.losses().uncarried, open(&edge)), (2, (0, 0)));
}

#[test]
fn a_gateway_that_leads_out_says_so_again_before_it_is_forgotten() {
    let mut bytes = Vec::new();
    let ask = PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC);
    let ask = ask.ipv6(octets("fe80::5054:ff:fe01:203"), octets("ff02::2"), 255);
    ask.icmpv6_raw(133, 0, [0; 4]).write(&mut bytes, &[]).unwrap();
    let lifetime_s = |effects: Vec<Effect>| match &effects[..] {
        [Effect::ToGuest(frame)] => u16::from_be_bytes([frame[60], frame[61]]),
        other => panic!("{other:?}"),
    };
    for mode in [Mode::Internet, Mode::Lan] {
        let (mut edge, now) = edge_v6(mode, false);
        assert_eq!(edge.deadline(), None, "nobody has asked");
        assert_eq!(lifetime_s(edge.on(event(&bytes), now)), 9000);
        let due = edge.deadline().unwrap();
        assert_eq!(due - now, Duration::from_secs(3000));
        assert_eq!(edge.on(Event::Tick, due - Duration::from_secs(1)), []);
        assert_eq!(lifetime_s(edge.on(Event::Tick, due)), 9000);
        assert_eq!(edge.deadline().unwrap() - due, Duration::from_secs(3000));
    }
    let (mut closed, now) = edge_v6(Mode::None, true);
    assert_eq!(lifetime_s(closed.on(event(&bytes), now)), 0);
    assert_eq!(closed.deadline(), None, "it is nobody's way out");
}
