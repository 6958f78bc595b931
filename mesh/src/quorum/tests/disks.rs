//! Disks that fill up, are cut off in the middle, or are copied back: the file of a store on a disk of
//! ours, beneath redb.

use std::{
    fs::File,
    io,
    ops::Bound,
    sync::atomic::{AtomicI64, Ordering},
};

use redb::{StorageBackend, backends::FileBackend};

use super::*;

/// The count of a disk that is never full.
const NEVER: i64 = i64::MIN;

/// What a test does to the disks of its hosts.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<HashMap<u8, Fate>>>);

#[derive(Clone, Debug)]
struct Fate {
    /// Writes until the disk is full; negative: it never is.
    left: Arc<AtomicI64>,
    /// The file as it was after each sync, once somebody asked.
    synced: Arc<Mutex<Option<Vec<Vec<u8>>>>>,
}

#[derive(Debug)]
struct Failing {
    file: FileBackend,
    path: std::path::PathBuf,
    fate: Fate,
}

impl Disk {
    /// Gives what opens a store on the disk of a host.
    pub(super) fn of(&self, number: u8) -> disk::Create {
        let fate = self.fate(number);
        Box::new(move |path| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let failing = Failing { file: FileBackend::new(file)?, path: path.to_owned(), fate };
            redb::Database::builder().create_with_backend(failing)
        })
    }

    /// Lets a host's disk be full after so many more writes.
    fn full_after(&self, number: u8, writes: i64) {
        self.fate(number).left.store(writes, Ordering::SeqCst);
    }

    /// Gives a host's disk room again. Tells whether it had none left.
    fn was_full(&self, number: u8) -> bool {
        self.fate(number).left.swap(NEVER, Ordering::SeqCst) == 0
    }

    /// Keeps what lies on a host's disk after each sync from now on.
    fn keep_synced(&self, number: u8) {
        *self.fate(number).synced.lock().unwrap() = Some(Vec::new());
    }

    fn synced(&self, number: u8) -> Vec<Vec<u8>> {
        self.fate(number).synced.lock().unwrap().take().unwrap()
    }

    fn fate(&self, number: u8) -> Fate {
        let fresh = || Fate { left: Arc::new(AtomicI64::new(NEVER)), synced: Arc::default() };
        self.0.lock().unwrap().entry(number).or_insert_with(fresh).clone()
    }
}

impl Failing {
    fn write_one(&self) -> io::Result<()> {
        let left = |left: i64| (left > 0).then(|| left - 1);
        match self.fate.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
            Err(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_one()?;
        self.file.sync_data()?;
        if let Some(synced) = &mut *self.fate.synced.lock().unwrap() {
            synced.push(std::fs::read(&self.path)?);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_one()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
        self.file.unlock_range(start, end)
    }
}

/// Writes until the log was purged behind a snapshot, from this generation on.
async fn many(group: &Group, generations: std::ops::Range<u64>) {
    for parent in generations {
        group.write(apply(parent, 10), PATIENCE).await.unwrap().unwrap();
    }
}

/// Waits until the group says that it stopped, or answers `false` when it works on without.
async fn stopped(group: &Group) -> bool {
    let mut lead = group.lead();
    let told = lead.wait_for(|lead| lead.stopped.is_some());
    tokio::time::timeout(Duration::from_secs(2), told).await.is_ok()
}

#[tokio::test]
async fn a_voter_cut_off_while_it_takes_a_snapshot_is_whole_after_every_sync() {
    let hosts = Hosts::voting(1..=3).await;
    many(&hosts.group(1), 0..20).await;
    sees_generation(&hosts.group(3), 20).await;
    hosts.say_so();
    hosts.cut(3);
    many(&hosts.group(1), 20..600).await;
    see(hosts.group(1).raft.metrics(), "the log was purged", |metrics| metrics.purged.is_some()).await;
    hosts.disk.keep_synced(3);
    hosts.heal();
    sees_generation(&hosts.group(3), 600).await;
    many(&hosts.group(1), 600..605).await;
    sees_generation(&hosts.group(3), 605).await;
    let synced = hosts.disk.synced(3);
    assert!(synced.len() > 3, "{}", synced.len());
    for (at, bytes) in synced.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("store.redb"), bytes).unwrap();
        let place = disk::Place::new(dir.path(), SESSION, host(3));
        if let Err(error) = store::Store::open(place) {
            panic!("after sync {at}: {error}");
        }
    }
}

#[tokio::test]
async fn a_lone_voter_whose_disk_was_full_has_all_it_acknowledged_and_goes_on() {
    let mut full = 0;
    // The 256th entry makes a snapshot, and then the log is purged.
    for writes in (0..24).step_by(2) {
        let hosts = Hosts::voting(1..=1).await;
        let group = hosts.group(1);
        many(&group, 0..250).await;
        hosts.disk.full_after(1, writes);
        let mut acknowledged = 250;
        while acknowledged < 260 {
            match group.write(apply(acknowledged, 10), PATIENCE).await {
                Ok(answer) => answer.unwrap(),
                Err(error) => {
                    assert!(matches!(error, WriteError::Stopped(_)), "{error}");
                    break;
                }
            }
            acknowledged += 1;
        }
        if !hosts.disk.was_full(1) && acknowledged == 260 {
            continue;
        }
        full += 1;
        assert!(stopped(&group).await, "full after {writes} writes, and nobody is told");
        hosts.stop(1).await;
        hosts.start(1).await;
        let group = hosts.group(1);
        hosts.leads(&group).await;
        let (state, _) = group.read(PATIENCE).await.unwrap();
        assert!(state.generation() >= Generation(acknowledged), "{:?} of {acknowledged}", state.generation());
        group.write(apply(state.generation().0, 10), PATIENCE).await.unwrap().unwrap();
    }
    assert!(full > 5, "{full}");
}

#[tokio::test]
async fn a_follower_whose_disk_was_full_while_it_took_a_snapshot_or_voted_goes_on() {
    for writes in [0, 3] {
        let hosts = Hosts::voting(1..=3).await;
        hosts.say_so();
        hosts.cut(3);
        many(&hosts.group(1), 0..600).await;
        hosts.disk.full_after(3, writes);
        hosts.heal();
        assert!(stopped(&hosts.group(3)).await, "full after {writes} writes, and nobody is told");
        assert!(hosts.disk.was_full(3));
        hosts.stop(3).await;
        hosts.start(3).await;
        sees_generation(&hosts.group(3), 600).await;

        // Its vote is what the others need now.
        hosts.disk.full_after(3, writes);
        hosts.stop(1).await;
        assert!(stopped(&hosts.group(3)).await, "full after {writes} writes, and nobody is told");
        assert!(hosts.disk.was_full(3));
        hosts.stop(3).await;
        hosts.start(3).await;
        assert_eq!(hosts.write(&[2, 3], apply(600, 10)).await, Ok(()));
    }
}

#[tokio::test]
async fn a_cut_off_leader_whose_disk_was_full_while_it_followed_again_goes_on() {
    for writes in [0, 1, 2, 4] {
        let hosts = Hosts::voting(1..=3).await;
        hosts.cut(1);
        let alone = hosts.group(1);
        // What only it has will have to go.
        assert_eq!(alone.write(apply(0, 10), Duration::from_millis(300)).await, Err(WriteError::TimedOut));
        assert_eq!(hosts.write(&[2, 3], apply(0, 20)).await, Ok(()));
        hosts.disk.full_after(1, writes);
        hosts.heal();
        assert!(stopped(&alone).await, "full after {writes} writes, and nobody is told");
        assert!(hosts.disk.was_full(1));
        hosts.stop(1).await;
        hosts.start(1).await;
        sees_generation(&hosts.group(1), 1).await;
        assert_eq!(hosts.write(&[1, 2, 3], apply(1, 20)).await, Ok(()));
    }
}

/// Stops a host, gives it the store that it had, and starts it.
async fn copied_back(hosts: &Hosts, number: u8, copy: &[u8]) {
    hosts.stop(number).await;
    std::fs::write(hosts.dirs[&number].path().join("store.redb"), copy).unwrap();
    hosts.start(number).await;
}

async fn copy(hosts: &Hosts, number: u8) -> Vec<u8> {
    hosts.stop(number).await;
    let copy = std::fs::read(hosts.dirs[&number].path().join("store.redb")).unwrap();
    hosts.start(number).await;
    copy
}

#[tokio::test]
async fn a_voter_with_an_older_copy_of_its_store_is_found_out_and_comes_back_as_a_new_one() {
    let mut hosts = Hosts::voting(1..=3).await;
    sees_generation(&hosts.group(3), 0).await;
    let old = copy(&hosts, 3).await;
    many(&hosts.group(1), 0..5).await;
    sees_generation(&hosts.group(3), 5).await;
    let node = hosts.group(3).node_id();
    copied_back(&hosts, 3, &old).await;
    see(hosts.group(1).lead(), "it is found out", |lead| lead.outdated.contains(&node)).await;
    assert_eq!(hosts.group(3).state().borrow().as_ref().map(|state| state.generation()), Some(Generation(0)));
    // The group does not need it, and takes its new store in.
    many(&hosts.group(1), 5..7).await;
    hosts.stop(3).await;
    hosts.dirs.insert(3, tempfile::tempdir().unwrap());
    hosts.start(3).await;
    hosts.group(1).set_voters(hosts.voters([1, 2, 3]), PATIENCE).await.unwrap();
    sees_generation(&hosts.group(3), 7).await;
    see(hosts.group(1).lead(), "it is forgotten", |lead| lead.outdated.is_empty()).await;
}

/// Of a few, one without an election just then.
const TRIES: usize = 5;

#[tokio::test]
async fn a_leader_with_an_older_copy_of_its_store_does_not_lead_on_with_it() {
    let hosts = Hosts::voting(1..=3).await;
    many(&hosts.group(1), 0..1).await;
    let old = copy(&hosts, 1).await;
    for begun in (1..).step_by(5).take(TRIES) {
        let leader = hosts.leader(&[1, 2, 3]).await;
        many(&hosts.group(leader), begun..begun + 4).await;
        for other in 1..=3 {
            sees_generation(&hosts.group(other), begun + 4).await;
        }
        let node = hosts.group(1).node_id();
        copied_back(&hosts, 1, &old).await;
        // Whatever it says, committed entries stay what they are.
        assert_eq!(hosts.write(&[2, 3], apply(begun + 4, 30)).await, Ok(()));
        for other in 2..=3 {
            sees_generation(&hosts.group(other), begun + 5).await;
        }
        assert!(!hosts.group(1).lead().borrow().leading);
        // Who led knows what was acknowledged to it; who was elected meanwhile cannot.
        if hosts.leader(&[2, 3]).await == leader {
            let lead = hosts.group(leader).lead();
            see(lead, "it is found out", |lead| lead.outdated.contains(&node)).await;
            return;
        }
    }
    panic!("another one was elected each time");
}

#[tokio::test]
async fn a_voter_that_merely_was_away_is_not_taken_for_one_with_an_older_store() {
    let hosts = Hosts::voting(1..=3).await;
    many(&hosts.group(1), 0..5).await;
    hosts.stop(3).await;
    many(&hosts.group(1), 5..10).await;
    hosts.start(3).await;
    sees_generation(&hosts.group(3), 10).await;
    hosts.stop(1).await;
    assert_eq!(hosts.write(&[2, 3], apply(10, 10)).await, Ok(()));
    hosts.start(1).await;
    sees_generation(&hosts.group(1), 11).await;
    for number in 1..=3 {
        assert!(hosts.group(number).lead().borrow().outdated.is_empty());
    }
}
