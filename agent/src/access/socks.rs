//! SOCKS5 on loopback (RFC 1928), for programs that can be told a proxy and speak other things than HTTP: it resolves
//! our zone itself, so that nothing of this host's names has to be set up. It leads to declared services of ready
//! machines and to what other hosts publish, and nowhere else: no way out to the internet.
//!
//! Owns its listener. One connection of a client is one into the mesh.

use std::{io, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use mesh::net::splice;
use proto::{names, picture::Picture};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{forward::Forwards, places::Place};
use crate::{host::listen, picture::Pictures};

/// A client that does not say in this time where it wants to go is cut off.
const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// What one connection holds in each direction.
const COPY_BYTES: usize = 32 * 1024;
/// Pause after a connection could not be taken, for want of a descriptor.
const AGAIN: Duration = Duration::from_millis(100);

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What is answered, by the numbers of RFC 1928, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Told {
    Done = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    Refused = 5,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

/// Where the proxy leads.
pub struct Proxy {
    /// How machines are reached.
    pub forwards: Forwards,
    /// What there is.
    pub pictures: Pictures,
    /// The zone's name.
    pub zone: String,
}

/// Binds loopback as [`listen::bind`] does.
pub async fn bind(usual: u16, kept: &Path) -> io::Result<TcpListener> {
    listen::bind(usual, kept, async |port| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    })
    .await
}

/// Serves until `stop`, `most` connections at once; the next one waits for its turn. They are places of their own: a
/// client that says nothing takes none from forwards.
pub async fn serve(listener: TcpListener, proxy: Proxy, most: usize, stop: CancellationToken) {
    let (proxy, slots) = (Arc::new(proxy), Arc::new(Semaphore::new(most)));
    stop.run_until_cancelled(async {
        // The semaphore is never closed.
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a SOCKS connection was not taken");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let ended = proxy.carry(stream).await;
                tracing::trace!(?ended, "a SOCKS connection ended");
                drop(slot);
            });
        }
    })
    .await;
}

impl Proxy {
    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true).ok();
        let asked = timeout(ASKED_WITHIN, read(&mut client)).await??;
        let (name, port) = match asked {
            Ok(asked) => asked,
            Err(told) => return answer(&mut client, told).await,
        };
        let place = match find(&self.pictures.now(), &self.zone, &name, port) {
            Ok(place) => place,
            Err(told) => return answer(&mut client, told).await,
        };
        let mut carried = match self.forwards.connect(place, port).await {
            Ok(carried) => carried,
            Err(error) => {
                let told = match error.kind() {
                    io::ErrorKind::ConnectionRefused => Told::Refused,
                    _ => Told::HostUnreachable,
                };
                return answer(&mut client, told).await;
            }
        };
        answer(&mut client, Told::Done).await?;
        splice(&mut client, &mut carried.stream, COPY_BYTES).await
    }
}

/// Finds the place of a name, if the port is one of its services.
fn find(picture: &Picture, zone: &str, name: &str, port: u16) -> Result<Place, Told> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let inner = name.strip_suffix(zone).and_then(|name| name.strip_suffix('.')).ok_or(Told::NotAllowed)?;
    if inner.ends_with(".host") {
        return proto::picture::zone::publisher(picture, inner, port)
            .map(Place::Host)
            .ok_or(Told::HostUnreachable);
    }
    let (label, session) = inner.split_once('.').ok_or(Told::HostUnreachable)?;
    let id = names::labels(&picture.shares).get(session).copied().ok_or(Told::HostUnreachable)?;
    let group = picture.share(id).and_then(|share| proto::picture::zone::group(share, label));
    let group = group.ok_or(Told::HostUnreachable)?;
    if !group.ports().any(|(_, of)| of == port.into()) {
        return Err(Told::NotAllowed);
    }
    Ok((id, label).into())
}

/// Reads what a client says first: its ways to identify itself, and where it wants to go.
pub(crate) async fn read(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Result<(String, u16), Told>> {
    if client.read_u8().await? != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks no SOCKS5"));
    }
    let mut methods = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it insists on a password"));
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read_exactly(client).await?;
    if version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks no SOCKS5"));
    }
    let name = match kind {
        NAME => {
            let mut name = vec![0; usize::from(client.read_u8().await?)];
            client.read_exact(&mut name).await?;
            String::from_utf8(name).ok()
        }
        IPV4 => read_exactly::<4>(client).await.map(|_| None)?,
        IPV6 => read_exactly::<16>(client).await.map(|_| None)?,
        _ => return Ok(Err(Told::NoSuchAddress)),
    };
    let port = client.read_u16().await?;
    if command != CONNECT {
        return Ok(Err(Told::NoSuchCommand));
    }
    Ok(name.map(|name| (name, port)).ok_or(Told::NotAllowed))
}

async fn read_exactly<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Answers; where it is bound is nobody's business, and zeros say so.
async fn answer(client: &mut TcpStream, told: Told) -> io::Result<()> {
    client.write_all(&[VERSION, told as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::fixture;

    async fn told_by(machine: proto::id::MachineName, port: u16, mut stream: tokio::io::DuplexStream) {
        stream.write_all(format!("{machine}:{port}").as_bytes()).await.ok();
    }

    const MOST: usize = 2;

    async fn proxy(dir: &tempfile::TempDir) -> std::net::SocketAddr {
        proxy_and_forwards(dir).await.0
    }

    async fn proxy_and_forwards(dir: &tempfile::TempDir) -> (std::net::SocketAddr, Forwards) {
        let forwards = fixture::forwards(dir, &["web-1"], told_by);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pictures = fixture::pictures();
        let proxy = Proxy { forwards: forwards.clone(), pictures, zone: "mesh.internal".into() };
        tokio::spawn(serve(listener, proxy, MOST, CancellationToken::new()));
        (address, forwards)
    }

    /// Asks for a name and a port; gives what was answered and what came afterwards.
    async fn ask(address: std::net::SocketAddr, command: u8, name: &str, port: u16) -> (u8, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[VERSION, 1, NO_AUTHENTICATION]).await.unwrap();
        assert_eq!(read_exactly::<2>(&mut stream).await.unwrap(), [VERSION, NO_AUTHENTICATION]);
        let mut asked = vec![VERSION, command, 0, NAME, name.len() as u8];
        asked.extend_from_slice(name.as_bytes());
        asked.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&asked).await.unwrap();
        let told = read_exactly::<10>(&mut stream).await.unwrap();
        let mut rest = String::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_string(&mut rest)).await;
        read.expect("an end in time").ok();
        (told[1], rest)
    }

    #[tokio::test]
    async fn it_leads_to_declared_services_of_the_zone_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let address = proxy(&dir).await;
        let found = ask(address, CONNECT, "web.shop.mesh.internal", 80).await;
        assert_eq!(found, (Told::Done as u8, "web-1:80".to_owned()));
        for (name, port, told) in [
            ("web.shop.mesh.internal", 22, Told::NotAllowed),
            ("example.org", 80, Told::NotAllowed),
            ("127.0.0.1", 80, Told::NotAllowed),
            ("no.shop.mesh.internal", 80, Told::HostUnreachable),
            ("web.blog.mesh.internal", 80, Told::HostUnreachable),
        ] {
            assert_eq!(ask(address, CONNECT, name, port).await.0, told as u8, "{name}:{port}");
        }
        assert_eq!(ask(address, 2, "web.shop.mesh.internal", 80).await.0, Told::NoSuchCommand as u8);
    }

    #[tokio::test]
    async fn a_browser_that_was_led_here_by_a_page_gets_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = TcpStream::connect(proxy(&dir).await).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await;
        // A reset is no answer either.
        read.expect("an end in time").ok();
        assert!(heard.is_empty(), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_take_no_place_of_forwards_and_give_theirs_back() {
        let dir = tempfile::tempdir().unwrap();
        let (address, forwards) = proxy_and_forwards(&dir).await;
        let mut silent = Vec::new();
        for _ in 0..fixture::FORWARDED + MOST {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[VERSION]).await.unwrap();
            silent.push(stream);
        }
        let here = forwards.open((fixture::SESSION, "web"), [0x5ef7_u16]).await.unwrap()[&0x5ef7_u16.into()];
        let mut heard = String::new();
        TcpStream::connect(here).await.unwrap().read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, format!("web-1:{}", 0x5ef7));
        // Whoever waits behind them gets its turn.
        let found = ask(address, CONNECT, "web.shop.mesh.internal", 80).await;
        assert_eq!(found.0, Told::Done as u8);
    }
}
