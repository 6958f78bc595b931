//! Sockets that are given up, counted and come back.

use mesh::link::Family;
use proto::{session::Prefix, topology::Egress};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{super::names::Guest, *};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 7, 1);

fn outside(limit: usize) -> (Outside, Descriptors, mpsc::Receiver<Happening>) {
    let (happen, heard) = mpsc::channel(8);
    let descriptors = Descriptors::new(limit);
    let subnet = Prefix { base: [10, 64, 7, 0].into(), len: 24 };
    let guest = Guest {
        zone: "mesh.internal".into(),
        subnets: (subnet, "fd00:6d65:7368:7::".parse().unwrap()),
        egress: Egress::Internet,
    };
    let names = Names::new(guest, happen.clone(), descriptors.clone());
    let outside = Outside::new(Told { edge: 7, happen }, names, GATEWAY, descriptors.clone());
    (outside, descriptors, heard)
}

async fn told(heard: &mut mpsc::Receiver<Happening>) -> Heard {
    match timeout(Duration::from_secs(10), heard.recv()).await {
        Ok(Some(Happening::Heard(7, told))) => told,
        other => panic!("{other:?}"),
    }
}

/// Waits for tasks that have nothing to wait for.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn a_guest_never_takes_the_descriptors_that_others_need_to_speak_to_its_shim() {
    // One for a stream, and one for a socket in two.
    let (mut outside, descriptors, mut heard) = outside(8);
    let one = descriptors.stream(1).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    // Both ends of a question to the gateway are ours.
    outside.on(Upstream::Connect { id: 2, to: SocketAddr::from((GATEWAY, 53)), room: 1024 });
    let answer = told(&mut heard).await;
    assert!(matches!(answer, Heard::Failed { id: 2, because: Unconnected::Busy }), "{answer:?}");
    outside.on(Upstream::Open { id: 3, kind: Kind::Udp(Family::V4, 4001) });
    outside.on(Upstream::Open { id: 4, kind: Kind::Udp(Family::V4, 4002) });
    let answer = told(&mut heard).await;
    assert!(matches!(answer, Heard::Shut { id: 4 }), "{answer:?}");
    assert_eq!(descriptors.refused(), 1);
    // What it gives up is there for the next one.
    outside.on(Upstream::Shut { id: 3 });
    until("a socket that is shut holds nothing", || descriptors.socket().is_some()).await;
    drop(one);
    outside.on(Upstream::Connect { id: 6, to, room: 1024 });
    let answer = told(&mut heard).await;
    assert!(matches!(answer, Heard::Failed { id: 6, because: Unconnected::Refused }), "{answer:?}");
    until("a stream that failed holds nothing", || descriptors.stream(2).is_some()).await;
}

#[tokio::test]
async fn a_question_to_the_gateway_holds_both_its_ends() {
    let (mut outside, descriptors, mut heard) = outside(8);
    outside.on(Upstream::Connect { id: 1, to: SocketAddr::from((GATEWAY, 53)), room: 1024 });
    assert!(matches!(told(&mut heard).await, Heard::Connected { id: 1 }));
    assert!(descriptors.stream(1).is_none());
    outside.on(Upstream::Close { id: 1, clean: false });
    until("it holds nothing when it is over", || descriptors.stream(2).is_some()).await;
}

/// A stream that both sides have ended while the far one reads nothing, and how much was said on it.
async fn ended_and_unread() -> (Outside, Descriptors, TcpStream, usize) {
    let (mut outside, descriptors, mut heard) = outside(4);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    outside.on(Upstream::Connect { id: 1, to, room: 64 * 1024 });
    assert!(matches!(told(&mut heard).await, Heard::Connected { id: 1 }));
    let (mut far, _) = listener.accept().await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
    assert!(matches!(told(&mut heard).await, Heard::End { id: 1 }));
    let mut said = 0;
    loop {
        outside.on(Upstream::Send { id: 1, bytes: vec![7; 64 * 1024].into() });
        said += 64 * 1024;
        if timeout(Duration::from_millis(300), heard.recv()).await.is_err() {
            break;
        }
    }
    outside.on(Upstream::End { id: 1 });
    outside.on(Upstream::Close { id: 1, clean: true });
    until("it is counted", || outside.ending() == 1).await;
    assert!(descriptors.stream(1).is_none(), "its descriptor is not given twice");
    (outside, descriptors, far, said)
}

#[tokio::test]
async fn whoever_takes_the_last_bytes_late_gets_all_of_them() {
    let (outside, descriptors, mut far, said) = ended_and_unread().await;
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), said);
    until("it is over", || outside.ending() == 0 && descriptors.stream(1).is_some()).await;
}

#[tokio::test]
async fn whoever_never_takes_the_last_bytes_is_given_up() {
    let (outside, descriptors, mut far, _) = ended_and_unread().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(179)).await;
    tokio::task::yield_now().await;
    assert_eq!(outside.ending(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    until("it is given up", || outside.ending() == 0 && descriptors.stream(1).is_some()).await;
    let mut rest = Vec::new();
    assert!(far.read_to_end(&mut rest).await.is_err(), "it is reset, not ended");
}
