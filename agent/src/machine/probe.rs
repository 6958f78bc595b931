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
/// `HTTP/1.1 200`: what has to be read of an answer.
const STATUS_LINE_BYTES: usize = 12;

/// Carries out one check.
pub async fn ready(shim: &Shim, port: u16, probe: &Probe) -> bool {
    let check = async {
        let stream = shim.dial(port).await?;
        match probe {
            Probe::Tcp => Ok(true),
            Probe::Http(path) => http(stream, path).await,
        }
    };
    timeout(WITHIN, check).await.is_ok_and(|answer: io::Result<bool>| answer.unwrap_or(false))
}

async fn http(mut stream: UnixStream, path: &str) -> io::Result<bool> {
    // A name of the topology's file must not become a second header.
    let path: String = path.chars().filter(|c| !c.is_control() && *c != ' ').collect();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mesh\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut line).await?;
    Ok(good(&line))
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
        assert!(timeout(WITHIN, http(client, "/health\r\nX: y")).await.unwrap().unwrap());
        assert!(answer.await.unwrap().starts_with("GET /healthX:y HTTP/1.1\r\n"));
    }
}
