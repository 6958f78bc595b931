//! openraft's state machine: applies committed commands by `proto::session::state::apply`, shows
//! the result on watches, and keeps snapshots. Decides nothing: what a command does is in proto.

use std::{
    io::Cursor,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use openraft::{
    EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use proto::{
    session::{Refused, State, state},
    wire::WireError,
};
use tokio::sync::watch;

use super::{
    Record, Types, Voter,
    store::{Store, StoredSnapshot},
    wire::{encode, stored},
};

/// The state and the entry that made it.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub log: Option<LogId<u64>>,
    pub state: Option<Arc<State>>,
}

/// What a snapshot holds.
pub(super) struct Content {
    pub last: Option<LogId<u64>>,
    pub membership: StoredMembership<u64, Voter>,
    pub state: Option<State>,
}

/// The latest snapshot, shared with its builders.
type Latest = Arc<Mutex<StoredSnapshot>>;

/// The hard state of one session on one host.
pub(super) struct StateMachine {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, Voter>,
    state: Option<Arc<State>>,
    latest: Latest,
    made: Arc<AtomicU64>,
    store: Store,
    applied: watch::Sender<Applied>,
    shown: watch::Sender<Option<Arc<State>>>,
}

/// Makes a snapshot of one moment.
pub(super) struct Builder {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, Voter>,
    state: Option<Arc<State>>,
    latest: Latest,
    made: Arc<AtomicU64>,
    store: Store,
}

impl StateMachine {
    /// Starts from the snapshot that the store had. A snapshot that cannot be read is an error:
    /// the log before it is gone.
    pub(super) fn new(
        store: Store,
        snapshot: StoredSnapshot,
        shown: watch::Sender<Option<Arc<State>>>,
    ) -> Result<(StateMachine, watch::Receiver<Applied>), WireError> {
        let (applied, watched) = watch::channel(Applied::default());
        let mut machine = StateMachine {
            last: None,
            membership: StoredMembership::default(),
            state: None,
            latest: Arc::new(Mutex::new(None)),
            made: Arc::new(AtomicU64::new(0)),
            store,
            applied,
            shown,
        };
        if let Some((about, data)) = snapshot {
            machine.take(stored(&data)?);
            *lock(&machine.latest) = Some((about, data));
        }
        Ok((machine, watched))
    }

    fn take(&mut self, content: Content) {
        self.last = content.last;
        self.membership = content.membership;
        self.state = content.state.map(Arc::new);
        self.show();
    }

    fn run(&mut self, record: Record) -> Vec<Result<(), Refused>> {
        self.last = Some(record.log_id);
        match record.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(record.log_id), membership);
                Vec::new()
            }
            EntryPayload::Normal(batch) => {
                let mut state = self.state.take().map(Arc::unwrap_or_clone);
                let mut answers = Vec::with_capacity(batch.0.len());
                for command in batch.0 {
                    let (next, answer) = state::apply(state, command);
                    state = next;
                    answers.push(answer);
                }
                self.state = state.map(Arc::new);
                answers
            }
        }
    }

    fn show(&self) {
        self.shown.send_if_modified(|shown| {
            let changed = *shown != self.state;
            if changed {
                shown.clone_from(&self.state);
            }
            changed
        });
        self.applied.send_replace(Applied { log: self.last, state: self.state.clone() });
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Voter>), StorageError<u64>> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, records: I) -> Result<Vec<Vec<Result<(), Refused>>>, StorageError<u64>>
    where
        I: IntoIterator<Item = Record> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let answers = records.into_iter().map(|record| self.run(record)).collect();
        self.show();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            last: self.last,
            membership: self.membership.clone(),
            state: self.state.clone(),
            latest: self.latest.clone(),
            made: self.made.clone(),
            store: self.store.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        about: &SnapshotMeta<u64, Voter>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let data = snapshot.into_inner();
        // What cannot be read is never stored: it would be all that a restart finds.
        let unread = |error| StorageIOError::read_snapshot(Some(about.signature()), &error);
        let content = stored(&data).map_err(unread)?;
        self.store.save_snapshot(about.clone(), data.clone()).await?;
        self.take(content);
        *lock(&self.latest) = Some((about.clone(), data));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let latest = lock(&self.latest).clone();
        Ok(latest.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let state = self.state.as_deref().cloned();
        let content = Content { last: self.last, membership: self.membership.clone(), state };
        let data = encode(&content);
        let at = self.last.map_or_else(|| "0".to_owned(), |last| last.to_string());
        let count = self.made.fetch_add(1, Ordering::Relaxed);
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{at}-{count}"),
        };
        self.store.save_snapshot(meta.clone(), data.clone()).await?;
        *lock(&self.latest) = Some((meta.clone(), data.clone()));
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

/// The value is replaced whole, so a panic elsewhere leaves it valid.
fn lock(latest: &Latest) -> std::sync::MutexGuard<'_, StoredSnapshot> {
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}
