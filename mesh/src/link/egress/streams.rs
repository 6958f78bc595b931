//! TCP of a guest to the outside: its end is smoltcp's, one small interface for each connection, found by
//! our own table; the other end is a socket of the host. Each direction has as many bytes under way as its
//! buffer holds, so a slow side shows in the other one's window.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use etherparse::TcpSlice;
use smoltcp::{
    socket::tcp::{self, State},
    time::Duration as SmolDuration,
};

use super::{
    EdgeConfig, Effect, Head, Refused, Unconnected, Upstream,
    guest::{Guest, Reset},
};
use crate::link::tcp::{Device, Tcp, Timers, seed, smol};

/// Connections of one guest at once, those that are being made included.
const MAX_FLOWS: usize = 4096;
/// Those that are being made, on either side. One more takes the place of the one that has waited longest: a guest that
/// looks for what answers nobody still reaches what answers.
const MAX_ASKED: usize = 512;
/// Buffers (to the guest, from the guest) of a connection, by how many there are already: a few get room
/// for a long way, many stay below [`MOST_BYTES`] altogether, and what nobody writes to is no memory yet.
const BUFFERS: [(usize, usize, usize); 3] =
    [(64, 256 * 1024, 64 * 1024), (256, 64 * 1024, 16 * 1024), (MAX_FLOWS, 8 * 1024, 4 * 1024)];
/// What all connections of a guest cost its shim at most. What a connection has from the guest may be there
/// twice: in its buffer, and on its way to the socket.
const MOST_BYTES: usize = 128 << 20;
const _: () = assert!(costs() <= MOST_BYTES);
/// A guest that asked for a connection acknowledges it in milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// RFC 5382: a connection on which nothing happens stays for two hours and four minutes.
const IDLE_FOR: Duration = Duration::from_secs(7440);
/// How often idle connections are looked for, in one go.
const SWEEP: Duration = Duration::from_secs(600);
/// Once the outside has ended, a guest that takes nothing for so long is given up.
const ENDING: SmolDuration = SmolDuration::from_secs(180);

/// Adds up what [`BUFFERS`] allows, with what keeps them. Tables and tasks are counted as twice that.
const fn costs() -> usize {
    let [few, some, many] = BUFFERS;
    let each = 3 * (size_of::<Flow>() + size_of::<tcp::Socket<'static>>());
    few.0 * (few.1 + 2 * few.2 + each)
        + (some.0 - few.0) * (some.1 + 2 * some.2 + each)
        + (many.0 - some.0) * (many.1 + 2 * many.2 + each)
}

/// One connection as the guest names it: its port and the other end.
type Key = (u16, SocketAddr);

/// All connections of one guest to the outside.
pub(super) struct Streams {
    start: Instant,
    guest: Guest,
    seed: u64,
    wire: Device,
    ids: BTreeMap<Key, u64>,
    asked: BTreeMap<u64, Asked>,
    /// Flows whose guest has not acknowledged that they stand.
    half_open: BTreeSet<u64>,
    flows: BTreeMap<u64, Flow>,
    timers: Timers,
    sweep: Option<Instant>,
    next: u64,
    /// Those that something happened to: each is looked at once when all that came together was taken.
    touched: Vec<u64>,
}

/// A connection whose SYN is held until the outside has answered.
struct Asked {
    key: Key,
    syn: BytesMut,
    buffers: (usize, usize),
}

struct Flow {
    key: Key,
    tcp: Tcp,
    open: bool,
    since: Instant,
    used: Instant,
    timer: Option<Instant>,
    guest_ended: bool,
    outside_ended: bool,
    /// The outside is gone and needs no word any more.
    gone: bool,
    touched: bool,
}

impl Streams {
    pub fn new(config: &EdgeConfig, now: Instant) -> Streams {
        Streams {
            start: now,
            guest: Guest::new(config),
            seed: config.seed,
            wire: Device::new(config.guest_mac, config.mtu),
            ids: BTreeMap::new(),
            asked: BTreeMap::new(),
            half_open: BTreeSet::new(),
            flows: BTreeMap::new(),
            timers: Timers::default(),
            sweep: None,
            next: 0,
            touched: Vec::new(),
        }
    }

    /// Takes a packet of the guest; [`Streams::settle`] follows. Returns false when the guest has too many connections,
    /// or asks for so many at once that another of them is given up.
    pub fn receive(&mut self, packet: BytesMut, now: Instant, to: &mut Vec<Effect>) -> bool {
        let Some((key, segment)) = Segment::of(&packet) else { return true };
        // The packets before it may have ended the connection of these ports, for another one to begin.
        let touched = |id: &u64| self.flows.get(id).is_some_and(|flow| flow.touched);
        if segment.opens()
            && let Some(id) = self.ids.get(&key).copied().filter(touched)
        {
            self.poll(id, now, to);
        }
        if let Some(&id) = self.ids.get(&key) {
            if let Some(flow) = self.touch(id) {
                flow.used = now;
                flow.tcp.receive(packet);
            }
            // A SYN that is said again while it is held changes nothing.
            return true;
        }
        if !segment.opens() {
            if let Some(reset) = segment.reset().filter(|_| !segment.reset) {
                self.answer(key, reset, to);
            }
            return true;
        }
        let room = self.asked.len() + self.half_open.len() < MAX_ASKED;
        if !room {
            self.give_up_longest(now, to);
        }
        let count = self.ids.len();
        let Some(&(_, down, up)) = BUFFERS.iter().find(|(most, ..)| count < *most) else { return false };
        let id = self.next;
        self.next += 1;
        self.ids.insert(key, id);
        self.asked.insert(id, Asked { key, syn: packet, buffers: (down, up) });
        to.push(Effect::Upstream(Upstream::Connect { id, to: key.1, room: down }));
        room
    }

    /// Lets connections do what follows from all that happened to them since the last time: packets that came together
    /// are answered by one acknowledgment.
    pub fn settle(&mut self, now: Instant, to: &mut Vec<Effect>) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.drain(..).for_each(|id| self.poll(id, now, to));
        // Its memory is used again.
        self.touched = touched;
    }

    fn touch(&mut self, id: u64) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(&id)?;
        if !std::mem::replace(&mut flow.touched, true) {
            self.touched.push(id);
        }
        Some(flow)
    }

    /// Gives up the connection that has waited longest to be made: what answers at all does so before many
    /// others are asked for.
    fn give_up_longest(&mut self, now: Instant, to: &mut Vec<Effect>) {
        let asked = self.asked.first_key_value().map(|(&id, _)| id);
        let half_open = self.half_open.first().copied();
        let Some(id) = asked.into_iter().chain(half_open).min() else { return };
        if let Some(asked) = self.asked.remove(&id) {
            self.ids.remove(&asked.key);
            to.push(Effect::Upstream(Upstream::Close { id, clean: false }));
        } else if let Some(flow) = self.flows.get_mut(&id) {
            flow.tcp.socket().abort();
            self.poll(id, now, to);
        }
    }

    /// Lets the guest know that the outside answered: its SYN is heard now.
    pub fn connected(&mut self, id: u64, now: Instant) {
        let Some(asked) = self.asked.remove(&id) else { return };
        let (_, remote) = asked.key;
        let at = smol(self.start, now);
        let mut tcp = Tcp::new(remote.ip(), seed(self.seed, id), asked.buffers, at, &mut self.wire);
        // A port of 0 cannot be listened on, and never came this far: `Segment::of` refuses it.
        let _ = tcp.socket().listen((remote.ip(), remote.port()));
        tcp.receive(asked.syn);
        let flow = Flow {
            key: asked.key,
            tcp,
            open: false,
            since: now,
            used: now,
            timer: None,
            guest_ended: false,
            outside_ended: false,
            gone: false,
            touched: false,
        };
        self.flows.insert(id, flow);
        self.half_open.insert(id);
        self.sweep.get_or_insert(now + SWEEP);
        self.touch(id);
    }

    /// Lets the guest know that there is no connection. Returns its packet with what to say about it.
    pub fn failed(
        &mut self,
        id: u64,
        because: Unconnected,
        now: Instant,
        to: &mut Vec<Effect>,
    ) -> Option<(BytesMut, Refused)> {
        let asked = self.asked.remove(&id)?;
        self.ids.remove(&asked.key);
        match because {
            Unconnected::Refused => {
                if let Some(reset) = Segment::of(&asked.syn).and_then(|(_, segment)| segment.reset()) {
                    self.answer(asked.key, reset, to);
                }
                None
            }
            Unconnected::Unreachable => Some((asked.syn, Refused::NoHost)),
            // Its SYN is said again, and finds the room of the one that has waited longest.
            Unconnected::Busy => {
                self.give_up_longest(now, to);
                None
            }
        }
    }

    /// Takes bytes of the outside. More than the room that was given resets the connection.
    pub fn data(&mut self, id: u64, bytes: &[u8], now: Instant) {
        if let Some(flow) = self.touch(id) {
            flow.used = now;
            flow.tcp.send(bytes);
        }
    }

    /// Lets as many more bytes of the guest come.
    pub fn sent(&mut self, id: u64, bytes: usize) {
        if let Some(flow) = self.touch(id) {
            flow.tcp.room(bytes);
        }
    }

    /// Ends the direction towards the guest, after what was sent before.
    pub fn end(&mut self, id: u64) {
        let Some(flow) = self.touch(id) else { return };
        flow.outside_ended = true;
        let socket = flow.tcp.socket();
        socket.close();
        if flow.guest_ended {
            socket.set_timeout(Some(ENDING));
        }
    }

    /// Resets the guest's connection, because the outside one broke.
    pub fn gone(&mut self, id: u64) {
        if let Some(flow) = self.touch(id) {
            flow.gone = true;
            flow.tcp.socket().abort();
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        for id in self.timers.due(now) {
            self.touch(id);
        }
        if self.sweep.is_some_and(|at| at <= now) {
            let idle = |flow: &Flow| now.saturating_duration_since(flow.used) >= IDLE_FOR;
            let ids: Vec<u64> = self.flows.iter().filter(|(_, flow)| idle(flow)).map(|(&id, _)| id).collect();
            for id in ids {
                if let Some(flow) = self.touch(id) {
                    flow.tcp.socket().abort();
                }
            }
            self.sweep = (!self.flows.is_empty()).then(|| now + SWEEP);
        }
    }

    /// Tells when [`Streams::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.timers.first(), self.sweep].into_iter().flatten().min()
    }

    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// Counts the bytes that one side has sent and the other has not taken yet.
    pub fn waiting(&self) -> usize {
        self.flows.values().map(|flow| flow.tcp.waiting()).sum()
    }

    /// Lets one connection take what the wire holds for it, send what is due and report what changed.
    fn poll(&mut self, id: u64, now: Instant, to: &mut Vec<Effect>) {
        let at = smol(self.start, now);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.touched = false;
        flow.tcp.poll(at, &mut self.wire);
        let credit = flow.tcp.credit();
        let lives = flow.observe(id, now, to);
        if lives && (flow.tcp.credit() != credit || flow.late(now)) {
            // What was read opens the window that the guest may be waiting for.
            flow.tcp.poll(at, &mut self.wire);
        }
        to.extend(self.wire.outgoing.drain(..).map(Effect::ToGuest));
        if !lives || flow.open {
            self.half_open.remove(&id);
        }
        if !lives {
            self.timers.set(id, &mut flow.timer, None);
            self.ids.remove(&flow.key);
            self.flows.remove(&id);
            return;
        }
        let handshake = (!flow.open).then(|| flow.since + HANDSHAKE);
        let due = [flow.tcp.due(at, now), handshake].into_iter().flatten().min();
        self.timers.set(id, &mut flow.timer, due);
    }

    /// Answers in the name of the outside.
    fn answer(&self, (port, remote): Key, reset: Reset, to: &mut Vec<Effect>) {
        to.extend(self.guest.reset(remote, port, reset).map(Effect::ToGuest));
    }
}

impl Flow {
    fn late(&self, now: Instant) -> bool {
        !self.open && now.saturating_duration_since(self.since) >= HANDSHAKE
    }

    /// Reports what the connection did since it was last looked at. Returns false when it is over.
    fn observe(&mut self, id: u64, now: Instant, to: &mut Vec<Effect>) -> bool {
        let late = self.late(now);
        let state = self.tcp.socket().state();
        if late || state == State::Listen {
            // It never shook hands, or its SYN was none that a kernel would take.
            to.push(Effect::Upstream(Upstream::Close { id, clean: false }));
            return false;
        }
        self.open |= !matches!(state, State::SynReceived | State::Closed);
        while !self.gone
            && let Some(bytes) = self.tcp.heard()
        {
            to.push(Effect::Upstream(Upstream::Send { id, bytes }));
        }
        let freed = self.tcp.freed();
        if freed > 0 {
            to.push(Effect::Upstream(Upstream::Room { id, bytes: freed }));
        }
        if !self.guest_ended && self.tcp.guest_ended() {
            self.guest_ended = true;
            to.push(Effect::Upstream(Upstream::End { id }));
            if self.outside_ended {
                self.tcp.socket().set_timeout(Some(ENDING));
            }
        }
        let over = match state {
            State::Closed => true,
            State::TimeWait => self.guest_ended,
            _ => false,
        };
        if over && !self.gone {
            let clean = self.guest_ended && self.outside_ended;
            to.push(Effect::Upstream(Upstream::Close { id, clean }));
        }
        !over
    }
}

/// What matters of a segment before there is a connection.
struct Segment {
    syn: bool,
    ack: bool,
    reset: bool,
    fin: bool,
    sequence: u32,
    acknowledges: u32,
    payload: usize,
}

impl Segment {
    /// Reads a valid packet without fragments; `None` when what it carries is no TCP.
    fn of(packet: &[u8]) -> Option<(Key, Segment)> {
        let head = Head::of(packet)?;
        let tcp = TcpSlice::from_slice(packet.get(head.payload..)?).ok()?;
        let remote = SocketAddr::new(head.to, tcp.destination_port());
        if remote.port() == 0 || tcp.source_port() == 0 {
            return None;
        }
        let segment = Segment {
            syn: tcp.syn(),
            ack: tcp.ack(),
            reset: tcp.rst(),
            fin: tcp.fin(),
            sequence: tcp.sequence_number(),
            acknowledges: tcp.acknowledgment_number(),
            payload: tcp.payload().len(),
        };
        Some(((tcp.source_port(), remote), segment))
    }

    fn opens(&self) -> bool {
        self.syn && !self.ack && !self.reset && !self.fin
    }

    fn reset(&self) -> Option<Reset> {
        if self.ack {
            return Some(Reset { sequence: self.acknowledges, acknowledges: None });
        }
        let length = self.payload + usize::from(self.syn) + usize::from(self.fin);
        let next = self.sequence.wrapping_add(u32::try_from(length).ok()?);
        Some(Reset { sequence: 0, acknowledges: Some(next) })
    }
}
