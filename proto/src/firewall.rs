//! May this gossip message reach chitchat? One well-formed packet can panic chitchat 0.11, freeze a
//! host's state for ever or make it look dead for ever, so every frame is read here first, down
//! to its last byte, and dropped whole when anything in it is not plausible.
//! A machine without IO: it remembers what it let through, which is what chitchat knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::{
    id::{HostId, MeshId},
    limits::{MAX_GOSSIP_BYTES, MAX_RECORD_BYTES, MAX_RECORDS_PER_HOST},
    seal::SealError,
    wire::record::RecordKey,
};

mod read;

use read::{Delta, Digest, Frame, Op};

/// The port of every gossip address. Addresses are names here, nothing is ever bound to them.
const GOSSIP_PORT: u16 = 7;
/// Versions that a host's state may gain between two frames: 12 days of an update a second.
const MAX_VERSION_STEP: u64 = 1 << 20;
/// The first version that is believed of a host: never reached, and far below what overflows.
const MAX_FIRST_VERSION: u64 = 1 << 40;
/// Heartbeats in one gossip interval: one a tick and one for each message that is handled.
const BEATS_PER_INTERVAL: u64 = 64;
/// Heartbeats that may come beyond that: hosts whose interval is shorter, or pauses of our clock.
const BEATS_IN_HAND: u64 = 1 << 16;
/// The first heartbeat that is believed of a host: a year at the highest rate.
const MAX_FIRST_BEAT: u64 = 1 << 32;
/// Starts of one host that are known at a time. Chitchat forgets a dead one after ten minutes, so an
/// agent that crashes every half minute stays below. Whatever is said of more is left out of its frame, which
/// goes on: who brings it is not who invented or crashed too much.
const MAX_GENERATIONS: usize = 32;
/// How often a host whose starts are that many may bring its newest one all the same, for the oldest that is known.
const NEWEST_EVERY_MS: u64 = 5_000;
/// An id that no frame mentioned for so long is forgotten, well after chitchat forgot it.
const FORGET_MS: u64 = 30 * 60 * 1000;
/// Ids that are known at a time. With more in one digest, chitchat's own answer would not fit its frame, and it panics.
const MAX_IDS: usize = 900;
/// Bytes of one message after decompression: a full frame of records that compress ten times.
const MAX_UNPACKED_BYTES: usize = 10 * MAX_GOSSIP_BYTES;

/// How chitchat names one start of one host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipId {
    /// [`node_name`] of the host.
    pub node: String,
    /// Grows with every start.
    pub generation: u64,
    /// [`address`] of the host.
    pub address: SocketAddr,
}

/// Why a frame was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropBecause {
    /// It is no chitchat message, or not all of it is.
    #[error("the frame is malformed: {0}")]
    Malformed(&'static str),
    /// Larger than chitchat's own frames, packed or unpacked.
    #[error("the frame is too large")]
    TooLarge,
    /// It is for another mesh.
    #[error("the frame is for another cluster")]
    Cluster,
    /// It speaks of a host that is no member, or under a false address.
    #[error("{0} is no member")]
    Stranger(String),
    /// It tells us about this start of ours what only we say.
    #[error("somebody else speaks in our name")]
    AboutMe,
    /// A version is not after the one before it, or beyond what can have happened.
    #[error("versions of {0} do not follow")]
    Versions(String),
    /// A heartbeat is beyond what can have happened.
    #[error("the heartbeat of {0} is too far ahead")]
    Heartbeat(String),
    /// A key is none of ours or of a later version, or a value is too large.
    #[error("a key or value of {0} is not allowed")]
    Record(String),
}

/// What a frame that passes is worth a word about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// A start of this host that is newer than the one that runs: its directory was copied, or somebody lies. What is
    /// said of it passes, because it says nothing of us, and a frame that was dropped for it would keep all else out.
    pub double: Option<u64>,
    /// What chitchat may have in the frame's place: the same without starts that are too many.
    pub instead: Option<Vec<u8>>,
}

/// Unpacks one zstd block to at most the given number of bytes; `None` when it cannot.
pub type Unpack = dyn Fn(&[u8], usize) -> Option<Vec<u8>>;

/// What the receiver knows when a frame arrives.
pub struct Known<'a> {
    /// The members, this host included.
    pub members: &'a BTreeMap<String, HostId>,
    /// The member whose connection brought the frame.
    pub from: HostId,
    /// Zstd, which is no business of this crate.
    pub unpack: &'a Unpack,
    /// A clock that only goes forward, through a suspend as well, in milliseconds.
    pub now_ms: u64,
}

/// What was let through about one id.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    /// The first heartbeat and when it came: what is believed later grows from here.
    beat: Option<(u64, u64)>,
    /// The version that chitchat has.
    version: Option<u64>,
    mentioned_ms: u64,
}

impl Passed {
    fn most_beats(&self, now_ms: u64, interval_ms: u64) -> u64 {
        let Some((first, at_ms)) = self.beat else { return MAX_FIRST_BEAT };
        let gained = (now_ms.saturating_sub(at_ms) / interval_ms).saturating_mul(BEATS_PER_INTERVAL);
        first.saturating_add(gained).saturating_add(BEATS_IN_HAND)
    }

    fn most_version(&self) -> u64 {
        self.version.map_or(MAX_FIRST_VERSION, |version| version.saturating_add(MAX_VERSION_STEP))
    }
}

/// The gate in front of chitchat.
pub struct Firewall {
    me: GossipId,
    mesh: MeshId,
    interval_ms: u64,
    seen: BTreeMap<GossipId, Passed>,
    /// When a host last brought a start in the place of an older one.
    replaced: BTreeMap<String, u64>,
}

impl GossipId {
    /// Names one start of a host.
    pub fn new(mesh: MeshId, host: HostId, generation: u64) -> GossipId {
        GossipId { node: node_name(host), generation, address: address(mesh, host) }
    }
}

/// Gives the text by which chitchat knows a host: 16 hex digits of its key.
pub fn node_name(host: HostId) -> String {
    host.to_string()[..16].to_owned()
}

/// Gives a host's gossip address: a /64 of the mesh, the rest from the host's key. Nothing is sent
/// to it; a carrier looks up the host behind it.
pub fn address(mesh: MeshId, host: HostId) -> SocketAddr {
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..8].copy_from_slice(&mesh.0[..7]);
    bytes[8..].copy_from_slice(&host.0[..8]);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)), GOSSIP_PORT)
}

/// Gives chitchat's cluster id for a mesh.
pub fn cluster(mesh: MeshId) -> String {
    mesh.to_string()
}

impl Firewall {
    /// Makes the gate of one start of this host.
    pub fn new(mesh: MeshId, me: GossipId, interval_ms: u64) -> Firewall {
        Firewall {
            me,
            mesh,
            interval_ms: interval_ms.max(1),
            seen: BTreeMap::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// Reads a frame. `Ok` means that chitchat may have it; what it says is remembered.
    pub fn check(&mut self, frame: &[u8], known: &Known<'_>) -> Result<Notice, DropBecause> {
        if frame.len() > MAX_GOSSIP_BYTES {
            return Err(DropBecause::TooLarge);
        }
        self.forget(known.now_ms);
        let mut heard: BTreeMap<GossipId, Passed> = BTreeMap::new();
        match read::frame(frame, known.unpack, MAX_UNPACKED_BYTES)? {
            Frame::Syn { cluster: theirs, digest } => {
                if theirs != cluster(self.mesh) {
                    return Err(DropBecause::Cluster);
                }
                self.check_digest(&digest, known, &mut heard)?;
            }
            Frame::SynAck { digest, delta } => {
                self.check_digest(&digest, known, &mut heard)?;
                self.check_delta(&delta, known, &mut heard)?;
            }
            Frame::Ack { delta } => self.check_delta(&delta, known, &mut heard)?,
            Frame::BadCluster => {}
        }
        let newer = |id: &&GossipId| id.node == self.me.node && id.generation > self.me.generation;
        let double = heard.keys().rfind(newer).map(|id| id.generation);
        let excess = self.learn(heard, known);
        let instead = match excess.is_empty() {
            true => None,
            false => Some(read::without(frame, known.unpack, MAX_UNPACKED_BYTES, &excess)?),
        };
        Ok(Notice { double, instead })
    }

    fn check_digest(
        &self,
        digest: &Digest,
        known: &Known<'_>,
        heard: &mut BTreeMap<GossipId, Passed>,
    ) -> Result<(), DropBecause> {
        for (id, entry) in digest {
            self.check_id(id, known)?;
            if heard.contains_key(id) {
                return Err(DropBecause::Malformed("an id twice"));
            }
            // Chitchat ignores heartbeats about itself; versions about us only shape answers.
            if *id == self.me {
                continue;
            }
            let seen = self.seen.get(id).copied().unwrap_or_default();
            // An earlier start of ours is nothing that we need to know, but one id more.
            let past = id.node == self.me.node && id.generation < self.me.generation;
            if !past && entry.heartbeat > seen.most_beats(known.now_ms, self.interval_ms) {
                return Err(DropBecause::Heartbeat(id.node.clone()));
            }
            let beat = seen.beat.or(Some((entry.heartbeat, known.now_ms)));
            // Versions of a digest shape our answer only; chitchat does not keep them.
            heard.insert(id.clone(), Passed { beat, mentioned_ms: known.now_ms, ..seen });
        }
        Ok(())
    }

    fn check_delta(
        &self,
        delta: &Delta,
        known: &Known<'_>,
        heard: &mut BTreeMap<GossipId, Passed>,
    ) -> Result<(), DropBecause> {
        let mut told = BTreeSet::new();
        for part in delta {
            let id = &part.id;
            self.check_id(id, known)?;
            // Others may hand back what another start of ours said, nothing of this one.
            if *id == self.me {
                return Err(DropBecause::AboutMe);
            }
            if !told.insert(id) {
                return Err(DropBecause::Malformed("an id twice"));
            }
            let before = heard.get(id).or_else(|| self.seen.get(id)).copied().unwrap_or_default();
            let (version, most) = (delta_version(part)?, before.most_version());
            if version > most || part.last_gc_version > most || part.from_version > most {
                return Err(DropBecause::Versions(id.node.clone()));
            }
            let version = Some(version.max(before.version.unwrap_or(0)));
            heard.insert(id.clone(), Passed { version, mentioned_ms: known.now_ms, ..before });
        }
        Ok(())
    }

    fn check_id(&self, id: &GossipId, known: &Known<'_>) -> Result<(), DropBecause> {
        let member = known.members.get(&id.node);
        if member.is_none_or(|host| address(self.mesh, *host) != id.address) {
            return Err(DropBecause::Stranger(id.node.clone()));
        }
        Ok(())
    }

    /// Remembers what chitchat learns, and gives the ids that are too many for it. A host itself may bring its newest
    /// start now and then: the oldest known one gives way, so that nobody can lock it out with invented starts, and
    /// it cannot fill others with its own.
    fn learn(&mut self, mut heard: BTreeMap<GossipId, Passed>, known: &Known<'_>) -> BTreeSet<GossipId> {
        let from = node_name(known.from);
        let new: Vec<GossipId> = heard.keys().filter(|id| !self.seen.contains_key(*id)).cloned().collect();
        let mut excess = BTreeSet::new();
        // The newest of each host first.
        for id in new.into_iter().rev() {
            let starts = self.seen.keys().filter(|seen| seen.node == id.node);
            let fits = starts.clone().count() < MAX_GENERATIONS && self.seen.len() < MAX_IDS;
            let newest = starts.clone().all(|seen| seen.generation < id.generation);
            if !fits {
                if id.node != from || !newest || !self.may_replace(&from, known.now_ms) {
                    heard.remove(&id);
                    excess.insert(id);
                    continue;
                }
                let oldest = self.seen.keys().find(|seen| seen.node == id.node).cloned();
                if let Some(oldest) = oldest {
                    self.seen.remove(&oldest);
                    heard.remove(&oldest);
                }
            }
            self.seen.insert(id, Passed::default());
        }
        self.seen.extend(heard);
        excess
    }

    fn may_replace(&mut self, from: &str, now_ms: u64) -> bool {
        let last = self.replaced.get(from);
        let may = last.is_none_or(|last| now_ms.saturating_sub(*last) >= NEWEST_EVERY_MS);
        if may {
            self.replaced.insert(from.to_owned(), now_ms);
        }
        may
    }

    fn forget(&mut self, now_ms: u64) {
        self.seen.retain(|_, seen| now_ms.saturating_sub(seen.mentioned_ms) <= FORGET_MS);
        self.replaced.retain(|_, last| now_ms.saturating_sub(*last) <= FORGET_MS);
    }
}

/// Gives the version that a part of a delta leads to, if its steps are ones that chitchat makes:
/// keys in rising order, or a bare version and no key.
fn delta_version(part: &read::Part) -> Result<u64, DropBecause> {
    let wrong = || DropBecause::Versions(part.id.node.clone());
    let mut version = 0;
    if part.ops.len() > MAX_RECORDS_PER_HOST * 2 {
        return Err(DropBecause::Record(part.id.node.clone()));
    }
    for (at, op) in part.ops.iter().enumerate() {
        match op {
            Op::KeyValue { key, value_bytes, version: next } => {
                // What a later version says is handed on: others may know it.
                let ours = matches!(key.parse::<RecordKey>(), Ok(_) | Err(SealError::Later));
                if !ours || *value_bytes > MAX_RECORD_BYTES {
                    return Err(DropBecause::Record(part.id.node.clone()));
                }
                if *next <= version {
                    return Err(wrong());
                }
                version = *next;
            }
            Op::MaxVersion(next) if at == 0 && part.ops.len() == 1 => version = *next,
            Op::MaxVersion(_) => return Err(wrong()),
        }
    }
    Ok(version)
}

#[cfg(test)]
mod tests;
