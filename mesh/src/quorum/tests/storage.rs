//! What the disk promises: openraft's own conformance suite, and clear words about a damaged,
//! copied or busy store.

use futures::future::BoxFuture;
use openraft::{
    StorageError,
    testing::{StoreBuilder, Suite},
};

use super::*;
use crate::quorum::{disk::Place, machine::StateMachine, store::Store};

struct Fresh;

impl StoreBuilder<Types, Store, StateMachine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Store, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, snapshot) = Store::open(Place::new(dir.path(), SESSION, host(1))).unwrap();
        let (machine, _) = StateMachine::new(store.clone(), snapshot, watch::channel(None).0).unwrap();
        Ok((dir, store, machine))
    }
}

#[test]
fn openraft_accepts_the_store() {
    Suite::test_all(Fresh).unwrap();
}

fn open(dir: &Path, session: SessionId, me: HostId) -> Result<u64, StoreError> {
    Store::open(Place::new(dir, session, me)).map(|(_, node, _)| node)
}

async fn used() -> Hosts {
    let hosts = Hosts::voting(1..=1).await;
    for parent in 0..20 {
        hosts.group(1).write(apply(parent, 1000), PATIENCE).await.unwrap().unwrap();
    }
    hosts
}

#[tokio::test]
async fn a_store_is_open_once_and_belongs_to_one_host_and_session() {
    let hosts = used().await;
    let dir = hosts.dirs[&1].path();
    let node = hosts.group(1).node_id();
    assert!(matches!(open(dir, SESSION, host(1)), Err(StoreError::InUse(_))));
    hosts.stop(1).await;
    assert!(matches!(open(dir, SESSION, host(2)), Err(StoreError::Foreign(_))));
    assert!(matches!(open(dir, SessionId([8; 16]), host(1)), Err(StoreError::Foreign(_))));
    assert_eq!(open(dir, SESSION, host(1)).unwrap(), node);
}

#[test]
fn a_store_of_another_format_is_no_damaged_one() {
    let owner = wire::Owner { session: SESSION, host: host(1), node: 1 };
    let mut newer = wire::encode(&owner);
    // The envelope's second field.
    newer[4] = 7;
    // Once the number stood first, and then whatever that format has.
    let older = [vec![2], vec![0xff; 9]].concat();
    for (owner, by) in [(older, "an older agent (format 2,"), (newer, "a newer agent (format 7,")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let db = redb::Database::create(&path).unwrap();
        let write = db.begin_write().unwrap();
        let row = [&blake3::hash(&owner).as_bytes()[..8], &owner].concat();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        write.open_table(meta).unwrap().insert("owner", row.as_slice()).unwrap();
        write.commit().unwrap();
        drop(db);
        let before = std::fs::read(&path).unwrap();
        let error = open(dir.path(), SESSION, host(1)).unwrap_err().to_string();
        assert!(error.contains(by) && !error.contains("remove"), "{error}");
        assert_eq!(before.len(), std::fs::read(&path).unwrap().len());
    }
}

/// Writes a row into a closed store, with the checksum that it needs.
fn put(dir: &Path, row: Result<u64, &str>, bytes: &[u8]) {
    let db = redb::Database::create(dir.join("store.redb")).unwrap();
    let write = db.begin_write().unwrap();
    let sealed = [&blake3::hash(bytes).as_bytes()[..8], bytes].concat();
    match row {
        Ok(index) => {
            let log = redb::TableDefinition::<u64, &[u8]>::new("log");
            write.open_table(log).unwrap().insert(index, sealed.as_slice()).unwrap();
        }
        Err(key) => {
            let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
            write.open_table(meta).unwrap().insert(key, sealed.as_slice()).unwrap();
        }
    }
    write.commit().unwrap();
}

/// Gives the error of a store that was used and then has this row, and whether it is damage.
async fn with_row(row: Result<u64, &str>, bytes: &[u8]) -> (String, bool) {
    let hosts = used().await;
    hosts.stop(1).await;
    let dir = hosts.dirs[&1].path();
    put(dir, row, bytes);
    let place = Place::new(dir, SESSION, host(1));
    let error = Group::open_at(place, hosts.wire(host(1))).await.err().expect("it is not opened");
    (error.to_string(), error.is_damage())
}

#[tokio::test]
async fn what_a_newer_agent_wrote_is_no_damage_and_says_whose_it_is() {
    // An entry with a payload of a kind that nobody knows here, in the place where that of ours begins.
    let entry = wire::encode(&blank(4));
    assert_eq!(entry[entry.len() - 2..], [0, 0xa0], "the payload: a blank");
    let mut unknown = entry.clone();
    unknown[entry.len() - 2] = 9;
    let mut form = entry;
    form[4] = 2;
    let about = openraft::SnapshotMeta { last_log_id: Some(log_id(4)), ..Default::default() };
    let content = machine::Content { last: about.last_log_id, membership: Default::default(), state: None };
    let mut content = wire::encode(&content);
    content[4] = 2;
    let snapshot = wire::encode(&(about, content));
    let rows = [(Ok(4), unknown), (Ok(4), form), (Err("snapshot"), snapshot)];
    for (row, bytes) in rows {
        let (error, is_damage) = with_row(row, &bytes).await;
        assert!(error.contains("a newer agent") && error.contains("can still use it"), "{row:?}: {error}");
        assert!(!is_damage, "{row:?}");
    }
    let (error, is_damage) = with_row(Ok(4), b"nonsense").await;
    assert!(error.contains("damaged") && is_damage, "{error}");
}

#[tokio::test]
async fn damage_is_said_and_never_repaired_away() {
    let hosts = used().await;
    hosts.stop(1).await;
    let path = hosts.dirs[&1].path().join("store.redb");
    let good = std::fs::read(&path).unwrap();
    // A byte in the middle of a log entry, found by its content.
    let at = good.windows(200).rposition(|part| part.iter().all(|byte| *byte == b'x')).unwrap();
    let mut flipped = good.clone();
    flipped[at + 100] ^= 1;
    for (what, bytes) in [
        ("flipped", flipped),
        ("cut", good[..good.len() / 2].to_vec()),
        ("text", b"this is no store".to_vec()),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = open(hosts.dirs[&1].path(), SESSION, host(1)).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("damaged"), "{what}: {error}");
    }
}

/// Appends entries once it is polled, and gives the answer of the disk, when there is one.
fn append(store: &Store, range: std::ops::RangeInclusive<u64>) -> BoxFuture<'static, bool> {
    let mut store = store.clone();
    let entries: Vec<Record> = range.map(blank).collect();
    let appended = async move {
        openraft::storage::RaftLogStorageExt::blocking_append(&mut store, entries).await.is_ok()
    };
    appended.boxed()
}

fn vote(store: &Store) -> BoxFuture<'static, bool> {
    let mut store = store.clone();
    async move {
        openraft::storage::RaftLogStorage::save_vote(&mut store, &openraft::Vote::new(3, 1)).await.is_ok()
    }
    .boxed()
}

/// Writes a snapshot that covers everything up to this entry.
async fn snapshot(store: &Store, index: u64) {
    let about = openraft::SnapshotMeta { last_log_id: Some(log_id(index)), ..Default::default() };
    store.save_snapshot(about, vec![1]).await.unwrap();
}

fn log_id(index: u64) -> openraft::LogId<u64> {
    openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), index)
}

fn blank(index: u64) -> Record {
    Record { log_id: log_id(index), payload: openraft::EntryPayload::Blank }
}

fn opened(dir: &Path) -> Store {
    Store::open(Place::new(dir, SESSION, host(1))).unwrap().0
}

async fn indices(store: &Store) -> Vec<u64> {
    let mut store = store.clone();
    let all = openraft::RaftLogReader::<Types>::try_get_log_entries(&mut store, ..).await.unwrap();
    all.iter().map(|record| record.log_id.index).collect()
}

#[tokio::test]
async fn a_purge_and_what_follows_wait_for_the_snapshot_that_covers_them() {
    use openraft::storage::RaftLogStorage;
    let dir = tempfile::tempdir().unwrap();
    let mut store = opened(dir.path());
    assert!(append(&store, 0..=5).await);
    store.purge(log_id(9)).await.unwrap();
    let mut behind = append(&store, 10..=11);
    let mut vote = vote(&store);
    // Both are in the queue now, and a snapshot that covers too little stands after them.
    assert!(futures::poll!(&mut behind).is_pending() && futures::poll!(&mut vote).is_pending());
    snapshot(&store, 3).await;
    assert!(futures::poll!(&mut behind).is_pending(), "acknowledged before the snapshot that covers it");
    assert!(futures::poll!(&mut vote).is_pending(), "acknowledged before what stands in front of it");
    store.close().await;
    assert!(!behind.await && !vote.await);

    // A crash at that moment lost nothing.
    let mut store = opened(dir.path());
    assert_eq!(indices(&store).await, [0, 1, 2, 3, 4, 5]);
    store.purge(log_id(9)).await.unwrap();
    let mut behind = append(&store, 10..=11);
    assert!(futures::poll!(&mut behind).is_pending());
    snapshot(&store, 9).await;
    assert!(behind.await);
    assert!(self::vote(&store).await);
    store.close().await;
    let mut store = opened(dir.path());
    assert_eq!(indices(&store).await, [10, 11]);
    assert_eq!(store.read_vote().await.unwrap(), Some(openraft::Vote::new(3, 1)));
}
