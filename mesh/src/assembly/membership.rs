//! What the handle can do about who belongs to the mesh, this host included.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    id::{HostId, Name},
    trust::OutBecause,
};

use super::{Inner, Mesh, MeshError};
use crate::{
    identity::phrase,
    join::RestoreError,
    members::{
        rights::{self, Dead, RightsError},
        roster::Roster,
    },
};

/// How long others have to hear that this host leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells why this host is no member, if it is none.
pub(super) fn check_membership(roster: &Roster, me: HostId) -> Result<(), MeshError> {
    let roll = roster.roll();
    if let Some(out) = roll.out.get(&me) {
        let mesh = roll.set.name().map_or_else(|| "?".to_owned(), Name::to_string);
        return Err(MeshError::Out { mesh, because: out.because, since: out.since });
    }
    if roll.members.contains_key(&me) { Ok(()) } else { Err(MeshError::NotMember) }
}

/// Tells how the mesh ended: a part that ends because this host is out is no failure of its own.
pub(super) fn why_ended(ended: Result<(), MeshError>, roster: &Roster, me: HostId) -> Result<(), MeshError> {
    ended.map_err(|error| check_membership(roster, me).err().unwrap_or(error))
}

impl Mesh {
    /// Lists the tokens that would end with a member that is cut off.
    pub fn tokens_of(&self, host: HostId) -> Vec<String> {
        rights::tokens_of(&self.inner.roster, host)
    }

    /// Puts a member out of the mesh for good.
    pub fn put_out(&self, host: HostId, because: OutBecause) -> Result<Dead, RightsError> {
        rights::put_out(&self.inner.roster, &self.inner.identity, host, because)
    }

    /// Gives a member another label.
    pub fn rename(&self, host: HostId, name: Name) -> Result<(), RightsError> {
        rights::rename(&self.inner.roster, &self.inner.identity, host, name)
    }

    /// Makes a member an issuer, or an issuer a plain member again.
    pub fn set_issuer(&self, host: HostId, shall: bool) -> Result<(), RightsError> {
        rights::set_issuer(&self.inner.roster, &self.inner.identity, host, shall)
    }

    /// Takes the mesh's root key back by its recovery phrase.
    pub fn restore(&self, phrase: &str) -> Result<(), RestoreError> {
        let root = phrase::root(phrase)?;
        Ok(rights::restore(&self.inner.roster, &self.inner.identity, &root)?)
    }

    /// Says that this host leaves, and waits until those it is connected with have closed their doors. Gives the
    /// members that may not have heard it.
    pub async fn leave(&self) -> Result<Vec<Name>, RightsError> {
        let Inner { roster, identity, streams, .. } = &*self.inner;
        let roll = roster.roll();
        rights::leave(roster, identity)?;
        let mut connected = streams.connected();
        let heard = connected.wait_for(|hosts| hosts.is_empty());
        let heard = tokio::time::timeout(LEAVE_TIMEOUT, heard).await.is_ok();
        let left = if heard { BTreeSet::new() } else { streams.connected().borrow().clone() };
        let name = |host: &HostId| roll.members.get(host).map(|member| member.name.clone());
        Ok(left.iter().filter_map(name).collect())
    }
}
