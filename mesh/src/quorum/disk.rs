//! One session's Raft store on disk: one redb file with the log, the vote, the snapshot and the
//! node id. Owns the file and its format; knows nothing of tasks. Every value carries a checksum,
//! because redb looks at its own only after a crash. A damaged file is never repaired or emptied:
//! a voter that forgot its vote may not come back under its id (it re-enters as a learner with a
//! new store).

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use openraft::{LogId, SnapshotMeta, Vote};
use proto::{
    id::{HostId, SessionId},
    wire::WireError,
};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::{
    Record, Voter,
    wire::{FORMAT, Owner, Written, encode, stored},
};

/// The file of a store in its directory.
pub(super) const FILE: &str = "store.redb";
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const CHECKSUM_BYTES: usize = 8;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another group of this one, has it.
    #[error("the session's store {} is in use", .0.display())]
    InUse(PathBuf),
    /// The file system said no.
    #[error("cannot open the session's store {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: Box<redb::Error>,
    },
    /// What is in the file is not what was written.
    #[error("the session's store {} is damaged ({what})", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another program wrote it, in another format.
    #[error(
        "the session's store {} was written by {} agent (format {found}, this one needs {FORMAT}); \
         that agent can still use it",
        path.display(),
        if *found < FORMAT { "an older" } else { "a newer" }
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The number found.
        found: u16,
    },
    /// A newer agent wrote something into it that this one does not know. Nothing is wrong with it.
    #[error(
        "the session's store {} was written by a newer agent (it holds something that this one does not \
         know); that agent can still use it",
        .0.display()
    )]
    Newer(PathBuf),
    /// The file was copied from somewhere else: two voters with one id would break the quorum.
    #[error("the session's store {} belongs to another session or host; it was copied", .0.display())]
    Foreign(PathBuf),
}

/// What is the matter with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is not what was written.
    Damage(String),
    /// A newer agent wrote it.
    Newer,
}

impl Flaw {
    /// Says which row it is.
    pub(super) fn of(self, row: &str) -> Flaw {
        match self {
            Flaw::Damage(what) => Flaw::Damage(format!("{row}: {what}")),
            Flaw::Newer => Flaw::Newer,
        }
    }

    /// Gives the error of the store that it is in.
    pub(super) fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Flaw::Damage(what) => StoreError::Corrupt { path, what },
            Flaw::Newer => StoreError::Newer(path),
        }
    }
}

impl From<&str> for Flaw {
    fn from(what: &str) -> Flaw {
        Flaw::Damage(what.to_owned())
    }
}

impl From<String> for Flaw {
    fn from(what: String) -> Flaw {
        Flaw::Damage(what)
    }
}

impl From<WireError> for Flaw {
    fn from(error: WireError) -> Flaw {
        match error {
            WireError::Unknown => Flaw::Newer,
            WireError::Version { found, known } if found > known => Flaw::Newer,
            error => Flaw::Damage(error.to_string()),
        }
    }
}

/// The tables as they are, checksums not looked at yet.
#[derive(Default)]
struct Rows {
    meta: BTreeMap<String, Vec<u8>>,
    log: BTreeMap<u64, Vec<u8>>,
}

/// What was in a store when it was opened.
pub(super) struct Loaded {
    pub node: u64,
    pub vote: Option<Vote<u64>>,
    pub committed: Option<LogId<u64>>,
    pub purged: Option<LogId<u64>>,
    pub log: BTreeMap<u64, Record>,
    pub snapshot: Option<(SnapshotMeta<u64, Voter>, Vec<u8>)>,
}

/// One change of a store.
pub(super) enum Change {
    Append(Vec<(u64, Vec<u8>)>),
    Vote(Vote<u64>),
    /// This entry and all after it go.
    Truncate(u64),
    /// This entry and all before it go.
    Purge(LogId<u64>),
    Snapshot(Box<SnapshotMeta<u64, Voter>>, Vec<u8>),
}

/// Opens or makes the file of a store: redb itself, or in tests redb on a disk that fails.
pub(super) type Create = Box<dyn FnOnce(&Path) -> Result<redb::Database, redb::DatabaseError> + Send>;

/// Where a store lies, and whose it is.
pub(super) struct Place {
    pub dir: PathBuf,
    pub session: SessionId,
    pub host: HostId,
    pub create: Create,
}

impl Place {
    /// The usual one: a file in `dir`.
    pub(super) fn new(dir: &Path, session: SessionId, host: HostId) -> Place {
        let create: Create = Box::new(|path| redb::Database::create(path));
        Place { dir: dir.to_owned(), session, host, create }
    }
}

/// An open store.
pub(super) struct Disk {
    db: redb::Database,
}

impl Disk {
    /// Opens the store at `place`, or makes it with the node id `mint`.
    pub(super) fn open(place: Place, mint: u64) -> Result<(Disk, Loaded), StoreError> {
        let path = place.dir.join(FILE);
        // redb asserts on some damaged pages; that is an answer about the file, not about us.
        let opened = catch_unwind(AssertUnwindSafe(|| Disk::open_checked(&path, place, mint)));
        opened.unwrap_or_else(|_| Err(StoreError::Corrupt { path, what: "redb cannot read it".into() }))
    }

    fn open_checked(path: &Path, place: Place, mint: u64) -> Result<(Disk, Loaded), StoreError> {
        let Place { session, host, create, .. } = place;
        let db = create(path).map_err(|error| refusal(path, error.into()))?;
        let disk = Disk { db };
        let corrupt = |what: String| StoreError::Corrupt { path: path.to_owned(), what };
        if let Some(row) = disk.owner().map_err(|error| refusal(path, error))? {
            let row = unsealed(&row).map_err(|flaw| flaw.of("owner").at(path))?;
            let found = format(row).ok_or_else(|| corrupt("owner: no format".into()))?;
            if found != FORMAT {
                return Err(StoreError::Format { path: path.to_owned(), found });
            }
        }
        let owner = Owner { session, host, node: mint };
        disk.claim(&owner).map_err(|error| refusal(path, error))?;
        let rows = disk.rows().map_err(|error| refusal(path, error))?;
        let found: Owner = value(&rows.meta, "owner")
            .map_err(|flaw| flaw.at(path))?
            .ok_or_else(|| corrupt("no owner".into()))?;
        if (Owner { node: mint, ..found.clone() }) != owner {
            return Err(StoreError::Foreign(path.to_owned()));
        }
        let loaded = load(found.node, &rows).map_err(|flaw| flaw.at(path))?;
        Ok((disk, loaded))
    }

    /// Reads who made the store, if somebody did.
    fn owner(&self) -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = match self.db.begin_read()?.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(meta.get("owner")?.map(|row| row.value().to_vec()))
    }

    /// Writes the owner into a new store.
    fn claim(&self, owner: &Owner) -> Result<(), redb::Error> {
        let write = self.db.begin_write()?;
        {
            write.open_table(LOG)?;
            let mut meta = write.open_table(META)?;
            if meta.is_empty()? {
                meta.insert("owner", sealed(&encode(owner)).as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn rows(&self) -> Result<Rows, redb::Error> {
        let read = self.db.begin_read()?;
        let mut rows = Rows::default();
        for row in read.open_table(META)?.iter()? {
            let (key, value) = row?;
            rows.meta.insert(key.value().to_owned(), value.value().to_vec());
        }
        for row in read.open_table(LOG)?.iter()? {
            let (key, value) = row?;
            rows.log.insert(key.value(), value.value().to_vec());
        }
        Ok(rows)
    }

    /// Writes all changes in one transaction and waits for the disk. `committed` rides along: it
    /// only saves work after a restart, so it costs no sync of its own.
    pub(super) fn write(&self, changes: &[Change], committed: Option<LogId<u64>>) -> Result<(), redb::Error> {
        let mut write = self.db.begin_write()?;
        write.set_durability(redb::Durability::Immediate).map_err(redb::Error::from)?;
        {
            let mut log = write.open_table(LOG)?;
            let mut meta = write.open_table(META)?;
            for change in changes {
                match change {
                    Change::Append(entries) => {
                        for (index, bytes) in entries {
                            log.insert(index, sealed(bytes).as_slice())?;
                        }
                    }
                    Change::Vote(vote) => {
                        meta.insert("vote", sealed(&encode(vote)).as_slice())?;
                    }
                    Change::Truncate(from) => log.retain_in(*from.., |_, _| false)?,
                    Change::Purge(upto) => {
                        log.retain_in(..=upto.index, |_, _| false)?;
                        meta.insert("purged", sealed(&encode(upto)).as_slice())?;
                    }
                    Change::Snapshot(about, data) => {
                        meta.insert(
                            "snapshot",
                            sealed(&encode(&(about.as_ref().clone(), data.clone()))).as_slice(),
                        )?;
                    }
                }
            }
            // Never beyond what this file has: openraft would look for those entries.
            let last = log.last()?.map(|(index, _)| index.value());
            if let Some(committed) = committed.filter(|committed| Some(committed.index) <= last) {
                meta.insert("committed", sealed(&encode(&committed)).as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// Gives the number of the format in which a store's first row is written.
fn format(row: &[u8]) -> Option<u16> {
    // Before there was an envelope, the number was the first byte.
    match row.first()? {
        old @ 1..=2 => Some(u16::from(*old)),
        _ => proto::wire::version(row),
    }
}

fn refusal(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    let damaged = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    match error {
        redb::Error::Io(error) if damaged.contains(&error.kind()) => {
            StoreError::Corrupt { path, what: error.to_string() }
        }
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path),
        redb::Error::Io(_) | redb::Error::PreviousIo => StoreError::Open { path, source: Box::new(error) },
        error => StoreError::Corrupt { path, what: error.to_string() },
    }
}

fn load(node: u64, rows: &Rows) -> Result<Loaded, Flaw> {
    let meta = &rows.meta;
    let mut log = BTreeMap::new();
    for (index, row) in &rows.log {
        let record: Record = read(row).map_err(|flaw| flaw.of(&format!("log entry {index}")))?;
        if record.log_id.index != *index {
            return Err(format!("log entry {index} says that it is {}", record.log_id.index).into());
        }
        log.insert(*index, record);
    }
    let purged: Option<LogId<u64>> = value(meta, "purged")?;
    let vote: Option<Vote<u64>> = value(meta, "vote")?;
    let snapshot: Option<(SnapshotMeta<u64, Voter>, Vec<u8>)> = value(meta, "snapshot")?;
    if let (Some(first), Some(last)) = (log.keys().next(), log.keys().last()) {
        let expected = purged.map_or(*first, |purged| purged.index + 1);
        if *first != expected || last - first + 1 != log.len() as u64 {
            return Err("the log has a gap".into());
        }
    }
    let covered = snapshot.as_ref().and_then(|(about, _)| about.last_log_id);
    if purged.is_some_and(|purged| covered.is_none_or(|covered| covered < purged)) {
        return Err("the log was purged beyond the snapshot".into());
    }
    Ok(Loaded { node, vote, committed: value(meta, "committed")?, purged, log, snapshot })
}

fn value<T: Written>(meta: &BTreeMap<String, Vec<u8>>, key: &str) -> Result<Option<T>, Flaw> {
    let Some(row) = meta.get(key) else { return Ok(None) };
    read(row).map(Some).map_err(|flaw| flaw.of(key))
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut row = blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES].to_vec();
    row.extend_from_slice(bytes);
    row
}

fn read<T: Written>(row: &[u8]) -> Result<T, Flaw> {
    Ok(stored(unsealed(row)?)?)
}

fn unsealed(row: &[u8]) -> Result<&[u8], Flaw> {
    let (sum, bytes) = row.split_at_checked(CHECKSUM_BYTES).ok_or("too short")?;
    if blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES] != *sum {
        return Err("the checksum differs".into());
    }
    Ok(bytes)
}
