//! The server on its sockets, and the port that it keeps.

use std::time::Duration;

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use super::*;

/// Answers `web` at once and `slow` when told.
fn resolve(go: Arc<Notify>) -> Resolve {
    let find = move |_, name: String, _| {
        let go = go.clone();
        async move {
            if name.starts_with("slow") {
                go.notified().await;
            }
            let resolution = Resolution::Addresses(vec![Ipv4Addr::new(127, 64, 1, 2).into()]);
            Found { resolution, origin: Some("mesh.internal".into()), lasting: true }
        }
    };
    Resolve {
        find: Arc::new(move |view, name, kind| Box::pin(find(view, name, kind))),
        edition: Arc::new(|| 1),
    }
}

fn query(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name.parse::<Name>().unwrap(), RecordType::A));
    message
}

async fn received(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 1500];
    let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap()
}

#[tokio::test]
async fn a_question_that_waits_holds_no_other_up() {
    let dir = tempfile::tempdir().unwrap();
    let bound = bind(&dir.path().join("port"), Some(0)).await.unwrap();
    let (address, stop, go) = (bound.address, CancellationToken::new(), Arc::new(Notify::new()));
    let server = tokio::spawn(serve(bound, resolve(go.clone()), 2, stop.clone()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (slow, quick) = (query("slow.shop.mesh.internal."), query("web.shop.mesh.internal."));
    for message in [b"no question".to_vec(), slow.to_vec().unwrap(), quick.to_vec().unwrap()] {
        socket.send_to(&message, address).await.unwrap();
    }
    assert_eq!(received(&socket).await.metadata.id, quick.metadata.id);
    go.notify_one();
    let last = received(&socket).await;
    assert_eq!((last.metadata.id, last.answers.len()), (slow.metadata.id, 1));
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn questions_that_came_together_are_answered_together_each_to_who_asked() {
    let dir = tempfile::tempdir().unwrap();
    let bound = bind(&dir.path().join("port"), Some(0)).await.unwrap();
    let (address, stop) = (bound.address, CancellationToken::new());
    let clients =
        [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    let mut asked = [Vec::new(), Vec::new()];
    // They wait in the socket, more than are answered at once, with what is no question among them.
    for number in 0..100 {
        let question = query("web.shop.mesh.internal.");
        clients[number % 2].send_to(&question.to_vec().unwrap(), address).await.unwrap();
        clients[number % 2].send_to(b"no question", address).await.unwrap();
        asked[number % 2].push(question.metadata.id);
    }
    let server = tokio::spawn(serve(bound, resolve(Arc::default()), 2, stop.clone()));
    for (client, asked) in clients.iter().zip(asked) {
        for id in asked {
            assert_eq!(received(client).await.metadata.id, id);
        }
    }
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn over_tcp_idle_clients_make_room_and_many_questions_share_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let bound = bind(&dir.path().join("port"), Some(0)).await.unwrap();
    let (address, stop) = (bound.address, CancellationToken::new());
    let server = tokio::spawn(serve(bound, resolve(Arc::default()), 2, stop.clone()));
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut client = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let question = query("web.shop.mesh.internal.").to_vec().unwrap();
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
async fn everybody_uses_one_port_or_the_next_free_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("port");
    let first = bind(&kept, None).await.unwrap();
    let port = first.address.port();
    assert!(port >= USUAL, "{port}");
    assert_eq!(self::kept(&kept), Some(port));
    let beside = bind(&dir.path().join("other"), None).await.unwrap().address.port();
    assert!(beside > port, "{beside}");
    drop(first);
    let again = bind(&kept, None).await.unwrap().address.port();
    assert_eq!(again, port);
}

#[tokio::test]
async fn a_port_that_was_told_is_not_kept_for_those_who_tell_none() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("port");
    let told = bind(&kept, Some(0)).await.unwrap().address;
    assert!(!kept.exists(), "{told}");
}
