//! What a token is worth to a host that is a member already: where others are. Members that lost sight of each other,
//! because all of them moved at once, meet again by it.

use std::path::Path;

use proto::{
    id::{HostId, MeshId, Name},
    trust::{Token, TokenError},
};

use crate::{
    identity::{self, Identity, IdentityError},
    members::{
        cache::Cache,
        roster::{Roll, Roster},
    },
};

/// Why a token tells a member nothing.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// The text is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The stored identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It is of another mesh.
    #[error("the token is of another mesh; this host is {host} in the mesh {mesh} already")]
    OtherMesh {
        /// This host's label.
        host: Name,
        /// Its mesh's label.
        mesh: String,
    },
}

/// Whom a token named.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// Those that are connected now.
    pub reached: Vec<Name>,
    /// Those that are not, or not yet.
    pub silent: Vec<Name>,
}

/// What a member without a running agent took of a token.
pub struct Noted {
    /// Who this host is.
    pub identity: Identity,
    /// Its label.
    pub name: Name,
    /// The mesh's label.
    pub mesh_name: Option<Name>,
    /// The members whose addresses the token told.
    pub members: Vec<Name>,
}

/// Writes the addresses of a token down for the next start of the agent.
pub fn note(data: &Path, token: &Token) -> Result<Noted, MeetError> {
    let identity = identity::load(data)?;
    let roll = Roster::load(&identity)?.roll();
    let name = own_name(&roll, identity.host());
    let hosts = others(token, identity.mesh, identity.host(), &roll)?;
    let written = Cache::load(data).hint(&token.bootstrap, |host| hosts.contains(host));
    written.map_err(|source| IdentityError::File { path: data.join("mesh/addresses"), source })?;
    let members = hosts.iter().filter_map(|host| Some(roll.members.get(host)?.name.clone())).collect();
    Ok(Noted { name, mesh_name: roll.set.name().cloned(), members, identity })
}

/// Lists the members of this mesh that a token names, but for this host.
pub(crate) fn others(token: &Token, mesh: MeshId, me: HostId, roll: &Roll) -> Result<Vec<HostId>, MeetError> {
    if token.mesh != mesh {
        let label = roll.set.name().map_or_else(|| "?".to_owned(), Name::to_string);
        return Err(MeetError::OtherMesh { host: own_name(roll, me), mesh: label });
    }
    let named = token.bootstrap.iter().map(|entry| entry.host);
    Ok(named.filter(|host| *host != me && roll.members.contains_key(host)).collect())
}

fn own_name(roll: &Roll, me: HostId) -> Name {
    roll.members
        .get(&me)
        .map_or_else(|| "unnamed".parse().expect("it is a name"), |member| member.name.clone())
}
