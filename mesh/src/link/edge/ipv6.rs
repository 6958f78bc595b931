//! Pure: what becomes of every IPv6 packet of one guest, and of those for it, in the order of the IPv4 ones: whose it
//! is, then whether it is whole, then where it may go.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use etherparse::{
    EtherType, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv6HeaderSlice, UdpSlice,
    icmpv6::{DestUnreachableCode as Unreachable, TYPE_ECHO_REQUEST, TimeExceededCode},
};
use proto::topology::Egress;

use super::{Asked, DNS_PORT, Edge, Family};
use crate::link::{
    Effect,
    ipv6::{self, Discovery, HEADER, ON_LINK},
};

/// How often the gateway says that it leads out: a guest may miss two of three.
const ADVERTISE_AGAIN: Duration = Duration::from_secs(ipv6::ROUTER_FOR_S as u64 / 3);
/// A guest asks whether somebody has its address, and takes it when it heard nothing for a second (RFC 4862, 5.4: one
/// probe, the default RetransTimer of RFC 4861). Until then it drops what is sent there. As long again for a guest that
/// is slow; one that probes more often says so each time.
const UNOPPOSED_AFTER: Duration = Duration::from_secs(2);
/// Types below this are errors, of which no error is told (RFC 4443, 2.4).
const FIRST_NO_ERROR: u8 = 128;

impl Edge {
    /// Takes what the guest sent as IPv6.
    pub(super) fn ipv6(&mut self, mut packet: BytesMut, now: Instant, to: &mut Vec<Effect>) {
        let Ok(header) = Ipv6HeaderSlice::from_slice(&packet) else {
            self.drops.malformed += 1;
            return;
        };
        let length = HEADER + usize::from(header.payload_length());
        if length > packet.len() {
            self.drops.malformed += 1;
            return;
        }
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let next = header.next_header();
        packet.truncate(length); // Short frames are padded.
        let own = source == self.side.guest;
        // On the wire itself, a guest may use whatever address it likes: nothing of it gets further than here.
        let on_link = source.is_unicast_link_local() && source != ON_LINK;
        if !own && !on_link && !source.is_unspecified() {
            self.drops.spoofed += 1;
            return;
        }
        if own {
            self.note_v6();
        }
        if next == IpNumber::IPV6_ICMP
            && let Ok(icmp) = Icmpv6Slice::from_slice(&packet[HEADER..])
            && Discovery::is_of(&icmp)
        {
            return self.discovery(Discovery::of(&packet, &icmp), source, now, to);
        }
        let mtu = self.config.mtu;
        if packet.len() > usize::from(mtu) {
            match own && !destination.is_multicast() {
                true => self.refuse_v6(&packet, Icmpv6Type::PacketTooBig { mtu: mtu.into() }, to),
                false => self.drops.ignored += 1,
            }
        } else if destination.is_multicast() {
            // Who listens to what (MLD), mDNS and the like.
            self.drops.ignored += 1;
        } else if destination == ON_LINK && !source.is_unspecified()
            || destination == self.side.gateway && own
        {
            self.for_gateway_v6(&packet, (source, destination), now, to);
        } else if own {
            self.forward_v6(packet, destination, now, to);
        } else {
            self.drops.spoofed += 1;
        }
    }

    fn discovery(&mut self, said: Option<Discovery>, source: Ipv6Addr, now: Instant, to: &mut Vec<Effect>) {
        match said {
            Some(Discovery::Routers) => self.advertise(now, to),
            Some(Discovery::Neighbour { target, probe }) => {
                if probe && target == self.side.guest && !self.heard_v6 {
                    self.unopposed = Some(now + UNOPPOSED_AFTER);
                }
                to.extend(self.side.neighbour(target, probe, source).map(Effect::ToGuest));
            }
            Some(Discovery::Told { target }) => {
                let foreign = target != self.side.guest && !target.is_unicast_link_local();
                self.drops.spoofed += u64::from(foreign);
            }
            None => self.drops.malformed += 1,
        }
    }

    fn advertise(&mut self, now: Instant, to: &mut Vec<Effect>) {
        let leads_out = self.config.egress != Egress::None;
        self.advertise = leads_out.then(|| now + ADVERTISE_AGAIN);
        to.extend(self.side.advertisement(self.config.mtu, leads_out).map(Effect::ToGuest));
    }

    /// Says again, before the guest forgets it, that the gateway leads out.
    pub(super) fn advertise_again(&mut self, now: Instant, to: &mut Vec<Effect>) {
        if self.advertise.is_some_and(|due| due <= now) {
            self.advertise(now, to);
        }
    }

    /// Notes that the guest has the address that it asked for: nobody objects.
    pub(super) fn take_unopposed(&mut self, now: Instant) {
        if self.unopposed.is_some_and(|due| due <= now) {
            self.note_v6();
        }
    }

    fn note_v6(&mut self) {
        self.heard_v6 = true;
        self.unopposed = None;
    }

    /// Lets a packet of the guest go to another machine of the session or out of it, or says why not.
    fn forward_v6(
        &mut self,
        mut packet: BytesMut,
        destination: Ipv6Addr,
        now: Instant,
        to: &mut Vec<Effect>,
    ) {
        if destination.is_unicast_link_local() || destination.is_unspecified() {
            // Nobody else is on this wire.
            self.drops.ignored += 1;
        } else if !self.side.holds(destination) {
            self.go_out(packet, now, to);
        } else if destination == self.side.guest {
            self.drops.misrouted += 1;
        } else if !ipv6::hop(&mut packet) {
            let why = Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded);
            self.refuse_v6(&packet, why, to);
        } else {
            self.leave(packet, to);
        }
    }

    fn for_gateway_v6(
        &mut self,
        packet: &[u8],
        (source, destination): (Ipv6Addr, Ipv6Addr),
        now: Instant,
        to: &mut Vec<Effect>,
    ) {
        let Ok(header) = Ipv6HeaderSlice::from_slice(packet) else { return };
        let (body, addressed) = (&packet[HEADER..], destination == self.side.gateway);
        match header.next_header() {
            IpNumber::IPV6_ICMP => {
                let icmp = Icmpv6Slice::from_slice(body).ok();
                let whole =
                    |icmp: &Icmpv6Slice<'_>| icmp.is_checksum_valid(header.source(), header.destination());
                match icmp.filter(whole) {
                    Some(icmp) if icmp.type_u8() == TYPE_ECHO_REQUEST => {
                        let ends = (destination, source);
                        let reply = self.side.echo_reply(ends, icmp.bytes5to8(), icmp.payload());
                        to.extend(reply.map(Effect::ToGuest));
                    }
                    Some(_) => {}
                    None => self.drops.malformed += 1,
                }
            }
            IpNumber::UDP if addressed => match UdpSlice::from_slice(body) {
                Ok(udp) if udp.destination_port() == DNS_PORT => {
                    let asked = Asked { by: Family::V6, port: udp.source_port(), at: now };
                    self.dns_query(asked, udp.payload(), to);
                }
                Ok(_) => self.refuse_v6(packet, Icmpv6Type::DestinationUnreachable(Unreachable::Port), to),
                Err(_) => self.drops.malformed += 1,
            },
            // Its services are asked by IPv4 or by datagrams.
            _ if addressed => {
                self.refuse_v6(packet, Icmpv6Type::DestinationUnreachable(Unreachable::Port), to);
            }
            _ => self.drops.ignored += 1,
        }
    }

    /// Tells the guest that its packet went nowhere, unless the packet is itself such news (RFC 4443, 2.4).
    pub(super) fn refuse_v6(&mut self, packet: &[u8], why: Icmpv6Type, to: &mut Vec<Effect>) {
        self.drops.refused += 1;
        let is_error = packet.get(6) == Some(&IpNumber::IPV6_ICMP.0)
            && packet.get(HEADER).is_none_or(|kind| *kind < FIRST_NO_ERROR);
        if !is_error {
            to.extend(self.side.error(why, packet).map(Effect::ToGuest));
        }
    }

    /// Takes an IPv6 packet of another machine.
    pub(super) fn packet_v6(&mut self, packet: &[u8], to: &mut Vec<Effect>) {
        let Ok(header) = Ipv6HeaderSlice::from_slice(packet) else {
            self.drops.malformed += 1;
            return;
        };
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let machine = |address| self.side.holds(address) && address != self.side.gateway;
        let from_machine = machine(source) && source != self.side.guest;
        let whole = HEADER + usize::from(header.payload_length()) == packet.len();
        let fits = packet.len() <= usize::from(self.config.mtu);
        if destination == self.side.guest && from_machine && whole && fits {
            self.arrive(EtherType::IPV6, packet, to);
        } else {
            self.drops.misrouted += 1;
        }
    }
}

#[cfg(test)]
mod tests;
