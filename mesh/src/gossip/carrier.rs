//! Carries chitchat's messages over `/mesh/gossip/1`: one long-lived stream for each host and
//! direction, reopened when it breaks. Gossip is soft, so what does not fit a queue is dropped.
//! The sender of a message is the host that the connection proved, never what the bytes say.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
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
    firewall::{self, DropBecause, Firewall, Known},
    id::{HostId, MeshId},
    limits::{MAX_GOSSIP_BYTES, MAX_MEMBERS},
    reasons::GossipRefusal,
    time::Moment,
    wire::Summary,
};
use tokio::{
    sync::{Notify, broadcast, mpsc},
    task::AbortHandle,
};

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

/// Streams of one host that are read: one is used, another after a new connection.
const STREAMS_PER_HOST: usize = 4;
/// How long the frames of a host wait that sends too many.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);
/// An address that nobody has: what chitchat answers goes nowhere.
const NOWHERE: SocketAddr = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));

pub(super) type Mail = (SocketAddr, ChitchatMessage);

/// Where chitchat's messages leave.
#[derive(Clone)]
pub(super) struct Posts {
    streams: Streams,
    /// Who is behind a gossip address.
    directory: Arc<Mutex<BTreeMap<SocketAddr, HostId>>>,
    queues: Arc<Mutex<HashMap<HostId, mpsc::Sender<Vec<u8>>>>>,
    /// With whom an exchange is to begin.
    begun: Arc<Mutex<BTreeSet<SocketAddr>>>,
    #[cfg(test)]
    pub(super) sent: Arc<std::sync::atomic::AtomicU64>,
}

impl Posts {
    pub(super) fn new(streams: Streams) -> Posts {
        Posts {
            streams,
            directory: Arc::default(),
            queues: Arc::default(),
            begun: Arc::default(),
            #[cfg(test)]
            sent: Arc::default(),
        }
    }

    /// Learns the members' addresses, and forgets the queues of those that are none any more.
    pub(super) fn set_members(&self, mesh: MeshId, roll: &Roll) {
        let directory = roll.members.keys().map(|host| (firewall::address(mesh, *host), *host)).collect();
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = directory;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|host, _| roll.members.contains_key(host));
    }

    /// Notes that the next exchange that chitchat begins with this host is one that `Pushes` wants. It begins others by
    /// itself, with three hosts at random.
    pub(super) fn begin(&self, to: SocketAddr) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(to);
    }

    fn is_wanted(&self, message: &ChitchatMessage, to: &SocketAddr) -> bool {
        let begins = matches!(message, ChitchatMessage::Syn { .. });
        !begins || self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(to)
    }

    pub(super) fn post(&self, to: SocketAddr, frame: Vec<u8>) {
        let host = self.directory.lock().unwrap_or_else(PoisonError::into_inner).get(&to).copied();
        // Not connected: the dialer is at it, and a dial from here would block what follows.
        let Some(host) = host.filter(|host| self.streams.connected().borrow().contains(host)) else { return };
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(host).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(POST_QUEUE);
            tokio::spawn(deliver(self.streams.clone(), host, waiting));
            queue
        });
        #[cfg(test)]
        self.sent.fetch_add(frame.len() as u64, std::sync::atomic::Ordering::Relaxed);
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
        open = match open.take() {
            Some(stream) => write(stream, &frame).await,
            None => None,
        };
        // One that was kept may be of a connection that has ended: its host is back, and waits for this.
        if open.is_none()
            && let Ok(stream) = streams.open(host, GOSSIP, OPEN_TIMEOUT).await
        {
            open = write(stream, &frame).await;
        }
    }
}

/// Gives the stream back if the frame went out.
async fn write(mut stream: Stream, frame: &[u8]) -> Option<Stream> {
    let written = tokio::time::timeout(WRITE_TIMEOUT, write_frame(&mut stream, frame)).await;
    matches!(written, Ok(Ok(()))).then_some(stream)
}

/// Where messages come in: past the firewall, into the chitchat that runs now.
pub(super) struct Entrance {
    firewall: Firewall,
    inbox: mpsc::Sender<Mail>,
    members: BTreeMap<String, HostId>,
    /// Woken when something new came in.
    news: Arc<Notify>,
    /// In which starts hosts spoke themselves.
    spoken: BTreeSet<(HostId, u64)>,
    /// What hosts hold, as each told last.
    told: BTreeMap<HostId, Summary>,
}

impl Entrance {
    pub(super) fn new(
        firewall: Firewall,
        inbox: mpsc::Sender<Mail>,
        roll: &Roll,
        news: Arc<Notify>,
    ) -> Entrance {
        let (members, spoken, told) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut entrance = Entrance { firewall, inbox, members, news, spoken, told };
        entrance.set_members(roll);
        entrance
    }

    pub(super) fn set_members(&mut self, roll: &Roll) {
        self.members = roll.members.keys().map(|host| (firewall::node_name(*host), *host)).collect();
    }

    /// Gives in which starts hosts spoke themselves since this was asked last.
    pub(super) fn take_spoken(&mut self) -> BTreeSet<(HostId, u64)> {
        std::mem::take(&mut self.spoken)
    }

    /// Gives what hosts told that they hold since this was asked last.
    pub(super) fn take_told(&mut self) -> BTreeMap<HostId, Summary> {
        std::mem::take(&mut self.told)
    }

    /// Lets in what may come in of one frame. Tells what is wrong with the rest.
    fn admit(&mut self, mesh: MeshId, from: HostId, frame: &[u8]) -> Option<GossipRefusal> {
        let known = Known { members: &self.members, from, unpack: &unpack, now_ms: Clock.moment().0 };
        let cleaned = match self.firewall.check(frame, &known) {
            Ok(cleaned) => cleaned,
            Err(because) => return Some(because.into()),
        };
        self.spoken.extend(cleaned.spoken.map(|start| (from, start)));
        if let Some(summary) = cleaned.summary {
            self.told.insert(from, summary);
            self.news.notify_one();
            return None;
        }
        let introduction = cleaned.before.iter().map(|frame| (NOWHERE, frame));
        for (address, bytes) in introduction.chain([(firewall::address(mesh, from), &cleaned.frame)]) {
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                // A full inbox drops the newest, as a full socket buffer would.
                Ok(message) => drop(self.inbox.try_send((address, message))),
                Err(error) => return Some(GossipRefusal::Unreadable(error.to_string())),
            }
        }
        if cleaned.is_news {
            self.news.notify_one();
        }
        // What a frame says of a copy of this host passes; liveness tells of the copy, and who brought it is not to blame.
        cleaned.cut.map(GossipRefusal::from)
    }
}

/// Unpacks a block, if it says how large it is and that is not too much.
fn unpack(block: &[u8], limit: usize) -> Option<Vec<u8>> {
    let declared = zstd::zstd_safe::get_frame_content_size(block).ok()??;
    let bytes = usize::try_from(declared).ok().filter(|bytes| *bytes <= limit)?;
    zstd::bulk::decompress(block, bytes).ok()
}

/// Takes frames in as a running host does, up to where chitchat would act on them. Whatever is left of a frame is one
/// that chitchat reads, and clean.
#[cfg(feature = "fuzz")]
pub(crate) fn taste<'a>(frames: impl IntoIterator<Item = &'a [u8]>) {
    let mesh = MeshId([0x11; 32]);
    let hosts = [1, 2, 3].map(|seed| HostId(proto::seal::Seed([seed; 32]).public()));
    let members = hosts.iter().map(|host| (firewall::node_name(*host), *host)).collect();
    let mut firewall = Firewall::new(mesh, firewall::GossipId::new(mesh, hosts[0], 5));
    for (at, frame) in frames.into_iter().enumerate() {
        let from = hosts[1 + at % 2];
        let known = Known { members: &members, from, unpack: &unpack, now_ms: 1000 * at as u64 };
        let Ok(cleaned) = firewall.check(frame, &known) else { continue };
        if cleaned.summary.is_some() {
            continue;
        }
        for bytes in cleaned.before.iter().chain([&cleaned.frame]) {
            let mut rest = &bytes[..];
            assert!(ChitchatMessage::deserialize(&mut rest).is_ok() && rest.is_empty(), "chitchat reads it");
        }
        if cleaned.frame.len() <= MAX_GOSSIP_BYTES {
            let again = firewall.check(&cleaned.frame, &known);
            assert!(again.is_ok_and(|again| again.cut.is_none()), "what is left is clean");
        }
    }
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
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let mut readers: BTreeMap<HostId, VecDeque<AbortHandle>> = BTreeMap::new();
    while let Some((from, stream)) = inlet.recv().await {
        readers.retain(|_, tasks| {
            tasks.retain(|task| !task.is_finished());
            !tasks.is_empty()
        });
        let tasks = readers.entry(from).or_default();
        if tasks.len() >= STREAMS_PER_HOST {
            // The oldest is the least likely to be in use.
            tasks.pop_front().inspect(AbortHandle::abort);
        }
        let telling = Telling { facts: facts.clone(), told: told.clone() };
        tasks.push_back(tokio::spawn(read(stream, mesh, from, door.clone(), telling)).abort_handle());
    }
    readers.values().flatten().for_each(AbortHandle::abort);
}

/// Tells people of bad frames.
struct Telling {
    facts: broadcast::Sender<Fact>,
    /// When it was told of a host last.
    told: Arc<Mutex<BTreeMap<HostId, Moment>>>,
}

impl Telling {
    fn tell(&self, from: HostId, refusal: &GossipRefusal) {
        let now = Clock.moment();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.since(*at) <= REFUSAL_NEWS);
        if told.len() < MAX_MEMBERS && told.insert(from, now).is_none() {
            self.facts.send(super::refused(from, refusal)).ok();
        }
    }
}

async fn read(mut stream: Stream, mesh: MeshId, from: HostId, door: OpenEntrance, telling: Telling) {
    // Ends when the sender closes the stream, breaks a limit, or the connection is gone.
    while let Ok(frame) = read_frame(&mut stream, MAX_GOSSIP_BYTES).await {
        let refusal = match door.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(entrance) => entrance.admit(mesh, from, &frame),
            None => continue,
        };
        let Some(refusal) = refusal else { continue };
        tracing::debug!(?from, because = %refusal, "gossip refused");
        telling.tell(from, &refusal);
        if refusal == GossipRefusal::Frame(DropBecause::Flood) {
            // Whoever sends too much waits in its own stream.
            tokio::time::sleep(FLOOD_PAUSE).await;
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
        if self.posts.is_wanted(&message, &to) {
            self.posts.post(to, message.serialize_to_vec());
        }
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
