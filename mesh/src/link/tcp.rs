//! One TCP connection with a guest. Its end here is smoltcp's, on a small interface of its own: what a packet costs does
//! not depend on how many other connections there are. Pure: packets and bytes in, packets and bytes out. Whose a packet is
//! and when a connection is looked at again is known by those who have many ([`super::dial`], [`super::egress`]).
//!
//! Back pressure is credit in both directions: bytes under way are as many as the buffers hold.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use etherparse::EtherType;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::tcp::{self, State},
    time::Instant as SmolInstant,
    wire::{HardwareAddress, IpCidr},
};

use super::frame;

/// See the head of this file.
pub(super) struct Tcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// Bytes of the guest that those behind us can still take.
    credit: usize,
    /// How many that can ever be.
    most: usize,
    /// Bytes for the guest that it has not acknowledged yet.
    queued: usize,
    /// Packets that it has not taken yet.
    incoming: VecDeque<BytesMut>,
}

impl Tcp {
    /// Makes an end at `own`, with so many bytes under way to the guest and from it, that does nothing yet.
    pub fn new(
        own: IpAddr,
        seed: u64,
        (down, up): (usize, usize),
        at: SmolInstant,
        wire: &mut Device,
    ) -> Tcp {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(up), buffer(down));
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        let interface = interface(own, seed, at, wire);
        Tcp { interface, sockets, socket, credit: up, most: up, queued: 0, incoming: VecDeque::new() }
    }

    /// The socket itself, for what is of one owner alone.
    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Begins to connect to the guest's `remote` from `local`; tells whether that can be.
    pub fn connect(&mut self, remote: (IpAddr, u16), local: (IpAddr, u16)) -> bool {
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        socket.connect(self.interface.context(), remote, local).is_ok()
    }

    /// Takes a packet of the guest; [`Tcp::poll`] follows.
    pub fn receive(&mut self, packet: BytesMut) {
        self.incoming.push_back(packet);
    }

    /// Takes the packets that came in, and sends what is due.
    pub fn poll(&mut self, at: SmolInstant, wire: &mut Device) {
        std::mem::swap(&mut wire.incoming, &mut self.incoming);
        self.interface.poll(at, wire, &mut self.sockets);
        // Empty now, and its memory is used again.
        std::mem::swap(&mut wire.incoming, &mut self.incoming);
    }

    /// Resets the connection now. What came in for it is heard no more.
    pub fn reset(&mut self, at: SmolInstant, wire: &mut Device) {
        self.incoming.clear();
        self.socket().abort();
        self.poll(at, wire);
    }

    /// Takes bytes for the guest. More than there was room for resets the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.socket().send_slice(bytes) {
            Ok(taken) if taken == bytes.len() => self.queued += taken,
            _ => self.socket().abort(),
        }
    }

    /// Lets as many more bytes of the guest come.
    pub fn room(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes).min(self.most);
    }

    /// Takes bytes of the guest, as far as there is credit.
    pub fn heard(&mut self) -> Option<Bytes> {
        let (credit, socket) = (self.credit, self.sockets.get_mut::<tcp::Socket>(self.socket));
        if credit == 0 || !socket.can_recv() {
            return None;
        }
        let taken = socket.recv(|bytes| {
            let part = &bytes[..bytes.len().min(credit)];
            (part.len(), Bytes::copy_from_slice(part))
        });
        let bytes = taken.ok()?;
        self.credit -= bytes.len();
        Some(bytes)
    }

    /// Tells how many bytes the guest has acknowledged since it was last asked.
    pub fn freed(&mut self) -> usize {
        let socket = self.socket();
        let (left, state) = (socket.send_queue(), socket.state());
        let freed = self.queued.saturating_sub(left);
        // What a reset threw away was not taken.
        if state == State::Closed {
            return 0;
        }
        self.queued -= freed;
        freed
    }

    /// Says whether the guest has ended its direction, and all of it was taken.
    pub fn guest_ended(&mut self) -> bool {
        let socket = self.socket();
        let fin =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        fin && !socket.can_recv()
    }

    /// Bytes of the guest that those behind us can still take.
    pub fn credit(&self) -> usize {
        self.credit
    }

    /// Bytes for the guest that it has not acknowledged yet.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that one side has sent and the other has not taken yet.
    pub fn waiting(&self) -> usize {
        self.queued + (self.most - self.credit)
    }

    /// Tells when there is something to do although nothing happens.
    pub fn due(&mut self, at: SmolInstant, now: Instant) -> Option<Instant> {
        let delay = self.interface.poll_delay(at, &self.sockets)?;
        // What cannot be done now is not asked for again in this very moment.
        Some(now + Duration::from_micros(delay.total_micros().max(1)))
    }
}

/// Answers packets that belong to no connection, as a kernel does.
pub(super) struct Nobody(Interface, SocketSet<'static>);

impl Nobody {
    /// Makes it for those who ask `own`.
    pub fn new(own: IpAddr, wire: &mut Device) -> Nobody {
        Nobody(interface(own, 0, SmolInstant::ZERO, wire), SocketSet::new(Vec::new()))
    }

    /// Answers the packets that came in.
    pub fn poll(&mut self, at: SmolInstant, wire: &mut Device) {
        self.0.poll(at, wire, &mut self.1);
    }
}

fn interface(own: IpAddr, seed: u64, at: SmolInstant, wire: &mut Device) -> Interface {
    let mut settings = Config::new(HardwareAddress::Ip);
    settings.random_seed = seed;
    let mut interface = Interface::new(settings, wire, at);
    interface.update_ip_addrs(|addresses| {
        // The list is new and holds at least one.
        let whole = if own.is_ipv4() { 32 } else { 128 };
        let _ = addresses.push(IpCidr::new(own.into(), whole));
    });
    // A full table is no concern of a new interface.
    let _ = match own {
        IpAddr::V4(own) => interface.routes_mut().add_default_ipv4_route(own),
        IpAddr::V6(own) => interface.routes_mut().add_default_ipv6_route(own),
    };
    interface
}

/// Makes of one random number another for each connection.
pub(super) fn seed(seed: u64, id: u64) -> u64 {
    seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What smoltcp calls the moment `now` of a clock that began at `start`.
pub(super) fn smol(start: Instant, now: Instant) -> SmolInstant {
    let micros = now.saturating_duration_since(start).as_micros();
    SmolInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// When connections are to be looked at again, by their ids.
#[derive(Default)]
pub(super) struct Timers(BTreeSet<(Instant, u64)>);

impl Timers {
    /// Sets the one timer of `id`, which is kept in `timer` as well.
    pub fn set(&mut self, id: u64, timer: &mut Option<Instant>, due: Option<Instant>) {
        if *timer == due {
            return;
        }
        if let Some(before) = *timer {
            self.0.remove(&(before, id));
        }
        self.0.extend(due.map(|due| (due, id)));
        *timer = due;
    }

    /// Tells when the first one is due.
    pub fn first(&self) -> Option<Instant> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Tells who is due; its timer stays until it is set anew.
    pub fn due(&self, now: Instant) -> Vec<u64> {
        self.0.iter().take_while(|(at, _)| *at <= now).map(|&(_, id)| id).collect()
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

pub(super) struct Receive(pub(super) BytesMut);
pub(super) struct Transmit<'a>(pub(super) &'a mut Vec<Bytes>, pub(super) [u8; 6]);

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
