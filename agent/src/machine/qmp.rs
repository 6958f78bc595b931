//! QEMU's control protocol: JSON lines on a unix socket. Written by us because we need a dozen commands
//! and must tolerate fields of every QEMU from 7.2 on. Every call has a time-out, because a second
//! client of one socket is accepted and then never greeted. Nothing here decides.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

/// Bytes of one line. The longest, `query-qmp-schema`, is below 1 MiB in QEMU 10.
const MAX_LINE_BYTES: u64 = 8 * 1024 * 1024;
/// Calls on the way at once; the shim makes one at a time.
const MAX_CALLS: usize = 8;
/// Events kept for a reader that is busy. Only [`HEARD`] ones count: of a disk that fails, one for each of
/// the requests that are under way.
const MAX_EVENTS: usize = 2048;
/// Events that somebody acts on. A guest can cause others (`RTC_CHANGE`) as fast as it likes.
const HEARD: [&str; 7] =
    ["SHUTDOWN", "POWERDOWN", "RESET", "STOP", "RESUME", "GUEST_PANICKED", "BLOCK_IO_ERROR"];

/// Why QEMU gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket could not be opened, or broke.
    #[error("cannot reach QEMU's control socket")]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("QEMU did not answer {0} in time")]
    Late(String),
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {because}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        because: String,
    },
    /// QEMU closed the socket, which it does when it ends.
    #[error("QEMU closed its control socket")]
    Closed,
}

/// Something that QEMU said by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data.
    pub data: Value,
}

struct Call {
    command: String,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

/// A connection to one QEMU. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Qmp {
    calls: mpsc::Sender<Call>,
}

impl Qmp {
    /// Connects to `path`, which may not exist yet, and negotiates.
    pub async fn connect(path: &Path, within: Duration) -> Result<(Qmp, mpsc::Receiver<Event>), QmpError> {
        let deadline = Instant::now() + within;
        let stream = loop {
            match UnixStream::connect(path).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                // QEMU makes the socket some milliseconds after its start.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        let (read, write) = stream.into_split();
        Qmp::over(read, write, deadline.saturating_duration_since(Instant::now())).await
    }

    /// Negotiates on a connection that exists.
    pub async fn over(
        read: impl AsyncRead + Unpin + Send + 'static,
        write: impl AsyncWrite + Unpin + Send + 'static,
        within: Duration,
    ) -> Result<(Qmp, mpsc::Receiver<Event>), QmpError> {
        let deadline = Instant::now() + within;
        let mut lines = BufReader::new(read);
        let greeting = timeout_at(deadline, read_line(&mut lines)).await;
        greeting.map_err(|_| QmpError::Late("the connection".into()))??.ok_or(QmpError::Closed)?;

        let (calls, called) = mpsc::channel(MAX_CALLS);
        let (heard, events) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(async move {
            let (lines_in, mut lines_out) = mpsc::channel(MAX_CALLS);
            // Reading a line is not cancel-safe, so it has its own task.
            let reader = tokio::spawn(async move {
                while let Ok(Some(line)) = read_line(&mut lines).await {
                    if lines_in.send(line).await.is_err() {
                        break;
                    }
                }
            });
            serve(write, called, &mut lines_out, heard).await;
            reader.abort();
        });
        let qmp = Qmp { calls };
        let left = deadline.saturating_duration_since(Instant::now());
        qmp.call("qmp_capabilities", Value::Null, left).await?;
        Ok((qmp, events))
    }

    /// Runs one command.
    pub async fn call(&self, command: &str, arguments: Value, within: Duration) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let call = Call { command: command.into(), arguments, answer };
        let ask = async {
            self.calls.send(call).await.map_err(|_| QmpError::Closed)?;
            answered.await.map_err(|_| QmpError::Closed)?
        };
        timeout_at(Instant::now() + within, ask).await.map_err(|_| QmpError::Late(command.into()))?
    }
}

/// Matches answers to calls until QEMU or the last handle is gone.
async fn serve(
    mut write: impl AsyncWrite + Unpin,
    mut called: mpsc::Receiver<Call>,
    lines: &mut mpsc::Receiver<Value>,
    heard: mpsc::Sender<Event>,
) {
    let mut waiting: BTreeMap<u64, Call> = BTreeMap::new();
    let mut next = 0_u64;
    loop {
        // Both arms receive from a channel, which is cancel-safe.
        tokio::select! {
            call = called.recv() => {
                let Some(call) = call else { return };
                waiting.retain(|_, call| !call.answer.is_closed());
                next += 1;
                let mut line = json!({"execute": call.command, "id": next});
                if !call.arguments.is_null() {
                    line["arguments"] = call.arguments.clone();
                }
                waiting.insert(next, call);
                if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            line = lines.recv() => {
                let Some(mut line) = line else { return };
                if let Some(name) = line["event"].as_str() {
                    if HEARD.contains(&name) {
                        let event = Event { name: name.into(), data: line["data"].clone() };
                        // A reader that is gone or too slow misses it; the process's end is never missed.
                        heard.try_send(event).ok();
                    }
                    continue;
                }
                let Some(call) = line["id"].as_u64().and_then(|id| waiting.remove(&id)) else { continue };
                let answer = match line.get("error") {
                    Some(error) => Err(QmpError::Refused {
                        command: call.command,
                        because: error["desc"].as_str().unwrap_or("no reason given").into(),
                    }),
                    None => Ok(line["return"].take()),
                };
                // The caller may have given up.
                call.answer.send(answer).ok();
            }
        }
    }
}

async fn read_line(lines: &mut BufReader<impl AsyncRead + Unpin>) -> Result<Option<Value>, QmpError> {
    let mut line = Vec::new();
    let count = lines.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    if count == 0 {
        return Ok(None);
    }
    let value = serde_json::from_slice(&line);
    value.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error).into())
}
