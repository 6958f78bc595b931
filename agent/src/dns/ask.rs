//! Asks a name server over UDP, as any program would. `dns query` and `doctor` both ask here, so that
//! they cannot be of two minds.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use proto::wire::api::{Error, Kind};
use tokio::{net::UdpSocket, time};

/// The server is on loopback and answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// One lost datagram (a full socket buffer) is asked again.
const TRIES: u32 = 3;

/// Asks one question.
pub async fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, Error> {
    let lost = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Unreachable, format!("the name server {server} does not answer"))
            .because(error)
            .next("agent doctor")
    };
    let any: SocketAddr = match server.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|error| lost(&error))?;
    socket.connect(server).await.map_err(|error| lost(&error))?;
    let mut query = Message::query();
    query.add_query(Query::query(name.clone(), kind));
    let bytes = query.to_vec().map_err(|error| lost(&error))?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..TRIES {
        socket.send(&bytes).await.map_err(|error| lost(&error))?;
        match time::timeout(ANSWER_WITHIN, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let answer = Message::from_vec(&buffer[..length]).map_err(|error| lost(&error))?;
                if answer.metadata.id == query.metadata.id {
                    return Ok(answer);
                }
            }
            Ok(Err(error)) => return Err(lost(&error)),
            Err(_) => {}
        }
    }
    Err(lost(&format!("asked {TRIES} times")))
}
