//! How an agent speaks to a shim: one unix socket, one connection for each wish. The wish is a message of
//! `proto::wire` behind its length (four bytes, big-endian), so is the answer; what follows belongs to the wish.
//! A shim outlives agents, so the two may be of different versions: a wish that is not known is
//! refused as such, fields that are not known are skipped. What is longer than its bound is not read.
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
use proto::wire::{Kind, Message, WireError, decode, encode, fields::usual};
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

/// What a shim holds: what must come back to where it was when nobody uses the machine. Absent = 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Counts {
    /// Connections into the guest that have not ended, our own attempts among them.
    #[cbor(n(0), default)]
    pub dials: usize,
    /// Callers whose connection holds a descriptor.
    #[cbor(n(1), default)]
    pub callers: usize,
    /// Tasks of its runtime.
    #[cbor(n(2), default)]
    pub tasks: usize,
    /// The guest's connections to the outside.
    #[cbor(n(3), default)]
    pub connections: usize,
    /// Its sockets for datagrams.
    #[cbor(n(4), default)]
    pub sockets: usize,
    /// Bytes of those connections that wait for one side.
    #[cbor(n(5), default)]
    pub waiting: usize,
    /// Packets to where it may not go.
    #[cbor(n(6), default)]
    pub denied: u64,
    /// Connections and datagrams beyond what it may have.
    #[cbor(n(7), default)]
    pub full: u64,
    /// What is carried for nobody.
    #[cbor(n(8), default)]
    pub uncarried: u64,
    /// Frames that claimed another's address.
    #[cbor(n(9), default)]
    pub spoofed: u64,
    /// Frames that are none.
    #[cbor(n(10), default)]
    pub malformed: u64,
    /// Packets that the guest sent to other machines of its session.
    #[cbor(n(11), with = "usual", has_nil)]
    pub sent: u64,
    /// Their bytes.
    #[cbor(n(12), with = "usual", has_nil)]
    pub sent_bytes: u64,
    /// Packets that it got of them.
    #[cbor(n(13), with = "usual", has_nil)]
    pub received: u64,
    /// Their bytes.
    #[cbor(n(14), with = "usual", has_nil)]
    pub received_bytes: u64,
    /// Packets of which it was told that they went nowhere.
    #[cbor(n(15), with = "usual", has_nil)]
    pub refused: u64,
    /// Packets from the agent that were not for it.
    #[cbor(n(16), with = "usual", has_nil)]
    pub misrouted: u64,
    /// Frames for everybody, and of other protocols.
    #[cbor(n(17), with = "usual", has_nil)]
    pub ignored: u64,
}

impl Message for Counts {
    const KIND: Kind = Kind::ShimCounts;
}

/// Whether a wish is granted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum ShimAnswer {
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
    /// The shim is of a version that does not know the wish.
    #[n(4)]
    Unknown,
}

impl Message for ShimAnswer {
    const KIND: Kind = Kind::ShimAnswer;
}

/// Opens a connection for `wish` and waits until it is granted.
pub async fn ask(control: &Path, wish: &Wish, within: Duration) -> io::Result<UnixStream> {
    let ask = async {
        let mut stream = UnixStream::connect(control).await?;
        write(&mut stream, wish).await?;
        match read(&mut stream).await? {
            ShimAnswer::Granted => Ok(stream),
            ShimAnswer::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            ShimAnswer::Late => Err(io::ErrorKind::TimedOut.into()),
            ShimAnswer::Failed(because) => Err(io::Error::other(because)),
            ShimAnswer::Unknown => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "the machine's shim is too old for this"))
            }
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
    let flawed = |flaw: WireError| io::Error::new(io::ErrorKind::InvalidData, flaw);
    if length > most {
        return Err(flawed(WireError::TooLarge { have: length, limit: most }));
    }
    // Room is taken for what has come, not for what is said to come.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&bytes, most).map_err(flawed)
}

/// Tells whether what was read is of a later version.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    let flaw = error.get_ref().and_then(|inner| inner.downcast_ref::<WireError>());
    matches!(flaw, Some(WireError::Unknown | WireError::Version { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what a reader makes of these bytes when nothing follows them.
    async fn heard<T: Message>(bytes: &[u8], limit: usize) -> io::Result<T> {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(bytes).await.unwrap();
        drop(there);
        read_large(&mut here, limit).await
    }

    #[tokio::test]
    async fn one_message_is_read_and_what_follows_is_left() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        write(&mut there, &Wish::Dial { port: 80 }).await.unwrap();
        there.write_all(b"GET").await.unwrap();
        drop(there);
        assert_eq!(read::<Wish>(&mut here).await.unwrap(), Wish::Dial { port: 80 });
        let mut rest = Vec::new();
        here.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"GET");
    }

    #[tokio::test]
    async fn what_is_longer_than_its_bound_or_ends_early_is_no_message() {
        let kind = |result: io::Result<Wish>| result.unwrap_err().kind();
        assert_eq!(kind(heard(&u32::MAX.to_be_bytes(), MAX_BYTES).await), io::ErrorKind::InvalidData);
        assert_eq!(kind(heard(&[0, 0, 0, 9, 1], MAX_BYTES).await), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(heard(b"", MAX_BYTES).await), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(heard(b"{\"Dial\"", MAX_BYTES).await), io::ErrorKind::InvalidData);
        let counts = encode(&Counts::default());
        let other = [&(counts.len() as u32).to_be_bytes()[..], &counts].concat();
        let error = heard::<Wish>(&other, MAX_BYTES).await.unwrap_err();
        assert_eq!(error.to_string(), "the message is of kind 27, not 25");
        assert!(!is_unknown(&error));
    }
}
