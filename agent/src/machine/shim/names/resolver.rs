//! The host's own resolvers, and one question to one of them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::host::resolv::servers;

/// Where hosts say whom they ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As many as resolvers of C libraries read.
const MAX_RESOLVERS: usize = 3;
/// How long one resolver may take; all together stay below the five seconds of a guest's patience.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// What a datagram of a resolver may hold: as much as we say, see [`ours`].
const DATAGRAM_BYTES: usize = 4096;
/// What an answer by TCP may hold. Nothing that people use comes near to it.
const MOST_BYTES: usize = 16 * 1024;
const PORT: u16 = 53;

/// Whom the host asks.
#[derive(Default)]
pub struct Resolvers {
    addresses: Vec<SocketAddr>,
    written: Option<SystemTime>,
}

impl Resolvers {
    /// Gives them in their order; the file is read again when it has changed.
    pub fn now(&mut self) -> &[SocketAddr] {
        let written = std::fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok();
        if written.is_none() || written != self.written {
            self.addresses = listed(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            self.written = written;
        }
        &self.addresses
    }
}

/// Lists the name servers of a resolv.conf that can be asked: of one on a wire of its own nobody knows here which wire.
fn listed(file: &str) -> Vec<SocketAddr> {
    let elsewhere = |server: &IpAddr| matches!(server, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let asked = servers(file).filter(|server| !elsewhere(server)).take(MAX_RESOLVERS);
    asked.map(|server| SocketAddr::new(server, PORT)).collect()
}

/// Asks one after the other. One that is silent, confused or knows no answer is passed over. Holds one
/// descriptor at a time.
pub async fn ask(resolvers: &[SocketAddr], question: &Message) -> Option<Message> {
    for resolver in resolvers {
        if let Ok(Some(answer)) = timeout(ANSWER_WITHIN, ask_one(*resolver, question)).await
            && answer.metadata.response_code != ResponseCode::ServFail
        {
            return Some(answer);
        }
    }
    None
}

/// Gives what we say of ourselves to one who speaks EDNS.
pub fn ours() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(super::DATAGRAM_BYTES as u16).set_version(0);
    edns
}

/// Gives what a resolver is asked: the question alone. Options are between two who know each other.
fn outgoing(question: &Message) -> Message {
    let mut asks = Message::query();
    asks.metadata.id = rand::random();
    asks.metadata.recursion_desired = true;
    asks.queries = question.queries.clone();
    // Some home routers know no EDNS, and most guests do without.
    asks.edns = question.edns.as_ref().map(|_| ours());
    asks
}

/// Asks by UDP, and by TCP what does not fit. From a port and with a number that nobody else can know.
async fn ask_one(resolver: SocketAddr, question: &Message) -> Option<Message> {
    let question = outgoing(question);
    let bytes = question.to_vec().ok()?;
    match by_udp(resolver, &question, &bytes).await? {
        answer if answer.metadata.truncation => by_tcp(resolver, &question, &bytes).await,
        answer => Some(answer),
    }
}

async fn by_udp(resolver: SocketAddr, question: &Message, bytes: &[u8]) -> Option<Message> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(resolver).await.ok()?;
    socket.send(bytes).await.ok()?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        // What does not fit was made by somebody who guesses; the right one may still come.
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(question, &answer) => return Some(answer),
            _ => {}
        }
    }
}

async fn by_tcp(resolver: SocketAddr, question: &Message, bytes: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(resolver).await.ok()?;
    stream.write_all(&framed(bytes)?).await.ok()?;
    let length = usize::from(stream.read_u16().await.ok()?);
    if length > MOST_BYTES {
        return None;
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.ok()?;
    Message::from_vec(&answer).ok().filter(|answer| answers(question, answer))
}

/// Puts its length before a message, as TCP carries it (RFC 1035, 4.2.2).
pub fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes()[..], message].concat())
}

fn answers(question: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::{
        op::Query,
        rr::{Name, RecordType, rdata::opt::EdnsOption},
    };

    use super::*;

    #[test]
    fn a_resolver_hears_the_question_and_nothing_else_of_the_guest() {
        let mut asked = Message::query();
        asked.add_query(Query::query(Name::from_str("example.org.").unwrap(), RecordType::A));
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
        edns.set_dnssec_ok(true);
        asked.edns = Some(edns);
        asked.metadata.checking_disabled = true;
        let asks = outgoing(&asked);
        let edns = asks.edns.unwrap();
        assert_eq!(asks.queries, asked.queries);
        assert!(!edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
        assert!(!asks.metadata.checking_disabled, "the host's resolver checks for its guests as well");
    }

    #[test]
    fn the_first_three_that_can_be_asked_are() {
        let file = "nameserver fe80::1%eth0\nnameserver 192.168.1.1\nnameserver ::1\n\
                    nameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let read: Vec<String> = listed(file).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["192.168.1.1:53", "[::1]:53", "1.1.1.1:53"]);
    }
}
