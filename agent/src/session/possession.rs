//! Says now and then of which sessions this host has something, so that what was said of ended ones can be dropped
//! everywhere. What to say, and when, is `MemberSet::possession_due`'s.

use std::collections::BTreeSet;

use mesh::Clock;
use proto::{id::SessionId, level::Feature, picture::level, trust::Statement};

use super::{ground::Ground, store::Store, table::Table};

/// How often it is looked: what is dropped is a month old.
const LOOK_MS: u64 = 15 * 60 * 1000;

/// Runs until it is dropped.
pub(super) async fn run(ground: Ground, table: Table, store: Store) {
    loop {
        Clock.sleep_until(Clock.moment().plus_ms(LOOK_MS)).await;
        match held(&ground, &table, &store) {
            Ok(held) => say(&ground, &held),
            // What cannot be listed may be held: nothing is said.
            Err(error) => tracing::debug!(%error, "the sessions on the disk cannot be listed"),
        }
    }
}

/// Lists the sessions that this host has a share, a log or files of.
fn held(ground: &Ground, table: &Table, store: &Store) -> std::io::Result<BTreeSet<SessionId>> {
    let shown = ground.shares().keys().copied().collect::<Vec<_>>();
    let logs = table.logs().keys().copied().collect::<Vec<_>>();
    Ok(store.ids()?.into_iter().chain(shown).chain(logs).collect())
}

fn say(ground: &Ground, held: &BTreeSet<SessionId>) {
    // Older members would keep each of these words as one that they do not know.
    if !level::mesh_level(&ground.picture()).allows(Feature::Possession) {
        return;
    }
    let (mesh, roll) = (&ground.mesh, ground.mesh.roll().borrow().clone());
    let Some(possession) = roll.set.possession_due(ground.me(), held, mesh.now()) else { return };
    if let Err(error) = mesh.say(&Statement::Possession(possession)) {
        tracing::debug!(%error, "what this host holds is not said");
    }
}
