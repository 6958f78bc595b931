//! Finds members on the same LAN, whatever is known of their addresses: asks by multicast who is here, and answers.
//! Anybody on the LAN can answer, so what is heard is a claim: only where a look proves that the member is there, it is
//! dialled. Speaks on real networks with private IPv4 addresses only, and only while somebody is missing or something
//! changed.

mod claims;
mod look;
mod message;
mod pace;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdSocket},
    sync::Arc,
    time::Duration,
};

use proto::{
    addresses::{Net, is_public},
    id::HostId,
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with,
    sockopt::{set_ip_add_membership, set_ip_multicast_if, set_ip_multicast_ttl, set_socket_reuseaddr},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
};

use crate::{clock::Clock, members::roster::Roll, reach::addresses::Interfaces};
use claims::Claims;
pub(crate) use look::{Claim, Looks};
use pace::Pace;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// Networks on which this host speaks.
const MAX_LANS: usize = 8;
/// How often a survey asks: packets for everybody are lost where there is Wi-Fi.
const QUESTIONS: u32 = 3;
/// Hosts that a survey lists.
const MAX_FOUND: usize = 32;
/// Between two tries to get the port, which another program may hold for itself.
const AGAIN: Duration = Duration::from_secs(60);

/// What the search works with.
pub(crate) struct Search {
    pub(crate) me: HostId,
    /// Where this host's endpoint listens.
    pub(crate) port: u16,
    pub(crate) interfaces: watch::Receiver<Arc<Interfaces>>,
    pub(crate) connected: watch::Receiver<BTreeSet<HostId>>,
    pub(crate) roll: watch::Receiver<Arc<Roll>>,
    pub(crate) claims: mpsc::Sender<Claim>,
}

impl Search {
    /// Runs until the mesh ends.
    pub(crate) async fn run(mut self) {
        loop {
            let lans = lans(&self.interfaces.borrow_and_update());
            let ended = match open(&lans) {
                Ok(socket) => self.attend(&socket, &lans).await,
                Err(error) => {
                    tracing::debug!(%error, "members on the LAN are not looked for now");
                    tokio::time::timeout(AGAIN, self.interfaces.changed())
                        .await
                        .is_ok_and(|changed| changed.is_err())
                }
            };
            if ended {
                return;
            }
        }
    }

    /// Speaks and listens until the networks change. Tells whether the mesh has ended.
    async fn attend(&mut self, socket: &UdpSocket, lans: &[Net]) -> bool {
        let (mut pace, mut claims) = (Pace::new(lans.len(), Clock.moment()), Claims::default());
        let mut buffer = [0; message::MAX_BYTES];
        let mut before = self.connected.borrow_and_update().len();
        loop {
            let now = Clock.moment();
            for lan in pace.answers_due(now) {
                say(socket, &lans[lan], message::answer(self.me, self.port)).await;
            }
            if pace.question_due(now, self.is_anybody_missing()) {
                for lan in lans {
                    say(socket, lan, message::answer(self.me, self.port)).await;
                    say(socket, lan, message::question()).await;
                }
            }
            // Cancel-safe: a receive, watches, and a timer.
            tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.hear(&buffer[..length], from, lans, (&mut pace, &mut claims)),
                    // A network that is down; its interface is about to change.
                    Err(error) => {
                        tracing::debug!(%error, "nothing is heard on the LAN");
                        return tokio::time::timeout(AGAIN, self.interfaces.changed()).await.is_ok_and(|it| it.is_err());
                    }
                },
                changed = self.interfaces.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    let new = self::lans(&self.interfaces.borrow_and_update());
                    if new != lans {
                        return false;
                    }
                }
                changed = self.connected.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    let count = self.connected.borrow_and_update().len();
                    if count < before {
                        pace.hurry(Clock.moment());
                    }
                    before = count;
                }
                () = Clock.sleep_until(pace.next()) => {}
            }
        }
    }

    fn is_anybody_missing(&self) -> bool {
        let connected = self.connected.borrow();
        self.roll.borrow().members.keys().any(|host| *host != self.me && !connected.contains(host))
    }

    fn is_missing(&self, host: &HostId) -> bool {
        *host != self.me
            && self.roll.borrow().members.contains_key(host)
            && !self.connected.borrow().contains(host)
    }

    fn hear(&self, bytes: &[u8], from: SocketAddr, lans: &[Net], (pace, claims): (&mut Pace, &mut Claims)) {
        // Only neighbours: this port is no service for the world.
        let Some(lan) = lans.iter().position(|lan| lan.holds(&from.ip())) else { return };
        let (heard, now) = (message::read(bytes), Clock.moment());
        if heard.asks {
            pace.asked(lan, rand::random_range(20..120), now);
        }
        for (host, port) in heard.hosts {
            if self.is_missing(&host) && claims.is_due(host, from.ip(), now) {
                // A full queue means that others are looked for; it is said again.
                self.claims.try_send((host, SocketAddr::new(from.ip(), port))).ok();
            }
        }
    }
}

/// Asks who of any mesh is here, and gives whoever has answered by then.
pub(crate) async fn survey(interfaces: &Interfaces, within: Duration) -> Vec<(HostId, SocketAddr)> {
    let lans = lans(interfaces);
    let socket = match open(&lans) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%error, "nobody is looked for on the LAN");
            return Vec::new();
        }
    };
    let mut found = BTreeSet::new();
    let asking = async {
        let mut questions = tokio::time::interval(within / QUESTIONS);
        let mut asked = 0;
        let mut buffer = [0; message::MAX_BYTES];
        loop {
            // Cancel-safe: a receive and an interval.
            let (length, from) = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    Err(_) => return,
                },
                _ = questions.tick(), if asked < QUESTIONS => {
                    asked += 1;
                    for lan in &lans {
                        say(&socket, lan, message::question()).await;
                    }
                    continue;
                }
            };
            let near = lans.iter().any(|lan| lan.holds(&from.ip()));
            for (host, port) in message::read(&buffer[..length]).hosts.into_iter().filter(|_| near) {
                if found.len() < MAX_FOUND {
                    found.insert((host, SocketAddr::new(from.ip(), port)));
                }
            }
        }
    };
    // It never ends by itself, unless the network does.
    tokio::time::timeout(within, asking).await.ok();
    found.into_iter().collect()
}

async fn say(socket: &UdpSocket, lan: &Net, message: Option<Vec<u8>>) {
    let (std::net::IpAddr::V4(address), Some(message)) = (lan.address, message) else { return };
    let sent = match set_ip_multicast_if(socket, &address) {
        Ok(()) => socket.send_to(&message, SocketAddrV4::new(GROUP, PORT)).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = sent {
        tracing::trace!(%error, %address, "not said on the LAN");
    }
}

/// Chooses the networks on which this host speaks.
fn lans(interfaces: &Interfaces) -> Vec<Net> {
    let private = |net: &Net| match net.address {
        std::net::IpAddr::V4(address) => {
            !is_public(&net.address) && !address.is_link_local() && !address.is_loopback() && net.len < 32
        }
        std::net::IpAddr::V6(_) => false,
    };
    interfaces.lans().into_iter().filter(private).take(MAX_LANS).collect()
}

/// Takes the port of multicast DNS beside others who speak it here, and listens on the networks.
fn open(lans: &[Net]) -> io::Result<UdpSocket> {
    if lans.is_empty() {
        return Err(io::Error::other("there is no LAN"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_ip_multicast_ttl(&socket, 255)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
    let mut heard = 0;
    for lan in lans {
        if let std::net::IpAddr::V4(address) = lan.address {
            match set_ip_add_membership(&socket, &GROUP, &address) {
                Ok(()) => heard += 1,
                Err(error) => tracing::debug!(%error, %address, "no multicast on this network"),
            }
        }
    }
    if heard == 0 {
        return Err(io::Error::other("no network takes multicast"));
    }
    UdpSocket::from_std(StdSocket::from(socket))
}
