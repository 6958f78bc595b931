//! The name server's TCP side (RFC 7766): messages with their length before them, one after the other.
//! Few connections at once, so that idle ones take no descriptors from the rest of the agent; the next
//! client waits in the kernel until one has been idle for too long.

use std::{io, sync::Arc, time::Duration};

use mesh::link::Carrier;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::Answers;

/// A client that says nothing, or takes no answer, is cut off; loopback needs no more.
const IDLE: Duration = Duration::from_secs(2);
/// Pause after a connection could not be taken, for want of a descriptor.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, most: usize, answers: Arc<Answers>) {
    let slots = Arc::new(Semaphore::new(most));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a DNS connection was not taken");
                sleep(AGAIN).await;
                continue;
            }
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let ended = carry(stream, &answers).await;
            tracing::trace!(?ended, "a DNS connection ended");
            drop(slot);
        });
    }
}

async fn carry(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    loop {
        let message = timeout(IDLE, read(&mut stream)).await??;
        // What is no question is answered by the end of the connection.
        let answer = answers.answer(&message, Carrier::Stream).await;
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&bytes)).await??;
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
