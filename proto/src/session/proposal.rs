//! The words of what is planned: a plan, what would change by it, and what is in its way.

use std::net::Ipv4Addr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Guard, Made, Prefix};
use crate::{
    id::{Digest, Epoch, Generation, HostId, MachineName},
    level::Level,
    reasons::{Cause, Hindrance, Unchosen},
    topology::ImageRef,
};

/// An immutable assignment of machines to hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Plan {
    /// This plan's number; greater than its parent's.
    #[n(0)]
    pub generation: Generation,
    /// The plan that this one replaces. It commits only while that one is current.
    #[n(1)]
    pub parent: Generation,
    /// The session's network; `.1` is the gateway.
    #[n(2)]
    pub subnet: Prefix,
    /// One entry a machine, sorted by name.
    #[n(3)]
    pub placements: Vec<Placement>,
    /// The session's level when it was made: who is placed on has to understand that. It commits only at that level.
    #[serde(default)]
    #[n(4)]
    pub level: Level,
}

/// Where one machine is and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Placement {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// The host that runs it.
    #[n(1)]
    pub host: HostId,
    /// Its incarnation.
    #[n(2)]
    pub epoch: Epoch,
    /// Its address, which belongs to the machine and outlives epochs.
    #[n(3)]
    pub address: Ipv4Addr,
    /// Its MAC address, derived from session and machine.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub mac: [u8; 6],
    /// The image's content.
    #[n(5)]
    pub image: Digest,
    /// Size of the image in bytes.
    #[n(6)]
    pub image_size: u64,
    /// How the topology named the image.
    #[n(7)]
    pub image_name: ImageRef,
    /// What guards this incarnation.
    #[n(8)]
    pub guard: Guard,
    /// Why this host, in words.
    #[n(9)]
    pub because: String,
    /// Size of its disk in MiB; `None` = the image's own size. It only grows.
    #[n(10)]
    pub disk_mib: Option<u64>,
    /// What its disk was made with beside the image.
    #[n(11)]
    pub made: Made,
}

/// Why a machine cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Obstacle {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// The reason, in words that name what would help.
    #[n(1)]
    pub because: String,
    /// The reason, unless only a later version knows it.
    #[cbor(n(2), with = "crate::wire::fields::reason", has_nil)]
    pub why: Option<Hindrance>,
}

impl Obstacle {
    /// Says why a machine cannot be placed.
    pub fn new(machine: MachineName, why: Hindrance) -> Obstacle {
        Obstacle { machine, because: why.to_string(), why: Some(why) }
    }
}

/// A host that was not chosen for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Rejection {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// The host.
    #[n(1)]
    pub host: HostId,
    /// The reason, in words.
    #[n(2)]
    pub because: String,
    /// The reason, unless only a later version knows it.
    #[cbor(n(3), with = "crate::wire::fields::reason", has_nil)]
    pub why: Option<Unchosen>,
}

impl Rejection {
    /// Says why a host was not chosen for a machine.
    pub fn new(machine: MachineName, host: HostId, why: Unchosen) -> Rejection {
        Rejection { machine, host, because: why.to_string(), why: Some(why) }
    }
}

/// What would happen to one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Change {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// What happens to it.
    #[n(1)]
    pub action: ChangeAction,
    /// For [`ChangeAction::Change`]: what becomes of its disk.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub how: Option<How>,
    /// The host it is on, or was on.
    #[n(3)]
    pub host: HostId,
    /// Why, in words.
    #[n(4)]
    pub because: String,
    /// Why, unless only a later version knows it.
    #[cbor(n(5), with = "crate::wire::fields::reason", has_nil)]
    pub why: Option<Cause>,
}

/// What a change does to a machine's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(index_only)]
pub enum How {
    /// It stays.
    #[serde(rename = "in place")]
    #[n(0)]
    InPlace,
    /// An empty one takes its place.
    #[serde(rename = "replace")]
    #[n(1)]
    Replace,
}

/// What happens to a machine between two plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum ChangeAction {
    /// It did not exist.
    #[n(0)]
    Create,
    /// It is started again with other settings; the reason says "in place" or "replace".
    #[n(1)]
    Change,
    /// It goes.
    #[n(2)]
    Remove,
    /// Nothing happens.
    #[n(3)]
    Keep,
}

/// What the planner answers: the plan it would commit, and everything a person wants to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Proposal {
    /// The plan; `None` when there are obstacles or disks that nobody said may be lost.
    #[cbor(n(0), with = "crate::wire::fields::option", has_nil)]
    pub plan: Option<Plan>,
    /// Every machine of the old and the new plan.
    #[n(1)]
    pub changes: Vec<Change>,
    /// Every host that was not chosen, per machine.
    #[n(2)]
    pub rejected: Vec<Rejection>,
    /// Everything that stands in the way, not only the first.
    #[n(3)]
    pub obstacles: Vec<Obstacle>,
    /// Started disks that would be lost although nobody said that they may be. Then there is no plan.
    #[n(4)]
    pub unasked: Vec<Change>,
    /// What would travel: (host, image, bytes).
    #[cbor(n(5), with = "crate::wire::fields::parts")]
    pub fetch: Vec<(HostId, Digest, u64)>,
    /// What a person should know before saying yes.
    #[n(6)]
    pub notes: Vec<String>,
}
