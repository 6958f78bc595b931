//! The statements this host knows, in memory and on disk, and the member list that follows from them.
//! One set stands behind the endpoint gate, the relay's admission and everything that asks
//! "is this a member?". Nothing here sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{
    id::{Digest, HostId, Name},
    seal::Seed,
    time::{Moment, Timestamp},
    trust::{
        Capability, ClockError, Member, MemberSet, Out, RefusedBecause, Sealed, Statement, Statements,
        clock_error, mesh_time,
    },
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
    /// Every host that is a member no more, by id.
    pub out: BTreeMap<HostId, Out>,
}

impl Roll {
    fn of(set: MemberSet) -> Arc<Roll> {
        let out = set.out().filter_map(|(host, _)| Some((host, set.departed(&host)?))).collect();
        Arc::new(Roll { members: set.members(), out, set })
    }

    /// Tells whether a host is a member whose certificate lets it do this.
    pub fn may(&self, host: HostId, what: Capability) -> bool {
        self.members.get(&host).is_some_and(|member| member.may(what))
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
    changing: Mutex<Changing>,
    /// What members' clocks showed when they were heard last.
    clocks: Mutex<BTreeMap<HostId, Heard>>,
}

/// What a clock showed, and when that was.
#[derive(Clone, Copy, Debug)]
struct Heard {
    showed: Timestamp,
    at: Moment,
}

/// What a clock showed so long ago says nothing any more: it may have been set since.
const HEARD_FOR: Duration = Duration::from_secs(3600);

/// Bytes of statements in one message: far below what a request may have, and a slow connection carries it in time.
const PACKED_BYTES: usize = 256 * 1024;

/// What a change leaves behind.
#[derive(Debug, Default)]
struct Changing {
    /// What others said is known here and not in the file.
    behind: bool,
    /// What is new since it was last asked for, and who told it.
    news: BTreeMap<Digest, Option<HostId>>,
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
    pub(crate) fn take(&self, sealed: Vec<Sealed>, from: Option<HostId>) -> (usize, usize) {
        if sealed.is_empty() {
            return (0, 0);
        }
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = self.roll().set.clone();
        let (new, refused) = set.apply_all(sealed, self.now());
        if let Some(because) = refused.first() {
            tracing::debug!(%because, count = refused.len(), "statements refused");
        }
        if new > 0 {
            self.learn(&mut changing, set, from);
        }
        (new, refused.len())
    }

    /// Says something ourselves: it is on disk before anybody hears it, or it is not said.
    pub(crate) fn say(&self, statement: &Statement, seed: &Seed) -> Result<(), SayError> {
        self.say_all(&[(statement.clone(), seed)])
    }

    /// Says several things at once: all of them, or none.
    pub(crate) fn say_all(&self, statements: &[(Statement, &Seed)]) -> Result<(), SayError> {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = self.roll().set.clone();
        let mut changed = false;
        for (statement, seed) in statements {
            changed |= set.apply(statement.seal(set.mesh(), seed), self.now())?;
        }
        if changed {
            set.prune(self.now());
            self.store(&set).map_err(SayError::Store)?;
            changing.behind = false;
            self.show(&mut changing, set, None);
        }
        Ok(())
    }

    /// Takes note of what others said. It is true whether or not it can be written down here: an
    /// eviction must not wait for room on a disk, and whoever said it keeps it.
    fn learn(&self, changing: &mut Changing, mut set: MemberSet, from: Option<HostId>) {
        set.prune(self.now());
        self.write_down(changing, &set);
        self.show(changing, set, from);
    }

    fn show(&self, changing: &mut Changing, set: MemberSet, from: Option<HostId>) {
        let new = set.since(&self.roll().set);
        changing.news.extend(new.into_iter().map(|digest| (digest, from)));
        self.roll.send_replace(Roll::of(set));
    }

    /// Gives what is new since it was last asked for, by who told it; nobody when this host said it.
    pub(crate) fn news(&self) -> BTreeMap<Option<HostId>, Vec<Digest>> {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_teller: BTreeMap<Option<HostId>, Vec<Digest>> = BTreeMap::new();
        for (digest, teller) in std::mem::take(&mut changing.news) {
            by_teller.entry(teller).or_default().push(digest);
        }
        by_teller
    }

    /// Writes what an earlier try could not. Called now and then.
    pub(crate) fn catch_up(&self) {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if changing.behind {
            self.write_down(&mut changing, &self.roll().set);
        }
    }

    /// Tells a failure once, until it has passed.
    fn write_down(&self, changing: &mut Changing, set: &MemberSet) {
        match self.store(set) {
            Ok(()) if std::mem::take(&mut changing.behind) => {
                tracing::info!("the statements are stored again")
            }
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut changing.behind, true) => {
                tracing::error!(%error, "cannot store the statements; they are kept in memory and tried again");
            }
            Err(_) => {}
        }
    }

    fn store(&self, set: &MemberSet) -> io::Result<()> {
        disk::replace(&self.path, &wire::encode(&Statements::of(&set.all())))
    }

    /// Gives the mesh's time.
    pub(crate) fn now(&self) -> Timestamp {
        let heard = self.heard(|_| true);
        mesh_time(Clock.timestamp(), &heard, &self.roll.borrow().set)
    }

    /// Notes what a member's clock shows now.
    pub(crate) fn hear_clock(&self, host: HostId, showed: Timestamp) {
        let (roll, at) = (self.roll(), Clock.moment());
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.retain(|host, heard| roll.members.contains_key(host) && at.since(heard.at) < HEARD_FOR);
        if roll.members.contains_key(&host) {
            clocks.insert(host, Heard { showed, at });
        }
    }

    /// Gives what the clocks of these members show now, if they ran on.
    fn heard(&self, is_meant: impl Fn(&HostId) -> bool) -> Vec<Timestamp> {
        let (clocks, now) = (self.clocks.lock().unwrap_or_else(PoisonError::into_inner), Clock.moment());
        let meant = clocks.iter().filter(|(host, heard)| is_meant(host) && now.since(heard.at) < HEARD_FOR);
        meant.map(|(_, heard)| heard.showed.plus_ms(now.since_ms(heard.at))).collect()
    }

    /// Tells whether this host's clock is off, by the clocks of `connected` members and what issuers have signed.
    pub(crate) fn clock_error(&self, connected: &BTreeSet<HostId>) -> Option<ClockError> {
        let heard = self.heard(|host| connected.contains(host));
        clock_error(Clock.timestamp(), &heard, &self.roll().set)
    }
}

/// Encodes statements for the wire: of the first ones as many as one message holds.
pub(crate) fn pack(statements: &[Sealed]) -> Vec<Vec<u8>> {
    let mut left = PACKED_BYTES;
    let packed = statements.iter().map(Sealed::encode).enumerate();
    let fitting = packed.take_while(|(index, bytes)| {
        let fits = *index == 0 || bytes.len() <= left;
        left = left.saturating_sub(bytes.len());
        fits
    });
    fitting.map(|(_, bytes)| bytes).collect()
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
        Founding { name, mesh_name, tags: BTreeMap::new() }
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
            may: proto::trust::May::ALL,
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
        assert_eq!(roster.take(vec![sealed], None), (1, 0));
        assert_eq!(roster.roll().set.all().len(), before + 1, "it holds although it is not stored");
        roster.catch_up();
        fs::remove_dir(&beside).unwrap();
        roster.catch_up();
        let again = Roster::load(&identity).unwrap();
        assert_eq!(again.roll().set.all().len(), before + 1, "it was written once it could be");
    }
}
