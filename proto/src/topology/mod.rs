//! The user's file as values. `parse` reads `topology.toml` and reports every mistake at once;
//! `check` holds the rules that span several keys. What a key means is said at its field.
//! What `parse` gives is checked. What a member or a program sent is not: [`Intent::flaws`] holds the same
//! rules, is asked once where it comes in, and nothing behind it asks again.

mod check;
mod content;
mod parse;
mod read;
mod report;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, MachineName, Name},
    limits,
};
pub use content::{Content, Contents, Parcel};
pub use parse::parse;

/// A checked topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Topology {
    /// The session's label; its identity is a random id.
    #[n(0)]
    pub session: Name,
    /// The groups by name, at least one.
    #[n(1)]
    pub groups: BTreeMap<Name, Group>,
}

impl Topology {
    /// Counts the machines without listing them: what came from elsewhere may say any number.
    pub fn count(&self) -> u64 {
        machines(&self.groups)
    }

    /// Says how many machines there are if a session cannot have so many.
    pub fn too_many(&self) -> Option<String> {
        check::too_many(&self.groups)
    }

    /// Lists every machine, sorted by name.
    pub fn machines(&self) -> impl Iterator<Item = MachineName> + '_ {
        let of = |(name, group): (&Name, &Group)| {
            let name = name.clone();
            (1..=group.count).map(move |index| MachineName { group: name.clone(), index })
        };
        self.groups.iter().flat_map(of)
    }
}

/// Lists the services that hosts publish: group, service, and where.
pub fn published(groups: &BTreeMap<Name, Group>) -> impl Iterator<Item = (&Name, &Name, &Publish)> {
    groups.iter().flat_map(|(name, group)| {
        let services = group.services.iter();
        services.filter_map(move |(service, spec)| Some((name, service, spec.publish.as_ref()?)))
    })
}

fn machines(groups: &BTreeMap<Name, Group>) -> u64 {
    groups.values().map(|group| u64::from(group.count)).sum()
}

/// One group of equal machines: `[machines.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Group {
    /// The disk's content.
    #[n(0)]
    pub image: ImageRef,
    /// Virtual CPUs, at least 1.
    #[n(1)]
    pub cpus: u32,
    /// Memory in MiB.
    #[n(2)]
    pub memory_mib: u64,
    /// Size of the disk in MiB; `None` = the image's own size.
    #[n(3)]
    pub disk_mib: Option<u64>,
    /// How many machines, at least 1.
    #[n(4)]
    pub count: u32,
    /// A label for selectors.
    #[n(5)]
    pub role: Option<String>,
    /// Groups that must be ready before a machine of this one starts. Free of cycles.
    #[n(6)]
    pub needs: BTreeSet<Name>,
    /// What happens when the host of a machine dies. In this version every machine behaves as `hold`.
    #[n(7)]
    pub failover: Failover,
    /// What happens when QEMU ends by itself.
    #[n(8)]
    pub restart: Restart,
    /// Wishes about the host.
    #[n(9)]
    pub place: Place,
    /// Shell commands, run in order at the first boot, before the services count as ready.
    #[n(10)]
    pub setup: Vec<String>,
    /// Files written into the machine before `setup`, by absolute path.
    #[n(11)]
    pub files: BTreeMap<String, FileSpec>,
    /// Environment of `setup` and of login shells.
    #[n(12)]
    pub env: BTreeMap<String, String>,
    /// Paths of public keys on the user's computer (`~` allowed) or keys themselves (`ssh-...`).
    #[n(13)]
    pub ssh_keys: Vec<String>,
    /// The login user; `None` = the image's own default (`root` in the tiny guest).
    #[n(14)]
    pub user: Option<Name>,
    /// Named ports.
    #[n(15)]
    pub services: BTreeMap<Name, Service>,
    /// Where its machines may go outside of their session.
    #[serde(default)]
    #[cbor(n(16), with = "crate::wire::fields::usual", has_nil)]
    pub egress: Egress,
}

/// How a topology names an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub enum ImageRef {
    /// A name that members gave it by `image import` or `image pull`, such as `tiny` or `debian:12`.
    #[n(0)]
    Named(#[n(0)] String),
    /// `blake3:HASH`.
    #[n(1)]
    Pinned(#[n(0)] Digest),
}

/// What happens when the host of a machine dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Failover {
    /// The machine may start again on another host, with an empty disk.
    #[n(0)]
    Restart,
    /// The machine waits for its host: its disk matters.
    #[n(1)]
    Hold,
}

/// Where a machine may go outside of its session. What says nothing of it is from a version without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Egress {
    /// Nowhere.
    #[default]
    #[n(0)]
    None,
    /// To public addresses; to nothing of its host's own network.
    #[n(1)]
    Internet,
    /// To the private networks on its host's wire as well, where the host's owner allows it; never to the host itself.
    #[n(2)]
    Lan,
}

impl Egress {
    /// Says whether it needs what a host's owner, who lets machines into the host's network or not, does not allow.
    pub fn is_forbidden(self, lan: bool) -> bool {
        self == Egress::Lan && !lan
    }

    /// Writes it as topologies do.
    pub fn word(self) -> &'static str {
        match self {
            Egress::None => "none",
            Egress::Internet => "internet",
            Egress::Lan => "lan",
        }
    }
}

/// What happens when QEMU ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Restart {
    /// Started again, also after a shutdown from inside.
    #[n(0)]
    Always,
    /// Started again after a crash only.
    #[n(1)]
    OnFailure,
    /// Left as it is.
    #[n(2)]
    Never,
}

/// Wishes about the host of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Place {
    /// `spread = "host"`: no two machines of the group on one host while others fit.
    #[n(0)]
    pub spread_host: bool,
    /// Tags that the host must carry.
    #[n(1)]
    pub tags: BTreeMap<String, String>,
    /// The only hosts allowed; empty = all.
    #[n(2)]
    pub hosts: BTreeSet<Name>,
    /// Groups whose hosts are preferred.
    #[n(3)]
    pub near: BTreeSet<Name>,
    /// Groups whose hosts are avoided while others fit.
    #[n(4)]
    pub apart: BTreeSet<Name>,
}

/// A file to write into a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct FileSpec {
    /// Path on the user's computer, relative to the topology file.
    #[n(0)]
    pub source: String,
    /// Permission bits, such as 0o644.
    #[n(1)]
    pub mode: u32,
    /// Owner in the machine, `user` or `user:group`; `None` = root.
    #[n(2)]
    pub owner: Option<String>,
}

/// A named port of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Service {
    /// Port in the machine.
    #[n(0)]
    pub port: u16,
    /// How readiness is found out; `None` = ready when the machine has booted and its setup is done.
    #[cbor(n(1), with = "crate::wire::fields::option", has_nil)]
    pub ready: Option<Ready>,
    /// Where it is reached from the networks of hosts; absent = nowhere.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub publish: Option<Publish>,
    /// What is spoken at the port.
    #[serde(default)]
    #[cbor(n(3), with = "crate::wire::fields::usual", has_nil)]
    pub protocol: Protocol,
}

impl Service {
    /// A TCP port that nobody checks, for this mesh alone.
    pub fn at(port: u16) -> Service {
        Service { port, ready: None, publish: None, protocol: Protocol::Tcp }
    }
}

/// What is spoken at a service's port. What says nothing of it is from a version that knew TCP alone.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Protocol {
    /// Connections.
    #[default]
    #[n(0)]
    Tcp,
    /// Datagrams.
    #[n(1)]
    Udp,
}

/// A port and what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Whether it takes connections or datagrams.
    pub protocol: Protocol,
}

impl From<u16> for Port {
    /// Gives the TCP port of a number.
    fn from(number: u16) -> Port {
        Port { number, protocol: Protocol::Tcp }
    }
}

/// Hosts that listen for a service on their addresses in their own network, if their owners allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Publish {
    /// The port there.
    #[n(0)]
    pub lan: u16,
    /// The hosts by name, at least one.
    #[n(1)]
    pub on: BTreeSet<Name>,
}

/// A readiness check of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Ready {
    /// What is asked.
    #[n(0)]
    pub probe: Probe,
    /// Milliseconds between two checks.
    #[n(1)]
    pub interval_ms: u64,
    /// Milliseconds after the start during which a failed check is no news.
    #[n(2)]
    pub grace_ms: u64,
}

/// What a readiness check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub enum Probe {
    /// A TCP connection is accepted.
    #[n(0)]
    Tcp,
    /// `GET` of this path answers with a status below 400.
    #[n(1)]
    Http(#[n(0)] String),
}

/// One mistake in a topology file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Diagnostic {
    /// Line from 1; `None` when the mistake is something that is missing.
    #[n(0)]
    pub line: Option<usize>,
    /// What is wrong, naming the key or value.
    #[n(1)]
    pub what: String,
    /// What to write instead.
    #[n(2)]
    pub hint: String,
}

/// What the user asked for, complete: the topology and the names of all bytes that belong to it. This is
/// what travels to the coordinator and is committed; nothing is read from the user's disk later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Intent {
    /// The checked topology.
    #[n(0)]
    pub topology: Topology,
    /// What each `files` source holds, by source path as written.
    #[n(1)]
    pub files: BTreeMap<String, Content>,
    /// Public keys that log in to every machine of a group, by group: one `ssh-...` line each.
    #[n(2)]
    pub ssh_keys: BTreeMap<Name, Vec<String>>,
}

impl Intent {
    /// Lists what `parse` would have refused, and contents larger than files of a topology may be. An
    /// intent comes from members and programs too, which may be mistaken, broken or of another version.
    pub fn flaws(&self) -> Vec<Diagnostic> {
        let groups = &self.topology.groups;
        let mut report = report::Report::new("");
        let places = groups.keys().map(|name| (name.clone(), 0..0)).collect();
        check::check(groups, &places, &mut report);
        // Of a size that is refused anyway, nothing is told one by one.
        if report.found.is_empty() {
            rules::values(&self.topology, &mut report);
            rules::contents(self, &mut report);
        }
        // There is no text that lines could be of.
        report.found.into_iter().map(|found| Diagnostic { line: None, ..found }).collect()
    }

    /// Lists all bytes that it names.
    pub fn named(&self) -> BTreeSet<Content> {
        self.files.values().copied().collect()
    }

    /// Says how many bytes the files have together if a session cannot keep so many.
    pub fn too_large(&self) -> Option<String> {
        let sizes = self.files.values().map(|content| content.size);
        let (total, most) = (sizes.fold(0, u64::saturating_add), limits::MAX_FILES_BYTES as u64);
        (total > most).then(|| format!("the files together have {total} bytes, at most {most} are possible"))
    }
}
