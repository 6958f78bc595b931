//! Who belongs to the mesh no more, and what is left of its words.
//!
//! A host that is out keeps its certificate here, for its label and for what it said of sessions; it counts as no
//! member by it. One that was an issuer and was *evicted*, or is none any more, has no say: what it said as an issuer
//! is dropped, at every host alike, whatever came first. Of an issuer that left or is gone for good everything stays: it is no enemy.

use super::{Kept, MemberSet, Slot, view::certificate};
use crate::{
    id::{HostId, Name},
    seal::PublicKey,
    time::Timestamp,
    trust::{
        mesh_id,
        statement::{Capabilities, Eviction, OutBecause, Statement},
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
        let renamed = self.rename(host).map(|(name, _)| name);
        renamed.or_else(|| Some(certificate(self.certificates(host).first()?)?.name.clone()))
    }

    /// Gives a host's newest label and since when it has it, where it was renamed.
    pub(super) fn rename(&self, host: HostId) -> Option<(Name, Timestamp)> {
        match &self.slots.get(&Slot::Rename(host))?.first()?.statement {
            Statement::Rename(rename) => Some((rename.name.clone(), rename.made)),
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

    /// Tells whether a host that joined by this token was cut off: whoever gave it the token gave it away.
    pub(super) fn is_burnt(&self, token: &PublicKey) -> bool {
        let joined_by = |host: HostId| {
            self.certificates(host).iter().filter_map(certificate).any(|it| it.grant == Some(*token))
        };
        self.out().any(|(host, because)| because == OutBecause::Evicted && joined_by(host))
    }
}
