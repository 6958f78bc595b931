//! What a guest hears in the name of those outside: frames from their addresses. Pure: bytes in, frames out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use etherparse::{
    IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpHeaders, PacketBuilder,
    PacketBuilderStep,
};

use super::{EdgeConfig, Side};
use crate::link::frame::{GATEWAY_MAC, TTL};

/// The guest's end of the wire.
#[derive(Clone, Copy)]
pub(super) struct Guest {
    mac: [u8; 6],
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// A reset, as RFC 9293 (3.10.7.1) numbers it.
pub(super) struct Reset {
    pub sequence: u32,
    pub acknowledges: Option<u32>,
}

impl Guest {
    pub fn new(config: &EdgeConfig) -> Guest {
        let v6 = Side::new(config.subnet_v6, config.guest_mac).guest;
        Guest { mac: config.guest_mac, v4: config.guest_address, v6 }
    }

    /// Makes a UDP packet; `None` when the payload is too long for one.
    pub fn udp(self, from: SocketAddr, port: u16, payload: &[u8]) -> Option<Bytes> {
        let builder = self.ip(from.ip()).udp(from.port(), port);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write_to_vec(&mut frame, payload).ok()?;
        Some(frame.into())
    }

    /// Passes an echo reply on, with the number that the guest asked by; `None` when it is none.
    pub fn echo_reply(self, from: IpAddr, id: u16, message: &[u8]) -> Option<Bytes> {
        let mut frame = Vec::new();
        match from {
            IpAddr::V4(_) => {
                let icmp = Icmpv4Slice::from_slice(message).ok()?;
                let Icmpv4Type::EchoReply(header) = icmp.icmp_type() else { return None };
                let kind = Icmpv4Type::EchoReply(IcmpEchoHeader { id, ..header });
                self.ip(from).icmpv4(kind).write_to_vec(&mut frame, icmp.payload()).ok()?;
            }
            IpAddr::V6(_) => {
                let icmp = Icmpv6Slice::from_slice(message).ok()?;
                let Icmpv6Type::EchoReply(header) = icmp.icmp_type() else { return None };
                let kind = Icmpv6Type::EchoReply(IcmpEchoHeader { id, ..header });
                self.ip(from).icmpv6(kind).write_to_vec(&mut frame, icmp.payload()).ok()?;
            }
        }
        Some(frame.into())
    }

    /// Resets a connection that never was.
    pub fn reset(self, from: SocketAddr, port: u16, reset: Reset) -> Option<Bytes> {
        let builder = self.ip(from.ip()).tcp(from.port(), port, reset.sequence, 0).rst();
        let builder = match reset.acknowledges {
            Some(number) => builder.ack(number),
            None => builder,
        };
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write_to_vec(&mut frame, &[]).ok()?;
        Some(frame.into())
    }

    fn ip(self, from: IpAddr) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(GATEWAY_MAC, self.mac);
        match from {
            IpAddr::V4(from) => ethernet.ipv4(from.octets(), self.v4.octets(), TTL),
            IpAddr::V6(from) => ethernet.ipv6(from.octets(), self.v6.octets(), TTL),
        }
    }
}
