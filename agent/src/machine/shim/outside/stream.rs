//! One stream to the outside: the task that connects it, carries both directions and ends it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use mesh::link::{Heard, Unconnected};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream, tcp, unix},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{descriptors::Taken, names::Names},
    Over, Told,
};

/// How long the outside may take to answer a connection; the guest's own patience is of that order.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// How long the last bytes of a stream that both sides ended may take: what is not in the kernel's hands by
/// then is a window of bytes that nobody reads.
const LAST_BYTES: Duration = Duration::from_secs(180);
/// Bytes of one read.
const PIECE_BYTES: usize = 128 * 1024;
/// A stream with so much room or less is one of many: the kernel keeps no more for it either.
const NARROW: usize = 64 * 1024;

/// What the task of one stream knows.
pub struct Line {
    /// Names it.
    pub id: u64,
    /// How many bytes the guest takes now.
    pub room: Arc<Semaphore>,
    /// To the edge.
    pub told: Told,
    /// Cancelled when it is to be reset.
    pub over: CancellationToken,
    /// Cancelled when both sides have ended it.
    pub ended: CancellationToken,
    /// Counts it from then on.
    pub ending: TaskTracker,
    /// What it holds for as long as there is a task.
    pub _held: Taken,
}

type Queued = mpsc::UnboundedReceiver<Option<Bytes>>;

impl Line {
    /// Connects, and carries what is connected.
    pub async fn connect(self, to: SocketAddr, room: usize, queued: Queued) -> Result<(), Over> {
        // Dropped half-way only while it connects: there is nothing to reset yet.
        match self.over.run_until_cancelled(connected(to, room)).await {
            Some(Ok(stream)) => self.carry(stream, queued).await,
            Some(Err(because)) => self.told.tell(Heard::Failed { id: self.id, because }).await,
            None => Ok(()),
        }
    }

    /// Carries an established stream until both sides are done or one breaks.
    async fn carry(self, stream: TcpStream, queued: Queued) -> Result<(), Over> {
        self.told.tell(Heard::Connected { id: self.id }).await?;
        // What was not read or written when this is dropped early is reset, not ended.
        stream.set_zero_linger().ok();
        let (read, write) = stream.into_split();
        let source = Source::Tcp(read);
        let carried = self.until_over(self.both(&source, write, queued)).await;
        let Source::Tcp(read) = source else { return Ok(()) };
        if let Some(Ok(true)) = carried {
            // Both sides ended it: what is in the kernel's buffers still goes, if it is taken.
            let socket: &TcpStream = read.as_ref();
            sockopt::set_socket_linger(socket, None).ok();
            sockopt::set_tcp_user_timeout(socket, LAST_BYTES.as_millis() as u32).ok();
        }
        if matches!(carried, Some(Ok(false))) {
            self.told.tell(Heard::Gone { id: self.id }).await?;
        }
        Ok(())
    }

    /// Lets the guest ask for names by TCP.
    pub async fn ask_names(self, names: Names, queued: Queued) -> Result<(), Over> {
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return self.told.tell(Heard::Failed { id: self.id, because: Unconnected::Busy }).await;
        };
        self.told.tell(Heard::Connected { id: self.id }).await?;
        let (read, write) = ours.into_split();
        let source = Source::Unix(read);
        let carry = async { tokio::join!(self.both(&source, write, queued), names.serve(theirs)).0 };
        if let Some(Ok(false)) = self.until_over(carry).await {
            self.told.tell(Heard::Gone { id: self.id }).await?;
        }
        Ok(())
    }

    /// Carries as long as the edge wants it, and what both sides have ended for [`LAST_BYTES`]: whoever takes
    /// nothing more is not waited for. `None` = given up; what it is dropped with is reset then.
    async fn until_over<T>(&self, carry: impl Future<Output = T>) -> Option<T> {
        let given_up = async {
            self.ended.cancelled().await;
            let _counted = self.ending.token();
            sleep(LAST_BYTES).await;
        };
        // Whichever is dropped has nothing left to do.
        tokio::select! {
            biased;
            () = self.over.cancelled() => None,
            carried = carry => Some(carried),
            () = given_up => None,
        }
    }

    /// Carries both directions. Returns whether both ended in order.
    async fn both(
        &self,
        source: &Source,
        write: impl AsyncWrite + Unpin,
        queued: Queued,
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
        // With less room the guest still has most of a buffer to take: a few large reads are cheaper than many small ones.
        let enough = (self.room.available_permits() / 2).max(1);
        let mut buffer = BytesMut::new();
        loop {
            let permit = self.room.acquire_many(enough as u32).await.map_err(|_| Broken::Network)?;
            let most = enough + self.room.available_permits();
            let bytes = source.read(&mut buffer, most).await.map_err(|_| Broken::Stream)?;
            if bytes.is_empty() {
                break;
            }
            drop(permit);
            // Only this task takes permits, so those that were counted are there.
            self.room.forget_permits(bytes.len());
            self.tell(Heard::Data { id, bytes }).await?;
        }
        self.tell(Heard::End { id }).await
    }

    async fn say(&self, mut write: impl AsyncWrite + Unpin, mut queued: Queued) -> Result<(), Broken> {
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

    fn try_read(&self, to: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Source::Tcp(tcp) => tcp.try_read_buf(to),
            Source::Unix(unix) => unix.try_read_buf(to),
        }
    }

    /// Reads what is there. The memory is used again while there is more to come, and given back to wait.
    async fn read(&self, buffer: &mut BytesMut, most: usize) -> io::Result<Bytes> {
        let most = most.min(PIECE_BYTES);
        loop {
            buffer.reserve(most);
            match self.try_read(&mut buffer.limit(most)) {
                Ok(_) => return Ok(buffer.split().freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            *buffer = BytesMut::new();
            self.readable().await?;
        }
    }
}

async fn connected(to: SocketAddr, room: usize) -> Result<TcpStream, Unconnected> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| unconnected(&error))?;
    if room <= NARROW {
        // Where it may not be set, it is as the system has it.
        let bytes = u32::try_from(room).unwrap_or(u32::MAX);
        socket.set_recv_buffer_size(bytes).ok();
        socket.set_send_buffer_size(bytes).ok();
    }
    let stream = match timeout(CONNECT_WITHIN, socket.connect(to)).await {
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
