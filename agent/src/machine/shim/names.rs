//! A guest's questions for names. Those of the mesh's own zone are the agent's; all others go from here to
//! the resolvers that the host itself uses, so that they are answered while the agent is away, and what
//! guests and strangers write is parsed in this machine's own process. An answer never leads a guest where
//! it may not go (DNS rebinding).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, RecordType},
};
use mesh::link::allowed;
use proto::topology::Egress;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{hostnet, network::Happening};

/// Where hosts say whom they ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As many as resolvers of C libraries read.
const MAX_RESOLVERS: usize = 3;
/// Answers that are remembered.
const MAX_CACHED: usize = 512;
/// What a server says is believed no longer than this.
const MOST_TTL_S: u32 = 3600;
/// How long one resolver may take; all together stay below the five seconds of a guest's patience.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// How long a guest may keep a TCP connection for questions without asking.
const QUIET: Duration = Duration::from_secs(30);
/// What goes over the guest's wire in one datagram.
const DATAGRAM_BYTES: usize = proto::limits::GUEST_MTU - 28;
const PORT: u16 = 53;

/// Answers one guest's questions. Clones share their memory.
#[derive(Clone)]
pub struct Names {
    zone: String,
    egress: Egress,
    happen: mpsc::Sender<Happening>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    resolvers: Vec<SocketAddr>,
    written: Option<SystemTime>,
    cache: BTreeMap<Question, Cached>,
}

type Question = (String, u16, u16, bool);

struct Cached {
    answer: Message,
    at: Instant,
    until: Instant,
}

impl Names {
    /// Makes a guest's names; `zone` is the mesh's own.
    pub fn new(zone: String, egress: Egress, happen: mpsc::Sender<Happening>) -> Names {
        Names { zone, egress, happen, known: Arc::default() }
    }

    /// Reads a question that is not the agent's to answer.
    pub fn foreign(&self, message: &[u8]) -> Option<Message> {
        Message::from_vec(message).ok().filter(|message| foreign(message, &self.zone))
    }

    /// Answers a question out of the cache or by the host's resolvers. For a guest that may go nowhere no
    /// public name exists, and it is told so at once.
    pub async fn answer(&self, question: &Message, datagram: bool) -> Option<Bytes> {
        let query = question.queries.first()?;
        let key = key(question, query);
        let now = Instant::now();
        let cached = self.known().cached(&key, now);
        let found = match cached {
            _ if self.egress == Egress::None => Some(failed(question, ResponseCode::NXDomain)),
            Some(answer) => Some(answer),
            None => self.ask(question, &key, now).await,
        };
        let mut answer = found.unwrap_or_else(|| failed(question, ResponseCode::ServFail));
        answer.metadata.id = question.metadata.id;
        // Spelled as it was asked: some compare the case (0x20).
        answer.queries = question.queries.clone();
        // Between the guest and us only (RFC 6891): what the resolver said of itself is left out.
        answer.edns = question.edns.as_ref().map(ours);
        let most = usize::from(question.max_payload()).min(DATAGRAM_BYTES);
        let bytes = answer.to_vec().ok()?;
        let bytes = if datagram && bytes.len() > most { answer.truncate().to_vec().ok()? } else { bytes };
        Some(bytes.into())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: &Message, key: &Question, now: Instant) -> Option<Message> {
        let resolvers = self.known().resolvers().to_vec();
        for resolver in resolvers {
            // One that is silent or confused is passed over.
            let asked = timeout(ANSWER_WITHIN, ask(resolver, question)).await;
            let Ok(Some(answer)) = asked else { continue };
            if answer.metadata.response_code == ResponseCode::ServFail {
                continue;
            }
            let answer = self.harmless(answer);
            self.known().remember(key, &answer, now);
            return Some(answer);
        }
        None
    }

    /// Leaves out the addresses that the guest may not go to.
    fn harmless(&self, mut answer: Message) -> Message {
        let host = hostnet::read();
        let may = |address: IpAddr| allowed(self.egress, &host, address);
        let good = |data: &RData| match data {
            RData::A(address) => may(address.0.into()),
            RData::AAAA(address) => may(address.0.into()),
            _ => true,
        };
        answer.answers.retain(|record| good(&record.data));
        answer.additionals.retain(|record| good(&record.data));
        answer
    }

    /// Answers the questions of one TCP connection, one after the other (RFC 7766).
    pub async fn serve(&self, mut stream: UnixStream) {
        while let Ok(Ok(length)) = timeout(QUIET, stream.read_u16()).await {
            let mut message = vec![0; usize::from(length)];
            if !matches!(timeout(QUIET, stream.read_exact(&mut message)).await, Ok(Ok(_))) {
                return;
            }
            let answer = match self.foreign(&message) {
                Some(question) => self.answer(&question, false).await,
                None => self.ask_agent(message.into()).await,
            };
            let Some(answer) = answer else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            if stream.write_all(&framed).await.is_err() {
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

impl Known {
    /// Gives whom the host asks, read again when the file has changed.
    fn resolvers(&mut self) -> &[SocketAddr] {
        let written = std::fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok();
        if written.is_none() || written != self.written {
            self.resolvers = resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            self.written = written;
        }
        &self.resolvers
    }

    fn cached(&self, key: &Question, now: Instant) -> Option<Message> {
        let cached = self.cache.get(key).filter(|cached| now < cached.until)?;
        let mut answer = cached.answer.clone();
        let age = u32::try_from((now - cached.at).as_secs()).unwrap_or(u32::MAX);
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn remember(&mut self, key: &Question, answer: &Message, now: Instant) {
        let Some(ttl) = lasts(answer) else { return };
        if self.cache.len() >= MAX_CACHED {
            self.cache.retain(|_, cached| now < cached.until);
        }
        if self.cache.len() >= MAX_CACHED {
            let soonest = self.cache.iter().min_by_key(|(_, cached)| cached.until);
            if let Some(key) = soonest.map(|(key, _)| key.clone()) {
                self.cache.remove(&key);
            }
        }
        let until = now + Duration::from_secs(ttl.into());
        self.cache.insert(key.clone(), Cached { answer: answer.clone(), at: now, until });
    }
}

/// Says whether a question is for the host's resolvers: a proper one about a public name.
fn foreign(message: &Message, zone: &str) -> bool {
    let [query] = &message.queries[..] else { return false };
    let proper = message.metadata.message_type == MessageType::Query
        && message.metadata.op_code == OpCode::Query
        && query.query_class() == DNSClass::IN
        && !matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let name = query.name().to_lowercase().to_string();
    let name = name.trim_end_matches('.');
    let within = |zone: &str| name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    // A short name is the search list's; addresses turned round are mostly the session's own.
    proper && name.contains('.') && !within(zone) && !within("arpa") && !within("localhost")
}

fn key(question: &Message, query: &Query) -> Question {
    let signed = question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    let name = query.name().to_lowercase().to_string();
    (name, query.query_type().into(), query.query_class().into(), signed)
}

/// Says for how many seconds an answer may be remembered: by its records, or, when it says that there is
/// nothing, by its SOA (RFC 2308). Anything else is not remembered.
fn lasts(answer: &Message) -> Option<u32> {
    let good = matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !good || answer.metadata.truncation {
        return None;
    }
    let shortest = answer.answers.iter().map(|record| record.ttl).min();
    let nothing = || {
        answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
    };
    shortest.or_else(nothing).map(|ttl| ttl.min(MOST_TTL_S)).filter(|&ttl| ttl > 0)
}

/// What we say of ourselves to one who asked with EDNS.
fn ours(theirs: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES as u16).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
    edns
}

/// Gives what a resolver is asked: the question alone. Options are between two who know each other.
fn outgoing(question: &Message) -> Message {
    let mut asks = Message::query();
    asks.metadata.id = rand::random();
    asks.metadata.recursion_desired = true;
    asks.metadata.checking_disabled = question.metadata.checking_disabled;
    asks.queries = question.queries.clone();
    asks.edns = question.edns.as_ref().map(ours);
    asks
}

fn failed(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.queries = question.queries.clone();
    answer
}

/// Lists the name servers of a resolv.conf.
fn resolvers(file: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    };
    file.lines().filter_map(server).take(MAX_RESOLVERS).collect()
}

/// Asks one resolver by UDP, and by TCP what does not fit. From a port and with a number that nobody else
/// can know.
async fn ask(resolver: SocketAddr, question: &Message) -> Option<Message> {
    let question = outgoing(question);
    let bytes = question.to_vec().ok()?;
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(resolver).await.ok()?;
    socket.send(&bytes).await.ok()?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(&question, &answer) && answer.metadata.truncation => break,
            Ok(answer) if answers(&question, &answer) => return Some(answer),
            // Somebody guesses; the right one may still come.
            _ => {}
        }
    }
    let mut stream = TcpStream::connect(resolver).await.ok()?;
    let mut framed = u16::try_from(bytes.len()).ok()?.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_all(&framed).await.ok()?;
    let mut answer = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut answer).await.ok()?;
    Message::from_vec(&answer).ok().filter(|answer| answers(&question, answer))
}

fn answers(question: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::{
        Name, Record,
        rdata::{A, SOA, opt::EdnsOption},
    };

    use super::*;

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message
    }

    fn names(egress: Egress) -> Names {
        Names::new("mesh.internal".into(), egress, mpsc::channel(1).0)
    }

    #[test]
    fn only_public_names_leave() {
        let cases = [
            ("example.org.", true),
            ("notmesh.internal.", true),
            ("web.shop.mesh.internal.", false),
            ("WEB.Shop.Mesh.Internal.", false),
            ("mesh.internal.", false),
            ("web.", false),
            ("1.7.64.10.in-addr.arpa.", false),
            ("a.localhost.", false),
        ];
        for (name, leaves) in cases {
            let message = question(name, RecordType::A).to_vec().unwrap();
            assert_eq!(names(Egress::Internet).foreign(&message).is_some(), leaves, "{name}");
        }
        assert!(names(Egress::Internet).foreign(b"no DNS").is_none());
    }

    #[tokio::test]
    async fn a_guest_that_may_go_nowhere_is_told_at_once_that_no_public_name_exists() {
        let mut asked = question("example.org.", RecordType::A);
        asked.edns = Some(Edns::new());
        let message = asked.to_vec().unwrap();
        let none = names(Egress::None);
        let answer = none.answer(&none.foreign(&message).unwrap(), true).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.edns.unwrap().max_payload(), 1252, "who asks with EDNS is answered with it");
    }

    #[test]
    fn a_resolver_hears_the_question_and_nothing_else_of_the_guest() {
        let mut asked = question("example.org.", RecordType::A);
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
        edns.set_dnssec_ok(true);
        asked.edns = Some(edns);
        let asks = outgoing(&asked);
        let edns = asks.edns.unwrap();
        assert_eq!(asks.queries, asked.queries);
        assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
    }

    #[test]
    fn an_answer_never_leads_to_the_host_or_its_wire() {
        let mut answer = failed(&question("evil.example.", RecordType::A), ResponseCode::NoError);
        for address in [[127, 0, 0, 1], [192, 168, 1, 1], [169, 254, 169, 254], [93, 184, 216, 34]] {
            let name = Name::from_str("evil.example.").unwrap();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A(address.into()))));
        }
        let left = names(Egress::Internet).harmless(answer).answers;
        let left: Vec<String> = left.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(left, ["93.184.216.34"]);
    }

    #[test]
    fn answers_are_remembered_as_long_as_they_say() {
        let asked = question("example.org.", RecordType::A);
        let key = key(&asked, &asked.queries[0]);
        let mut answer = failed(&asked, ResponseCode::NoError);
        let name = asked.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A([93, 184, 216, 34].into()))));
        let (mut known, now) = (Known::default(), Instant::now());
        known.remember(&key, &answer, now);
        let later = known.cached(&key, now + Duration::from_secs(20)).unwrap();
        assert_eq!(later.answers[0].ttl, 40);
        assert!(known.cached(&key, now + Duration::from_secs(60)).is_none());

        let mut nothing = failed(&asked, ResponseCode::NXDomain);
        assert_eq!(lasts(&nothing), None);
        let soa = SOA::new(name.clone(), name.clone(), 1, 60, 60, 60, 30);
        nothing.authorities.push(Record::from_rdata(name, 900, RData::SOA(soa)));
        assert_eq!(lasts(&nothing), Some(30));
        nothing.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(lasts(&nothing), None);
    }

    #[test]
    fn the_cache_has_a_bound() {
        let (mut known, now) = (Known::default(), Instant::now());
        for number in 0..2 * MAX_CACHED {
            let asked = question(&format!("n{number}.example.org."), RecordType::A);
            let mut answer = failed(&asked, ResponseCode::NoError);
            let name = asked.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A([93, 184, 216, 34].into()))));
            known.remember(&key(&asked, &asked.queries[0]), &answer, now);
        }
        assert_eq!(known.cache.len(), MAX_CACHED);
    }

    #[test]
    fn a_resolv_conf_is_read_as_c_libraries_do() {
        let file = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.168.1.1\nnameserver ::1 # us\n\
                    nameserver nonsense\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let read: Vec<String> = resolvers(file).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["192.168.1.1:53", "[::1]:53", "1.1.1.1:53"]);
    }
}
