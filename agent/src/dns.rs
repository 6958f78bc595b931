//! Speaks DNS for `proto::names`: an authoritative server on loopback for this host's programs, and
//! the answers that guests get through their gateway. Decides nothing about names.
//!
//! Over UDP the server is hickory's (RFC 1035). Answers are authoritative, live for a second, and carry
//! the SOA when there is nothing (RFC 2308).

mod ask;
mod tcp;
pub mod zone;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use futures::future::BoxFuture;
use hickory_proto::{
    op::{Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, LowerName, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA, SRV},
    },
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use proto::names::{self, Kind, Resolution, View};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

pub use ask::ask;

use crate::host::durable;

/// Answers a question: full name, kind, who asks. May open a forward before it answers.
pub type Resolve = Arc<dyn Fn(View, String, Kind) -> BoxFuture<'static, Resolution> + Send + Sync>;

/// A bound server that does not serve yet.
pub struct Bound {
    udp: UdpSocket,
    tcp: TcpListener,
    /// Where it will answer.
    pub address: SocketAddr,
}

/// What everybody's name server uses where nothing else is said, and how many after it are tried. Never 53 by itself:
/// that is the system's own resolver's, or a Pi-hole's.
const USUAL: u16 = 7453;
const FURTHER: u16 = 15;

/// Binds the `wanted` port, else the port remembered in `kept`, else the usual one or the next free. UDP and TCP get
/// the same port.
pub async fn bind(kept: &Path, wanted: Option<u16>) -> io::Result<Bound> {
    let remembered = std::fs::read_to_string(kept).ok().and_then(|text| text.trim().parse().ok());
    let candidates = match wanted {
        Some(port) => vec![port],
        None => remembered.into_iter().chain(USUAL..=USUAL + FURTHER).chain([0; 8]).collect(),
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in candidates {
        match bind_both(port).await {
            Ok(bound) => {
                let text = format!("{}\n", bound.address.port());
                if let Err(error) = durable::write(kept, text.as_bytes()) {
                    tracing::warn!(%error, "the DNS port is not remembered");
                }
                return Ok(bound);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn bind_both(port: u16) -> io::Result<Bound> {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address).await?;
    Ok(Bound { udp, tcp, address })
}

/// Serves until `stop`, over TCP no more than `most` connections at once.
pub async fn serve(bound: Bound, zone: String, resolve: Resolve, most: usize, stop: CancellationToken) {
    let over_tcp = tcp::serve(bound.tcp, most, zone.clone(), resolve.clone());
    let mut server = Server::new(Handler { zone, resolve });
    server.register_socket(bound.udp);
    stop.run_until_cancelled(over_tcp).await;
    stop.cancelled().await;
    if let Err(error) = server.shutdown_gracefully().await {
        tracing::debug!(%error, "the DNS server ended");
    }
}

/// Answers a message of a program of this host, of any length. `None`: it is not a question.
async fn answer_host(message: &[u8], zone: &str, resolve: &Resolve) -> Option<Vec<u8>> {
    respond(message, View::Host, zone, resolve).await?.to_vec().ok()
}

/// Answers a guest's message. `None`: it is not a question, and silence is the answer.
pub async fn answer_guest(message: &[u8], view: View, zone: &str, resolve: &Resolve) -> Option<Vec<u8>> {
    let response = respond(message, view, zone, resolve).await?;
    let bytes = response.to_vec().ok()?;
    if bytes.len() <= 512 {
        return Some(bytes);
    }
    response.truncate().to_vec().ok()
}

async fn respond(message: &[u8], view: View, zone: &str, resolve: &Resolve) -> Option<Message> {
    let request = Message::from_vec(message).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.authoritative = true;
    let [query] = &request.queries[..] else {
        response.metadata.response_code = ResponseCode::FormErr;
        return Some(response);
    };
    if request.metadata.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return Some(response);
    }
    let reply = reply(query.name(), query.query_type(), view, zone, resolve).await;
    response.add_query(query.clone());
    response.metadata.response_code = reply.code;
    response.metadata.authoritative = reply.code != ResponseCode::Refused;
    response.add_answers(reply.answers);
    response.add_authorities(reply.soa);
    Some(response)
}

struct Handler {
    zone: String,
    resolve: Resolve,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let builder = MessageResponseBuilder::from_message_request(request);
        let failed = |code| {
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = code;
            metadata
        };
        let sent = match request.request_info() {
            Ok(info) if info.metadata.op_code == OpCode::Query => {
                let name: &LowerName = info.query.name();
                let reply = reply(name, info.query.query_type(), View::Host, &self.zone, &self.resolve).await;
                let mut metadata = failed(reply.code);
                metadata.authoritative = reply.code != ResponseCode::Refused;
                out.send_response(builder.build(metadata, &reply.answers, [], &reply.soa, [])).await
            }
            Ok(_) => out.send_response(builder.build_no_records(failed(ResponseCode::NotImp))).await,
            Err(_) => out.send_response(builder.build_no_records(failed(ResponseCode::FormErr))).await,
        };
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "a DNS answer was not sent");
            let metadata = failed(ResponseCode::ServFail);
            hickory_proto::op::Header { metadata, counts: Default::default() }.into()
        })
    }
}

/// What goes into a message.
struct Reply {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
}

async fn reply(name: &Name, asked: RecordType, view: View, zone: &str, resolve: &Resolve) -> Reply {
    let kind = match asked {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        _ => Kind::Other,
    };
    let found = resolve(view, name.to_string(), kind).await;
    let record = |data| {
        let mut record = Record::from_rdata(name.clone(), names::TTL_S, data);
        record.dns_class = DNSClass::IN;
        record
    };
    let full = |text: &str| Name::from_str(&format!("{}.", text.trim_end_matches('.'))).ok();
    let answers: Vec<Record> = match &found {
        Resolution::Addresses(addresses) => {
            addresses.iter().map(|address| record(address_data(*address))).collect()
        }
        Resolution::Services(targets) => targets
            .iter()
            .filter_map(|target| Some(record(RData::SRV(SRV::new(0, 0, target.port, full(&target.name)?)))))
            .collect(),
        Resolution::Name(text) => full(text).map(|name| record(RData::PTR(PTR(name)))).into_iter().collect(),
        Resolution::NoData | Resolution::NoName | Resolution::Refused => Vec::new(),
    };
    let code = match found {
        Resolution::NoName => ResponseCode::NXDomain,
        Resolution::Refused => ResponseCode::Refused,
        _ => ResponseCode::NoError,
    };
    let soa = (answers.is_empty() && code != ResponseCode::Refused).then(|| soa(zone)).flatten();
    Reply { code, answers, soa }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// The zone's SOA; its minimum bounds how long "nothing" is believed (RFC 2308).
fn soa(zone: &str) -> Option<Record> {
    let origin = Name::from_str(&format!("{zone}.")).ok()?;
    let contact = Name::from_str(&format!("hostmaster.{zone}.")).ok()?;
    let data = SOA::new(origin.clone(), contact, 1, 60, 60, 60, names::TTL_S);
    Some(Record::from_rdata(origin, names::TTL_S, RData::SOA(data)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::Query;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    fn resolve() -> Resolve {
        Arc::new(|view, name, kind| {
            Box::pin(async move {
                match (name.as_str(), kind, view) {
                    ("web.shop.mesh.internal.", Kind::A, View::Host) => {
                        Resolution::Addresses(vec![Ipv4Addr::new(127, 64, 1, 2).into()])
                    }
                    ("web.shop.mesh.internal.", ..) => Resolution::NoData,
                    ("_http._tcp.web.shop.mesh.internal.", Kind::Srv, _) => {
                        Resolution::Services(vec![names::Target {
                            name: "web.shop.mesh.internal".into(),
                            port: 8080,
                        }])
                    }
                    (name, ..) if name.ends_with("mesh.internal.") => Resolution::NoName,
                    _ => Resolution::Refused,
                }
            })
        })
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message
    }

    async fn ask_server(address: SocketAddr, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), address).await.unwrap();
        let mut buffer = [0; 1500];
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap()
    }

    #[tokio::test]
    async fn a_host_gets_addresses_services_nothing_no_name_and_refusals() {
        let dir = tempfile::tempdir().unwrap();
        let bound = bind(&dir.path().join("port"), Some(0)).await.unwrap();
        let (address, stop) = (bound.address, CancellationToken::new());
        let server = tokio::spawn(serve(bound, "mesh.internal".into(), resolve(), 2, stop.clone()));

        let found = ask_server(address, &query("web.shop.mesh.internal.", RecordType::A)).await;
        assert!(found.metadata.authoritative);
        assert_eq!(found.answers[0].data, RData::A(A(Ipv4Addr::new(127, 64, 1, 2))));

        let found = ask_server(address, &query("web.shop.mesh.internal.", RecordType::AAAA)).await;
        assert_eq!((found.metadata.response_code, found.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(found.authorities[0].record_type(), RecordType::SOA);

        let found = ask_server(address, &query("x.shop.mesh.internal.", RecordType::A)).await;
        assert_eq!(found.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(found.authorities[0].record_type(), RecordType::SOA);

        let found = ask_server(address, &query("_http._tcp.web.shop.mesh.internal.", RecordType::SRV)).await;
        assert!(matches!(&found.answers[0].data, RData::SRV(srv) if srv.port == 8080));

        let found = ask_server(address, &query("example.org.", RecordType::A)).await;
        assert_eq!(found.metadata.response_code, ResponseCode::Refused);
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn over_tcp_idle_clients_make_room_and_many_questions_share_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let bound = bind(&dir.path().join("port"), Some(0)).await.unwrap();
        let (address, stop) = (bound.address, CancellationToken::new());
        let server = tokio::spawn(serve(bound, "mesh.internal".into(), resolve(), 2, stop.clone()));
        let mut idle = Vec::new();
        for _ in 0..4 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let question = query("web.shop.mesh.internal.", RecordType::A).to_vec().unwrap();
            client.write_u16(question.len() as u16).await.unwrap();
            client.write_all(&question).await.unwrap();
            let read = tokio::time::timeout(Duration::from_secs(20), client.read_u16()).await;
            let mut answer = vec![0; usize::from(read.unwrap().unwrap())];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        }
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_sends_no_question_gets_no_answer() {
        let view = View::Guest(proto::id::SessionId([1; 16]));
        let resolve = resolve();
        for bytes in [&b"nonsense"[..], &[], &[0; 12], &[0xff; 40]] {
            if let Some(answer) = answer_guest(bytes, view, "mesh.internal", &resolve).await {
                assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 0);
            }
        }
        let good = query("web.shop.mesh.internal.", RecordType::A).to_vec().unwrap();
        let answer = answer_guest(&good, view, "mesh.internal", &resolve).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::NoError);
    }

    #[tokio::test]
    async fn everybody_uses_one_port_or_the_next_free_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("port");
        let first = bind(&kept, None).await.unwrap();
        let port = first.address.port();
        assert!((USUAL..=USUAL + FURTHER).contains(&port), "{port}");
        let beside = bind(&dir.path().join("other"), None).await.unwrap().address.port();
        assert!(beside > port, "{beside}");
        drop(first);
        let again = bind(&kept, None).await.unwrap().address.port();
        assert_eq!(again, port);
    }

    #[tokio::test]
    async fn the_port_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("port");
        let first = bind(&kept, Some(0)).await.unwrap().address;
        assert_eq!(std::fs::read_to_string(&kept).unwrap().trim(), first.port().to_string());
    }
}
