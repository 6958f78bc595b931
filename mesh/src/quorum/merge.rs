//! Group commit: openraft 0.9 handles one write at a time, so what waits meanwhile goes into one
//! entry. One write is under way at any moment.

use openraft::error::{ClientWriteError, RaftError};
use proto::{
    limits::MAX_RAFT_BYTES,
    session::{Command, Refused},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Batch, ENTRIES_KEPT, Raft, WriteError, host, store::Store};

/// One command, with room for the frame around it.
pub(super) const MAX_COMMAND_BYTES: usize = MAX_RAFT_BYTES - 4096;
/// Commands of one entry, and their bytes beyond the first command.
const MAX_BATCH: usize = 64;
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// A command that waits.
pub(super) struct Write {
    pub command: Command,
    pub bytes: usize,
    pub until: Instant,
    pub answer: oneshot::Sender<Result<Result<(), Refused>, WriteError>>,
}

/// Runs as long as the group.
pub(super) async fn run(raft: Raft, store: Store, mut waiting: mpsc::Receiver<Write>) {
    let mut left_over: Option<Write> = None;
    loop {
        let first = match left_over.take() {
            Some(write) => write,
            None => match waiting.recv().await {
                Some(write) => write,
                None => return,
            },
        };
        let mut bytes = first.bytes;
        let mut writes = vec![first];
        while writes.len() < MAX_BATCH {
            let Ok(next) = waiting.try_recv() else { break };
            if bytes + next.bytes > MAX_BATCH_BYTES {
                left_over = Some(next);
                break;
            }
            bytes += next.bytes;
            writes.push(next);
        }
        // Whoever has given up already was told "not known": not writing is the kinder truth.
        writes.retain(|write| !write.answer.is_closed());
        if !writes.is_empty() {
            commit(&raft, writes).await;
            shorten(&raft, &store).await;
        }
    }
}

async fn commit(raft: &Raft, writes: Vec<Write>) {
    // A leader that is cut off never answers, and steps down only when it hears of another: without
    // an end of our own, whatever waits behind this would wait for the network to heal.
    let until = writes.iter().map(|write| write.until).max().unwrap_or_else(Instant::now);
    let (commands, answers): (Vec<Command>, Vec<_>) =
        writes.into_iter().map(|write| (write.command, write.answer)).unzip();
    let written = timeout_at(until, raft.client_write(Batch(commands))).await;
    let outcome = match written {
        Err(_) => Err(WriteError::TimedOut),
        Ok(Ok(response)) => Ok(response.data),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(WriteError::NotLeader { leader: host(&forward) })
        }
        Ok(Err(error)) => Err(WriteError::Stopped(error.to_string())),
    };
    match outcome {
        Ok(results) => {
            for (answer, result) in answers.into_iter().zip(results) {
                drop(answer.send(Ok(result)));
            }
        }
        Err(error) => {
            for answer in answers {
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}

/// Asks for a snapshot when a few large entries fill the memory long before it is due by count.
async fn shorten(raft: &Raft, store: &Store) {
    if !store.is_large() {
        return;
    }
    let due = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let at = |log: Option<openraft::LogId<u64>>| log.map_or(0, |log| log.index);
        at(metrics.last_applied) > at(metrics.snapshot) + ENTRIES_KEPT
    };
    if due && let Err(error) = raft.trigger().snapshot().await {
        tracing::warn!(%error, "cannot ask for a snapshot");
    }
}
