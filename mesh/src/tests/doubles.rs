//! A host that exists twice for a while: somebody started a copy of its directory.

use std::{path::Path, time::Duration};

use proto::{facts::Fact, id::Digest, wire::record::RecordKey};
use tempfile::TempDir;
use tokio::sync::broadcast;

use super::{harness::*, living::image};
use crate::{MemberState, Serve};

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
            match facts.recv().await.unwrap() {
                Fact::GossipRefused { why: Some(why), .. } if why.code == "about-me" => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(WITHIN, told).await.expect("the host is told that somebody speaks in its name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_copy_is_gone_is_up_for_everybody_and_heard_within_a_minute() {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let mut cellar = Host::joiner("cellar", &token).await;
    let garden = Host::joiner("garden", &token).await;
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
    let (mut by_attic, mut by_garden) = (attic.mesh.records(), garden.mesh.records());
    let heard = async {
        tokio::select! {
            heard = by_attic.wait_for(|records| records.contains_key(&place)) => heard.map(drop).unwrap(),
            heard = by_garden.wait_for(|records| records.contains_key(&place)) => heard.map(drop).unwrap(),
        }
    };
    tokio::time::timeout(WITHIN, heard).await.expect("the copy is heard by somebody");
    // The host itself is not heard meanwhile, nor hears: others answer one of the two.
    copy.kill().await;
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
    told_of_a_double(&mut cellar.facts).await;
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}
