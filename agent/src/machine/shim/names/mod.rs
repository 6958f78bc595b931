//! A guest's questions for names. Those of the mesh's own zone are the agent's; all others go from here to
//! the resolvers that the host itself uses, so that they are answered while the agent is away, and what
//! guests and strangers write is parsed in this machine's own process. An answer never leads a guest where
//! it may not go (DNS rebinding), and never tells of the host's home (split horizon).

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::Name,
};
use mesh::link::{HostNet, allowed};
use proto::{session::Prefix, topology::Egress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use self::{
    cache::{Asked, Cache},
    judge::Course,
    resolver::{ANSWER_WITHIN, Resolvers},
};
use super::{descriptors::Descriptors, happening::Happening};

mod cache;
pub(crate) mod judge;
mod resolver;
#[cfg(test)]
mod tests;

/// Questions that wait for a resolver at once, by UDP and by TCP.
const MAX_ASKED: usize = 256;
/// How long a guest may keep a TCP connection for questions without asking, or without hearing.
const QUIET: Duration = Duration::from_secs(30);
/// What goes over the guest's wire in one datagram.
const DATAGRAM_BYTES: usize = proto::limits::GUEST_DNS_BYTES;
/// A question by TCP: a name has 255 bytes at most.
const QUESTION_BYTES: u16 = 1232;

/// Answers one guest's questions. Clones share their memory.
#[derive(Clone)]
pub struct Names {
    zone: Name,
    subnets: (Prefix, Ipv6Addr),
    egress: Egress,
    happen: mpsc::Sender<Happening>,
    descriptors: Descriptors,
    asking: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

/// Whose names they are.
pub struct Guest {
    /// The mesh's own zone.
    pub zone: String,
    /// The session's networks; the IPv6 one is a /64.
    pub subnets: (Prefix, Ipv6Addr),
    /// Where it may go.
    pub egress: Egress,
}

#[derive(Default)]
struct Known {
    host: Option<HostNet>,
    resolvers: Resolvers,
    cache: Cache,
}

/// A question that is not the agent's to answer.
#[derive(Debug)]
pub struct Foreign {
    question: Message,
    course: Course,
}

impl Names {
    /// Makes a guest's names. Until [`Names::learn`] none of them has an address.
    pub fn new(guest: Guest, happen: mpsc::Sender<Happening>, descriptors: Descriptors) -> Names {
        let asking = Arc::new(Semaphore::new(MAX_ASKED));
        // A zone is checked where it is configured; the root would only be more than it.
        let mut zone = Name::from_ascii(&guest.zone).unwrap_or_default();
        zone.set_fqdn(true);
        let Guest { subnets, egress, .. } = guest;
        Names { zone, subnets, egress, happen, descriptors, asking, known: Arc::default() }
    }

    /// Takes in what the host's network looks like.
    pub fn learn(&self, host: &HostNet) {
        self.known().host = Some(host.clone());
    }

    /// Reads a question that is not the agent's to answer.
    pub fn foreign(&self, message: &[u8]) -> Option<Foreign> {
        let question = Message::from_vec(message).ok()?;
        let known = self.known();
        let course = judge::course(&question, &self.zone, self.subnets, |to| self.may(&known, to));
        (course != Course::Agent).then_some(Foreign { question, course })
    }

    fn may(&self, known: &Known, address: IpAddr) -> bool {
        allowed(self.egress, known.host.as_ref(), address)
    }

    /// Answers a question out of the cache or by the host's resolvers. For a guest that may go nowhere no
    /// public name exists, and it is told so at once.
    pub async fn answer(&self, asked: &Foreign, datagram: bool) -> Option<Bytes> {
        let question = &asked.question;
        let mut answer = match asked.course {
            _ if self.egress == Egress::None => failed(question, ResponseCode::NXDomain),
            Course::NoName => failed(question, ResponseCode::NXDomain),
            Course::NoData => failed(question, ResponseCode::NoError),
            Course::Public => match self.found(question).await {
                Some(answer) => answer,
                None => failed(question, ResponseCode::ServFail),
            },
            Course::Agent => return None,
        };
        answer.metadata.id = question.metadata.id;
        // Spelled as it was asked: some compare the case (0x20).
        answer.queries = question.queries.clone();
        // Between the guest and us only (RFC 6891): what the resolver said of itself is left out.
        answer.edns = question.edns.as_ref().map(|_| resolver::ours());
        let most = usize::from(question.max_payload()).min(DATAGRAM_BYTES);
        let bytes = answer.to_vec().ok()?;
        let bytes = if datagram && bytes.len() > most { answer.truncate().to_vec().ok()? } else { bytes };
        Some(bytes.into())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn found(&self, question: &Message) -> Option<Message> {
        let query = question.queries.first()?;
        let asked: Asked = (query.name().to_lowercase(), query.query_type());
        let now = Instant::now();
        let cached = self.known().cache.get(&asked, now);
        let mut answer = match cached {
            Some(answer) => answer,
            None => self.ask(question, &asked, now).await?,
        };
        // What the host's network is may have changed since it was remembered.
        let known = self.known();
        judge::harmless(&mut answer, |to| self.may(&known, to));
        Some(answer)
    }

    async fn ask(&self, question: &Message, asked: &Asked, now: Instant) -> Option<Message> {
        let resolvers = self.known().resolvers.now().to_vec();
        let Ok(_place) = self.asking.try_acquire() else {
            self.descriptors.refuse();
            return None;
        };
        let _held = self.descriptors.question()?;
        let answer = resolver::ask(&resolvers, question).await?;
        self.known().cache.remember(asked, &answer, now);
        Some(answer)
    }

    /// Answers the questions of one TCP connection, one after the other (RFC 7766).
    pub async fn serve(&self, mut stream: UnixStream) {
        while let Ok(Ok(length)) = timeout(QUIET, stream.read_u16()).await {
            if length > QUESTION_BYTES {
                return;
            }
            let mut message = vec![0; usize::from(length)];
            if !matches!(timeout(QUIET, stream.read_exact(&mut message)).await, Ok(Ok(_))) {
                return;
            }
            let answer = match self.foreign(&message) {
                Some(asked) => self.answer(&asked, false).await,
                None => self.ask_agent(message.into()).await,
            };
            let Some(framed) = answer.and_then(|answer| resolver::framed(&answer)) else { return };
            if !matches!(timeout(QUIET, stream.write_all(&framed)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn ask_agent(&self, message: Bytes) -> Option<Bytes> {
        let (asker, answer) = oneshot::channel();
        self.happen.send(Happening::Ask(message, asker)).await.ok()?;
        timeout(ANSWER_WITHIN * 3, answer).await.ok()?.ok()
    }
}

fn failed(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.queries = question.queries.clone();
    answer
}
