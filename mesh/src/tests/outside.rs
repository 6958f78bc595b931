//! Hosts that are reached from outside: a member dials them back before anybody is told of their relay.

use std::net::{Ipv4Addr, SocketAddr};

use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use proto::{
    facts::Fact,
    id::Digest,
    reachability::{
        fallback::Foreign,
        proof::{Claim, Public, Reached},
    },
    wire::{
        record::Reach,
        rpc::{Answer, Refusal, Request},
    },
};

use super::harness::*;
use crate::{Outward, Serve, WayIn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_told_of_once_a_member_has_dialled_it() {
    let (dir, name) = Host::founder("attic", Serve::Off).await.stop().await;
    let public = Some(Public { ip: Ipv4Addr::LOCALHOST.into(), port: None });
    let outward = Outward { public, map: false };
    let mut attic = Host::start_led(dir, name.as_str(), Serve::Auto, (outward, Foreign::default())).await;
    eventually(attic.mesh.way_in(), "a claim", |way| way.claimed.is_some()).await;
    assert_eq!(attic.mesh.relay(), None, "nobody has dialled it");

    let cellar = Host::joiner("cellar", &attic.token().await).await;
    eventually(attic.mesh.way_in(), "the proof", |way| way.proved).await;
    let offer = attic.mesh.relay().unwrap();
    let told = |way: &WayIn| way.proved && way.mapped.is_none();
    assert!(told(&attic.mesh.way_in().borrow()));
    loop {
        if let Fact::RelayServed { url } = attic.facts.recv().await.unwrap() {
            assert_eq!(url, offer.url);
            break;
        }
    }
    eventually(cellar.mesh.reach(), "cellar's home is that relay", |reach| {
        reach.relays.iter().any(|url| url.starts_with(&offer.url))
    })
    .await;
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_dialled_only_at_its_own_address_and_told_what_was_reached() {
    let attic = Host::founder("attic", Serve::Off).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    cellar.sees("both up", |members| members.up().count() == 2).await;
    let here = cellar.mesh.endpoint().bound_sockets()[0];
    let ask = async |endpoint: SocketAddr, relay: u16| {
        let claim = Claim { endpoint, relay, discovery: relay };
        let request = Request::DialBack { claim, certificate: Digest([1; 32]), word: [2; 16] };
        cellar.mesh.call(attic.id(), request, WITHIN).await.unwrap()
    };
    let refused = |answer: Answer, because: &str| {
        let told = matches!(&answer, Answer::Refused(Refusal::Failed(words)) if words.contains(because));
        assert!(told, "{answer:?}");
    };
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    refused(ask(SocketAddr::from(([127, 0, 0, 2], here.port())), closed).await, "not seen at that address");
    refused(ask(here, 22).await, "below 1024");
    let reached = Reached { endpoint: true, relay: false, discovery: false };
    assert_eq!(ask(here, closed).await, Answer::DialledBack(reached));
    refused(ask(here, closed).await, "too many");
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_of_strangers_is_home_until_a_member_serves_one() {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let stranger = Server::spawn(config).await.unwrap();
    let url = format!("http://{}", stranger.http_addr().unwrap());
    let foreign: Foreign = url.parse().unwrap();

    let (dir, name) = Host::founder("attic", Serve::Off).await.stop().await;
    let attic = Host::start_led(dir, name.as_str(), Serve::Off, (Outward::default(), foreign)).await;
    assert!(attic.mesh.reach().borrow().relays.is_empty(), "who is alone meets nobody");
    let token = attic.token().await;
    let at = |wanted: &str| {
        let wanted = wanted.to_owned();
        move |reach: &Reach| matches!(&reach.relays[..], [home] if home.starts_with(&wanted))
    };
    eventually(attic.mesh.reach(), "the stranger's relay is home", at(&url)).await;

    let shed = Host::joiner_serving("shed", &token).await;
    let own = shed.mesh.relay().unwrap().url;
    eventually(attic.mesh.reach(), "the member's relay is home", at(&own)).await;
    attic.stop().await;
    shed.stop().await;
    stranger.shutdown().await.unwrap();
}
