//! Carries chitchat's messages over `/mesh/gossip/1`: one long-lived stream for each host and
//! direction, reopened when it breaks. Gossip is soft, so what does not fit a queue is dropped.
//! The sender of a message is the host that the connection proved, never what the bytes say.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport},
};
use libp2p::Stream;
use proto::{
    facts::Fact,
    firewall::{self, DropBecause, Firewall, Known, Notice},
    id::{HostId, MeshId},
    limits::MAX_GOSSIP_BYTES,
    reasons::GossipRefusal,
    time::Moment,
};
use tokio::sync::{broadcast, mpsc};

use crate::{
    Clock,
    members::roster::Roll,
    transport::{
        inbound::Inlet,
        protocols::{GOSSIP, read_frame, write_frame},
        swarm::Streams,
    },
};

/// Frames for one host that wait. Older news than this is worth less than the next round's.
const POST_QUEUE: usize = 8;
/// Messages for chitchat that wait.
pub(super) const INBOX: usize = 256;
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// A stream over which nothing goes is closed, so that it does not hold a connection that nobody needs.
const QUIET: Duration = Duration::from_secs(60);
/// A host that sends bad frames sends many; people read about it once in this time.
const REFUSAL_NEWS: Duration = Duration::from_secs(60);

pub(super) type Mail = (SocketAddr, ChitchatMessage);

/// Where chitchat's messages leave.
#[derive(Clone)]
pub(super) struct Posts {
    streams: Streams,
    /// Who is behind a gossip address.
    directory: Arc<Mutex<BTreeMap<SocketAddr, HostId>>>,
    queues: Arc<Mutex<HashMap<HostId, mpsc::Sender<Vec<u8>>>>>,
}

impl Posts {
    pub(super) fn new(streams: Streams) -> Posts {
        Posts { streams, directory: Arc::default(), queues: Arc::default() }
    }

    /// Learns the members' addresses, and forgets the queues of those that are none any more.
    pub(super) fn set_members(&self, mesh: MeshId, roll: &Roll) {
        let directory = roll.members.keys().map(|host| (firewall::address(mesh, *host), *host)).collect();
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = directory;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|host, _| roll.members.contains_key(host));
    }

    fn post(&self, to: SocketAddr, frame: Vec<u8>) {
        let host = self.directory.lock().unwrap_or_else(PoisonError::into_inner).get(&to).copied();
        // Not connected: the dialer is at it, and a dial from here would block what follows.
        let Some(host) = host.filter(|host| self.streams.connected().borrow().contains(host)) else { return };
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(host).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(POST_QUEUE);
            tokio::spawn(deliver(self.streams.clone(), host, waiting));
            queue
        });
        // A full queue drops the newest: the next round says the same again.
        queue.try_send(frame).ok();
    }
}

async fn deliver(streams: Streams, host: HostId, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let mut open: Option<Stream> = None;
    loop {
        let next = tokio::time::timeout(QUIET, waiting.recv()).await;
        let Ok(next) = next else {
            open = None;
            continue;
        };
        let Some(frame) = next else { return };
        let stream = match open.take() {
            Some(stream) => Some(stream),
            None => streams.open(host, GOSSIP, OPEN_TIMEOUT).await.ok(),
        };
        let Some(mut stream) = stream else { continue };
        let written = tokio::time::timeout(WRITE_TIMEOUT, write_frame(&mut stream, &frame)).await;
        if matches!(written, Ok(Ok(()))) {
            open = Some(stream);
        }
    }
}

/// Where messages come in: past the firewall, into the chitchat that runs now.
pub(super) struct Entrance {
    firewall: Firewall,
    inbox: mpsc::Sender<Mail>,
    members: BTreeMap<String, HostId>,
}

impl Entrance {
    pub(super) fn new(firewall: Firewall, inbox: mpsc::Sender<Mail>, roll: &Roll) -> Entrance {
        let mut entrance = Entrance { firewall, inbox, members: BTreeMap::new() };
        entrance.set_members(roll);
        entrance
    }

    pub(super) fn set_members(&mut self, roll: &Roll) {
        self.members = roll.members.keys().map(|host| (firewall::node_name(*host), *host)).collect();
    }

    /// Lets one frame in, or says why not.
    fn admit(&mut self, mesh: MeshId, from: HostId, frame: &[u8]) -> Result<Notice, Refused> {
        let now_ms = Clock.moment().0;
        let unpack = |block: &[u8], limit: usize| zstd::bulk::decompress(block, limit).ok();
        let known = Known { members: &self.members, from, unpack: &unpack, now_ms };
        let notice = self.firewall.check(frame, &known).map_err(|because| match because {
            DropBecause::Stranger(_) => Refused::Early(because),
            _ => Refused::Bad(because.into()),
        })?;
        let mut rest = notice.instead.as_deref().unwrap_or(frame);
        let message = ChitchatMessage::deserialize(&mut rest)
            .map_err(|error| Refused::Bad(GossipRefusal::Unreadable(error.to_string())))?;
        // A full inbox drops the newest, as a full socket buffer would.
        self.inbox.try_send((firewall::address(mesh, from), message)).ok();
        Ok(notice)
    }
}

/// Why a frame was not let in.
enum Refused {
    /// It speaks of a host whose certificate has not come here yet: common for a moment after a join.
    Early(DropBecause),
    /// An honest sender would not have sent it.
    Bad(GossipRefusal),
}

/// The entrance that is open now; another one after each restart of chitchat.
pub(super) type OpenEntrance = Arc<Mutex<Option<Entrance>>>;

/// Takes inbound gossip streams until the swarm ends.
pub(super) async fn receive(
    mut inlet: Inlet,
    mesh: MeshId,
    door: OpenEntrance,
    facts: broadcast::Sender<Fact>,
) {
    while let Some((from, stream)) = inlet.recv().await {
        tokio::spawn(read(stream, mesh, from, door.clone(), facts.clone()));
    }
}

async fn read(
    mut stream: Stream,
    mesh: MeshId,
    from: HostId,
    door: OpenEntrance,
    facts: broadcast::Sender<Fact>,
) {
    let mut told: Option<Moment> = None;
    // Ends when the sender closes the stream, breaks a limit, or the connection is gone.
    while let Ok(frame) = read_frame(&mut stream, MAX_GOSSIP_BYTES).await {
        let admitted = match door.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(entrance) => entrance.admit(mesh, from, &frame),
            None => continue,
        };
        let refusal = match admitted {
            Ok(Notice { double: None, .. }) => continue,
            // It passed; what it says of a copy of this host is news for people all the same.
            Ok(Notice { double: Some(_), .. }) => DropBecause::AboutMe.into(),
            Err(Refused::Early(because)) => {
                tracing::debug!(?from, %because, "gossip frame dropped");
                continue;
            }
            Err(Refused::Bad(refusal)) => refusal,
        };
        tracing::debug!(?from, because = %refusal, "gossip frame dropped or doubtful");
        let now = Clock.moment();
        if told.is_none_or(|at| now.since(at) > REFUSAL_NEWS) {
            told = Some(now);
            facts.send(super::refused(from, &refusal)).ok();
        }
    }
}

/// What chitchat opens as its socket.
pub(super) struct Carrier {
    posts: Posts,
    inbox: Mutex<Option<mpsc::Receiver<Mail>>>,
}

impl Carrier {
    pub(super) fn new(posts: Posts, inbox: mpsc::Receiver<Mail>) -> Carrier {
        Carrier { posts, inbox: Mutex::new(Some(inbox)) }
    }
}

#[async_trait]
impl Transport for Carrier {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = inbox.ok_or_else(|| anyhow::anyhow!("the gossip carrier was opened twice"))?;
        Ok(Box::new(Post { posts: self.posts.clone(), inbox }))
    }
}

struct Post {
    posts: Posts,
    inbox: mpsc::Receiver<Mail>,
}

#[async_trait]
impl Socket for Post {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.posts.post(to, message.serialize_to_vec());
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<Mail> {
        match self.inbox.recv().await {
            Some(mail) => Ok(mail),
            // The entrance closes only before this chitchat is aborted.
            None => std::future::pending().await,
        }
    }
}
