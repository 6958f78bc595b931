//! The words of a running session: what hosts offer, what is planned, what one host must make
//! true, what it sees. The rules on them live in the files beside this one:
//!
//! - `state`: the hard state that voters store, `Command` in, refusal or `State` out;
//! - `plan`: (state, inventory) -> plan or obstacles, with `schedule` for the hosts and `overlay`
//!   for the addresses;
//! - `disk`: what becomes of a machine's disk, and whose may be lost;
//! - `slice`: state -> the share of one host;
//! - `order`: who may start now, given who is ready;
//! - `reconcile`: (share, observed) -> actions;
//! - `voters`: how many voters, and which hosts;
//! - `voices`: whose word on a session a host believes.

pub mod difference;
pub mod disk;
#[cfg(test)]
pub(crate) mod fixture;
pub mod order;
pub mod overlay;
pub mod plan;
pub mod reconcile;
pub mod schedule;
pub mod slice;
pub mod state;
pub mod voices;
pub mod voters;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, Epoch, Generation, HostId, MachineName, Name, SessionId},
    time::Timestamp,
    topology::{Failover, ImageRef, Intent, Ready, Restart},
};
pub use disk::{Made, Replace};

/// What a machine's incarnation is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Never started elsewhere; runs on through any partition.
    Hold,
    /// The right to keep running until a deadline. Not given out in this version.
    Lease,
}

/// What the hosts of the mesh offer now, gathered from signed host and image records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Members by id, with down ones, which are never chosen but get a reason.
    pub hosts: BTreeMap<HostId, HostFacts>,
    /// Known images by name.
    pub images: BTreeMap<String, ImageFacts>,
}

/// What one host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its label.
    pub name: Name,
    /// Whether gossip sees it.
    pub up: bool,
    /// CPU architecture as in `std::env::consts::ARCH`.
    pub arch: String,
    /// The proved accelerator; `None` = no usable QEMU, so it never runs machines.
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    pub cpus: u32,
    /// Memory in MiB given to the mesh, before any machine.
    pub memory_mib: u64,
    /// Disk in MiB free for machines.
    pub disk_mib: u64,
    /// Disk in MiB that stays free for the host itself, besides.
    pub disk_kept_mib: u64,
    /// Whether its owner lets it run machines for others; and the reason why not.
    pub runs_machines: bool,
    /// Memory in MiB held by machines of *other* sessions.
    pub memory_used_mib: u64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Images that are complete here.
    pub images: BTreeSet<Digest>,
    /// Prefixes of its own networks, which a session's addresses avoid.
    pub prefixes: Vec<Prefix>,
    /// Round trip in milliseconds from the planner, when known.
    pub rtt_ms: Option<u32>,
}

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// First address.
    pub base: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub len: u8,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation, proved by running code at speed.
    Kvm,
    /// QEMU's translator: works everywhere, 10 to 30 times slower.
    Tcg,
}

/// An image as members know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// BLAKE3 of the raw content.
    pub digest: Digest,
    /// Size of the raw content in bytes.
    pub size: u64,
    /// Architecture it boots on.
    pub arch: String,
}

/// An immutable assignment of machines to hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// This plan's number; greater than its parent's.
    pub generation: Generation,
    /// The plan that this one replaces. It commits only while that one is current.
    pub parent: Generation,
    /// The session's network; `.1` is the gateway.
    pub subnet: Prefix,
    /// One entry a machine, sorted by name.
    pub placements: Vec<Placement>,
}

/// Where one machine is and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The machine.
    pub machine: MachineName,
    /// The host that runs it.
    pub host: HostId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its address, which belongs to the machine and outlives epochs.
    pub address: Ipv4Addr,
    /// Its MAC address, derived from session and machine.
    pub mac: [u8; 6],
    /// The image's content.
    pub image: Digest,
    /// Size of the image in bytes.
    pub image_size: u64,
    /// How the topology named the image.
    pub image_name: ImageRef,
    /// What guards this incarnation.
    pub guard: Guard,
    /// Why this host, in words.
    pub because: String,
    /// Size of its disk in MiB; `None` = the image's own size. It only grows.
    pub disk_mib: Option<u64>,
    /// What its disk was made with beside the image.
    pub made: Made,
}

/// Why a machine cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The machine.
    pub machine: MachineName,
    /// The reason, in words that name what would help.
    pub because: String,
}

/// A host that was not chosen for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The machine.
    pub machine: MachineName,
    /// The host.
    pub host: HostId,
    /// The reason.
    pub because: String,
}

/// What would happen to one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The machine.
    pub machine: MachineName,
    /// What happens to it.
    pub action: ChangeAction,
    /// For [`ChangeAction::Change`]: what becomes of its disk.
    pub how: Option<How>,
    /// The host it is on, or was on.
    pub host: HostId,
    /// Why.
    pub because: String,
}

/// What a change does to a machine's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// It stays.
    #[serde(rename = "in place")]
    InPlace,
    /// An empty one takes its place.
    #[serde(rename = "replace")]
    Replace,
}

/// What happens to a machine between two plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// It did not exist.
    Create,
    /// It is started again with other settings; the reason says "in place" or "replace".
    Change,
    /// It goes.
    Remove,
    /// Nothing happens.
    Keep,
}

/// What the planner answers: the plan it would commit, and everything a person wants to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The plan; `None` when there are obstacles or disks that nobody said may be lost.
    pub plan: Option<Plan>,
    /// Every machine of the old and the new plan.
    pub changes: Vec<Change>,
    /// Every host that was not chosen, per machine.
    pub rejected: Vec<Rejection>,
    /// Everything that stands in the way, not only the first.
    pub obstacles: Vec<Obstacle>,
    /// Started disks that would be lost although nobody said that they may be. Then there is no plan.
    pub unasked: Vec<Change>,
    /// What would travel: (host, image, bytes).
    pub fetch: Vec<(HostId, Digest, u64)>,
    /// What a person should know before saying yes.
    pub notes: Vec<String>,
}

/// The hard state of one session, the same on every voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The session's identity.
    pub id: SessionId,
    /// Its label.
    pub name: Name,
    /// When it was made.
    pub stamp: Timestamp,
    /// Grows with every command that changes anything a share shows. Shares carry it.
    pub version: u64,
    /// Counts recoveries after a lost quorum; compared before the version.
    pub recovery: u64,
    /// The latest topology.
    pub intent: Option<Intent>,
    /// The current plan.
    pub plan: Option<Plan>,
    /// The highest epoch ever given to each machine, also of removed ones.
    pub epochs: BTreeMap<MachineName, Epoch>,
    /// The incarnation of each machine that was allowed to start: it may have a disk.
    pub granted: BTreeMap<MachineName, Epoch>,
    /// The address of each machine, also of removed ones while there is room.
    pub addresses: BTreeMap<MachineName, Ipv4Addr>,
    /// Machines that the user stopped.
    pub stopped: BTreeSet<MachineName>,
    /// How often a person asked for the start of each machine.
    pub starts: BTreeMap<MachineName, u64>,
    /// Incarnations that hosts must remove, until they say it is done.
    pub drops: BTreeMap<MachineName, Vec<Drop>>,
    /// Whether `session down` was committed. Nothing starts afterwards.
    pub ended: bool,
    /// The session's own key pair for `machine ssh`: OpenSSH ed25519 seed, 32 bytes.
    pub ssh_seed: [u8; 32],
}

/// An incarnation that its host must remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The host that has it.
    pub host: HostId,
    /// The incarnation; this one and all before it.
    pub epoch: Epoch,
}

/// What may be written into the hard state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry. A second one is refused.
    Create {
        /// The session's identity.
        id: SessionId,
        /// Its label.
        name: Name,
        /// When it was made.
        stamp: Timestamp,
        /// The key pair of `machine ssh`.
        ssh_seed: [u8; 32],
    },
    /// A topology and the plan that makes it true, together, by compare-and-swap on the plan.
    Apply {
        /// The topology with its files.
        intent: Intent,
        /// The plan; its parent must be current.
        plan: Plan,
        /// Whose started disks it may replace.
        replace: Replace,
    },
    /// A host is told that it may start an incarnation for the first time. Written before it is told.
    Grant {
        /// The machine.
        machine: MachineName,
        /// The host that asked.
        host: HostId,
        /// The incarnation.
        epoch: Epoch,
    },
    /// `machine stop` and `machine start`.
    Wish {
        /// The machine.
        machine: MachineName,
        /// Whether it shall run.
        run: bool,
    },
    /// A host removed this incarnation: QEMU dead, disk gone.
    Dropped {
        /// The machine.
        machine: MachineName,
        /// The host that says so.
        host: HostId,
        /// This incarnation and all before it.
        epoch: Epoch,
    },
    /// `session down`: every machine goes, nothing starts again.
    End,
}

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The state has no [`Command::Create`] yet, or has one already.
    #[error("the session exists already, or not yet")]
    Existence,
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// Someone else committed a plan in between.
    #[error("the plan changed meanwhile: it is generation {current}, this one was made for {parent}")]
    NotCurrent {
        /// The committed plan.
        current: Generation,
        /// The parent that the refused plan names.
        parent: Generation,
    },
    /// The plan breaks a rule that keeps machines from running twice.
    #[error("the plan is not safe: {0}")]
    Unsafe(String),
    /// A disk that was started would be lost, and nobody said that it may be.
    #[error("{0} was started and nobody said that its disk may be replaced")]
    Started(MachineName),
    /// No such machine in the plan.
    #[error("the session has no machine {0}")]
    NoMachine(MachineName),
    /// This incarnation may not start: it is stopped, removed, elsewhere, or not the current one.
    #[error("{0} is not to be started there")]
    NoStart(MachineName),
}

/// What one host must make true for one session, and what it must know to do so. Always whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The session.
    pub session: SessionId,
    /// Its label.
    pub name: Name,
    /// When it was made; decides which of two sessions keeps a name.
    pub stamp: Timestamp,
    /// Orders shares: a host refuses what is older by (recovery, version).
    pub recovery: u64,
    /// See `recovery`.
    pub version: u64,
    /// The plan's generation.
    pub generation: Generation,
    /// Whether the session has ended.
    pub ended: bool,
    /// Everybody's names and addresses: for routing, names and readiness.
    pub directory: Directory,
    /// The machines of this host, all of them.
    pub machines: Vec<MachineSpec>,
    /// Incarnations of this host that must go, explicitly.
    pub drops: Vec<(MachineName, Epoch)>,
    /// The session's key pair for `machine ssh` (ed25519 seed).
    pub ssh_seed: [u8; 32],
}

/// Who is where in a session. Every member has it, so names work everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The session's network; `.1` is the gateway.
    pub subnet: Prefix,
    /// The groups by name.
    pub groups: BTreeMap<Name, GroupEntry>,
}

impl Directory {
    /// Lists every machine of every group.
    pub fn machines(&self) -> impl Iterator<Item = &MachineEntry> {
        self.groups.values().flat_map(|group| &group.machines)
    }

    /// Finds a machine.
    pub fn find(&self, machine: &MachineName) -> Option<&MachineEntry> {
        self.groups.get(&machine.group)?.machines.iter().find(|entry| entry.machine == *machine)
    }
}

/// One group in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Ports by service name.
    pub services: BTreeMap<Name, u16>,
    /// Services whose check speaks HTTP, so that a browser may be sent there.
    pub http: BTreeSet<Name>,
    /// Groups that must be ready first.
    pub needs: BTreeSet<Name>,
    /// The machines, sorted by number.
    pub machines: Vec<MachineEntry>,
}

/// One machine in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineEntry {
    /// The machine.
    pub machine: MachineName,
    /// Its host: the owner of its readiness.
    pub host: HostId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its address.
    pub address: Ipv4Addr,
    /// What guards it.
    pub guard: Guard,
    /// Login user for `machine ssh`; `None` = root.
    pub user: Option<Name>,
    /// Whether the user wants it to run now.
    pub run: bool,
}

/// Everything a host needs to make one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The machine.
    pub machine: MachineName,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Whether the user wants it to run now.
    pub run: bool,
    /// How often a person asked for its start: each time the failures before it are forgotten.
    #[serde(default)]
    pub starts: u64,
    /// The image's content.
    pub image: Digest,
    /// Size of the image in bytes.
    pub image_size: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the disk in MiB; `None` = the image's own size.
    pub disk_mib: Option<u64>,
    /// Its address in the session's network.
    pub address: Ipv4Addr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Groups that must be ready first.
    pub needs: BTreeSet<Name>,
    /// What guards this incarnation.
    pub guard: Guard,
    /// What happens when QEMU ends by itself.
    pub restart: Restart,
    /// What the topology wishes for the host's death; shown, not acted on in this version.
    pub failover: Failover,
    /// Ports and checks by service name.
    pub services: BTreeMap<Name, (u16, Option<Ready>)>,
    /// Shell commands of the first boot.
    pub setup: Vec<String>,
    /// Files of the first boot: (path, mode, owner, content).
    pub files: Vec<(String, u32, Option<String>, Vec<u8>)>,
    /// Environment of setup and login shells.
    pub env: BTreeMap<String, String>,
    /// Public keys that may log in, one `ssh-...` line each, the session's own included.
    pub ssh_keys: Vec<String>,
    /// Login user; `None` = the image's default.
    pub user: Option<Name>,
    /// The machine's own SSH host key (ed25519 seed), injected and so known in advance.
    pub host_key_seed: [u8; 32],
}

/// The life of one machine as people and names see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Something that it needs is not ready yet.
    Waiting,
    /// Its image is on the way.
    Fetching,
    /// Disks are made, QEMU is being started.
    Starting,
    /// QEMU runs.
    Running,
    /// The guest answers on the network.
    Booted,
    /// All its services' checks pass.
    Ready,
    /// QEMU holds the guest until its disk can be written again; the reason says more.
    Paused,
    /// It ended or could not start, and no restart is due; the reason says more.
    Failed,
    /// The user stopped it, or it stopped and is not restarted.
    Stopped,
}

/// What a host says about one of its machines, gossiped in its signed session record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The machine.
    pub machine: MachineName,
    /// The incarnation that the report is about.
    pub epoch: Epoch,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why, when the phase alone does not say it; at most 200 characters.
    pub reason: Option<String>,
}
