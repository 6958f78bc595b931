//! How far a piece of work is, for people; and the flag by which blocking work learns that nobody waits
//! for it any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use crate::error::ImageError;

/// What is being done to an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// No member that has it is reachable, or another command goes first.
    #[default]
    Waiting,
    /// From a URL.
    Downloading,
    /// By `qemu-img`.
    Converting,
    /// Copied and hashed.
    Copying,
    /// Hashed, and its hash tree written.
    Checking,
    /// From the member with this name.
    Fetching(String),
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes done in this step.
    pub done: u64,
    /// Bytes of this step; `None` = unknown.
    pub total: Option<u64>,
}

/// Runs blocking work off the async threads. When the caller drops the future, `tick` fails inside the
/// work, which then unwinds and removes its files.
pub(crate) async fn blocking<T: Send + 'static>(
    step: Step,
    total: Option<u64>,
    progress: &watch::Sender<Progress>,
    work: impl FnOnce(&Tick) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let tick = Tick { stopped: Arc::default(), step, total, progress: progress.clone() };
    let guard = StopOnDrop(tick.stopped.clone());
    tick.at(0)?;
    let done = tokio::task::spawn_blocking(move || work(&tick)).await;
    drop(guard);
    done.unwrap_or(Err(ImageError::Stopped))
}

/// Handed to blocking work: it reports with it, and stops when it says so.
pub(crate) struct Tick {
    stopped: Arc<AtomicBool>,
    step: Step,
    total: Option<u64>,
    progress: watch::Sender<Progress>,
}

impl Tick {
    /// Tells that `done` bytes are done.
    pub(crate) fn at(&self, done: u64) -> Result<(), ImageError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ImageError::Stopped);
        }
        self.progress.send_replace(Progress { step: self.step.clone(), done, total: self.total });
        Ok(())
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
