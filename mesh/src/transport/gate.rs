//! Who may talk to this host: asked after every handshake, before a protocol sees a byte.
//! Members may speak every protocol; strangers only `mesh/join/1`. Remembers every open connection
//! by a weak handle, so that a host can be cut off and a path can be shown.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    TransportAddr,
    endpoint::{
        AfterHandshakeOutcome, Connection, ConnectionError, EndpointHooks, Incoming, IncomingAddr, Side,
        WeakConnectionHandle,
    },
    protocol::{IncomingFilter, IncomingFilterOutcome},
};
use proto::{
    id::HostId,
    membership::returning,
    reachability::{
        deaf::{Carried, Sounding},
        path::{self, Path, Remote, Sample},
        pulses::{LOOK_MS, Line, Pulses},
        traffic::{Lately, Traffic},
    },
    trust::Sealed,
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    clock::Clock,
    identity, join,
    members::roster::Roster,
    transport::{
        protocols::{JOIN, LIBP2P},
        threshold::Threshold,
    },
};

/// Looks that wait to be heard of: a second of them.
const LOOKS: usize = 4;
/// What a rejected host reads when its connection is closed.
pub(crate) const NOT_MEMBER: (u32, &[u8]) = (403, b"not a member");
/// What a host reads that is out of the mesh, with the word that put it out.
const OUT: u32 = 410;
/// What a host reads that this one gives up on.
const STALE: (u32, &[u8]) = (408, b"stale");

/// The gate; cheap to clone. It holds no endpoint, which would never be dropped then.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    roster: Arc<Roster>,
    open: Arc<Mutex<HashMap<HostId, Vec<WeakConnectionHandle>>>>,
    traffic: Arc<Mutex<Traffic>>,
    threshold: Threshold,
}

impl Gate {
    pub(crate) fn new(me: HostId, roster: Arc<Roster>) -> Gate {
        let traffic = Arc::new(Mutex::new(Traffic::new(Clock.moment())));
        let threshold = Threshold::new(me, roster.clone());
        Gate { roster, open: Arc::default(), traffic, threshold }
    }

    /// Tells whether a host belongs to the mesh.
    pub(crate) fn is_member(&self, host: &HostId) -> bool {
        self.roster.roll().members.contains_key(host)
    }

    /// Waits until this host serves members, and tells whether it then serves this one.
    pub(crate) async fn lets_in(&self, host: &HostId) -> bool {
        self.threshold.lets_in(host).await
    }

    /// Gives where members wait for this host.
    pub(crate) fn threshold(&self) -> Threshold {
        self.threshold.clone()
    }

    /// Tells the threshold what happens, and gives what is to be done.
    pub(crate) fn come_back(&self, event: returning::Event) -> Vec<returning::Effect> {
        self.threshold.on(event)
    }

    /// Closes every connection with a host. iroh keeps no memory of a way afterwards, which is what
    /// lets the next dial look for a new one.
    pub(crate) fn close(&self, host: &HostId) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
        for connection in open.into_iter().flatten().filter_map(|weak| weak.upgrade()) {
            connection.close(STALE.0.into(), STALE.1);
        }
    }

    /// Closes every connection over which members are served, and none over which they talk with each other: whoever
    /// opens one anew waits at the threshold.
    pub(crate) fn start_over(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connections = open.into_values().flatten().filter_map(|weak| weak.upgrade());
        let serving = connections.filter(|connection| ![LIBP2P, JOIN].contains(&connection.alpn()));
        serving.for_each(|connection| connection.close(STALE.0.into(), STALE.1));
    }

    /// Lists the open connections with a host that carry libp2p, the newest first.
    fn carriers(&self, host: &HostId) -> impl Iterator<Item = Connection> + use<> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        let newest_first = open.into_iter().flatten().rev().filter_map(|weak| weak.upgrade());
        newest_first.filter(|connection| connection.alpn() == LIBP2P && connection.close_reason().is_none())
    }

    /// Sends a datagram on the newest connection that carries libp2p. It may be lost, as all of them.
    pub(crate) fn send(&self, host: &HostId, bytes: &Bytes) {
        self.carriers(host).take(1).for_each(|connection| send(&connection, bytes));
    }

    /// Sends it on every connection that carries libp2p.
    pub(crate) fn send_to_all(&self, host: &HostId, bytes: &Bytes) {
        self.carriers(host).for_each(|connection| send(&connection, bytes));
    }

    /// Cuts a host off that is out of the mesh, and shows it the word that put it out.
    pub(crate) fn cut_off(&self, host: &HostId) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
        let proof = self.proof(host);
        for connection in open.into_iter().flatten().filter_map(|weak| weak.upgrade()) {
            connection.close(OUT.into(), &proof);
        }
    }

    fn proof(&self, host: &HostId) -> Vec<u8> {
        self.roster.roll().set.proof_of_eviction(host).map(Sealed::encode).unwrap_or_default()
    }

    /// Hears why others close their connections: a host that was away learns so that it is out. Only a word that holds
    /// counts.
    fn hear_the_end(&self, host: HostId, connection: &Connection) {
        let (closed, roster) = (connection.weak_handle().closed(), self.roster.clone());
        tokio::spawn(async move {
            let Some(ConnectionError::ApplicationClosed(close)) = closed.await.map(|closed| closed.reason)
            else {
                return;
            };
            if close.error_code == OUT.into()
                && let Ok(sealed) = Sealed::decode(&close.reason)
            {
                roster.take(vec![sealed], Some(host));
            }
        });
    }

    /// Describes the way to a host, as measured on the connection that carries libp2p.
    pub(crate) fn path(&self, host: &HostId) -> Option<Path> {
        let samples: Vec<Sample> = self.carriers(host).flat_map(|connection| samples(&connection)).collect();
        path::describe(&samples)
    }

    /// Lists where a host's packets come from, on every open connection's straight paths.
    pub(crate) fn places(&self, host: &HostId) -> Vec<SocketAddr> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        let connections = open.into_iter().flatten().filter_map(|weak| weak.upgrade());
        let live = connections.filter(|connection| connection.close_reason().is_none());
        let all = live.flat_map(|connection| samples(&connection));
        let place = |sample: Sample| match sample.remote {
            Remote::Address(address) => Some(address),
            Remote::Relay(_) => None,
        };
        all.filter_map(place).collect()
    }

    /// Tells what every open connection has received, and by which ways.
    pub(crate) fn soundings(&self) -> Vec<Sounding> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut soundings = Vec::new();
        for (host, connections) in open {
            for connection in connections.into_iter().filter_map(|weak| weak.upgrade()) {
                if connection.close_reason().is_some() {
                    continue;
                }
                let (samples, stats) = (samples(&connection), connection.stats());
                soundings.push(Sounding {
                    host,
                    connection: connection.stable_id(),
                    received: stats.udp_rx.bytes,
                    sent: stats.udp_tx.bytes,
                    direct: samples.iter().any(|sample| matches!(sample.remote, Remote::Address(_))),
                    relayed: samples.iter().any(|sample| matches!(sample.remote, Remote::Relay(_))),
                    carried: carried(&connection),
                });
            }
        }
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.note(&soundings, Clock.moment());
        soundings
    }

    /// Keeps the ways in use alive at both ends, as `proto::reachability::pulses` says, and tells of whom something came.
    /// QUIC's own beats would go by each way, also by those that are only held ready.
    pub(crate) fn pulses(self) -> (impl Future<Output = ()>, mpsc::Receiver<BTreeSet<HostId>>) {
        let (sender, heard) = mpsc::channel(LOOKS);
        (self.pulse(sender), heard)
    }

    async fn pulse(self, heard: mpsc::Sender<BTreeSet<HostId>>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(LOOK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut pulses = Pulses::default();
        loop {
            ticks.tick().await;
            let (open, seen): (Vec<Connection>, Vec<Line>) = self.all_open().unzip();
            let look = pulses.look(&seen);
            let pulsing = open.iter().filter(|connection| look.pulses.contains(&connection.stable_id()));
            pulsing.for_each(|connection| send(connection, &Bytes::new()));
            if !look.heard.is_empty() {
                // A full queue is one of older news; who was heard then is heard again soon.
                heard.try_send(look.heard).ok();
            }
        }
    }

    /// Lists the open connections, with what is to be seen of each. The one for libp2p pulses at the end that dialled.
    fn all_open(&self) -> impl Iterator<Item = (Connection, Line)> + use<> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connections =
            open.into_iter().flat_map(|(host, weak)| weak.into_iter().map(move |weak| (host, weak)));
        let connections = connections.filter_map(|(host, weak)| Some((host, weak.upgrade()?)));
        connections.filter(|(_, connection)| connection.close_reason().is_none()).map(|(host, connection)| {
            let ours = connection.alpn() == LIBP2P && connection.side() == Side::Client;
            let came = connection.stats().frame_rx;
            let came = came.acks + came.path_acks + came.ping + came.datagram + came.stream;
            let seen = Line { host, connection: connection.stable_id(), came, ours };
            (connection, seen)
        })
    }

    /// Tells what all connections carried lately.
    pub(crate) fn lately(&self) -> Lately {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).lately(Clock.moment())
    }

    /// Turns relayed strangers away before the handshake on a host that could not let them in.
    pub(crate) fn filter(&self) -> IncomingFilter {
        let gate = self.clone();
        Arc::new(move |incoming: &Incoming| match incoming.remote_addr() {
            IncomingAddr::Relay { endpoint_id, .. } => {
                let host = identity::host_of_endpoint(&endpoint_id);
                match gate.is_member(&host) || join::is_open(&gate.roster.roll()) {
                    true => IncomingFilterOutcome::Accept,
                    false => IncomingFilterOutcome::Ignore,
                }
            }
            _ => IncomingFilterOutcome::Accept,
        })
    }

    fn remember(&self, host: HostId, connection: &Connection) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = open.entry(host).or_default();
        connections.retain(|weak| weak.upgrade().is_some_and(|open| open.close_reason().is_none()));
        connections.push(connection.weak_handle());
    }
}

impl EndpointHooks for Gate {
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        let host = identity::host_of_endpoint(&connection.remote_id());
        if self.is_member(&host) {
            self.remember(host, connection);
            self.hear_the_end(host, connection);
            return AfterHandshakeOutcome::Accept;
        }
        if connection.alpn() == JOIN {
            return AfterHandshakeOutcome::Accept;
        }
        tracing::debug!(?host, "rejected: not a member");
        if self.roster.roll().out.contains_key(&host) {
            return AfterHandshakeOutcome::Reject { error_code: OUT.into(), reason: self.proof(&host) };
        }
        AfterHandshakeOutcome::Reject { error_code: NOT_MEMBER.0.into(), reason: NOT_MEMBER.1.to_vec() }
    }
}

fn send(connection: &Connection, datagram: &Bytes) {
    if let Err(error) = connection.send_datagram(datagram.clone()) {
        let host = identity::host_of_endpoint(&connection.remote_id());
        tracing::trace!(host = %host.short(), %error, "a datagram was not sent");
    }
}

/// Sums up what its direct paths carried.
fn carried(connection: &Connection) -> Carried {
    let paths = connection.paths();
    let direct = paths.iter().filter(|path| path.is_ip()).map(|path| path.stats());
    direct.fold(Carried::default(), |sum, path| Carried {
        sent: sum.sent + path.sent_bytes,
        lost: sum.lost + path.lost_bytes,
        acknowledged: sum.acknowledged + path.frame_rx.acks + path.frame_rx.path_acks,
    })
}

fn samples(connection: &Connection) -> Vec<Sample> {
    let paths = connection.paths();
    let sample = |path: iroh::endpoint::Path<'_>| {
        let remote = match path.remote_addr() {
            TransportAddr::Ip(address) => Remote::Address(*address),
            TransportAddr::Relay(url) => Remote::Relay(url.to_string()),
            _ => return None,
        };
        Some(Sample { remote, selected: path.is_selected(), rtt_ms: path.rtt().as_secs_f64() * 1000.0 })
    };
    paths.iter().filter_map(sample).collect()
}
