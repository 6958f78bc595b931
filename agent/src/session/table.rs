//! What comes and goes of sessions on this host does so one at a time, in one task with a mailbox: shares and
//! what belongs to them on disk, this host's logs, whole sessions. The table of logs has this one writer; others
//! watch it. A letter that was begun is carried to its end, also when whoever sent it is gone.
//!
//! A log is this host's part in a session's Raft group: opened when a session is born here or its leader asks,
//! closed and deleted when the group has no place for it any more. One that cannot be used is put aside and
//! replaced only when the session's leader asks: a lone voter's is the only one there is. Voters' ids are minted
//! with each store, so one that was deleted never comes back under its old id.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use mesh::{
    Mesh,
    net::Net,
    quorum::{Group, Wire},
};
use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    limits::MAX_SESSIONS,
    session::Share,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{ground::Ground, known::Known, store::Store};
use crate::host::words::words;

/// Letters that wait; as many as members' requests that are answered at once.
const LETTERS: usize = 64;

/// This host's logs.
pub(super) type Logs = BTreeMap<SessionId, Group>;
/// The logs of this host that cannot be opened, and why.
pub(super) type Closed = BTreeMap<SessionId, String>;
/// Where a log goes that was asked for.
pub(super) type Opened = oneshot::Sender<Result<Group, VoterError>>;
/// Where it goes whether something is on the disk, or why it is not.
pub(super) type Written = oneshot::Sender<Result<(), String>>;

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
    /// The agent ends.
    #[error("its agent is ending")]
    Ending,
}

/// What is put into the mailbox. Whoever wants an answer may be gone by then.
pub(super) enum Letter {
    /// Write a share down, and with a session's first who is believed.
    Store(Arc<Share>, Option<BTreeSet<HostId>>, Written),
    /// Write bytes down that a share names.
    Content(SessionId, Arc<[u8]>, Written),
    /// Write down who is believed.
    Voices(SessionId, BTreeSet<HostId>, Written),
    /// Open a log, or make it.
    Open(SessionId, Opened),
    /// The same for a leader that asks for a voter, which may say which of its nodes is outdated.
    Voter(SessionId, Option<u64>, Opened),
    /// Open a log that could not be written anew; answers whether it is open.
    Reopen(SessionId, Group, oneshot::Sender<bool>),
    /// Take note that a log is not there, although this host alone votes in its session.
    Missing(SessionId, oneshot::Sender<()>),
    /// Close and delete a log that has no place in its group.
    Retire(SessionId, Group, oneshot::Sender<()>),
    /// Remove everything of a session, of which nothing runs here.
    Forget(SessionId, oneshot::Sender<()>),
    /// Close every log. Nothing comes after it.
    Close(oneshot::Sender<()>),
}

/// Handle to what is here of sessions.
#[derive(Clone)]
pub struct Table {
    mailbox: mpsc::Sender<Letter>,
    logs: watch::Receiver<Arc<Logs>>,
    closed: watch::Receiver<Closed>,
}

/// The task that is not yet running.
pub(super) struct Keeper {
    mailbox: mpsc::Receiver<Letter>,
    logs: watch::Sender<Arc<Logs>>,
    closed: watch::Sender<Closed>,
}

/// Makes the handle and its task.
pub(super) fn build() -> (Table, Keeper) {
    let (sender, mailbox) = mpsc::channel(LETTERS);
    let (logs, shown) = watch::channel(Arc::default());
    let (closed, shut) = watch::channel(Closed::default());
    (Table { mailbox: sender, logs: shown, closed: shut }, Keeper { mailbox, logs, closed })
}

impl Table {
    /// Closes every log, once what was asked for before is done.
    pub async fn close(&self) {
        // `None` when they were closed before.
        self.ask(Letter::Close).await;
    }

    /// Finds this host's log of a session.
    pub fn log(&self, session: SessionId) -> Option<Group> {
        self.logs.borrow().get(&session).cloned()
    }

    /// Names the sessions whose log on this host has stopped, and why.
    pub fn stopped(&self) -> Vec<(String, String)> {
        let stopped = |group: &Group| {
            let because = group.lead().borrow().stopped.clone()?;
            let name = group.state().borrow().as_ref().map_or_else(|| "?".to_owned(), |s| s.name.to_string());
            Some((name, because))
        };
        self.logs().values().filter_map(stopped).collect()
    }

    /// Gives this host's logs.
    pub fn logs(&self) -> Arc<Logs> {
        self.logs.borrow().clone()
    }

    /// Has the task that owns the table do something; `None` = the agent ends, or it failed.
    async fn ask<T>(&self, letter: impl FnOnce(oneshot::Sender<T>) -> Letter) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.mailbox.send(letter(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Opens this host's log of a session, and makes it when it is missing.
    pub async fn open(&self, session: SessionId) -> Result<Group, VoterError> {
        let opened = self.ask(|answer| Letter::Open(session, answer)).await;
        opened.unwrap_or(Err(VoterError::Ending))
    }

    /// The same for a leader that asks for a voter; `outdated` is the node that acknowledged more than it has.
    pub async fn open_voter(&self, session: SessionId, outdated: Option<u64>) -> Result<Group, VoterError> {
        let opened = self.ask(|answer| Letter::Voter(session, outdated, answer)).await;
        opened.unwrap_or(Err(VoterError::Ending))
    }

    /// Opens a log that could not be written anew. Tells whether it is open.
    pub async fn reopen(&self, session: SessionId, group: Group) -> bool {
        self.ask(|answer| Letter::Reopen(session, group, answer)).await.unwrap_or(false)
    }

    /// Takes note that a log is not there, although this host alone votes in its session.
    pub async fn missing(&self, session: SessionId) {
        self.ask(|answer| Letter::Missing(session, answer)).await;
    }

    /// Tells why this host's log of a session cannot be opened, if that is so.
    pub fn closed(&self, session: SessionId) -> Option<String> {
        self.closed.borrow().get(&session).cloned()
    }

    /// Gives every log of this host that cannot be opened, and why.
    pub fn all_closed(&self) -> Closed {
        self.closed.borrow().clone()
    }

    /// Closes and deletes a log that has no place in its group.
    pub async fn retire(&self, session: SessionId, group: Group) {
        self.ask(|answer| Letter::Retire(session, group, answer)).await;
    }

    /// Removes everything of a session from this host. Called once nothing of it runs here.
    pub async fn forget(&self, session: SessionId) {
        self.ask(|answer| Letter::Forget(session, answer)).await;
    }

    /// Has something written down that belongs to a session.
    pub(super) async fn write_down(&self, letter: impl FnOnce(Written) -> Letter) -> Result<(), String> {
        self.ask(letter).await.unwrap_or_else(|| Err("its agent is ending".into()))
    }
}

/// What the task needs of others.
pub(super) struct Parts {
    /// What every task stands on.
    pub(super) ground: Ground,
    /// The session network.
    pub(super) net: Net,
    /// Shares and logs on disk.
    pub(super) store: Store,
    /// What is believed of sessions.
    pub(super) known: Known,
    /// Starts the task beside a log.
    pub(super) lead: Box<dyn Fn(SessionId, Group) + Send + Sync>,
}

struct Keeping {
    parts: Parts,
    logs: watch::Sender<Arc<Logs>>,
    closed: watch::Sender<Closed>,
}

impl Keeper {
    /// Runs until the logs are closed, which is after every task of a session has ended: what those put into
    /// the mailbox is still carried out.
    pub(super) async fn run(mut self, parts: Parts) {
        let keeping = Keeping { parts, logs: self.logs, closed: self.closed };
        while let Some(letter) = self.mailbox.recv().await {
            if let Letter::Close(closed) = letter {
                keeping.close().await;
                closed.send(()).ok();
                return;
            }
            // Whoever waits for the answer sees that none comes.
            if AssertUnwindSafe(keeping.open(letter)).catch_unwind().await.is_err() {
                tracing::error!("what comes or goes of a session failed; the others go on");
            }
        }
    }
}

impl Keeping {
    async fn open(&self, letter: Letter) {
        match letter {
            Letter::Store(share, voices, done) => drop(done.send(self.store(share, voices).await)),
            Letter::Content(session, bytes, done) => drop(done.send(self.put_content(session, bytes).await)),
            Letter::Voices(session, voices, done) => drop(done.send(self.keep_voices(session, voices).await)),
            Letter::Open(session, done) => drop(done.send(self.open_log(session).await)),
            Letter::Voter(session, outdated, done) => {
                drop(done.send(self.open_voter(session, outdated).await))
            }
            Letter::Reopen(session, group, done) => drop(done.send(self.reopen(session, &group).await)),
            Letter::Missing(session, done) => {
                self.shut(session, Some("it is not there any more".to_owned()));
                done.send(()).ok();
            }
            Letter::Retire(session, group, done) => {
                self.retire(session, &group).await;
                done.send(()).ok();
            }
            Letter::Forget(session, done) => {
                self.forget(session).await;
                done.send(()).ok();
            }
            Letter::Close(_) => {}
        }
    }

    fn group(&self, session: SessionId) -> Option<Group> {
        self.logs.borrow().get(&session).cloned()
    }

    fn enter(&self, session: SessionId, group: Group) {
        self.logs.send_modify(|logs| drop(Arc::make_mut(logs).insert(session, group)));
    }

    fn leave(&self, session: SessionId) -> Option<Group> {
        let mut left = None;
        self.logs.send_modify(|logs| left = Arc::make_mut(logs).remove(&session));
        left
    }

    fn shut(&self, session: SessionId, because: Option<String>) {
        self.closed.send_if_modified(|closed| match because {
            Some(because) => closed.insert(session, because.clone()) != Some(because),
            None => closed.remove(&session).is_some(),
        });
    }

    async fn close(&self) {
        let logs = self.logs.send_replace(Arc::default());
        futures::future::join_all(logs.values().map(Group::shutdown)).await;
    }

    /// Does something with the disk apart from other tasks.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let store = self.parts.store.clone();
        tokio::task::spawn_blocking(move || work(store)).await.map_err(io::Error::other)?
    }

    async fn store(&self, share: Arc<Share>, voices: Option<BTreeSet<HostId>>) -> Result<(), String> {
        // Its burial may have waited in this mailbox, too.
        if self.parts.ground.buried(share.session) {
            return Err("the session has ended".into());
        }
        let written = self.on_disk(move |store| {
            store.put(&share)?;
            voices.map_or(Ok(()), |voices| store.put_voices(share.session, &voices))
        });
        written.await.map_err(|error| error.to_string())
    }

    /// After the session's burial nothing of it comes back.
    async fn put_content(&self, session: SessionId, bytes: Arc<[u8]>) -> Result<(), String> {
        if self.parts.ground.buried(session) {
            return Err("the session has ended".into());
        }
        let written = self.on_disk(move |store| store.put_content(session, &bytes)).await;
        written.map(drop).map_err(|error| format!("it cannot be written: {error}"))
    }

    async fn keep_voices(&self, session: SessionId, voices: BTreeSet<HostId>) -> Result<(), String> {
        if self.parts.ground.share(session).is_none() {
            return Ok(());
        }
        let written = self.on_disk(move |store| store.put_voices(session, &voices)).await;
        written.map_err(|error| error.to_string())
    }

    /// Removes everything of a session from this host. Called once nothing of it runs here.
    async fn forget(&self, session: SessionId) {
        self.shut(session, None);
        if let Some(group) = self.leave(session) {
            group.shutdown().await;
        }
        let name = self.parts.ground.share(session).map(|share| share.name.clone());
        self.parts.ground.fall_silent(session).await;
        self.parts.net.forget(session);
        if let Err(error) = self.on_disk(move |store| store.remove(session)).await {
            tracing::error!(%session, %error, "the session's directory cannot be removed");
        }
        self.parts.ground.remove(session);
        self.parts.known.forgotten(session).await;
        if let Some(session) = name {
            self.parts.ground.tell(Fact::SessionGone { session });
        }
    }

    /// Opens this host's log for a leader that asks for a voter. A log that is damaged, or older than what its node
    /// acknowledged to that leader, is put aside, and this host comes back as a new voter.
    async fn open_voter(&self, session: SessionId, outdated: Option<u64>) -> Result<Group, VoterError> {
        let mut because = None;
        if let Some(group) = self.group(session) {
            let stopped = group.lead().borrow().stopped.is_some();
            if outdated == Some(group.node_id()) {
                because = Some("it is older than what this host has acknowledged".to_owned());
            } else if !stopped {
                return Ok(group);
            }
            self.leave(session);
            group.shutdown().await;
        }
        if because.is_none() {
            match self.open_over(session).await {
                Err(VoterError::Group(error)) if error.is_damage() => because = Some(error.to_string()),
                opened => return opened,
            }
        }
        self.put_aside(session, because.unwrap_or_default()).await?;
        self.open_over(session).await
    }

    async fn put_aside(&self, session: SessionId, because: String) -> Result<(), VoterError> {
        let moved = self.on_disk(move |store| store.put_raft_aside(session)).await;
        let path = moved.map_err(VoterError::Aside)?;
        tracing::error!(%session, because, "the session's log is of no use; it is kept in {}", path.display());
        let named = self.parts.ground.share(session).map(|share| share.name.clone());
        if let Some(session) = named {
            self.parts.ground.tell(Fact::LogReplaced { session, because });
        }
        Ok(())
    }

    /// Opens this host's log of a session, makes it when it is missing, and starts its coordinator
    /// task, which acts only while this host leads.
    async fn open_log(&self, session: SessionId) -> Result<Group, VoterError> {
        if let Some(group) = self.group(session) {
            return Ok(group);
        }
        self.open_over(session).await
    }

    /// Opens a log, also in the place of one that has stopped.
    async fn open_over(&self, session: SessionId) -> Result<Group, VoterError> {
        if self.parts.ground.buried(session) {
            return Err(VoterError::Buried);
        }
        let full = |logs: &Logs| logs.len() >= MAX_SESSIONS && !logs.contains_key(&session);
        if full(&self.logs.borrow()) {
            return Err(VoterError::TooMany);
        }
        let wire = raft_wire(&self.parts.ground.mesh, session);
        let dir = self.parts.store.make_raft(session).map_err(VoterError::Directory)?;
        let opened = Group::open(&dir, session, self.parts.ground.me(), wire).await;
        self.shut(session, opened.as_ref().err().map(|error| words(error)));
        let group = opened?;
        self.enter(session, group.clone());
        self.parts.known.look();
        (self.parts.lead)(session, group.clone());
        Ok(group)
    }

    /// Closes a log that could not be written and opens it again, as a restart of the agent would:
    /// what the disk holds counts, and nothing was acknowledged beyond it. Tells whether it is open.
    async fn reopen(&self, session: SessionId, group: &Group) -> bool {
        if self.group(session).is_some_and(|now| now.lead().borrow().stopped.is_none()) {
            // A leader asked, and was quicker.
            return true;
        }
        if !self.on_disk(|store| Ok(store.takes_files())).await.unwrap_or(false) {
            return false;
        }
        group.shutdown().await;
        // Until the new one is there, the old one answers why it does nothing.
        match self.open_over(session).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%session, %error, "the session's log cannot be opened yet");
                false
            }
        }
    }

    /// Closes and deletes this host's log of a session in whose group it has no place. When a leader
    /// was quicker and took it in, the log is opened again.
    async fn retire(&self, session: SessionId, group: &Group) {
        self.leave(session);
        let removed = group.is_removed();
        group.shutdown().await;
        if group.is_named() && !removed {
            if let Err(error) = self.open_log(session).await {
                tracing::error!(%session, %error, "the session's log cannot be opened again");
            }
            return;
        }
        tracing::info!(%session, "this host votes no more; its log is removed");
        if let Err(error) = self.on_disk(move |store| store.remove_raft(session)).await {
            tracing::error!(%session, %error, "the session's log cannot be removed");
        }
    }
}

/// Carries Raft messages of one session over the mesh.
fn raft_wire(mesh: &Mesh, session: SessionId) -> Wire {
    let mesh = mesh.clone();
    Wire::new(move |to, frame, within| {
        let mesh = mesh.clone();
        Box::pin(
            async move { mesh.raft(to, session, frame, within).await.map_err(|error| error.to_string()) },
        )
    })
}
