//! `agent host list`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{HostRef, MemberState, Path};
use crate::{
    id::{HostId, Name},
    session::Accelerator,
    trust::Capability,
};

/// `agent host list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hosts {
    /// Everyone, this host first.
    pub hosts: Vec<HostRow>,
}

/// One host with what it offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// How it is reached now.
    pub path: Option<Path>,
    /// The agent's version.
    pub version: Option<String>,
    /// CPU architecture.
    pub arch: Option<String>,
    /// What runs guests there.
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    pub cpus: Option<u32>,
    /// Memory given to the mesh.
    pub memory_mib: Option<u64>,
    /// Memory that machines hold.
    pub memory_used_mib: Option<u64>,
    /// Disk free for machines.
    pub disk_mib: Option<u64>,
    /// Whether it runs machines of others.
    pub runs_machines: Option<bool>,
    /// Whether it may admit others.
    pub issuer: bool,
    /// What its certificate lets it do.
    pub capabilities: Vec<Capability>,
    /// Its relay.
    pub relay: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl HostRow {
    /// Makes the row of a host of which no more is known.
    pub fn bare(id: HostId, name: String, state: MemberState) -> HostRow {
        HostRow {
            id,
            name,
            state,
            path: None,
            version: None,
            arch: None,
            accelerator: None,
            cpus: None,
            memory_mib: None,
            memory_used_mib: None,
            disk_mib: None,
            runs_machines: None,
            issuer: false,
            capabilities: Vec::new(),
            relay: None,
            tags: BTreeMap::new(),
        }
    }
}

/// What a mesh loses with a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLoss {
    /// The host, by name.
    pub host: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// Whether it is the one that was asked.
    pub here: bool,
    /// The sessions that have machines or a vote there.
    pub sessions: Vec<SessionLoss>,
    /// What it publishes of its own.
    pub published: Vec<String>,
    /// The tokens that end when it is cut off.
    pub tokens: Vec<String>,
    /// Whether nobody could admit hosts without it.
    pub last_issuer: bool,
    /// Hosts of a version that knows no eviction: they go on talking to it.
    pub older: Vec<String>,
}

/// What a session loses with a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLoss {
    /// The session, by name.
    pub session: String,
    /// Its machines there.
    pub machines: Vec<String>,
    /// Whether the host votes in it.
    pub votes: bool,
    /// Whether a majority of its voters is heard without that host.
    pub stands: bool,
}

/// What `host evict` and `host remove` ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPutOut {
    /// The host, by name.
    pub host: String,
    /// Whether it is cut off; else it is gone for good.
    pub evict: bool,
    /// Also when sessions lose their majority.
    pub now: bool,
}

/// What `host evict` and `host remove` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOut {
    /// The host.
    pub host: HostRef,
    /// The tokens that ended with it.
    pub tokens: Vec<String>,
}

/// What `host rename` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRename {
    /// The host, by name.
    pub host: String,
    /// Its new name.
    pub name: Name,
}

/// What `host promote` and `host demote` ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIssuer {
    /// The host, by name.
    pub host: String,
    /// Whether it shall be one that may admit others.
    pub issuer: bool,
}
