//! A host that exists twice for a while: somebody started a copy of its directory.

use std::{path::Path, time::Duration};

use proto::{facts::Fact, id::Digest, wire::record::RecordKey};
use tempfile::TempDir;
use tokio::sync::broadcast;

use super::{harness::*, living::image};
use crate::{MemberState, MeshError, Serve};

/// Longer than two hosts take that dial each other at the same time.
const NO_SAME_TIME: Duration = Duration::from_millis(3_200);
/// Everything soft is right again so long after what disturbed it has ended.
const AGAIN: Duration = Duration::from_secs(60);

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status();
    assert!(copied.unwrap().success());
    to
}

async fn told_of_a_double(facts: &mut broadcast::Receiver<Fact>) {
    let told = async {
        loop {
            if let Fact::MemberTwice { member } = facts.recv().await.unwrap() {
                assert_eq!(member, name("cellar"));
                return;
            }
        }
    };
    tokio::time::timeout(WITHIN, told).await.expect("it is told that two computers run as cellar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_host_stops_all_are_told_and_the_host_is_up_for_everybody_and_heard() {
    let mut attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let mut cellar = Host::joiner("cellar", &token).await;
    let mut garden = Host::joiner("garden", &token).await;
    let id = cellar.id();
    for host in [&attic, &cellar, &garden] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    // Of two connections the older one is closed only when it is no simultaneous dial.
    tokio::time::sleep(NO_SAME_TIME).await;
    let copy = Host::start(copy(cellar.dir.path()), "cellar", Serve::Off).await;
    let said_by_copy = RecordKey::Image(Digest([8; 32]));
    copy.mesh.publish(said_by_copy.clone(), Some(image())).await;
    let place = (id, said_by_copy);
    assert!(!copy.mesh.is_single().await, "nothing starts in it");
    assert!(matches!(copy.ended().await.1, Err(MeshError::Twice)));
    told_of_a_double(&mut cellar.facts).await;
    told_of_a_double(&mut attic.facts).await;
    told_of_a_double(&mut garden.facts).await;
    let said = RecordKey::Image(Digest([7; 32]));
    cellar.mesh.publish(said.clone(), Some(image())).await;
    let right = async {
        for host in [&attic, &garden] {
            let mut records = host.mesh.records();
            let heard = records.wait_for(|records| {
                records.contains_key(&(id, said.clone())) && !records.contains_key(&place)
            });
            heard.await.map(drop).unwrap();
            let up = |members: &std::sync::Arc<crate::Members>| members.hosts[&id].state == MemberState::Up;
            host.mesh.members().wait_for(up).await.map(drop).unwrap();
        }
        let mut members = cellar.mesh.members();
        members.wait_for(|members| members.up().count() == 3).await.map(drop).unwrap();
    };
    if tokio::time::timeout(AGAIN, right).await.is_err() {
        for host in [&attic, &cellar, &garden] {
            eprintln!(
                "{}: {:#?}",
                host.name,
                host.mesh
                    .members()
                    .borrow()
                    .hosts
                    .values()
                    .map(|m| (&m.name, m.state, &m.path))
                    .collect::<Vec<_>>()
            );
            eprintln!(
                "{:?}",
                host.mesh.records().borrow().keys().filter(|(host, _)| *host == id).collect::<Vec<_>>()
            );
        }
        panic!("not right again within {AGAIN:?}");
    }
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}
