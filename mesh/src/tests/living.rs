//! What members do with each other once they are members.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::{Endpoint, EndpointAddr, endpoint::presets};
use proto::{
    facts::Fact,
    id::{Digest, HostId, MeshId, SessionId},
    reachability::ways::Known,
    trust::{Genesis, Statement, Token},
    wire::{
        record::{Body, ImageRecord, Reach, RecordKey},
        rpc::{Answer, Refusal, Request},
    },
};

use super::harness::*;
use crate::{MeetError, MemberState, RpcError, Serve, transport::protocols};

async fn three() -> [Host; 3] {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let cellar = Host::joiner("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
    for host in [&attic, &cellar, &garden] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    [attic, cellar, garden]
}

pub(super) fn image() -> Body {
    let names = [("debian:12".to_owned(), now())].into();
    Body::Image(ImageRecord { names, size: 1, allocated: 1, arch: "x86_64".to_owned(), complete: true })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_reach_everybody_and_are_withdrawn_everywhere() {
    let hosts = three().await;
    let key = RecordKey::Image(Digest([7; 32]));
    hosts[0].mesh.publish(key.clone(), Some(image())).await;
    let place = (hosts[0].id(), key.clone());
    for host in &hosts {
        eventually(host.mesh.records(), "the record", |records| records.contains_key(&place)).await;
    }
    hosts[0].mesh.publish(key, None).await;
    for host in &hosts {
        eventually(host.mesh.records(), "the withdrawal", |records| !records.contains_key(&place)).await;
    }
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_raft_messages_are_answered() {
    let [attic, cellar, garden] = three().await;
    let asked = attic.mesh.call(cellar.id(), Request::Ping, WITHIN).await.unwrap();
    assert_eq!(asked, Answer::Done);
    let asked = attic.mesh.call(cellar.id(), Request::Long(vec![0; 2_000]), WITHIN).await.unwrap();
    assert_eq!(asked, Answer::Done);
    let Answer::Around { rtts, seen } = attic.mesh.call(cellar.id(), Request::Around, WITHIN).await.unwrap()
    else {
        panic!("an answer of another kind");
    };
    assert!(rtts.iter().any(|rtt| rtt.to == attic.id() && !rtt.relayed), "{rtts:?}");
    assert!(!seen.is_empty() && seen.iter().all(|at| at.ip().is_loopback()), "{seen:?}");
    let around = attic.mesh.surroundings();
    assert!(around.places.iter().any(|(_, at, published)| at.ip().is_loopback() && *published), "{around:?}");
    let asked = attic
        .mesh
        .call(garden.id(), Request::Down { session: session(), mandate: None }, WITHIN)
        .await
        .unwrap();
    let expected = format!("{} asked Down {{ session: SessionId(09090909), mandate: None }}", attic.id());
    assert_eq!(asked, Answer::Refused(Refusal::Failed(expected)));
    let large = vec![5; 3 * 1024 * 1024];
    let echoed = cellar.mesh.raft(garden.id(), session(), large.clone(), WITHIN).await.unwrap();
    assert_eq!(echoed, large);
    let too_large = vec![0; 17 * 1024 * 1024];
    let error = cellar.mesh.raft(garden.id(), session(), too_large, WITHIN).await.unwrap_err();
    assert!(matches!(error, RpcError::TooLarge { .. }), "{error}");
    let pings = (0..200).map(|_| attic.mesh.call(cellar.id(), Request::Ping, WITHIN));
    for answer in futures::future::join_all(pings).await {
        assert_eq!(answer.unwrap(), Answer::Done);
    }
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_restart_without_token_and_find_each_other() {
    let hosts = three().await;
    let mut stopped = Vec::new();
    for host in hosts {
        stopped.push(host.stop().await);
    }
    let mut started = Vec::new();
    for (dir, name) in stopped {
        started.push(Host::start(dir, name.as_str(), Serve::Off).await);
    }
    for host in &started {
        host.sees("three up again", |members| members.up().count() == 3).await;
    }
    for host in started {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_is_noticed_and_comes_back() {
    let [attic, cellar, garden] = three().await;
    let killed = Instant::now();
    let garden_id = garden.id();
    let (dir, name) = garden.kill().await;
    for host in [&attic, &cellar] {
        host.sees("garden gone", |members| members.hosts[&garden_id].state != MemberState::Up).await;
    }
    assert!(killed.elapsed() < Duration::from_secs(10), "noticed after {:?}", killed.elapsed());
    let garden = Host::start(dir, name.as_str(), Serve::Off).await;
    for host in [&attic, &cellar, &garden] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_speak_no_protocol_of_members() {
    let attic = Host::founder("attic", Serve::Off).await;
    eventually(attic.mesh.reach(), "an address", |reach| !reach.addresses.is_empty()).await;
    let stranger = Endpoint::builder(presets::Minimal)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap();
    let id = crate::identity::endpoint_id(&attic.id()).unwrap();
    let address: EndpointAddr = crate::reach::describe::endpoint_addr(id, &attic.mesh.reach().borrow(), &[]);
    let connection = stranger.connect(address, protocols::LIBP2P).await.unwrap();
    let closed = tokio::time::timeout(WITHIN, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("not a member"), "{closed}");
    stranger.close().await;
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_home_relay_is_taken_soon_after_the_first_is_gone() {
    let attic = Host::founder("attic", Serve::On).await;
    let token = attic.token().await;
    let shed = Host::joiner_serving("shed", &token).await;
    let cellar = Host::joiner("cellar", &token).await;
    for host in [&attic, &shed, &cellar] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    eventually(cellar.mesh.reach(), "cellar has a home relay", |reach| !reach.relays.is_empty()).await;
    let home = cellar.mesh.reach().borrow().relays[0].clone();
    let at_attic = home.starts_with(&attic.mesh.relay().unwrap().url);
    let (gone, stays) = if at_attic { (attic, shed) } else { (shed, attic) };
    let url = stays.mesh.relay().unwrap().url;
    let left = Instant::now();
    gone.stop().await;
    eventually(cellar.mesh.reach(), "the other relay", |reach| {
        reach.relays.iter().any(|relay| relay.starts_with(&url))
    })
    .await;
    assert!(left.elapsed() < Duration::from_secs(15), "took {:?}", left.elapsed());
    stays.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_hostile_member_are_dropped_and_told() {
    let [attic, cellar, mut garden] = three().await;
    let streams = attic.mesh.streams();
    let mut stream = streams.open(garden.id(), protocols::GOSSIP, WITHIN).await.unwrap();
    for frame in [&b""[..], b"hello", &[0x53, 0xb0, 0, 0, 1, 2, 3], &[0xff; 65_507]] {
        protocols::write_frame(&mut stream, frame).await.unwrap();
    }
    let told = async {
        loop {
            if let Fact::GossipRefused { member, .. } = garden.facts.recv().await.unwrap() {
                return member;
            }
        }
    };
    assert_eq!(tokio::time::timeout(WITHIN, told).await.unwrap(), attic.id().short());
    // A length without bytes ends one stream and nothing else.
    let mut stream = streams.open(garden.id(), protocols::RPC, WITHIN).await.unwrap();
    futures::AsyncWriteExt::write_all(&mut stream, &[0xff; 4]).await.unwrap();
    let place = (cellar.id(), RecordKey::Image(Digest([7; 32])));
    cellar.mesh.publish(place.1.clone(), Some(image())).await;
    eventually(garden.mesh.records(), "the record", |records| records.contains_key(&place)).await;
    assert_eq!(attic.mesh.call(garden.id(), Request::Ping, WITHIN).await.unwrap(), Answer::Done);
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_said_by_one_member_is_known_to_all() {
    let hosts = three().await;
    let salt = [4; 16];
    let genesis = Genesis {
        session: SessionId::born(hosts[1].id(), &salt),
        salt,
        name: name("shop"),
        stamp: hosts[1].mesh.now(),
        voters: vec![hosts[1].id()],
        bound: false,
    };
    hosts[1].mesh.say(&Statement::Genesis(genesis.clone())).unwrap();
    for host in &hosts {
        eventually(host.mesh.roll(), "the genesis", |roll| {
            roll.set.genesis(genesis.session) == Some(&genesis)
        })
        .await;
    }
    for host in hosts {
        host.stop().await;
    }
}

/// Overwrites what a host that is down remembers of another.
fn remember(dir: &tempfile::TempDir, other: HostId, now: &[SocketAddr], once: &[SocketAddr]) {
    let reach = Reach { addresses: now.to_vec(), ..Reach::default() };
    let known = Known { reach, proved: once.to_vec(), level: None };
    let bytes = proto::wire::encode(&crate::members::cache::Places { known: [(other, known)].into() });
    std::fs::write(dir.path().join("mesh/addresses"), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_whose_last_addresses_are_wrong_meet_where_they_once_were() {
    let attic = Host::founder("attic", Serve::Off).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    let (ids, nowhere) = ((attic.id(), cellar.id()), ["192.0.2.1:9".parse().unwrap()]);
    let places =
        (attic.mesh.reach().borrow().addresses.clone(), cellar.mesh.reach().borrow().addresses.clone());
    let (attic, cellar) = (attic.stop().await.0, cellar.stop().await.0);
    remember(&attic, ids.1, &nowhere, &places.1);
    remember(&cellar, ids.0, &nowhere, &places.0);
    let attic = Host::start(attic, "attic", Serve::Off).await;
    let cellar = Host::start(cellar, "cellar", Serve::Off).await;
    attic.sees("cellar", |members| members.up().count() == 2).await;
    cellar.stop().await;
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_that_know_no_address_of_each_other_meet_by_a_token() {
    let attic = Host::founder("attic", Serve::Off).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    let (ids, nowhere) = ((attic.id(), cellar.id()), ["192.0.2.1:9".parse().unwrap()]);
    let (attic, cellar) = (attic.stop().await.0, cellar.stop().await.0);
    remember(&attic, ids.1, &nowhere, &[]);
    remember(&cellar, ids.0, &nowhere, &[]);
    let attic = Host::start(attic, "attic", Serve::Off).await;
    let cellar = Host::start(cellar, "cellar", Serve::Off).await;
    let token: Token = attic.token().await.parse().unwrap();
    let met = cellar.mesh.meet(&token, WITHIN).await.unwrap();
    assert_eq!((met.reached, met.silent), (vec![name("attic")], vec![]));
    attic.sees("cellar", |members| members.up().count() == 2).await;
    let own = attic.mesh.meet(&token, WITHIN).await.unwrap();
    assert!(own.reached.is_empty() && own.silent.is_empty(), "{own:?}");
    let foreign = Token { mesh: MeshId([9; 32]), ..token };
    assert!(matches!(cellar.mesh.meet(&foreign, WITHIN).await, Err(MeetError::OtherMesh { .. })));
    cellar.stop().await;
    attic.stop().await;
}

/// Answers every dial on loopback with a key of its own.
async fn liar() -> (iroh::protocol::Router, SocketAddr) {
    #[derive(Debug)]
    struct Anything;
    impl iroh::protocol::ProtocolHandler for Anything {
        async fn accept(
            &self,
            connection: iroh::endpoint::Connection,
        ) -> Result<(), iroh::protocol::AcceptError> {
            connection.closed().await;
            Ok(())
        }
    }
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    let endpoint = builder.bind_addr("127.0.0.1:0").unwrap().bind().await.unwrap();
    let place = endpoint.bound_sockets()[0];
    (iroh::protocol::Router::builder(endpoint).accept(protocols::LIBP2P, Anything).spawn(), place)
}

/// A place from which everything goes on to `end` and back, each way a little later, as over the Internet.
async fn far_from(end: SocketAddr) -> SocketAddr {
    let bind = || tokio::net::UdpSocket::bind("127.0.0.1:0");
    let (near, far) = (Arc::new(bind().await.unwrap()), Arc::new(bind().await.unwrap()));
    let place = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, mut there, mut back) = (place, [0; 2048], [0; 2048]);
        loop {
            let (socket, bytes, to) = tokio::select! {
                Ok((length, from)) = near.recv_from(&mut there) => {
                    client = from;
                    (far.clone(), there[..length].to_vec(), end)
                }
                Ok((length, _)) = far.recv_from(&mut back) => (near.clone(), back[..length].to_vec(), client),
                else => return,
            };
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                socket.send_to(&bytes, to).await.ok();
            });
        }
    });
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lies_on_the_lan_where_a_member_is_does_not_keep_it_away() {
    let attic = Host::founder("attic", Serve::Off).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    let (ids, nowhere) = ((attic.id(), cellar.id()), ["192.0.2.1:9".parse().unwrap()]);
    let place = attic.mesh.reach().borrow().addresses.clone();
    let (attic, cellar) = (attic.stop().await.0, cellar.stop().await.0);
    remember(&attic, ids.1, &nowhere, &[]);
    remember(&cellar, ids.0, &[far_from(place[0]).await], &[]);
    let cellar = Host::start(cellar, "cellar", Serve::Off).await;
    let (liar, lie) = liar().await;
    for _ in 0..3 {
        cellar.mesh.hear(ids.0, lie).await;
    }
    let attic = Host::start(attic, "attic", Serve::Off).await;
    cellar.sees("attic", |members| members.up().count() == 2).await;

    // The truth is believed from whom a lie was heard before.
    let (attic, cellar) = (attic.stop().await.0, cellar.stop().await.0);
    remember(&attic, ids.1, &nowhere, &[]);
    remember(&cellar, ids.0, &nowhere, &[]);
    let attic = Host::start(attic, "attic", Serve::Off).await;
    let cellar = Host::start(cellar, "cellar", Serve::Off).await;
    eventually(attic.mesh.reach(), "an address", |reach| !reach.addresses.is_empty()).await;
    let truth = attic.mesh.reach().borrow().addresses[0];
    cellar.mesh.hear(ids.0, lie).await;
    cellar.mesh.hear(ids.0, truth).await;
    cellar.sees("attic", |members| members.up().count() == 2).await;
    liar.shutdown().await.unwrap();
    cellar.stop().await;
    attic.stop().await;
}
