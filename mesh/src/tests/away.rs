//! A host that was away, and whom it meets first.

use std::time::Duration;

use iroh::EndpointAddr;
use proto::{
    trust::OutBecause,
    wire::rpc::{Answer, Refusal, Request},
};

use super::harness::*;
use crate::{Serve, identity, reach::describe};

/// Long enough to be served by a host that is connected, and short beside what it waits for an issuer.
const A_WHILE: Duration = Duration::from_secs(2);

/// What every other request stands for: it reaches the agent.
fn request() -> Request {
    Request::Down { session: session(), mandate: None }
}

fn is_served<E>(answer: &Result<Answer, E>) -> bool {
    matches!(answer, Ok(Answer::Refused(Refusal::Failed(text))) if text.contains("asked Down"))
}

/// Opens a connection for the tests' own protocol, and tells whether the other side served it before it ended.
async fn is_greeted(by: &Host, at: &Host) -> bool {
    let id = identity::endpoint_id(&at.id()).unwrap();
    let address: EndpointAddr = describe::endpoint_addr(id, &at.mesh.reach().borrow(), &[]);
    let Ok(connection) = by.mesh.endpoint().connect(address, GREETED).await else { return false };
    connection.accept_uni().await.is_ok()
}

fn is_at_a_relay(host: &Host) -> bool {
    host.mesh.surroundings().homes.iter().any(|home| home.is_connected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_put_out_gets_nothing_from_a_host_that_was_away_meanwhile_and_meets_it_first() {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let cellar = Host::joiner_serving("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
    let shed = Host::joiner("shed", &token).await;
    for host in [&attic, &cellar, &garden, &shed] {
        host.sees("four up", |members| members.up().count() == 4).await;
    }
    assert!(is_served(&shed.mesh.call(cellar.id(), request(), WITHIN).await), "as long as it is a member");
    assert!(is_greeted(&shed, &cellar).await);
    let out = shed.id();
    let (shed, cellar) = (shed.kill().await.0, cellar.stop().await.0);
    attic.mesh.put_out(out, OutBecause::Evicted).unwrap();
    garden.sees("shed out", |members| members.out.contains_key(&out)).await;
    let (attic, garden) = (attic.stop().await.0, garden.stop().await.0);

    // Nobody has told either of them.
    let shed = Host::start(shed, "shed", Serve::Off).await;
    let cellar = Host::start(cellar, "cellar", Serve::On).await;
    cellar.sees("shed", |members| members.up().count() == 2).await;
    let pinged = shed.mesh.call(cellar.id(), Request::Ping, A_WHILE).await;
    assert!(matches!(pinged, Ok(Answer::Done)), "it says that it is there: {pinged:?}");
    let (asked, around) = (request(), Request::Around);
    let served = async {
        tokio::join!(
            shed.mesh.call(cellar.id(), asked, WITHIN),
            shed.mesh.call(cellar.id(), around, WITHIN),
            shed.mesh.raft(cellar.id(), session(), vec![1, 2, 3], WITHIN),
            is_greeted(&shed, &cellar),
        )
    };
    let attic_comes = async {
        tokio::time::sleep(A_WHILE).await;
        assert!(!is_at_a_relay(&shed), "not by its relay");
        let attic = Host::start(attic, "attic", Serve::Off).await;
        cellar.sees("shed out", |members| members.out.contains_key(&out)).await;
        attic
    };
    let ((asked, around, raft, greeted), attic) = tokio::join!(served, attic_comes);
    assert!(asked.is_err() && around.is_err() && raft.is_err(), "{asked:?} {around:?} {raft:?}");
    assert!(!greeted, "no connection of another protocol");
    // Members are served at once.
    assert!(is_served(&attic.mesh.call(cellar.id(), request(), WITHIN).await));
    let garden = Host::start(garden, "garden", Serve::Off).await;
    assert!(is_greeted(&garden, &cellar).await);
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
    assert!(shed.ended().await.1.is_err(), "it learned it as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_host_that_hears_from_no_issuer_is_answered_after_a_while() {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let cellar = Host::joiner("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
    for host in [&attic, &cellar, &garden] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    let (_attic, cellar) = (attic.stop().await, cellar.stop().await.0);
    let cellar = Host::start(cellar, "cellar", Serve::Off).await;
    garden.sees("cellar", |members| members.up().count() == 2).await;
    let early = garden.mesh.call(cellar.id(), request(), Duration::from_millis(500)).await;
    assert!(early.is_err(), "one of two others is not most of them: {early:?}");
    assert!(is_served(&garden.mesh.call(cellar.id(), request(), WITHIN).await), "members matter more");
    for host in [cellar, garden] {
        host.stop().await;
    }
}
