//! Services, and the ports that stand for them here.

use serde::{Deserialize, Serialize};

use crate::{id::Name, topology::Protocol};

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
    /// What is spoken there.
    #[serde(default)]
    pub protocol: Protocol,
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
    /// Machines of its group.
    #[serde(default)]
    pub machines: u64,
    /// Those that connections are led to.
    #[serde(default)]
    pub ready: u64,
    /// Those that are to stop and still run: they get no new connections, and what they have may end.
    #[serde(default)]
    pub draining: u64,
    /// Connections from this host to the group that were refused since the agent began, because its machines had all
    /// that they may have.
    #[serde(default)]
    pub refused: u64,
    /// The hosts that are asked to publish it in their own networks.
    #[serde(default)]
    pub lan: Vec<LanRow>,
}

/// A host that is asked to publish a service in its own network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanRow {
    /// The host's name.
    pub host: String,
    /// The port on its addresses there.
    pub port: u16,
    /// Where others in that network find it; `null` = it does not listen, as far as is known here.
    pub url: Option<String>,
    /// Why it does not listen.
    pub because: Option<String>,
}

/// What a host publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRow {
    /// Its name.
    pub name: String,
    /// The host that publishes it.
    pub host: String,
    /// Its port on that host's loopback.
    pub port: u16,
    /// Its name in the zone.
    pub fqdn: String,
    /// Where this host reaches it; `null` = nothing listens here now.
    pub address_here: Option<String>,
    /// The port that listens here.
    pub port_here: Option<u16>,
}

/// `agent service list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// All services of all sessions.
    pub services: Vec<ServiceRow>,
    /// What hosts publish themselves.
    #[serde(default)]
    pub published: Vec<PublishedRow>,
}

/// What `service open` and `service close` ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNamed {
    /// `GROUP.SESSION` or `MACHINE.SESSION` where there is one service, else `SERVICE.GROUP.SESSION`;
    /// `SERVICE.HOST.host` of what a host publishes; or as other verbs and lists write it: `GROUP.SESSION/SERVICE`,
    /// `SESSION/MACHINE`, the zone behind it. The session by name or id.
    pub service: String,
}

/// A service that somebody named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFound {
    /// Its whole name, without the zone.
    pub name: String,
    /// Its port in the machines, or on the loopback of the host that publishes it.
    pub port: u16,
    /// Whether it is known to speak HTTP.
    pub http: bool,
}

/// `agent service forward`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceForwarded {
    /// `http://..` for services that are checked over HTTP, `tcp://..` for others.
    pub url: String,
    /// The address that listens.
    pub address: String,
    /// The port that listens.
    pub port: u16,
    /// The service's whole name, without the zone.
    pub service: String,
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

/// What `service publish` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePublish {
    /// The name.
    pub name: Name,
    /// The port on this host's loopback.
    pub port: u16,
}

/// What `service publish` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePublished {
    /// Its name in the zone.
    pub fqdn: String,
    /// The port on this host's loopback.
    pub port: u16,
}

/// What `service unpublish` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceUnpublish {
    /// The name.
    pub name: Name,
}

/// What `service unpublish` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceUnpublished {
    /// Whether it was published.
    pub unpublished: bool,
}
