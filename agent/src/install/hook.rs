//! What the system's own resolver was told of the mesh's names, as the record of it says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whom the programs of this system ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolver {
    /// systemd-resolved.
    Resolved,
    /// The dnsmasq that NetworkManager runs.
    NetworkManager,
    /// A dnsmasq of its own.
    Dnsmasq,
    /// unbound.
    Unbound,
    /// That of macOS.
    MacOs,
}

impl Resolver {
    /// Gives what people call it.
    pub fn name(self) -> &'static str {
        match self {
            Resolver::Resolved => "systemd-resolved",
            Resolver::NetworkManager => "NetworkManager's dnsmasq",
            Resolver::Dnsmasq => "dnsmasq",
            Resolver::Unbound => "unbound",
            Resolver::MacOs => "macOS",
        }
    }
}

/// What is asked by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whom programs ask.
    pub resolver: Resolver,
    /// The zone.
    pub zone: String,
    /// The port of our name server on 127.0.0.1, kept as long as this stands.
    pub port: u16,
    /// The data directory of the agent whose it is.
    pub data: PathBuf,
}
