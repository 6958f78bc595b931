//! The name server's UDP side. One task on a thread of its own: an answer takes microseconds, and would wait for
//! milliseconds where all threads of the agent hash an image. What is answered from memory is answered before the next
//! question is read, and questions that came together are answered together, because waking whoever asked costs more than
//! an answer; what must wait, because a forward begins to listen, waits in a task of its own, with the rest of the agent.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    thread,
    time::Duration,
};

use futures::FutureExt;
use mesh::link::Carrier;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg, sendmmsg};
use tokio::{
    io::Interest,
    net::UdpSocket,
    runtime::{self, Handle},
    sync::{Semaphore, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::Answers;

/// Questions that wait at once. Beyond them a question is lost, and asked again, as on any network.
const MAX_WAITING: usize = 64;
/// Questions that are answered together at most: the first one waits for the others, some 2 us for each.
const TOGETHER: usize = 32;
/// The longest datagram there can be.
const BUFFER_BYTES: usize = 65_535;
/// Pause after the socket failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop`. An error: it cannot begin.
pub async fn serve(socket: UdpSocket, answers: Arc<Answers>, stop: CancellationToken) -> io::Result<()> {
    let (agent, socket) = (Handle::current(), socket.into_std()?);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (ends, ended) = oneshot::channel::<()>();
    thread::Builder::new().name("names".to_owned()).spawn(move || {
        runtime.block_on(async {
            match UdpSocket::from_std(socket) {
                Ok(socket) => drop(stop.run_until_cancelled(answer_all(socket, answers, agent)).await),
                Err(error) => tracing::error!(%error, "names are not answered by UDP"),
            }
        });
        drop(runtime);
        drop(ends);
    })?;
    // It says nothing; that it is gone is what counts.
    ended.await.ok();
    Ok(())
}

async fn answer_all(socket: UdpSocket, answers: Arc<Answers>, agent: Handle) {
    let (socket, waiting) = (Arc::new(socket), Arc::new(Semaphore::new(MAX_WAITING)));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut batch = Batch::default();
    loop {
        let mut received = match socket.recv_from(&mut buffer).await {
            Ok(received) => Some(received),
            Err(error) => {
                tracing::debug!(%error, "no DNS question was received");
                sleep(AGAIN).await;
                continue;
            }
        };
        let mut more = TOGETHER - 1;
        while let Some((length, from)) = received {
            let message = &buffer[..length];
            if !batch.push(from, |bytes| answers.remembered(message, bytes))
                && let Some(answer) = answer(message, from, &socket, &answers, &waiting, &agent)
            {
                batch.push(from, |bytes| {
                    bytes.extend_from_slice(&answer);
                    true
                });
            }
            // What fails here fails above, or not again.
            received = if more > 0 { socket.try_recv_from(&mut buffer).ok() } else { None };
            more = more.saturating_sub(1);
        }
        batch.send(&socket).await;
    }
}

/// Answers a question anew, unless it must wait: then that is done elsewhere.
fn answer(
    message: &[u8],
    from: SocketAddr,
    socket: &Arc<UdpSocket>,
    answers: &Arc<Answers>,
    waiting: &Arc<Semaphore>,
    agent: &Handle,
) -> Option<Vec<u8>> {
    // What begins to listen for a name listens as long as the agent runs, not this thread.
    let _entered = agent.enter();
    let (message, answers) = (message.to_vec(), answers.clone());
    let mut answering = Box::pin(async move { answers.fresh(&message, Carrier::Datagram).await });
    if let Some(answer) = (&mut answering).now_or_never() {
        return answer;
    }
    let place = waiting.clone().try_acquire_owned().ok()?;
    let socket = socket.clone();
    agent.spawn(async move {
        if let Some(answer) = answering.await
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::debug!(%error, "a DNS answer was not sent");
        }
        drop(place);
    });
    None
}

/// Answers that are sent together, one after the other in one buffer, which is used again.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each one is, and who asked.
    answers: Vec<(Range<usize>, SocketAddrAny)>,
}

impl Batch {
    /// Takes an answer in, if `write` wrote one after what is there. Tells whether it did.
    fn push(&mut self, from: SocketAddr, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let begin = self.bytes.len();
        let written = write(&mut self.bytes);
        if written {
            self.answers.push((begin..self.bytes.len(), from.as_any()));
        }
        written
    }

    /// Sends all of them, or tells which were not sent.
    async fn send(&mut self, socket: &UdpSocket) {
        let mut rest = &self.answers[..];
        while !rest.is_empty() {
            let sent = socket.async_io(Interest::WRITABLE, || Ok(self.send_some(socket, rest)?)).await;
            if let Err(error) = &sent {
                // Only the first one's is told; what comes after it is tried.
                tracing::debug!(%error, "a DNS answer was not sent");
            }
            rest = rest.get(sent.unwrap_or(1)..).unwrap_or_default();
        }
        self.bytes.clear();
        self.answers.clear();
    }

    /// Sends as many as the system takes at once, from the first one on.
    fn send_some(
        &self,
        socket: &UdpSocket,
        answers: &[(Range<usize>, SocketAddrAny)],
    ) -> rustix::io::Result<usize> {
        let bytes: Vec<[IoSlice; 1]> =
            answers.iter().map(|(place, _)| [IoSlice::new(&self.bytes[place.clone()])]).collect();
        let mut controls: Vec<_> = answers.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let parts = answers.iter().zip(&bytes).zip(&mut controls);
        let mut messages: Vec<MMsgHdr> =
            parts.map(|(((_, to), bytes), control)| MMsgHdr::new_with_addr(to, bytes, control)).collect();
        sendmmsg(socket, &mut messages, SendFlags::empty())
    }
}
