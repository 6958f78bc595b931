//! Guests on their way out, as the sockets see it, and what they are told of it.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use etherparse::{IcmpEchoHeader, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Device, DeviceCapabilities, Medium},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};

use super::*;
use crate::link::{
    Edge, Event,
    fixture::{self, GUEST, ME},
    frame,
};

mod ipv6;

const SITE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

fn edge(egress: Mode) -> (Edge, Instant) {
    edge_of(egress, Some(HostNet { own: vec![([198, 51, 100, 9].into(), 32)], ..HostNet::default() }))
}

fn edge_of(egress: Mode, host: Option<HostNet>) -> (Edge, Instant) {
    fixture::edge(EdgeConfig { egress, host, ..fixture::config() })
}

fn packet(to: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC).ipv4(ME, to.octets(), 64)
}

fn syn(port: u16, to: Ipv4Addr) -> Event {
    let mut bytes = Vec::new();
    packet(to).tcp(port, 80, 1000, 64_000).syn().write(&mut bytes, &[]).unwrap();
    Event::Frames(vec![BytesMut::from(&bytes[..])])
}

fn udp(port: u16, to: Ipv4Addr, payload: &[u8]) -> Event {
    let mut bytes = Vec::new();
    packet(to).udp(port, 5000).write(&mut bytes, payload).unwrap();
    Event::Frames(vec![BytesMut::from(&bytes[..])])
}

/// Tells an effect in a few words.
fn told(effect: &Effect) -> String {
    let Effect::ToGuest(frame) = effect else { return format!("{effect:?}") };
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    match parsed.transport.unwrap() {
        TransportSlice::Tcp(tcp) => format!(
            "tcp syn {} ack {} rst {} number {}",
            tcp.syn(),
            tcp.ack(),
            tcp.rst(),
            tcp.acknowledgment_number()
        ),
        TransportSlice::Udp(udp) => format!("udp {} > {}", udp.source_port(), udp.destination_port()),
        TransportSlice::Icmpv4(icmp) => format!("{:?}", icmp.icmp_type()),
        TransportSlice::Icmpv6(icmp) => format!("{:?}", icmp.icmp_type()),
        other => format!("{other:?}"),
    }
}

fn open(edge: &Edge) -> (usize, usize) {
    (edge.outside().streams, edge.outside().sockets)
}

fn all(effects: Vec<Effect>) -> Vec<String> {
    effects.iter().map(told).collect()
}

#[test]
fn a_syn_is_answered_only_when_the_outside_has_answered() {
    let (mut edge, now) = edge(Mode::Internet);
    let asked = edge.on(syn(4000, SITE), now);
    let [Effect::Upstream(Upstream::Connect { id, to, .. })] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(to, SocketAddr::from((SITE, 80)));
    assert_eq!(edge.on(syn(4000, SITE), now), [], "said again it changes nothing");
    let stands = all(edge.on(Event::Heard(Heard::Connected { id }), now));
    assert_eq!(stands, ["tcp syn true ack true rst false number 1001"]);
}

#[test]
fn packets_of_connections_that_come_together_are_kept_apart() {
    let (mut edge, now) = edge(Mode::Internet);
    let ask = |edge: &mut Edge, port| {
        let [Effect::Upstream(Upstream::Connect { id, .. })] = edge.on(syn(port, SITE), now)[..] else {
            panic!()
        };
        let effects = edge.on(Event::Heard(Heard::Connected { id }), now);
        let [Effect::ToGuest(frame)] = &effects[..] else { panic!("{effects:?}") };
        let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(frame).unwrap().transport else {
            panic!()
        };
        let mut said = Vec::new();
        let next = tcp.sequence_number().wrapping_add(1);
        packet(SITE).tcp(port, 80, 1001, 64_000).ack(next).write(&mut said, &port.to_be_bytes()).unwrap();
        (id, BytesMut::from(&said[..]))
    };
    let ((one, of_one), (other, of_other)) = (ask(&mut edge, 4000), ask(&mut edge, 4001));
    let sent = Event::Heard(Heard::Sent { id: other, bytes: 1 });
    let effects = edge.all([Event::Frames(vec![of_one, of_other]), sent], now);
    let said = |id, port: u16| {
        Effect::Upstream(Upstream::Send { id, bytes: Bytes::copy_from_slice(&port.to_be_bytes()) })
    };
    let upstream = effects.iter().filter(|effect| matches!(effect, Effect::Upstream(_)));
    assert_eq!(upstream.collect::<Vec<_>>(), [&said(one, 4000), &said(other, 4001)]);
}

#[test]
fn a_refusal_is_a_reset_and_no_way_is_told_by_icmp() {
    let (mut edge, now) = edge(Mode::Internet);
    let outcomes = [
        (Unconnected::Refused, vec!["tcp syn false ack true rst true number 1001".to_owned()]),
        (Unconnected::Unreachable, vec!["DestinationUnreachable(Host)".to_owned()]),
        (Unconnected::Busy, vec![]),
    ];
    for (id, (because, expected)) in outcomes.into_iter().enumerate() {
        let id = id as u64;
        assert_eq!(edge.on(syn(4000, SITE), now).len(), 1);
        assert_eq!(all(edge.on(Event::Heard(Heard::Failed { id, because }), now)), expected);
        assert_eq!(open(&edge), (0, 0));
    }
}

#[test]
fn what_is_denied_is_told_and_opens_nothing() {
    for (mode, to) in [
        (Mode::None, SITE),
        (Mode::Internet, Ipv4Addr::LOCALHOST),
        (Mode::Internet, [169, 254, 169, 254].into()),
        (Mode::Internet, [198, 51, 100, 9].into()),
        (Mode::Lan, [198, 51, 100, 9].into()),
    ] {
        let (mut edge, now) = edge(mode);
        for event in [syn(4000, to), udp(4000, to, b"?")] {
            assert_eq!(all(edge.on(event, now)), ["DestinationUnreachable(FilterProhibited)"], "{to}");
        }
        assert_eq!((edge.losses().denied, open(&edge)), (2, (0, 0)));
    }
}

#[test]
fn what_is_longer_than_the_guests_wire_is_told_so_and_kept_nowhere() {
    let (mut edge, now) = edge(Mode::Internet);
    let too_long = ["DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1280 })"];
    assert_eq!(all(edge.on(udp(4000, SITE, &[0; 1253]), now)), too_long);
    assert_eq!(all(edge.on(udp(4000, [10, 64, 7, 1].into(), &[0; 60_000]), now)), too_long);
    assert_eq!(open(&edge), (0, 0));
    assert_eq!(edge.on(udp(4000, SITE, &[0; 1252]), now).len(), 2);
}

#[test]
fn an_address_that_the_host_gets_later_is_denied_from_then_on() {
    let (mut edge, now) = edge(Mode::Internet);
    assert_eq!(edge.on(syn(4000, SITE), now).len(), 1);
    let host = HostNet { nearer: vec![(SITE.into(), 24)], ..HostNet::default() };
    assert_eq!(edge.on(Event::Heard(Heard::Host(host)), now), []);
    assert_eq!(all(edge.on(syn(4001, SITE), now)), ["DestinationUnreachable(FilterProhibited)"]);
}

#[test]
fn nothing_leaves_while_the_hosts_network_is_not_known() {
    let (mut edge, now) = edge_of(Mode::Internet, None);
    let prohibited = ["DestinationUnreachable(FilterProhibited)"];
    assert_eq!(all(edge.on(syn(4000, SITE), now)), prohibited);
    assert_eq!(all(edge.on(udp(4000, SITE, b"?"), now)), prohibited);
    let host = HostNet::default();
    assert_eq!(edge.on(Event::Heard(Heard::Host(host)), now), []);
    assert_eq!(edge.on(syn(4000, SITE), now).len(), 1);
}

const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 81);

fn heard(id: u64, from: Ipv4Addr, bytes: &'static [u8]) -> Event {
    let from = SocketAddr::from((from, 53));
    Event::Heard(Heard::Datagram { id, from, bytes: Bytes::from_static(bytes) })
}

#[test]
fn a_port_has_one_socket_whoever_it_talks_to_until_it_is_quiet() {
    let (mut edge, now) = edge(Mode::Internet);
    let first = edge.on(udp(4000, SITE, b"one"), now);
    assert!(matches!(
        first[0],
        Effect::Upstream(Upstream::Open { id: 0, kind: Kind::Udp(Family::V4, 4000) })
    ));
    let second = edge.on(udp(4000, OTHER, b"two"), now + Duration::from_secs(200));
    assert_eq!(second.len(), 1, "no second socket: {second:?}");
    assert_eq!(all(edge.on(heard(0, OTHER, b"hello"), now)), ["udp 53 > 4000"]);
    assert_eq!(edge.on(heard(0, OTHER, &[0; 1253]), now), [], "longer than the guest's wire");
    assert_eq!(edge.on(Event::Tick, now + Duration::from_secs(301)), [], "it has sent meanwhile");
    let shut = edge.on(Event::Tick, now + Duration::from_secs(501));
    assert_eq!(shut, [Effect::Upstream(Upstream::Shut { id: 0 })]);
    assert_eq!(edge.deadline(), None);
}

#[test]
fn a_guest_hears_from_whom_it_has_sent_to_and_from_nobody_else() {
    let (mut edge, now) = edge(Mode::Internet);
    let at = |seconds| now + Duration::from_secs(seconds);
    let _sent = edge.on(udp(4000, SITE, b"one"), now);
    let _sent = edge.on(udp(4001, OTHER, b"two"), now);
    assert_eq!(all(edge.on(heard(0, SITE, b"from another port"), now)), ["udp 53 > 4000"]);
    assert_eq!(edge.on(heard(0, OTHER, b"sent to from another port of the guest"), now), []);
    assert_eq!(edge.losses().uncarried, 1);
    let _sent = edge.on(udp(4000, OTHER, b"three"), at(299));
    assert_eq!(all(edge.on(heard(0, SITE, b"late"), at(299))), ["udp 53 > 4000"]);
    assert_eq!(edge.on(heard(0, SITE, b"too late, though the socket lives"), at(300)), []);
    assert_eq!(all(edge.on(heard(0, OTHER, b"awaited"), at(300))), ["udp 53 > 4000"]);
}

#[test]
fn whoever_was_sent_to_longest_ago_is_forgotten_first() {
    let (mut edge, now) = edge(Mode::Internet);
    let partner = |number: u32| Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 0, 0).to_bits() + number);
    for number in 0..8192 {
        let _sent = edge.on(udp(4000 + (number % 2) as u16, partner(number), b"?"), now);
    }
    let _sent = edge.on(udp(4000, partner(0), b"again"), now);
    let _sent = edge.on(udp(4000, partner(8192), b"one more"), now);
    let mut hears = |id: u64, number| edge.on(heard(id, partner(number), b"!"), now).len() == 1;
    assert!(hears(0, 0) && !hears(1, 1) && hears(0, 2) && hears(0, 8192));
}

#[test]
fn a_ping_comes_back_under_the_guests_own_number() {
    let (mut edge, now) = edge(Mode::Internet);
    let mut bytes = Vec::new();
    packet(SITE).icmpv4_echo_request(77, 3).write(&mut bytes, b"payload").unwrap();
    let sent = edge.on(Event::Frames(vec![BytesMut::from(&bytes[..])]), now);
    let [_, Effect::Upstream(Upstream::Datagram { id, to, bytes })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((to.port(), bytes[0]), (0, 8));
    let header = IcmpEchoHeader { id: 9, seq: 3 };
    let mut reply = etherparse::Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(header), b"payload")
        .to_bytes()
        .to_vec();
    reply.extend_from_slice(b"payload");
    let heard = Heard::Datagram { id: *id, from: *to, bytes: reply.into() };
    let told = all(edge.on(Event::Heard(heard), now));
    assert_eq!(told, ["EchoReply(IcmpEchoHeader { id: 77, seq: 3 })"]);
}

#[test]
fn floods_are_bounded_and_counted() {
    let (mut edge, now) = edge(Mode::Internet);
    for port in 1..=10_000 {
        let _effects = edge.on(syn(port, SITE), now);
        let _effects = edge.on(udp(port, SITE, b"x"), now);
    }
    assert_eq!(open(&edge), (512, 512));
    assert_eq!(edge.losses().full, 2 * (10_000 - 512));
}

#[test]
fn what_has_been_asked_longest_makes_room_for_what_is_asked_now() {
    let (mut edge, now) = edge(Mode::Internet);
    for port in 1..=512 {
        let _asked = edge.on(syn(port, SITE), now);
    }
    let asked = edge.on(syn(4000, OTHER), now);
    let [Effect::Upstream(given_up), Effect::Upstream(Upstream::Connect { id, .. })] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(*given_up, Upstream::Close { id: 0, clean: false });
    assert_eq!((edge.losses().full, open(&edge).0), (1, 512));
    let stands = all(edge.on(Event::Heard(Heard::Connected { id: *id }), now));
    assert_eq!(stands, ["tcp syn true ack true rst false number 1001"]);
    // An answer to the one that was given up is for nobody; asked again, it is asked anew, in the place of the next.
    assert_eq!(edge.on(Event::Heard(Heard::Connected { id: 0 }), now), []);
    let again = edge.on(syn(1, SITE), now);
    let [Effect::Upstream(given_up), Effect::Upstream(Upstream::Connect { .. })] = &again[..] else {
        panic!("{again:?}")
    };
    assert_eq!(*given_up, Upstream::Close { id: 1, clean: false });
}

#[test]
fn what_the_guest_does_not_acknowledge_is_half_open_as_well() {
    let (mut edge, now) = edge(Mode::Internet);
    for port in 1..=512 {
        let id = u64::from(port) - 1;
        let _asked = edge.on(syn(port, SITE), now);
        assert_eq!(edge.on(Event::Heard(Heard::Connected { id }), now).len(), 1);
    }
    let asked = edge.on(syn(4000, OTHER), now);
    let close = Effect::Upstream(Upstream::Close { id: 0, clean: false });
    assert!(asked.contains(&close), "{asked:?}");
    assert_eq!((edge.losses().full, open(&edge).0), (1, 512));
}

#[test]
fn a_host_without_descriptors_gives_up_what_answers_nobody() {
    let (mut edge, now) = edge(Mode::Internet);
    for port in 1..=3 {
        let _asked = edge.on(syn(port, SITE), now);
    }
    let busy = |id| Event::Heard(Heard::Failed { id, because: Unconnected::Busy });
    let told = edge.on(busy(2), now);
    assert_eq!(told, [Effect::Upstream(Upstream::Close { id: 0, clean: false })]);
    assert_eq!((open(&edge).0, edge.losses().full), (1, 1));
    assert_eq!(edge.on(syn(3, SITE), now).len(), 1, "said again it is asked anew");
}

/// Opens the connection with this id from a port of the guest; gives what its segments acknowledge.
fn stand(edge: &mut Edge, (id, port): (u64, u16), now: Instant) -> u32 {
    let _asked = edge.on(syn(port, SITE), now);
    let stands = edge.on(Event::Heard(Heard::Connected { id }), now);
    let Effect::ToGuest(frame) = &stands[0] else { panic!("{stands:?}") };
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP") };
    let next = tcp.sequence_number().wrapping_add(1);
    assert_eq!(edge.on(Event::Frames(vec![segment(port, 1001, next, &[])]), now), []);
    next
}

fn segment(port: u16, sequence: u32, acknowledges: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = Vec::new();
    packet(SITE).tcp(port, 80, sequence, 64_000).ack(acknowledges).write(&mut bytes, payload).unwrap();
    BytesMut::from(&bytes[..])
}

#[test]
fn what_comes_together_goes_on_together_each_on_its_own_connection() {
    let (mut edge, now) = edge(Mode::Internet);
    let (one, two) = (stand(&mut edge, (0, 4001), now), stand(&mut edge, (1, 4002), now));
    let frames = vec![
        segment(4001, 1001, one, b"a"),
        segment(4001, 1002, one, b"b"),
        segment(4002, 1001, two, b"c"),
        segment(4001, 1003, one, b"d"),
    ];
    let effects = edge.on(Event::Frames(frames), now);
    let sent: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Upstream(Upstream::Send { id, bytes }) => Some((*id, &bytes[..])),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [(0, &b"abd"[..]), (1, b"c")]);
}

#[test]
fn a_connection_of_the_same_port_begins_together_with_the_end_of_the_last_one() {
    let (mut edge, now) = edge(Mode::Internet);
    let _next = stand(&mut edge, (0, 4001), now);
    let mut reset = Vec::new();
    packet(SITE).tcp(4001, 80, 1001, 0).rst().write(&mut reset, &[]).unwrap();
    let Event::Frames(mut frames) = syn(4001, SITE) else { panic!("no frames") };
    frames.insert(0, BytesMut::from(&reset[..]));
    let effects = edge.on(Event::Frames(frames), now);
    let [Effect::Upstream(Upstream::Close { id: 0, .. }), Effect::Upstream(Upstream::Connect { id: 1, .. })] =
        effects[..]
    else {
        panic!("{effects:?}")
    };
}

#[test]
fn two_thousand_idle_connections_wake_nobody() {
    let (mut edge, mut now) = edge(Mode::Internet);
    for port in 1..=2000u16 {
        stand(&mut edge, (u64::from(port) - 1, port), now);
    }
    assert_eq!(open(&edge), (2000, 0));
    let begin = now;
    let mut wakes = 0;
    while now - begin < Duration::from_secs(3600) {
        now = edge.deadline().unwrap().max(now);
        assert_eq!(edge.on(Event::Tick, now), []);
        wakes += 1;
    }
    assert!(wakes <= 8, "{wakes} wakes in an hour");
    let segment = |flags: &str| {
        let mut bytes = Vec::new();
        let step = packet(SITE).tcp(9999, 80, 5, 1);
        let step = if flags == "ack" { step.ack(3) } else { step.rst() };
        step.write(&mut bytes, &[]).unwrap();
        Event::Frames(vec![BytesMut::from(&bytes[..])])
    };
    assert_eq!(all(edge.on(segment("ack"), now)), ["tcp syn false ack false rst true number 0"]);
    assert_eq!(edge.on(segment("rst"), now), [], "a reset is never answered");
}

/// A guest that is a smoltcp stack, an edge, and sockets that the test plays.
struct Lab {
    edge: Edge,
    start: Instant,
    now: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Plug,
    seen: Vec<Upstream>,
}

#[derive(Default)]
struct Plug {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    unplugged: bool,
}

struct Receive(Vec<u8>);
struct Transmit<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Plug {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Receive, Transmit<'_>)> {
        Some((Receive(self.incoming.pop_front()?), Transmit(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1280;
        capabilities
    }
}

impl phy::RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut bytes = vec![0; len];
        let result = fill(&mut bytes);
        self.0.push(bytes);
        result
    }
}

impl Lab {
    fn connected() -> Lab {
        let (edge, now) = edge(Mode::Internet);
        let mut wire = Plug::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, SmolInstant::ZERO);
        interface
            .update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::from(Ipv4Addr::from(ME)), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route([10, 64, 7, 1].into()).unwrap();
        let buffer = || tcp::SocketBuffer::new(vec![0; 32 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(interface.context(), (SITE, 80), 4000).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(socket);
        let mut lab = Lab { edge, start: now, now, interface, sockets, socket, wire, seen: vec![] };
        lab.on(Event::Tick);
        assert!(matches!(lab.seen()[..], [Upstream::Connect { id: 0, .. }]));
        lab.heard(Heard::Connected { id: 0 });
        assert!(lab.guest().may_send());
        lab
    }

    fn guest(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn seen(&mut self) -> Vec<Upstream> {
        std::mem::take(&mut self.seen)
    }

    fn heard(&mut self, heard: Heard) {
        self.on(Event::Heard(heard));
    }

    fn on(&mut self, event: Event) {
        let effects = self.edge.on(event, self.now);
        self.take(effects);
        for _ in 0..100_000 {
            let at = SmolInstant::from_micros((self.now - self.start).as_micros() as i64);
            if !self.wire.unplugged {
                self.interface.poll(at, &mut self.wire, &mut self.sockets);
            }
            if self.wire.outgoing.is_empty() && self.wire.incoming.is_empty() {
                return;
            }
            let packets = std::mem::take(&mut self.wire.outgoing).into_iter();
            let frames = packets.map(|packet| {
                let mut frame = BytesMut::from(&GUEST[..]);
                frame.extend_from_slice(&GUEST);
                frame.extend_from_slice(&[8, 0]);
                frame.extend_from_slice(&packet);
                frame
            });
            let effects = self.edge.on(Event::Frames(frames.collect()), self.now);
            self.take(effects);
        }
        panic!("the two never stop talking");
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ToGuest(_) if self.wire.unplugged => {}
                Effect::ToGuest(frame) => self.wire.incoming.push_back(frame[14..].to_vec()),
                Effect::Upstream(upstream) => self.seen.push(upstream),
                other => panic!("{other:?}"),
            }
        }
    }

    fn wait(&mut self) {
        let edge = self.edge.deadline().unwrap_or(self.now + Duration::from_millis(50));
        self.now = edge.max(self.now + Duration::from_millis(1)).min(self.now + Duration::from_millis(50));
        self.on(Event::Tick);
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        for upstream in self.seen() {
            if let Upstream::Send { bytes, .. } = upstream {
                all.extend_from_slice(&bytes);
            }
        }
        all
    }
}

#[test]
fn each_side_ends_by_itself() {
    let mut lab = Lab::connected();
    lab.guest().send_slice(b"GET /").unwrap();
    lab.guest().close();
    lab.on(Event::Tick);
    let get = Upstream::Send { id: 0, bytes: Bytes::from_static(b"GET /") };
    assert_eq!(lab.seen(), [get, Upstream::End { id: 0 }]);
    lab.heard(Heard::Data { id: 0, bytes: Bytes::from_static(b"hello") });
    let mut heard = [0; 16];
    let length = lab.guest().recv_slice(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"hello", "after its end the guest still hears");
    lab.heard(Heard::End { id: 0 });
    // The guest's stack takes a moment to acknowledge.
    lab.wait();
    let seen = lab.seen();
    assert_eq!(seen.last(), Some(&Upstream::Close { id: 0, clean: true }), "{seen:?}");
    assert_eq!(open(&lab.edge), (0, 0));
}

#[test]
fn a_slow_outside_closes_the_guests_window_and_loses_nothing() {
    let mut lab = Lab::connected();
    let page: Vec<u8> = (0..400_000u32).map(|number| number as u8).collect();
    let (mut given, mut taken) = (0, Vec::new());
    for _ in 0..40 {
        given += lab.guest().send_slice(&page[given..]).unwrap();
        lab.on(Event::Tick);
        taken.extend(lab.sent());
    }
    assert_eq!(taken.len(), 64 * 1024, "no more than the outside has room for");
    assert!(given <= 64 * 1024 * 2 + 32 * 1024, "the guest waits: {given}");
    let mut told = 0;
    for _ in 0..10_000 {
        if taken.len() == page.len() {
            break;
        }
        let bytes = taken.len() - told;
        told += bytes;
        lab.heard(Heard::Sent { id: 0, bytes });
        given += lab.guest().send_slice(&page[given..]).unwrap();
        lab.wait();
        taken.extend(lab.sent());
    }
    assert!(taken == page, "{} of {} bytes", taken.len(), page.len());
}

#[test]
fn a_guest_that_is_paused_for_a_minute_misses_nothing() {
    let mut lab = Lab::connected();
    let page: Vec<u8> = (0..200_000u32).map(|number| (number / 7) as u8).collect();
    lab.heard(Heard::Data { id: 0, bytes: Bytes::copy_from_slice(&page[..100_000]) });
    lab.wire.unplugged = true;
    lab.heard(Heard::Data { id: 0, bytes: Bytes::copy_from_slice(&page[100_000..]) });
    let paused = lab.now;
    while lab.now - paused < Duration::from_secs(60) {
        lab.wait();
    }
    lab.wire.unplugged = false;
    let mut heard = Vec::new();
    for _ in 0..5_000 {
        let mut piece = [0; 4096];
        while lab.guest().can_recv() {
            let length = lab.guest().recv_slice(&mut piece).unwrap();
            heard.extend_from_slice(&piece[..length]);
        }
        lab.wait();
    }
    assert!(heard == page, "{} of {} bytes", heard.len(), page.len());
    let room: usize =
        lab.seen().iter().map(|up| if let Upstream::Room { bytes, .. } = up { *bytes } else { 0 }).sum();
    assert_eq!(room, page.len());
}

#[test]
fn a_broken_outside_resets_the_guest_and_a_guest_that_resets_is_told_once() {
    let mut lab = Lab::connected();
    lab.heard(Heard::Gone { id: 0 });
    assert!(!lab.guest().is_open());
    assert_eq!(lab.seen(), []);
    assert_eq!(open(&lab.edge), (0, 0));

    let mut lab = Lab::connected();
    lab.guest().abort();
    lab.on(Event::Tick);
    assert_eq!(lab.seen(), [Upstream::Close { id: 0, clean: false }]);
}

#[test]
fn more_than_there_is_room_for_resets() {
    let mut lab = Lab::connected();
    lab.wire.unplugged = true;
    lab.heard(Heard::Data { id: 0, bytes: vec![0; 256 * 1024].into() });
    lab.heard(Heard::Data { id: 0, bytes: vec![0; 1].into() });
    assert_eq!(lab.seen().last(), Some(&Upstream::Close { id: 0, clean: false }));
}

#[test]
fn the_gateway_tells_the_time() {
    let (mut edge, now) = edge(Mode::None);
    let mut question = [0; 48];
    question[0] = 0x23;
    question[40..].copy_from_slice(&7u64.to_be_bytes());
    let mut bytes = Vec::new();
    packet([10, 64, 7, 1].into()).udp(4000, 123).write(&mut bytes, &question).unwrap();
    let asked = edge.on(Event::Frames(vec![BytesMut::from(&bytes[..])]), now);
    let [Effect::Time { ask }] = asked[..] else { panic!("{asked:?}") };
    // 2026-11-27T04:00:00.500Z.
    let at = proto::time::Timestamp(1_795_752_000_500);
    let answer = edge.on(Event::Time { ask, now: at }, now);
    let [Effect::ToGuest(frame)] = &answer[..] else { panic!("{answer:?}") };
    let message = &frame[42..];
    assert_eq!((message.len(), message[0]), (48, 0x24));
    assert_eq!(message[24..32], 7u64.to_be_bytes(), "what the guest sent");
    assert_eq!(message[40..], (((1_795_752_000 + 2_208_988_800u64) << 32) | 1 << 31).to_be_bytes());
}

proptest! {
    #[test]
    fn hostile_packets_break_nothing(
        packets in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)), 1..40),
        heard in proptest::collection::vec((0u8..8, 0u64..6), 0..40),
    ) {
        let (mut edge, now) = edge(Mode::Internet);
        let mut heard = heard.into_iter();
        for (protocol, payload) in packets {
            let protocol = [6, 6, 6, 17, 1, protocol][usize::from(protocol) % 6];
            let mut ip = etherparse::Ipv4Header::new(
                payload.len() as u16, 64, IpNumber(protocol), ME, SITE.octets()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            let mut frame = BytesMut::from(&frame::GATEWAY_MAC[..]);
            frame.extend_from_slice(&GUEST);
            frame.extend_from_slice(&[8, 0]);
            frame.extend_from_slice(&ip.to_bytes());
            frame.extend_from_slice(&payload);
            let _effects = edge.on(Event::Frames(vec![frame]), now);
            let Some((kind, id)) = heard.next() else { continue };
            let bytes = Bytes::from(payload);
            let event = match kind {
                0 | 1 => Heard::Connected { id },
                2 => Heard::Failed { id, because: Unconnected::Unreachable },
                3 => Heard::Data { id, bytes },
                4 => Heard::Sent { id, bytes: bytes.len() },
                5 => Heard::End { id },
                6 => Heard::Gone { id },
                _ => Heard::Datagram { id, from: SocketAddr::from((SITE, 80)), bytes },
            };
            let _effects = edge.on(Event::Heard(event), now);
            let _effects = edge.on(Event::Tick, now);
        }
    }
}
