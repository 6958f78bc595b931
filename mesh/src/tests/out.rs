//! What becomes of hosts that are out of the mesh, and of those that stay.

use std::time::{Duration, Instant};

use proto::{
    facts::Fact,
    trust::{JoinRefusal, OutBecause},
    wire::{record::RecordKey, rpc::Request},
};

use super::harness::*;
use crate::{JoinError, MeshError, RightsError, RpcError, Serve, identity};

/// How long a host that is cut off may go on talking to anybody over a direct connection.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(3);

async fn four() -> [Host; 4] {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let cellar = Host::joiner("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
    let shed = Host::joiner("shed", &token).await;
    for host in [&attic, &cellar, &garden, &shed] {
        host.sees("four up", |members| members.up().count() == 4).await;
    }
    [attic, cellar, garden, shed]
}

async fn told(host: &mut Host, what: &str, is_it: impl Fn(&Fact) -> bool) {
    let heard = async { while !is_it(&host.facts.recv().await.unwrap()) {} };
    assert!(tokio::time::timeout(WITHIN, heard).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_host_talks_to_nobody_after_three_seconds_and_ends() {
    let [mut attic, cellar, garden, shed] = four().await;
    let (evicted, token) = (shed.id(), attic.token().await);
    let before = Instant::now();
    let dead = attic.mesh.put_out(evicted, OutBecause::Evicted).unwrap();
    assert_eq!(dead.tokens.len(), 1, "the token that all joined by");
    for host in [&attic, &cellar, &garden] {
        host.sees("shed out", |members| members.out.contains_key(&evicted)).await;
        let mut connected = host.mesh.streams().connected();
        connected.wait_for(|hosts| !hosts.contains(&evicted)).await.unwrap();
    }
    // In a pass all of this takes a tenth of a second; the machine of a test may be loaded.
    assert!(before.elapsed() < CUT_OFF_WITHIN, "{:?}", before.elapsed());
    for host in [&attic, &cellar, &garden] {
        let asked = host.mesh.call(evicted, Request::Ping, CUT_OFF_WITHIN).await;
        assert!(matches!(asked, Err(RpcError::NotMember)), "{asked:?}");
        eventually(host.mesh.records(), "its records gone", |records| {
            !records.contains_key(&(evicted, RecordKey::Host))
        })
        .await;
    }
    told(
        &mut attic,
        "attic tells it",
        |fact| matches!(fact, Fact::MemberEvicted { member, .. } if member == "shed"),
    )
    .await;
    // It learned it from those that closed their doors.
    let (dir, ended) = shed.ended().await;
    assert!(matches!(ended, Err(MeshError::Out { because: OutBecause::Evicted, .. })), "{ended:?}");
    let place = identity::place(dir.path(), now()).unwrap();
    assert_eq!((place.name.as_str(), place.out.map(|out| out.because)), ("shed", Some(OutBecause::Evicted)));
    // Its token is dead, others live, and its key is out for good.
    let asked = try_join(dir.path(), "again", &token).await.err().unwrap();
    assert!(matches!(asked, JoinError::Identity(identity::IdentityError::Exists)), "{asked:?}");
    let fresh = Host::joiner("shed", &token).await;
    fresh.sees("four again", |members| members.up().count() == 4).await;
    for host in [attic, cellar, garden, fresh] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_away_learns_that_it_is_out_from_whom_it_meets_first() {
    let [attic, cellar, garden, shed] = four().await;
    let away = shed.id();
    let (dir, _) = shed.kill().await;
    attic.mesh.put_out(away, OutBecause::Removed).unwrap();
    for host in [&cellar, &garden] {
        host.sees("shed out", |members| members.out.contains_key(&away)).await;
    }
    let (_, ended) = Host::start(dir, "shed", Serve::Off).await.ended().await;
    assert!(matches!(ended, Err(MeshError::Out { because: OutBecause::Removed, .. })), "{ended:?}");
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_known_to_have_left_and_can_join_again_as_another() {
    let [attic, cellar, garden, mut shed] = four().await;
    let (left, token) = (shed.id(), attic.token().await);
    assert_eq!(shed.mesh.leave().await.unwrap(), Vec::<proto::id::Name>::new(), "everybody heard it");
    for host in [&attic, &cellar, &garden] {
        host.sees("shed left", |members| {
            members.out.get(&left).is_some_and(|out| out.because == OutBecause::Left)
                && members.up().count() == 3
        })
        .await;
    }
    told(&mut shed, "it tells so", |fact| matches!(fact, Fact::HostOut { .. })).await;
    let (dir, _) = shed.stop().await;
    let aside = identity::put_aside(dir.path(), now()).unwrap();
    assert!(aside.join("identity/host.key").exists() && !identity::exists(dir.path()));
    try_join(dir.path(), "shed", &token).await.unwrap();
    let shed = Host::start(dir, "shed", Serve::Off).await;
    assert_ne!(shed.id(), left);
    shed.sees("four up", |members| members.up().count() == 4).await;
    for host in [attic, cellar, garden, shed] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_makes_and_unmakes_issuers_and_what_they_did_stays() {
    let [attic, cellar, garden, shed] = four().await;
    let refused = cellar.mesh.set_issuer(garden.id(), true);
    assert!(matches!(&refused, Err(RightsError::NoRoot(on)) if *on == [name("attic")]), "{refused:?}");
    let refused = cellar.mesh.put_out(shed.id(), OutBecause::Evicted);
    assert!(matches!(&refused, Err(RightsError::NotIssuer(_))), "{refused:?}");
    let second = cellar.id();
    attic.mesh.set_issuer(second, true).unwrap();
    cellar.sees("it is one", |members| members.get(second).is_some_and(|member| member.issuer)).await;
    let token = cellar.token().await;
    let van = Host::joiner("van", &token).await;
    attic.sees("five up", |members| members.up().count() == 5).await;
    let refused = cellar.mesh.put_out(attic.id(), OutBecause::Evicted);
    assert!(matches!(&refused, Err(RightsError::NoRoot(_))), "{refused:?}");
    attic.mesh.set_issuer(second, false).unwrap();
    for host in [&attic, &garden, &shed, &van] {
        host.sees("demoted", |members| members.get(second).is_some_and(|member| !member.issuer)).await;
        assert!(host.mesh.members().borrow().get(van.id()).is_some(), "van stays");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = try_join(dir.path(), "late", &token).await.err().unwrap();
    assert!(matches!(error, JoinError::Refused(JoinRefusal::UnknownToken)), "{error:?}");
    for host in [attic, cellar, garden, shed, van] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_called_by_its_new_name_everywhere() {
    let [attic, cellar, garden, shed] = four().await;
    let renamed = shed.id();
    shed.mesh.rename(renamed, name("barn")).unwrap();
    for host in [&attic, &cellar, &garden] {
        host.sees("barn", |members| members.name(renamed) == Some(name("barn"))).await;
    }
    let refused = attic.mesh.rename(garden.id(), name("barn"));
    assert!(matches!(&refused, Err(RightsError::Taken(_))), "{refused:?}");
    attic.mesh.rename(renamed, name("hut")).unwrap();
    for host in [&cellar, &garden, &shed] {
        host.sees("hut", |members| members.name(renamed) == Some(name("hut"))).await;
    }
    for host in [attic, cellar, garden, shed] {
        host.stop().await;
    }
}
