//! Machines, and how ssh enters them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{MachineName, SessionId},
    reasons::{Because, Why},
    seal::Sig,
    session::{Guard, Phase},
};

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRow {
    /// Its name, `GROUP-N`.
    pub name: MachineName,
    /// Its group.
    pub group: String,
    /// Its session's label.
    pub session: String,
    /// Its session's identity.
    pub session_id: SessionId,
    /// The host that runs it.
    pub host: Option<String>,
    /// Where it is in its life.
    pub state: Phase,
    /// What guards it.
    pub guard: Guard,
    /// Its incarnation.
    pub epoch: u64,
    /// Its address in the session's network.
    pub address: Option<String>,
    /// Why it is in this state, in words.
    pub reason: Option<String>,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Because>>,
}

/// `agent machine list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    /// All machines of all sessions.
    pub machines: Vec<MachineRow>,
}

/// What an ssh server asks of whoever logs in, for the machine's host to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// The session.
    pub session_id: SessionId,
    /// The machine.
    pub machine: MachineName,
    /// The question in base64.
    pub question: String,
}

/// The signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// 64 bytes in base64.
    pub signature: Sig,
}

/// What ssh needs to enter a machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAccess {
    /// Its session's label.
    pub session: String,
    /// Its session's identity.
    pub session_id: SessionId,
    /// The machine.
    pub machine: MachineName,
    /// The login user.
    pub user: String,
    /// The port in the machine.
    pub port: u16,
    /// The key that the machine lets in, `ssh-ed25519 AAAA..`; its host signs by it. `None` = the session's key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_key: Option<String>,
    /// The session's key where the machine has none of its own: ed25519 seed in hex. Only this socket gives it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// The machine's public host key, known in advance: `ssh-ed25519 AAAA..`.
    pub host_key: String,
}

impl fmt::Debug for SshAccess {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAccess")
            .field("session", &self.session)
            .field("session_id", &self.session_id)
            .field("machine", &self.machine)
            .field("user", &self.user)
            .field("port", &self.port)
            .field("host_key", &self.host_key)
            .finish_non_exhaustive()
    }
}
