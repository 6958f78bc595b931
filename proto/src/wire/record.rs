//! The bodies of signed gossip records: what a host says about itself. Soft: shown, preferred,
//! scheduled by; never the reason to start or kill a machine.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, Generation, HostId, Name, SessionId},
    session::{Accelerator, MachineReport, Prefix},
    time::Timestamp,
};

/// Where a record stands among the records of its host. The chitchat key is its text form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// One per host.
    Host,
    /// One per image that the host holds or is fetching.
    Image(Digest),
    /// One per session in which the host runs machines.
    Session(SessionId),
    /// One per session that the host coordinates.
    Head(SessionId),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "each host has exactly one of the large kind")]
pub enum Body {
    /// For [`RecordKey::Host`].
    Host(HostRecord),
    /// For [`RecordKey::Image`].
    Image(ImageRecord),
    /// For [`RecordKey::Session`].
    Session(SessionRecord),
    /// For [`RecordKey::Head`].
    Head(HeadRecord),
}

/// A host about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its label.
    pub name: Name,
    /// The agent's version.
    pub version: String,
    /// How to reach it.
    pub reach: Reach,
    /// CPU architecture as in `std::env::consts::ARCH`.
    pub arch: String,
    /// The proved accelerator; `None` = no usable QEMU.
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    pub cpus: u32,
    /// Memory in MiB given to the mesh.
    pub memory_mib: u64,
    /// Disk in MiB free for machines.
    pub disk_mib: u64,
    /// Disk in MiB that stays free for the host itself and is not in `disk_mib`.
    pub disk_kept_mib: u64,
    /// What keeps its agent from storing anything.
    pub trouble: Option<String>,
    /// Whether it runs machines for others.
    pub runs_machines: bool,
    /// Memory in MiB held by machines, by session.
    pub memory_used_mib: BTreeMap<SessionId, u64>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Prefixes of its own networks.
    pub prefixes: Vec<Prefix>,
    /// Whether it has no battery, or has been up for a day: fit to be a voter.
    pub steady: bool,
    /// Whether it may admit others.
    pub issuer: bool,
}

/// How to reach a host, as gossip, tokens and the cache on disk tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Direct addresses, 6 at most.
    pub addresses: Vec<SocketAddr>,
    /// Relay URLs through which it can be reached, 2 at most.
    pub relays: Vec<String>,
    /// The relay it serves itself.
    pub serves: Option<RelayOffer>,
}

/// A relay that a host serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayOffer {
    /// `http://IP:PORT`.
    pub url: String,
    /// UDP port of address discovery.
    pub qad_port: u16,
    /// BLAKE3 of the certificate of address discovery.
    pub certificate: Digest,
}

/// An image on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Names that the mesh knows it by, and when each was given: the newest giving of a name wins.
    pub names: BTreeMap<String, Timestamp>,
    /// Size of the raw content in bytes.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Architecture.
    pub arch: String,
    /// Whether all of it is here.
    pub complete: bool,
}

/// A host's machines of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The version of the share that the host acts on.
    pub version: u64,
    /// Its machines, 40 at most in one record; the rest is asked by RPC.
    pub machines: Vec<MachineReport>,
}

/// A coordinator about its session: what everybody needs to ask for more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// Its label.
    pub name: Name,
    /// When it was made.
    pub stamp: Timestamp,
    /// Raft term of the coordinator: of two heads, the higher (recovery, term, version) is right.
    pub term: u64,
    /// Recoveries.
    pub recovery: u64,
    /// Version of the hard state: a host with an older share asks for the new one.
    pub version: u64,
    /// The plan's generation.
    pub generation: Generation,
    /// Hosts that store and vote.
    pub voters: Vec<HostId>,
    /// Whether it has ended.
    pub ended: bool,
}
