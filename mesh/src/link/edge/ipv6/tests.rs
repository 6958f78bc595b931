//! IPv6 as a guest meets it at its edge: the address that it takes, who answers for the others, what is refused.

use std::fmt::Write as _;

use etherparse::{EtherType, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::link::{
    Drops, Event, GATEWAY_MAC,
    fixture::{self, GUEST},
};
use bytes::Bytes;

const ME: &str = "fd00:6d65:7368:7:5054:ff:fe01:203";
const OTHER: &str = "fd00:6d65:7368:7:5054:ff:fe09:909";
const GATEWAY: &str = "fd00:6d65:7368:7::1";
const LOCAL: &str = "fe80::5054:ff:fe01:203";
const ROUTERS: &str = "ff02::2";

fn edge() -> (Edge, Instant) {
    fixture::edge(fixture::config())
}

fn octets(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().unwrap().octets()
}

fn ip(from: &str, to: &str, hops: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST, GATEWAY_MAC).ipv6(octets(from), octets(to), hops)
}

fn icmp(from: &str, to: &str, hops: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to, hops).icmpv6_raw(kind, 0, [0; 4]).write_to_vec(&mut frame, body).unwrap();
    frame
}

/// Asks for a neighbour; with `::` as source it wants to have the address.
fn solicit(from: &str, target: &str) -> Vec<u8> {
    icmp(from, "ff02::1:ff00:1", 255, 135, &octets(target))
}

fn udp(from: &str, to: &str, ports: (u16, u16), hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to, hops).udp(ports.0, ports.1).write_to_vec(&mut frame, payload).unwrap();
    frame
}

/// Tells frames, packets and drops as a person would, with checksums only where they are wrong.
fn tell(effects: &[Effect], drops: Drops) -> String {
    let mut text = String::new();
    for effect in effects {
        match effect {
            Effect::ToGuest(frame) => {
                let mac = frame[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let parsed = SlicedPacket::from_ethernet(frame).unwrap();
                writeln!(text, "to {mac}: {}", told(&parsed))
            }
            Effect::Packet(packet) => {
                writeln!(text, "to agent: {}", told(&SlicedPacket::from_ip(packet).unwrap()))
            }
            other => writeln!(text, "{other:?}"),
        }
        .unwrap();
    }
    if drops != Drops::default() {
        writeln!(text, "{drops:?}").unwrap();
    }
    text
}

fn told(packet: &SlicedPacket<'_>) -> String {
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
    let header = ip.header();
    let (from, to) = (header.source_addr(), header.destination_addr());
    let what = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            let payload = udp.payload().escape_ascii().to_string();
            format!("udp {} > {} {payload:?}", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert!(icmp.is_checksum_valid(header.source(), header.destination()), "a checksum");
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (kind, code, head) = (icmp.type_u8(), icmp.code_u8(), hex(&icmp.bytes5to8()));
            let body = match kind {
                133..=137 => hex(icmp.payload()),
                _ => format!("{} bytes", icmp.payload().len()),
            };
            format!("icmp {kind}.{code} {head} {body}")
        }
        other => format!("{other:?}"),
    };
    format!("{from} > {to} hops {} {what}", header.hop_limit())
}

fn check(frames: &[Vec<u8>], expect: Expect) {
    let (mut edge, now) = edge();
    let mut effects = Vec::new();
    for frame in frames {
        effects.extend(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }
    expect.assert_eq(&tell(&effects, edge.drops()));
}

#[test]
fn a_guest_that_looks_for_routers_is_told_prefix_mtu_and_name_server() {
    check(
        &[icmp(LOCAL, ROUTERS, 255, 133, &[]), icmp("::", ROUTERS, 255, 133, &[])],
        expect![[r#"
        to 333300000001: fe80::1 > ff02::1 hops 255 icmp 134.0 40000000 00000000000000000101026d657368010501000000000500030440c0ffffffffffffffff00000000fd006d6573680007000000000000000019030000fffffffffd006d65736800070000000000000001
        to 333300000001: fe80::1 > ff02::1 hops 255 icmp 134.0 40000000 00000000000000000101026d657368010501000000000500030440c0ffffffffffffffff00000000fd006d6573680007000000000000000019030000fffffffffd006d65736800070000000000000001
    "#]],
    );
}

#[test]
fn every_address_of_the_session_is_at_the_gateway_but_the_guests_own() {
    check(
        &[
            solicit(ME, GATEWAY),
            solicit(ME, OTHER),
            solicit(LOCAL, "fe80::1"),
            solicit(ME, ME),
            solicit(ME, "fd00:6d65:7368:8::1"),
            solicit(ME, "fe80::2"),
        ],
        expect![[r#"
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 255 icmp 136.0 e0000000 fd006d657368000700000000000000010201026d65736801
            to 525400010203: fd00:6d65:7368:7:5054:ff:fe09:909 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 255 icmp 136.0 60000000 fd006d6573680007505400fffe0909090201026d65736801
            to 525400010203: fe80::1 > fe80::5054:ff:fe01:203 hops 255 icmp 136.0 e0000000 fe8000000000000000000000000000010201026d65736801
        "#]],
    );
}

#[test]
fn a_guest_may_have_its_own_address_and_is_refused_another_one() {
    let (mut probing, now) = edge();
    assert!(!probing.heard_v6());
    let own = solicit("::", ME);
    assert_eq!(probing.on(Event::Frames(vec![BytesMut::from(&own[..])]), now), []);
    assert!(!probing.heard_v6(), "it drops what is sent there as long as it waits for an objection");
    let due = probing.deadline().expect("a due time");
    assert_eq!(due, now + UNOPPOSED_AFTER);
    assert_eq!(probing.on(Event::Tick, due), []);
    assert!(probing.heard_v6(), "nobody objects, so it has it");
    assert_eq!(probing.deadline(), None);
    let (mut using, now) = edge();
    for frame in [solicit("::", ME), solicit(ME, GATEWAY)] {
        drop(using.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }
    assert!(using.heard_v6(), "it uses its address");
    assert_eq!(using.deadline(), None);
    check(
        &[solicit("::", OTHER), solicit("::", "fe80::1"), solicit("::", LOCAL)],
        expect![[r#"
        to 333300000001: fd00:6d65:7368:7:5054:ff:fe09:909 > ff02::1 hops 255 icmp 136.0 20000000 fd006d6573680007505400fffe0909090201026d65736801
        to 333300000001: fe80::1 > ff02::1 hops 255 icmp 136.0 a0000000 fe8000000000000000000000000000010201026d65736801
    "#]],
    );
}

#[test]
fn a_guest_cannot_be_somebody_else() {
    let mut other_mac = udp(ME, OTHER, (1, 2), 64, b"");
    other_mac[6] ^= 2;
    check(
        &[
            udp(OTHER, GATEWAY, (1, 53), 64, b""),
            udp(GATEWAY, OTHER, (1, 2), 64, b""),
            udp(LOCAL, OTHER, (1, 2), 64, b""),
            udp(LOCAL, GATEWAY, (1, 53), 64, b""),
            udp("fe80::1", OTHER, (1, 2), 64, b""),
            udp("::", OTHER, (1, 2), 64, b""),
            udp("::", "fe80::1", (1, 2), 64, b""),
            solicit(OTHER, GATEWAY),
            icmp(ME, "ff02::1", 255, 136, &octets(OTHER)),
            other_mac,
        ],
        expect![[r#"
            Drops { spoofed: 10, malformed: 0, ignored: 0, refused: 0, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn packets_for_other_machines_lose_a_hop_and_their_padding() {
    let mut padded = udp(ME, OTHER, (5000, 6000), 64, b"hi");
    padded.resize(90, 0xee);
    check(
        &[padded],
        expect![[r#"
        to agent: fd00:6d65:7368:7:5054:ff:fe01:203 > fd00:6d65:7368:7:5054:ff:fe09:909 hops 63 udp 5000 > 6000 "hi"
    "#]],
    );
}

#[test]
fn what_cannot_go_is_refused_with_a_reason() {
    check(
        &[
            udp(ME, "2001:db8::1", (5, 443), 64, b"out"),
            udp(ME, OTHER, (5, 6), 1, b"no hop left"),
            udp(ME, OTHER, (5, 6), 64, &[0; 1300]),
            udp(ME, GATEWAY, (5, 6), 64, b"nobody listens"),
            icmp(ME, GATEWAY, 64, 128, &[0; 1300]),
            icmp(LOCAL, "fe80::1", 64, 128, &[0; 1300]),
        ],
        expect![[r#"
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 1.1 00000000 51 bytes
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 3.0 00000000 59 bytes
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 2.0 00000500 1232 bytes
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 1.4 00000000 62 bytes
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 2.0 00000500 1232 bytes
            Drops { spoofed: 0, malformed: 0, ignored: 1, refused: 5, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn the_largest_packet_of_the_wire_passes_and_one_byte_more_does_not() {
    let (mut edge, now) = edge();
    for (length, passes) in [(1280 - 48, true), (1280 - 47, false)] {
        let frame = udp(ME, OTHER, (5, 6), 64, &vec![0; length]);
        let effects = edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now);
        assert_eq!(matches!(effects[..], [Effect::Packet(_)]), passes, "{length}");
    }
}

#[test]
fn news_of_errors_and_what_is_for_everybody_get_no_error_back() {
    check(
        &[
            icmp(ME, "2001:db8::1", 64, 1, &[0; 48]),
            icmp(ME, "ff02::16", 1, 143, &[0; 4]),
            udp(ME, "ff02::fb", (5353, 5353), 255, b"mdns"),
            udp(ME, "fe80::2", (1, 2), 64, b"nobody else is here"),
            udp(LOCAL, "fe80::1", (1, 2), 64, b"asked by its global address only"),
        ],
        expect![[r#"
            Drops { spoofed: 0, malformed: 0, ignored: 4, refused: 1, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn news_of_neighbours_from_afar_or_broken_are_no_news() {
    let mut broken = solicit(ME, GATEWAY);
    broken[56] ^= 1;
    check(
        &[
            icmp(ME, "ff02::1:ff00:1", 64, 135, &octets(GATEWAY)),
            icmp(ME, "ff02::1:ff00:1", 255, 135, &[0; 15]),
            icmp(ME, "ff02::1:ff00:1", 255, 135, &octets("ff02::1")),
            icmp(LOCAL, "ff02::1", 255, 134, &[0; 8]),
            icmp(LOCAL, "ff02::1", 255, 137, &[0; 32]),
            broken,
        ],
        expect![[r#"
            Drops { spoofed: 0, malformed: 6, ignored: 0, refused: 0, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn the_gateway_answers_pings_at_both_its_addresses() {
    check(
        &[
            icmp(ME, GATEWAY, 64, 128, b"payload"),
            icmp(LOCAL, "fe80::1", 64, 128, b"on the wire"),
            icmp(ME, "fe80::1", 64, 128, b"both"),
        ],
        expect![[r#"
            to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 129.0 00000000 7 bytes
            to 525400010203: fe80::1 > fe80::5054:ff:fe01:203 hops 64 icmp 129.0 00000000 11 bytes
            to 525400010203: fe80::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 icmp 129.0 00000000 4 bytes
        "#]],
    );
}

#[test]
fn names_are_answered_to_the_address_that_asked() {
    let (mut edge, now) = edge();
    let question = udp(ME, GATEWAY, (4001, 53), 64, b"one");
    let mut effects = edge.on(Event::Frames(vec![BytesMut::from(&question[..])]), now);
    effects.extend(edge.on(Event::DnsAnswer { id: 0, message: "answer".into() }, now));
    expect![[r#"
        DnsQuery { id: 0, message: b"one" }
        to 525400010203: fd00:6d65:7368:7::1 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 64 udp 53 > 4001 "answer"
    "#]].assert_eq(&tell(&effects, edge.drops()));
}

#[test]
fn only_packets_of_other_machines_for_this_guest_are_delivered() {
    let (mut edge, now) = edge();
    let mut longer = udp(OTHER, ME, (1, 2), 63, b"with something after it");
    longer.push(0);
    let packets = [
        udp(OTHER, ME, (1, 2), 63, b"good"),
        udp(OTHER, "fd00:6d65:7368:7::9", (1, 2), 63, b"not mine"),
        udp(GATEWAY, ME, (1, 2), 63, b"not a machine"),
        udp(ME, ME, (1, 2), 63, b"myself"),
        udp("2001:db8::1", ME, (1, 2), 63, b"outside"),
        udp("fe80::2", ME, (1, 2), 63, b"of another wire"),
        udp(OTHER, LOCAL, (1, 2), 63, b"on the wire"),
        udp(OTHER, ME, (1, 2), 63, &[0; 1300]),
        longer,
    ];
    let mut effects = Vec::new();
    for frame in &packets {
        effects.extend(edge.on(Event::Packet(Bytes::copy_from_slice(&frame[14..])), now));
    }
    expect![[r#"
        to 525400010203: fd00:6d65:7368:7:5054:ff:fe09:909 > fd00:6d65:7368:7:5054:ff:fe01:203 hops 63 udp 1 > 2 "good"
        Drops { spoofed: 0, malformed: 0, ignored: 0, refused: 0, misrouted: 8, dns: 0 }
    "#]].assert_eq(&tell(&effects, edge.drops()));
}

proptest! {
    #[test]
    fn hostile_frames_do_no_harm(
        own in any::<bool>(),
        next in prop_oneof![Just(58u8), Just(17), Just(6), Just(0), Just(44), any::<u8>()],
        kind in prop_oneof![128u8..138, any::<u8>()],
        to in prop_oneof![Just(GATEWAY), Just("fe80::1"), Just(OTHER), Just(ROUTERS), Just(ME)],
        body in proptest::collection::vec(any::<u8>(), 0..200),
        length in any::<Option<u16>>(),
        cut in 0usize..60,
    ) {
        let (mut edge, now) = edge();
        let from = if own { ME } else { LOCAL };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length.unwrap_or(body.len() as u16).to_be_bytes());
        packet.extend([next, 255]);
        packet.extend(octets(from));
        packet.extend(octets(to));
        packet.extend(&body);
        if let Some(first) = packet.get_mut(40) {
            *first = kind;
        }
        let head = [&GATEWAY_MAC[..], &GUEST, &EtherType::IPV6.0.to_be_bytes()].concat();
        let mut frame = [head, packet.clone()].concat();
        drop(edge.on(Event::Packet(packet.into()), now));
        drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
        frame.truncate(frame.len() - cut.min(frame.len()));
        drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }
}
