//! The ways to other hosts, as `agent net` shows them.

use serde::{Deserialize, Serialize};

use super::{MemberState, PathKind};
use crate::reachability::situation::{Mapping, Standing, Udp};

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

/// What `agent net check` shows: how this host itself stands in the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetCheck {
    /// This host.
    pub host: String,
    /// How it stands.
    pub standing: Standing,
    /// The same for people.
    pub because: String,
    /// The command that helps, if one does.
    pub next: Option<String>,
    /// Whether UDP passes.
    pub udp: Udp,
    /// What a router in between does with ports; `null` = not seen from two places yet.
    pub nat: Option<Mapping>,
    /// How others see this host.
    pub public: Vec<String>,
    /// Where the router lets others in by a port that it mapped; `null` = it maps none.
    #[serde(default)]
    pub mapped: Option<String>,
    /// Where a member has dialled this host from outside its networks; `null` = nobody has.
    #[serde(default)]
    pub proved: Option<String>,
    /// The relay of strangers through which others reach this host; `null` = it needs none.
    #[serde(default)]
    pub fallback: Option<String>,
    /// The relay that this host serves.
    pub relay: Option<String>,
    /// The relays that are offered to this host.
    pub relays: Vec<RelayRow>,
    /// The addresses that this host has, the best first.
    pub addresses: Vec<AddressRow>,
    /// What the connections with other members carried.
    pub traffic: TrafficRow,
}

/// A relay as this host uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRow {
    /// Whose it is; `null` = of nobody who is known.
    pub host: Option<String>,
    /// Where.
    pub url: String,
    /// Whether others reach this host through it.
    pub home: bool,
    /// Whether there is a connection to it now; `null` = it is not the home.
    pub connected: Option<bool>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub address: String,
    /// Whether others are told of it.
    pub published: bool,
    /// Why, or why not.
    pub because: String,
}

/// What was carried within the last hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// For so long it was counted.
    pub seconds: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes a second sent in the quietest minute; `null` = no minute is over yet.
    pub idle_sent_bps: Option<f64>,
    /// The same of what came.
    pub idle_received_bps: Option<f64>,
}

/// What `agent host rtt` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rtts {
    /// All members that were asked, this host included, by name.
    pub hosts: Vec<String>,
    /// Each pair of them, both ways round.
    pub rtts: Vec<RttRow>,
    /// Those that did not answer in time, or are of a version that cannot.
    pub silent: Vec<String>,
}

/// How far one host is from another, as the first one measures it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RttRow {
    /// Who measures.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Smoothed round trip in milliseconds.
    pub rtt_ms: f64,
    /// Which sort of way.
    pub kind: PathKind,
}
