//! The ways to other hosts, as `agent net` shows them.

use serde::{Deserialize, Serialize};

use super::{MemberState, PathKind};

/// What `agent net paths` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paths {
    /// The other members, by name.
    pub paths: Vec<PathRow>,
}

/// The way to one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathRow {
    /// The member.
    pub host: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// Which sort of way; `null` = there is no connection.
    pub kind: Option<PathKind>,
    /// Smoothed round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The host whose relay carries it.
    pub via: Option<String>,
    /// The address that answers, or the relay's URL.
    pub address: Option<String>,
}

/// One question to a host, answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    /// How long question and answer took, in milliseconds, the other agent's work included.
    pub ms: f64,
    /// The way when the answer was here.
    pub path: PathRow,
}

/// What `agent net ping` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pings {
    /// Whom it asked.
    pub host: String,
    /// How often.
    pub sent: usize,
    /// What was answered, in the order of the questions.
    pub answers: Vec<Pinged>,
    /// The least that an answer took, in milliseconds.
    pub least_ms: Option<f64>,
    /// What half of the answers took at most.
    pub median_ms: Option<f64>,
    /// The most that one took.
    pub most_ms: Option<f64>,
}
