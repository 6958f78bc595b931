//! `agent status`: the host that answers, what it lacks, and the members that it sees.

use serde::{Deserialize, Serialize};

use super::{MeshRef, SessionRow};
use crate::{
    id::HostId,
    level::Level,
    reasons::{Plight, Why},
    session::Accelerator,
};

/// `agent status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The mesh.
    pub mesh: MeshRef,
    /// This host.
    pub host: ThisHost,
    /// Where this agent's DNS server answers, `IP:PORT`.
    pub dns: Option<String>,
    /// What a browser of this host opens to see everything that runs; `null` = the front door is closed.
    #[serde(default)]
    pub browser: Option<String>,
    /// Where this agent's SOCKS5 proxy listens, `IP:PORT`; `null` = it does not.
    #[serde(default)]
    pub socks: Option<String>,
    /// The interface by which this host itself is on the networks of its sessions; `null` = it is not.
    #[serde(default)]
    pub interface: Option<String>,
    /// Everyone in the mesh, this host first.
    pub members: Vec<Member>,
    /// Sessions this host knows.
    pub sessions: Vec<SessionRow>,
    /// What a person should look at, with the command that helps.
    pub warnings: Vec<Warning>,
    /// What keeps this agent from doing its work; empty = it is well.
    #[serde(default)]
    pub health: Vec<Trouble>,
    /// What every member of the mesh understands.
    #[serde(default)]
    pub level: Level,
    /// Members that understand less than another one; empty = all are alike.
    #[serde(default)]
    pub below: Vec<Understands>,
}

/// A member that understands less than others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Understands {
    /// Its label.
    pub host: String,
    /// The level that it told last; `null` = it never told one, and counts with the first.
    pub level: Option<Level>,
}

/// The host that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisHost {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// What runs guests here; `null` = no usable QEMU.
    pub accelerator: Option<Accelerator>,
    /// Seconds since the agent started.
    pub up_s: u64,
    /// The relay this host serves.
    pub relay: Option<String>,
}

/// Something that keeps an agent from doing its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// What was seen.
    pub because: String,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Plight>>,
    /// The command that helps.
    pub next: Option<String>,
}

impl From<Plight> for Trouble {
    fn from(plight: Plight) -> Trouble {
        let (what, next, why) = (plight.what(), plight.next(), Why::new(plight));
        Trouble { what, because: why.text.clone(), why: Some(why), next }
    }
}

/// Something a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is wrong.
    pub what: String,
    /// The command that helps.
    pub next: Option<String>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// How it is reached now; `null` = not known, or not reached.
    pub path: Option<Path>,
}

/// Whether a member is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Heard.
    Up,
    /// Quiet for longer than usual.
    Suspect,
    /// Not heard for too long.
    Down,
    /// Went in order.
    Left,
    /// Was cut off.
    Evicted,
}

impl MemberState {
    /// Judges a member by whether gossip hears it now, or did until a moment ago.
    pub fn heard(now: bool, a_moment_ago: bool) -> MemberState {
        match (now, a_moment_ago) {
            (true, _) => MemberState::Up,
            (false, true) => MemberState::Suspect,
            (false, false) => MemberState::Down,
        }
    }
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Which sort.
    pub kind: PathKind,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The host whose relay is used.
    pub via: Option<String>,
}

/// Which sort of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// The host itself.
    #[serde(rename = "self")]
    Me,
    /// Straight from socket to socket.
    Direct,
    /// Through a relay.
    Relayed,
    /// There, without a connection at the moment: one is made when there is something to say.
    Idle,
}
