//! A guest without a computer, to measure what stands behind a network card: it speaks as QEMU does (`-netdev stream`:
//! a length of four bytes, big-endian, then an Ethernet frame), TCP by smoltcp, and does what its orders say. One thread,
//! so that its own work is the same whoever is on the other end.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Checksum, DeviceCapabilities, Medium},
    socket::tcp::{self, State},
    time::Instant as SmolInstant,
    wire::{HardwareAddress, IpCidr},
};

use source::{PAGE, Requests};

pub mod source;

/// Bytes under way in each direction of the one busy connection. Less than what any backend queues, because this stack does
/// not slow down when packets are lost, as a real guest's does.
const WINDOW: usize = 192 * 1024;
/// Connections that a guest serves at once, unless told: one that has just ended listens again a moment later.
pub const SERVED: usize = 4;
/// Bytes of a connection that is only held.
const LITTLE: usize = 512;
/// An IP packet, as guests of ours have it; the other backends are asked with the same.
const MTU: usize = 1280;
/// How long an order may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that wait for the backend before nothing more is sent.
const MAX_OUTPUT: usize = 256 * 1024;
/// What those who order bytes get, a piece at a time.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
/// The dynamic ports of RFC 6335.
const PORTS: std::ops::Range<u16> = 49_152..65_535;

/// What a guest is on its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its own hardware address.
    pub mac: [u8; 6],
    /// Its own address.
    pub address: Ipv4Addr,
    /// Where all that it sends goes.
    pub gateway: Ipv4Addr,
}

/// A guest at the card's end of a wire.
pub struct Guest {
    place: Place,
    begun: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Card,
    next_port: u16,
    served: Vec<Served>,
}

/// One of the connections that a guest serves at a time, as [`source::run`] does.
struct Served {
    port: u16,
    handle: SocketHandle,
    order: [u8; 9],
    heard: usize,
    left: u64,
    requests: Requests,
}

impl Guest {
    /// Connects nothing: `stream` is the wire to the backend.
    pub fn new(stream: UnixStream, place: Place) -> Result<Guest> {
        stream.set_nonblocking(true)?;
        let mut wire = Card {
            stream,
            place,
            gateway_mac: None,
            input: Vec::new(),
            output: Vec::new(),
            packets: VecDeque::new(),
        };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, SmolInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list is new and holds at least one.
            let _ = addresses.push(IpCidr::new(place.address.into(), 24));
        });
        interface.routes_mut().add_default_ipv4_route(place.gateway).context("a route")?;
        let (begun, sockets) = (Instant::now(), SocketSet::new(Vec::new()));
        let mut guest =
            Guest { place, begun, interface, sockets, wire, next_port: PORTS.start, served: Vec::new() };
        guest.find_gateway()?;
        Ok(guest)
    }

    /// Reads so many bytes from a [`source::run`]; gives bytes a second.
    pub fn get(&mut self, from: SocketAddrV4, bytes: u64) -> Result<f64> {
        self.move_bytes(from, b'g', bytes)
    }

    /// Brings so many bytes to a [`source::run`]; gives bytes a second.
    pub fn put(&mut self, to: SocketAddrV4, bytes: u64) -> Result<f64> {
        self.move_bytes(to, b'p', bytes)
    }

    /// Opens connections that say nothing, and keeps them; gives how many stand.
    pub fn hold(&mut self, to: SocketAddrV4, count: usize) -> Result<usize> {
        let mut held = Vec::new();
        // As many at once as a browser might make.
        for _ in 0..count.div_ceil(64) {
            let some = (0..64.min(count - held.len())).map(|_| self.connect(to, LITTLE));
            let some: Vec<SocketHandle> = some.collect::<Result<_>>()?;
            let deadline = Instant::now() + PATIENCE;
            while some.iter().any(|handle| self.state(*handle) == State::SynSent) && Instant::now() < deadline
            {
                self.turn(Duration::from_millis(5))?;
            }
            held.extend(some);
        }
        Ok(held.iter().filter(|handle| self.state(**handle) == State::Established).count())
    }

    /// Gives the time until a port without a listener said no.
    pub fn refused(&mut self, to: SocketAddrV4) -> Result<Duration> {
        let begun = Instant::now();
        let handle = self.connect(to, LITTLE)?;
        while self.state(handle) != State::Closed {
            ensure!(self.state(handle) == State::SynSent, "{to} accepted");
            ensure!(begun.elapsed() < PATIENCE, "{to} did not answer");
            // A wait that begins after the answer was read is no time of the network's.
            self.turn(Duration::from_micros(100))?;
        }
        let took = begun.elapsed();
        self.sockets.remove(handle);
        Ok(took)
    }

    /// Serves others on this port from now on, so many connections at once, as [`source::run`] does.
    pub fn serve(&mut self, port: u16, at_once: usize) -> Result<()> {
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        for _ in 0..at_once {
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.listen(port).map_err(|error| anyhow!("port {port} cannot be served: {error}"))?;
            let handle = self.sockets.add(socket);
            let requests = Requests::default();
            self.served.push(Served { port, handle, order: [0; 9], heard: 0, left: 0, requests });
        }
        Ok(())
    }

    /// Does what a network asks of a guest that has nothing to do.
    pub fn idle(&mut self, within: Duration) -> Result<()> {
        self.turn(within)
    }

    fn move_bytes(&mut self, with: SocketAddrV4, what: u8, bytes: u64) -> Result<f64> {
        let handle = self.connect(with, WINDOW)?;
        let mut order = [what; 9];
        order[1..].copy_from_slice(&bytes.to_be_bytes());
        let zeros = vec![0; 64 * 1024];
        let (mut said, mut sent, mut heard) = (0, 0_u64, 0_u64);
        let (mut progress, begun) = (Instant::now(), Instant::now());
        let wanted = if what == b'g' { bytes } else { 1 };
        while heard < wanted {
            let socket = self.sockets.get_mut::<tcp::Socket>(handle);
            ensure!(socket.state() != State::Closed, "{with} ended the connection after {heard} bytes");
            let before = (sent, heard);
            if socket.can_send() && said < order.len() {
                said += socket.send_slice(&order[said..]).unwrap_or(0);
            }
            while said == order.len() && what == b'p' && sent < bytes && socket.can_send() {
                let most = (bytes - sent).min(zeros.len() as u64) as usize;
                match socket.send_slice(&zeros[..most]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => sent += count as u64,
                }
            }
            while socket.can_recv() {
                heard += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0) as u64;
            }
            if before != (sent, heard) {
                progress = Instant::now();
            }
            ensure!(progress.elapsed() < PATIENCE, "nothing moves after {heard} bytes");
            self.turn(Duration::from_millis(5))?;
        }
        let rate = bytes as f64 / begun.elapsed().as_secs_f64();
        self.sockets.get_mut::<tcp::Socket>(handle).abort();
        self.turn(Duration::ZERO)?;
        self.sockets.remove(handle);
        Ok(rate)
    }

    fn connect(&mut self, to: SocketAddrV4, window: usize) -> Result<SocketHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; window]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port = if self.next_port + 1 < PORTS.end { self.next_port + 1 } else { PORTS.start };
        let local = (self.place.address, self.next_port);
        let context = self.interface.context();
        if let Err(error) = socket.connect(context, (*to.ip(), to.port()), local) {
            bail!("no connection to {to}: {error}");
        }
        Ok(self.sockets.add(socket))
    }

    fn state(&mut self, handle: SocketHandle) -> State {
        self.sockets.get::<tcp::Socket>(handle).state()
    }

    fn find_gateway(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.wire.gateway_mac.is_none() {
            ensure!(Instant::now() < deadline, "{} does not answer ARP", self.place.gateway);
            self.wire.ask_gateway();
            self.turn(Duration::from_millis(200))?;
        }
        Ok(())
    }

    /// Reads what came, answers it, and waits for more no longer than this.
    fn turn(&mut self, within: Duration) -> Result<()> {
        self.wire.read()?;
        let now = SmolInstant::from_micros(self.begun.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let mut done = false;
        for served in &mut self.served {
            done |= served.go_on(self.sockets.get_mut(served.handle));
        }
        if done {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
        }
        self.wire.write()?;
        if self.wire.packets.is_empty() {
            let due = self.interface.poll_delay(now, &self.sockets).map_or(within, Duration::from);
            self.wire.wait(due.min(within))?;
        }
        Ok(())
    }
}

impl Served {
    /// Does what the connection orders, as far as its buffers go. Returns whether anything was done.
    fn go_on(&mut self, socket: &mut tcp::Socket<'static>) -> bool {
        let mut done = false;
        if !socket.is_open() || (socket.state() == State::CloseWait && self.left == 0) {
            socket.abort();
            // The port was listened on before.
            let _ = socket.listen(self.port);
            (self.heard, self.left, self.requests) = (0, 0, Requests::default());
            return true;
        }
        while self.heard < self.order.len() && socket.can_recv() {
            self.heard += socket.recv_slice(&mut self.order[self.heard..]).unwrap_or(0);
            done = true;
            if self.heard < self.order.len() {
                continue;
            }
            if self.order.starts_with(b"GET ") {
                self.requests.ended(&self.order);
            } else {
                let [_, count @ ..] = self.order;
                self.left = u64::from_be_bytes(count);
            }
        }
        while self.order.starts_with(b"GET ") && socket.can_recv() {
            let ended = socket.recv(|bytes| (bytes.len(), self.requests.ended(bytes))).unwrap_or(0);
            // Whoever asks has read the answer before: there is room.
            let _ = (0..ended).try_for_each(|_| socket.send_slice(PAGE).map(drop));
            done = true;
        }
        while self.left > 0 {
            let moved = match self.order[0] {
                b'g' if socket.can_send() => {
                    let most = self.left.min(ZEROS.len() as u64) as usize;
                    socket.send_slice(&ZEROS[..most]).unwrap_or(0)
                }
                b'p' if socket.can_recv() => socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0),
                _ => break,
            };
            self.left = self.left.saturating_sub(moved as u64);
            if self.left == 0 && self.order[0] == b'p' {
                // A byte always fits into what is empty.
                let _ = socket.send_slice(b"!");
            }
            done |= moved > 0;
        }
        done
    }
}

/// The wire to the backend, and the frames that are under way on it.
struct Card {
    stream: UnixStream,
    place: Place,
    gateway_mac: Option<[u8; 6]>,
    input: Vec<u8>,
    output: Vec<u8>,
    packets: VecDeque<Vec<u8>>,
}

impl Card {
    fn read(&mut self) -> Result<()> {
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the backend has gone"),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            // What is here is worked on before more is taken.
            if self.input.len() >= piece.len() {
                break;
            }
        }
        let mut at = 0;
        while let Some(head) = self.input.get(at..at + 4) {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let Some(frame) = self.input.get(at + 4..at + 4 + length) else { break };
            let frame = frame.to_vec();
            at += 4 + length;
            self.take(&frame);
        }
        self.input.drain(..at);
        Ok(())
    }

    fn take(&mut self, frame: &[u8]) {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => self.packets.push_back(frame[14..].to_vec()),
            Some([0x08, 0x06]) => self.hear_arp(&frame[14..]),
            _ => {}
        }
    }

    /// RFC 826, of Ethernet and IPv4.
    fn hear_arp(&mut self, arp: &[u8]) {
        let (Some(kind), Some(mac), Some(from), Some(wanted)) =
            (arp.get(6..8), arp.get(8..14), arp.get(14..18), arp.get(24..28))
        else {
            return;
        };
        let mut sender = [0; 6];
        sender.copy_from_slice(mac);
        if from == self.place.gateway.octets() {
            self.gateway_mac = Some(sender);
        }
        if kind == [0, 1] && wanted == self.place.address.octets() {
            let asker = Ipv4Addr::new(from[0], from[1], from[2], from[3]);
            self.arp(2, sender, sender, asker);
        }
    }

    fn ask_gateway(&mut self) {
        self.arp(1, [0xff; 6], [0; 6], self.place.gateway);
    }

    fn arp(&mut self, kind: u8, to: [u8; 6], target_mac: [u8; 6], target: Ipv4Addr) {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, kind];
        arp.extend_from_slice(&self.place.mac);
        arp.extend_from_slice(&self.place.address.octets());
        arp.extend_from_slice(&target_mac);
        arp.extend_from_slice(&target.octets());
        self.frame(to, [0x08, 0x06], &arp);
    }

    fn frame(&mut self, to: [u8; 6], kind: [u8; 2], payload: &[u8]) {
        self.output.extend_from_slice(&(14 + payload.len() as u32).to_be_bytes());
        self.output.extend_from_slice(&to);
        self.output.extend_from_slice(&self.place.mac);
        self.output.extend_from_slice(&kind);
        self.output.extend_from_slice(payload);
    }

    fn write(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.output.len() {
            match self.stream.write(&self.output[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.output.drain(..at);
        Ok(())
    }

    fn wait(&self, within: Duration) -> Result<()> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, !self.output.is_empty());
        let within = Timespec::try_from(within).context("a time")?;
        match poll(&mut [PollFd::new(&self.stream, flags)], Some(&within)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sending<'_>)> {
        let packet = self.packets.pop_front()?;
        Some((Received(packet), Sending(self)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sending<'_>> {
        (self.output.len() < MAX_OUTPUT).then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // A virtual card's guest leaves the checking of what it gets to the card.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities
    }
}

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sending<'a>(&'a mut Card);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        let to = self.0.gateway_mac.unwrap_or([0xff; 6]);
        self.0.frame(to, [0x08, 0x00], &packet);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 3 << 20;

    fn place(last: u8, gateway: u8) -> Place {
        let address = |last| Ipv4Addr::new(10, 64, 7, last);
        Place { mac: [0x52, 0x54, 0, 0, 0, last], address: address(last), gateway: address(gateway) }
    }

    #[test]
    fn two_guests_on_one_wire_move_bytes_both_ways_and_refuse_what_nobody_serves() {
        let (one, other) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || {
            let mut guest = Guest::new(other, place(3, 2)).unwrap();
            guest.serve(9000, SERVED).unwrap();
            // Until the other one has gone.
            while guest.idle(Duration::from_millis(50)).is_ok() {}
        });
        let mut guest = Guest::new(one, place(2, 3)).unwrap();
        let served = SocketAddrV4::new(place(3, 2).address, 9000);
        assert!(guest.get(served, SIZE).unwrap() > 0.0);
        assert!(guest.put(served, SIZE).unwrap() > 0.0);
        assert_eq!(guest.hold(served, 1).unwrap(), 1);
        let nobody = SocketAddrV4::new(*served.ip(), 9001);
        assert!(guest.refused(nobody).unwrap() < PATIENCE);
        drop(guest);
        serving.join().unwrap();
    }
}
