//! Hosts that are gone for good, on real meshes on loopback: nobody waits for them.

use proto::trust::{Eviction, OutBecause};

use super::*;

/// States that a host is gone for good, as `host remove` does, and waits until `by` sees it so.
async fn remove(by: &Host, host: HostId) {
    let eviction = Eviction { host, made: by.mesh.now(), reason: OutBecause::Removed };
    by.mesh.say(&Statement::Eviction(eviction)).unwrap();
    eventually("the word counts", async || by.sessions.ground.picture().out.contains_key(&host)).await;
}

async fn cleared(host: &Host, session: SessionId) {
    let dir = host.sessions.requests.store.session(session);
    eventually("nothing is left", async || host.sessions.ground.share(session).is_none() && !dir.exists())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_only_voter_is_gone_is_ended_by_who_is_left_and_its_name_is_free() {
    let attic = Host::founder("attic").await;
    let cellar = Host::joiner("cellar", &attic).await;
    let session = cellar.up().await;
    eventually("its share", async || attic.sessions.ground.share(session).is_some()).await;
    let lost = cellar.id();
    cellar.stop().await;

    let refused = attic.app.down(session).await.unwrap_err();
    let next = refused.next.unwrap();
    assert!(next.ends_with("agent host remove cellar"), "{next}");
    remove(&attic, lost).await;
    let warned = attic.app.status().await.unwrap().warnings;
    let next = warned.iter().find(|warning| warning.what.starts_with("shop can only be ended"));
    assert_eq!(
        next.and_then(|warning| warning.next.as_deref()),
        Some("agent session down shop"),
        "{warned:?}"
    );
    attic.app.down(session).await.unwrap();
    cleared(&attic, session).await;
    let progress = attic.app.down_progress(session).await.unwrap();
    assert!(progress.gone && progress.away.is_empty(), "{progress:?}");
    assert_ne!(attic.up().await, session, "another one is called so now");
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_leave_a_host_that_is_gone_at_once_and_its_machines_hold_no_end_up() {
    let [attic, cellar, garden] = three().await;
    let session = attic.up().await;
    let all = BTreeSet::from([attic.id(), cellar.id(), garden.id()]);
    eventually("three voters", async || attic.voters(session) == all).await;
    place_by_hand(&attic, session, shop_with_disk("8G"), garden.id()).await;
    eventually("its share", async || cellar.sessions.ground.share(session).is_some()).await;
    let lost = garden.id();
    garden.stop().await;

    remove(&attic, lost).await;
    eventually("the vote moves", async || !attic.voters(session).contains(&lost)).await;
    attic.app.down(session).await.unwrap();
    for host in [&attic, &cellar] {
        cleared(host, session).await;
    }
    let progress = attic.app.down_progress(session).await.unwrap();
    assert!(progress.gone && progress.away.is_empty(), "{progress:?}");
    for host in [attic, cellar] {
        host.stop().await;
    }
}
