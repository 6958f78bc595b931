//! UDP into machines. A flow is what one client says to one port of a machine, and what comes back; between hosts it is a
//! stream of its own on `mesh/net/1`, so that order is kept and no flow waits for another one. The guest sees it come
//! from a dynamic port of its gateway. What finds a queue full is lost, as on any network.
//! A flow more than there may be ends the one that the machine was told something on longest ago.
//!
//! ```text
//! length: u16 | datagram  <->
//! ```

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use etherparse::{IpNumber, Ipv4Slice, PacketBuilder, UdpSlice};
use futures::{SinkExt, StreamExt};
use proto::{
    id::{MachineName, SessionId},
    limits::GUEST_MTU,
};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{Net, counts::Count, recent::Recent};
use crate::link::{PORTS, PortMessage};

/// The longest datagram: what fits one packet of a guest behind the headers of IPv4 and UDP.
pub const DATAGRAM_BYTES: usize = GUEST_MTU - 28;
/// Flows into one machine at once.
pub(super) const FLOWS: usize = 256;
/// Hearer of one flow that may wait for their way.
const QUEUE: usize = 64;
/// Bytes of one flow that may wait inside this host, each way: a full queue.
const BUFFER: usize = QUEUE * (DATAGRAM_BYTES + 2);
const TTL: u8 = 64;

/// How datagrams follow each other on a stream.
pub fn datagrams() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u16>().max_frame_length(DATAGRAM_BYTES).new_codec()
}

/// The flows into one machine of this host.
pub(super) struct Flows(Arc<Mutex<Table>>);

struct Table {
    next: u16,
    /// By the port at the gateway.
    open: Recent<u16, Hearer, FLOWS>,
}

/// Who hears the answers from a port of the machine.
struct Hearer {
    port: u16,
    queue: mpsc::Sender<Bytes>,
}

/// One flow, until it is dropped.
struct Flow {
    /// Gone with the machine.
    flows: Weak<Mutex<Table>>,
    /// Its port at the gateway.
    here: u16,
    answers: mpsc::Receiver<Bytes>,
}

/// Where a flow leads.
struct Course {
    net: Net,
    gateway: Ipv4Addr,
    guest: Ipv4Addr,
    port: u16,
    to_guest: mpsc::Sender<PortMessage>,
}

impl Default for Flows {
    fn default() -> Flows {
        Flows(Arc::new(Mutex::new(Table { next: *PORTS.start(), open: Recent::default() })))
    }
}

impl Flows {
    fn open(&self, port: u16) -> Flow {
        let mut table = lock(&self.0);
        // There are more ports than flows, so this ends.
        let here = loop {
            let here = table.next;
            table.next = here.checked_add(1).unwrap_or(*PORTS.start());
            if table.open.get(&here).is_none() {
                break here;
            }
        };
        let (queue, answers) = mpsc::channel(QUEUE);
        table.open.insert(here, Hearer { port, queue });
        Flow { flows: Arc::downgrade(&self.0), here, answers }
    }

    /// Takes a packet of the machine to its gateway. Tells why it went nowhere, if so.
    pub fn heard(&self, packet: &[u8]) -> Option<Count> {
        let Ok(parsed) = Ipv4Slice::from_slice(packet) else { return Some(Count::Malformed) };
        let payload = parsed.payload();
        let udp = UdpSlice::from_slice(payload.payload).ok();
        let whole = !payload.fragmented && payload.ip_number == IpNumber::UDP;
        let Some(udp) = udp.filter(|_| whole) else { return Some(Count::Malformed) };
        let table = lock(&self.0);
        match table.open.get(&udp.destination_port()).filter(|flow| flow.port == udp.source_port()) {
            None => Some(Count::NoRoute),
            Some(flow) => {
                let sent = flow.queue.try_send(Bytes::copy_from_slice(udp.payload()));
                sent.is_err().then_some(Count::QueueFull)
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.close();
        if let Some(flows) = self.flows.upgrade() {
            // By its queue: its port may be another one's by now.
            lock(&flows).open.retain(|_, answers| !answers.queue.is_closed());
        }
    }
}

/// Opens a flow to a port of a machine of this host, and gives its stream.
pub(super) fn open(
    net: &Net,
    session: SessionId,
    machine: &MachineName,
    port: u16,
) -> io::Result<DuplexStream> {
    let tables = net.0.tables();
    let attached = tables.attached(session, machine).zip(tables.routes.get(&session));
    let current = attached.filter(|(attached, routes)| routes.is_current(machine, attached.epoch));
    let (attached, routes) = current.ok_or(io::ErrorKind::NotFound)?;
    let (gateway, guest) = routes.wire_of(machine).ok_or(io::ErrorKind::NotFound)?;
    let flow = attached.flows.open(port);
    let course = Course { net: net.clone(), gateway, guest, port, to_guest: attached.to_guest.clone() };
    let (near, far) = tokio::io::duplex(BUFFER);
    // Ends with the stream, with the machine, or when another one gets its place.
    tokio::spawn(carry(far, flow, course));
    Ok(near)
}

async fn carry(stream: DuplexStream, mut flow: Flow, course: Course) {
    let (read, write) = tokio::io::split(stream);
    let (mut from, mut to) = (FramedRead::new(read, datagrams()), FramedWrite::new(write, datagrams()));
    let (here, flows) = (flow.here, flow.flows.clone());
    let there = async {
        while let Some(Ok(datagram)) = from.next().await {
            if let Some(flows) = flows.upgrade() {
                lock(&flows).open.use_of(&here);
            }
            if course.send(here, &datagram).is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Some(answer) = flow.answers.recv().await {
            if to.send(answer).await.is_err() {
                return;
            }
        }
    };
    // What is lost with the other direction nobody is left to hear.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

impl Course {
    /// Gives a datagram to the guest. An error: the machine has left this host.
    fn send(&self, here: u16, datagram: &[u8]) -> Result<(), ()> {
        let builder =
            PacketBuilder::ipv4(self.gateway.octets(), self.guest.octets(), TTL).udp(here, self.port);
        let mut packet = Vec::with_capacity(builder.size(datagram.len()));
        // Its length was checked as it came.
        builder.write_to_vec(&mut packet, datagram).map_err(drop)?;
        match self.to_guest.try_send(PortMessage::Packet(packet.into())) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.net.0.here.add(Count::QueueFull);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
