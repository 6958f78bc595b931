//! openraft's log storage: a cache of the whole log in memory for readers, and one thread that
//! writes. The thread takes everything that waits into one transaction, so many appends cost one
//! sync; votes and appends keep their order because there is one queue. A purge never reaches the
//! disk before the snapshot that it relies on: [`Order`]. After one failed write every later one
//! fails as well: what the disk holds is not known any more.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, SnapshotMeta, StorageError, StorageIOError,
    Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Record, Types, Voter,
    disk::{Change, Disk, Loaded, Place, StoreError},
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
    Write(Change, Done),
    Close(oneshot::Sender<()>),
}

/// Who waits for a write.
enum Done {
    Flushed(LogFlushed<Types>),
    Written(oneshot::Sender<io::Result<()>>),
    /// Nobody: it was put off, and nothing is lost if it never happens.
    Nobody,
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
    /// Opens the store and starts its thread. Blocks on the disk.
    pub(super) fn open(place: Place) -> Result<(Store, u64, StoredSnapshot), StoreError> {
        let mint = rand::random_range(1..u64::MAX);
        let (dir, session) = (place.dir.clone(), place.session);
        let (disk, loaded) = Disk::open(place, mint)?;
        let Loaded { node, vote, committed, purged, log, snapshot } = loaded;
        let last = log.keys().last().copied();
        let vote = vote.map(|vote| as_candidate(vote, node));
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
        let covered = snapshot.as_ref().and_then(|(about, _)| about.last_log_id);
        let order = Order { covered, last, purge: None, behind: VecDeque::new() };
        let shared = memory.clone();
        std::thread::Builder::new()
            .name(format!("raft-{}", session.short()))
            .spawn(move || write_all(disk, order, waiting, &shared))
            .map_err(|error| StoreError::Open { path: dir, source: Box::new(redb::Error::Io(error)) })?;
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
        self.sync(Change::Snapshot(Box::new(about), data))
            .await
            .map_err(|error| StorageIOError::write_snapshot(signature, &error).into())
    }

    async fn sync(&self, change: Change) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job::Write(change, Done::Written(done))).await.map_err(|_| closed())?;
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
        let sent = self.jobs.send(Job::Write(Change::Append(rows), Done::Flushed(flushed))).await;
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

/// A leader that comes back asks for votes again. openraft would go on leading in the same term, with
/// whatever log it finds: an older copy of the store would give numbers of committed entries to others.
/// Forgetting that the vote was won is what a voter may always do.
fn as_candidate(vote: Vote<u64>, node: u64) -> Vote<u64> {
    match vote.leader_id().voted_for() {
        Some(voted) if voted == node => Vote::new(vote.leader_id().term, node),
        _ => vote,
    }
}

/// The order in which the disk may see changes. openraft purges the log while the snapshot of another
/// voter is still being stored; a crash between the two would leave neither. So a purge waits for a
/// snapshot that covers it. One that reaches beyond the log would leave a gap before what comes next, and
/// acknowledging entries behind a gap would be a lie: they wait as well. The snapshot is written by
/// another task, which waits for none of them.
struct Order {
    /// The last entry that a snapshot covers, on the disk or written next.
    covered: Option<LogId<u64>>,
    /// The last entry of the log on the disk.
    last: Option<u64>,
    /// The purge that was put off. openraft has been told that it is done: nothing is lost if it never is.
    purge: Option<LogId<u64>>,
    /// What waits with it. openraft has one change under way, so it is short.
    behind: VecDeque<(Change, Done)>,
}

impl Order {
    /// Gives what may be written now that this change came.
    fn next(&mut self, change: Change, done: Done) -> Vec<(Change, Done)> {
        match &change {
            Change::Snapshot(about, _) => {
                self.covered = self.covered.max(about.last_log_id);
                let mut ready = vec![(change, done)];
                if let Some(upto) = self.purge.take_if(|upto| self.covered >= Some(*upto)) {
                    ready.push((Change::Purge(upto), Done::Nobody));
                    for (change, done) in std::mem::take(&mut self.behind) {
                        ready.extend(self.next(change, done));
                    }
                }
                return ready;
            }
            Change::Purge(upto) if self.covered < Some(*upto) => {
                self.purge = self.purge.max(Some(*upto));
                done.give(&None);
                return Vec::new();
            }
            _ if self.purge.is_some_and(|upto| Some(upto.index) > self.last) => {
                self.behind.push_back((change, done));
                return Vec::new();
            }
            Change::Append(rows) => self.last = rows.last().map(|(index, _)| *index).or(self.last),
            Change::Truncate(from) => self.last = self.last.min(from.checked_sub(1)),
            Change::Purge(_) | Change::Vote(_) => {}
        }
        vec![(change, done)]
    }
}

/// The thread: everything that waits goes into one transaction.
fn write_all(disk: Disk, mut order: Order, mut waiting: mpsc::Receiver<Job>, memory: &Mutex<Memory>) {
    let mut broken: Option<String> = None;
    while let Some(first) = waiting.blocking_recv() {
        let (mut changes, mut answers, mut closers) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write(change, done) => {
                    for (change, done) in order.next(change, done) {
                        changes.push(change);
                        answers.push(done);
                    }
                }
                Job::Close(done) => closers.push(done),
            }
            next = waiting.try_recv().ok();
        }
        if broken.is_none() && !changes.is_empty() {
            let committed = lock(memory).committed;
            broken = disk.write(&changes, committed).err().map(|error| error.to_string());
        }
        if broken.is_some() {
            answers.extend(order.behind.drain(..).map(|(_, done)| done));
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

impl Done {
    fn give(self, broken: &Option<String>) {
        let result = broken.as_ref().map_or(Ok(()), |what| Err(io::Error::other(what.clone())));
        match self {
            Done::Flushed(flushed) => flushed.log_io_completed(result),
            Done::Written(done) => drop(done.send(result)),
            Done::Nobody => {}
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
