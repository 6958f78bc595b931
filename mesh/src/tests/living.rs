//! What members do with each other once they are members.

use std::time::{Duration, Instant};

use iroh::{Endpoint, EndpointAddr, endpoint::presets};
use proto::{
    id::Digest,
    wire::{
        record::{Body, ImageRecord, RecordKey},
        rpc::{Answer, Refusal, Request},
    },
};

use super::harness::*;
use crate::{MemberState, PathKind, RpcError, Serve, wire};

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

fn image() -> Body {
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
    let asked = attic.mesh.call(garden.id(), Request::Down(session()), WITHIN).await.unwrap();
    let expected = format!("{} asked Down(SessionId(09090909))", attic.id());
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
    // Loopback ports change at each start, so the caches tell the first host's new address only
    // through the others' dials: the harness writes where it is now.
    let mut started = Vec::new();
    for (dir, name) in stopped {
        started.push(Host::start(dir, name.as_str(), Serve::Off).await);
    }
    for host in &started[1..] {
        tell_address(host, &started[0]).await;
    }
    for host in &started {
        host.sees("three up again", |members| members.up().count() == 3).await;
    }
    for host in started {
        host.stop().await;
    }
}

/// Dials once by hand, as a remembered fixed port would make it possible.
async fn tell_address(from: &Host, to: &Host) {
    let lookup = iroh::address_lookup::memory::MemoryLookup::new();
    let reach = to.mesh.reach();
    let mut reach_seen = reach.clone();
    reach_seen.wait_for(|reach| !reach.addresses.is_empty()).await.unwrap();
    let id = crate::identity::endpoint_id(&to.id()).unwrap();
    lookup.set_endpoint_info(crate::reach::endpoint_addr(id, &reach.borrow()));
    from.mesh.endpoint().address_lookup().unwrap().add(lookup);
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
    tell_address(&garden, &attic).await;
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
    let address: EndpointAddr = crate::reach::endpoint_addr(id, &attic.mesh.reach().borrow());
    let connection = stranger.connect(address, wire::ALPN).await.unwrap();
    let closed = tokio::time::timeout(WITHIN, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("not a member"), "{closed}");
    stranger.close().await;
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_without_common_address_talk_through_a_relay() {
    let attic = Host::founder("attic", Serve::On).await;
    eventually(attic.mesh.reach(), "attic uses its own relay", |reach| !reach.relays.is_empty()).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    eventually(cellar.mesh.reach(), "cellar uses the relay", |reach| !reach.relays.is_empty()).await;
    attic
        .sees("a path", |members| {
            members.hosts.values().any(|member| {
                member.path.as_ref().is_some_and(|path| path.kind == PathKind::Direct && path.rtt_ms < 1000.0)
            })
        })
        .await;
    attic.stop().await;
    cellar.stop().await;
}
