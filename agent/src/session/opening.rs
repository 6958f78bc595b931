//! What the logs that lie on the disk need when the agent starts: each is opened, one that the disk does not
//! give is tried again, and what a crash left of sessions that never came to be is removed.

use std::{collections::BTreeSet, io, time::Duration};

use mesh::quorum::{Group, ReadError};
use proto::{
    backoff::BackOff,
    id::{HostId, SessionId},
};

use super::{sessions::Sessions, table::VoterError};

/// How long a lone voter may take to lead again after a start.
const LED: Duration = Duration::from_secs(10);
/// Pauses between two tries to open a log that the disk did not give when the agent started.
const OPEN_AGAIN: BackOff = BackOff::new(1_000, 16_000);

impl Sessions {
    /// Opens every log that lies on the disk, and removes what a crash left of sessions that never
    /// came to be.
    pub(super) async fn open_logs(&self) -> io::Result<()> {
        let store = &self.deps().store;
        for session in store.ids()? {
            let shared = store.has_share(session);
            if !shared && self.buried(session) {
                store.remove(session)?;
                continue;
            }
            if !store.raft(session).exists() {
                if shared && store.voices(session) == BTreeSet::from([self.me()]) {
                    tracing::error!(%session, "the session's only log is not there any more");
                    self.table.missing(session).await;
                }
                continue;
            }
            match self.table.open(session).await {
                Ok(group) if !shared => {
                    let (sessions, stop) = (self.clone(), self.deps().stop.clone());
                    self.tasks().spawn(async move {
                        stop.run_until_cancelled(sessions.clear_unborn(session, group)).await;
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%session, %error, "the session's log cannot be opened; this host does not vote in it");
                    if !matches!(&error, VoterError::Group(error) if error.is_damage()) {
                        let (sessions, stop) = (self.clone(), self.deps().stop.clone());
                        self.tasks().spawn(async move {
                            stop.run_until_cancelled(sessions.open_later(session)).await;
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens a log as soon as the disk gives it. A lone voter is asked by nobody else to do so.
    async fn open_later(&self, session: SessionId) {
        for tries in 1.. {
            tokio::time::sleep(OPEN_AGAIN.after(tries)).await;
            if self.buried(session) || !self.deps().store.raft(session).exists() {
                return;
            }
            match self.table.open(session).await {
                Ok(_) => return tracing::info!(%session, "the session's log is open"),
                Err(VoterError::Group(error)) if error.is_damage() => return,
                Err(error) => tracing::debug!(%session, %error, "the session's log cannot be opened yet"),
            }
        }
    }

    /// Removes a session that was begun here and got no plan before the agent ended: nobody else
    /// knows of it, and nobody was told that it exists.
    async fn clear_unborn(&self, session: SessionId, group: Group) {
        let mut lead = group.lead();
        let led = tokio::time::timeout(LED, lead.wait_for(|lead| lead.leading)).await;
        let voters = led.ok().and_then(Result::ok).map(|lead| lead.voters.values().copied().collect());
        let voters: BTreeSet<HostId> = voters.unwrap_or_default();
        if voters != BTreeSet::from([self.me()]) {
            return;
        }
        let unborn = match group.read(LED).await {
            Ok((state, _)) => state.plan.is_none(),
            Err(error) => error == ReadError::Empty,
        };
        if unborn {
            tracing::info!(%session, "a session that was never planned is removed");
            self.table.forget(session).await;
        }
    }
}
