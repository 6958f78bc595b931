//! A voter's log that is of no use: put aside when the session's leader asks, never before, and replaced.

use proto::facts::Fact;

use super::*;

/// 40 s between two looks at the voters, and a change.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

fn store(dir: &TempDir, session: SessionId) -> std::path::PathBuf {
    dir.path().join("sessions").join(session.to_string()).join("raft/store.redb")
}

/// Three hosts that all vote in a session, and the session.
async fn voting() -> ([Host; 3], SessionId) {
    let hosts = three().await;
    let session = hosts[0].up().await;
    for host in &hosts {
        eventually("three voters", async || host.voters(session).len() == 3).await;
        eventually("its share", async || host.sessions.ground.share(session).is_some()).await;
    }
    (hosts, session)
}

fn node(host: &Host, session: SessionId) -> Option<u64> {
    host.sessions.table.log(session).map(|group| group.node_id())
}

async fn told(host: &Host) -> bool {
    host.app.facts().after(0).iter().any(|event| matches!(event.fact, Fact::LogReplaced { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_stays_where_it_is_until_the_leader_asks_and_is_replaced_and_kept_then() {
    let ([attic, cellar, garden], session) = voting().await;
    let old = node(&cellar, session).unwrap();
    let stopped = [attic.stop().await, garden.stop().await];
    let (dir, label) = cellar.stop().await;
    let path = store(&dir, session);
    // The header and nothing behind it: half a file would do, where its second half is used.
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[4096..].fill(0xa5);
    std::fs::write(&path, &damaged).unwrap();
    let cellar = Host::start(dir, label).await;
    // Nobody is there who could lead it.
    assert_eq!(node(&cellar, session), None);
    let aside = cellar.raft_dir(session).with_file_name("raft.aside").join("store.redb");
    assert!(path.exists() && !aside.exists(), "it is left where it is");

    let [attic, garden] = stopped;
    let attic = Host::start(attic.0, attic.1).await;
    let garden = Host::start(garden.0, garden.1).await;
    let until = Instant::now() + REPLACED_WITHIN;
    let votes =
        |host: &Host| host.voters(session).len() == 3 && node(&cellar, session).is_some_and(|new| new != old);
    while ![&attic, &cellar, &garden].into_iter().all(votes) {
        assert!(Instant::now() < until, "it does not vote again: {:?}", node(&cellar, session));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(aside.exists(), "it is kept");
    eventually("it is told", async || told(&cellar).await).await;

    // Asking again finds the same new log.
    let new = node(&cellar, session).unwrap();
    let request = Request::OpenVoter { session, name: name("shop"), outdated: None };
    let asked = attic.mesh.call(cellar.id(), request, WITHIN).await;
    assert_eq!(asked.unwrap(), Answer::Voter { node: new });
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_only_log_is_of_no_use_says_so_wherever_it_is_asked() {
    let attic = Host::founder("attic").await;
    let session = attic.up().await;
    eventually("its share", async || attic.sessions.ground.share(session).is_some()).await;
    let (dir, label) = attic.stop().await;
    let path = store(&dir, session);
    let whole = std::fs::read(&path).unwrap();
    let harms: [(&str, Option<Vec<u8>>); 2] =
        [("damaged", Some(whole[..5000].to_vec())), ("not there", None)];
    let mut place = (dir, label);
    for (word, harm) in harms {
        match harm {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
        }
        let attic = Host::start(place.0, place.1).await;
        let told = attic.app.status().await.unwrap().health;
        let told = told.iter().any(|trouble| trouble.what.contains("shop") && trouble.because.contains(word));
        assert!(told, "{word}: {:?}", attic.app.status().await.unwrap().health);
        let refused = attic.sessions.asking.ask(session, Request::Down { session, mandate: None }).await;
        assert!(matches!(&refused, Err(Refusal::Failed(because)) if because.contains(word)), "{refused:?}");
        place = attic.stop().await;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, whole).unwrap();
    let attic = Host::start(place.0, place.1).await;
    assert_eq!(attic.app.status().await.unwrap().health, [], "put back, it is as before");
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_copied_back_is_replaced_within_a_minute() {
    let ([attic, cellar, garden], session) = voting().await;
    let old = node(&cellar, session).unwrap();
    let (dir, label) = cellar.stop().await;
    let copy = std::fs::read(store(&dir, session)).unwrap();
    let cellar = Host::start(dir, label).await;
    place_by_hand(&attic, session, shop_with_disk("8G"), attic.id()).await;
    let generation =
        || attic.sessions.table.log(session).unwrap().state().borrow().as_ref().unwrap().generation();
    let has_all = async |host: &Host| {
        let Some(group) = host.sessions.table.log(session) else { return false };
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
