//! TCP from the gateway into the guest, by smoltcp, so that a host reaches its machine's ports
//! without root. Owns the connections that [`super::Edge`] was asked to dial; never listens.
//! Nothing here does IO: packets and bytes in, frames and effects out.
//!
//! Back pressure is credit in both directions. Whoever receives bytes says when they left its
//! hands (`DialRoom`), and only then may as many follow; each direction starts with [`WINDOW`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use etherparse::EtherType;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::tcp::{self, State},
    time::{Duration as SmolDuration, Instant as SmolInstant},
    wire::{HardwareAddress, IpCidr},
};

use super::{EdgeConfig, Effect, frame};

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
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Device,
    flows: BTreeMap<u64, Flow>,
    next_port: u16,
}

struct Flow {
    socket: SocketHandle,
    port: u16,
    target: u16,
    since: Instant,
    /// When the attempt is made again, and how long it is waited for then.
    repeat: (Instant, Duration),
    open: bool,
    /// Bytes that the caller can still take.
    credit: usize,
    /// Bytes of the caller that the guest has not acknowledged yet.
    queued: usize,
    guest_ended: bool,
    we_ended: bool,
    /// When the caller was found to have gone entirely, or something of its arrived since, and what was
    /// queued then.
    left: Option<(Instant, usize)>,
}

impl Dials {
    pub fn new(config: &EdgeConfig, now: Instant) -> Dials {
        let mut wire = Device::new(config.guest_mac, config.mtu);
        let mut settings = Config::new(HardwareAddress::Ip);
        settings.random_seed = config.seed;
        let mut interface = Interface::new(settings, &mut wire, SmolInstant::ZERO);
        let gateway = frame::gateway(config.subnet);
        interface.update_ip_addrs(|addresses| {
            // The list is new and holds at least one.
            let _ = addresses.push(IpCidr::new(gateway.into(), config.subnet.len.min(32)));
        });
        let ports = u64::from(PORTS.end() - PORTS.start()) + 1;
        Dials {
            start: now,
            gateway,
            guest: config.guest_address,
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            flows: BTreeMap::new(),
            next_port: PORTS.start() + (config.seed % ports) as u16,
        }
    }

    /// Starts a connection; its outcome is an effect of this or a later call.
    pub fn dial(&mut self, id: u64, port: u16, now: Instant, effects: &mut Vec<Effect>) {
        let unavailable = Effect::DialFailed { id, because: DialError::Unavailable };
        if self.flows.len() >= MAX_DIALS {
            self.make_place(now, effects);
        }
        if self.flows.len() >= MAX_DIALS || self.flows.contains_key(&id) {
            return effects.push(unavailable);
        }
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let local = (self.gateway, self.free_port());
        if socket.connect(self.interface.context(), (self.guest, port), local).is_err() {
            return effects.push(unavailable);
        }
        let flow = Flow {
            socket: self.sockets.add(socket),
            port: local.1,
            target: port,
            since: now,
            repeat: (now + REPEAT, REPEAT * 2),
            open: false,
            credit: WINDOW,
            queued: 0,
            guest_ended: false,
            we_ended: false,
            left: None,
        };
        self.flows.insert(id, flow);
        self.poll(now, effects);
    }

    /// Tries all that is unanswered again, because the guest's network has just come up.
    pub fn wake(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.flows.values_mut().for_each(|flow| flow.repeat = (now, REPEAT));
        self.poll(now, effects);
    }

    /// Takes an IPv4 packet of the guest to the gateway; [`Dials::settle`] follows.
    pub fn receive(&mut self, packet: BytesMut) {
        self.wire.incoming.push_back(packet);
    }

    /// Lets the connections take the packets that were received, all at once: they answer with one acknowledgment each.
    pub fn settle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.wire.incoming.is_empty() {
            self.poll(now, effects);
        }
    }

    /// Sends bytes into a connection. More than the room that was given resets it.
    pub fn send(&mut self, id: u64, bytes: &[u8], now: Instant, effects: &mut Vec<Effect>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let socket = self.sockets.get_mut::<tcp::Socket>(flow.socket);
        match socket.send_slice(bytes) {
            Ok(taken) if taken == bytes.len() => flow.queued += taken,
            _ => socket.abort(),
        }
        self.poll(now, effects);
    }

    /// Lets as many more bytes come.
    pub fn room(&mut self, id: u64, bytes: usize, now: Instant, effects: &mut Vec<Effect>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.credit = flow.credit.saturating_add(bytes).min(WINDOW);
        self.poll(now, effects);
    }

    /// Ends the direction towards the guest, after what was sent before.
    pub fn end(&mut self, id: u64, now: Instant, effects: &mut Vec<Effect>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.we_ended = true;
        self.sockets.get_mut::<tcp::Socket>(flow.socket).close();
        self.poll(now, effects);
    }

    /// Notes that nobody is left to hear the guest on this connection. It ends soon, whatever the guest does.
    pub fn left(&mut self, id: u64, now: Instant) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.left.get_or_insert((now, flow.queued));
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
        let Some(flow) = self.flows.remove(&id) else { return };
        self.sockets.get_mut::<tcp::Socket>(flow.socket).abort();
        self.poll(now, effects);
        self.sockets.remove(flow.socket);
        effects.push(Effect::DialGone { id, clean: false });
    }

    /// Counts the connections and attempts.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// Tells when [`Dials::poll`] is due.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.flows.is_empty() {
            return None;
        }
        let delay = self.interface.poll_delay(self.smol(now), &self.sockets);
        let delay = delay.map(|delay| now + Duration::from_micros(delay.total_micros()));
        let unanswered = self.flows.values().filter(|flow| !flow.open);
        let repeat = unanswered.map(|flow| flow.repeat.0.min(flow.since + CONNECT_WITHIN)).min();
        let left = self.flows.values().filter_map(|flow| flow.left).min().map(|(left, _)| left + LINGER);
        [delay, repeat, left].into_iter().flatten().min()
    }

    /// Lets time pass, sends what is due, and reports what changed.
    pub fn poll(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let at = self.smol(now);
        self.repeat(now);
        self.give_up_left(now);
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        let mut gone = Vec::new();
        let mut read = false;
        for (&id, flow) in &mut self.flows {
            let socket = self.sockets.get_mut::<tcp::Socket>(flow.socket);
            let before = flow.credit;
            if !flow.observe(id, socket, now, effects) {
                gone.push((id, flow.socket));
            }
            read |= before != flow.credit;
        }
        for (id, socket) in gone {
            self.flows.remove(&id);
            self.sockets.remove(socket);
        }
        if read {
            // What was read opens the window that the guest may be waiting for.
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
        }
        effects.extend(self.wire.outgoing.drain(..).map(Effect::ToGuest));
    }

    /// Aborts what nobody waits for and the guest does not end.
    fn give_up_left(&mut self, now: Instant) {
        for flow in self.flows.values_mut() {
            let Some((left, queued)) = flow.left else { continue };
            if now.saturating_duration_since(left) < LINGER {
                continue;
            }
            if flow.queued < queued {
                // A slow guest still takes what was said.
                flow.left = Some((now, flow.queued));
            } else {
                self.sockets.get_mut::<tcp::Socket>(flow.socket).abort();
            }
        }
    }

    /// Makes unanswered attempts anew. The port is a new one too: the guest may have heard the old
    /// attempt, and a second SYN of other numbers on the same port would confuse it.
    fn repeat(&mut self, now: Instant) {
        let due = |flow: &Flow| !flow.open && flow.repeat.0 <= now;
        let ids: Vec<u64> = self.flows.iter().filter(|(_, flow)| due(flow)).map(|(&id, _)| id).collect();
        for id in ids {
            let local = (self.gateway, self.free_port());
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let socket = self.sockets.get_mut::<tcp::Socket>(flow.socket);
            if socket.state() != State::SynSent {
                continue;
            }
            flow.port = local.1;
            flow.repeat = (now + flow.repeat.1, flow.repeat.1 * 2);
            socket.abort();
            // The same addresses were accepted before; if not, the closed socket is reported.
            let _ = socket.connect(self.interface.context(), (self.guest, flow.target), local);
        }
    }

    fn free_port(&mut self) -> u16 {
        // There are more ports than MAX_DIALS, so this ends.
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(*PORTS.start());
            if self.flows.values().all(|flow| flow.port != port) {
                return port;
            }
        }
    }

    fn smol(&self, now: Instant) -> SmolInstant {
        let micros = now.saturating_duration_since(self.start).as_micros();
        SmolInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

impl Flow {
    /// Reports what a connection did since it was last looked at. Returns false when it is over.
    fn observe(&mut self, id: u64, socket: &mut tcp::Socket, now: Instant, to: &mut Vec<Effect>) -> bool {
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
        self.read(id, socket, to);
        let freed = self.queued.saturating_sub(socket.send_queue());
        if freed > 0 && state != State::Closed {
            self.queued -= freed;
            to.push(Effect::DialRoom { id, bytes: freed });
        }
        let fin = matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if fin && !self.guest_ended && !socket.can_recv() {
            self.guest_ended = true;
            to.push(Effect::DialEnd { id });
        }
        let unread = socket.can_recv() && self.left.is_none();
        let over = matches!(state, State::Closed | State::TimeWait) && !unread;
        if over {
            to.push(Effect::DialGone { id, clean: self.guest_ended && self.we_ended });
        }
        !over
    }

    fn read(&mut self, id: u64, socket: &mut tcp::Socket, to: &mut Vec<Effect>) {
        while self.credit > 0 && socket.can_recv() {
            let credit = self.credit;
            let taken = socket.recv(|bytes| {
                let part = &bytes[..bytes.len().min(credit)];
                (part.len(), Bytes::copy_from_slice(part))
            });
            let Ok(bytes) = taken else { return };
            self.credit -= bytes.len();
            to.push(Effect::DialData { id, bytes });
        }
    }
}

/// smoltcp's device: packets of the guest in, frames for it out.
pub(super) struct Device {
    mac: [u8; 6],
    mtu: usize,
    /// The packets that are taken next.
    pub incoming: VecDeque<BytesMut>,
    /// Frames for the guest.
    pub outgoing: Vec<Bytes>,
}

impl Device {
    /// Makes the wire to a guest.
    pub fn new(mac: [u8; 6], mtu: u16) -> Device {
        Device { mac, mtu: mtu.into(), incoming: VecDeque::new(), outgoing: Vec::new() }
    }
}

pub(super) struct Receive(BytesMut);
pub(super) struct Transmit<'a>(&'a mut Vec<Bytes>, [u8; 6]);

impl phy::Device for Device {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Receive, Transmit<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Receive(packet), Transmit(&mut self.outgoing, self.mac)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.outgoing, self.mac))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl phy::RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut bytes = frame::ethernet(self.1, EtherType::IPV4, len);
        bytes.resize(frame::ETHERNET + len, 0);
        let result = fill(&mut bytes[frame::ETHERNET..]);
        if bytes.get(frame::ETHERNET).is_some_and(|first| first >> 4 == 6) {
            bytes[frame::ETHERNET - 2..frame::ETHERNET].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
        }
        self.0.push(bytes.into());
        result
    }
}

#[cfg(test)]
mod tests;
