//! The name server's UDP side. One task: what is answered from memory is answered before the next question is read;
//! what must wait, because a forward begins to listen, waits in a task of its own.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use mesh::link::Carrier;
use proto::names::View;
use tokio::{net::UdpSocket, sync::Semaphore, time::sleep};

use super::{Resolve, respond::respond};

/// Questions that wait at once. Beyond them a question is lost, and asked again, as on any network.
const MAX_WAITING: usize = 64;
/// The longest datagram there can be.
const BUFFER_BYTES: usize = 65_535;
/// Pause after the socket failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(socket: UdpSocket, resolve: Resolve) {
    let (socket, waiting) = (Arc::new(socket), Arc::new(Semaphore::new(MAX_WAITING)));
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "no DNS question was received");
                sleep(AGAIN).await;
                continue;
            }
        };
        let (message, resolve, socket) = (buffer[..length].to_vec(), resolve.clone(), socket.clone());
        let mut answering = Box::pin(async move {
            let answer = respond(&message, View::Host, Carrier::Datagram, &resolve).await;
            if let Some(answer) = answer
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "a DNS answer was not sent");
            }
        });
        if (&mut answering).now_or_never().is_none()
            && let Ok(place) = waiting.clone().try_acquire_owned()
        {
            tokio::spawn(async move {
                answering.await;
                drop(place);
            });
        }
    }
}
