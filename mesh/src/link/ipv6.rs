//! How the gateway speaks IPv6 to its one guest: as router and as every neighbour (RFC 4861), with errors (RFC 4443)
//! and datagrams. Pure: addresses and bytes in, frames out; nothing is remembered.
//!
//! A guest makes its address itself (RFC 4862), out of the prefix that it is told and its card's MAC. So it needs no
//! client of DHCPv6 and no word in its seed, and disks of any age do it. One that prefers another address of the prefix
//! (RFC 7217, RFC 8981) asks whether somebody has it: the gateway has, and the guest leaves it alone.

use std::net::Ipv6Addr;

use bytes::Bytes;
use etherparse::{Icmpv6Slice, PacketBuilder, PacketBuilderStep, icmpv6};
use proto::session::overlay;

use super::frame::{GATEWAY_MAC, TTL};

/// Bytes of an IPv6 header without extensions.
pub(super) const HEADER: usize = 40;
/// The gateway's address on the wire itself, the same in every session.
pub(super) const ON_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What multicast addresses are on the wire, before their last 32 bits (RFC 2464).
const MULTICAST_MAC: [u8; 2] = [0x33, 0x33];
/// News of neighbours never crossed a router (RFC 4861, 6.1 and 7.1).
const NEVER_ROUTED: u8 = 255;
/// Any path carries this (RFC 8200), so an error quotes no more of a packet than fits into it.
const ERROR_BYTES: usize = 1280;
const FOR_EVER: u32 = u32::MAX;
/// How long a guest takes the gateway for its way out after each word of it: the longest there is (RFC 4861, 6.2.1).
pub(super) const ROUTER_FOR_S: u16 = 9000;

/// The gateway's two ends of one wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    subnet: Ipv6Addr,
    /// The gateway's address in the session.
    pub gateway: Ipv6Addr,
    /// The guest's.
    pub guest: Ipv6Addr,
    mac: [u8; 6],
}

/// What a guest says of neighbours and routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    /// It looks for routers.
    Routers,
    /// It looks for the neighbour with this address; `probe` when it wants to have the address itself.
    Neighbour { target: Ipv6Addr, probe: bool },
    /// It tells where an address is, as it does of its own.
    Told { target: Ipv6Addr },
}

impl Side {
    pub fn new(subnet: Ipv6Addr, mac: [u8; 6]) -> Side {
        let guest = overlay::address_v6(subnet, mac);
        Side { subnet, gateway: overlay::gateway_v6(subnet), guest, mac }
    }

    /// Says whether an address is of the session.
    pub fn holds(&self, address: Ipv6Addr) -> bool {
        overlay::holds_v6(self.subnet, address)
    }

    /// Tells the guest all that it needs (RFC 4861, 4.2): the prefix, the wire's MTU, the name server. For ever, because
    /// none of it changes while the card exists. A gateway that does not lead out has a lifetime of 0: it is nobody's
    /// default router, and guests do not try in vain. Of one that does the lifetime has an end, so it is said again.
    pub fn advertisement(&self, mtu: u16, leads_out: bool) -> Option<Bytes> {
        let mut body = Vec::with_capacity(80);
        body.extend([0; 8]); // Times of reachability: the guest's own.
        body.extend([1, 1]);
        body.extend(GATEWAY_MAC);
        body.extend([5, 1, 0, 0]);
        body.extend(u32::from(mtu).to_be_bytes());
        body.extend([3, 4, 64, 0xc0]); // On this wire, and for addresses of one's own making.
        body.extend([FOR_EVER.to_be_bytes(), FOR_EVER.to_be_bytes(), [0; 4]].concat());
        body.extend(self.subnet.octets());
        body.extend([25, 3, 0, 0]); // RFC 8106
        body.extend(FOR_EVER.to_be_bytes());
        body.extend(self.gateway.octets());
        let builder = self.ip(ON_LINK, ALL_NODES, NEVER_ROUTED);
        let [high, low] = if leads_out { ROUTER_FOR_S } else { 0 }.to_be_bytes();
        finish(builder.icmpv6_raw(icmpv6::TYPE_ROUTER_ADVERTISEMENT, 0, [TTL, 0, high, low]), &body)
    }

    /// Answers the guest that looks for a neighbour: every address of the session is at the gateway, but the guest's own.
    pub fn neighbour(&self, target: Ipv6Addr, probe: bool, asker: Ipv6Addr) -> Option<Bytes> {
        let router = target == ON_LINK || target == self.gateway;
        if target == self.guest || !(router || self.holds(target)) {
            return None;
        }
        let (to, solicited) = if probe { (ALL_NODES, 0) } else { (asker, 0x40) };
        let flags = 0x20 | solicited | if router { 0x80 } else { 0 };
        let body = [&target.octets()[..], &[2, 1], &GATEWAY_MAC].concat();
        let builder = self.ip(target, to, NEVER_ROUTED);
        finish(builder.icmpv6_raw(icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT, 0, [flags, 0, 0, 0]), &body)
    }

    /// Makes a UDP packet of the gateway; `None` when the payload is too long for one.
    pub fn udp(&self, ports: (u16, u16), payload: &[u8]) -> Option<Bytes> {
        let builder = self.ip(self.gateway, self.guest, TTL).udp(ports.0, ports.1);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write_to_vec(&mut frame, payload).ok()?;
        Some(frame.into())
    }

    /// Answers an echo request in the name of the gateway's address that was asked.
    pub fn echo_reply(
        &self,
        (from, to): (Ipv6Addr, Ipv6Addr),
        id_and_sequence: [u8; 4],
        payload: &[u8],
    ) -> Option<Bytes> {
        let builder = self.ip(from, to, TTL);
        finish(builder.icmpv6_raw(icmpv6::TYPE_ECHO_REPLY, 0, id_and_sequence), payload)
    }

    /// Tells the guest what became of its packet.
    pub fn error(&self, why: etherparse::Icmpv6Type, packet: &[u8]) -> Option<Bytes> {
        let quoted = &packet[..packet.len().min(ERROR_BYTES - HEADER - 8)];
        finish(self.ip(self.gateway, self.guest, TTL).icmpv6(why), quoted)
    }

    fn ip(&self, from: Ipv6Addr, to: Ipv6Addr, hops: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        let mac = if to.is_multicast() { multicast_mac(to) } else { self.mac };
        PacketBuilder::ethernet2(GATEWAY_MAC, mac).ipv6(from.octets(), to.octets(), hops)
    }
}

impl Discovery {
    /// Says whether messages of this type are about neighbours or routers.
    pub fn is_of(icmp: &Icmpv6Slice<'_>) -> bool {
        (icmpv6::TYPE_ROUTER_SOLICITATION..=icmpv6::TYPE_REDIRECT_MESSAGE).contains(&icmp.type_u8())
    }

    /// Reads a message that came over this wire; `None` when it is none of a host, or not whole (RFC 4861, 6.1.1, 7.1).
    pub fn of(packet: &[u8], icmp: &Icmpv6Slice<'_>) -> Option<Discovery> {
        let header = etherparse::Ipv6HeaderSlice::from_slice(packet).ok()?;
        let whole = header.hop_limit() == NEVER_ROUTED
            && icmp.code_u8() == 0
            && icmp.is_checksum_valid(header.source(), header.destination());
        let target = || {
            let target = Ipv6Addr::from(*icmp.payload().first_chunk::<16>()?);
            (!target.is_multicast()).then_some(target)
        };
        match icmp.type_u8() {
            _ if !whole => None,
            icmpv6::TYPE_ROUTER_SOLICITATION => Some(Discovery::Routers),
            icmpv6::TYPE_NEIGHBOR_SOLICITATION => {
                let probe = header.source_addr().is_unspecified();
                Some(Discovery::Neighbour { target: target()?, probe })
            }
            icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT => Some(Discovery::Told { target: target()? }),
            _ => None,
        }
    }
}

/// Counts one hop in place. Returns false when the packet has none left.
pub(super) fn hop(packet: &mut [u8]) -> bool {
    let Some(hops) = packet.get_mut(7).filter(|hops| **hops > 1) else { return false };
    *hops -= 1;
    true
}

fn multicast_mac(address: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = address.octets();
    let [first, second] = MULTICAST_MAC;
    [first, second, a, b, c, d]
}

fn finish(builder: PacketBuilderStep<etherparse::Icmpv6Header>, payload: &[u8]) -> Option<Bytes> {
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write_to_vec(&mut frame, payload).ok()?;
    Some(frame.into())
}
