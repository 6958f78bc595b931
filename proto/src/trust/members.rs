//! The set of statements that members exchange, and who is a member by it. The set only grows
//! better: whatever order statements arrive in, two hosts with the same ones agree. Nobody's word
//! counts before its signer is the root or a member, so strangers cannot fill the set.
//!
//! Authority: the root may say everything; an issuer may admit, grant and revoke, but neither make
//! nor unmake issuers; a member may announce sessions. The root's word about a host beats an
//! issuer's, whatever the serial.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{Digest, HostId, MeshId, Name, SessionId},
    limits::{MAX_STATEMENT_BYTES, MAX_STATEMENTS},
    seal::{PublicKey, SealError},
    time::Timestamp,
    trust::{
        mesh_id,
        statement::{Capabilities, Certificate, Genesis, Grant, Sealed, Statement, Tombstone},
    },
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a member's certificate lasts. Renewed daily, so a month offline is no problem.
pub const CERTIFICATE_MS: u64 = 30 * DAY_MS;
/// Home clocks are wrong; a day is more than summer time and a missing clock battery's drift.
pub const CLOCK_TOLERANCE_MS: u64 = DAY_MS;
/// How long an expired grant is kept, so that `token list` can still explain it.
const GRANT_KEPT_MS: u64 = 30 * DAY_MS;
/// Statements of one signer other than the root: an issuer of the largest mesh, four times over.
const MAX_PER_SIGNER: usize = MAX_STATEMENTS / 5;
/// Certificates of one host with one serial: two issuers at both sides of a partition, twice.
const MAX_SAME_SERIAL: usize = 4;

/// A host that belongs to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub host: HostId,
    /// Its label, unique in the mesh: of two hosts with one label, the later is NAME-xxxx.
    pub name: Name,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// The key that signed its certificate: the root or an issuer.
    pub signer: PublicKey,
    /// The token it joined by.
    pub grant: Option<PublicKey>,
    /// When it became a member.
    pub since: Timestamp,
    /// When its certificate was signed.
    pub not_before: Timestamp,
    /// When its certificate ends; it stays a member, but a stale one.
    pub not_after: Option<Timestamp>,
}

impl Member {
    /// Tells whether it may admit others.
    pub fn is_issuer(&self) -> bool {
        self.capabilities.may_issue()
    }

    /// Tells whether its certificate ended so long ago that no clock error explains it. A stale
    /// member is shown as such and goes on; only an eviction cuts it off.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|end| now.since_ms(end) > CLOCK_TOLERANCE_MS)
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
    /// The set, or the signer's part of it, is full.
    #[error("there are too many statements")]
    Full,
}

/// What a set holds one of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Charter,
    Host(HostId),
    Grant(PublicKey),
    Revocation(PublicKey),
    Genesis(SessionId),
    Tombstone(SessionId),
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
    floor: Timestamp,
}

impl MemberSet {
    /// Makes the empty set of a mesh.
    pub fn new(mesh: MeshId) -> MemberSet {
        MemberSet { mesh, slots: BTreeMap::new(), known: BTreeSet::new(), floor: Timestamp(0) }
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
        self.authorise(&statement, &sealed.signer)?;
        if outlived(&statement, now) {
            return Ok(false);
        }
        let made = made(&statement);
        let may_raise_floor = by_root || made <= now.plus_ms(CLOCK_TOLERANCE_MS);
        let kept = Kept { rank: rank(&statement, by_root), digest, sealed, statement };
        let changed = self.keep(kept)?;
        if changed && may_raise_floor {
            self.floor = self.floor.max(made);
        }
        Ok(changed)
    }

    /// Takes many statements in any order. Returns how many changed the set, and the refusals.
    pub fn apply_all(&mut self, mut many: Vec<Sealed>, now: Timestamp) -> (usize, Vec<RefusedBecause>) {
        // Issuers are made by the root alone, and members by issuers or the root: after this
        // order every signer is known before its word is needed.
        many.sort_by_key(|sealed| (!self.is_root(&sealed.signer), sealed.kind != 1));
        let (mut changed, mut refused) = (0, Vec::new());
        for sealed in many {
            match self.apply(sealed, now) {
                Ok(new) => changed += usize::from(new),
                Err(because) => refused.push(because),
            }
        }
        (changed, refused)
    }

    /// Forgets grants that ended long ago.
    pub fn prune(&mut self, now: Timestamp) {
        self.slots.retain(|_, kept| kept.iter().all(|kept| !outlived(&kept.statement, now)));
        self.known = self.kept().map(|kept| kept.digest).collect();
    }

    /// Gives every statement, in an order in which [`MemberSet::apply`] takes them all.
    pub fn all(&self) -> Vec<Sealed> {
        let mut all: Vec<Sealed> = self.kept().map(|kept| kept.sealed.clone()).collect();
        all.sort_by_key(|sealed| (!self.is_root(&sealed.signer), sealed.kind != 1));
        all
    }

    /// Gives the statements that a host with `theirs` lacks.
    pub fn beyond(&self, theirs: &BTreeSet<Digest>) -> Vec<Sealed> {
        self.all().into_iter().filter(|sealed| !theirs.contains(&sealed.digest())).collect()
    }

    /// Gives a hash over the set: two hosts with equal ones have nothing to exchange.
    pub fn summary(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for digest in &self.known {
            hasher.update(&digest.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// Gives what proves that `host` is a member: the charter, its certificates and its issuer's.
    pub fn chain(&self, host: HostId) -> Vec<Sealed> {
        let own = self.certificates(host);
        let issuers = own.iter().flat_map(|kept| self.certificates(HostId(kept.sealed.signer)));
        let charter = self.slots.get(&Slot::Charter).into_iter().flatten();
        let mut chain: Vec<Sealed> = Vec::new();
        for kept in charter.chain(issuers).chain(own) {
            if !chain.contains(&kept.sealed) {
                chain.push(kept.sealed.clone());
            }
        }
        chain
    }

    /// Gives the mesh's label, once its charter is known.
    pub fn name(&self) -> Option<&Name> {
        match &self.slots.get(&Slot::Charter)?.first()?.statement {
            Statement::Charter(charter) => Some(&charter.name),
            _ => None,
        }
    }

    /// Gives all members with their unique labels.
    pub fn members(&self) -> BTreeMap<HostId, Member> {
        let hosts = self.slots.keys().filter_map(|slot| match slot {
            Slot::Host(host) => Some(*host),
            _ => None,
        });
        let mut members: BTreeMap<HostId, Member> =
            hosts.filter_map(|host| Some((host, self.member(host)?))).collect();
        let mut owners: BTreeMap<Name, (Timestamp, HostId)> = BTreeMap::new();
        for member in members.values() {
            let claim = (member.since, member.host);
            let owner = owners.entry(member.name.clone()).or_insert(claim);
            *owner = claim.min(*owner);
        }
        for member in members.values_mut() {
            if owners.get(&member.name).is_some_and(|owner| owner.1 != member.host) {
                member.name = suffixed(&member.name, member.host);
            }
        }
        members
    }

    /// Gives one member with the label of its certificate.
    pub fn member(&self, host: HostId) -> Option<Member> {
        let same_serial = self.certificates(host);
        let newest = same_serial.first()?;
        let mut capabilities = Capabilities(u32::MAX);
        for kept in same_serial {
            capabilities = capabilities & certificate(kept)?.capabilities;
        }
        let certificate = certificate(newest)?;
        Some(Member {
            host,
            name: certificate.name.clone(),
            tags: certificate.tags.clone(),
            capabilities,
            signer: newest.sealed.signer,
            grant: certificate.grant,
            since: certificate.since,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        })
    }

    /// Gives a host's current certificate.
    pub fn certificate(&self, host: HostId) -> Option<&Certificate> {
        self.certificates(host).first().and_then(certificate)
    }

    /// Tells whether `host` belongs to the mesh.
    pub fn contains(&self, host: HostId) -> bool {
        !self.certificates(host).is_empty()
    }

    /// Tells whether `host` may admit others.
    pub fn is_issuer(&self, host: HostId) -> bool {
        self.member(host).is_some_and(|member| member.is_issuer())
    }

    /// Tells whether `key` is the mesh's root.
    pub fn is_root(&self, key: &PublicKey) -> bool {
        mesh_id(key) == self.mesh
    }

    /// Gives all grants, the newest first.
    pub fn grants(&self) -> Vec<&Grant> {
        let mut grants: Vec<&Grant> = self.kept().filter_map(|kept| grant(kept)).collect();
        grants.sort_by_key(|grant| (std::cmp::Reverse(grant.made), grant.token));
        grants
    }

    /// Gives the grant of a token.
    pub fn grant(&self, token: &PublicKey) -> Option<&Grant> {
        self.slots.get(&Slot::Grant(*token))?.first().and_then(grant)
    }

    /// Counts the hosts that joined by a token.
    pub fn uses(&self, token: &PublicKey) -> u32 {
        let hosts = self.slots.iter().filter(|(slot, kept)| {
            matches!(slot, Slot::Host(_))
                && kept.first().and_then(certificate).is_some_and(|c| c.grant == Some(*token))
        });
        u32::try_from(hosts.count()).unwrap_or(u32::MAX)
    }

    /// Tells whether a token lets anyone in at `now`.
    pub fn grant_state(&self, token: &PublicKey, now: Timestamp) -> GrantState {
        if self.slots.contains_key(&Slot::Revocation(*token)) {
            return GrantState::Revoked;
        }
        let Some(grant) = self.grant(token) else { return GrantState::Unknown };
        if now >= grant.expires {
            return GrantState::Expired;
        }
        match grant.max_uses.saturating_sub(self.uses(token)) {
            0 => GrantState::UsedUp,
            left => GrantState::Live { left },
        }
    }

    /// Gives the certificate that renews a plain member's, if its own is a day old. The caller
    /// signs it with its host key.
    pub fn renewal(&self, host: HostId, now: Timestamp) -> Option<Certificate> {
        let current = self.certificate(host)?;
        let plain = current.not_after.is_some();
        (plain && now.since_ms(current.not_before) >= DAY_MS).then(|| Certificate {
            serial: current.serial.saturating_add(1),
            not_before: now,
            not_after: Some(now.plus_ms(CERTIFICATE_MS)),
            ..current.clone()
        })
    }

    /// Gives the certificate that makes a member an issuer. The caller signs it with the root key.
    pub fn promotion(&self, host: HostId, now: Timestamp) -> Option<Certificate> {
        let current = self.certificate(host)?;
        Some(Certificate {
            serial: current.serial.saturating_add(1),
            capabilities: Capabilities(current.capabilities.0 | Capabilities::ISSUE.0),
            not_before: now,
            not_after: None,
            ..current.clone()
        })
    }

    /// Lists plain members that joined by a token for issuers: the root's holder promotes them.
    pub fn awaiting_promotion(&self) -> Vec<HostId> {
        let wanted = |host: &HostId| {
            let certificate = self.certificate(*host)?;
            let grant = self.grant(&certificate.grant?)?;
            Some(grant.capabilities.may_issue() && !self.is_issuer(*host))
        };
        self.members().into_keys().filter(|host| wanted(host) == Some(true)).collect()
    }

    /// Gives the births of sessions.
    pub fn geneses(&self) -> impl Iterator<Item = &Genesis> {
        self.kept().filter_map(|kept| match &kept.statement {
            Statement::Genesis(genesis) => Some(genesis),
            _ => None,
        })
    }

    /// Gives the ends of sessions.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.kept().filter_map(|kept| match &kept.statement {
            Statement::Tombstone(tombstone) => Some(tombstone),
            _ => None,
        })
    }

    /// Gives the latest time that the root or an issuer signed: it is not earlier than that now.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.slots.values().flatten()
    }

    fn certificates(&self, host: HostId) -> &[Kept] {
        self.slots.get(&Slot::Host(host)).map_or(&[], Vec::as_slice)
    }

    fn authorise(&self, statement: &Statement, signer: &PublicKey) -> Result<(), RefusedBecause> {
        if self.is_root(signer) {
            return Ok(());
        }
        let issuer = self.is_issuer(HostId(*signer));
        match statement {
            Statement::Charter(_) => Err(RefusedBecause::OnlyRoot),
            Statement::Certificate(_) | Statement::Grant(_) | Statement::Revocation(_) if !issuer => {
                Err(RefusedBecause::NotIssuer)
            }
            Statement::Certificate(c) if c.capabilities.may_issue() => Err(RefusedBecause::OnlyRoot),
            Statement::Grant(grant) if grant.capabilities.may_issue() => Err(RefusedBecause::OnlyRoot),
            Statement::Certificate(c) => {
                let longest = c.not_before.plus_ms(CERTIFICATE_MS);
                if c.not_after.is_some_and(|end| end <= longest) {
                    Ok(())
                } else {
                    Err(RefusedBecause::TooLong)
                }
            }
            _ => Ok(()),
        }
    }

    /// Puts a statement into its slot if it ranks there, best first.
    fn keep(&mut self, new: Kept) -> Result<bool, RefusedBecause> {
        let slot = slot(&new.statement, new.digest);
        let most = if matches!(slot, Slot::Host(_)) { MAX_SAME_SERIAL } else { 1 };
        let best = self.slots.get(&slot).and_then(|kept| kept.first()).map(|kept| kept.rank);
        if best.is_some_and(|best| best > new.rank) {
            return Ok(false);
        }
        if best.is_none() {
            self.check_quota(&new.sealed.signer)?;
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

    fn check_quota(&self, signer: &PublicKey) -> Result<(), RefusedBecause> {
        let own = self.kept().filter(|kept| kept.sealed.signer == *signer).count();
        let full = self.slots.len() >= MAX_STATEMENTS;
        if full || (own >= MAX_PER_SIGNER && !self.is_root(signer)) {
            return Err(RefusedBecause::Full);
        }
        Ok(())
    }
}

/// Gives the mesh's time: the median of the own clock and what members signed just now, but never
/// before `floor`. One wrong clock changes nothing; a host without a clock follows the others.
pub fn mesh_time(own: Timestamp, heard: &[Timestamp], floor: Timestamp) -> Timestamp {
    let mut clocks: Vec<Timestamp> = heard.iter().copied().chain([own]).collect();
    clocks.sort();
    clocks[clocks.len() / 2].max(floor)
}

fn certificate(kept: &Kept) -> Option<&Certificate> {
    match &kept.statement {
        Statement::Certificate(certificate) => Some(certificate),
        _ => None,
    }
}

fn grant(kept: &Kept) -> Option<&Grant> {
    match &kept.statement {
        Statement::Grant(grant) => Some(grant),
        _ => None,
    }
}

fn slot(statement: &Statement, digest: Digest) -> Slot {
    match statement {
        Statement::Charter(_) => Slot::Charter,
        Statement::Certificate(certificate) => Slot::Host(certificate.host),
        Statement::Grant(grant) => Slot::Grant(grant.token),
        Statement::Revocation(revocation) => Slot::Revocation(revocation.token),
        Statement::Genesis(genesis) => Slot::Genesis(genesis.session),
        Statement::Tombstone(tombstone) => Slot::Tombstone(tombstone.session),
        Statement::Unknown { .. } => Slot::Unknown(digest),
    }
}

fn rank(statement: &Statement, by_root: bool) -> Rank {
    let count = match statement {
        Statement::Charter(charter) => charter.made.0,
        Statement::Certificate(certificate) => certificate.serial,
        Statement::Grant(grant) => grant.made.0,
        // Of two births of one session the earlier is the true one.
        Statement::Genesis(genesis) => u64::MAX - genesis.stamp.0,
        Statement::Revocation(_) | Statement::Tombstone(_) | Statement::Unknown { .. } => 0,
    };
    (by_root, count)
}

fn made(statement: &Statement) -> Timestamp {
    match statement {
        Statement::Charter(charter) => charter.made,
        Statement::Certificate(certificate) => certificate.not_before,
        Statement::Grant(grant) => grant.made,
        Statement::Revocation(revocation) => revocation.made,
        Statement::Genesis(_) | Statement::Tombstone(_) | Statement::Unknown { .. } => Timestamp(0),
    }
}

fn outlived(statement: &Statement, now: Timestamp) -> bool {
    matches!(statement, Statement::Grant(grant) if now > grant.expires.plus_ms(GRANT_KEPT_MS))
}

/// Makes `NAME-xxxx` from the host's id, within the length of a label.
fn suffixed(name: &Name, host: HostId) -> Name {
    let short: String = name.as_str().chars().take(26).collect();
    let text = format!("{}-{}", short.trim_end_matches('-'), &host.to_string()[..4]);
    text.parse().expect("a label cut to 26 characters, '-' and four hex digits are a label")
}
