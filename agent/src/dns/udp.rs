//! The name server's UDP side. One task: what is answered from memory is answered before the next question is read, and
//! questions that came together are answered together, because waking whoever asked costs more than an answer; what must
//! wait, because a forward begins to listen, waits in a task of its own.

use std::{io::IoSlice, net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt;
use mesh::link::Carrier;
use proto::names::View;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg, sendmmsg};
use tokio::{io::Interest, net::UdpSocket, sync::Semaphore, time::sleep};

use super::{Resolve, respond::respond};

/// Questions that wait at once. Beyond them a question is lost, and asked again, as on any network.
const MAX_WAITING: usize = 64;
/// Questions that are answered together at most: the first one waits for the others, some 10 us for each.
const TOGETHER: usize = 32;
/// The longest datagram there can be.
const BUFFER_BYTES: usize = 65_535;
/// Pause after the socket failed.
const AGAIN: Duration = Duration::from_millis(100);

/// An answer and who asked.
type Addressed = (Vec<u8>, SocketAddr);

/// Serves until it is dropped.
pub async fn serve(socket: UdpSocket, resolve: Resolve) {
    let (socket, waiting) = (Arc::new(socket), Arc::new(Semaphore::new(MAX_WAITING)));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut answers = Vec::new();
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
            answers.extend(answer(&buffer[..length], from, &socket, &resolve, &waiting));
            // What fails here fails above, or not again.
            received = if more > 0 { socket.try_recv_from(&mut buffer).ok() } else { None };
            more = more.saturating_sub(1);
        }
        send(&socket, &answers).await;
        answers.clear();
    }
}

/// Answers a question, unless it must wait: then that is done elsewhere.
fn answer(
    message: &[u8],
    from: SocketAddr,
    socket: &Arc<UdpSocket>,
    resolve: &Resolve,
    waiting: &Arc<Semaphore>,
) -> Option<Addressed> {
    let (message, resolve) = (message.to_vec(), resolve.clone());
    let mut answering =
        Box::pin(async move { respond(&message, View::Host, Carrier::Datagram, &resolve).await });
    if let Some(answer) = (&mut answering).now_or_never() {
        return answer.map(|answer| (answer, from));
    }
    let place = waiting.clone().try_acquire_owned().ok()?;
    let socket = socket.clone();
    tokio::spawn(async move {
        if let Some(answer) = answering.await {
            send(&socket, &[(answer, from)]).await;
        }
        drop(place);
    });
    None
}

/// Sends all of them, or tells which were not sent.
async fn send(socket: &UdpSocket, mut answers: &[Addressed]) {
    while !answers.is_empty() {
        let sent = socket.async_io(Interest::WRITABLE, || Ok(send_some(socket, answers)?)).await;
        if let Err(error) = &sent {
            // Only the first one's is told; what comes after it is tried.
            tracing::debug!(%error, "a DNS answer was not sent");
        }
        answers = answers.get(sent.unwrap_or(1)..).unwrap_or_default();
    }
}

/// Sends as many as the system takes at once, from the first one on.
fn send_some(socket: &UdpSocket, answers: &[Addressed]) -> rustix::io::Result<usize> {
    let addresses: Vec<SocketAddrAny> = answers.iter().map(|(_, from)| from.as_any()).collect();
    let bytes: Vec<[IoSlice; 1]> = answers.iter().map(|(answer, _)| [IoSlice::new(answer)]).collect();
    let mut controls: Vec<_> = answers.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let parts = addresses.iter().zip(&bytes).zip(&mut controls);
    let mut messages: Vec<MMsgHdr> =
        parts.map(|((to, bytes), control)| MMsgHdr::new_with_addr(to, bytes, control)).collect();
    sendmmsg(socket, &mut messages, SendFlags::empty())
}
