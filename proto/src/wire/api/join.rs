//! Making a mesh, and becoming a member of one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{HostId, MeshId, Name};

/// A mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRef {
    /// Hash of its root key.
    pub id: MeshId,
    /// Its label.
    pub name: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRef {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
}

/// What `init` made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialised {
    /// The new mesh.
    pub mesh: MeshRef,
    /// This host, its first issuer.
    pub host: HostRef,
    /// The phrase that brings the root key back; shown once.
    pub recovery: String,
}

impl fmt::Debug for Initialised {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initialised")
            .field("mesh", &self.mesh)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What `init --restore` asks a running agent for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The recovery phrase.
    pub recovery: String,
}

impl fmt::Debug for RestoreRequest {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreRequest").finish_non_exhaustive()
    }
}

/// What `init --restore` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The mesh.
    pub mesh: MeshRef,
    /// This host, which holds the root key now.
    pub host: HostRef,
    /// How many other members it knows of; 0 where nobody was met.
    pub others: u64,
}

/// What `join` asks for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's text.
    pub token: String,
    /// The name this host wishes for; `None` = its hostname.
    pub name: Option<Name>,
}

impl fmt::Debug for JoinRequest {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What `join` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The mesh.
    pub mesh: MeshRef,
    /// This host.
    pub host: HostRef,
    /// The member that let it in.
    pub by: Option<String>,
    /// For a host that was in the mesh before: what came of the token's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// What a token's addresses brought to a host that is in its mesh already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Whether an agent runs here that tries them.
    pub tried: bool,
    /// Members of the token that are connected now.
    pub reached: Vec<String>,
    /// Members of the token that are not.
    pub silent: Vec<String>,
}

/// What `leave` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The mesh that was left.
    pub mesh: MeshRef,
    /// What this host was in it.
    pub host: HostRef,
    /// Members that may not have heard of it.
    pub unheard: Vec<String>,
}
