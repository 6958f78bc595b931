//! openraft's log storage: a cache of the whole log in memory for readers, and one thread that
//! writes. The thread takes everything that waits into one transaction, so many appends cost one
//! sync; votes and appends keep their order because there is one queue. After one failed write
//! every later one fails as well: what the disk holds is not known any more.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, SnapshotMeta, StorageError, StorageIOError,
    Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use proto::id::{HostId, SessionId};
use tokio::sync::{mpsc, oneshot};

use super::{
    Record, Types, Voter,
    disk::{Change, Disk, Loaded, StoreError},
    wire::encode,
};

/// Writes that wait for the thread. openraft waits for each append, so this is never near full.
const MAX_WAITING: usize = 64;
/// Bytes of log in memory above which a snapshot is due, however few entries they are: one entry
/// may hold a topology with all its files.
const LARGE_LOG_BYTES: usize = 16 * 1024 * 1024;

#[derive(Default)]
struct Memory {
    log: BTreeMap<u64, Record>,
    bytes: BTreeMap<u64, usize>,
    vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
    /// Who is named by the snapshot, for when the log behind it names nobody.
    snapshot: Option<SnapshotMeta<u64, Voter>>,
}

enum Job {
    Append(Change, LogFlushed<Types>),
    Sync(Change, oneshot::Sender<io::Result<()>>),
    Close(oneshot::Sender<()>),
}

/// The log of one session on one host. Clones share it.
#[derive(Clone)]
pub(super) struct Store {
    memory: Arc<Mutex<Memory>>,
    jobs: mpsc::Sender<Job>,
}

/// What the store had when it was opened, for the state machine.
pub(super) type StoredSnapshot = Option<(SnapshotMeta<u64, Voter>, Vec<u8>)>;

impl Store {
    /// Opens the store in `dir` and starts its thread. Blocks on the disk.
    pub(super) fn open(
        dir: &Path,
        session: SessionId,
        host: HostId,
    ) -> Result<(Store, u64, StoredSnapshot), StoreError> {
        let mint = rand::random_range(1..u64::MAX);
        let (disk, loaded) = Disk::open(dir, session, host, mint)?;
        let Loaded { node, vote, committed, purged, log, snapshot } = loaded;
        let bytes = log.iter().map(|(index, record)| (*index, encode(record).len())).collect();
        let memory = Arc::new(Mutex::new(Memory {
            log,
            bytes,
            vote,
            committed,
            purged,
            snapshot: snapshot.as_ref().map(|(about, _)| about.clone()),
        }));
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let shared = memory.clone();
        std::thread::Builder::new()
            .name(format!("raft-{}", session.short()))
            .spawn(move || write_all(disk, waiting, &shared))
            .map_err(|error| StoreError::Open {
                path: dir.to_owned(),
                source: Box::new(redb::Error::Io(error)),
            })?;
        Ok((Store { memory, jobs }, node, snapshot))
    }

    /// Waits for the thread to write what waits and to close the file.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            closed.await.ok();
        }
    }

    /// Gives the id of the last entry.
    pub(super) fn last_log_id(&self) -> Option<LogId<u64>> {
        let memory = self.memory();
        memory.log.values().last().map(|record| record.log_id).or(memory.purged)
    }

    /// Tells whether the log holds so many bytes that a snapshot should replace it.
    pub(super) fn is_large(&self) -> bool {
        self.memory().bytes.values().sum::<usize>() > LARGE_LOG_BYTES
    }

    /// Tells whether the newest list of members in this store has `node`, as voter or as learner.
    pub(super) fn names(&self, node: u64) -> bool {
        let memory = self.memory();
        let newest = memory.log.values().rev().find_map(|record| match &record.payload {
            EntryPayload::Membership(members) => Some(members),
            _ => None,
        });
        let snapshot = memory.snapshot.as_ref().map(|about| about.last_membership.membership());
        newest.or(snapshot).is_some_and(|members| members.get_node(&node).is_some())
    }

    /// Writes a snapshot and waits for the disk.
    pub(super) async fn save_snapshot(
        &self,
        about: SnapshotMeta<u64, Voter>,
        data: Vec<u8>,
    ) -> Result<(), StorageError<u64>> {
        let signature = Some(about.signature());
        self.memory().snapshot = Some(about.clone());
        self.sync(Change::Snapshot(about, data))
            .await
            .map_err(|error| StorageIOError::write_snapshot(signature, &error).into())
    }

    async fn sync(&self, change: Change) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job::Sync(change, done)).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())?
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Record>, StorageError<u64>> {
        Ok(self.memory().log.range(range).map(|(_, record)| record.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let last_log_id = self.last_log_id();
        Ok(LogState { last_purged_log_id: self.memory().purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let written = self.sync(Change::Vote(*vote)).await;
        written.map_err(|error| StorageIOError::write_vote(&error))?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.memory().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Record> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        {
            let mut memory = self.memory();
            for record in entries {
                let (index, bytes) = (record.log_id.index, encode(&record));
                memory.bytes.insert(index, bytes.len());
                memory.log.insert(index, record);
                rows.push((index, bytes));
            }
        }
        let sent = self.jobs.send(Job::Append(Change::Append(rows), flushed)).await;
        sent.map_err(|_| StorageIOError::write_logs(&closed()).into())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        {
            let mut memory = self.memory();
            memory.log.split_off(&from.index);
            memory.bytes.split_off(&from.index);
        }
        let written = self.sync(Change::Truncate(from.index)).await;
        written.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError<u64>> {
        {
            let mut memory = self.memory();
            memory.purged = Some(upto);
            memory.log = memory.log.split_off(&(upto.index + 1));
            memory.bytes = memory.bytes.split_off(&(upto.index + 1));
        }
        let written = self.sync(Change::Purge(upto)).await;
        written.map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

/// The thread: everything that waits goes into one transaction.
fn write_all(disk: Disk, mut waiting: mpsc::Receiver<Job>, memory: &Mutex<Memory>) {
    let mut broken: Option<String> = None;
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while let Ok(next) = waiting.try_recv() {
            jobs.push(next);
        }
        let (mut changes, mut answers, mut closers) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Append(change, flushed) => {
                    changes.push(change);
                    answers.push(Done::Flushed(flushed));
                }
                Job::Sync(change, done) => {
                    changes.push(change);
                    answers.push(Done::Written(done));
                }
                Job::Close(done) => closers.push(done),
            }
        }
        if broken.is_none() {
            let committed = lock(memory).committed;
            broken = disk.write(&changes, committed).err().map(|error| error.to_string());
        }
        for answer in answers {
            answer.give(&broken);
        }
        if !closers.is_empty() {
            drop(disk);
            closers.into_iter().for_each(|done| done.send(()).unwrap_or_default());
            return;
        }
    }
}

enum Done {
    Flushed(LogFlushed<Types>),
    Written(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn give(self, broken: &Option<String>) {
        let result = broken.as_ref().map_or(Ok(()), |what| Err(io::Error::other(what.clone())));
        match self {
            Done::Flushed(flushed) => flushed.log_io_completed(result),
            Done::Written(done) => drop(done.send(result)),
        }
    }
}

/// A panic while the lock was held left whole entries behind: no update spans two statements that
/// could panic.
fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> io::Error {
    io::Error::other("the session's store is closed")
}
