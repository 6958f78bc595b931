//! Who may say what.

use super::{CERTIFICATE_MS, CLOCK_TOLERANCE_MS, MemberSet, RefusedBecause};
use crate::{
    id::{HostId, SessionId},
    seal::PublicKey,
    time::Timestamp,
    trust::{
        may::Capability,
        statement::{OutBecause, Statement},
    },
};

impl MemberSet {
    /// Checks that a signer may say this.
    pub(super) fn authorise(
        &self,
        statement: &Statement,
        signer: &PublicKey,
        now: Timestamp,
    ) -> Result<(), RefusedBecause> {
        if let Statement::Genesis(genesis) = statement
            && genesis.session != SessionId::born(HostId(*signer), &genesis.salt)
        {
            return Err(RefusedBecause::NotItsOwn);
        }
        // The newest of these counts: one of the far future would stand for ever.
        let made = match statement {
            Statement::Rename(rename) => rename.made,
            Statement::Possession(possession) => possession.made,
            _ => Timestamp(0),
        };
        if made > now.plus_ms(CLOCK_TOLERANCE_MS) {
            return Err(RefusedBecause::Early);
        }
        if let Statement::Tombstone(tombstone) = statement
            && self.genesis(tombstone.session).is_some_and(|genesis| genesis.bound)
        {
            let by = tombstone.mandate.as_ref().map(|mandate| mandate.signer);
            let operates = by.is_some_and(|by| self.operates(by));
            return if operates && tombstone.is_signed() { Ok(()) } else { Err(RefusedBecause::Unsigned) };
        }
        if self.is_root(signer) {
            return Ok(());
        }
        let issuer = self.may_issue(HostId(*signer));
        match statement {
            Statement::Eviction(eviction) if eviction.host.0 == *signer => match eviction.reason {
                OutBecause::Left => Ok(()),
                OutBecause::Removed | OutBecause::Evicted => Err(RefusedBecause::NotIssuer),
            },
            Statement::Eviction(_) if !issuer => Err(RefusedBecause::NotIssuer),
            Statement::Eviction(eviction) if self.may_issue(eviction.host) => Err(RefusedBecause::OnlyRoot),
            Statement::Rename(rename) if !issuer && rename.host.0 != *signer => {
                Err(RefusedBecause::NotIssuer)
            }
            // Who only runs machines, say, ends nobody's session.
            Statement::Tombstone(_) if !self.may_end(HostId(*signer)) => Err(RefusedBecause::Unsigned),
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

    /// Tells whether a host may end sessions that are not bound by mandates: it coordinates or operates some.
    fn may_end(&self, host: HostId) -> bool {
        let may = self.may(host);
        may.has(Capability::Vote) || may.has(Capability::Operate)
    }
}
