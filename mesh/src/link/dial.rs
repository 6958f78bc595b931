//! TCP from the gateway into the guest, by smoltcp, so that a host reaches its machine's ports
//! without root. Owns the connections that [`super::Edge`] was asked to dial; never listens.
//! Nothing here does IO: packets and bytes in, frames and effects out.
//!
//! Back pressure is credit in both directions. Whoever receives bytes says when they left its
//! hands (`DialRoom`), and only then may as many follow; each direction starts with [`WINDOW`].

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use smoltcp::{socket::tcp::State, time::Duration as SmolDuration};

use super::{
    EdgeConfig, Effect, frame,
    tcp::{Device, Nobody, Tcp, Timers, seed, smol},
};

/// Bytes that may be under way in each direction of one connection. Fills a wire with 2 ms of
/// round trip (a guest under TCG) at 60 MB/s, far more than such a guest can do.
pub const WINDOW: usize = 128 * 1024;
/// Connections into one guest at once: 32 MiB of buffers at worst.
const MAX_DIALS: usize = 128;
/// A guest on this wire answers in milliseconds; one that boots meanwhile is worth a moment.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A SYN that a booting guest did not hear is said again after this, then twice as long, and so on:
/// sooner than smoltcp's second, because readiness waits for it, but patient with a slow guest.
const REPEAT: Duration = Duration::from_millis(200);
/// A silent guest is asked whether it still lives...
const KEEP_ALIVE: SmolDuration = SmolDuration::from_secs(30);
/// ...and given up after this long, which outlasts a pause for a live move or a loaded host.
const SILENT_FOR: SmolDuration = SmolDuration::from_secs(180);
/// A caller that has left hears no answer: what it said last gets this long to be answered by an end, and
/// as long again whenever more of it arrives. Kernels wait a minute (`tcp_fin_timeout`), with less memory
/// at stake.
const LINGER: Duration = Duration::from_secs(10);
/// The dynamic ports of RFC 6335, from which connections into the guest come, and datagrams.
pub const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Why a dial did not become a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing listens on that port.
    #[error("the guest refused the connection")]
    Refused,
    /// The guest did not answer.
    #[error("the guest did not answer")]
    TimedOut,
    /// [`MAX_DIALS`] are open whose callers are still there, or the port is 0.
    #[error("no further connection into the guest can be opened")]
    Unavailable,
}

/// All connections into one guest.
pub(super) struct Dials {
    start: Instant,
    gateway: Ipv4Addr,
    guest: Ipv4Addr,
    seed: u64,
    wire: Device,
    /// Who answers what belongs to no connection.
    nobody: Nobody,
    flows: BTreeMap<u64, Flow>,
    /// Which of them a packet is for, by our port.
    ports: BTreeMap<u16, u64>,
    /// Those that something happened to: each is looked at once when all that came together was taken.
    touched: Vec<u64>,
    timers: Timers,
    next_port: u16,
    /// How often a connection was looked at.
    #[cfg(test)]
    looks: usize,
}

struct Flow {
    tcp: Tcp,
    port: u16,
    target: u16,
    since: Instant,
    /// When the attempt is made again, and how long it is waited for then.
    repeat: (Instant, Duration),
    open: bool,
    guest_ended: bool,
    we_ended: bool,
    /// When the caller was found to have gone entirely, or something of its arrived since, and what was
    /// queued then.
    left: Option<(Instant, usize)>,
    touched: bool,
    timer: Option<Instant>,
}

impl Dials {
    pub fn new(config: &EdgeConfig, now: Instant) -> Dials {
        let mut wire = Device::new(config.guest_mac, config.mtu);
        let gateway = frame::gateway(config.subnet);
        let ports = u64::from(PORTS.end() - PORTS.start()) + 1;
        Dials {
            start: now,
            gateway,
            guest: config.guest_address,
            seed: config.seed,
            nobody: Nobody::new(gateway.into(), &mut wire),
            wire,
            flows: BTreeMap::new(),
            ports: BTreeMap::new(),
            touched: Vec::new(),
            timers: Timers::default(),
            next_port: PORTS.start() + (config.seed % ports) as u16,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Starts a connection; its outcome is an effect of this or a later call. [`Dials::settle`] follows, as after all
    /// that happens to connections.
    pub fn dial(&mut self, id: u64, port: u16, now: Instant, effects: &mut Vec<Effect>) {
        let unavailable = Effect::DialFailed { id, because: DialError::Unavailable };
        if self.flows.len() >= MAX_DIALS {
            self.make_place(now, effects);
        }
        if self.flows.len() >= MAX_DIALS || self.flows.contains_key(&id) {
            return effects.push(unavailable);
        }
        let (at, own) = (smol(self.start, now), self.gateway.into());
        let mut tcp = Tcp::new(own, seed(self.seed, id), (WINDOW, WINDOW), at, &mut self.wire);
        let local = self.free_port();
        if !tcp.connect((self.guest.into(), port), (own, local)) {
            return effects.push(unavailable);
        }
        let flow = Flow {
            tcp,
            port: local,
            target: port,
            since: now,
            repeat: (now + REPEAT, REPEAT * 2),
            open: false,
            guest_ended: false,
            we_ended: false,
            left: None,
            touched: false,
            timer: None,
        };
        self.flows.insert(id, flow);
        self.ports.insert(local, id);
        self.touch(id);
    }

    /// Tries all that is unanswered again, because the guest's network has just come up.
    pub fn wake(&mut self, now: Instant) {
        for (&id, flow) in self.flows.iter_mut().filter(|(_, flow)| !flow.open) {
            flow.repeat = (now, REPEAT);
            flow.touch(id, &mut self.touched);
        }
    }

    /// Takes a valid IPv4 packet of the guest to the gateway, without fragments.
    pub fn receive(&mut self, packet: BytesMut) {
        let id = destination(&packet).and_then(|port| self.ports.get(&port));
        match id.and_then(|id| Some((*id, self.flows.get_mut(id)?))) {
            Some((id, flow)) => {
                flow.tcp.receive(packet);
                flow.touch(id, &mut self.touched);
            }
            None => self.wire.incoming.push_back(packet),
        }
    }

    /// Lets the connections do what follows from all that happened to them since the last time: packets that came
    /// together are answered by one acknowledgment.
    pub fn settle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.wire.incoming.is_empty() {
            self.nobody.poll(smol(self.start, now), &mut self.wire);
            effects.extend(self.wire.outgoing.drain(..).map(Effect::ToGuest));
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.drain(..).for_each(|id| self.look(id, now, effects));
        // Its memory is used again.
        self.touched = touched;
    }

    /// Sends bytes into a connection. More than the room that was given resets it.
    pub fn send(&mut self, id: u64, bytes: &[u8]) {
        if let Some(flow) = self.touch(id) {
            flow.tcp.send(bytes);
        }
    }

    /// Lets as many more bytes come.
    pub fn room(&mut self, id: u64, bytes: usize) {
        if let Some(flow) = self.touch(id) {
            flow.tcp.room(bytes);
        }
    }

    /// Ends the direction towards the guest, after what was sent before.
    pub fn end(&mut self, id: u64) {
        if let Some(flow) = self.touch(id) {
            flow.we_ended = true;
            flow.tcp.socket().close();
        }
    }

    /// Notes that nobody is left to hear the guest on this connection. It ends soon, whatever the guest does.
    pub fn left(&mut self, id: u64, now: Instant) {
        if let Some(flow) = self.touch(id) {
            flow.left.get_or_insert((now, flow.tcp.queued()));
        }
    }

    /// Gives up the connection whose caller left first, so that those who are there can connect.
    fn make_place(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let left = self.flows.iter().filter_map(|(&id, flow)| Some((flow.left?, id)));
        if let Some((_, id)) = left.min() {
            self.reset(id, now, effects);
        }
    }

    /// Tears a connection or an attempt down. That it is gone is the last that names it.
    pub fn reset(&mut self, id: u64, now: Instant, effects: &mut Vec<Effect>) {
        let Some(mut flow) = self.forget(id) else { return };
        flow.tcp.reset(smol(self.start, now), &mut self.wire);
        effects.extend(self.wire.outgoing.drain(..).map(Effect::ToGuest));
        effects.push(Effect::DialGone { id, clean: false });
    }

    /// Counts the connections and attempts.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// Tells how often a connection was looked at.
    #[cfg(test)]
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Tells when [`Dials::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        for id in self.timers.due(now) {
            self.touch(id);
        }
    }

    fn touch(&mut self, id: u64) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(&id)?;
        flow.touch(id, &mut self.touched);
        Some(flow)
    }

    fn forget(&mut self, id: u64) -> Option<Flow> {
        let mut flow = self.flows.remove(&id)?;
        self.ports.remove(&flow.port);
        self.timers.set(id, &mut flow.timer, None);
        Some(flow)
    }

    /// Lets a connection take what came for it and send what is due, and reports what changed.
    fn look(&mut self, id: u64, now: Instant, effects: &mut Vec<Effect>) {
        self.repeat(id, now);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        #[cfg(test)]
        {
            self.looks += 1;
        }
        flow.touched = false;
        flow.give_up_left(now);
        let at = smol(self.start, now);
        flow.tcp.poll(at, &mut self.wire);
        let credit = flow.tcp.credit();
        let lives = flow.observe(id, now, effects);
        if lives && flow.tcp.credit() != credit {
            // What was read opens the window that the guest may be waiting for.
            flow.tcp.poll(at, &mut self.wire);
        }
        effects.extend(self.wire.outgoing.drain(..).map(Effect::ToGuest));
        if !lives {
            self.forget(id);
            return;
        }
        let unanswered = (!flow.open).then(|| flow.since + CONNECT_WITHIN);
        // One that the guest has half answered is not repeated.
        let again = (!flow.open && flow.repeat.0 > now).then_some(flow.repeat.0);
        let left = flow.left.map(|(left, _)| left + LINGER);
        let due = [flow.tcp.due(at, now), unanswered, again, left].into_iter().flatten().min();
        self.timers.set(id, &mut flow.timer, due);
    }

    /// Makes an unanswered attempt anew when it is time. The port is a new one too: the guest may have heard the old
    /// attempt, and a second SYN of other numbers on the same port would confuse it.
    fn repeat(&mut self, id: u64, now: Instant) {
        let due = |flow: &&mut Flow| !flow.open && flow.repeat.0 <= now;
        let Some(flow) = self.flows.get_mut(&id).filter(due) else { return };
        if flow.tcp.socket().state() != State::SynSent {
            return;
        }
        let port = self.free_port();
        let Some(flow) = self.flows.get_mut(&id) else { return };
        self.ports.remove(&flow.port);
        self.ports.insert(port, id);
        flow.port = port;
        flow.repeat = (now + flow.repeat.1, flow.repeat.1 * 2);
        flow.tcp.socket().abort();
        // The same addresses were accepted before; if not, the closed socket is reported.
        let _ = flow.tcp.connect((self.guest.into(), flow.target), (self.gateway.into(), port));
    }

    fn free_port(&mut self) -> u16 {
        // There are more ports than MAX_DIALS, so this ends.
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(*PORTS.start());
            if !self.ports.contains_key(&port) {
                return port;
            }
        }
    }
}

impl Flow {
    fn touch(&mut self, id: u64, touched: &mut Vec<u64>) {
        if !std::mem::replace(&mut self.touched, true) {
            touched.push(id);
        }
    }

    /// Aborts what nobody waits for and the guest does not end.
    fn give_up_left(&mut self, now: Instant) {
        let Some((left, queued)) = self.left else { return };
        if now.saturating_duration_since(left) < LINGER {
            return;
        }
        if self.tcp.queued() < queued {
            // A slow guest still takes what was said.
            self.left = Some((now, self.tcp.queued()));
        } else {
            self.tcp.socket().abort();
        }
    }

    /// Reports what a connection did since it was last looked at. Returns false when it is over.
    fn observe(&mut self, id: u64, now: Instant, to: &mut Vec<Effect>) -> bool {
        let socket = self.tcp.socket();
        let state = socket.state();
        if !self.open {
            let late = now.saturating_duration_since(self.since) >= CONNECT_WITHIN;
            match state {
                State::SynSent | State::SynReceived if !late => return true,
                State::SynSent | State::SynReceived => {
                    to.push(Effect::DialFailed { id, because: DialError::TimedOut });
                    return false;
                }
                State::Closed => {
                    to.push(Effect::DialFailed { id, because: DialError::Refused });
                    return false;
                }
                _ => {
                    self.open = true;
                    socket.set_keep_alive(Some(KEEP_ALIVE));
                    socket.set_timeout(Some(SILENT_FOR));
                    to.push(Effect::Dialed { id });
                }
            }
        }
        while let Some(bytes) = self.tcp.heard() {
            to.push(Effect::DialData { id, bytes });
        }
        let freed = self.tcp.freed();
        if freed > 0 {
            to.push(Effect::DialRoom { id, bytes: freed });
        }
        if !self.guest_ended && self.tcp.guest_ended() {
            self.guest_ended = true;
            to.push(Effect::DialEnd { id });
        }
        let unread = self.tcp.socket().can_recv() && self.left.is_none();
        let over = matches!(state, State::Closed | State::TimeWait) && !unread;
        if over {
            to.push(Effect::DialGone { id, clean: self.guest_ended && self.we_ended });
        }
        !over
    }
}

/// Reads which port a valid IPv4 packet is for.
fn destination(packet: &[u8]) -> Option<u16> {
    let segment = usize::from(packet.first()? & 0x0f) * 4;
    let port = packet.get(segment + 2..segment + 4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}

#[cfg(test)]
mod tests;
