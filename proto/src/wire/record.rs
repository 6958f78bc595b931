//! The bodies of signed gossip records: what a host says about itself. Soft: shown, preferred,
//! scheduled by; never the reason to start or kill a machine.

use std::{collections::BTreeMap, net::SocketAddr};

use minicbor::{Decode, Encode};

use crate::{
    id::{Digest, Generation, HostId, Name, SessionId},
    level::Level,
    limits::MAX_PUBLISHED,
    session::{Accelerator, MachineReport, Prefix},
    time::Timestamp,
    wire::{Kind, Message},
};

/// Where a record stands among the records of its host. The chitchat key is its text form, which is also
/// what it is encoded as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// One per host.
    Host,
    /// One per image that the host holds or is fetching.
    Image(Digest),
    /// One per session in which the host runs machines.
    Session(SessionId),
    /// One per session that the host coordinates.
    Head(SessionId),
    /// One per host.
    Seen,
    /// The machines that find no room under [`RecordKey::Session`], by the number of the part, from 1 on. Who does not
    /// know these keys knows the first machines only.
    More(SessionId, u8),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(clippy::large_enum_variant, reason = "each host has exactly one of the large kind")]
#[cbor(map)]
pub enum Body {
    /// For [`RecordKey::Host`].
    #[n(0)]
    Host(#[n(0)] HostRecord),
    /// For [`RecordKey::Image`].
    #[n(1)]
    Image(#[n(0)] ImageRecord),
    /// For [`RecordKey::Session`] and [`RecordKey::More`].
    #[n(2)]
    Session(#[n(0)] SessionRecord),
    /// For [`RecordKey::Head`].
    #[n(3)]
    Head(#[n(0)] HeadRecord),
    /// For [`RecordKey::Seen`].
    #[n(4)]
    Seen(#[n(0)] SeenRecord),
}

/// A host about itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HostRecord {
    /// Its label.
    #[n(0)]
    pub name: Name,
    /// The agent's version.
    #[n(1)]
    pub version: String,
    /// How to reach it.
    #[n(2)]
    pub reach: Reach,
    /// CPU architecture as in `std::env::consts::ARCH`.
    #[n(3)]
    pub arch: String,
    /// The proved accelerator; `None` = no usable QEMU.
    #[cbor(n(4), with = "crate::wire::fields::lenient", has_nil)]
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    #[n(5)]
    pub cpus: u32,
    /// Memory in MiB given to the mesh.
    #[n(6)]
    pub memory_mib: u64,
    /// Disk in MiB free for machines.
    #[n(7)]
    pub disk_mib: u64,
    /// Disk in MiB that stays free for the host itself and is not in `disk_mib`.
    #[n(8)]
    pub disk_kept_mib: u64,
    /// What keeps its agent from storing anything.
    #[n(9)]
    pub trouble: Option<String>,
    /// Whether it runs machines for others.
    #[n(10)]
    pub runs_machines: bool,
    /// Memory in MiB held by machines, by session.
    #[n(11)]
    pub memory_used_mib: BTreeMap<SessionId, u64>,
    /// Its tags.
    #[n(12)]
    pub tags: BTreeMap<String, String>,
    /// Prefixes of its own networks.
    #[n(13)]
    pub prefixes: Vec<Prefix>,
    /// Whether it has no battery, or has been up for a day: fit to be a voter.
    #[n(14)]
    pub steady: bool,
    /// Whether it may admit others.
    #[n(15)]
    pub issuer: bool,
    /// Whether it says what it has seen, under [`RecordKey::Seen`]; absent = it does not, and is not waited for.
    #[cbor(n(16), default)]
    pub tells_seen: bool,
    /// What its agent understands; absent = the first level.
    #[n(17)]
    pub level: Level,
    /// Programs of its own that every member may reach: their ports on its loopback by name, [`MAX_PUBLISHED`] at
    /// most. Absent = none.
    #[cbor(n(18), with = "crate::wire::fields::usual", has_nil)]
    pub published: BTreeMap<Name, u16>,
    /// Whether its owner lets machines into its own network. Absent = no.
    #[cbor(n(19), with = "crate::wire::fields::usual", has_nil)]
    pub lan: bool,
    /// Whether its owner lets it listen for services in its own network; absent = no.
    #[cbor(n(20), with = "crate::wire::fields::usual", has_nil)]
    pub publishes: bool,
}

impl HostRecord {
    /// Gives what it publishes, within the bound that everybody keeps.
    pub fn published(&self) -> impl Iterator<Item = (&Name, u16)> {
        self.published.iter().map(|(name, port)| (name, *port)).take(MAX_PUBLISHED)
    }
}

/// What a host publishes, as it stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Published {
    /// Ports on its loopback by name.
    #[n(0)]
    pub services: BTreeMap<Name, u16>,
}

impl Message for Published {
    const KIND: Kind = Kind::Published;
}

/// How to reach a host, as gossip, tokens and the cache on disk tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reach {
    /// Direct addresses, 6 at most.
    #[n(0)]
    pub addresses: Vec<SocketAddr>,
    /// Relay URLs through which it can be reached, 2 at most.
    #[n(1)]
    pub relays: Vec<String>,
    /// The relay it serves itself.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub serves: Option<RelayOffer>,
}

/// A relay that a host serves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RelayOffer {
    /// `http://IP:PORT`.
    #[n(0)]
    pub url: String,
    /// UDP port of address discovery.
    #[n(1)]
    pub qad_port: u16,
    /// BLAKE3 of the certificate of address discovery.
    #[n(2)]
    pub certificate: Digest,
}

/// An image on a host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImageRecord {
    /// Names that the mesh knows it by, and when each was given: the newest giving of a name wins.
    #[n(0)]
    pub names: BTreeMap<String, Timestamp>,
    /// Size of the raw content in bytes.
    #[n(1)]
    pub size: u64,
    /// Bytes that are not holes.
    #[n(2)]
    pub allocated: u64,
    /// Architecture.
    #[n(3)]
    pub arch: String,
    /// Whether all of it is here.
    #[n(4)]
    pub complete: bool,
}

/// A host's machines of one session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionRecord {
    /// The version of the share that the host acts on.
    #[n(0)]
    pub version: u64,
    /// Its machines, or a part of them; see `picture::told`.
    #[cbor(n(1), with = "crate::wire::fields::known")]
    pub machines: Vec<MachineReport>,
}

/// A coordinator about its session: what everybody needs to ask for more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HeadRecord {
    /// Its label.
    #[n(0)]
    pub name: Name,
    /// When it was made.
    #[n(1)]
    pub stamp: Timestamp,
    /// Raft term of the coordinator: of two heads, the higher (recovery, term, version) is right.
    #[n(2)]
    pub term: u64,
    /// Recoveries.
    #[n(3)]
    pub recovery: u64,
    /// Version of the hard state: a host with an older share asks for the new one.
    #[n(4)]
    pub version: u64,
    /// The plan's generation.
    #[n(5)]
    pub generation: Generation,
    /// Hosts that store and vote.
    #[n(6)]
    pub voters: Vec<HostId>,
    /// Whether it has ended.
    #[n(7)]
    pub ended: bool,
}

/// What a host says that it has seen of others, for those who wait for it; see `picture::acks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SeenRecord {
    /// The sessions that it has a share of, each with a word for what it sees of it.
    #[n(0)]
    pub sessions: BTreeMap<SessionId, u32>,
    /// A word for each image name that it knows with its content, the newest first.
    #[n(1)]
    pub names: Vec<u32>,
    /// A word for each session of which it knows that it has ended, and has nothing any more; the newest first.
    #[n(2)]
    pub ended: Vec<u32>,
}
