//! What `agent doctor` looks at, and what the processes of an agent hold.

use serde::{Deserialize, Serialize};

use crate::id::SessionId;

/// `agent doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in one or two words.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was seen.
    pub what: String,
    /// The exact command that mends it.
    pub mend: Option<String>,
}

/// How a checked thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, with a limit.
    Limited,
    /// Needs mending.
    Missing,
}

/// What the agent's processes hold: what must come back to where it was when nothing is asked of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Internals {
    /// The agent's own process.
    pub pid: i32,
    /// Its open descriptors.
    pub descriptors: usize,
    /// Tasks of its runtime.
    pub tasks: usize,
    /// Connections that it carries between two sides.
    pub flows: usize,
    /// Its memory that no file stands behind, in KiB; `null` where the kernel does not tell.
    pub anonymous_kib: Option<u64>,
    /// The shims that live on this host.
    pub shims: Vec<ShimInternals>,
    /// What the session network carried between this host and others, this one itself first.
    #[serde(default)]
    pub hosts: Vec<HostFlows>,
}

/// What one shim holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimInternals {
    /// Its machine.
    pub machine: String,
    /// The machine's session.
    pub session: SessionId,
    /// The machine's incarnation.
    pub epoch: u64,
    /// The process.
    pub pid: i32,
    /// Its open descriptors.
    pub descriptors: usize,
    /// Tasks of its runtime; `null` when it did not answer.
    pub tasks: Option<usize>,
    /// Connections into the guest that have not ended; `null` when it did not answer.
    pub dials: Option<usize>,
    /// Callers whose connection holds a descriptor; `null` when it did not answer.
    pub callers: Option<usize>,
    /// Its memory that no file stands behind, in KiB.
    pub anonymous_kib: Option<u64>,
    /// What its guest has to do with the world outside; `null` when it did not answer.
    #[serde(default)]
    pub outside: Option<Outside>,
    /// What it has to do with other machines of its session; `null` when it did not answer.
    #[serde(default)]
    pub inside: Option<Inside>,
}

/// What one guest has to do with the world outside of its session, and what of its packets went nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// Connections to the outside, those that are being made included.
    pub connections: usize,
    /// Sockets for its datagrams and pings.
    pub sockets: usize,
    /// Bytes of connections that wait here, in both directions.
    pub waiting_bytes: usize,
    /// Packets to where it may not go, since its network came up.
    pub denied: u64,
    /// Connections and datagrams beyond what a guest may have.
    pub full: u64,
    /// Fragments, protocols and messages that are not carried.
    pub uncarried: u64,
    /// Frames that claimed another's address.
    pub spoofed: u64,
    /// Frames that are none.
    pub malformed: u64,
}

/// Packets with their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// How many.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// What one guest has to do with other machines of its session, since its network came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// What it sent to them.
    pub sent: Packets,
    /// What it got of them.
    pub received: Packets,
    /// Packets that went nowhere, and it was told so: too long, no hop left, no such place.
    pub refused: u64,
    /// Packets that came and were not for it.
    pub misrouted: u64,
    /// Frames for everybody, and of protocols that are not carried.
    pub ignored: u64,
}

/// What the session network carried between this host and another one since the agent's start. Of this host itself:
/// among its own machines, and what of theirs was lost before it was known where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFlows {
    /// The other host's name.
    pub host: String,
    /// What was sent to it.
    pub sent: Packets,
    /// How many of these packets went in two datagrams, because the path is narrow.
    pub in_two: u64,
    /// What came from it and was given to machines here.
    pub received: Packets,
    /// Packets that were lost, by reason.
    pub lost: Lost,
}

/// Packets that the session network lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// No machine of the session has the address, or it does not run.
    pub no_route: u64,
    /// The source is not a machine of the host that sent it.
    pub forged: u64,
    /// The source is an older incarnation of a machine.
    pub stale: u64,
    /// No packet, or no datagram of ours.
    pub malformed: u64,
    /// More than a machine or a path took.
    pub queue_full: u64,
    /// The other host was not reachable.
    pub unreachable: u64,
    /// Longer than two datagrams of the path.
    pub too_long: u64,
    /// Questions for names beyond what one machine may have open.
    pub dns_refused: u64,
}

/// The same for every machine of a host, and what went between it and others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The machines that run here.
    pub machines: Vec<MachineFlows>,
    /// The hosts that packets were exchanged with, this one itself first.
    pub hosts: Vec<HostFlows>,
}

/// One machine of [`Flows`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFlows {
    /// The machine.
    pub machine: String,
    /// Its session's name, or its id where nobody knows the name.
    pub session: String,
    /// What it has to do with the outside; `null` when its shim did not answer.
    pub outside: Option<Outside>,
    /// What it has to do with other machines of its session; `null` when its shim did not answer.
    pub inside: Option<Inside>,
}
