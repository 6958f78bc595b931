//! UDP through forward addresses: what one client says to one port is a flow, led to one ready machine as a connection
//! would be, until nothing was said on it for a while. A flow more than there may be ends the one whose client was
//! silent longest: programs that ask once and go would else leave no room for hours' worth of silence. What finds a
//! queue full is lost, as on any network.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use mesh::net::{DATAGRAM_BYTES, Recent, datagrams};
use tokio::{
    net::UdpSocket,
    sync::mpsc::{self, error::TrySendError},
    time::sleep,
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    task::AbortOnDropHandle,
};

use super::{Inner, Listening};
use crate::access::{balance::Carried, places::lock};

/// Flows through all ports at once: half of the streams that one other host takes, which connections want too.
const FLOWS: usize = 256;
/// A flow on which nothing is said for so long, or twice as long at most, is over. RFC 4787 asks two minutes of routers.
const IDLE: Duration = Duration::from_secs(120);
/// Datagrams of one flow that may wait for its machine: 40 KiB at most.
const QUEUE: usize = 32;
/// Pause after the socket failed.
const AGAIN: Duration = Duration::from_millis(50);

/// The flows through all ports of this host.
#[derive(Default)]
pub(super) struct Flows(Mutex<Recent<Ends, Flow, FLOWS>>);

/// The port of a forward address, and who speaks to it.
type Ends = (SocketAddr, SocketAddr);

struct Flow {
    said: mpsc::Sender<Bytes>,
    /// Ends with the entry.
    _task: AbortOnDropHandle<()>,
}

impl Flows {
    /// Says a datagram on its flow. `Some`: there is none yet.
    fn say(&self, ends: &Ends, datagram: Bytes) -> Option<Bytes> {
        let mut flows = lock(&self.0);
        let Some(flow) = flows.use_of(ends) else { return Some(datagram) };
        match flow.said.try_send(datagram) {
            Ok(()) => None,
            Err(TrySendError::Closed(datagram)) => Some(datagram),
            Err(TrySendError::Full(_)) => {
                tracing::trace!(client = %ends.1, "a datagram is lost");
                None
            }
        }
    }
}

/// The flows through one port, which end with it.
struct Served(Arc<Inner>, SocketAddr);

impl Drop for Served {
    fn drop(&mut self) {
        lock(&self.0.flows.0).retain(|(here, _), _| *here != self.1);
    }
}

/// Serves a port until it is aborted; its flows end with it.
pub(super) async fn serve(inner: Arc<Inner>, socket: UdpSocket, listening: Listening) {
    let Listening { place, port, used } = listening;
    let Ok(here) = socket.local_addr() else { return };
    let (socket, _served) = (Arc::new(socket), Served(inner.clone(), here));
    let mut buffer = vec![0; DATAGRAM_BYTES + 1];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "no datagram was received");
                sleep(AGAIN).await;
                continue;
            }
        };
        *lock(&used) = Instant::now();
        let datagram = match buffer.get(..length) {
            Some(datagram) if length <= DATAGRAM_BYTES => Bytes::copy_from_slice(datagram),
            // No packet of a guest would hold it.
            _ => continue,
        };
        let Some(first) = inner.flows.say(&(here, client), datagram) else { continue };
        let (said, hears) = mpsc::channel(QUEUE);
        // There is room for the first one.
        said.try_send(first).ok();
        let (carrying, place, socket) = (inner.clone(), place.clone(), socket.clone());
        // Held, so that it is taken in before it can end.
        let mut flows = lock(&inner.flows.0);
        let task = tokio::spawn(async move {
            match carrying.balance.connect(&place, port).await {
                Ok(carried) => carry(carried, hears, (&socket, client)).await,
                Err(error) => {
                    drop(hears);
                    tracing::debug!(?place, ?port, %error, "a flow was taken by nobody");
                }
            }
            lock(&carrying.flows.0).retain(|_, flow| !flow.said.is_closed());
        });
        let flow = Flow { said, _task: AbortOnDropHandle::new(task) };
        flows.insert((here, client), flow);
    }
}

/// Carries one flow both ways until either side has gone, or says nothing more.
async fn carry(
    carried: Carried,
    mut hears: mpsc::Receiver<Bytes>,
    (socket, client): (&UdpSocket, SocketAddr),
) {
    let Carried { stream, counted: _counted } = carried;
    let (read, write) = tokio::io::split(stream);
    let (mut from, mut to) = (FramedRead::new(read, datagrams()), FramedWrite::new(write, datagrams()));
    let lives = AtomicBool::new(true);
    let there = async {
        while let Some(datagram) = hears.recv().await {
            lives.store(true, Relaxed);
            if to.send(datagram).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Some(Ok(datagram)) = from.next().await {
            lives.store(true, Relaxed);
            if let Err(error) = socket.send_to(&datagram, client).await {
                tracing::trace!(%client, %error, "a datagram is lost");
            }
        }
    };
    let quiet = async {
        while lives.swap(false, Relaxed) {
            sleep(IDLE).await;
        }
    };
    // What waits in the other direction nobody is left to hear.
    tokio::select! {
        () = there => {}
        () = back => {}
        () = quiet => {}
    }
}

#[cfg(test)]
mod tests {
    use proto::topology::{Port, Protocol};
    use tokio_util::codec::Framed;

    use super::*;
    use crate::access::{balance::MOST_EACH, fixture};

    /// A port of each test's own: they run at once, and have one address.
    const fn udp(number: u16) -> Port {
        Port { number, protocol: Protocol::Udp }
    }

    /// A machine that says back what it is told, with its name.
    async fn echo(machine: proto::id::MachineName, port: u16, stream: tokio::io::DuplexStream) {
        let mut flow = Framed::new(stream, datagrams());
        while let Some(Ok(told)) = flow.next().await {
            let said = format!("{machine}:{port} {}", told.escape_ascii());
            flow.send(Bytes::from(said)).await.unwrap();
        }
    }

    /// A machine that says which datagram of its flow it was told.
    async fn counts(_: proto::id::MachineName, _: u16, stream: tokio::io::DuplexStream) {
        let mut flow = Framed::new(stream, datagrams());
        let mut nth = 0;
        while let Some(Ok(_)) = flow.next().await {
            nth += 1;
            flow.send(Bytes::from(nth.to_string())).await.unwrap();
        }
    }

    async fn until_so(so: impl Fn() -> bool) {
        let waits = async {
            while !so() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waits).await.expect("in time");
    }

    async fn client(here: std::net::SocketAddrV4) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(here).await.unwrap();
        socket
    }

    async fn asked(client: &UdpSocket, what: &str) -> String {
        client.send(what.as_bytes()).await.unwrap();
        let mut buffer = [0; 2000];
        let heard = tokio::time::timeout(Duration::from_secs(20), client.recv(&mut buffer));
        let length = heard.await.expect("an answer in time").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_client_has_a_flow_of_its_own_and_the_next_one_goes_to_the_next_machine() {
        const DNS: Port = udp(0x5f10);
        let dir = tempfile::tempdir().unwrap();
        let forwards = fixture::forwards(&dir, &["web-1", "web-2"], echo);
        let here = forwards.open((fixture::SESSION, "web"), [DNS]).await.unwrap()[&DNS];
        let (one, two) = (client(here).await, client(here).await);
        assert_eq!(asked(&one, "a").await, format!("web-1:{} a", DNS.number));
        assert_eq!(asked(&two, "b").await, format!("web-2:{} b", DNS.number));
        assert_eq!(asked(&one, "").await, format!("web-1:{} ", DNS.number));
        // One of the same number that speaks TCP is another port.
        let tcp = forwards.open((fixture::SESSION, "web"), [DNS.number]).await.unwrap();
        assert_eq!(tcp[&Port::from(DNS.number)], here);
        one.send(&[7; DATAGRAM_BYTES + 1]).await.unwrap();
        assert_eq!(asked(&one, "after one that is too long").await.split(' ').count(), 7);
        assert!(forwards.close((fixture::SESSION, "web"), DNS));
    }

    #[tokio::test]
    async fn one_flow_too_many_ends_the_one_that_was_silent_longest() {
        const DNS: Port = udp(0x5f11);
        let dir = tempfile::tempdir().unwrap();
        let forwards = fixture::forwards(&dir, &["web-1"], counts);
        let here = forwards.open((fixture::SESSION, "web"), [DNS]).await.unwrap()[&DNS];
        let speaks = client(here).await;
        let mut clients = Vec::new();
        for nth in 1..=FLOWS + 10 {
            let client = client(here).await;
            assert_eq!(asked(&client, "once").await, "1");
            // Kept: its port would be the next one's.
            clients.push(client);
            assert_eq!(asked(&speaks, "all the time").await, nth.to_string());
        }
        assert_eq!(asked(&clients[0], "again").await, "1", "its flow is another one");
        for _ in 0..MOST_EACH {
            let connected = forwards.connect((fixture::SESSION, "web"), 80_u16).await;
            assert!(connected.is_ok(), "connections have places of their own");
        }
        until_so(|| forwards.connections() <= FLOWS).await;
    }

    #[tokio::test]
    async fn flows_end_with_their_port() {
        const DNS: Port = udp(0x5f12);
        let dir = tempfile::tempdir().unwrap();
        let forwards = fixture::forwards(&dir, &["web-1"], echo);
        let here = forwards.open((fixture::SESSION, "web"), [DNS]).await.unwrap()[&DNS];
        asked(&client(here).await, "x").await;
        assert!(forwards.close((fixture::SESSION, "web"), DNS));
        until_so(|| forwards.connections() == 0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_on_which_nothing_is_said_ends() {
        const DNS: Port = udp(0x5f13);
        let dir = tempfile::tempdir().unwrap();
        let forwards = fixture::forwards(&dir, &["web-1"], echo);
        let here = forwards.open((fixture::SESSION, "web"), [DNS]).await.unwrap()[&DNS];
        let client = client(here).await;
        client.send(b"x").await.unwrap();
        while forwards.connections() == 0 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        while forwards.connections() > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        assert!(
            (IDLE..=2 * IDLE + Duration::from_secs(2)).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
    }
}
