//! The streams around one edge: QEMU's network card, the agent's packet port, dialled connections.
//! Each has its own tasks, which wait for their stream so that the edge never does. Nothing here decides.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use mesh::link::{Event, PortCodec, PortMessage, WINDOW, WIRE_BYTES, codec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::sleep,
};
use tokio_util::{
    codec::{Encoder, FramedRead, FramedWrite},
    sync::CancellationToken,
};

use super::{super::hangup::hung_up, happening::Happening};

/// Between two attempts to reach QEMU's network card.
const AGAIN: Duration = Duration::from_millis(200);
/// Frames that are handed on together.
const BATCH: usize = 64;
/// Bytes of one read from a dialled connection.
const PIECE_BYTES: usize = 16 * 1024;
/// With less than this missing from a window it is not worth a word: most of the window is there to be used.
const WORTH_TELLING: usize = WINDOW / 4;

/// Keeps the wire to QEMU's network card; connects again whenever it breaks.
pub async fn carry_nic(
    mut nic: UnixStream,
    path: PathBuf,
    mut frames: mpsc::Receiver<Bytes>,
    from_guest: mpsc::Sender<Vec<BytesMut>>,
) {
    loop {
        let (read, write) = nic.into_split();
        let mut incoming = FramedRead::with_capacity(read, codec(), WIRE_BYTES).ready_chunks(BATCH);
        let mut outgoing = FramedWrite::new(write, codec());
        // Both may be dropped half-way: the wire is broken then, and a frame with it.
        tokio::select! {
            () = write_queued(&mut outgoing, &mut frames) => {}
            () = async {
                while let Some(batch) = incoming.next().await {
                    let count = batch.len();
                    let batch: Vec<BytesMut> = batch.into_iter().map_while(Result::ok).collect();
                    let broken = batch.len() < count;
                    if from_guest.send(batch).await.is_err() || broken {
                        return;
                    }
                }
            } => {}
        }
        if frames.is_closed() || from_guest.is_closed() {
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
    wire.set_backpressure_boundary(WIRE_BYTES);
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
    let mut messages = FramedRead::with_capacity(read, PortCodec, WIRE_BYTES);
    while let Some(Ok(message)) = messages.next().await {
        // An agent that was replaced is no longer listened to.
        if writing.is_finished() || happen.send(Happening::FromAgent(message)).await.is_err() {
            break;
        }
    }
    writing.abort();
}

/// What the tasks of one dialled connection share.
#[derive(Clone)]
pub struct Line {
    /// Names the connection.
    pub id: u64,
    /// How many bytes the guest takes now.
    pub room: Arc<Semaphore>,
    /// Cancelled when the guest's side is over.
    pub over: CancellationToken,
    /// Cancelled when the caller has gone entirely.
    pub left: CancellationToken,
    /// To the edge.
    pub happen: mpsc::Sender<Happening>,
    /// Held for as long as the connection holds a descriptor.
    pub _place: Arc<OwnedSemaphorePermit>,
}

impl Line {
    /// Waits until the caller has gone, and tells of it.
    async fn left(&self, caller: &OwnedReadHalf) -> Result<(), Over> {
        hung_up(caller.as_ref()).await;
        self.left.cancel();
        self.tell(Event::DialLeft { id: self.id }).await
    }

    async fn tell(&self, event: Event) -> Result<(), Over> {
        self.happen.send(Happening::Dialled(event)).await.map_err(|_| Over)
    }
}

/// Nobody carries the network any more.
struct Over;

/// Reads from a caller as much as the guest takes, until the guest's side is over: what the caller still
/// has to say is for nobody then.
pub async fn read_dial(line: Line, read: OwnedReadHalf) {
    // Either may be dropped half-way; the connection is over then.
    tokio::select! {
        () = line.over.cancelled() => {}
        _ = hear_caller(&line, read) => {}
    }
}

async fn hear_caller(line: &Line, mut read: OwnedReadHalf) -> Result<(), Over> {
    let (id, room) = (line.id, &line.room);
    let mut piece = vec![0; PIECE_BYTES];
    // Below that a few large reads are cheaper than many small ones.
    let mut left = false;
    loop {
        let permit = tokio::select! {
            // Waiting for room and for a hang-up can begin again; that it is told twice does no harm.
            biased;
            permit = room.acquire_many(WORTH_TELLING as u32) => permit,
            told = line.left(&read), if !left => {
                left = true;
                told?;
                continue;
            }
        };
        let Ok(permit) = permit else { return Ok(()) };
        let most = (WORTH_TELLING + room.available_permits()).min(PIECE_BYTES);
        match read.read(&mut piece[..most]).await {
            Ok(0) => break,
            Ok(count) => {
                drop(permit);
                // Only this task takes permits, so those that were counted are there.
                room.forget_permits(count);
                line.tell(Event::DialData { id, bytes: Bytes::copy_from_slice(&piece[..count]) }).await?;
            }
            Err(_) => return line.tell(Event::DialReset { id }).await,
        }
    }
    line.tell(Event::DialEnd { id }).await?;
    // It may listen on; once it has gone nobody tells us unless the guest speaks.
    line.left(&read).await
}

/// Writes to a caller what the guest sends until the caller has gone. What the guest sent before its side
/// was over still arrives.
pub async fn write_dial(line: Line, write: OwnedWriteHalf, outputs: mpsc::UnboundedReceiver<Option<Bytes>>) {
    // Either may be dropped half-way; nobody hears it then.
    tokio::select! {
        () = line.left.cancelled() => {}
        () = tell_caller(&line, write, outputs) => {}
    }
}

async fn tell_caller(
    line: &Line,
    mut write: OwnedWriteHalf,
    mut outputs: mpsc::UnboundedReceiver<Option<Bytes>>,
) {
    let id = line.id;
    let mut untold = 0;
    while let Some(output) = outputs.recv().await {
        let written = match &output {
            Some(bytes) => write.write_all(bytes).await,
            None => write.shutdown().await,
        };
        if written.is_err() {
            line.tell(Event::DialReset { id }).await.ok();
            return;
        }
        untold += output.map_or(0, |bytes| bytes.len());
        if untold >= WORTH_TELLING {
            let bytes = std::mem::take(&mut untold);
            if line.tell(Event::DialRoom { id, bytes }).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_told_by_the_quarter_of_a_window_and_what_is_untold_holds_nobody_up() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (_unheard, write) = near.into_split();
        let (happen, mut happened) = mpsc::channel(64);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let line = Line {
            id: 5,
            room: Arc::new(Semaphore::new(0)),
            over: CancellationToken::new(),
            left: CancellationToken::new(),
            happen,
            _place: Arc::new(place),
        };
        let (output, outputs) = mpsc::unbounded_channel();
        let task = tokio::spawn(write_dial(line, write, outputs));
        // As an edge does: never more than the window beyond what it was told has left.
        let (mut credit, mut sent, mut told) = (WINDOW, 0, Vec::new());
        let all = 3 * WINDOW + 5;
        let read = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got.len()
        });
        while sent < all {
            let piece = credit.min(all - sent).min(1000);
            if piece > 0 {
                output.send(Some(vec![7; piece].into())).unwrap();
                (credit, sent) = (credit - piece, sent + piece);
                continue;
            }
            let next = tokio::time::timeout(Duration::from_secs(30), happened.recv()).await;
            let Some(Happening::Dialled(Event::DialRoom { id: 5, bytes })) = next.unwrap() else { panic!() };
            told.push(bytes);
            credit += bytes;
            assert!(credit <= WINDOW);
        }
        drop(output);
        task.await.unwrap();
        assert_eq!(read.await.unwrap(), all, "what waited was written before the end");
        while let Some(Happening::Dialled(Event::DialRoom { bytes, .. })) = happened.recv().await {
            told.push(bytes);
        }
        assert!(told.iter().all(|bytes| *bytes >= WORTH_TELLING), "{told:?}");
        let told: usize = told.iter().sum();
        assert!(told <= all && all - told < WORTH_TELLING, "{told} of {all}");
    }
}
