//! The edge of one machine's network: the only thing its NIC is wired to. It is gateway, DHCP
//! server and name server to the guest, and it lets out what the plan says the guest may send.
//! Pure: frames, packets and bytes in, effects out; `now` is handed in, no socket is owned.
//!
//! ```text
//!            Frames ->           +------+  -> Packet, DnsQuery        (to the agent)
//!   guest                        | Edge |  <- Packet, DnsAnswer
//!            <- ToGuest          +------+  <- Dial, DialData, ..  -> Dialed, DialData, ..
//! ```
//!
//! - Nothing is learned and nothing flooded. The plan knows the guest's MAC and address, and a
//!   frame that claims others is dropped and counted.
//! - Every address of the session answers ARP with the gateway's MAC, so guests are routed, not
//!   bridged; what does not belong to the session goes out by [`egress`], as far as it may, or is refused
//!   with an ICMP error.
//! - IPv6 is the same: the guest makes itself the address that the plan expects, and every other one of its session is
//!   at the gateway.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use proto::{session::Prefix, time::Timestamp, topology::Egress as Mode};

pub use dial::{DialError, PORTS, WINDOW};
pub use edge::Edge;
pub use egress::{Family, Heard, Held, HostNet, Kind, Losses, Unconnected, Upstream, allowed};
pub use frame::{GATEWAY_MAC, codec, gateway};
pub use port::{BY_TCP, Carrier, PortCodec, PortMessage, WIRE_BYTES};
pub use time::Ask;

mod dhcp;
mod dial;
mod edge;
mod egress;
#[cfg(test)]
mod fixture;
mod frame;
mod ipv6;
mod port;
pub mod split;
mod tcp;
mod time;

/// What the plan knows of one machine's network.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// The guest's MAC.
    pub guest_mac: [u8; 6],
    /// The guest's address.
    pub guest_address: Ipv4Addr,
    /// The session's network; its first usable address is the gateway.
    pub subnet: Prefix,
    /// The session's IPv6 network, a /64; the guest's address in it follows from its MAC.
    pub subnet_v6: Ipv6Addr,
    /// The guest's host name: the machine's name.
    pub hostname: String,
    /// Its domain: `SESSION.mesh.internal`.
    pub domain: String,
    /// Domains in which short names are looked up, `domain` among them.
    pub search: Vec<String>,
    /// The largest packet: `limits::GUEST_MTU`.
    pub mtu: u16,
    /// Random: initial sequence numbers and the first port of dials come from it.
    pub seed: u64,
    /// Where the guest may go outside of its session.
    pub egress: Mode,
    /// The host's own network, which it may not reach; nothing is reached while that is unknown.
    pub host: Option<HostNet>,
}

/// What happens to an edge.
#[derive(Debug)]
pub enum Event {
    /// The guest sent these Ethernet frames (without QEMU's length). Those that come together are answered together.
    Frames(Vec<BytesMut>),
    /// The agent has a packet for the guest.
    Packet(Bytes),
    /// The agent answers a question. Longer than `limits::GUEST_DNS_BYTES` is dropped: truncate it before.
    DnsAnswer {
        /// From [`Effect::DnsQuery`].
        id: u64,
        /// The DNS message.
        message: Bytes,
    },
    /// Connect to a TCP port of the guest. `id` is new.
    Dial {
        /// Names the connection from now on.
        id: u64,
        /// The port.
        port: u16,
    },
    /// Bytes for the guest, at most as many as there is room: [`WINDOW`], plus every
    /// [`Effect::DialRoom`], minus what was sent.
    DialData {
        /// The connection.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// So many bytes of [`Effect::DialData`] have been passed on.
    DialRoom {
        /// The connection.
        id: u64,
        /// The bytes.
        bytes: usize,
    },
    /// No more bytes for the guest on this connection.
    DialEnd {
        /// The connection.
        id: u64,
    },
    /// Whoever dialled has gone entirely and hears nothing more. The guest gets what was sent before, and
    /// some time to end the connection.
    DialLeft {
        /// The connection.
        id: u64,
    },
    /// Give the connection, or the attempt, up. [`Effect::DialGone`] confirms it, unless it is over already.
    DialReset {
        /// The connection.
        id: u64,
    },
    /// The time, for [`Effect::Time`].
    Time {
        /// From the effect.
        ask: Ask,
        /// What this host's clock says.
        now: Timestamp,
    },
    /// A socket to the outside has something to tell.
    Heard(Heard),
    /// [`Edge::deadline`] has come.
    Tick,
}

/// What an edge wants done. Every dial ends with one [`Effect::DialFailed`] or one [`Effect::DialGone`],
/// whoever ended it, and no effect names it afterwards.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this Ethernet frame to the guest (without QEMU's length).
    ToGuest(Bytes),
    /// Give this packet to the agent.
    Packet(Bytes),
    /// Ask the agent this.
    DnsQuery {
        /// To be given back in [`Event::DnsAnswer`].
        id: u64,
        /// The DNS message.
        message: Bytes,
    },
    /// The connection stands; [`WINDOW`] bytes may be sent.
    Dialed {
        /// The connection.
        id: u64,
    },
    /// The connection did not come to be; the id is free.
    DialFailed {
        /// The connection.
        id: u64,
        /// Why.
        because: DialError,
    },
    /// Bytes from the guest.
    DialData {
        /// The connection.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The guest took so many bytes; as many more may be sent.
    DialRoom {
        /// The connection.
        id: u64,
        /// The bytes.
        bytes: usize,
    },
    /// The guest sends no more bytes on this connection.
    DialEnd {
        /// The connection.
        id: u64,
    },
    /// The connection is over, or the attempt was given up; the id is free.
    DialGone {
        /// The connection.
        id: u64,
        /// Whether both sides ended it, as opposed to a reset or a silent guest.
        clean: bool,
    },
    /// Something for a socket to the outside.
    Upstream(Upstream),
    /// The guest asks what time it is.
    Time {
        /// To be given back in [`Event::Time`].
        ask: Ask,
    },
}

/// What a guest sent to other machines of its session, and got of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that were given to the agent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that were given to the guest.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// Frames and packets that went nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// The guest used a MAC or an address that is not its own.
    pub spoofed: u64,
    /// The bytes are no valid frame or packet.
    pub malformed: u64,
    /// Neither IP nor ARP, or for everybody: VLANs, multicast.
    pub ignored: u64,
    /// The guest was told so by ICMP: outside of the session, too long, no hop left.
    pub refused: u64,
    /// From the agent, but not for this guest.
    pub misrouted: u64,
    /// DNS questions beyond what may be open, and answers that nobody waits for.
    pub dns: u64,
}
