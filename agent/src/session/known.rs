//! Handle to what is believed of sessions: whose word counts, and who leads. The task behind it is `knowing`'s; here
//! is what it published last, and its mailbox.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    id::{HostId, SessionId},
    run::knowledge::Wants,
    session::Share,
    wire::{record::HeadRecord, rpc::Refusal},
};
use tokio::sync::{mpsc, oneshot, watch};

/// Questions that wait; as many as members' requests that are answered at once.
const LETTERS: usize = 64;

/// What is believed of sessions now.
#[derive(Clone, Debug, Default)]
pub struct Believed {
    /// Whose word counts, by session.
    pub(super) voices: BTreeMap<SessionId, BTreeSet<HostId>>,
    /// The newest head of each session that is spoken of, with the host that says so.
    pub(super) heads: BTreeMap<SessionId, (HostId, HeadRecord)>,
}

impl Believed {
    pub(super) fn heads(&self) -> impl Iterator<Item = (SessionId, &HeadRecord)> {
        self.heads.iter().map(|(session, (_, head))| (*session, head))
    }
}

/// What is put into the mailbox.
pub(super) enum Letter {
    /// A member wants something that only a voice may.
    Asked(HostId, Wants, oneshot::Sender<Result<(), Refusal>>),
    /// Everything of a session was removed.
    Forgotten(SessionId, oneshot::Sender<()>),
    /// A log names other hosts now.
    Look,
}

/// Handle to what is believed of sessions.
#[derive(Clone)]
pub struct Known {
    me: HostId,
    believed: watch::Receiver<Arc<Believed>>,
    mailbox: mpsc::Sender<Letter>,
}

/// What its task holds.
pub(super) struct Knower {
    /// What is believed.
    pub(super) believed: watch::Sender<Arc<Believed>>,
    /// What is asked.
    pub(super) mailbox: mpsc::Receiver<Letter>,
}

/// Makes the handle and its task.
pub(super) fn build(me: HostId) -> (Known, Knower) {
    let (sender, mailbox) = mpsc::channel(LETTERS);
    let (believed, shown) = watch::channel(Arc::default());
    (Known { me, believed: shown, mailbox: sender }, Knower { believed, mailbox })
}

impl Known {
    async fn want(&self, from: HostId, wants: Wants) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let ends = || Refusal::Failed("its agent is ending".into());
        self.mailbox.send(Letter::Asked(from, wants, answer)).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())?
    }

    /// Takes a share that the coordinator sent.
    pub async fn accept(&self, from: HostId, share: Share) -> Result<(), Refusal> {
        self.want(from, Wants::Share(Box::new(share))).await
    }

    /// Tells whether a host may have a log opened here, after a moment of patience when the session's birth
    /// is not known yet.
    pub async fn hears(&self, session: SessionId, host: HostId) -> bool {
        self.want(host, Wants::Log(session)).await.is_ok()
    }

    /// Takes note that nothing of a session is here any more.
    pub(super) async fn forgotten(&self, session: SessionId) {
        let (done, noted) = oneshot::channel();
        if self.mailbox.send(Letter::Forgotten(session, done)).await.is_ok() {
            // Err only when the daemon ends.
            noted.await.ok();
        }
    }

    /// Lets what is believed follow what this host's logs say now.
    pub fn look(&self) {
        // When the mailbox is full, it looks with the next letter anyway.
        self.mailbox.try_send(Letter::Look).ok();
    }

    /// Gives everything that is believed.
    pub fn all(&self) -> Arc<Believed> {
        self.believed.borrow().clone()
    }

    /// Tells whose word on a session counts here; nobody's while its birth is not known.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        self.believed.borrow().voices.get(&session).cloned().unwrap_or_default()
    }

    /// Tells whether a host's word on a session counts here.
    pub fn has_voice(&self, session: SessionId, host: HostId) -> bool {
        let believed = self.believed.borrow();
        host == self.me || believed.voices.get(&session).is_some_and(|voices| voices.contains(&host))
    }

    /// Gives the newest head of a session that gossip knows, with the host that says so.
    pub fn head(&self, session: SessionId) -> Option<(HostId, HeadRecord)> {
        self.believed.borrow().heads.get(&session).cloned()
    }
}
