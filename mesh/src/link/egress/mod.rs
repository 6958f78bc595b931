//! What leaves a session: a guest's TCP, UDP and pings to addresses outside of it, carried by ordinary
//! sockets of the host without root. Pure: packets in; frames for the guest and orders for sockets out.
//!
//! ```text
//!   guest --packet--> Egress --Upstream--> sockets of the shim --> the internet
//!         <--frame---        <--Heard-----
//! ```
//!
//! - Where a guest may go is [`allowed`]'s word alone, asked for every connection and every datagram.
//! - A connection is told what really happened: a SYN waits until the socket is connected or refused.
//! - Nothing wakes for an idle connection; a table has a bound, and what is beyond it is dropped and counted.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv4Slice, Ipv6HeaderSlice, UdpSlice, icmpv4,
    icmpv6,
};
use proto::topology::Egress as Mode;

pub use allowed::{HostNet, allowed};
pub use datagrams::{Family, Kind};

use super::{
    EdgeConfig, Effect,
    ipv6::{HEADER as HEADER_V6, Side},
};

mod allowed;
mod datagrams;
mod guest;
mod streams;
#[cfg(test)]
mod tests;

/// Why a connection upstream did not come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// The other side refused.
    Refused,
    /// No way leads there, or nobody answered.
    Unreachable,
    /// This host has no descriptors left; the guest may try again.
    Busy,
}

/// What sockets shall do. A stream's id is dead after `Close`, `Failed` or `Gone`, a socket's after `Shut`.
#[derive(Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Connect a stream.
    Connect {
        /// New.
        id: u64,
        /// Where to.
        to: SocketAddr,
        /// Bytes that may be read from it; [`Upstream::Room`] adds to them.
        room: usize,
    },
    /// Write these bytes, and say so with [`Heard::Sent`].
    Send {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The guest took so many bytes; as many more may be read.
    Room {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: usize,
    },
    /// The guest says no more: end that direction after what was sent.
    End {
        /// The stream.
        id: u64,
    },
    /// The stream is over.
    Close {
        /// The stream.
        id: u64,
        /// Both sides ended it; otherwise it is to be reset.
        clean: bool,
    },
    /// Open a socket for datagrams.
    Open {
        /// New.
        id: u64,
        /// For what.
        kind: Kind,
    },
    /// Send a datagram, or a whole ICMP message (`to` has port 0 then).
    Datagram {
        /// The socket.
        id: u64,
        /// Where to.
        to: SocketAddr,
        /// The payload.
        bytes: Bytes,
    },
    /// The socket is of no more use.
    Shut {
        /// The socket.
        id: u64,
    },
}

/// What sockets tell.
#[derive(Debug)]
pub enum Heard {
    /// The stream stands.
    Connected {
        /// The stream.
        id: u64,
    },
    /// It does not, and its id is free.
    Failed {
        /// The stream.
        id: u64,
        /// Why.
        because: Unconnected,
    },
    /// Bytes, at most as many as there was room for.
    Data {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// So many bytes of [`Upstream::Send`] were written.
    Sent {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: usize,
    },
    /// The other side says no more.
    End {
        /// The stream.
        id: u64,
    },
    /// The stream broke.
    Gone {
        /// The stream.
        id: u64,
    },
    /// A datagram or an ICMP message came.
    Datagram {
        /// The socket.
        id: u64,
        /// From whom.
        from: SocketAddr,
        /// The payload.
        bytes: Bytes,
    },
    /// The host cannot have such a socket, or it broke.
    Shut {
        /// The socket.
        id: u64,
    },
    /// The host's network is this.
    Host(HostNet),
}

/// Packets that were not carried, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The guest may not go there.
    pub denied: u64,
    /// More connections or sockets than a guest may have.
    pub full: u64,
    /// Fragments, protocols and messages that are not carried, and datagrams longer than the guest's wire.
    pub uncarried: u64,
}

/// What a guest has open to the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections, those that are being made included.
    pub streams: usize,
    /// Sockets for datagrams.
    pub sockets: usize,
    /// Bytes of connections that one side has sent and the other has not taken yet.
    pub waiting: usize,
}

/// What becomes of a packet.
pub(super) enum Taken {
    /// It is on its way, or dropped and counted.
    Yes,
    /// The guest is to be told this about it.
    Refused(BytesMut, Refused),
}

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The guest may not go there.
    Prohibited,
    /// The host itself has no way there.
    NoWay,
    /// Nobody answered.
    NoHost,
    /// It is of a protocol that is not carried.
    Protocol,
}

impl Refused {
    /// Says it to IPv4 (RFC 792, RFC 1812).
    pub fn v4(self) -> Icmpv4Type {
        use icmpv4::DestUnreachableHeader as Unreachable;
        Icmpv4Type::DestinationUnreachable(match self {
            Refused::Prohibited => Unreachable::FilterProhibited,
            Refused::NoWay => Unreachable::Network,
            Refused::NoHost => Unreachable::Host,
            Refused::Protocol => Unreachable::Protocol,
        })
    }

    /// Says it to IPv6 (RFC 4443, 3.1 and 3.4).
    pub fn v6(self) -> Icmpv6Type {
        use icmpv6::{DestUnreachableCode as Unreachable, ParameterProblemCode, ParameterProblemHeader};
        Icmpv6Type::DestinationUnreachable(match self {
            Refused::Prohibited => Unreachable::Prohibited,
            Refused::NoWay => Unreachable::NoRoute,
            Refused::NoHost => Unreachable::Address,
            Refused::Protocol => {
                let code = ParameterProblemCode::UnrecognizedNextHeader;
                // The byte of the header that names it.
                return Icmpv6Type::ParameterProblem(ParameterProblemHeader { code, pointer: 6 });
            }
        })
    }
}

/// What matters of a valid packet on its way out.
struct Head {
    to: IpAddr,
    protocol: IpNumber,
    fragmented: bool,
    /// Where its payload begins.
    payload: usize,
}

impl Head {
    fn of(packet: &[u8]) -> Option<Head> {
        if packet.first()? >> 4 == 6 {
            let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
            let protocol = header.next_header();
            let fragmented = protocol == IpNumber::IPV6_FRAGMENTATION_HEADER;
            let to = IpAddr::V6(header.destination_addr());
            return Some(Head { to, protocol, fragmented, payload: HEADER_V6 });
        }
        let parsed = Ipv4Slice::from_slice(packet).ok()?;
        let payload = parsed.payload();
        Some(Head {
            to: IpAddr::V4(parsed.header().destination_addr()),
            protocol: payload.ip_number,
            fragmented: payload.fragmented,
            payload: packet.len() - payload.payload.len(),
        })
    }
}

/// See the head of this file.
pub(super) struct Egress {
    mode: Mode,
    host: Option<HostNet>,
    streams: streams::Streams,
    datagrams: datagrams::Datagrams,
    losses: Losses,
}

impl Egress {
    pub fn new(config: &EdgeConfig, now: Instant) -> Egress {
        Egress {
            mode: config.egress,
            host: config.host.clone(),
            streams: streams::Streams::new(config, now),
            datagrams: datagrams::Datagrams::new(config),
            losses: Losses::default(),
        }
    }

    /// An IPv4 address in IPv6's clothes is none of a packet (RFC 6890): sockets would take off the clothes.
    fn may_reach(&self, address: IpAddr) -> bool {
        address.to_canonical() == address && allowed(self.mode, self.host.as_ref(), address)
    }

    /// Takes a valid packet of the guest that leaves its session; [`Egress::settle`] follows.
    pub fn packet(&mut self, packet: BytesMut, now: Instant, to: &mut Vec<Effect>) -> Taken {
        let Some(head) = Head::of(&packet) else {
            self.losses.uncarried += 1;
            return Taken::Yes;
        };
        if !self.may_reach(head.to) {
            self.losses.denied += 1;
            return Taken::Refused(packet, Refused::Prohibited);
        }
        if !allowed::has_way(self.host.as_ref(), head.to) {
            return Taken::Refused(packet, Refused::NoWay);
        }
        let payload = &packet[head.payload..];
        let carried = match head.protocol {
            _ if head.fragmented => None,
            IpNumber::TCP => {
                self.stream(packet, now, to);
                return Taken::Yes;
            }
            IpNumber::UDP => self.udp(payload, head.to, now, to),
            IpNumber::ICMP if head.to.is_ipv4() => self.echo(payload, head.to, now, to),
            IpNumber::IPV6_ICMP if head.to.is_ipv6() => self.echo(payload, head.to, now, to),
            _ => {
                self.losses.uncarried += 1;
                return Taken::Refused(packet, Refused::Protocol);
            }
        };
        if carried.is_none() {
            self.losses.uncarried += 1;
        }
        Taken::Yes
    }

    /// Lets connections do what follows from all that happened to them.
    pub fn settle(&mut self, now: Instant, to: &mut Vec<Effect>) {
        self.streams.settle(now, to);
    }

    /// Takes a TCP packet of the guest, also one to a service of the gateway; [`Egress::settle`] follows.
    pub fn stream(&mut self, packet: BytesMut, now: Instant, to: &mut Vec<Effect>) {
        let carried = self.streams.receive(packet, now, to);
        self.losses.full += u64::from(!carried);
    }

    fn udp(&mut self, udp: &[u8], to: IpAddr, now: Instant, effects: &mut Vec<Effect>) -> Option<()> {
        let udp = UdpSlice::from_slice(udp).ok()?;
        let target = SocketAddr::new(to, udp.destination_port());
        if target.port() == 0 || udp.source_port() == 0 {
            return None;
        }
        let kind = Kind::Udp(Family::of(to), udp.source_port());
        let sent = self.datagrams.send(kind, target, udp.payload(), now, effects);
        self.losses.full += u64::from(!sent);
        Some(())
    }

    fn echo(&mut self, icmp: &[u8], to: IpAddr, now: Instant, effects: &mut Vec<Effect>) -> Option<()> {
        let header = match to {
            IpAddr::V4(_) => match Icmpv4Slice::from_slice(icmp).ok()?.icmp_type() {
                Icmpv4Type::EchoRequest(header) => header,
                _ => return None,
            },
            IpAddr::V6(_) => match Icmpv6Slice::from_slice(icmp).ok()?.icmp_type() {
                Icmpv6Type::EchoRequest(header) => header,
                _ => return None,
            },
        };
        let (kind, target) = (Kind::Echo(Family::of(to), header.id), SocketAddr::new(to, 0));
        let sent = self.datagrams.send(kind, target, icmp, now, effects);
        self.losses.full += u64::from(!sent);
        Some(())
    }

    /// Takes what the sockets tell; [`Egress::settle`] follows. Returns a packet of the guest and what it is to be told about it.
    pub fn heard(&mut self, heard: Heard, now: Instant, to: &mut Vec<Effect>) -> Option<(BytesMut, Refused)> {
        match heard {
            Heard::Host(host) => self.host = Some(host),
            Heard::Failed { id, because } => {
                self.losses.full += u64::from(because == Unconnected::Busy);
                return self.streams.failed(id, because, now, to);
            }
            Heard::Datagram { id, from, bytes } => {
                if !self.may_reach(from.ip()) || !self.datagrams.deliver(id, (from, &bytes), now, to) {
                    self.losses.uncarried += 1;
                }
            }
            Heard::Shut { id } => self.datagrams.shut(id),
            Heard::Connected { id } => self.streams.connected(id, now),
            Heard::Data { id, bytes } => self.streams.data(id, &bytes, now),
            Heard::Sent { id, bytes } => self.streams.sent(id, bytes),
            Heard::End { id } => self.streams.end(id),
            Heard::Gone { id } => self.streams.gone(id),
        }
        None
    }

    /// Lets time pass; [`Egress::settle`] follows.
    pub fn tick(&mut self, now: Instant, to: &mut Vec<Effect>) {
        self.streams.tick(now);
        self.datagrams.tick(now, to);
    }

    /// Tells when [`Egress::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.streams.deadline(), self.datagrams.deadline()].into_iter().flatten().min()
    }

    /// Counts what is open.
    pub fn held(&self) -> Held {
        let (streams, sockets) = (self.streams.count(), self.datagrams.count());
        Held { streams, sockets, waiting: self.streams.waiting() }
    }

    /// Tells what was not carried so far.
    pub fn losses(&self) -> Losses {
        self.losses
    }
}
