//! How an agent speaks to a shim: one unix socket, one connection for each wish. The wish is a message of
//! `proto::wire` behind its length (four bytes, big-endian), so is the answer; what follows belongs to the wish.
//! A shim outlives agents, so the two may be of different versions: a wish that is not known is refused, fields
//! that are not known are skipped.
//!
//! ```text
//! Status  -> one ShimStatus for each change, until QEMU has ended
//! Launched -> the Launch that it was launched with
//! Stop    -> nothing; the status tells
//! Dial    -> the bytes of a TCP connection to the guest
//! Console -> what the console printed, then both directions live
//! Counts  -> one Counts
//! Network -> mesh::link::PortMessage both ways; the newest connection replaces the older
//! ```

use std::{io, path::Path, time::Duration};

use minicbor::{Decode, Encode};
use proto::wire::{Kind, Message, decode, encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Bytes of a message. A status with its reason is below 2 KiB.
const MAX_BYTES: usize = 16 * 1024;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum Wish {
    /// To see what happens.
    #[n(0)]
    Status,
    /// To know what it was launched with, where the file that says so is lost.
    #[n(1)]
    Launched,
    /// To stop the machine; the guest has that many milliseconds for itself.
    #[n(2)]
    Stop {
        /// Milliseconds until QEMU is told to end.
        #[n(0)]
        within_ms: u64,
    },
    /// To connect to a TCP port of the guest.
    #[n(3)]
    Dial {
        /// The port.
        #[n(0)]
        port: u16,
    },
    /// To see and type on the serial console.
    #[n(4)]
    Console,
    /// To carry the machine's packets.
    #[n(5)]
    Network,
    /// To see how much the shim holds.
    #[n(6)]
    Counts,
}

impl Message for Wish {
    const KIND: Kind = Kind::ShimWish;
}

/// What a shim holds: what must come back to where it was when nobody uses the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Counts {
    /// Connections into the guest that have not ended, our own attempts among them.
    #[n(0)]
    pub dials: usize,
    /// Callers whose connection holds a descriptor.
    #[n(1)]
    pub callers: usize,
    /// Tasks of its runtime.
    #[n(2)]
    pub tasks: usize,
}

impl Message for Counts {
    const KIND: Kind = Kind::ShimCounts;
}

/// Whether a wish is granted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum Answer {
    /// It is; what follows belongs to it.
    #[n(0)]
    Granted,
    /// The guest refused the connection.
    #[n(1)]
    Refused,
    /// The guest did not answer in time.
    #[n(2)]
    Late,
    /// It is not, and why.
    #[n(3)]
    Failed(#[n(0)] String),
}

impl Message for Answer {
    const KIND: Kind = Kind::ShimAnswer;
}

/// Opens a connection for `wish` and waits until it is granted.
pub async fn ask(control: &Path, wish: &Wish, within: Duration) -> io::Result<UnixStream> {
    let ask = async {
        let mut stream = UnixStream::connect(control).await?;
        write(&mut stream, wish).await?;
        match read(&mut stream).await? {
            Answer::Granted => Ok(stream),
            Answer::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Answer::Late => Err(io::ErrorKind::TimedOut.into()),
            Answer::Failed(because) => Err(io::Error::other(because)),
        }
    };
    timeout(within, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Asks a shim how much it holds.
pub async fn counts(control: &Path, within: Duration) -> io::Result<Counts> {
    let mut stream = ask(control, &Wish::Counts, within).await?;
    timeout(within, read(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Writes one message.
pub async fn write<T: Message>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let bytes = encode(value);
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await
}

/// Reads one message and not a byte more: what follows is not ours.
pub async fn read<T: Message>(stream: &mut UnixStream) -> io::Result<T> {
    read_large(stream, MAX_BYTES).await
}

/// Reads one message of at most `most` bytes.
pub async fn read_large<T: Message>(stream: &mut UnixStream, most: usize) -> io::Result<T> {
    let length = stream.read_u32().await? as usize;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    decode(&bytes, most).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
