//! UDP and pings of a guest: one socket of the host for each port, or each ping's number, whoever it talks
//! to (RFC 4787, endpoint-independent mapping), until it has sent nothing for a while. Answers are taken from
//! addresses alone that it has sent to (RFC 4787, REQ-8, address-dependent filtering).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{EdgeConfig, Effect, Upstream, guest::Guest};

/// Sockets of one guest at once.
const MAX_SOCKETS: usize = 512;
/// Addresses that all of them together may hear from: a program that talks to thousands at once hears those
/// that it spoke to last.
const MAX_PARTNERS: usize = 8192;
/// RFC 4787 asks for two minutes at least and recommends five.
const UDP_FOR: Duration = Duration::from_secs(300);
/// Nobody waits longer for a ping.
const ECHO_FOR: Duration = Duration::from_secs(30);

/// Which of the two protocols: a guest has an address of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Tells which one an address is of.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// UDP from this port of the guest.
    Udp(Family, u16),
    /// Echo requests with this identifier.
    Echo(Family, u16),
}

/// All sockets for datagrams of one guest.
pub(super) struct Datagrams {
    guest: Guest,
    /// The longest packet that the guest's wire takes.
    longest: usize,
    ids: BTreeMap<Kind, u64>,
    sockets: BTreeMap<u64, Socket>,
    /// When each socket is looked at next; a socket that sent meanwhile is left alone.
    due: BTreeSet<(Instant, u64)>,
    next: u64,
    /// The sockets and addresses in the order in which they were sent to.
    order: BTreeMap<u64, (u64, IpAddr)>,
    sends: u64,
}

struct Socket {
    kind: Kind,
    used: Instant,
    /// When each address was sent to, and the number of that in the order.
    partners: BTreeMap<IpAddr, (Instant, u64)>,
}

impl Kind {
    fn lasts(self) -> Duration {
        match self {
            Kind::Udp(..) => UDP_FOR,
            Kind::Echo(..) => ECHO_FOR,
        }
    }

    /// Gives the bytes before a payload of the guest's wire.
    fn headers(self) -> usize {
        match self {
            Kind::Udp(Family::V4, _) => 28,
            Kind::Udp(Family::V6, _) => 48,
            // Of a ping the message is the payload.
            Kind::Echo(Family::V4, _) => 20,
            Kind::Echo(Family::V6, _) => 40,
        }
    }
}

impl Datagrams {
    pub fn new(config: &EdgeConfig) -> Datagrams {
        Datagrams {
            guest: Guest::new(config),
            longest: config.mtu.into(),
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
        to: SocketAddr,
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
        self.sent(id, to.ip(), now);
        let bytes = Bytes::copy_from_slice(bytes);
        effects.push(Effect::Upstream(Upstream::Datagram { id, to, bytes }));
        true
    }

    /// Takes down whom a socket sends to.
    fn sent(&mut self, id: u64, to: IpAddr, now: Instant) {
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
        (from, bytes): (SocketAddr, &[u8]),
        now: Instant,
        to: &mut Vec<Effect>,
    ) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return false };
        let awaited = |&(sent, _): &(Instant, u64)| now < sent + socket.kind.lasts();
        if !socket.partners.get(&from.ip()).is_some_and(awaited) {
            return false;
        }
        let frame = match socket.kind {
            kind if kind.headers() + bytes.len() > self.longest => None,
            Kind::Udp(_, port) => self.guest.udp(from, port, bytes),
            Kind::Echo(_, id) => self.guest.echo_reply(from.ip(), id, bytes),
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
