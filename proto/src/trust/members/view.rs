//! What a set of statements means: who is a member under which label, which tokens live, and which
//! certificates an issuer should sign next. Nothing here changes the set.

use std::collections::BTreeMap;

use super::{CERTIFICATE_MS, CLOCK_TOLERANCE_MS, DAY_MS, GrantState, Kept, Member, MemberSet, Slot};
use crate::{
    id::{HostId, Name, SessionId},
    seal::PublicKey,
    time::Timestamp,
    trust::{
        may::May,
        mesh_id,
        statement::{Capabilities, Certificate, Genesis, Grant, Sealed, Statement, Tombstone},
    },
};

impl MemberSet {
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
        let mut owners: BTreeMap<Name, (bool, Timestamp, HostId)> = BTreeMap::new();
        for member in members.values() {
            // The date of a name that a host gave itself is its own word: it takes no name that an issuer gave.
            let (own_word, named) = match self.rename(member.host) {
                Some(rename) => (rename.own_word, rename.made),
                None => (false, member.since),
            };
            let claim = (own_word, named, member.host);
            let owner = owners.entry(member.name.clone()).or_insert(claim);
            *owner = claim.min(*owner);
        }
        for member in members.values_mut() {
            if owners.get(&member.name).is_some_and(|owner| owner.2 != member.host) {
                member.name = suffixed(&member.name, member.host);
            }
        }
        members
    }

    /// Gives one member with the label that it was given.
    pub fn member(&self, host: HostId) -> Option<Member> {
        if self.is_out(&host) {
            return None;
        }
        let capabilities = self.certified(host)?;
        let newest = self.certificates(host).first()?;
        let certificate = certificate(newest)?;
        Some(Member {
            host,
            name: self.label(host)?,
            tags: certificate.tags.clone(),
            capabilities,
            may: self.may(host),
            signer: newest.sealed.signer,
            grant: certificate.grant,
            since: certificate.since,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        })
    }

    /// Gives what a host may do by all its certificates; everything when it has none.
    pub(super) fn may(&self, host: HostId) -> May {
        self.certificates(host).iter().filter_map(certificate).fold(May::ALL, |may, one| may & one.may)
    }

    /// Gives what a host's certificates say that it may do: of several with one serial, what all of them say.
    pub(super) fn certified(&self, host: HostId) -> Option<Capabilities> {
        let all = self.certificates(host).iter().filter_map(certificate);
        all.map(|certificate| certificate.capabilities).reduce(|one, other| one & other)
    }

    /// Gives a member's current certificate.
    pub fn certificate(&self, host: HostId) -> Option<&Certificate> {
        self.certificates(host).first().filter(|_| !self.is_out(&host)).and_then(certificate)
    }

    /// Tells whether `host` belongs to the mesh.
    pub fn contains(&self, host: HostId) -> bool {
        !self.certificates(host).is_empty() && !self.is_out(&host)
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
        if self.slots.contains_key(&Slot::Revocation(*token)) || self.is_burnt(token) {
            return GrantState::Revoked;
        }
        let Some(grant) = self.grant(token) else { return GrantState::Unknown };
        if grant.made > now.plus_ms(CLOCK_TOLERANCE_MS) {
            return GrantState::NotYet;
        }
        if now >= grant.expires {
            return GrantState::Expired;
        }
        match grant.max_uses.saturating_sub(self.uses(token)) {
            0 => GrantState::UsedUp,
            left => GrantState::Live { left },
        }
    }

    /// Gives the certificate that renews a plain member's, if its own is a day old, or of a day that is still to come.
    /// The caller signs it with its host key.
    pub fn renewal(&self, host: HostId, now: Timestamp) -> Option<Certificate> {
        let current = self.certificate(host)?;
        let plain = current.not_after.is_some();
        let is_due = now.since_ms(current.not_before) >= DAY_MS
            || current.not_before.since_ms(now) > CLOCK_TOLERANCE_MS;
        (plain && is_due).then(|| Certificate {
            name: self.label(host).unwrap_or_else(|| current.name.clone()),
            serial: current.serial.saturating_add(1),
            not_before: now,
            not_after: Some(now.plus_ms(CERTIFICATE_MS)),
            may: self.may(host),
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
            may: self.may(host),
            ..current.clone()
        })
    }

    /// Gives the certificate that makes an issuer a plain member. The caller signs it with the root key. Issuers renew
    /// no certificate of the root's, so the holder of the root key goes on with it.
    pub fn demotion(&self, host: HostId, now: Timestamp) -> Option<Certificate> {
        let current = self.certificate(host)?;
        Some(Certificate {
            name: self.label(host).unwrap_or_else(|| current.name.clone()),
            serial: current.serial.saturating_add(1),
            capabilities: Capabilities(current.capabilities.0 & !Capabilities::ISSUE.0),
            not_before: now,
            not_after: Some(now.plus_ms(CERTIFICATE_MS)),
            may: self.may(host),
            ..current.clone()
        })
    }

    /// Lists plain members that joined by a token for issuers: the root's holder promotes them.
    pub fn awaiting_promotion(&self) -> Vec<HostId> {
        let wanted = |host: &HostId| {
            let newest = self.certificates(*host).first()?;
            // What the root said of a host itself stands: one that it made a plain member stays one.
            let certificate = certificate(newest).filter(|_| !self.is_root(&newest.sealed.signer))?;
            let grant = self.grant(&certificate.grant?)?;
            Some(grant.capabilities.may_issue() && !self.is_issuer(*host))
        };
        self.members().into_keys().filter(|host| wanted(host) == Some(true)).collect()
    }

    /// Gives the birth of a session, as the host that started it stated it.
    pub fn genesis(&self, session: SessionId) -> Option<&Genesis> {
        self.slots.get(&Slot::Genesis(session))?.first().and_then(|kept| match &kept.statement {
            Statement::Genesis(genesis) => Some(genesis),
            _ => None,
        })
    }

    /// Tells whether a session has ended and nothing of it is left.
    pub fn is_buried(&self, session: SessionId) -> bool {
        self.slots.get(&Slot::Tombstone(session)).into_iter().flatten().any(|kept| self.ends(kept))
    }

    /// Tells whether a tombstone counts: one of a session that is bound by mandates has the one that ended it.
    pub(super) fn ends(&self, kept: &Kept) -> bool {
        let Statement::Tombstone(tombstone) = &kept.statement else { return false };
        let bound = self.genesis(tombstone.session).is_some_and(|genesis| genesis.bound);
        let by = tombstone.mandate.as_ref().map(|mandate| mandate.signer);
        // Its rank says whether it is signed: that was looked at once.
        !bound || (kept.rank.1 > 0 && by.is_some_and(|by| self.operated(by)))
    }

    /// Gives the ends of sessions.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.kept().filter(|kept| self.ends(kept)).filter_map(|kept| match &kept.statement {
            Statement::Tombstone(tombstone) => Some(tombstone),
            _ => None,
        })
    }
}

pub(super) fn certificate(kept: &Kept) -> Option<&Certificate> {
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

/// Makes `NAME-xxxx` from the host's id, within the length of a label.
fn suffixed(name: &Name, host: HostId) -> Name {
    let short: String = name.as_str().chars().take(26).collect();
    let text = format!("{}-{}", short.trim_end_matches('-'), &host.to_string()[..4]);
    text.parse().expect("a label cut to 26 characters, '-' and four hex digits are a label")
}
