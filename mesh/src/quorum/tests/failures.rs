//! Dead leaders, cut links and slow ones.

use super::*;

#[tokio::test]
async fn another_voter_leads_within_four_seconds_of_a_leaders_death() {
    let hosts = Hosts::voting(1..=3).await;
    sees_generation(&hosts.group(3), 0).await;
    let term = hosts.group(1).lead().borrow().term;
    let died = Instant::now();
    hosts.stop(1).await;
    assert_eq!(hosts.write(&[2, 3], apply(0, 10)).await, Ok(()));
    let took = died.elapsed();
    assert!(took < FAILOVER, "{took:?}");
    hosts.start(1).await;
    sees_generation(&hosts.group(1), 1).await;
    let lead = hosts.group(1).lead().borrow().clone();
    assert!(!lead.leading && lead.term > term);
}

#[tokio::test]
async fn a_cut_off_leader_answers_nothing_and_follows_when_it_returns() {
    let hosts = Hosts::voting(1..=3).await;
    hosts.cut(1);
    let alone = hosts.group(1);
    let written = alone.write(apply(0, 10), Duration::from_millis(700)).await;
    assert_eq!(written, Err(WriteError::TimedOut));
    assert_eq!(alone.read(Duration::from_secs(2)).await.map(|_| ()), Err(ReadError::NoQuorum));
    assert_eq!(hosts.write(&[2, 3], apply(0, 20)).await, Ok(()));
    assert_eq!(hosts.write(&[2, 3], apply(1, 20)).await, Ok(()));
    hosts.heal();
    sees_generation(&alone, 2).await;
    see(alone.lead(), "it follows", |lead| !lead.leading && lead.leader.is_some()).await;
    // Its own write lost against the one that was committed.
    let state = alone.state().borrow().clone().unwrap();
    let keys = &state.intent.as_ref().unwrap().ssh_keys[&"web".parse::<Name>().unwrap()];
    assert_eq!(keys[0].len(), 20);
}

#[tokio::test]
async fn a_voter_that_was_away_does_not_depose_the_leader() {
    let hosts = Hosts::voting(1..=3).await;
    let term = hosts.group(1).lead().borrow().term;
    hosts.cut(3);
    let away = hosts.group(3);
    // Three windows of silence: without a pre-vote it would be terms ahead.
    let until = Instant::now() + elect::window(2, 99) * 3;
    let mut generation = 0;
    while Instant::now() < until {
        hosts.group(1).write(apply(generation, 10), PATIENCE).await.unwrap().unwrap();
        generation += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    hosts.heal();
    sees_generation(&away, generation).await;
    let lead = hosts.group(1).lead().borrow().clone();
    assert_eq!((lead.leading, lead.term), (true, term));
}

#[tokio::test]
async fn a_large_topology_crosses_a_slow_link_without_a_change_of_leader() {
    let hosts = Hosts::voting(1..=3).await;
    let term = hosts.group(1).lead().borrow().term;
    // Far longer than openraft waits for an append, and than the others wait for a leader.
    hosts.slow(LEASE * 2);
    let large = apply(0, 512 * 1024);
    assert_eq!(hosts.group(1).write(large, PATIENCE).await, Ok(Ok(())));
    sees_generation(&hosts.group(2), 1).await;
    sees_generation(&hosts.group(3), 1).await;
    let lead = hosts.group(1).lead().borrow().clone();
    assert_eq!((lead.leading, lead.term), (true, term));
}

#[tokio::test]
async fn all_voters_may_restart_at_once() {
    let hosts = Hosts::voting(1..=3).await;
    assert_eq!(hosts.write(&[1], apply(0, 10)).await, Ok(()));
    for number in 1..=3 {
        hosts.stop(number).await;
    }
    for number in 1..=3 {
        hosts.start(number).await;
    }
    assert_eq!(hosts.write(&[1, 2, 3], apply(1, 10)).await, Ok(()));
}

#[tokio::test]
async fn a_voter_that_was_taken_out_while_away_hears_of_it_when_it_returns() {
    let hosts = Hosts::voting(1..=3).await;
    sees_generation(&hosts.group(3), 0).await;
    hosts.cut(3);
    let out = hosts.group(3);
    hosts.group(1).set_voters(hosts.voters([1, 2]), PATIENCE).await.unwrap();
    assert!(out.is_named() && !out.is_removed());
    hosts.heal();
    let until = Instant::now() + PATIENCE;
    while !out.is_removed() {
        assert!(Instant::now() < until, "it still believes that it votes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!hosts.group(1).is_removed() && !hosts.group(2).is_removed());
}

#[tokio::test]
async fn a_store_that_never_joined_names_nobody_and_a_learner_is_named_also_after_a_snapshot() {
    let mut hosts = Hosts::voting(1..=1).await;
    hosts.dirs.insert(2, tempfile::tempdir().unwrap());
    hosts.start(2).await;
    assert!(hosts.group(1).is_named() && !hosts.group(2).is_named());
    for parent in 0..600 {
        hosts.group(1).write(apply(parent, 10), PATIENCE).await.unwrap().unwrap();
    }
    hosts.group(1).set_voters(hosts.voters([1, 2]), PATIENCE).await.unwrap();
    for number in [1, 2] {
        hosts.stop(number).await;
        hosts.start(number).await;
        assert!(hosts.group(number).is_named());
    }
}

#[tokio::test]
async fn nobody_speaks_for_another_node() {
    let hosts = Hosts::voting(1..=3).await;
    let (one, two) = (hosts.group(1).node_id(), hosts.group(2));
    let term = two.lead().borrow().term;
    let vote = openraft::Vote::new_committed(term + 7, one);
    let append = net::Call::Append(openraft::raft::AppendEntriesRequest {
        vote,
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    });
    for from in [two.node_id(), hosts.group(3).node_id(), 99] {
        let host = if from == 99 { host(9) } else { host(3) };
        let frame = net::Frame { to: two.node_id(), from, call: append.clone() };
        two.handle(host, &wire::encode(&frame)).await;
    }
    hosts.group(1).read(PATIENCE).await.unwrap();
    assert_eq!(two.lead().borrow().term, term);
}

#[tokio::test]
async fn a_voter_that_lost_its_store_never_answers_for_the_old_one() {
    let mut hosts = Hosts::voting(1..=3).await;
    let old = hosts.group(3).node_id();
    hosts.stop(3).await;
    hosts.dirs.insert(3, tempfile::tempdir().unwrap());
    hosts.start(3).await;
    let new = hosts.group(3);
    assert_ne!(new.node_id(), old);
    hosts.group(1).write(apply(0, 10), PATIENCE).await.unwrap().unwrap();
    assert_eq!(*new.state().borrow(), None);
    hosts.group(1).set_voters(hosts.voters([1, 2, 3]), PATIENCE).await.unwrap();
    sees_generation(&new, 1).await;
}
