//! How bytes lie on QEMU's socket and on a guest's wire: framing, addresses, and the few packets
//! the gateway says itself. Pure: bytes in, bytes out; reading is etherparse's, so is writing.

use std::net::Ipv4Addr;

use bytes::Bytes;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, IcmpEchoHeader, Icmpv4Type, PacketBuilder, PacketBuilderStep,
};
use proto::session::Prefix;
use tokio_util::codec::LengthDelimitedCodec;

/// The gateway's MAC in every session: locally administered, "mesh" in ASCII. Being the same on
/// every host, it stays right in a guest's ARP cache when the machine moves.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6d, 0x65, 0x73, 0x68, 0x01];
/// Bytes of an Ethernet header without VLAN tag.
pub(super) const ETHERNET: usize = 14;
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
/// QEMU drops what is larger before it reaches a backend (`NET_BUFSIZE` in its `net/net.c`), so a
/// guest cannot break the stream with a longer frame.
const QEMU_FRAME_BYTES: usize = 4096 + 65_536;
/// What routers say hello with; the gateway's own packets never travel further than one wire.
pub(super) const TTL: u8 = 64;

/// Gives the framing of QEMU's `-netdev stream`: 4 bytes of length, big-endian, then the frame.
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(QEMU_FRAME_BYTES).new_codec()
}

/// Gives the first usable address of a session's network: the gateway's.
pub fn gateway(subnet: Prefix) -> Ipv4Addr {
    Ipv4Addr::from_bits((subnet.base.to_bits() & mask(subnet).to_bits()).wrapping_add(1))
}

/// Gives the prefix as a netmask.
pub(super) fn mask(subnet: Prefix) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(subnet.len.min(32))).unwrap_or(0))
}

/// Says whether `address` can belong to a machine or the gateway of this network.
pub(super) fn usable(subnet: Prefix, address: Ipv4Addr) -> bool {
    let mask = mask(subnet).to_bits();
    let host = address.to_bits() & !mask;
    address.to_bits() & mask == subnet.base.to_bits() & mask && host != 0 && host != !mask
}

/// Says whether `address` means everybody in this network, in the old or the new spelling.
pub(super) fn subnet_broadcast(subnet: Prefix, address: Ipv4Addr) -> bool {
    let mask = mask(subnet).to_bits();
    address.to_bits() & mask == subnet.base.to_bits() & mask && !usable(subnet, address)
}

/// Answers an ARP question with the gateway's MAC.
pub(super) fn arp_reply(asked: &ArpEthIpv4Packet) -> Bytes {
    let reply = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: GATEWAY_MAC,
        sender_ipv4: asked.target_ipv4,
        target_mac: asked.sender_mac,
        target_ipv4: asked.sender_ipv4,
    };
    let mut frame = ethernet(asked.sender_mac, EtherType::ARP, ArpEthIpv4Packet::LEN);
    frame.extend_from_slice(&reply.to_bytes());
    frame.into()
}

/// Starts a frame from the gateway with room for `len` more bytes.
pub(super) fn ethernet(to: [u8; 6], ether_type: EtherType, len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + len);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&GATEWAY_MAC);
    frame.extend_from_slice(&ether_type.0.to_be_bytes());
    frame
}

/// Who a packet of the gateway goes to.
#[derive(Clone, Copy)]
pub(super) struct Towards {
    /// The gateway's own address.
    pub from: Ipv4Addr,
    /// The guest's MAC.
    pub mac: [u8; 6],
    /// The guest's address.
    pub to: Ipv4Addr,
}

impl Towards {
    /// The same wire, but to everybody on it: for a guest that has no address yet.
    pub fn broadcast(self) -> Towards {
        Towards { mac: BROADCAST_MAC, to: Ipv4Addr::BROADCAST, ..self }
    }

    /// Makes a UDP packet; `None` when the payload is too long for one.
    pub fn udp(self, ports: (u16, u16), payload: &[u8]) -> Option<Bytes> {
        let builder = self.ipv4().udp(ports.0, ports.1);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write_to_vec(&mut frame, payload).ok()?;
        Some(frame.into())
    }

    /// Answers an echo request.
    pub fn echo_reply(self, header: IcmpEchoHeader, payload: &[u8]) -> Option<Bytes> {
        self.icmp(Icmpv4Type::EchoReply(header), payload)
    }

    /// Makes an ICMP packet.
    pub fn icmp(self, kind: Icmpv4Type, payload: &[u8]) -> Option<Bytes> {
        let builder = self.ipv4().icmpv4(kind);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write_to_vec(&mut frame, payload).ok()?;
        Some(frame.into())
    }

    fn ipv4(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(GATEWAY_MAC, self.mac).ipv4(self.from.octets(), self.to.octets(), TTL)
    }
}

/// Counts one hop in place. Returns false when the packet has none left.
/// The checksum is updated, not computed anew (RFC 1141), so a wrong one stays wrong.
pub(super) fn hop(packet: &mut [u8]) -> bool {
    let [.., ttl, _, high, low] = &mut packet[..12] else { return false };
    if *ttl <= 1 {
        return false;
    }
    *ttl -= 1;
    let sum = u32::from(u16::from_be_bytes([*high, *low])) + 0x0100;
    let folded = (sum & 0xffff) + (sum >> 16);
    [*high, *low] = (folded as u16).to_be_bytes();
    true
}
