//! The set of statements that members exchange, and who is a member by it. The set only grows
//! better: whatever order statements arrive in, two hosts with the same ones agree. Nobody's word
//! counts before its signer is the root or a member, so strangers cannot fill the set.
//!
//! Authority: the root may say everything; an issuer may admit, grant, revoke, rename, and put plain
//! members out, but neither make nor unmake issuers; a member may announce sessions, rename itself and
//! leave. The root's word about a host beats an issuer's, whatever the serial. `out` says who belongs to
//! the mesh no more, and what is left of its words.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use crate::{
    id::{Digest, HostId, MeshId, Name, SessionId},
    limits::{MAX_STATEMENT_BYTES, MAX_STATEMENTS},
    seal::{PublicKey, SealError},
    time::Timestamp,
    trust::{
        may::{Capability, May},
        statement::{Capabilities, Sealed, Statement},
    },
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a member's certificate lasts. Renewed daily, so a month offline is no problem.
pub const CERTIFICATE_MS: u64 = 30 * DAY_MS;
/// Home clocks are wrong; a day is more than summer time and a missing clock battery's drift.
pub const CLOCK_TOLERANCE_MS: u64 = DAY_MS;
/// How long an expired grant is kept, so that `token list` can still explain it.
const GRANT_KEPT_MS: u64 = 30 * DAY_MS;
/// Statements of one issuer: all of the largest mesh, four times over.
const MAX_PER_ISSUER: usize = MAX_STATEMENTS / 5;
/// Statements of one plain member, which only begins and ends sessions.
const MAX_PER_MEMBER: usize = 500;
/// Statements of kinds that this version does not know, of one signer: what a later version says of it.
const MAX_UNKNOWN: usize = 64;
/// Statements of one signer of sessions that have ended: they are dropped by themselves.
const MAX_ENDED: usize = MAX_STATEMENTS / 4;
/// Certificates of one host with one serial: two issuers at both sides of a partition, twice.
const MAX_SAME_SERIAL: usize = 4;

/// The start of a statement's digest, by which two sets are compared. Two statements with one name are never told
/// apart here; to make a second one for a given name takes longer than the mesh will live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Short(#[cbor(n(0), with = "minicbor::bytes")] [u8; 8]);

impl Short {
    /// Names the statement with this digest.
    pub fn of(digest: &Digest) -> Short {
        let mut short = Short::default();
        short.0.copy_from_slice(&digest.0[..8]);
        short
    }
}

/// A host that belongs to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub host: HostId,
    /// Its label, unique in the mesh: of two hosts with one label, the later is NAME-xxxx.
    pub name: Name,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it may admit others.
    pub capabilities: Capabilities,
    /// What it may do beside being a member.
    pub may: May,
    /// The key that signed its certificate: the root or an issuer.
    pub signer: PublicKey,
    /// The token it joined by.
    pub grant: Option<PublicKey>,
    /// When it became a member.
    pub since: Timestamp,
    /// When its certificate was signed.
    pub not_before: Timestamp,
    /// When its certificate ends; it stays a member, for only an eviction cuts it off.
    pub not_after: Option<Timestamp>,
}

impl Member {
    /// Tells whether it may admit others.
    pub fn is_issuer(&self) -> bool {
        self.capabilities.may_issue()
    }

    /// Tells whether it may do this.
    pub fn may(&self, what: Capability) -> bool {
        self.may.has(what)
    }
}

/// Whether a token lets anyone in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// It does, this many more hosts.
    Live {
        /// Hosts that may still join by it.
        left: u32,
    },
    /// It was made by a clock that was more than the tolerance ahead.
    NotYet,
    /// Its time is over.
    Expired,
    /// An issuer ended it.
    Revoked,
    /// As many hosts as allowed have joined by it.
    UsedUp,
    /// No grant for it is known here.
    Unknown,
}

/// Why a statement was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedBecause {
    /// Its bytes or its signature are wrong.
    #[error("the statement is invalid")]
    Invalid(#[from] SealError),
    /// The signer is neither the root nor a member.
    #[error("the signer is no member")]
    UnknownSigner,
    /// The signer is a member but may not say this.
    #[error("the signer may not say this")]
    NotIssuer,
    /// Only the root may say this.
    #[error("only the root key may say this")]
    OnlyRoot,
    /// A certificate of a plain member that lasts longer than allowed.
    #[error("the certificate lasts longer than a member's may")]
    TooLong,
    /// It was made at a time that is still to come.
    #[error("the statement is of a time that is still to come")]
    Early,
    /// The birth of a session that another host started.
    #[error("the session was started by another host")]
    NotItsOwn,
    /// The end of a session that no operator ended.
    #[error("no operator ended the session")]
    Unsigned,
    /// The set, or the signer's part of it, is full.
    #[error("there are too many statements")]
    Full,
}

mod authority;
mod ends;
mod out;
mod view;

pub use out::Out;

/// What a set holds one of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Charter,
    Host(HostId),
    Grant(PublicKey),
    Revocation(PublicKey),
    Genesis(SessionId),
    Tombstone(SessionId),
    Eviction(HostId),
    Rename(HostId),
    Possession(HostId),
    Unknown(Digest),
}

/// Orders the statements of one slot: the root before others, then the statement's own count.
type Rank = (bool, u64);

#[derive(Clone, Debug)]
struct Kept {
    rank: Rank,
    digest: Digest,
    sealed: Sealed,
    statement: Statement,
}

/// Everything that is known of a mesh.
#[derive(Clone, Debug)]
pub struct MemberSet {
    mesh: MeshId,
    slots: BTreeMap<Slot, Vec<Kept>>,
    known: BTreeSet<Digest>,
}

impl MemberSet {
    /// Makes the empty set of a mesh.
    pub fn new(mesh: MeshId) -> MemberSet {
        MemberSet { mesh, slots: BTreeMap::new(), known: BTreeSet::new() }
    }

    /// Gives the mesh.
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// Takes a statement. Returns whether it changed the set; known and outdated ones do not.
    pub fn apply(&mut self, sealed: Sealed, now: Timestamp) -> Result<bool, RefusedBecause> {
        let bytes = sealed.encode();
        if bytes.len() > MAX_STATEMENT_BYTES {
            let limit = MAX_STATEMENT_BYTES;
            return Err(SealError::TooLarge { have: bytes.len(), limit }.into());
        }
        let digest = Digest::of(&bytes);
        if self.known.contains(&digest) {
            return Ok(false);
        }
        // Cheap before dear: nobody unknown makes us check a signature.
        let by_root = self.is_root(&sealed.signer);
        if !by_root && self.certificates(HostId(sealed.signer)).is_empty() {
            return Err(RefusedBecause::UnknownSigner);
        }
        let statement = sealed.open(self.mesh)?;
        self.authorise(&statement, &sealed.signer, now)?;
        if outlived(&statement, now) || self.is_over(&statement, now) {
            return Ok(false);
        }
        let subject = subject(&statement);
        let before = subject.map(|host| self.rights(host));
        let born = match &statement {
            Statement::Genesis(genesis) => Some(genesis.session),
            _ => None,
        };
        let kept = self.keep(Kept { rank: rank(&statement, by_root), digest, sealed, statement })?;
        if let Some(session) = born {
            self.settle_end(session);
        }
        if let (Some(host), Some(before)) = (subject, before)
            && self.rights(host) != before
        {
            self.settle(host);
            return Ok(self.known.contains(&digest));
        }
        Ok(kept)
    }

    /// Takes many statements in any order. Returns how many changed the set, and the refusals.
    pub fn apply_all(&mut self, mut many: Vec<Sealed>, now: Timestamp) -> (usize, Vec<RefusedBecause>) {
        // Issuers are made by the root alone, and members by issuers or the root: after this
        // order every signer is known before its word is needed.
        self.sort(&mut many);
        let (mut changed, mut refused) = (0, Vec::new());
        for sealed in many {
            match self.apply(sealed, now) {
                Ok(new) => changed += usize::from(new),
                Err(because) => refused.push(because),
            }
        }
        (changed, refused)
    }

    /// Forgets grants that ended long ago, and sessions of which nobody has anything any more.
    pub fn prune(&mut self, now: Timestamp) {
        self.slots.retain(|_, kept| kept.iter().all(|kept| !outlived(&kept.statement, now)));
        self.forget_sessions(now);
        self.known = self.kept().map(|kept| kept.digest).collect();
    }

    /// Gives every statement, in an order in which [`MemberSet::apply`] takes them all.
    pub fn all(&self) -> Vec<Sealed> {
        self.chosen(|_| true)
    }

    /// Gives the statements with these digests, as far as they are here.
    pub fn some(&self, wanted: &BTreeSet<Digest>) -> Vec<Sealed> {
        self.chosen(|digest| wanted.contains(digest))
    }

    /// Gives the statements with these short names.
    pub fn named(&self, wanted: &BTreeSet<Short>) -> Vec<Sealed> {
        self.chosen(|digest| wanted.contains(&Short::of(digest)))
    }

    /// Gives the short names of all statements, for another host to compare.
    pub fn names(&self) -> Vec<Short> {
        self.known.iter().map(Short::of).collect()
    }

    /// Compares with a host that has `theirs`: gives the statements that it lacks, and the names of those that lack
    /// here.
    pub fn differences(&self, theirs: &BTreeSet<Short>) -> (Vec<Sealed>, Vec<Short>) {
        let ours: BTreeSet<Short> = self.known.iter().map(Short::of).collect();
        let given = self.chosen(|digest| !theirs.contains(&Short::of(digest)));
        (given, theirs.difference(&ours).copied().collect())
    }

    /// Gives the digests of what is here and not in `before`.
    pub fn since(&self, before: &MemberSet) -> Vec<Digest> {
        self.known.difference(&before.known).copied().collect()
    }

    fn chosen(&self, is_chosen: impl Fn(&Digest) -> bool) -> Vec<Sealed> {
        let mut chosen: Vec<&Kept> = self.kept().filter(|kept| is_chosen(&kept.digest)).collect();
        chosen.sort_by_key(|kept| ends::order(kept));
        let mut chosen: Vec<Sealed> = chosen.into_iter().map(|kept| kept.sealed.clone()).collect();
        self.sort(&mut chosen);
        chosen
    }

    fn sort(&self, many: &mut [Sealed]) {
        many.sort_by_key(|sealed| (!self.is_root(&sealed.signer), sealed.kind != 1));
    }

    /// Gives a hash over the set: two hosts with equal ones have nothing to exchange.
    pub fn summary(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for digest in &self.known {
            hasher.update(&digest.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// Gives the latest time, `until` at most, that the root or an issuer signed.
    pub fn latest(&self, until: Timestamp) -> Timestamp {
        let signed = self.kept().map(|kept| made(&kept.statement));
        signed.filter(|made| *made <= until).max().unwrap_or_default()
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.slots.values().flatten()
    }

    fn certificates(&self, host: HostId) -> &[Kept] {
        self.slots.get(&Slot::Host(host)).map_or(&[], Vec::as_slice)
    }

    /// Drops the end of a session that came before its birth and does not count by it.
    fn settle_end(&mut self, session: SessionId) {
        let slot = Slot::Tombstone(session);
        if self.slots.get(&slot).is_some_and(|kept| !kept.iter().any(|kept| self.ends(kept))) {
            let gone = self.slots.remove(&slot).unwrap_or_default();
            for kept in gone {
                self.known.remove(&kept.digest);
            }
        }
    }

    /// Puts a statement into its slot if it ranks there, best first.
    fn keep(&mut self, new: Kept) -> Result<bool, RefusedBecause> {
        let slot = slot(&new);
        let most = if matches!(slot, Slot::Host(_)) { MAX_SAME_SERIAL } else { 1 };
        let best = self.slots.get(&slot).and_then(|kept| kept.first()).map(|kept| kept.rank);
        if best.is_some_and(|best| best > new.rank) {
            return Ok(false);
        }
        // There are no more of these than there are certificates, and nobody must be kept from saying them.
        let due = matches!(slot, Slot::Eviction(host) if !self.certificates(host).is_empty());
        if best.is_none() && !due {
            self.check_quota(&new.sealed.signer, &slot)?;
        }
        let digest = new.digest;
        let kept = self.slots.entry(slot).or_default();
        for old in kept.iter() {
            self.known.remove(&old.digest);
        }
        kept.retain(|old| old.rank == new.rank);
        kept.push(new);
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.digest));
        kept.truncate(most);
        self.known.extend(kept.iter().map(|kept| kept.digest));
        Ok(self.known.contains(&digest))
    }

    /// Tells whether a signer may fill one more slot. The root always may: nobody else's words keep it from
    /// admitting, revoking and putting things right.
    fn check_quota(&self, signer: &PublicKey, slot: &Slot) -> Result<(), RefusedBecause> {
        if self.is_root(signer) {
            return Ok(());
        }
        let own = || self.slots.iter().filter(|(_, kept)| kept.iter().any(|k| k.sealed.signer == *signer));
        // What is left of sessions that ended keeps nobody from beginning others.
        if self.is_of_ended(slot) {
            let ended = own().filter(|(slot, _)| self.is_of_ended(slot)).count();
            let is_full = self.slots.len() >= MAX_STATEMENTS || ended >= MAX_ENDED;
            return if is_full { Err(RefusedBecause::Full) } else { Ok(()) };
        }
        let own = || own().filter(|(slot, _)| !self.is_of_ended(slot));
        let most = if self.may_issue(HostId(*signer)) { MAX_PER_ISSUER } else { MAX_PER_MEMBER };
        let unknown = |slot: &Slot| matches!(slot, Slot::Unknown(_));
        let is_full = self.slots.len() >= MAX_STATEMENTS
            || own().count() >= most
            || (unknown(slot) && own().filter(|(slot, _)| unknown(slot)).count() >= MAX_UNKNOWN);
        if is_full { Err(RefusedBecause::Full) } else { Ok(()) }
    }
}

fn slot(new: &Kept) -> Slot {
    match &new.statement {
        Statement::Charter(_) => Slot::Charter,
        Statement::Certificate(certificate) => Slot::Host(certificate.host),
        Statement::Grant(grant) => Slot::Grant(grant.token),
        Statement::Revocation(revocation) => Slot::Revocation(revocation.token),
        Statement::Genesis(genesis) => Slot::Genesis(genesis.session),
        Statement::Tombstone(tombstone) => Slot::Tombstone(tombstone.session),
        Statement::Eviction(eviction) => Slot::Eviction(eviction.host),
        Statement::Rename(rename) => Slot::Rename(rename.host),
        // Each speaks of itself.
        Statement::Possession(_) => Slot::Possession(HostId(new.sealed.signer)),
        Statement::Unknown { .. } => Slot::Unknown(new.digest),
    }
}

fn rank(statement: &Statement, by_root: bool) -> Rank {
    let count = match statement {
        Statement::Charter(charter) => charter.made.0,
        Statement::Certificate(certificate) => certificate.serial,
        Statement::Grant(grant) => grant.made.0,
        // Of two births of one session the earlier is the true one.
        Statement::Genesis(genesis) => u64::MAX - genesis.stamp.0,
        Statement::Eviction(eviction) => out::rank(eviction),
        Statement::Rename(rename) => rename.made.0,
        Statement::Possession(possession) => possession.made.0,
        // One that an operator signed stands above one that anybody can write.
        Statement::Tombstone(tombstone) => u64::from(tombstone.is_signed()),
        Statement::Revocation(_) | Statement::Unknown { .. } => 0,
    };
    (by_root, count)
}

fn made(statement: &Statement) -> Timestamp {
    match statement {
        Statement::Charter(charter) => charter.made,
        Statement::Certificate(certificate) => certificate.not_before,
        Statement::Grant(grant) => grant.made,
        Statement::Revocation(revocation) => revocation.made,
        // What a plain member may say moves no time of the mesh.
        Statement::Genesis(_)
        | Statement::Tombstone(_)
        | Statement::Eviction(_)
        | Statement::Rename(_)
        | Statement::Possession(_)
        | Statement::Unknown { .. } => Timestamp(0),
    }
}

/// Gives the host whose rights a statement may change.
fn subject(statement: &Statement) -> Option<HostId> {
    match statement {
        Statement::Certificate(certificate) => Some(certificate.host),
        Statement::Eviction(eviction) => Some(eviction.host),
        _ => None,
    }
}

fn outlived(statement: &Statement, now: Timestamp) -> bool {
    matches!(statement, Statement::Grant(grant) if now > grant.expires.plus_ms(GRANT_KEPT_MS))
}
