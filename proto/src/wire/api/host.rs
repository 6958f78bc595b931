//! `agent host list`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MemberState, Path};
use crate::{id::HostId, session::Accelerator, trust::Capability};

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
