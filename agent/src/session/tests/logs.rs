//! A voter's log that is of no use: put aside when the session's leader asks, never before, and replaced.

use proto::facts::Fact;

use super::*;

/// A minute between two looks at the voters, and a change.
const REPLACED_WITHIN: Duration = Duration::from_secs(80);

fn store(dir: &TempDir, session: SessionId) -> std::path::PathBuf {
    dir.path().join("sessions").join(session.to_string()).join("raft/store.redb")
}

/// Three hosts that all vote in a session, and the session.
async fn voting() -> ([Host; 3], SessionId) {
    let hosts = three().await;
    let session = hosts[0].up().await;
    for host in &hosts {
        eventually("three voters", async || host.voters(session).len() == 3).await;
        eventually("its share", async || host.hub.share(session).is_some()).await;
    }
    (hosts, session)
}

fn node(host: &Host, session: SessionId) -> Option<u64> {
    host.hub.group(session).map(|group| group.node_id())
}

async fn told(host: &Host) -> bool {
    host.app.facts().after(0).iter().any(|event| matches!(event.fact, Fact::LogReplaced { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_stays_where_it_is_until_the_leader_asks_and_is_kept_then() {
    let ([attic, cellar, garden], session) = voting().await;
    let old = node(&cellar, session).unwrap();
    let (dir, label) = cellar.stop().await;
    let path = store(&dir, session);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    let cellar = Host::start(dir, label).await;
    assert_eq!(node(&cellar, session), None);
    assert_eq!(std::fs::read(&path).unwrap().len(), good.len() / 2, "it is left alone");

    let request = || Request::OpenVoter { session, name: name("shop"), outdated: None };
    let asked = async || attic.mesh.call(cellar.id(), request(), WITHIN).await;
    eventually("the leader is heard", async || matches!(asked().await, Ok(Answer::Voter { .. }))).await;
    let Ok(Answer::Voter { node: new }) = asked().await else { panic!("it has answered before") };
    assert_ne!(new, old);
    let aside = cellar.raft_dir(session).with_file_name("raft.aside").join("store.redb");
    assert_eq!(std::fs::read(aside).unwrap().len(), good.len() / 2, "it is kept");
    eventually("it is told", async || told(&cellar).await).await;

    // Asking again finds the same new log; the group takes it in.
    assert_eq!(asked().await.unwrap(), Answer::Voter { node: new });
    let group = attic.hub.group(session).unwrap();
    let mut voters = group.lead().borrow().voters.clone();
    voters.remove(&old);
    voters.insert(new, cellar.id());
    group.set_voters(voters, WITHIN).await.unwrap();
    eventually("it votes", async || cellar.voters(session).len() == 3).await;
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_copied_back_is_replaced_within_a_minute() {
    let ([attic, cellar, garden], session) = voting().await;
    let old = node(&cellar, session).unwrap();
    let (dir, label) = cellar.stop().await;
    let copy = std::fs::read(store(&dir, session)).unwrap();
    let cellar = Host::start(dir, label).await;
    place_by_hand(&attic, session, shop_with_disk("8G")).await;
    let generation = || attic.hub.group(session).unwrap().state().borrow().as_ref().unwrap().generation();
    let has_all = async |host: &Host| {
        let Some(group) = host.hub.group(session) else { return false };
        let state = group.state().borrow().clone();
        state.is_some_and(|state| state.generation() == generation())
    };
    eventually("it has the newest plan", async || has_all(&cellar).await).await;
    let (dir, label) = cellar.stop().await;
    std::fs::write(store(&dir, session), &copy).unwrap();
    let cellar = Host::start(dir, label).await;

    let until = Instant::now() + REPLACED_WITHIN;
    let replaced = async || node(&cellar, session) != Some(old) && cellar.voters(session).len() == 3;
    while !replaced().await || !has_all(&cellar).await {
        assert!(Instant::now() < until, "it still votes with an old copy");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cellar.raft_dir(session).with_file_name("raft.aside").exists());
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}
