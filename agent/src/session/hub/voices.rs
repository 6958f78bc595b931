//! Whose word on a session counts on this host, by the chain of `proto::session::voices`, and what
//! those say in gossip. What was believed once is kept on disk: the hosts that a session began with
//! may be gone when this one comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use proto::{
    id::{HostId, SessionId},
    picture::heads,
    session::voices,
    wire::{
        record::HeadRecord,
        rpc::{Answer, Request},
    },
};

use super::{Hub, lock};

/// How long a session's birth may be behind its first share: statements travel on their own.
const BIRTH: Duration = Duration::from_secs(2);
/// One question about who votes.
const ASK: Duration = Duration::from_secs(3);
/// Members that are asked at once.
const ASKED_AT_ONCE: usize = 16;

impl Hub {
    /// Tells whose word on a session counts here; nobody's while its birth is not known.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        let kept = lock(&self.inner.voices).get(&session).cloned().unwrap_or_default();
        let roll = self.inner.deps.mesh.roll().borrow().clone();
        let born = roll.set.genesis(session).map(|genesis| genesis.voters.clone()).unwrap_or_default();
        let group = self.group(session);
        let named = group.map(|group| group.lead().borrow().named.clone()).unwrap_or_default();
        let believed = kept.into_iter().chain(born).chain(named);
        heads::voices(&self.picture(), session, believed)
    }

    /// Tells whether a host's word on a session counts here.
    pub fn has_voice(&self, session: SessionId, host: HostId) -> bool {
        host == self.me()
            || lock(&self.inner.voices).get(&session).is_some_and(|kept| kept.contains(&host))
            || self.voices(session).contains(&host)
    }

    /// The same, after a moment of patience when the session's birth is not known yet.
    pub async fn hears(&self, session: SessionId, host: HostId) -> bool {
        if !self.has_voice(session, host) && self.voices(session).is_empty() {
            let mut roll = self.inner.deps.mesh.roll();
            let born = roll.wait_for(|roll| roll.set.genesis(session).is_some());
            // Whether it came or not is looked at below.
            tokio::time::timeout(BIRTH, born).await.ok();
        }
        self.has_voice(session, host)
    }

    /// Gives the newest head of a session that gossip knows, with the host that says so.
    pub fn head(&self, session: SessionId) -> Option<(HostId, HeadRecord)> {
        let voices = self.voices(session);
        let picture = self.picture();
        heads::newest(&picture, session, &voices).map(|(host, head)| (host, head.clone()))
    }

    /// Gives the newest head of every session that gossip knows.
    pub fn heads(&self) -> BTreeMap<SessionId, (HostId, HeadRecord)> {
        heads::sessions(&self.picture())
            .into_iter()
            .filter_map(|session| Some((session, self.head(session)?)))
            .collect()
    }

    /// Lists the sessions that a host speaks for whose word does not count here: it may have become a
    /// voter while this host was away, or it may be lying.
    pub fn doubted(&self) -> BTreeSet<SessionId> {
        let picture = self.picture();
        let doubted = heads::speakers(&picture)
            .filter(|(host, session)| !self.buried(*session) && !self.has_voice(*session, *host));
        doubted.map(|(_, session)| session).collect()
    }

    /// Asks who else is believed: one of those that are, or when none of them is there, everybody.
    pub async fn ask_voices(&self, session: SessionId) {
        let picture = self.picture();
        let others: BTreeSet<HostId> =
            picture.up().map(|(host, _)| host).filter(|host| *host != self.me()).collect();
        let believed: BTreeSet<HostId> = others.intersection(&self.voices(session)).copied().collect();
        let asked = if believed.is_empty() { &others } else { &believed };
        let ask = |host: HostId| async move {
            match self.inner.deps.mesh.call(host, Request::Voices(session), ASK).await {
                Ok(Answer::Voices(more)) => Some(more),
                _ => None,
            }
        };
        let answers: Vec<_> = stream::iter(asked.iter().copied().map(ask))
            .buffer_unordered(ASKED_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let more = if believed.is_empty() {
            voices::majority(&answers)
        } else {
            answers.into_iter().flatten().collect()
        };
        self.believe(session, more.into_iter().filter(|host| picture.members.contains_key(host))).await;
    }

    /// Writes down whom this host believes by now.
    pub async fn keep_voices(&self) {
        let sessions: Vec<SessionId> = self.inner.deps.own.shares.borrow().keys().copied().collect();
        for session in sessions {
            self.believe(session, self.voices(session)).await;
        }
    }

    async fn believe(&self, session: SessionId, more: impl IntoIterator<Item = HostId>) {
        let grown = {
            let mut all = lock(&self.inner.voices);
            let kept = all.entry(session).or_default();
            let before = kept.len();
            kept.extend(more);
            (kept.len() > before).then(|| kept.clone())
        };
        if let Some(voices) = grown.filter(|_| self.share(session).is_some()) {
            let store = self.inner.deps.store.clone();
            let stored = tokio::task::spawn_blocking(move || store.put_voices(session, &voices)).await;
            if !matches!(stored, Ok(Ok(()))) {
                tracing::warn!(%session, "who is believed is not remembered");
            }
        }
    }
}
