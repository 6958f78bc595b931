//! What the disk promises: openraft's own conformance suite, and clear words about a damaged,
//! copied or busy store.

use openraft::{
    StorageError,
    testing::{StoreBuilder, Suite},
};

use super::*;
use crate::quorum::{machine::Machine, store::Store};

struct Fresh;

impl StoreBuilder<Types, Store, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Store, Machine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, snapshot) = Store::open(dir.path(), SESSION, host(1)).unwrap();
        let (machine, _) = Machine::new(store.clone(), snapshot, watch::channel(None).0).unwrap();
        Ok((dir, store, machine))
    }
}

#[test]
fn openraft_accepts_the_store() {
    Suite::test_all(Fresh).unwrap();
}

fn open(dir: &Path, session: SessionId, me: HostId) -> Result<u64, StoreError> {
    Store::open(dir, session, me).map(|(_, node, _)| node)
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
        assert!(error.to_string().contains("rejoins"), "{what}: {error}");
    }
}
