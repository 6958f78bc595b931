//! What keeps this agent from doing its work, and the words for what was not done because of it.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    picture::health,
    reasons::Plight,
    wire::api::{Error, Kind, Trouble},
};

use super::App;
use crate::{host::disk, host::words::words};

/// A disk that does not answer in this time is in trouble itself.
const LOOK: Duration = Duration::from_secs(3);

impl App {
    /// Looks at everything that this agent stands on.
    pub(super) async fn health(&self) -> Vec<Trouble> {
        let mut all: Vec<Trouble> = self.disk().await.into_iter().collect();
        let stopped = self.inner.sessions.stopped().into_iter();
        all.extend(stopped.map(|(session, seen)| Plight::LogClosed { session, seen }.into()));
        let closed = self.inner.sessions.closed().into_iter();
        all.extend(closed.map(|(session, seen)| Plight::LogUnusable { session, seen }.into()));
        all
    }

    async fn disk(&self) -> Option<Trouble> {
        let data = self.inner.data.clone();
        let looked = tokio::task::spawn_blocking(move || disk::look(&data));
        match tokio::time::timeout(LOOK, looked).await {
            Ok(looked) => looked.ok().flatten(),
            Err(_) => Some(Plight::DiskSilent { within_s: LOOK.as_secs() }.into()),
        }
    }

    /// Tells why something was not done: what the disk says, if it is the disk.
    pub(super) async fn not_done(&self, kind: Kind, what: impl Into<String>, because: String) -> Error {
        let failed = Error::new(kind, what);
        match self.disk().await {
            Some(trouble) => failed
                .because(format!("{because}; {}", disk::line(&trouble)))
                .next(trouble.next.unwrap_or_else(|| "agent doctor".to_owned())),
            None => failed.because(because).next("agent doctor"),
        }
    }

    /// Tells what keeps these hosts, and this one, from storing anything: each in one line.
    pub(super) async fn troubles(&self, hosts: impl Iterator<Item = &str>) -> Vec<String> {
        let me = self.name(self.inner.mesh.me());
        let own = self.disk().await.map(|trouble| format!("{me}: {}", disk::line(&trouble)));
        let hosts: BTreeSet<&str> = hosts.filter(|host| *host != me).collect();
        own.into_iter().chain(health::troubles(&self.picture(), &hosts)).collect()
    }

    /// Tells why a statement of this host was not made.
    pub(super) async fn not_said(&self, what: &str, error: &mesh::SayError) -> Error {
        self.not_done(Kind::Failed, what, words(error)).await
    }
}
