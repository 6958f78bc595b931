//! The streams around one edge: QEMU's network card, the agent's packet port, dialled connections.
//! Each has its own tasks, which wait for their stream so that the edge never does. Nothing here decides.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use mesh::link::{Event, PortCodec, PortMessage, codec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::codec::{Encoder, FramedRead, FramedWrite};

use super::network::Happening;

/// Between two attempts to reach QEMU's network card.
const AGAIN: Duration = Duration::from_millis(200);
/// Bytes of one read from a dialled connection.
const PIECE_BYTES: usize = 16 * 1024;

/// Keeps the wire to QEMU's network card; connects again whenever it breaks.
pub async fn carry_nic(
    mut nic: UnixStream,
    path: PathBuf,
    mut frames: mpsc::Receiver<Bytes>,
    happen: mpsc::Sender<Happening>,
) {
    loop {
        let (read, write) = nic.into_split();
        let mut incoming = FramedRead::new(read, codec());
        let mut outgoing = FramedWrite::new(write, codec());
        // Both may be dropped half-way: the wire is broken then, and a frame with it.
        tokio::select! {
            () = write_queued(&mut outgoing, &mut frames) => {}
            () = async {
                while let Some(Ok(frame)) = incoming.next().await {
                    if happen.send(Happening::Frame(frame)).await.is_err() {
                        return;
                    }
                }
            } => {}
        }
        if frames.is_closed() || happen.is_closed() {
            return;
        }
        nic = loop {
            sleep(AGAIN).await;
            if let Ok(nic) = UnixStream::connect(&path).await {
                break nic;
            }
        };
    }
}

/// Writes what is queued, as much as there is at a time, until the wire breaks or the queue is closed.
async fn write_queued<T, C>(wire: &mut FramedWrite<OwnedWriteHalf, C>, queue: &mut mpsc::Receiver<T>)
where
    C: Encoder<T, Error = io::Error>,
{
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(item) = next {
            if wire.feed(item).await.is_err() {
                return;
            }
            next = queue.try_recv().ok();
        }
        if SinkExt::<T>::flush(wire).await.is_err() {
            return;
        }
    }
}

/// Writes to the agent what is queued.
pub async fn write_agent(write: OwnedWriteHalf, mut queue: mpsc::Receiver<PortMessage>) {
    write_queued(&mut FramedWrite::new(write, PortCodec), &mut queue).await;
}

/// Passes the agent's messages on. `writing` ends with it, so that a gone agent is noticed at once.
pub async fn hear_agent(
    read: OwnedReadHalf,
    happen: mpsc::Sender<Happening>,
    writing: tokio::task::JoinHandle<()>,
) {
    let mut messages = FramedRead::new(read, PortCodec);
    while let Some(Ok(message)) = messages.next().await {
        // An agent that was replaced is no longer listened to.
        if writing.is_finished() || happen.send(Happening::FromAgent(message)).await.is_err() {
            break;
        }
    }
    writing.abort();
}

/// Reads from a caller as much as the guest takes.
pub async fn read_dial(
    id: u64,
    mut read: OwnedReadHalf,
    room: Arc<Semaphore>,
    happen: mpsc::Sender<Happening>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let Ok(permit) = room.acquire().await else { return };
        let most = (1 + room.available_permits()).min(PIECE_BYTES);
        let event = match read.read(&mut piece[..most]).await {
            Ok(0) => Event::DialEnd { id },
            Err(_) => Event::DialReset { id },
            Ok(count) => {
                // Only this task takes permits, so those that were counted are there.
                permit.forget();
                room.forget_permits(count - 1);
                Event::DialData { id, bytes: Bytes::copy_from_slice(&piece[..count]) }
            }
        };
        let last = !matches!(event, Event::DialData { .. });
        if happen.send(Happening::Dialled(event)).await.is_err() || last {
            return;
        }
    }
}

/// Writes to a caller what the guest sends, and makes room for more.
pub async fn write_dial(
    id: u64,
    mut write: OwnedWriteHalf,
    mut outputs: mpsc::UnboundedReceiver<Option<Bytes>>,
    happen: mpsc::Sender<Happening>,
) {
    while let Some(output) = outputs.recv().await {
        let done = match output {
            Some(bytes) => match write.write_all(&bytes).await {
                Ok(()) => Event::DialRoom { id, bytes: bytes.len() },
                Err(_) => Event::DialReset { id },
            },
            None => match write.shutdown().await {
                Ok(()) => continue,
                Err(_) => Event::DialReset { id },
            },
        };
        let last = matches!(done, Event::DialReset { .. });
        if happen.send(Happening::Dialled(done)).await.is_err() || last {
            return;
        }
    }
}
