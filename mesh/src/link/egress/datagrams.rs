//! UDP and pings of a guest: one socket of the host for each port, or each ping's number, whoever it talks
//! to (RFC 4787, endpoint-independent mapping), until it has sent nothing for a while. Answers are taken from
//! addresses alone that it has sent to (RFC 4787, REQ-8, address-dependent filtering).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use bytes::Bytes;
use etherparse::{IcmpEchoHeader, Icmpv4Slice, Icmpv4Type};

use super::{Effect, Towards, Upstream};

/// Sockets of one guest at once.
const MAX_SOCKETS: usize = 512;
/// Addresses that all of them together may hear from: a program that talks to thousands at once hears those
/// that it spoke to last.
const MAX_PARTNERS: usize = 8192;
/// RFC 4787 asks for two minutes at least and recommends five.
const UDP_FOR: Duration = Duration::from_secs(300);
/// Nobody waits longer for a ping.
const ECHO_FOR: Duration = Duration::from_secs(30);

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// UDP from this port of the guest.
    Udp(u16),
    /// Echo requests with this identifier.
    Echo(u16),
}

/// All sockets for datagrams of one guest.
pub(super) struct Datagrams {
    towards: Towards,
    /// The longest payload that the guest's wire takes.
    longest: usize,
    ids: BTreeMap<Kind, u64>,
    sockets: BTreeMap<u64, Socket>,
    /// When each socket is looked at next; a socket that sent meanwhile is left alone.
    due: BTreeSet<(Instant, u64)>,
    next: u64,
    /// The sockets and addresses in the order in which they were sent to.
    order: BTreeMap<u64, (u64, Ipv4Addr)>,
    sends: u64,
}

struct Socket {
    kind: Kind,
    used: Instant,
    /// When each address was sent to, and the number of that in the order.
    partners: BTreeMap<Ipv4Addr, (Instant, u64)>,
}

impl Kind {
    fn lasts(self) -> Duration {
        match self {
            Kind::Udp(_) => UDP_FOR,
            Kind::Echo(_) => ECHO_FOR,
        }
    }
}

impl Datagrams {
    pub fn new(mtu: u16, towards: Towards) -> Datagrams {
        Datagrams {
            towards,
            longest: usize::from(mtu).saturating_sub(28),
            ids: BTreeMap::new(),
            sockets: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 0,
            order: BTreeMap::new(),
            sends: 0,
        }
    }

    /// Sends a datagram. Returns false when the guest has too many sockets.
    pub fn send(
        &mut self,
        kind: Kind,
        to: SocketAddrV4,
        bytes: &[u8],
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let id = match self.ids.get(&kind) {
            Some(&id) => id,
            None if self.sockets.len() >= MAX_SOCKETS => return false,
            None => {
                let id = self.next;
                self.next += 1;
                self.ids.insert(kind, id);
                self.sockets.insert(id, Socket { kind, used: now, partners: BTreeMap::new() });
                self.due.insert((now + kind.lasts(), id));
                effects.push(Effect::Upstream(Upstream::Open { id, kind }));
                id
            }
        };
        self.sent(id, *to.ip(), now);
        let bytes = Bytes::copy_from_slice(bytes);
        effects.push(Effect::Upstream(Upstream::Datagram { id, to, bytes }));
        true
    }

    /// Takes down whom a socket sends to.
    fn sent(&mut self, id: u64, to: Ipv4Addr, now: Instant) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.used = now;
        if let Some((_, before)) = socket.partners.insert(to, (now, self.sends)) {
            self.order.remove(&before);
        }
        self.order.insert(self.sends, (id, to));
        self.sends += 1;
        if self.order.len() > MAX_PARTNERS
            && let Some((_, (id, longest_ago))) = self.order.pop_first()
            && let Some(socket) = self.sockets.get_mut(&id)
        {
            socket.partners.remove(&longest_ago);
        }
    }

    /// Gives the guest what came for one of its sockets. Returns false when that is not possible, or when it
    /// is from somebody whom the guest has not sent to lately.
    pub fn deliver(
        &self,
        id: u64,
        (from, bytes): (SocketAddrV4, &[u8]),
        now: Instant,
        to: &mut Vec<Effect>,
    ) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return false };
        let awaited = |&(sent, _): &(Instant, u64)| now < sent + socket.kind.lasts();
        if !socket.partners.get(from.ip()).is_some_and(awaited) {
            return false;
        }
        let towards = Towards { from: *from.ip(), ..self.towards };
        let frame = match socket.kind {
            _ if bytes.len() > self.longest => None,
            Kind::Udp(port) => towards.udp((from.port(), port), bytes),
            Kind::Echo(ident) => match Icmpv4Slice::from_slice(bytes) {
                Ok(icmp) => match icmp.icmp_type() {
                    Icmpv4Type::EchoReply(header) => {
                        towards.echo_reply(IcmpEchoHeader { id: ident, ..header }, icmp.payload())
                    }
                    _ => None,
                },
                Err(_) => None,
            },
        };
        let told = frame.is_some();
        to.extend(frame.map(Effect::ToGuest));
        told
    }

    /// Forgets a socket that broke; the guest's next datagram opens another.
    pub fn shut(&mut self, id: u64) {
        if let Some(socket) = self.sockets.remove(&id) {
            self.ids.remove(&socket.kind);
            for (_, number) in socket.partners.values() {
                self.order.remove(number);
            }
        }
    }

    pub fn tick(&mut self, now: Instant, to: &mut Vec<Effect>) {
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            let Some(socket) = self.sockets.get(&id) else { continue };
            let until = socket.used + socket.kind.lasts();
            if until > now {
                self.due.insert((until, id));
            } else {
                self.shut(id);
                to.push(Effect::Upstream(Upstream::Shut { id }));
            }
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    pub fn count(&self) -> usize {
        self.sockets.len()
    }
}
