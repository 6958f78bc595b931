//! The sockets of one guest's connections to the outside. Each has one task, which waits for its socket so
//! that the edge never does; where a guest may go was decided before anything comes here. They live in the
//! shim, so they outlive the agent.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mesh::link::{Heard, Kind, Unconnected, Upstream};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt},
    process::{Resource, getrlimit},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream, tcp, unix},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{names::Names, network::Happening};

/// How long the outside may take to answer a connection; the guest's own patience is of that order.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of one read.
const PIECE_BYTES: usize = 16 * 1024;
/// Datagrams of one socket that wait to be sent.
const MAX_QUEUED: usize = 64;
/// More than the guest's wire takes: what is longer is seen to be too long, and lost.
const DATAGRAM_BYTES: usize = 2048;
/// Descriptors of the guest's own doing: never more than this share of what the process may have, or nobody
/// could speak to it any more.
const SHARE: u64 = 2;
/// What is assumed where the system sets no limit.
const PLENTY: u64 = 1 << 16;
/// How old what is known of the host's own network may be.
const FRESH: Duration = Duration::from_secs(1);

/// All sockets of one guest.
pub struct Outside {
    streams: BTreeMap<u64, Stream>,
    sockets: BTreeMap<u64, Socket>,
    told: Told,
    names: Names,
    gateway: Ipv4Addr,
    looked: Option<Instant>,
    /// Streams and sockets at once, as far as the system lets this process have them.
    most: usize,
}

/// Tells the edge, as long as it is the one that asked.
#[derive(Clone)]
pub struct Told {
    /// Which edge: a guest that is reset gets a new one, whose ids begin anew.
    pub edge: u64,
    /// To the edge.
    pub happen: mpsc::Sender<Happening>,
}

impl Told {
    async fn tell(&self, heard: Heard) -> Result<(), Over> {
        self.happen.send(Happening::Heard(self.edge, heard)).await.map_err(|_| Over)
    }
}

/// Nobody carries the network any more.
struct Over;

struct Stream {
    /// Bytes for the outside; `None` = no more. Never more than the edge's window, so it needs no bound.
    output: mpsc::UnboundedSender<Option<Bytes>>,
    /// How many bytes the guest takes now.
    room: Arc<Semaphore>,
    /// Ends the task; disarmed when what is queued shall still be written.
    over: DropGuard,
}

struct Socket {
    output: mpsc::Sender<(SocketAddrV4, Bytes)>,
    _over: DropGuard,
}

impl Outside {
    /// Makes a guest's outside without any socket.
    pub fn new(told: Told, names: Names, gateway: Ipv4Addr) -> Outside {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(PLENTY);
        let most = usize::try_from(limit / SHARE).unwrap_or(usize::MAX);
        Outside {
            streams: BTreeMap::new(),
            sockets: BTreeMap::new(),
            told,
            names,
            gateway,
            looked: None,
            most,
        }
    }

    /// Says which edge this is for.
    pub fn edge(&self) -> u64 {
        self.told.edge
    }

    /// Says whether the host's own network is to be looked at again.
    pub fn stale(&mut self, now: Instant) -> bool {
        let stale = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= FRESH);
        if stale {
            self.looked = Some(now);
        }
        stale
    }

    /// Forgets a stream that told its end.
    pub fn forget(&mut self, heard: &Heard) {
        match heard {
            Heard::Failed { id, .. } | Heard::Gone { id } => drop(self.streams.remove(id)),
            Heard::Shut { id } => drop(self.sockets.remove(id)),
            _ => {}
        }
    }

    /// Carries out what the edge wants.
    pub fn on(&mut self, upstream: Upstream) {
        match upstream {
            Upstream::Connect { id, to, room } => self.connect(id, to, room),
            Upstream::Send { id, bytes } => self.output(id, Some(bytes)),
            Upstream::End { id } => self.output(id, None),
            Upstream::Room { id, bytes } => {
                if let Some(stream) = self.streams.get(&id) {
                    stream.room.add_permits(bytes);
                }
            }
            Upstream::Close { id, clean } => {
                if let Some(stream) = self.streams.remove(&id).filter(|_| clean) {
                    // Its task ends when all is written.
                    stream.over.disarm();
                }
            }
            Upstream::Open { id, kind } => self.open(id, kind),
            Upstream::Datagram { id, to, bytes } => {
                if let Some(socket) = self.sockets.get(&id) {
                    // A full queue loses it, as a wire would.
                    socket.output.try_send((to, bytes)).ok();
                }
            }
            Upstream::Shut { id } => drop(self.sockets.remove(&id)),
        }
    }

    fn output(&mut self, id: u64, bytes: Option<Bytes>) {
        if let Some(stream) = self.streams.get(&id) {
            // A task that ended has told so.
            stream.output.send(bytes).ok();
        }
    }

    /// Says no where there are no descriptors to spare.
    fn full(&self, no: Heard) -> bool {
        let full = self.streams.len() + self.sockets.len() >= self.most;
        if full {
            let told = self.told.clone();
            // The edge, which called, takes no word while it waits.
            tokio::spawn(async move { told.tell(no).await.ok() });
        }
        full
    }

    fn connect(&mut self, id: u64, to: SocketAddrV4, room: usize) {
        if self.full(Heard::Failed { id, because: Unconnected::Busy }) {
            return;
        }
        let (output, queued) = mpsc::unbounded_channel();
        let over = CancellationToken::new();
        let line =
            Line { id, room: Arc::new(Semaphore::new(room)), told: self.told.clone(), over: over.clone() };
        self.streams.insert(id, Stream { output, room: line.room.clone(), over: over.drop_guard() });
        let names = (*to.ip() == self.gateway).then(|| self.names.clone());
        tokio::spawn(async move {
            // What the edge hears last is up to it.
            let over = line.over.clone();
            let _ = match names {
                Some(names) => line.ask_names(names, queued).await,
                // Dropped half-way only while it connects: there is nothing to reset yet.
                None => match over.run_until_cancelled(connected(to)).await {
                    Some(Ok(stream)) => line.carry(stream, queued).await,
                    Some(Err(because)) => line.told.tell(Heard::Failed { id, because }).await,
                    None => Ok(()),
                },
            };
        });
    }

    fn open(&mut self, id: u64, kind: Kind) {
        if self.full(Heard::Shut { id }) {
            return;
        }
        let (output, queued) = mpsc::channel(MAX_QUEUED);
        let over = CancellationToken::new();
        let (told, stop) = (self.told.clone(), over.clone());
        self.sockets.insert(id, Socket { output, _over: over.drop_guard() });
        tokio::spawn(async move {
            // A datagram that is lost half-way is lost.
            let ended = stop.run_until_cancelled(carry_datagrams(id, kind, &told, queued)).await;
            if ended.is_some() {
                told.tell(Heard::Shut { id }).await.ok();
            }
        });
    }
}

async fn connected(to: SocketAddrV4) -> Result<TcpStream, Unconnected> {
    let stream = match timeout(CONNECT_WITHIN, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unconnected(&error)),
        Err(_) => return Err(Unconnected::Unreachable),
    };
    // Without these it works as well, only slower, or for longer after the other side has died.
    stream.set_nodelay(true).ok();
    sockopt::set_socket_keepalive(&stream, true).ok();
    Ok(stream)
}

fn unconnected(error: &io::Error) -> Unconnected {
    use rustix::io::Errno;
    let busy = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::AGAIN];
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Unconnected::Refused,
        _ if Errno::from_io_error(error).is_some_and(|errno| busy.contains(&errno)) => Unconnected::Busy,
        _ => Unconnected::Unreachable,
    }
}

/// What the task of one stream knows.
struct Line {
    id: u64,
    room: Arc<Semaphore>,
    told: Told,
    over: CancellationToken,
}

/// What a stream is read from.
enum Source {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl Source {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Source::Tcp(tcp) => tcp.readable().await,
            Source::Unix(unix) => unix.readable().await,
        }
    }

    fn try_read(&self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Tcp(tcp) => tcp.try_read(to),
            Source::Unix(unix) => unix.try_read(to),
        }
    }

    /// Reads what is there; needs no memory while it waits.
    async fn read(&self, most: usize) -> io::Result<Bytes> {
        loop {
            self.readable().await?;
            let mut piece = BytesMut::zeroed(most.min(PIECE_BYTES));
            match self.try_read(&mut piece) {
                Ok(count) => {
                    piece.truncate(count);
                    return Ok(piece.freeze());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Line {
    /// Carries an established stream until both sides are done or one breaks.
    async fn carry(
        self,
        stream: TcpStream,
        queued: mpsc::UnboundedReceiver<Option<Bytes>>,
    ) -> Result<(), Over> {
        self.told.tell(Heard::Connected { id: self.id }).await?;
        // What was not read or written when this is dropped early is reset, not ended.
        stream.set_zero_linger().ok();
        let (read, write) = stream.into_split();
        let source = Source::Tcp(read);
        let carried = self.over.run_until_cancelled(self.both(&source, write, queued)).await;
        let Source::Tcp(read) = source else { return Ok(()) };
        if let Some(Ok(true)) = carried {
            // Both sides ended it: what is in the kernel's buffers still goes.
            let socket: &TcpStream = read.as_ref();
            sockopt::set_socket_linger(socket, None).ok();
        }
        if matches!(carried, Some(Ok(false))) {
            self.told.tell(Heard::Gone { id: self.id }).await?;
        }
        Ok(())
    }

    /// Lets the guest ask for names by TCP.
    async fn ask_names(
        self,
        names: Names,
        queued: mpsc::UnboundedReceiver<Option<Bytes>>,
    ) -> Result<(), Over> {
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return self.told.tell(Heard::Failed { id: self.id, because: Unconnected::Busy }).await;
        };
        self.told.tell(Heard::Connected { id: self.id }).await?;
        let (read, write) = ours.into_split();
        let source = Source::Unix(read);
        let carry = async { tokio::join!(self.both(&source, write, queued), names.serve(theirs)).0 };
        if let Some(Ok(false)) = self.over.run_until_cancelled(carry).await {
            self.told.tell(Heard::Gone { id: self.id }).await?;
        }
        Ok(())
    }

    /// Carries both directions. Returns whether both ended in order.
    async fn both(
        &self,
        source: &Source,
        write: impl AsyncWrite + Unpin,
        queued: mpsc::UnboundedReceiver<Option<Bytes>>,
    ) -> Result<bool, Over> {
        let outcome = tokio::try_join!(self.hear(source), self.say(write, queued));
        match outcome {
            Ok(_) => Ok(true),
            Err(Broken::Stream) => Ok(false),
            Err(Broken::Network) => Err(Over),
        }
    }

    async fn hear(&self, source: &Source) -> Result<(), Broken> {
        let id = self.id;
        loop {
            let permit = self.room.acquire().await.map_err(|_| Broken::Network)?;
            let most = 1 + self.room.available_permits();
            let bytes = source.read(most).await.map_err(|_| Broken::Stream)?;
            if bytes.is_empty() {
                break;
            }
            // Only this task takes permits, so those that were counted are there.
            permit.forget();
            self.room.forget_permits(bytes.len() - 1);
            self.tell(Heard::Data { id, bytes }).await?;
        }
        self.tell(Heard::End { id }).await
    }

    async fn say(
        &self,
        mut write: impl AsyncWrite + Unpin,
        mut queued: mpsc::UnboundedReceiver<Option<Bytes>>,
    ) -> Result<(), Broken> {
        let id = self.id;
        while let Some(Some(bytes)) = queued.recv().await {
            write.write_all(&bytes).await.map_err(|_| Broken::Stream)?;
            self.tell(Heard::Sent { id, bytes: bytes.len() }).await?;
        }
        write.shutdown().await.map_err(|_| Broken::Stream)
    }

    async fn tell(&self, heard: Heard) -> Result<(), Broken> {
        self.told.tell(heard).await.map_err(|_| Broken::Network)
    }
}

/// Why a stream is carried no further.
enum Broken {
    Stream,
    Network,
}

/// Carries datagrams until the socket breaks or cannot be had.
async fn carry_datagrams(
    id: u64,
    kind: Kind,
    told: &Told,
    mut queued: mpsc::Receiver<(SocketAddrV4, Bytes)>,
) -> io::Result<()> {
    let socket = match kind {
        Kind::Udp(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        Kind::Echo(_) => ping_socket()?,
    };
    loop {
        // Neither arm has done anything before it is ready.
        tokio::select! {
            datagram = queued.recv() => match datagram {
                // An error is about an earlier datagram, or about this one's way: a wire loses it, too.
                Some((to, bytes)) => drop(socket.send_to(&bytes, to).await),
                None => return Ok(()),
            },
            ready = socket.readable() => {
                ready?;
                if let Some((from, bytes)) = received(&socket)
                    && told.tell(Heard::Datagram { id, from, bytes }).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }
}

fn received(socket: &UdpSocket) -> Option<(SocketAddrV4, Bytes)> {
    let mut buffer = [0; DATAGRAM_BYTES];
    match socket.try_recv_from(&mut buffer) {
        Ok((count, SocketAddr::V4(from))) => Some((from, Bytes::copy_from_slice(&buffer[..count]))),
        _ => None,
    }
}

/// Opens a socket for echo requests, where the host allows this group to (`ping_group_range`).
fn ping_socket() -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

#[cfg(test)]
mod tests {
    use proto::topology::Egress;

    use super::*;

    #[tokio::test]
    async fn a_guest_never_takes_the_descriptors_that_others_need_to_speak_to_its_shim() {
        let (happen, mut heard) = mpsc::channel(8);
        let names = Names::new("mesh.internal".into(), Egress::Internet, happen.clone());
        let mut outside = Outside::new(Told { edge: 7, happen }, names, Ipv4Addr::new(10, 64, 7, 1));
        outside.most = 1;
        outside.on(Upstream::Open { id: 1, kind: Kind::Udp(4000) });
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
        outside.on(Upstream::Connect { id: 2, to, room: 1024 });
        let Some(Happening::Heard(7, told)) = heard.recv().await else { panic!("nothing was told") };
        assert!(matches!(told, Heard::Failed { id: 2, because: Unconnected::Busy }), "{told:?}");
        outside.on(Upstream::Open { id: 3, kind: Kind::Udp(4001) });
        let Some(Happening::Heard(7, told)) = heard.recv().await else { panic!("nothing was told") };
        assert!(matches!(told, Heard::Shut { id: 3 }), "{told:?}");
        // What it gives up is there for the next one.
        outside.on(Upstream::Shut { id: 1 });
        outside.on(Upstream::Connect { id: 4, to, room: 1024 });
        let told = loop {
            match heard.recv().await {
                // The end of what was given up may be told once more.
                Some(Happening::Heard(7, Heard::Shut { id: 1 })) => {}
                Some(Happening::Heard(7, told)) => break told,
                _ => panic!("nothing was told"),
            }
        };
        assert!(matches!(told, Heard::Failed { id: 4, because: Unconnected::Refused }), "{told:?}");
    }
}
