//! Runs the parts of the mesh, and ends them in reverse. A part that ends by itself ends the whole.

use std::{future::Future, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use iroh::{
    Endpoint,
    protocol::{Router, RouterBuilder},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::MeshError;
use crate::reach::relay::{Relay, Standing};

/// How long goodbyes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A part gives why all of it ends with it.
pub(super) type Part = BoxFuture<'static, MeshError>;

pub(super) fn part(name: &'static str, run: impl Future<Output = ()> + Send + 'static) -> Part {
    run.map(move |()| MeshError::Ended(name)).boxed()
}

/// What runs, and what ends with it.
pub(super) struct Running {
    pub(super) router: RouterBuilder,
    pub(super) endpoint: Endpoint,
    /// The relay of a host with a public address, and that of one which was found to be reached.
    pub(super) relays: (Option<Relay>, Standing),
    pub(super) stop: CancellationToken,
    pub(super) stopped: watch::Sender<bool>,
}

impl Running {
    pub(super) async fn run(self, all: Vec<Part>) -> Result<(), MeshError> {
        let router = self.router.spawn();
        let mut parts: JoinSet<MeshError> = all.into_iter().collect();
        // Cancel-safe: a token and a join set.
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            Some(ended) = parts.join_next() => Err(ended.unwrap_or(MeshError::Ended("panicking part"))),
        };
        // First those that dial: a dial under way would keep the endpoint from closing.
        parts.shutdown().await;
        let (first, standing) = self.relays;
        close(router, &self.endpoint, first.into_iter().chain(standing.take())).await;
        self.stopped.send_replace(true);
        ended
    }
}

/// Connections first, so that everybody hears the goodbye; then the relay, which carries some of them.
async fn close(router: Router, endpoint: &Endpoint, relays: impl Iterator<Item = Relay>) {
    let closing = async {
        if let Err(error) = router.shutdown().await {
            tracing::debug!(%error, "the router ended badly");
        }
        endpoint.close().await;
        for relay in relays {
            relay.shutdown().await;
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
        tracing::debug!("somebody did not hear the goodbye");
    }
}
