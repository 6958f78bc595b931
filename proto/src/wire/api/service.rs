//! Services, and the ports that stand for them here.

use serde::{Deserialize, Serialize};

use crate::id::Name;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its session's label.
    pub session: String,
    /// Its port in the machines.
    pub port: u16,
    /// The group's name in the zone.
    pub fqdn: String,
    /// Where this host reaches it; `null` = nothing listens here now.
    pub address_here: Option<String>,
    /// The port that listens here.
    pub port_here: Option<u16>,
    /// What a browser of this host opens without any set-up; `null` = it is not known to speak HTTP, or the front
    /// door is closed.
    #[serde(default)]
    pub url: Option<String>,
}

/// `agent service list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// All services of all sessions.
    pub services: Vec<ServiceRow>,
}

/// What `service open` and `service close` ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOpen {
    /// The group, or one machine of it.
    pub group: String,
    /// The session, by name, with the zone behind it or without, or by id.
    pub session: String,
    /// The service; `None` = the group's only one.
    pub service: Option<Name>,
}

/// What `service open` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOpened {
    /// `http://..` for services that are checked over HTTP, `tcp://..` for others.
    pub url: String,
    /// The address that listens on this host.
    pub address: String,
    /// The port that listens on this host.
    pub port: u16,
}

/// What `service close` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceClosed {
    /// Whether anything listened, or was to.
    pub closed: bool,
}
