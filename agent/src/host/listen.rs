//! Where on loopback this host's programs find the agent: a usual port that people can learn, another where somebody
//! else has it, and the same one again after a restart, because by then it was written down somewhere.
//!
//! Owns the files that remember it. What listens there is the caller's.

use std::{io, net::SocketAddr, path::Path};

use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::durable;

/// Connections that may wait to be taken. Of a burst beyond it the kernel forgets some, whose clients wait for nothing.
const BACKLOG: u32 = 1024;
/// Ports tried after the usual one, where other agents of this computer or other programs have it.
const FURTHER: u16 = 15;
/// Ports of the system's choice that are tried then: of two sockets with one number the second may be taken.
const ANY: [u16; 8] = [0; 8];
/// Ports below are the system's.
const FIRST_OF_USERS: u16 = 1024;

/// Binds by `bind`, which gives what it bound and its port, to the port remembered in `kept`, else `usual`, one of the
/// next, or any; remembers it. The last error is that of the last try.
pub async fn bind<T, Bound>(usual: u16, kept: &Path, bind: impl Fn(u16) -> Bound) -> io::Result<T>
where
    Bound: Future<Output = io::Result<(T, u16)>>,
{
    let remembered = std::fs::read_to_string(kept).unwrap_or_default();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in candidates(usual, &remembered) {
        match bind(candidate).await {
            Ok((bound, port)) => {
                let text = format!("{port} {usual}\n");
                if text != remembered
                    && let Err(error) = durable::write(kept, text.as_bytes())
                {
                    tracing::warn!(%error, port, "a port is not remembered");
                }
                return Ok(bound);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens at one address; connections of a moment ago do not hold its port.
pub fn tcp(here: SocketAddr) -> io::Result<TcpListener> {
    let socket = if here.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(here)?;
    socket.listen(BACKLOG)
}

/// Takes datagrams at one address.
pub fn udp(here: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(here)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Gives the usual port and those that are tried after it.
pub fn usual(usual: u16) -> impl Iterator<Item = u16> {
    usual..=usual.saturating_add(FURTHER)
}

/// Gives the port that is remembered in `kept`.
pub fn kept(usual: u16, kept: &Path) -> Option<u16> {
    remembered(usual, &std::fs::read_to_string(kept).ok()?)
}

/// Gives the ports to try in order.
fn candidates(usual: u16, text: &str) -> impl Iterator<Item = u16> {
    remembered(usual, text).into_iter().chain(self::usual(usual)).chain(ANY)
}

/// What is remembered counts as long as the same port is usual; without that word it was written by an agent that also
/// kept what it was told, so that a system's port (53) does not count.
fn remembered(usual: u16, text: &str) -> Option<u16> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let (port, of): (Option<u16>, _) = (words.next().flatten(), words.next().unwrap_or(Some(usual)));
    port.filter(|port| of == Some(usual) && *port >= usual.min(FIRST_OF_USERS))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    async fn on_loopback(port: u16) -> io::Result<(TcpListener, u16)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn what_is_remembered_comes_first_as_long_as_the_same_port_is_usual() {
        let first = |remembered: &str| candidates(7080, remembered).next();
        assert_eq!(first("7083 7080\n"), Some(7083));
        assert_eq!(first("40001\n"), Some(40001));
        for other in ["", "53\n", "7083 9000\n", "x", "7083 x"] {
            assert_eq!(first(other), Some(7080), "{other:?}");
        }
        assert_eq!(candidates(65535, "").collect::<Vec<_>>(), [&[65535][..], &ANY].concat());
        assert_eq!(candidates(7080, "").count(), 16 + ANY.len());
    }

    #[tokio::test]
    async fn a_taken_port_means_another_one_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("some.port");
        let taken = on_loopback(0).await.unwrap().0;
        let usual = port(&taken);
        let first = bind(usual, &kept, on_loopback).await.unwrap();
        assert_ne!(port(&first), usual);
        let stands_in = port(&first);
        drop((first, taken));
        let again = bind(usual, &kept, on_loopback).await.unwrap();
        assert_eq!(port(&again), stands_in, "people have written it down");
    }
}
