//! What the logs that lie on the disk need when the agent starts: each is opened, one that the disk does not
//! give is tried again, and what a crash left of sessions that never came to be is removed.

use std::{collections::BTreeSet, io, time::Duration};

use mesh::quorum::{Group, ReadError};
use proto::{
    backoff::BackOff,
    id::{HostId, SessionId},
};

use super::{
    ground::Ground,
    store::Store,
    table::{Table, VoterError},
    tasks::Tasks,
};

/// How long a lone voter may take to lead again after a start.
const LED: Duration = Duration::from_secs(10);
/// Pauses between two tries to open a log that the disk did not give when the agent started.
const OPEN_AGAIN: BackOff = BackOff::new(1_000, 16_000);

/// Opens every log that lies on the disk, and removes what a crash left of sessions that never
/// came to be.
pub(super) async fn open_logs(
    ground: &Ground,
    table: &Table,
    store: &Store,
    tasks: &Tasks,
) -> io::Result<()> {
    for session in store.ids()? {
        let shared = store.has_share(session);
        if !shared && ground.buried(session) {
            store.remove(session)?;
            continue;
        }
        if !store.raft(session).exists() {
            if shared && store.voices(session) == BTreeSet::from([ground.me()]) {
                tracing::error!(%session, "the session's only log is not there any more");
                table.missing(session).await;
            }
            continue;
        }
        match table.open(session).await {
            Ok(group) if !shared => {
                tasks.spawn_until_stop(clear_unborn(table.clone(), ground.me(), session, group));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%session, %error, "the session's log cannot be opened; this host does not vote in it");
                if !matches!(&error, VoterError::Group(error) if error.is_damage()) {
                    tasks.spawn_until_stop(open_later(ground.clone(), table.clone(), store.clone(), session));
                }
            }
        }
    }
    Ok(())
}

/// Opens a log as soon as the disk gives it. A lone voter is asked by nobody else to do so.
async fn open_later(ground: Ground, table: Table, store: Store, session: SessionId) {
    for tries in 1.. {
        tokio::time::sleep(OPEN_AGAIN.after(tries)).await;
        if ground.buried(session) || !store.raft(session).exists() {
            return;
        }
        match table.open(session).await {
            Ok(_) => return tracing::info!(%session, "the session's log is open"),
            Err(VoterError::Group(error)) if error.is_damage() => return,
            Err(error) => tracing::debug!(%session, %error, "the session's log cannot be opened yet"),
        }
    }
}

/// Removes a session that was begun here and got no plan before the agent ended: nobody else
/// knows of it, and nobody was told that it exists.
async fn clear_unborn(table: Table, me: HostId, session: SessionId, group: Group) {
    let mut lead = group.lead();
    let led = tokio::time::timeout(LED, lead.wait_for(|lead| lead.leading)).await;
    let voters = led.ok().and_then(Result::ok).map(|lead| lead.voters.values().copied().collect());
    let voters: BTreeSet<HostId> = voters.unwrap_or_default();
    if voters != BTreeSet::from([me]) {
        return;
    }
    let unborn = match group.read(LED).await {
        Ok((state, _)) => state.plan.is_none(),
        Err(error) => error == ReadError::Empty,
    };
    if unborn {
        tracing::info!(%session, "a session that was never planned is removed");
        table.forget(session).await;
    }
}
