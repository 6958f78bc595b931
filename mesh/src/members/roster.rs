//! The statements this host knows, in memory and on disk, and the member list that follows from them.
//! One set stands behind the endpoint gate, the relay's admission and everything that asks
//! "is this a member?". Nothing here sends.

use std::sync::Arc;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use proto::{
    id::{Digest, HostId, Name},
    seal::Seed,
    time::Timestamp,
    trust::{ClockError, Member, MemberSet, RefusedBecause, Sealed, Statement, Statements, clock_error},
    wire,
};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    disk,
    identity::{self, Identity},
};

/// The member list with what it was made from.
#[derive(Clone, Debug)]
pub struct Roll {
    /// Every statement.
    pub set: MemberSet,
    /// Every member, by id.
    pub members: BTreeMap<HostId, Member>,
}

impl Roll {
    fn of(set: MemberSet) -> Arc<Roll> {
        Arc::new(Roll { members: set.members(), set })
    }

    /// Gives the issuers' labels.
    pub fn issuers(&self) -> Vec<Name> {
        self.members.values().filter(|member| member.is_issuer()).map(|member| member.name.clone()).collect()
    }
}

/// Why a statement of this host was not made.
#[derive(Debug, thiserror::Error)]
pub enum SayError {
    /// The statements that are here speak against it.
    #[error("the statement was not accepted: {0}")]
    Refused(#[from] RefusedBecause),
    /// It could not be written down; nobody has heard it.
    #[error("the statement cannot be stored")]
    Store(#[source] io::Error),
}

impl SayError {
    /// Writes it with its cause, for those who get words only.
    pub(crate) fn in_full(&self) -> String {
        match self {
            SayError::Refused(_) => self.to_string(),
            SayError::Store(error) => format!("{self}: {error}"),
        }
    }
}

/// The owner of the set.
#[derive(Debug)]
pub(crate) struct Roster {
    path: PathBuf,
    roll: watch::Sender<Arc<Roll>>,
    /// Makes changes one at a time, the write to disk included.
    changing: Mutex<Disk>,
    /// How far each member's clock is beyond the time since this computer started, as heard last.
    clocks: watch::Sender<BTreeMap<HostId, i64>>,
}

/// How the file is, compared with what is known.
#[derive(Debug, Default)]
struct Disk {
    /// What others said is known here and not in the file.
    behind: bool,
}

impl Roster {
    /// Reads the set from disk.
    pub(crate) fn load(identity: &Identity) -> Result<Roster, identity::IdentityError> {
        let path = identity::statements_file(&identity.data);
        let file = |source| identity::IdentityError::File { path: path.clone(), source };
        let bytes = disk::read(&path).map_err(file)?.unwrap_or_default();
        let sealed: Vec<Sealed> = match bytes.is_empty() {
            true => Vec::new(),
            false => {
                let damaged = || identity::IdentityError::Damaged(path.clone());
                let stored: Statements = wire::decode(&bytes, usize::MAX).map_err(|_| damaged())?;
                stored.unpack().map_err(|_| damaged())?
            }
        };
        let mut set = MemberSet::new(identity.mesh);
        let (_, refused) = set.apply_all(sealed, Clock.timestamp());
        for because in refused {
            tracing::warn!(%because, "a stored statement is not accepted any more");
        }
        Ok(Roster {
            path,
            roll: watch::Sender::new(Roll::of(set)),
            changing: Mutex::default(),
            clocks: Default::default(),
        })
    }

    /// Watches the member list.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Roll>> {
        self.roll.subscribe()
    }

    /// Gives the member list as it is.
    pub(crate) fn roll(&self) -> Arc<Roll> {
        self.roll.borrow().clone()
    }

    /// Takes statements from others. Returns how many were new, and how many were refused.
    pub(crate) fn take(&self, sealed: Vec<Sealed>) -> (usize, usize) {
        let mut disk = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = self.roll().set.clone();
        let (new, refused) = set.apply_all(sealed, self.now());
        if let Some(because) = refused.first() {
            tracing::debug!(%because, count = refused.len(), "statements refused");
        }
        if new > 0 {
            self.learn(&mut disk, set);
        }
        (new, refused.len())
    }

    /// Says something ourselves: it is on disk before anybody hears it, or it is not said.
    pub(crate) fn say(&self, statement: &Statement, seed: &Seed) -> Result<(), SayError> {
        let mut disk = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = self.roll().set.clone();
        if set.apply(statement.seal(set.mesh(), seed), self.now())? {
            set.prune(self.now());
            self.store(&set).map_err(SayError::Store)?;
            disk.behind = false;
            self.roll.send_replace(Roll::of(set));
        }
        Ok(())
    }

    /// Takes note of what others said. It is true whether or not it can be written down here: an
    /// eviction must not wait for room on a disk, and whoever said it keeps it.
    fn learn(&self, disk: &mut Disk, mut set: MemberSet) {
        set.prune(self.now());
        self.write_down(disk, &set);
        self.roll.send_replace(Roll::of(set));
    }

    /// Writes what an earlier try could not. Called now and then.
    pub(crate) fn catch_up(&self) {
        let mut disk = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.behind {
            self.write_down(&mut disk, &self.roll().set);
        }
    }

    /// Tells a failure once, until it has passed.
    fn write_down(&self, disk: &mut Disk, set: &MemberSet) {
        match self.store(set) {
            Ok(()) if std::mem::take(&mut disk.behind) => tracing::info!("the statements are stored again"),
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut disk.behind, true) => {
                tracing::error!(%error, "cannot store the statements; they are kept in memory and tried again");
            }
            Err(_) => {}
        }
    }

    fn store(&self, set: &MemberSet) -> io::Result<()> {
        disk::replace(&self.path, &wire::encode(&Statements::of(&set.all())))
    }

    /// Gives the mesh's time: the own clock, but never before what an issuer has signed.
    pub(crate) fn now(&self) -> Timestamp {
        Clock.timestamp().max(self.roll.borrow().set.floor())
    }

    /// Notes what a member's clock says now.
    pub(crate) fn hear_clock(&self, host: HostId, time: Timestamp) {
        let roll = self.roll();
        self.clocks.send_modify(|clocks| {
            clocks.retain(|host, _| roll.members.contains_key(host));
            clocks.insert(host, i64::try_from(time.0).unwrap_or(i64::MAX).saturating_sub(since_boot()));
        });
    }

    /// Tells whether this host's clock is off, by the clocks of `connected` members and what issuers have signed.
    pub(crate) fn clock_error(&self, connected: &BTreeSet<HostId>) -> Option<ClockError> {
        let (clocks, boot) = (self.clocks.borrow(), since_boot());
        let heard = clocks.iter().filter(|(host, _)| connected.contains(*host));
        let now =
            |(_, beyond): (&HostId, &i64)| Timestamp(u64::try_from(beyond.saturating_add(boot)).unwrap_or(0));
        let heard: Vec<Timestamp> = heard.map(now).collect();
        clock_error(Clock.timestamp(), &heard, self.roll().set.floor())
    }

    /// Gives the statements that a host with `theirs` lacks.
    pub(crate) fn beyond(&self, theirs: &[Sealed]) -> Vec<Sealed> {
        let theirs: BTreeSet<Digest> = theirs.iter().map(Sealed::digest).collect();
        self.roll().set.beyond(&theirs)
    }
}

/// Counts milliseconds since this computer started, through every sleep.
fn since_boot() -> i64 {
    i64::try_from(Clock.moment().0).unwrap_or(i64::MAX)
}

/// Encodes statements for the wire.
pub(crate) fn pack(statements: &[Sealed]) -> Vec<Vec<u8>> {
    statements.iter().map(Sealed::encode).collect()
}

/// Reads statements from the wire; what cannot be read is left out.
pub(crate) fn unpack(packed: &[Vec<u8>]) -> Vec<Sealed> {
    packed.iter().filter_map(|bytes| Sealed::decode(bytes).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::trust::{Grant, Revocation};

    use super::*;
    use crate::Founding;

    fn founding(name: &str) -> Founding {
        let (name, mesh_name) = (name.parse().unwrap(), "home".parse().unwrap());
        Founding { name, mesh_name, tags: BTreeMap::new(), recovery: None }
    }

    fn grant(seed: u8) -> Statement {
        let made = Clock.timestamp();
        Statement::Grant(Grant {
            token: Seed([seed; 32]).public(),
            made,
            expires: made.plus_ms(60_000),
            max_uses: 1,
            capabilities: proto::trust::Capabilities::NONE,
            tags: BTreeMap::new(),
        })
    }

    #[test]
    fn what_this_host_says_is_stored_or_not_said_and_what_others_say_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, _) = identity::create(dir.path(), founding("nas"), Clock.timestamp()).unwrap();
        let roster = Roster::load(&identity).unwrap();
        roster.say(&grant(1), &identity.seed).unwrap();
        // A directory in the place of the file that is written first: no write succeeds.
        let beside = identity::statements_file(dir.path()).with_extension("new");
        fs::create_dir(&beside).unwrap();
        let error = roster.say(&grant(2), &identity.seed).unwrap_err();
        assert!(matches!(error, SayError::Store(_)), "{error}");
        assert!(error.in_full().contains("statements"), "{}", error.in_full());
        assert_eq!(roster.roll().set.grants().len(), 1, "nobody heard what is not stored");

        let revoked = Revocation { token: Seed([1; 32]).public(), made: Clock.timestamp() };
        let sealed = Statement::Revocation(revoked).seal(roster.roll().set.mesh(), &identity.seed);
        let before = roster.roll().set.all().len();
        assert_eq!(roster.take(vec![sealed]), (1, 0));
        assert_eq!(roster.roll().set.all().len(), before + 1, "it holds although it is not stored");
        roster.catch_up();
        fs::remove_dir(&beside).unwrap();
        roster.catch_up();
        let again = Roster::load(&identity).unwrap();
        assert_eq!(again.roll().set.all().len(), before + 1, "it was written once it could be");
    }
}
