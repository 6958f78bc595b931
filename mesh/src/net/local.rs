//! The packet port of one machine of this host: keeps it open, carries packets between the shim
//! and the routes, and has the guest's DNS questions answered.

use std::{convert::Infallible, io, time::Duration};

use futures::{SinkExt, StreamExt, stream::FuturesUnordered};
use proto::{
    backoff::BackOff,
    id::{Epoch, MachineName, SessionId},
};
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
    time,
};
use tokio_util::codec::{FramedRead, FramedWrite};

use super::{Local, Net, Resolve, counts::Count};
use crate::link::{Carrier, PortCodec, PortMessage, WIRE_BYTES};

/// Messages that may wait for one guest: some 300 KiB, a router's worth of buffer.
pub(super) const QUEUE: usize = 256;
/// Messages that are written with one system call when there are that many.
const BATCH: usize = 64;
/// DNS questions of one guest that are answered at once.
const QUESTIONS: usize = 64;
/// A resolver has long asked again after this.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Between attempts to open the port: a shim restarts nothing, so it is there or gone for good.
const AGAIN: BackOff = BackOff::new(50, 5_000);

/// Which machine a port belongs to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub session: SessionId,
    pub machine: MachineName,
    pub epoch: Epoch,
}

/// Serves a machine until it is detached.
pub(super) async fn run(
    net: Net,
    place: Place,
    local: Local,
    answers: mpsc::Sender<PortMessage>,
    mut queue: mpsc::Receiver<PortMessage>,
) {
    let mut failures: u32 = 1;
    loop {
        match (local.network)().await {
            Ok(stream) => {
                let (read, write) = stream.into_split();
                // Both halves live in this task: when one fails, the other is dropped at any of
                // its awaits, which loses at most the messages in its hands.
                let lost = tokio::select! {
                    lost = from_guest(&net, &place, &local.resolve, &answers, read) => lost,
                    lost = to_guest(&mut queue, write) => lost,
                };
                let Err(error) = lost;
                tracing::debug!(machine = %place.machine, %error, "the packet port was lost");
                failures = 1;
            }
            Err(error) => {
                tracing::debug!(machine = %place.machine, %error, "the packet port does not open");
                failures = failures.saturating_add(1);
            }
        }
        time::sleep(AGAIN.after(failures)).await;
    }
}

async fn from_guest(
    net: &Net,
    place: &Place,
    resolve: &Resolve,
    answers: &mpsc::Sender<PortMessage>,
    read: OwnedReadHalf,
) -> io::Result<Infallible> {
    let mut messages = FramedRead::with_capacity(read, PortCodec, WIRE_BYTES);
    let mut questions = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Cancel-safe: the stream keeps a message that is not complete yet.
            message = messages.next() => match message.ok_or(io::ErrorKind::UnexpectedEof)?? {
                PortMessage::Packet(packet) => net.leaving(place, packet),
                PortMessage::Dns { .. } if questions.len() >= QUESTIONS => net.0.here.add(Count::DnsRefused),
                PortMessage::Dns { id, message } => {
                    let answer = time::timeout(ANSWER_WITHIN, resolve(message, Carrier::of(id)));
                    questions.push(async move { (id, answer.await.ok().flatten()) });
                }
            },
            // Cancel-safe: the set keeps what is not done.
            Some((id, answer)) = questions.next() => {
                let sent = answer.map(|message| answers.try_send(PortMessage::Dns { id, message }));
                if let Some(Err(_)) = sent {
                    net.0.here.add(Count::QueueFull);
                }
            }
        }
    }
}

async fn to_guest(queue: &mut mpsc::Receiver<PortMessage>, write: OwnedWriteHalf) -> io::Result<Infallible> {
    let mut port = FramedWrite::new(write, PortCodec);
    port.set_backpressure_boundary(WIRE_BYTES);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // The sender is in our caller's hands, so the queue never ends.
        queue.recv_many(&mut batch, BATCH).await;
        for message in batch.drain(..) {
            port.feed(message).await?;
        }
        port.flush().await?;
    }
}
