//! Sessions in lists, by themselves, and on their way up or down.

use serde::{Deserialize, Serialize};

use super::{MachineRow, ServiceRow, Understands};
use crate::{
    id::{MachineName, SessionId},
    level::Level,
};

/// `agent session list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Sessions this host knows, by name.
    pub sessions: Vec<SessionRow>,
}

/// One session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its identity.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// How it is.
    pub state: SessionState,
    /// Machines that are ready.
    pub ready: u64,
    /// Machines in the plan.
    pub machines: u64,
    /// The host that writes its plan now.
    pub coordinator: Option<String>,
}

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// On its way to ready for the first time since the last change.
    Starting,
    /// Every machine is ready.
    Healthy,
    /// Some machine is not ready.
    Degraded,
    /// No quorum: what runs goes on, nothing can change.
    Frozen,
    /// Its end is committed, machines are going.
    Stopping,
    /// Nothing of it is left.
    Stopped,
}

/// `agent session status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its identity.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// How it is.
    pub state: SessionState,
    /// The plan's generation; 0 = none yet.
    pub generation: u64,
    /// The host that writes its plan now.
    pub coordinator: Option<String>,
    /// Hosts that store its hard state.
    pub voters: Vec<String>,
    /// Its network, `IP/LEN`.
    pub subnet: Option<String>,
    /// Its machines by name.
    pub machines: Vec<MachineRow>,
    /// Its services.
    pub services: Vec<ServiceRow>,
    /// What everybody understands who had a part in it when it came to this level.
    #[serde(default)]
    pub level: Level,
    /// Members that understand less: they neither vote nor get machines of it.
    #[serde(default)]
    pub below: Vec<Understands>,
}

/// What `up` polls: the session as this host sees it, and who sees it otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpProgress {
    /// The session.
    #[serde(flatten)]
    pub status: SessionStatus,
    /// Whether every up host's own `session status` says the same.
    pub everywhere: bool,
    /// Up hosts that say otherwise or do not answer.
    pub behind: Vec<String>,
    /// Images on their way: bytes here of bytes in all.
    pub fetching: Vec<Fetching>,
    /// Hosts with machines of the session that are not heard now.
    #[serde(default)]
    pub away: Vec<String>,
}

/// An image on its way to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// The host.
    pub host: String,
    /// The image.
    pub image: String,
    /// Bytes that are there, when known.
    pub done: Option<u64>,
    /// Bytes in all.
    pub bytes: u64,
}

/// What `session down` polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownProgress {
    /// The session.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// Whether nothing of it is left on any host that answers.
    pub gone: bool,
    /// Machines that are still there.
    pub remaining: Vec<Remaining>,
    /// Hosts that had machines and do not answer: they stop and delete them when they return.
    pub away: Vec<String>,
    /// Hosts that answer and do not say yet that they have nothing of it.
    #[serde(default)]
    pub behind: Vec<String>,
    /// What keeps it from going on.
    #[serde(default)]
    pub because: Vec<String>,
}

/// A machine that is not gone yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// The machine.
    pub machine: MachineName,
    /// Its host.
    pub host: String,
}
