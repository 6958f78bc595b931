//! How an agent speaks to a shim: one unix socket, one connection for each wish. The wish is a line of
//! JSON, so is the answer; what follows belongs to the wish. A shim outlives agents, so the two may be
//! of different versions: a wish that is not known is refused, fields that are not known are skipped.
//!
//! ```text
//! Status  -> lines of ShimStatus, one for each change, until QEMU has ended
//! Launched -> what it was launched with, as JSON, to the end of the connection
//! Stop    -> nothing; the status tells
//! Dial    -> the bytes of a TCP connection to the guest
//! Console -> what the console printed, then both directions live
//! Counts  -> one line of Counts
//! Network -> mesh::link::PortMessage both ways; the newest connection replaces the older
//! ```

use std::{io, path::Path, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Bytes of one line. A status with its reason is below 2 KiB.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// To see what happens.
    Status,
    /// To know what it was launched with, where the file that says so is lost.
    Launched,
    /// To stop the machine; the guest has that many milliseconds for itself.
    Stop {
        /// Milliseconds until QEMU is told to end.
        within_ms: u64,
    },
    /// To connect to a TCP port of the guest.
    Dial {
        /// The port.
        port: u16,
    },
    /// To see and type on the serial console.
    Console,
    /// To carry the machine's packets.
    Network,
    /// To see how much the shim holds.
    Counts,
}

/// What a shim holds: what must come back to where it was when nobody uses the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Connections into the guest that have not ended, our own attempts among them.
    pub dials: usize,
    /// Callers whose connection holds a descriptor.
    pub callers: usize,
    /// Tasks of its runtime.
    pub tasks: usize,
}

/// Whether a wish is granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is; what follows belongs to it.
    Granted,
    /// The guest refused the connection.
    Refused,
    /// The guest did not answer in time.
    Late,
    /// It is not, and why.
    Failed(String),
}

/// Opens a connection for `wish` and waits until it is granted.
pub async fn ask(control: &Path, wish: &Wish, within: Duration) -> io::Result<UnixStream> {
    let ask = async {
        let mut stream = UnixStream::connect(control).await?;
        write_line(&mut stream, wish).await?;
        match read_line(&mut stream).await? {
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
    timeout(within, read_line(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Writes one line.
pub async fn write_line<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line and not a byte more: what follows is not ours.
pub async fn read_line<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            byte if line.len() < MAX_LINE_BYTES => line.push(byte),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long")),
        }
    }
}
