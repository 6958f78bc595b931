//! Who belongs to the mesh no more, and what is left of its words.
//!
//! A host that is out keeps its certificate here, for its label and for what it said of sessions; it counts as no
//! member by it. One that was an issuer and was *evicted*, or is none any more, has no say: what it said as an issuer
//! is dropped, at every host alike, whatever came first. So whoever puts an issuer out first says in its own name what
//! shall stay ([`MemberSet::taken_over`]). Of an issuer that left or is gone for good everything stays: it is no enemy.

use super::{GrantState, Kept, MemberSet, Slot, view::certificate};
use crate::{
    id::{HostId, Name},
    seal::PublicKey,
    time::Timestamp,
    trust::{
        may::Capability,
        mesh_id,
        statement::{Capabilities, Certificate, Eviction, OutBecause, Sealed, Statement},
    },
};

/// A host that belongs to the mesh no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// The host.
    pub host: HostId,
    /// Its last label, if it ever was a member here; another host may have it now.
    pub name: Option<Name>,
    /// Why.
    pub because: OutBecause,
    /// Since when.
    pub since: Timestamp,
    /// Who said so: the root, an issuer, or the host itself.
    pub signer: PublicKey,
}

/// A label that a host was given after it had become a member.
pub(super) struct Renamed<'a> {
    pub(super) name: &'a Name,
    pub(super) made: Timestamp,
    /// A plain member gave it to itself.
    pub(super) own_word: bool,
}

/// Orders the ends of one host: the hardest word counts, of two equal ones the first.
pub(super) fn rank(eviction: &Eviction) -> u64 {
    const TIME: u64 = (1 << 62) - 1;
    let weight = match eviction.reason {
        OutBecause::Left => 0,
        OutBecause::Removed => 1,
        OutBecause::Evicted => 2,
    };
    weight << 62 | (TIME - eviction.made.0.min(TIME))
}

impl MemberSet {
    /// Tells whether a host was a member, or might have become one, and is out for good.
    pub fn is_out(&self, host: &HostId) -> bool {
        self.eviction(host).is_some()
    }

    /// Gives every host that is out, and why.
    pub fn out(&self) -> impl Iterator<Item = (HostId, OutBecause)> {
        self.slots.keys().filter_map(|slot| match slot {
            Slot::Eviction(host) => Some((*host, self.eviction(host)?.1.reason)),
            _ => None,
        })
    }

    /// Tells about a host that is out.
    pub fn departed(&self, host: &HostId) -> Option<Out> {
        let (kept, eviction) = self.eviction(host)?;
        let (because, since, signer) = (eviction.reason, eviction.made, kept.sealed.signer);
        Some(Out { host: *host, name: self.label(*host), because, since, signer })
    }

    /// Gives the last label of a host, also of one that is out.
    pub fn label(&self, host: HostId) -> Option<Name> {
        let renamed = self.rename(host).map(|rename| rename.name.clone());
        renamed.or_else(|| Some(certificate(self.certificates(host).first()?)?.name.clone()))
    }

    /// Gives the word that put a host out, as it was signed: who is out can be shown it.
    pub fn proof_of_eviction(&self, host: &HostId) -> Option<&Sealed> {
        self.eviction(host).map(|(kept, _)| &kept.sealed)
    }

    /// Gives a host's newest label, where it was renamed.
    pub(super) fn rename(&self, host: HostId) -> Option<Renamed<'_>> {
        let kept = self.slots.get(&Slot::Rename(host))?.first()?;
        match &kept.statement {
            Statement::Rename(rename) => {
                let own_word = kept.sealed.signer == host.0 && !self.may_issue(host);
                Some(Renamed { name: &rename.name, made: rename.made, own_word })
            }
            _ => None,
        }
    }

    fn eviction(&self, host: &HostId) -> Option<(&Kept, &Eviction)> {
        let kept = self.slots.get(&Slot::Eviction(*host))?.first()?;
        match &kept.statement {
            Statement::Eviction(eviction) => Some((kept, eviction)),
            _ => None,
        }
    }

    /// Tells whether a host's word counts as an issuer's: it is one, or was one when it left or was lost.
    pub(super) fn may_issue(&self, host: HostId) -> bool {
        let evicted = self.eviction(&host).is_some_and(|(_, it)| it.reason == OutBecause::Evicted);
        !evicted && self.certified(host).is_some_and(Capabilities::may_issue)
    }

    /// Tells whether what a host signed of sessions counts: it may operate, or could when it left or was lost.
    pub fn operates(&self, host: HostId) -> bool {
        let evicted = self.eviction(&host).is_some_and(|(_, it)| it.reason == OutBecause::Evicted);
        !evicted && self.operated(host)
    }

    /// Tells whether a host's certificates let it operate. What it signed then and was taken stays good, whatever
    /// becomes of it.
    pub(super) fn operated(&self, host: HostId) -> bool {
        !self.certificates(host).is_empty() && self.may(host).has(Capability::Operate)
    }

    /// Tells whether the certificates of a host make it an issuer, and whether its word counts as one's.
    pub(super) fn rights(&self, host: HostId) -> (bool, bool) {
        (self.certified(host).is_some_and(Capabilities::may_issue), self.may_issue(host))
    }

    /// Brings the set into the shape that follows from a host's new rights, so that two hosts agree whatever came
    /// first.
    pub(super) fn settle(&mut self, host: HostId) {
        let (is_issuer, _) = self.rights(host);
        let mesh = self.mesh;
        // Only the root puts issuers out, and they themselves.
        let may_put_out = |signer: &PublicKey| !is_issuer || *signer == host.0 || mesh_id(signer) == mesh;
        if let Some(kept) = self.slots.get_mut(&Slot::Eviction(host)) {
            kept.retain(|kept| may_put_out(&kept.sealed.signer));
        }
        if !self.may_issue(host) {
            for (slot, kept) in &mut self.slots {
                let as_issuer = match slot {
                    Slot::Host(_) | Slot::Grant(_) | Slot::Revocation(_) => true,
                    Slot::Eviction(about) | Slot::Rename(about) => *about != host,
                    _ => false,
                };
                kept.retain(|kept| !as_issuer || kept.sealed.signer != host.0);
            }
        }
        self.slots.retain(|_, kept| !kept.is_empty());
        self.known = self.kept().map(|kept| kept.digest).collect();
    }

    /// Gives the tokens that die with a host that is cut off: the one that it joined by, and those that it made.
    pub fn tokens_of(&self, host: HostId, now: Timestamp) -> Vec<PublicKey> {
        let joined_by = self.certificates(host).first().and_then(certificate).and_then(|it| it.grant);
        let made = self.slots.iter().filter_map(|(slot, kept)| match slot {
            Slot::Grant(token) if kept.iter().any(|kept| kept.sealed.signer == host.0) => Some(*token),
            _ => None,
        });
        let mut tokens: Vec<PublicKey> = joined_by.into_iter().chain(made).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens.retain(|token| matches!(self.grant_state(token, now), GrantState::Live { .. }));
        tokens
    }

    /// Tells whether a host that joined by this token was cut off: whoever gave it the token gave it away.
    pub(super) fn is_burnt(&self, token: &PublicKey) -> bool {
        let joined_by = |host: HostId| {
            self.certificates(host).iter().filter_map(certificate).any(|it| it.grant == Some(*token))
        };
        self.out().any(|(host, because)| because == OutBecause::Evicted && joined_by(host))
    }

    /// Gives what another issuer must say in its own name before `host` is no issuer any more, or its members are
    /// none: the certificates of those that it let in, and its ends of tokens and of memberships. Tokens are not
    /// taken over; they end with it.
    pub fn taken_over(&self, host: HostId, now: Timestamp) -> Vec<Statement> {
        let signed = |kept: &&Kept| kept.sealed.signer == host.0;
        let again = |kept: &Kept| match &kept.statement {
            Statement::Certificate(old) if old.host != host && !self.is_out(&old.host) => {
                let name = self.label(old.host).unwrap_or_else(|| old.name.clone());
                let serial = old.serial.saturating_add(1);
                let not_after = Some(now.plus_ms(super::CERTIFICATE_MS));
                let new = Certificate { name, serial, not_before: now, not_after, ..old.clone() };
                Some(Statement::Certificate(Certificate { may: self.may(old.host), ..new }))
            }
            Statement::Eviction(old) if old.host != host => Some(Statement::Eviction(old.clone())),
            Statement::Revocation(old) => Some(Statement::Revocation(old.clone())),
            _ => None,
        };
        self.kept().filter(signed).filter_map(again).collect()
    }
}
