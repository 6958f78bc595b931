//! Connections into a guest that is a smoltcp stack of its own, on a clock that is set by hand.

use std::collections::VecDeque;

use bytes::Bytes;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};

use super::*;
use crate::link::{
    Edge, Event,
    fixture::{self, GUEST, ME},
    tcp::{Receive, Transmit},
};

/// An edge and a guest with one TCP port, on a wire without delay and a clock that is set by hand.
struct Lab {
    edge: Edge,
    start: Instant,
    now: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Plug,
    /// Effects but frames, in order.
    seen: Vec<Effect>,
    room: usize,
}

#[derive(Default)]
struct Plug {
    incoming: VecDeque<BytesMut>,
    outgoing: Vec<Bytes>,
    unplugged: bool,
}

impl Device for Plug {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Receive, Transmit<'_>)> {
        Some((Receive(self.incoming.pop_front()?), Transmit(&mut self.outgoing, frame::GATEWAY_MAC)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.outgoing, frame::GATEWAY_MAC))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1280;
        capabilities
    }
}

impl Lab {
    fn new() -> Lab {
        let mut wire = Plug::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, SmolInstant::ZERO);
        interface
            .update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::from(Ipv4Addr::from(ME)), 24)).unwrap());
        let buffer = || tcp::SocketBuffer::new(vec![0; 32 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(80).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(socket);
        let (edge, now) = fixture::edge(fixture::config());
        Lab { edge, start: now, now, interface, sockets, socket, wire, seen: vec![], room: WINDOW }
    }

    fn guest(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Tells the edge something and lets both sides talk until nobody has anything to say.
    fn on(&mut self, event: Event) {
        let effects = self.edge.on(event, self.now);
        self.take(effects);
        for _ in 0..100_000 {
            let at = SmolInstant::from_micros((self.now - self.start).as_micros() as i64);
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            if self.wire.outgoing.is_empty() && self.wire.incoming.is_empty() {
                return;
            }
            let packets = std::mem::take(&mut self.wire.outgoing).into_iter();
            let frames = packets.map(|packet| {
                let mut frame = BytesMut::from(&packet[..]);
                frame[6..12].copy_from_slice(&GUEST);
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
                Effect::ToGuest(frame) => {
                    self.wire.incoming.push_back(BytesMut::from(&frame[frame::ETHERNET..]));
                }
                Effect::DialRoom { bytes, .. } => self.room += bytes,
                other => self.seen.push(other),
            }
        }
    }

    /// Lets time pass to the edge's and the guest's next deadline.
    fn wait(&mut self) {
        let edge = self.edge.deadline().unwrap_or(self.now + Duration::from_millis(50));
        self.now = edge.max(self.now + Duration::from_millis(1)).min(self.now + Duration::from_millis(50));
        self.on(Event::Tick);
    }

    fn connected() -> Lab {
        let mut lab = Lab::new();
        lab.on(Event::Dial { id: 5, port: 80 });
        assert_eq!(std::mem::take(&mut lab.seen), [Effect::Dialed { id: 5 }]);
        lab
    }

    fn seen(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.seen)
    }

    /// Takes the bytes seen so far, which are all that was seen.
    fn bytes(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        for effect in self.seen() {
            let Effect::DialData { id: 5, bytes } = effect else { panic!("{effect:?}") };
            all.extend_from_slice(&bytes);
        }
        all
    }
}

fn data(text: &'static str) -> Event {
    Event::DialData { id: 5, bytes: text.into() }
}

#[test]
fn bytes_go_both_ways_and_both_ends_close() {
    let mut lab = Lab::connected();
    lab.on(data("hello"));
    let mut heard = [0; 16];
    let length = lab.guest().recv_slice(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"hello");
    lab.on(Event::DialEnd { id: 5 });
    assert!(!lab.guest().may_recv(), "the guest sees the end");
    lab.guest().send_slice(b"world").unwrap();
    lab.on(Event::Tick);
    assert_eq!(lab.bytes(), b"world", "after our end the guest may still speak");
    lab.guest().close();
    lab.on(Event::Tick);
    assert_eq!(lab.seen(), [Effect::DialEnd { id: 5 }, Effect::DialGone { id: 5, clean: true }]);
    assert_eq!(lab.edge.deadline(), None, "nothing is left to do");
}

#[test]
fn a_guest_may_end_first() {
    let mut lab = Lab::connected();
    lab.guest().send_slice(b"bye").unwrap();
    lab.guest().close();
    lab.on(Event::Tick);
    let bye = Effect::DialData { id: 5, bytes: "bye".into() };
    assert_eq!(lab.seen(), [bye, Effect::DialEnd { id: 5 }]);
    lab.on(Event::DialEnd { id: 5 });
    assert_eq!(lab.seen(), [Effect::DialGone { id: 5, clean: true }]);
}

#[test]
fn a_port_without_listener_refuses() {
    let mut lab = Lab::new();
    lab.on(Event::Dial { id: 5, port: 81 });
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 5, because: DialError::Refused }]);
    lab.on(Event::Dial { id: 5, port: 0 });
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 5, because: DialError::Unavailable }]);
}

#[test]
fn a_silent_guest_is_given_up_in_time() {
    let mut lab = Lab::new();
    lab.wire.unplugged = true;
    lab.on(Event::Dial { id: 5, port: 80 });
    while lab.seen.is_empty() {
        lab.wait();
    }
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 5, because: DialError::TimedOut }]);
    let took = lab.now - lab.start;
    assert!(took >= CONNECT_WITHIN && took < CONNECT_WITHIN * 2, "{took:?}");
}

#[test]
fn a_guest_that_comes_up_during_a_dial_is_reached_within_a_moment() {
    for silent_ms in [10, 300, 1_500, 3_000] {
        let mut lab = Lab::new();
        lab.wire.unplugged = true;
        lab.on(Event::Dial { id: 5, port: 80 });
        while lab.now - lab.start < Duration::from_millis(silent_ms) {
            lab.wait();
        }
        assert_eq!(lab.seen(), []);
        lab.wire.unplugged = false;
        let asks = etherparse::ArpEthIpv4Packet {
            operation: etherparse::ArpOperation::REQUEST,
            sender_mac: GUEST,
            sender_ipv4: ME,
            target_mac: [0; 6],
            target_ipv4: ME,
        };
        let mut announcement = Vec::new();
        etherparse::PacketBuilder::ethernet2(GUEST, [0xff; 6])
            .arp(asks.to_arp_packet())
            .write_to_vec(&mut announcement)
            .unwrap();
        lab.on(Event::Frames(vec![BytesMut::from(&announcement[..])]));
        assert_eq!(lab.seen(), [Effect::Dialed { id: 5 }], "after {silent_ms} ms of silence");
        lab.on(data("hello"));
        assert_eq!(lab.guest().recv_queue(), 5);
    }
}

#[test]
fn a_silent_guest_is_asked_again_and_again_but_rarer() {
    let mut lab = Lab::new();
    lab.wire.unplugged = true;
    lab.on(Event::Dial { id: 5, port: 80 });
    let mut at = Vec::new();
    while lab.seen.is_empty() {
        let before = lab.edge.deadline().unwrap();
        lab.wait();
        if lab.now >= before {
            at.push((lab.now - lab.start).as_millis());
        }
    }
    assert!(at.starts_with(&[200, 600, 1400]) && at.len() < 10, "{at:?}");
}

#[test]
fn a_guest_that_vanishes_is_noticed() {
    let mut lab = Lab::connected();
    lab.wire.unplugged = true;
    while lab.seen.is_empty() {
        lab.wait();
    }
    assert_eq!(lab.seen(), [Effect::DialGone { id: 5, clean: false }]);
    assert!(lab.now - lab.start < Duration::from_secs(300));
}

#[test]
fn a_slow_reader_stops_the_guest_and_loses_nothing() {
    let mut lab = Lab::connected();
    let all: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    let mut stalled = 0;
    for _ in 0..100_000 {
        if got.len() == all.len() {
            break;
        }
        let part = lab.guest().send_slice(&all[sent..]).unwrap();
        sent += part;
        lab.wait();
        let bytes = lab.bytes();
        got.extend_from_slice(&bytes);
        assert!(sent - got.len() <= 2 * WINDOW, "buffers are bounded");
        if part == 0 && bytes.is_empty() {
            stalled += 1;
            lab.on(Event::DialRoom { id: 5, bytes: WINDOW });
        }
    }
    assert!(got == all);
    assert!(stalled >= 3, "the guest had to wait");
}

#[test]
fn a_slow_guest_gives_room_only_as_it_takes() {
    let mut lab = Lab::connected();
    let all: Vec<u8> = (0..1_000_000u32).map(|at| (at % 241) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..100_000 {
        if got.len() == all.len() {
            break;
        }
        let part = lab.room.min(all.len() - sent).min(10_000);
        if part > 0 {
            lab.room -= part;
            let bytes = Bytes::copy_from_slice(&all[sent..sent + part]);
            sent += part;
            lab.on(Event::DialData { id: 5, bytes });
        } else {
            let mut heard = [0; 3000];
            let length = lab.guest().recv_slice(&mut heard).unwrap();
            got.extend_from_slice(&heard[..length]);
            lab.wait();
        }
        assert!(sent - got.len() <= 2 * WINDOW, "buffers are bounded");
    }
    assert!(got == all);
    assert_eq!(lab.seen(), []);
}

#[test]
fn sending_beyond_the_room_resets() {
    let mut lab = Lab::connected();
    lab.on(Event::DialData { id: 5, bytes: vec![0; WINDOW + 1].into() });
    assert_eq!(lab.seen(), [Effect::DialGone { id: 5, clean: false }]);
    assert_eq!(lab.guest().state(), State::Closed);
}

#[test]
fn either_side_may_reset() {
    let mut lab = Lab::connected();
    lab.on(Event::DialReset { id: 5 });
    let gone = vec![Effect::DialGone { id: 5, clean: false }];
    assert_eq!((lab.guest().state(), lab.seen()), (State::Closed, gone));
    let mut lab = Lab::connected();
    lab.guest().abort();
    lab.on(Event::Tick);
    assert_eq!(lab.seen(), [Effect::DialGone { id: 5, clean: false }]);
}

#[test]
fn connections_are_bounded_and_have_own_ports() {
    let mut lab = Lab::new();
    lab.wire.unplugged = true;
    for id in 0..MAX_DIALS as u64 {
        lab.on(Event::Dial { id, port: 80 });
    }
    assert_eq!(lab.seen(), []);
    lab.on(Event::Dial { id: 9999, port: 80 });
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 9999, because: DialError::Unavailable }]);
}

/// Something that happens to a dial.
type Step = fn(&mut Lab);

const DIAL: Step = |lab| lab.on(Event::Dial { id: 5, port: 80 });
const REFUSED: Step = |lab| lab.on(Event::Dial { id: 5, port: 81 });
const HELLO: Step = |lab| lab.on(data("hello"));
const RESET: Step = |lab| lab.on(Event::DialReset { id: 5 });
const END: Step = |lab| lab.on(Event::DialEnd { id: 5 });
const LEFT: Step = |lab| lab.on(Event::DialLeft { id: 5 });
const FLOOD: Step = |lab| lab.on(Event::DialData { id: 5, bytes: vec![0; WINDOW + 1].into() });
/// As much as there is room for, to a guest that reads nothing.
const FILL: Step = |lab| lab.on(Event::DialData { id: 5, bytes: vec![0; WINDOW].into() });
const UNPLUG: Step = |lab| lab.wire.unplugged = true;
const PLUG: Step = |lab| lab.wire.unplugged = false;
/// Long enough for every patience of the edge.
const PATIENCE: Step = |lab| {
    let until = lab.now + Duration::from(SILENT_FOR) * 2 + LINGER;
    while lab.now < until {
        lab.wait();
    }
};
const GUEST_SENDS: Step = |lab| {
    lab.guest().send_slice(&[7; 30_000]).unwrap();
    lab.on(Event::Tick);
};
const GUEST_ENDS: Step = |lab| {
    lab.guest().close();
    lab.on(Event::Tick);
};
const GUEST_RESETS: Step = |lab| {
    lab.guest().abort();
    lab.on(Event::Tick);
};

#[test]
fn every_dial_ends_with_exactly_one_word_whoever_ended_it() {
    let ways: &[(&str, &[Step])] = &[
        ("refused", &[REFUSED]),
        ("refused, then reset by a caller that was slow", &[REFUSED, RESET]),
        ("unanswered", &[UNPLUG, DIAL, PATIENCE]),
        ("given up while asked", &[UNPLUG, DIAL, RESET]),
        ("given up while asked, answered too late", &[UNPLUG, DIAL, RESET, PLUG, PATIENCE]),
        ("left while asked", &[UNPLUG, DIAL, LEFT, PATIENCE]),
        ("reset by the caller", &[DIAL, HELLO, RESET]),
        ("reset twice", &[DIAL, RESET, RESET]),
        ("reset by the caller, unread", &[DIAL, GUEST_SENDS, RESET]),
        ("reset by the caller after its end", &[DIAL, END, RESET]),
        ("reset by the caller after both ends", &[DIAL, END, GUEST_ENDS, RESET]),
        ("reset by the guest", &[DIAL, HELLO, GUEST_RESETS]),
        ("reset by both", &[DIAL, GUEST_RESETS, RESET]),
        ("reset by the guest after our end", &[DIAL, END, GUEST_RESETS]),
        ("reset by the guest after its end", &[DIAL, GUEST_ENDS, GUEST_RESETS, HELLO]),
        ("ended by the caller, then the guest", &[DIAL, END, GUEST_ENDS]),
        ("ended by the guest, then the caller", &[DIAL, GUEST_ENDS, END]),
        ("ended by both, both having sent", &[DIAL, HELLO, GUEST_SENDS, END, GUEST_ENDS]),
        ("beyond the room", &[DIAL, FLOOD]),
        ("a guest that vanished", &[DIAL, UNPLUG, PATIENCE]),
        ("a guest that vanished while it was sent to", &[DIAL, UNPLUG, HELLO, PATIENCE]),
        ("a guest that vanished after our end", &[DIAL, END, UNPLUG, PATIENCE]),
        ("a guest that vanished after its end", &[DIAL, GUEST_ENDS, UNPLUG, PATIENCE]),
        ("left, and the guest never ends", &[DIAL, HELLO, END, LEFT, PATIENCE]),
        ("left before its end was read", &[DIAL, HELLO, LEFT, PATIENCE]),
        ("left twice", &[DIAL, LEFT, END, LEFT, PATIENCE]),
        ("left unread", &[DIAL, GUEST_SENDS, GUEST_SENDS, LEFT, PATIENCE]),
        ("left by a guest that reads nothing", &[DIAL, FILL, LEFT, PATIENCE]),
        ("left after the guest's end", &[DIAL, GUEST_ENDS, END, LEFT]),
    ];
    for (way, steps) in ways {
        let mut lab = Lab::new();
        steps.iter().for_each(|step| step(&mut lab));
        let last = |effect: &Effect| matches!(effect, Effect::DialGone { .. } | Effect::DialFailed { .. });
        let seen = lab.seen();
        assert_eq!(seen.iter().filter(|effect| last(effect)).count(), 1, "{way}: {seen:?}");
        assert!(seen.last().is_some_and(last), "{way}: nothing names it afterwards: {seen:?}");
        assert_eq!((lab.edge.dials(), lab.edge.deadline()), (0, None), "{way}");
        lab.on(data("to nobody"));
        assert_eq!(lab.seen(), [], "{way}: its id is free");
    }
}

#[test]
fn those_who_left_make_place_for_those_who_come() {
    let mut lab = Lab::new();
    lab.wire.unplugged = true;
    for id in 0..MAX_DIALS as u64 {
        lab.on(Event::Dial { id, port: 80 });
    }
    lab.on(Event::DialLeft { id: 9 });
    lab.now += Duration::from_millis(1);
    lab.on(Event::DialLeft { id: 3 });
    lab.on(Event::Dial { id: 1000, port: 80 });
    assert_eq!(lab.seen(), [Effect::DialGone { id: 9, clean: false }]);
    lab.on(Event::Dial { id: 1001, port: 80 });
    assert_eq!(lab.seen(), [Effect::DialGone { id: 3, clean: false }]);
    lab.on(Event::Dial { id: 1002, port: 80 });
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 1002, because: DialError::Unavailable }]);
}

#[test]
fn what_a_packet_costs_does_not_depend_on_those_who_are_idle() {
    let mut costs = Vec::new();
    for idle in [0, MAX_DIALS as u64 - 1] {
        let mut lab = Lab::connected();
        lab.wire.unplugged = true;
        for id in 0..idle {
            lab.on(Event::Dial { id: 100 + id, port: 81 });
        }
        lab.wire.unplugged = false;
        let before = lab.edge.looks();
        lab.on(data("a question"));
        lab.guest().recv_slice(&mut [0; 10]).unwrap();
        lab.guest().send_slice(b"an answer").unwrap();
        lab.on(Event::DialRoom { id: 5, bytes: 0 });
        assert_eq!(lab.bytes(), b"an answer");
        costs.push(lab.edge.looks() - before);
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 5, "{costs:?}");
}

#[test]
fn what_comes_together_is_answered_together() {
    let mut lab = Lab::connected();
    let before = lab.edge.looks();
    let room = Event::DialRoom { id: 5, bytes: 10 };
    let effects = lab.edge.all([data("one, "), room, data("two"), Event::DialEnd { id: 5 }], lab.now);
    let [Effect::ToGuest(_)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(lab.edge.looks() - before, 1);
    lab.take(effects);
    lab.on(Event::Tick);
    let mut heard = [0; 16];
    let length = lab.guest().recv_slice(&mut heard).unwrap();
    assert_eq!((&heard[..length], lab.guest().may_recv()), (&b"one, two"[..], false));
    // Nothing that comes with an end names the connection after it.
    let reset =
        [data("three"), Event::DialReset { id: 5 }, data("four"), Event::DialRoom { id: 5, bytes: 1 }];
    let effects = lab.edge.all(reset, lab.now);
    let named = effects.iter().filter(|effect| !matches!(effect, Effect::ToGuest(_)));
    assert_eq!(named.collect::<Vec<_>>(), [&Effect::DialGone { id: 5, clean: false }]);
}

#[test]
fn a_packet_of_no_connection_is_answered_by_a_reset() {
    let mut lab = Lab::connected();
    let (ours, end) = (*PORTS.start() + 7, *PORTS.end());
    for (port, flags_rst) in [(end, false), (end, true), (ours, false)] {
        let mut header = etherparse::TcpHeader::new(if port == ours { 81 } else { 80 }, port, 1, 1000);
        (header.ack, header.acknowledgment_number, header.rst) = (true, 77, flags_rst);
        let mut frame = Vec::new();
        let packet =
            etherparse::PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC).ipv4(ME, [10, 64, 7, 1], 64);
        packet.tcp_header(header).write_to_vec(&mut frame, b"").unwrap();
        let effects = lab.edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), lab.now);
        let resets = effects.iter().filter(|effect| {
            let Effect::ToGuest(frame) = effect else { return false };
            let parsed = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
            matches!(parsed.transport, Some(etherparse::TransportSlice::Tcp(tcp)) if tcp.rst())
        });
        assert_eq!((resets.count(), effects.len()), if flags_rst { (0, 0) } else { (1, 1) }, "{port}");
    }
    lab.on(data("hello"));
    assert_eq!(lab.guest().recv_queue(), 5, "the connection knows nothing of it");
}

#[test]
fn one_that_the_guest_answers_with_an_attempt_of_its_own_is_not_asked_for_without_end() {
    let mut lab = Lab::new();
    lab.wire.unplugged = true;
    lab.on(Event::Dial { id: 5, port: 80 });
    let mut header = etherparse::TcpHeader::new(80, *PORTS.start() + 7, 1, 1000);
    header.syn = true;
    let mut frame = Vec::new();
    let packet = etherparse::PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC).ipv4(ME, [10, 64, 7, 1], 64);
    packet.tcp_header(header).write_to_vec(&mut frame, b"").unwrap();
    let effects = lab.edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), lab.now);
    lab.take(effects);
    let mut ticks = 0;
    while lab.seen.is_empty() {
        let due = lab.edge.deadline().unwrap();
        lab.now = due.max(lab.now);
        lab.on(Event::Tick);
        ticks += 1;
        assert!(ticks < 100, "it is woken for nothing");
    }
    assert_eq!(lab.seen(), [Effect::DialFailed { id: 5, because: DialError::TimedOut }]);
}

proptest::proptest! {
    #[test]
    fn hostile_segments_do_no_harm(
        open in proptest::bool::ANY,
        segments in proptest::collection::vec(
            (proptest::num::u32::ANY, proptest::num::u32::ANY, proptest::num::u16::ANY, 0u8..64,
             proptest::collection::vec(proptest::num::u8::ANY, 0..80)), 1..20),
    ) {
        let mut lab = Lab::new();
        lab.wire.unplugged = !open;
        lab.on(Event::Dial { id: 5, port: 80 });
        let port = PORTS.start() + 7;
        for (seq, ack, window, flags, bytes) in segments {
            let mut header = etherparse::TcpHeader::new(80, port, seq, window);
            header.acknowledgment_number = ack;
            (header.fin, header.syn, header.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            (header.psh, header.ack, header.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
            let options = bytes.len().min(40) / 4 * 4;
            let _ = header.set_options_raw(&bytes[..options]);
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2(GUEST, frame::GATEWAY_MAC)
                .ipv4(ME, [10, 64, 7, 1], 64)
                .tcp_header(header)
                .write_to_vec(&mut frame, &bytes)
                .unwrap();
            drop(lab.edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), lab.now));
            lab.now += Duration::from_millis(300);
            drop(lab.edge.on(Event::Tick, lab.now));
        }
    }
}
