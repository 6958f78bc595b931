//! Pure: what becomes of every frame of one guest, and of every packet for it. The order of the checks is the
//! promise: whose it is, then whether it is whole, then where it may go.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use etherparse::{
    ArpOperation, ArpPacketSlice, EtherType, Ethernet2Slice, Icmpv4Slice, Icmpv4Type, IpNumber,
    Ipv4HeaderSlice, Ipv4Slice, UdpSlice,
    icmpv4::{DestUnreachableHeader as Unreachable, TimeExceededCode},
};
use proto::session::overlay;

use super::{
    Carried, Drops, EdgeConfig, Effect, Event, Family, Held, Losses, dhcp, dial, egress, frame, ipv6::Side,
    time,
};

mod ipv6;
#[cfg(test)]
mod tests;

/// See the head of `link`.
pub struct Edge {
    config: EdgeConfig,
    towards: frame::Towards,
    side: Side,
    dials: dial::Dials,
    egress: egress::Egress,
    asked: BTreeMap<u64, Asked>,
    next_question: u64,
    heard: bool,
    heard_v6: bool,
    /// When the guest has the IPv6 address that it asked for, because nobody objected.
    unopposed: Option<Instant>,
    /// When the gateway says again that it leads out by IPv6.
    advertise: Option<Instant>,
    carried: Carried,
    drops: Drops,
}

/// A DNS question on its way: who gets the answer.
struct Asked {
    by: Family,
    port: u16,
    at: Instant,
}

/// Questions of one guest that may be open. A resolver has a handful; more is a flood.
const MAX_QUESTIONS: usize = 256;
/// Resolvers repeat a question after 5 seconds; an older answer is of no use.
const QUESTION_FOR: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 53;
/// What fits into one packet of the wire behind the longer of the two headers, and into no path's fragments.
const DNS_BYTES: usize = proto::limits::GUEST_DNS_BYTES;
/// What an ICMP error quotes of a packet: its header and the ports (RFC 792).
const QUOTED: usize = 8;

impl Edge {
    /// Makes the edge of one machine. It lives as long as the machine's shim.
    pub fn new(config: EdgeConfig, now: Instant) -> Edge {
        let towards = frame::Towards {
            from: frame::gateway(config.subnet),
            mac: config.guest_mac,
            to: config.guest_address,
        };
        Edge {
            towards,
            side: Side::new(config.subnet_v6, config.guest_mac),
            egress: egress::Egress::new(&config, now),
            dials: dial::Dials::new(&config, now),
            config,
            asked: BTreeMap::new(),
            next_question: 0,
            heard: false,
            heard_v6: false,
            unopposed: None,
            advertise: None,
            carried: Carried::default(),
            drops: Drops::default(),
        }
    }

    /// Takes what happened and tells what is to be done.
    #[must_use]
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        self.all([event], now)
    }

    /// Takes what happened meanwhile, in its order. A connection to which several things happened is looked at once.
    #[must_use]
    pub fn all(&mut self, events: impl IntoIterator<Item = Event>, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let heard = self.heard;
        for event in events {
            self.take(event, now, &mut effects);
        }
        if self.heard && !heard {
            self.dials.wake(now);
        }
        self.dials.settle(now, &mut effects);
        self.egress.settle(now, &mut effects);
        effects
    }

    fn take(&mut self, event: Event, now: Instant, to: &mut Vec<Effect>) {
        match event {
            Event::Frames(frames) => frames.into_iter().for_each(|frame| self.frame(frame, now, to)),
            Event::Packet(packet) => self.packet(&packet, to),
            Event::DnsAnswer { id, message } => self.dns_answer(id, &message, to),
            Event::Dial { id, port } => self.dials.dial(id, port, now, to),
            Event::DialData { id, bytes } => self.dials.send(id, &bytes),
            Event::DialRoom { id, bytes } => self.dials.room(id, bytes),
            Event::DialEnd { id } => self.dials.end(id),
            Event::DialLeft { id } => self.dials.left(id, now),
            Event::DialReset { id } => self.dials.reset(id, now, to),
            Event::Time { ask, now } => to.extend(time::answer(self.towards, ask, now).map(Effect::ToGuest)),
            Event::Heard(heard) => {
                if let Some((packet, why)) = self.egress.heard(heard, now, to) {
                    self.tell_refused(&packet, why, to);
                }
            }
            Event::Tick => {
                self.dials.tick(now);
                self.egress.tick(now, to);
                self.advertise_again(now, to);
                self.take_unopposed(now);
            }
        }
    }

    /// Tells when [`Event::Tick`] is due; to be asked again after everything that happens.
    pub fn deadline(&self) -> Option<Instant> {
        let dues = [self.dials.deadline(), self.egress.deadline(), self.advertise, self.unopposed];
        dues.into_iter().flatten().min()
    }

    /// Says whether the guest has ever taken or used its address: its network is up.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Says whether the guest has ever taken or used its IPv6 address.
    pub fn heard_v6(&self) -> bool {
        self.heard_v6
    }

    /// Counts the dials that have not ended.
    pub fn dials(&self) -> usize {
        self.dials.count()
    }

    /// Tells how often a connection into the guest was looked at.
    #[cfg(test)]
    pub fn looks(&self) -> usize {
        self.dials.looks()
    }

    /// Counts what the guest has open to the outside.
    pub fn outside(&self) -> Held {
        self.egress.held()
    }

    /// Tells what was not carried to the outside so far.
    pub fn losses(&self) -> Losses {
        self.egress.losses()
    }

    /// Tells what went to other machines of the session and came from them so far.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// Tells what went nowhere so far.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    fn frame(&mut self, mut frame: BytesMut, now: Instant, to: &mut Vec<Effect>) {
        let Ok(ethernet) = Ethernet2Slice::from_slice_without_fcs(&frame) else {
            self.drops.malformed += 1;
            return;
        };
        if ethernet.source() != self.config.guest_mac {
            self.drops.spoofed += 1;
            return;
        }
        match ethernet.ether_type() {
            EtherType::ARP => self.arp(ethernet.payload_slice(), to),
            EtherType::IPV4 => {
                frame.advance(frame::ETHERNET);
                self.ipv4(frame, now, to);
            }
            EtherType::IPV6 => {
                frame.advance(frame::ETHERNET);
                self.ipv6(frame, now, to);
            }
            _ => self.drops.ignored += 1,
        }
    }

    fn arp(&mut self, packet: &[u8], to: &mut Vec<Effect>) {
        let parsed = ArpPacketSlice::from_slice(packet).ok();
        let Some(arp) = parsed.and_then(|arp| arp.to_packet().try_eth_ipv4().ok()) else {
            self.drops.malformed += 1;
            return;
        };
        let (sender, target) = (arp.sender_ipv4_addr(), arp.target_ipv4_addr());
        let own = sender == self.config.guest_address;
        if arp.sender_mac != self.config.guest_mac || !(own || sender.is_unspecified()) {
            self.drops.spoofed += 1;
            return;
        }
        self.heard |= own;
        // A guest asks for its own address to see whether somebody else has it. Nobody has.
        let ours = target != self.config.guest_address && frame::usable(self.config.subnet, target);
        if arp.operation == ArpOperation::REQUEST && ours {
            to.push(Effect::ToGuest(frame::arp_reply(&arp)));
        }
    }

    fn ipv4(&mut self, mut packet: BytesMut, now: Instant, to: &mut Vec<Effect>) {
        let Ok(header) = Ipv4HeaderSlice::from_slice(&packet) else {
            self.drops.malformed += 1;
            return;
        };
        let length = usize::from(header.total_len());
        if length < header.slice().len() || length > packet.len() {
            self.drops.malformed += 1;
            return;
        }
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let from_guest = source == self.config.guest_address;
        let to_us = destination == self.towards.from;
        packet.truncate(length); // Short frames are padded.
        let for_gateway = to_us || destination.is_broadcast();
        let may = from_guest || (for_gateway && source.is_unspecified());
        if !may {
            self.drops.spoofed += 1;
            return;
        }
        self.heard |= from_guest;
        let mtu = self.config.mtu;
        if packet.len() <= usize::from(mtu) {
            match for_gateway {
                true => self.for_gateway(packet, from_guest && to_us, now, to),
                false => self.forward(packet, destination, now, to),
            }
        } else if from_guest && !destination.is_broadcast() && !destination.is_multicast() {
            let why = Unreachable::FragmentationNeeded { next_hop_mtu: mtu };
            self.refuse(&packet, Icmpv4Type::DestinationUnreachable(why), to);
        } else {
            self.drops.ignored += 1;
        }
    }

    /// Lets a packet of the guest go to another machine of the session, or says why not.
    fn forward(&mut self, mut packet: BytesMut, destination: Ipv4Addr, now: Instant, to: &mut Vec<Effect>) {
        if destination.is_multicast() || frame::subnet_broadcast(self.config.subnet, destination) {
            self.drops.ignored += 1;
        } else if !frame::usable(self.config.subnet, destination) && !overlay::is_host_v4(destination) {
            self.go_out(packet, now, to);
        } else if destination == self.config.guest_address {
            self.drops.misrouted += 1;
        } else if !frame::hop(&mut packet) {
            self.refuse(&packet, Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit), to);
        } else {
            self.leave(packet, to);
        }
    }

    /// Lets a packet of the guest leave its session, as far as it may.
    fn go_out(&mut self, packet: BytesMut, now: Instant, to: &mut Vec<Effect>) {
        if let egress::Taken::Refused(packet, why) = self.egress.packet(packet, now, to) {
            self.tell_refused(&packet, why, to);
        }
    }

    fn tell_refused(&mut self, packet: &[u8], why: egress::Refused, to: &mut Vec<Effect>) {
        match packet.first() {
            Some(first) if first >> 4 == 6 => self.refuse_v6(packet, why.v6(), to),
            _ => self.refuse(packet, why.v4(), to),
        }
    }

    fn leave(&mut self, packet: BytesMut, to: &mut Vec<Effect>) {
        self.carried.sent += 1;
        self.carried.sent_bytes += packet.len() as u64;
        to.push(Effect::Packet(packet.freeze()));
    }

    fn arrive(&mut self, ether_type: EtherType, packet: &[u8], to: &mut Vec<Effect>) {
        self.carried.received += 1;
        self.carried.received_bytes += packet.len() as u64;
        let mut frame = frame::ethernet(self.config.guest_mac, ether_type, packet.len());
        frame.extend_from_slice(packet);
        to.push(Effect::ToGuest(frame.into()));
    }

    /// Takes a packet that is for the gateway, or for everybody (`addressed` = false).
    fn for_gateway(&mut self, packet: BytesMut, addressed: bool, now: Instant, to: &mut Vec<Effect>) {
        let Ok(parsed) = Ipv4Slice::from_slice(&packet) else {
            self.drops.malformed += 1;
            return;
        };
        let payload = parsed.payload();
        if payload.fragmented {
            // Neither DHCP nor DNS nor a ping of sane size needs fragments on this wire.
            self.drops.ignored += 1;
            return;
        }
        match payload.ip_number {
            IpNumber::UDP => self.udp(&packet, payload.payload, addressed, now, to),
            IpNumber::ICMP if addressed => self.icmp(payload.payload, to),
            IpNumber::TCP if addressed && dns_by_tcp(payload.payload) => self.egress.stream(packet, now, to),
            IpNumber::TCP if addressed => self.dials.receive(packet),
            _ if addressed => {
                let why = Unreachable::Protocol;
                self.refuse(&packet, Icmpv4Type::DestinationUnreachable(why), to);
            }
            _ => self.drops.ignored += 1,
        }
    }

    fn udp(&mut self, packet: &[u8], udp: &[u8], addressed: bool, now: Instant, to: &mut Vec<Effect>) {
        let Ok(udp) = UdpSlice::from_slice(udp) else {
            self.drops.malformed += 1;
            return;
        };
        match (udp.source_port(), udp.destination_port()) {
            (dhcp::CLIENT_PORT, dhcp::SERVER_PORT) => self.dhcp(udp.payload(), to),
            (port, time::PORT) if addressed => {
                let ask = time::Ask::of(port, udp.payload());
                self.drops.malformed += u64::from(ask.is_none());
                to.extend(ask.map(|ask| Effect::Time { ask }));
            }
            (port, DNS_PORT) if addressed => {
                self.dns_query(Asked { by: Family::V4, port, at: now }, udp.payload(), to);
            }
            // The agent speaks to the guest's services from these.
            (_, port) if addressed && dial::PORTS.contains(&port) => {
                to.push(Effect::Packet(Bytes::copy_from_slice(packet)));
            }
            _ if addressed => {
                self.refuse(packet, Icmpv4Type::DestinationUnreachable(Unreachable::Port), to);
            }
            _ => self.drops.ignored += 1,
        }
    }

    fn dhcp(&mut self, question: &[u8], to: &mut Vec<Effect>) {
        let Some(answer) = dhcp::answer(&self.config, question) else {
            self.drops.ignored += 1;
            return;
        };
        let towards = if answer.unicast { self.towards } else { self.towards.broadcast() };
        let frame = towards.udp((dhcp::SERVER_PORT, dhcp::CLIENT_PORT), &answer.message);
        to.extend(frame.map(Effect::ToGuest));
        self.heard |= answer.leased;
    }

    fn dns_query(&mut self, asked: Asked, message: &[u8], to: &mut Vec<Effect>) {
        // Ids grow with time, so the first entry is the oldest.
        while let Some(oldest) = self.asked.first_entry()
            && asked.at.saturating_duration_since(oldest.get().at) >= QUESTION_FOR
        {
            oldest.remove();
        }
        if self.asked.len() >= MAX_QUESTIONS {
            self.drops.dns += 1;
            return;
        }
        let id = self.next_question;
        self.next_question += 1;
        self.asked.insert(id, asked);
        to.push(Effect::DnsQuery { id, message: Bytes::copy_from_slice(message) });
    }

    fn dns_answer(&mut self, id: u64, message: &[u8], to: &mut Vec<Effect>) {
        let fits = message.len() <= DNS_BYTES;
        let frame = self.asked.remove(&id).filter(|_| fits).and_then(|Asked { by, port, .. }| match by {
            Family::V4 => self.towards.udp((DNS_PORT, port), message),
            Family::V6 => self.side.udp((DNS_PORT, port), message),
        });
        match frame {
            Some(frame) => to.push(Effect::ToGuest(frame)),
            None => self.drops.dns += 1,
        }
    }

    fn icmp(&mut self, icmp: &[u8], to: &mut Vec<Effect>) {
        let Ok(icmp) = Icmpv4Slice::from_slice(icmp) else {
            self.drops.malformed += 1;
            return;
        };
        if let Icmpv4Type::EchoRequest(header) = icmp.icmp_type() {
            to.extend(self.towards.echo_reply(header, icmp.payload()).map(Effect::ToGuest));
        }
    }

    /// Tells the guest that its packet went nowhere, unless the packet is itself such news or
    /// only a later fragment (RFC 1122, 3.2.2).
    fn refuse(&mut self, packet: &[u8], why: Icmpv4Type, to: &mut Vec<Effect>) {
        self.drops.refused += 1;
        let Ok(header) = Ipv4HeaderSlice::from_slice(packet) else { return };
        let quoted = &packet[..packet.len().min(header.slice().len() + QUOTED)];
        let is_echo = || packet.get(header.slice().len()) == Some(&8);
        let answerable = header.protocol() != IpNumber::ICMP || is_echo();
        if header.fragments_offset().value() == 0 && answerable {
            to.extend(self.towards.icmp(why, quoted).map(Effect::ToGuest));
        }
    }

    /// Takes a packet of another machine, or a datagram of the gateway. The agent is trusted, but it is not asked to be
    /// perfect.
    fn packet(&mut self, packet: &[u8], to: &mut Vec<Effect>) {
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            return self.packet_v6(packet, to);
        }
        let Ok(header) = Ipv4HeaderSlice::from_slice(packet) else {
            self.drops.malformed += 1;
            return;
        };
        let source = header.source_addr();
        let of_the_network = frame::usable(self.config.subnet, source)
            && (source != self.towards.from || is_dynamic_datagram(packet))
            && source != self.config.guest_address
            || overlay::is_host_v4(source);
        let whole = usize::from(header.total_len()) == packet.len();
        let fits = packet.len() <= usize::from(self.config.mtu);
        if header.destination_addr() == self.config.guest_address && of_the_network && whole && fits {
            self.arrive(EtherType::IPV4, packet, to);
        } else {
            self.drops.misrouted += 1;
        }
    }
}

/// Says whether a packet is a whole UDP datagram from a dynamic port.
fn is_dynamic_datagram(packet: &[u8]) -> bool {
    let parsed = Ipv4Slice::from_slice(packet).ok();
    let payload = parsed.as_ref().map(|parsed| parsed.payload());
    let payload = payload.filter(|payload| !payload.fragmented && payload.ip_number == IpNumber::UDP);
    let udp = payload.and_then(|payload| UdpSlice::from_slice(payload.payload).ok());
    udp.is_some_and(|udp| dial::PORTS.contains(&udp.source_port()))
}

/// Says whether a TCP segment to the gateway is for its name server. Dials come from dynamic ports.
fn dns_by_tcp(segment: &[u8]) -> bool {
    segment.get(2..4) == Some(&DNS_PORT.to_be_bytes()[..])
}
