//! This host's part in the sessions' Raft groups: opened when a session is born here or its leader
//! asks, closed and deleted when the group has no place for it any more. One that cannot be used is put
//! aside and replaced only when the session's leader asks: a lone voter's is the only one there is. Node
//! ids are minted with each store, so one that was deleted never comes back under its old id.

use std::{collections::BTreeSet, io, time::Duration};

use futures::future::BoxFuture;
use mesh::quorum::{Group, ReadError};
use proto::{
    backoff::BackOff,
    facts::Fact,
    id::{HostId, SessionId},
    limits::MAX_SESSIONS,
};

use super::{Hub, lock, supervised};
use crate::session::{coordinator, requests};

/// How long a lone voter may take to lead again after a start.
const LED: Duration = Duration::from_secs(10);
/// Pauses between two tries to open a log that the disk did not give when the agent started.
const OPEN_AGAIN: BackOff = BackOff::new(1_000, 16_000);

/// Why this host cannot vote in a session.
#[derive(Debug, thiserror::Error)]
pub enum VoterError {
    /// There is no place for its log.
    #[error("cannot make the directory of its log")]
    Directory(#[source] io::Error),
    /// Its log cannot be used.
    #[error(transparent)]
    Group(#[from] mesh::quorum::GroupError),
    /// The session has ended, and nothing of it is left.
    #[error("the session has ended")]
    Buried,
    /// What it has of a log cannot be used, nor put aside.
    #[error("cannot put a log aside that is of no use")]
    Aside(#[source] io::Error),
    /// This host has as many as it can carry.
    #[error("this host stores {MAX_SESSIONS} sessions already")]
    TooMany,
}

impl Hub {
    /// Finds this host's Raft group of a session.
    pub fn group(&self, session: SessionId) -> Option<Group> {
        lock(&self.inner.groups).get(&session).cloned()
    }

    /// Names the sessions whose log on this host has stopped, and why.
    pub fn stopped(&self) -> Vec<(String, String)> {
        let groups: Vec<Group> = lock(&self.inner.groups).values().cloned().collect();
        let stopped = |group: &Group| {
            let because = group.lead().borrow().stopped.clone()?;
            let name = group.state().borrow().as_ref().map_or_else(|| "?".to_owned(), |s| s.name.to_string());
            Some((name, because))
        };
        groups.iter().filter_map(stopped).collect()
    }

    /// Opens this host's log of a session, makes it when it is missing, and starts its coordinator
    /// task, which acts only while this host leads.
    pub async fn open_group(&self, session: SessionId) -> Result<Group, VoterError> {
        let _one = self.inner.door.lock().await;
        self.open_group_alone(session).await
    }

    /// The same for a leader that asks for a voter. A log that is damaged, or older than what its node
    /// acknowledged to that leader, is put aside, and this host comes back as a new voter.
    pub async fn open_voter(&self, session: SessionId, outdated: Option<u64>) -> Result<Group, VoterError> {
        let _one = self.inner.door.lock().await;
        let mut because = None;
        if let Some(group) = self.group(session) {
            let stopped = group.lead().borrow().stopped.is_some();
            if outdated == Some(group.node_id()) {
                because = Some("it is older than what this host has acknowledged".to_owned());
            } else if !stopped {
                return Ok(group);
            }
            lock(&self.inner.groups).remove(&session);
            group.shutdown().await;
        }
        if because.is_none() {
            match self.open_group_over(session).await {
                Err(VoterError::Group(error)) if error.is_damage() => because = Some(error.to_string()),
                opened => return opened,
            }
        }
        self.put_aside(session, because.unwrap_or_default()).await?;
        self.open_group_over(session).await
    }

    async fn put_aside(&self, session: SessionId, because: String) -> Result<(), VoterError> {
        let store = self.inner.deps.store.clone();
        let moved = tokio::task::spawn_blocking(move || store.put_raft_aside(session)).await;
        let path = moved.map_err(io::Error::other).and_then(|moved| moved).map_err(VoterError::Aside)?;
        tracing::error!(%session, because, "the session's log is of no use; it is kept in {}", path.display());
        let named = self.share(session).map(|share| share.name.clone());
        if let Some(session) = named {
            // Nobody listening is no error.
            let _heard = self.inner.deps.facts.send(Fact::LogReplaced { session, because });
        }
        Ok(())
    }

    /// The same for who has the door.
    async fn open_group_alone(&self, session: SessionId) -> Result<Group, VoterError> {
        if let Some(group) = self.group(session) {
            return Ok(group);
        }
        self.open_group_over(session).await
    }

    /// Opens a log, also in the place of one that has stopped. Boxed, because the task that it starts
    /// may come back here.
    fn open_group_over(&self, session: SessionId) -> BoxFuture<'_, Result<Group, VoterError>> {
        Box::pin(self.open_group_here(session))
    }

    async fn open_group_here(&self, session: SessionId) -> Result<Group, VoterError> {
        if self.buried(session) {
            return Err(VoterError::Buried);
        }
        {
            let groups = lock(&self.inner.groups);
            if groups.len() >= MAX_SESSIONS && !groups.contains_key(&session) {
                return Err(VoterError::TooMany);
            }
        }
        let wire = requests::raft_wire(&self.inner.deps.mesh, session);
        let dir = self.inner.deps.store.make_raft(session).map_err(VoterError::Directory)?;
        let group = Group::open(&dir, session, self.me(), wire).await?;
        lock(&self.inner.groups).insert(session, group.clone());
        let (hub, of) = (self.clone(), group.clone());
        let run = move || coordinator::run(hub.clone(), session, of.clone());
        self.inner.tasks.spawn(supervised("coordinator", session, self.inner.deps.stop.clone(), run));
        Ok(group)
    }

    /// Opens every log that lies on the disk, and removes what a crash left of sessions that never
    /// came to be.
    pub(super) async fn open_groups(&self) -> io::Result<()> {
        let store = &self.inner.deps.store;
        for session in store.ids()? {
            let shared = store.has_share(session);
            if !shared && self.buried(session) {
                store.remove(session)?;
                continue;
            }
            if !store.raft(session).exists() {
                continue;
            }
            match self.open_group(session).await {
                Ok(group) if !shared => {
                    let (hub, stop) = (self.clone(), self.inner.deps.stop.clone());
                    self.inner.tasks.spawn(async move {
                        stop.run_until_cancelled(hub.clear_unborn(session, group)).await;
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%session, %error, "the session's log cannot be opened; this host does not vote in it");
                    if !matches!(&error, VoterError::Group(error) if error.is_damage()) {
                        let (hub, stop) = (self.clone(), self.inner.deps.stop.clone());
                        self.inner.tasks.spawn(async move {
                            stop.run_until_cancelled(hub.open_later(session)).await;
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
            if self.buried(session) || !self.inner.deps.store.raft(session).exists() {
                return;
            }
            match self.open_group(session).await {
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
            self.forget(session).await;
        }
    }

    /// Closes a log that could not be written and opens it again, as a restart of the agent would:
    /// what the disk holds counts, and nothing was acknowledged beyond it. Tells whether it is open.
    pub async fn reopen(&self, session: SessionId, group: &Group) -> bool {
        let _one = self.inner.door.lock().await;
        if self.group(session).is_some_and(|now| now.lead().borrow().stopped.is_none()) {
            // A leader asked, and was quicker.
            return true;
        }
        group.shutdown().await;
        // Until the new one is there, the old one answers why it does nothing.
        match self.open_group_over(session).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%session, %error, "the session's log cannot be opened yet");
                false
            }
        }
    }

    /// Closes and deletes this host's log of a session in whose group it has no place. When a leader
    /// was quicker and took it in, the log is opened again.
    pub async fn retire(&self, session: SessionId, group: &Group) {
        let _one = self.inner.door.lock().await;
        lock(&self.inner.groups).remove(&session);
        let removed = group.is_removed();
        group.shutdown().await;
        if group.is_named() && !removed {
            if let Err(error) = self.open_group_alone(session).await {
                tracing::error!(%session, %error, "the session's log cannot be opened again");
            }
            return;
        }
        tracing::info!(%session, "this host votes no more; its log is removed");
        let store = self.inner.deps.store.clone();
        let gone = tokio::task::spawn_blocking(move || store.remove_raft(session)).await;
        if let Err(error) = gone.map_err(io::Error::other).and_then(|gone| gone) {
            tracing::error!(%session, %error, "the session's log cannot be removed");
        }
    }
}
