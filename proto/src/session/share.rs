//! The words of a share: who is where in a session, for everybody, and what one host must make true of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Guard, Prefix, SignedMandate};
use crate::{
    id::{Digest, Epoch, Generation, HostId, MachineName, Name, SessionId},
    level::Level,
    time::Timestamp,
    topology::{Content, Egress, Failover, Port, Protocol, Publish, Restart, Service},
    wire::{Kind, Message},
};

/// What one host must make true for one session, and what it must know to do so. Always whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Share {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// Its label.
    #[n(1)]
    pub name: Name,
    /// When it was made; decides which of two sessions keeps a name.
    #[n(2)]
    pub stamp: Timestamp,
    /// Orders shares: a host refuses what is older by (recovery, version).
    #[n(3)]
    pub recovery: u64,
    /// See `recovery`.
    #[n(4)]
    pub version: u64,
    /// The plan's generation.
    #[n(5)]
    pub generation: Generation,
    /// Whether the session has ended.
    #[n(6)]
    pub ended: bool,
    /// Everybody's names and addresses: for routing, names and readiness.
    #[n(7)]
    pub directory: Directory,
    /// The machines of this host, all of them.
    #[n(8)]
    pub machines: Vec<MachineSpec>,
    /// Incarnations of this host that must go, explicitly.
    #[cbor(n(9), with = "crate::wire::fields::parts")]
    pub drops: Vec<(MachineName, Epoch)>,
    /// The session's key pair for `machine ssh` (ed25519 seed).
    #[cbor(n(10), with = "minicbor::bytes")]
    pub ssh_seed: [u8; 32],
    /// The session's level.
    #[serde(default)]
    #[n(11)]
    pub level: Level,
    /// What an operator signed of the session last; `None` = it began among hosts that know no mandates.
    #[serde(default)]
    #[cbor(n(12), with = "crate::wire::fields::option", has_nil)]
    pub mandate: Option<SignedMandate>,
}

/// Who is where in a session. Every member has it, so names work everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Directory {
    /// The session's network; `.1` is the gateway.
    #[n(0)]
    pub subnet: Prefix,
    /// The groups by name.
    #[n(1)]
    pub groups: BTreeMap<Name, GroupEntry>,
}

impl Message for Share {
    const KIND: Kind = Kind::Share;
}

/// Whose word on a session counts, as a host stores it: see `voices`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Voices {
    /// The hosts.
    #[n(0)]
    pub hosts: BTreeSet<HostId>,
}

impl Message for Voices {
    const KIND: Kind = Kind::Voices;
}

impl Share {
    /// Lists all bytes that it names.
    pub fn named(&self) -> BTreeSet<Content> {
        self.machines.iter().flat_map(|spec| &spec.files).map(|file| file.content).collect()
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct GroupEntry {
    /// Ports by service name.
    #[n(0)]
    pub services: BTreeMap<Name, u16>,
    /// Services whose check speaks HTTP, so that a browser may be sent there.
    #[n(1)]
    pub http: BTreeSet<Name>,
    /// Groups that must be ready first.
    #[n(2)]
    pub needs: BTreeSet<Name>,
    /// The machines, sorted by number.
    #[n(3)]
    pub machines: Vec<MachineEntry>,
    /// Services that hosts publish in their own networks, and where.
    #[serde(default)]
    #[cbor(n(4), with = "crate::wire::fields::usual", has_nil)]
    pub publish: BTreeMap<Name, Publish>,
    /// Services that are reached by UDP; all others are by TCP.
    #[serde(default)]
    #[cbor(n(5), with = "crate::wire::fields::usual", has_nil)]
    pub udp: BTreeSet<Name>,
}

impl GroupEntry {
    /// Gives the port of a service of this name.
    pub fn port(&self, service: &str) -> Option<Port> {
        self.ports().find(|(name, _)| name.as_str() == service).map(|(_, port)| port)
    }

    /// Lists the services with their ports.
    pub fn ports(&self) -> impl Iterator<Item = (&Name, Port)> {
        self.services.iter().map(|(name, number)| {
            let protocol = if self.udp.contains(name) { Protocol::Udp } else { Protocol::Tcp };
            (name, Port { number: *number, protocol })
        })
    }
}

/// One machine in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct MachineEntry {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// Its host: the owner of its readiness.
    #[n(1)]
    pub host: HostId,
    /// Its incarnation.
    #[n(2)]
    pub epoch: Epoch,
    /// Its address.
    #[n(3)]
    pub address: Ipv4Addr,
    /// What guards it.
    #[n(4)]
    pub guard: Guard,
    /// Login user for `machine ssh`; `None` = root.
    #[n(5)]
    pub user: Option<Name>,
    /// Whether the user wants it to run now.
    #[n(6)]
    pub run: bool,
}

/// Everything a host needs to make one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct MachineSpec {
    /// The machine.
    #[n(0)]
    pub machine: MachineName,
    /// Its incarnation.
    #[n(1)]
    pub epoch: Epoch,
    /// Whether the user wants it to run now.
    #[n(2)]
    pub run: bool,
    /// How often a person asked for its start: each time the failures before it are forgotten.
    #[serde(default)]
    #[n(3)]
    pub starts: u64,
    /// The image's content.
    #[n(4)]
    pub image: Digest,
    /// Size of the image in bytes.
    #[n(5)]
    pub image_size: u64,
    /// Virtual CPUs.
    #[n(6)]
    pub cpus: u32,
    /// Memory in MiB.
    #[n(7)]
    pub memory_mib: u64,
    /// Size of the disk in MiB; `None` = the image's own size.
    #[n(8)]
    pub disk_mib: Option<u64>,
    /// Its address in the session's network.
    #[n(9)]
    pub address: Ipv4Addr,
    /// Its MAC address.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub mac: [u8; 6],
    /// Groups that must be ready first.
    #[n(11)]
    pub needs: BTreeSet<Name>,
    /// What guards this incarnation.
    #[n(12)]
    pub guard: Guard,
    /// What happens when QEMU ends by itself.
    #[n(13)]
    pub restart: Restart,
    /// What the topology wishes for the host's death; shown, not acted on in this version.
    #[n(14)]
    pub failover: Failover,
    /// Ports and checks by service name.
    #[n(15)]
    pub services: BTreeMap<Name, Service>,
    /// Shell commands of the first boot.
    #[n(16)]
    pub setup: Vec<String>,
    /// Files of the first boot.
    #[n(17)]
    pub files: Vec<MachineFile>,
    /// Environment of setup and login shells.
    #[n(18)]
    pub env: BTreeMap<String, String>,
    /// Public keys that may log in, one `ssh-...` line each, the session's own included.
    #[n(19)]
    pub ssh_keys: Vec<String>,
    /// Login user; `None` = the image's default.
    #[n(20)]
    pub user: Option<Name>,
    /// The machine's own SSH host key (ed25519 seed), injected and so known in advance.
    #[cbor(n(21), with = "minicbor::bytes")]
    pub host_key_seed: [u8; 32],
    /// Where it may go outside of its session.
    #[serde(default)]
    #[cbor(n(22), with = "crate::wire::fields::usual", has_nil)]
    pub egress: Egress,
}

/// A file that is written into a machine at its first boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct MachineFile {
    /// Its path in the machine.
    #[n(0)]
    pub path: String,
    /// Permission bits.
    #[n(1)]
    pub mode: u32,
    /// `user` or `user:group`; `None` = root.
    #[n(2)]
    pub owner: Option<String>,
    /// Its bytes, which lie beside the share.
    #[n(3)]
    pub content: Content,
}
