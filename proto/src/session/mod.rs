//! The words of a running session: what hosts offer, the hard state and what changes it, what a host sees; `proposal` has
//! those of what is planned, `refused` of what changed nothing, `share` of what one host must make true, `command` what is written.
//! The rules on them live in the files beside this one:
//!
//! - `state`: the hard state that voters store, `Command` in, refusal or `State` out;
//! - `plan`: (state, inventory) -> plan or obstacles, with `schedule` for the hosts and `overlay`
//!   for the addresses;
//! - `disk`: what becomes of a machine's disk, and whose may be lost;
//! - `understood`: what of a topology everybody who reads the session understands;
//! - `slice`: state -> the share of one host;
//! - `mandate`: what an operator signed, and whether a share keeps to it;
//! - `order`: who may start now, given who is ready;
//! - `reconcile`: (share, observed) -> actions;
//! - `voters`: how many voters, and which hosts;
//! - `voices`: whose word on a session a host believes.

mod command;
pub mod difference;
pub mod disk;
#[cfg(test)]
pub(crate) mod fixture;
pub mod mandate;
pub mod order;
pub mod overlay;
pub mod plan;
mod proposal;
pub mod reconcile;
mod refused;
pub mod schedule;
mod share;
pub mod slice;
pub mod state;
pub mod understood;
pub mod voices;
pub mod voters;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, Epoch, HostId, MachineName, Name, SessionId},
    level::{self, Level},
    reasons::Because,
    time::Timestamp,
    topology::{Contents, Intent},
};
pub use command::{Command, Decision};
pub use disk::{Made, Replace};
pub use mandate::{Charge, Mandate, SignedMandate, Unsigned};
pub use proposal::{Change, ChangeAction, How, Obstacle, Placement, Plan, Proposal, Rejection};
pub use refused::Refused;
pub use share::{Directory, GroupEntry, MachineEntry, MachineFile, MachineSpec, Share, Voices};

/// What a machine's incarnation is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Guard {
    /// Never started elsewhere; runs on through any partition.
    #[n(0)]
    Hold,
    /// The right to keep running until a deadline. Not given out in this version.
    #[n(1)]
    Lease,
}

/// What the hosts of the mesh offer now, gathered from signed host and image records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Inventory {
    /// Members by id, with down ones, which are never chosen but get a reason.
    #[n(0)]
    pub hosts: BTreeMap<HostId, HostFacts>,
    /// Known images by name.
    #[n(1)]
    pub images: BTreeMap<String, ImageFacts>,
    /// Hosts that were members and are out for good.
    #[serde(default)]
    #[cbor(n(2), with = "crate::wire::fields::usual", has_nil)]
    pub out: BTreeSet<HostId>,
}

impl Inventory {
    /// Gives what all hosts understand that ever said so: the level of a session that begins here. One that never
    /// said it may understand less; then it gets no part in the session, and is named.
    pub fn level(&self) -> Level {
        level::lowest(self.hosts.values().map(|host| host.level))
    }
}

/// What one host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct HostFacts {
    /// Its label.
    #[n(0)]
    pub name: Name,
    /// Whether gossip sees it.
    #[n(1)]
    pub up: bool,
    /// CPU architecture as in `std::env::consts::ARCH`.
    #[n(2)]
    pub arch: String,
    /// The proved accelerator; `None` = no usable QEMU, so it never runs machines.
    #[cbor(n(3), with = "crate::wire::fields::option", has_nil)]
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    #[n(4)]
    pub cpus: u32,
    /// Memory in MiB given to the mesh, before any machine.
    #[n(5)]
    pub memory_mib: u64,
    /// Disk in MiB free for machines.
    #[n(6)]
    pub disk_mib: u64,
    /// Disk in MiB that stays free for the host itself, besides.
    #[n(7)]
    pub disk_kept_mib: u64,
    /// Whether its owner lets it run machines for others; and the reason why not.
    #[n(8)]
    pub runs_machines: bool,
    /// Memory in MiB held by machines of *other* sessions.
    #[n(9)]
    pub memory_used_mib: u64,
    /// Its tags.
    #[n(10)]
    pub tags: BTreeMap<String, String>,
    /// Images that are complete here.
    #[n(11)]
    pub images: BTreeSet<Digest>,
    /// Prefixes of its own networks, which a session's addresses avoid.
    #[n(12)]
    pub prefixes: Vec<Prefix>,
    /// Round trip in milliseconds from the planner, when known.
    #[n(13)]
    pub rtt_ms: Option<u32>,
    /// What its agent understands.
    #[serde(default)]
    #[n(14)]
    pub level: Level,
    /// Whether its owner lets machines into its own network.
    #[serde(default)]
    #[cbor(n(15), with = "crate::wire::fields::usual", has_nil)]
    pub lan: bool,
    /// Whether its owner lets it listen for services in its own network.
    #[serde(default)]
    #[cbor(n(16), with = "crate::wire::fields::usual", has_nil)]
    pub publishes: bool,
    /// Whether its certificate keeps it from running machines.
    #[serde(default)]
    #[cbor(n(17), with = "crate::wire::fields::usual", has_nil)]
    pub barred: bool,
}

/// An IPv4 prefix.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(map)]
pub struct Prefix {
    /// First address.
    #[n(0)]
    pub base: Ipv4Addr,
    /// Prefix length, 0 to 32.
    #[n(1)]
    pub len: u8,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Accelerator {
    /// Hardware virtualisation, proved by running code at speed.
    #[n(0)]
    Kvm,
    /// QEMU's translator: works everywhere, 10 to 30 times slower.
    #[n(1)]
    Tcg,
}

/// An image as members know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct ImageFacts {
    /// BLAKE3 of the raw content.
    #[n(0)]
    pub digest: Digest,
    /// Size of the raw content in bytes.
    #[n(1)]
    pub size: u64,
    /// Architecture it boots on.
    #[n(2)]
    pub arch: String,
}

/// The hard state of one session, the same on every voter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct State {
    /// The session's identity.
    #[n(0)]
    pub id: SessionId,
    /// Its label.
    #[n(1)]
    pub name: Name,
    /// When it was made.
    #[n(2)]
    pub stamp: Timestamp,
    /// Grows with every command that changes anything a share shows. Shares carry it.
    #[n(3)]
    pub version: u64,
    /// Counts recoveries after a lost quorum; compared before the version.
    #[n(4)]
    pub recovery: u64,
    /// The latest topology.
    #[cbor(n(5), with = "crate::wire::fields::option", has_nil)]
    pub intent: Option<Intent>,
    /// The current plan.
    #[cbor(n(6), with = "crate::wire::fields::option", has_nil)]
    pub plan: Option<Plan>,
    /// The highest epoch ever given to each machine, also of removed ones.
    #[n(7)]
    pub epochs: BTreeMap<MachineName, Epoch>,
    /// The incarnation of each machine that was allowed to start: it may have a disk.
    #[n(8)]
    pub granted: BTreeMap<MachineName, Epoch>,
    /// The address of each machine, also of removed ones while there is room.
    #[n(9)]
    pub addresses: BTreeMap<MachineName, Ipv4Addr>,
    /// Machines that the user stopped.
    #[n(10)]
    pub stopped: BTreeSet<MachineName>,
    /// How often a person asked for the start of each machine.
    #[n(11)]
    pub starts: BTreeMap<MachineName, u64>,
    /// Incarnations that hosts must remove, until they say it is done.
    #[n(12)]
    pub drops: BTreeMap<MachineName, Vec<Drop>>,
    /// Whether `session down` was committed. Nothing starts afterwards.
    #[n(13)]
    pub ended: bool,
    /// The session's own key pair for `machine ssh`: OpenSSH ed25519 seed, 32 bytes.
    #[cbor(n(14), with = "minicbor::bytes")]
    pub ssh_seed: [u8; 32],
    /// The bytes of the topology's files, and of those of one that is being written; absent = none.
    #[cbor(n(15), default)]
    pub contents: Contents,
    /// What everybody understands who stores it or is brought a share of it. It never falls.
    #[n(16)]
    pub level: Level,
    /// Hosts that had machines and are out of the mesh for good: what was there is not to be waited for.
    #[cbor(n(17), with = "crate::wire::fields::usual", has_nil)]
    pub out: BTreeSet<HostId>,
    /// What an operator signed of it last.
    #[cbor(n(18), with = "crate::wire::fields::option", has_nil)]
    pub mandate: Option<SignedMandate>,
}

/// An incarnation that its host must remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Drop {
    /// The host that has it.
    #[n(0)]
    pub host: HostId,
    /// The incarnation; this one and all before it.
    #[n(1)]
    pub epoch: Epoch,
}

/// The life of one machine as people and names see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Phase {
    /// Something that it needs is not ready yet.
    #[n(0)]
    Waiting,
    /// Its image is on the way.
    #[n(1)]
    Fetching,
    /// Disks are made, QEMU is being started.
    #[n(2)]
    Starting,
    /// QEMU runs.
    #[n(3)]
    Running,
    /// The guest answers on the network.
    #[n(4)]
    Booted,
    /// All its services' checks pass.
    #[n(5)]
    Ready,
    /// QEMU holds the guest until its disk can be written again; the reason says more.
    #[n(6)]
    Paused,
    /// It ended or could not start, and no restart is due; the reason says more.
    #[n(7)]
    Failed,
    /// The user stopped it, or it stopped and is not restarted.
    #[n(8)]
    Stopped,
}

/// What a host says about one of its machines, gossiped in its signed session record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct MachineReport {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// The incarnation that the report is about.
    #[n(1)]
    pub epoch: Epoch,
    /// Where it is in its life.
    #[n(2)]
    pub phase: Phase,
    /// Why, when the phase alone does not say it; at most 200 characters.
    #[n(3)]
    pub reason: Option<String>,
    /// The same as a value, unless only a later version knows it.
    #[cbor(n(4), with = "crate::wire::fields::reason", has_nil)]
    pub why: Option<Because>,
    /// Whether the guest has its IPv6 address: only then do names answer with it. Absent = nobody saw it.
    #[serde(default)]
    #[cbor(n(5), with = "crate::wire::fields::usual", has_nil)]
    pub v6: bool,
}

impl MachineReport {
    /// Says where a machine is in its life, and why.
    pub fn new(machine: MachineName, epoch: Epoch, (phase, why): (Phase, Option<Because>)) -> MachineReport {
        let reason = why.as_ref().map(Because::to_string);
        MachineReport { machine, epoch, phase, reason, why, v6: false }
    }
}
