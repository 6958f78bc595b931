//! The edge as a guest meets it: what it answers, refuses and drops, told in words.

use std::fmt::Write as _;

use dhcproto::{
    Decodable, Encodable,
    v4::{DhcpOption, Message, MessageType},
};
use etherparse::{ArpEthIpv4Packet, IcmpEchoHeader, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::link::{
    GATEWAY_MAC,
    fixture::{self, GUEST, ME},
};

const OTHER: [u8; 4] = [10, 64, 7, 3];
const GATEWAY: [u8; 4] = [10, 64, 7, 1];

fn edge() -> (Edge, Instant) {
    fixture::edge(fixture::config())
}

/// Tells frames, packets and drops as a person would.
fn tell(effects: &[Effect], drops: Drops) -> String {
    let mut text = String::new();
    for effect in effects {
        match effect {
            Effect::ToGuest(frame) => {
                writeln!(text, "to guest: {}", told(&SlicedPacket::from_ethernet(frame).unwrap()))
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
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Arp(arp)), _) => {
            let arp = arp.to_packet().try_eth_ipv4().unwrap();
            format!("arp {} is at {:02x?}", arp.sender_ipv4_addr(), arp.sender_mac)
        }
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header();
            let good = header.to_header().calc_header_checksum() == header.header_checksum();
            let what = match transport {
                Some(TransportSlice::Udp(udp)) => {
                    format!(
                        "udp {} > {} {:?}",
                        udp.source_port(),
                        udp.destination_port(),
                        udp.payload().escape_ascii().to_string()
                    )
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    format!("{:?} + {} bytes", icmp.icmp_type(), icmp.payload().len())
                }
                other => format!("{other:?}"),
            };
            let (from, to) = (header.source_addr(), header.destination_addr());
            format!("{from} > {to} ttl {} checksum {good} {what}", header.ttl())
        }
        other => format!("{other:?}"),
    }
}

fn check(frames: &[Vec<u8>], expect: Expect) {
    let (mut edge, now) = edge();
    let mut effects = Vec::new();
    for frame in frames {
        effects.extend(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }
    expect.assert_eq(&tell(&effects, edge.drops()));
}

fn arp(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac,
        sender_ipv4: sender,
        target_mac: [0; 6],
        target_ipv4: target,
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST, [0xff; 6]).arp(packet.to_arp_packet()).write_to_vec(&mut frame).unwrap();
    frame
}

fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST, GATEWAY_MAC)
        .ipv4(from, to, ttl)
        .udp(ports.0, ports.1)
        .write_to_vec(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn every_address_of_the_session_is_at_the_gateway_but_the_guests_own() {
    check(
        &[
            arp(GUEST, ME, GATEWAY),
            arp(GUEST, ME, OTHER),
            arp(GUEST, [0; 4], ME),
            arp(GUEST, ME, [10, 64, 8, 3]),
            arp(GUEST, ME, [10, 64, 7, 255]),
        ],
        expect![[r#"
            to guest: arp 10.64.7.1 is at [02, 6d, 65, 73, 68, 01]
            to guest: arp 10.64.7.3 is at [02, 6d, 65, 73, 68, 01]
        "#]],
    );
}

#[test]
fn a_guest_cannot_be_somebody_else() {
    let mut other_mac = udp(ME, OTHER, (1, 2), 64, b"");
    other_mac[6] ^= 2;
    check(
        &[
            arp(GUEST, OTHER, GATEWAY),
            arp([9; 6], ME, GATEWAY),
            udp(OTHER, [10, 64, 7, 9], (1, 2), 64, b""),
            udp(OTHER, GATEWAY, (1, 53), 64, b""),
            udp([0; 4], OTHER, (1, 2), 64, b""),
            other_mac,
        ],
        expect![[r#"
            Drops { spoofed: 6, malformed: 0, ignored: 0, refused: 0, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn packets_for_other_machines_lose_a_hop_and_their_padding() {
    let mut padded = udp(ME, OTHER, (5000, 6000), 64, b"hi");
    padded.resize(60, 0xee);
    check(
        &[padded],
        expect![[r#"
            to agent: 10.64.7.2 > 10.64.7.3 ttl 63 checksum true udp 5000 > 6000 "hi"
        "#]],
    );
}

#[test]
fn what_cannot_go_is_refused_with_a_reason() {
    check(
        &[
            udp(ME, [1, 1, 1, 1], (5, 443), 64, b"out"),
            udp(ME, OTHER, (5, 6), 1, b"no hop left"),
            udp(ME, OTHER, (5, 6), 64, &[0; 1400]),
            udp(ME, GATEWAY, (5, 6), 64, b"nobody listens"),
        ],
        expect![[r#"
            to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true DestinationUnreachable(FilterProhibited) + 28 bytes
            to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true TimeExceeded(TtlExceededInTransit) + 28 bytes
            to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1280 }) + 28 bytes
            to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true DestinationUnreachable(Port) + 28 bytes
            Drops { spoofed: 0, malformed: 0, ignored: 0, refused: 4, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn news_of_errors_and_broadcasts_get_no_error_back() {
    let mut unreachable = Vec::new();
    PacketBuilder::ethernet2(GUEST, GATEWAY_MAC)
        .ipv4(ME, [1, 1, 1, 1], 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(Unreachable::Port))
        .write_to_vec(&mut unreachable, &[0; 28])
        .unwrap();
    check(
        &[
            unreachable,
            udp(ME, [10, 64, 7, 255], (5, 6), 64, b"all"),
            udp(ME, [255; 4], (5, 6), 64, b"all"),
            udp(ME, [224, 0, 0, 251], (5353, 5353), 255, b"mdns"),
        ],
        expect![[r#"
            Drops { spoofed: 0, malformed: 0, ignored: 3, refused: 1, misrouted: 0, dns: 0 }
        "#]],
    );
}

#[test]
fn the_gateway_answers_pings() {
    let mut ping = Vec::new();
    PacketBuilder::ethernet2(GUEST, GATEWAY_MAC)
        .ipv4(ME, GATEWAY, 64)
        .icmpv4_echo_request(3, 4)
        .write_to_vec(&mut ping, b"payload")
        .unwrap();
    let reply = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 3, seq: 4 });
    let (mut edge, now) = edge();
    let effects = edge.on(Event::Frames(vec![BytesMut::from(&ping[..])]), now);
    let told = tell(&effects, edge.drops());
    assert!(told.contains(&format!("{reply:?} + 7 bytes")), "{told}");
    assert!(edge.heard());
}

#[test]
fn dns_questions_come_back_to_the_port_that_asked() {
    let (mut edge, now) = edge();
    let mut effects = Vec::new();
    for (port, question) in [(4001, b"one"), (4002, b"two")] {
        let frame = udp(ME, GATEWAY, (port, 53), 64, question);
        effects.extend(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }
    for (id, message) in [(1, "answer two"), (0, "answer one"), (1, "again"), (9, "never asked")] {
        effects.extend(edge.on(Event::DnsAnswer { id, message: message.into() }, now));
    }
    expect![[r#"
        DnsQuery { id: 0, message: b"one" }
        DnsQuery { id: 1, message: b"two" }
        to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true udp 53 > 4002 "answer two"
        to guest: 10.64.7.1 > 10.64.7.2 ttl 64 checksum true udp 53 > 4001 "answer one"
        Drops { spoofed: 0, malformed: 0, ignored: 0, refused: 0, misrouted: 0, dns: 2 }
    "#]]
    .assert_eq(&tell(&effects, edge.drops()));
}

#[test]
fn unanswered_questions_are_forgotten_and_bounded() {
    let (mut edge, now) = edge();
    let question = udp(ME, GATEWAY, (4001, 53), 64, b"?");
    for _ in 0..MAX_QUESTIONS + 3 {
        drop(edge.on(Event::Frames(vec![BytesMut::from(&question[..])]), now));
    }
    assert_eq!((edge.asked.len(), edge.drops().dns), (MAX_QUESTIONS, 3));
    drop(edge.on(Event::Frames(vec![BytesMut::from(&question[..])]), now + QUESTION_FOR));
    assert_eq!(edge.asked.len(), 1);
}

#[test]
fn only_packets_of_other_machines_for_this_guest_are_delivered() {
    let (mut edge, now) = edge();
    let packets = [
        udp(OTHER, ME, (1, 2), 63, b"good"),
        udp(OTHER, [10, 64, 7, 9], (1, 2), 63, b"not mine"),
        udp(GATEWAY, ME, (1, 2), 63, b"not a machine"),
        udp(ME, ME, (1, 2), 63, b"myself"),
        udp([1, 1, 1, 1], ME, (1, 2), 63, b"outside"),
        udp(OTHER, ME, (1, 2), 63, &[0; 1400]),
    ];
    let mut effects = Vec::new();
    for frame in &packets {
        effects.extend(edge.on(Event::Packet(Bytes::copy_from_slice(&frame[14..])), now));
    }
    expect![[r#"
        to guest: 10.64.7.3 > 10.64.7.2 ttl 63 checksum true udp 1 > 2 "good"
        Drops { spoofed: 0, malformed: 0, ignored: 0, refused: 0, misrouted: 5, dns: 0 }
    "#]]
    .assert_eq(&tell(&effects, edge.drops()));
}

/// Asks the DHCP server and tells what it says.
fn dhcp(kind: MessageType, ciaddr: [u8; 4], options: Vec<DhcpOption>) -> String {
    let mut question =
        Message::new_with_id(42, ciaddr.into(), [0; 4].into(), [0; 4].into(), [0; 4].into(), &GUEST);
    question.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        question.opts_mut().insert(option);
    }
    let bytes = question.to_vec().unwrap();
    let frame = udp(ciaddr, if ciaddr == ME { GATEWAY } else { [255; 4] }, (68, 67), 64, &bytes);
    let (mut edge, now) = edge();
    let effects = edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now);
    let Some(Effect::ToGuest(reply)) = effects.first() else {
        return format!("nothing {:?}\n", edge.drops());
    };
    let packet = SlicedPacket::from_ethernet(reply).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        panic!("not UDP")
    };
    let message = Message::from_bytes(udp.payload()).unwrap();
    let mut text = format!("to {}: {}\n", ip.header().destination_addr(), message.yiaddr());
    let mut options: Vec<_> = message.opts().iter().collect();
    options.sort_by_key(|(code, _)| u8::from(**code));
    for (_, option) in options {
        writeln!(text, "{option:?}").unwrap();
    }
    text
}

#[test]
fn dhcp_offers_the_planned_address_and_all_settings() {
    expect![[r#"
        to 255.255.255.255: 10.64.7.2
        SubnetMask(255.255.255.0)
        Router([10.64.7.1])
        DomainNameServer([10.64.7.1])
        Hostname("web-1")
        DomainName("shop.mesh.internal")
        InterfaceMtu(1280)
        AddressLeaseTime(86400)
        MessageType(Offer)
        ServerIdentifier(10.64.7.1)
        ClientIdentifier([1, 2])
        DomainSearch([Name("shop.mesh.internal."), Name("mesh.internal.")])
    "#]]
    .assert_eq(&dhcp(MessageType::Discover, [0; 4], vec![DhcpOption::ClientIdentifier(vec![1, 2])]));
}

#[test]
fn dhcp_acknowledges_only_the_planned_address() {
    let ask = |address: [u8; 4]| {
        dhcp(MessageType::Request, [0; 4], vec![DhcpOption::RequestedIpAddress(address.into())])
    };
    assert!(ask(ME).contains("MessageType(Ack)"));
    expect![[r#"
        to 255.255.255.255: 0.0.0.0
        MessageType(Nak)
        ServerIdentifier(10.64.7.1)
    "#]]
    .assert_eq(&ask(OTHER));
    assert!(dhcp(MessageType::Request, ME, vec![]).starts_with("to 10.64.7.2: 10.64.7.2"));
    let other_server = vec![
        DhcpOption::RequestedIpAddress(ME.into()),
        DhcpOption::ServerIdentifier([10, 64, 7, 200].into()),
    ];
    assert!(dhcp(MessageType::Request, [0; 4], other_server).starts_with("nothing"));
    assert!(dhcp(MessageType::Release, ME, vec![]).starts_with("nothing"));
}

#[test]
fn a_granted_lease_means_that_the_network_is_up() {
    let (mut edge, now) = edge();
    for (kind, up) in [(MessageType::Discover, false), (MessageType::Request, true)] {
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut question = Message::new_with_id(42, zero, zero, zero, zero, &GUEST);
        question.opts_mut().insert(DhcpOption::MessageType(kind));
        question.opts_mut().insert(DhcpOption::RequestedIpAddress(ME.into()));
        let frame = udp([0; 4], [255; 4], (68, 67), 64, &question.to_vec().unwrap());
        drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
        assert_eq!(edge.heard(), up);
    }
}

proptest! {
    #[test]
    fn hostile_frames_do_no_harm(
        kind in prop_oneof![Just([8u8, 0]), Just([8, 6]), any::<[u8; 2]>()],
        ip in any::<bool>(),
        protocol in prop_oneof![Just(17u8), Just(6), Just(1), any::<u8>()],
        port in prop_oneof![Just(67u16), Just(53), any::<u16>()],
        body in proptest::collection::vec(any::<u8>(), 0..400),
        cut in 0usize..60,
    ) {
        let (mut edge, now) = edge();
        let mut frame = [&GATEWAY_MAC[..], &GUEST, &kind, &body].concat();
        if ip && frame.len() >= 42 {
            frame[14] = 0x45;
            let length = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[20..22].fill(0);
            frame[23] = protocol;
            frame[26..30].copy_from_slice(&ME);
            frame[30..34].copy_from_slice(&GATEWAY);
            frame[34..36].copy_from_slice(&68u16.to_be_bytes());
            frame[36..38].copy_from_slice(&port.to_be_bytes());
            frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        }
        drop(edge.on(Event::Dial { id: 1, port: 22 }, now));
        drop(edge.on(Event::Packet(Bytes::copy_from_slice(&body)), now));
        drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
        frame.truncate(frame.len() - cut.min(frame.len()));
        drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
    }

    #[test]
    fn hostile_dhcp_does_no_harm(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut edge, now) = edge();
        let mut message = vec![1, 1, 6, 0];
        message.resize(240, 0);
        message[28..34].copy_from_slice(&GUEST);
        message[236..240].copy_from_slice(&[99, 130, 83, 99]);
        message.extend_from_slice(&body);
        for hlen in [6, 16, 255] {
            message[2] = hlen;
            let frame = udp([0; 4], [255; 4], (68, 67), 64, &message);
            drop(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now));
        }
    }
}

#[test]
fn a_host_on_the_network_is_spoken_with_like_a_machine() {
    let (mut edge, now) = fixture::edge(fixture::config());
    let host = proto::session::overlay::host_v4(proto::id::HostId([3; 32]));
    let packet = |from: [u8; 4], to: [u8; 4]| {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(from, to, 64).udp(1, 2).write_to_vec(&mut bytes, b"hi").unwrap();
        bytes
    };
    let came = edge.on(Event::Packet(packet(host.octets(), ME).into()), now);
    assert!(matches!(came[..], [Effect::ToGuest(_)]), "{came:?}");
    let mut frame = BytesMut::from(&frame::ethernet(frame::GATEWAY_MAC, EtherType::IPV4, 0)[..]);
    frame[6..12].copy_from_slice(&GUEST);
    frame.extend_from_slice(&packet(ME, host.octets()));
    let went = edge.on(Event::Frames(vec![frame]), now);
    assert!(matches!(went[..], [Effect::Packet(_)]), "its session's affair, whatever its egress: {went:?}");
    let elsewhere = edge.on(Event::Packet(packet([192, 168, 1, 1], ME).into()), now);
    assert_eq!((elsewhere, edge.drops().misrouted), (vec![], 1));
}

#[test]
fn datagrams_of_the_gateway_pass_both_ways_on_its_dynamic_ports_alone() {
    let udp = |from: [u8; 4], to: [u8; 4], ports: (u16, u16)| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(from, to, 64).udp(ports.0, ports.1).write_to_vec(&mut packet, b"x").unwrap();
        packet
    };
    let (mut edge, now) = edge();
    let mut went = |ports, to_guest: bool| {
        let effects = match to_guest {
            true => edge.on(Event::Packet(udp(GATEWAY, ME, ports).into()), now),
            false => {
                let mut frame = Vec::new();
                let builder = PacketBuilder::ethernet2(GUEST, GATEWAY_MAC).ipv4(ME, GATEWAY, 64);
                builder.udp(ports.0, ports.1).write_to_vec(&mut frame, b"x").unwrap();
                edge.on(Event::Frames(vec![frame[..].into()]), now)
            }
        };
        let passed = effects.iter().any(|effect| match effect {
            Effect::ToGuest(frame) => SlicedPacket::from_ethernet(frame).is_ok_and(
                |it| matches!(it.transport, Some(TransportSlice::Udp(udp)) if udp.payload() == b"x"),
            ),
            Effect::Packet(packet) => **packet == udp(ME, GATEWAY, ports),
            _ => false,
        });
        (passed, edge.drops().misrouted, edge.drops().refused)
    };
    assert_eq!(went((49_152, 53), true), (true, 0, 0));
    assert_eq!(went((53, 68), true), (false, 1, 0), "it is no name server's answer");
    assert_eq!(went((53, 65_535), false), (true, 1, 0));
    assert_eq!(went((53, 8080), false), (false, 1, 1));
}
