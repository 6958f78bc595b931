//! The tasks of sessions, counted: each of them is waited for when the agent ends, and one that panics is started
//! again while the others go on.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use proto::id::SessionId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Pause before a session's task is started again after a panic.
const AGAIN: Duration = Duration::from_secs(5);

/// Where they are counted.
#[derive(Clone)]
pub struct Tasks {
    all: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Counts none; `stop` ends them.
    pub fn new(stop: CancellationToken) -> Tasks {
        Tasks { all: TaskTracker::new(), stop }
    }

    /// Starts a task that is waited for.
    pub fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        self.all.spawn(run);
    }

    /// Starts a task that is dropped when the agent ends.
    pub fn spawn_until_stop(&self, run: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.all.spawn(async move {
            stop.run_until_cancelled(run).await;
        });
    }

    /// Starts a task of a session. One that panics is told and started again: the other sessions go on meanwhile.
    pub fn supervise<F: Future<Output = ()> + Send + 'static>(
        &self,
        what: &'static str,
        session: SessionId,
        run: impl Fn() -> F + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.all.spawn(async move {
            while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
                tracing::error!(%session, "the session's {what} task failed; it starts again");
                if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Waits until every task has ended. Call after the agent was told to stop.
    pub async fn drained(&self) {
        self.all.close();
        self.all.wait().await;
    }
}
