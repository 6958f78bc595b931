//! A host that starts again and again: a service that crashes, or a member that means ill.

use std::time::Duration;

use super::harness::*;
use crate::{MemberState, Serve};

/// More starts than are known of one host at a time.
const STARTS: usize = 40;
/// Long enough for a start to be heard of.
const RUNS: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_starts_all_the_time_cuts_off_nobody_else() {
    let attic = Host::founder("attic", Serve::Off).await;
    let token = attic.token().await;
    let garden = Host::joiner("garden", &token).await;
    let mut cellar = Host::joiner("cellar", &token).await;
    for host in [&attic, &garden, &cellar] {
        host.sees("three up", |members| members.up().count() == 3).await;
    }
    let (mut by_attic, other) = (attic.mesh.members(), garden.id());
    let watch = tokio::spawn(async move {
        let lost = by_attic.wait_for(|members| members.hosts[&other].state != MemberState::Up);
        lost.await.map(drop)
    });
    for _ in 0..STARTS {
        tokio::time::sleep(RUNS).await;
        let (dir, name) = cellar.kill().await;
        cellar = Host::start(dir, name.as_str(), Serve::Off).await;
    }
    for host in [&attic, &garden, &cellar] {
        host.sees("three up again", |members| members.up().count() == 3).await;
    }
    assert!(!watch.is_finished(), "the attic lost the garden, which never stopped");
    watch.abort();
    for host in [attic, garden, cellar] {
        host.stop().await;
    }
}
