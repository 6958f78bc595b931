//! Whether a service of a machine is ready: asks its port through the shim, as a client would.

use std::{io, time::Duration};

use proto::topology::Probe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::handle::Shim;

/// How long a check may take. A translated guest under load answers in 2 to 3 s.
const WITHIN: Duration = Duration::from_secs(8);
/// What is read of an answer after its verdict, so that the service sees its answer taken, not a reset.
const POLITE_BYTES: u64 = 256 * 1024;
/// How long an answer that goes on is listened to.
const POLITE: Duration = Duration::from_secs(1);
/// `HTTP/1.1 200`: what has to be read of an answer.
const STATUS_LINE_BYTES: usize = 12;

/// Carries out one check.
pub async fn ready(shim: &Shim, port: u16, probe: &Probe) -> bool {
    let check = async {
        let stream = shim.dial(port).await?;
        match probe {
            Probe::Tcp => tcp(stream).await,
            Probe::Http(path) => http(stream, path).await,
        }
    };
    match timeout(WITHIN, check).await {
        Ok(Ok((ready, stream))) => {
            // The verdict need not wait for the goodbye.
            tokio::spawn(hang_up(stream));
            ready
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Takes the rest of what the service says, within reason, and hangs up.
async fn hang_up(stream: UnixStream) {
    let mut rest = stream.take(POLITE_BYTES);
    // How the connection ends changes no verdict.
    timeout(POLITE, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await.ok();
}

/// A port that takes the connection is ready; it is told at once that nothing follows.
async fn tcp(mut stream: UnixStream) -> io::Result<(bool, UnixStream)> {
    stream.shutdown().await?;
    Ok((true, stream))
}

/// Asks, and gives the verdict with the connection that it came over.
async fn http(mut stream: UnixStream, path: &str) -> io::Result<(bool, UnixStream)> {
    // A name of the topology's file must not become a second header.
    let path: String = path.chars().filter(|c| !c.is_control() && *c != ' ').collect();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mesh\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut line).await?;
    Ok((good(&line), stream))
}

fn good(line: &[u8; STATUS_LINE_BYTES]) -> bool {
    line.starts_with(b"HTTP/1.") && matches!(line[9], b'1'..=b'3') && line[8] == b' '
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_below_400_are_ready() {
        assert!(good(b"HTTP/1.1 200") && good(b"HTTP/1.0 302"));
        assert!(!good(b"HTTP/1.1 404") && !good(b"HTTP/1.1 500") && !good(b"SSH-2.0-drop"));
    }

    #[tokio::test]
    async fn a_server_that_answers_is_asked_for_the_path() {
        let (client, mut server) = UnixStream::pair().unwrap();
        let answer = tokio::spawn(async move {
            let mut asked = [0; 512];
            let count = server.read(&mut asked).await.unwrap();
            server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        assert!(timeout(WITHIN, http(client, "/health\r\nX: y")).await.unwrap().unwrap().0);
        assert!(answer.await.unwrap().starts_with("GET /healthX:y HTTP/1.1\r\n"));
    }
}
