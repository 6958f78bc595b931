//! What of this gossip message may reach chitchat? One well-formed packet can panic chitchat 0.11, freeze a
//! host's state for ever or make it look dead for ever. So every frame is read here first, down to its last byte, and
//! *cleaned*: what a host did not sign of itself is cut out (`clean`), and the rest goes on, written anew.
//! A machine without IO: it remembers what it let through, which is what chitchat knows.
//!
//! Nobody speaks for another:
//! ```text
//! a value, its version, its start    as far as its host signed them: no version is beyond the signed number
//! a start that is new here           with something signed in it, or from the host itself
//! a heartbeat                        as far as time allows since the host's own last word
//! deletions, bare versions           never: whoever withdraws something signs that
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::{
    id::{HostId, MeshId},
    limits::{MAX_GOSSIP_BYTES, MAX_RECORD_BYTES, MAX_RECORDS_PER_HOST},
    wire::Summary,
};

mod budget;
mod clean;
mod read;

use budget::Purse;
use read::Frame;

/// The port of every gossip address. Addresses are names here, nothing is ever bound to them.
const GOSSIP_PORT: u16 = 7;
/// Versions that a host's state may gain by one value in a form that only a later version reads: 12 days of an update a
/// second. Of all others the signed number says the most.
const MAX_VERSION_STEP: u64 = 1 << 20;
/// The first such version that is believed of a host: never reached, and far below what overflows.
const MAX_FIRST_VERSION: u64 = 1 << 40;
/// Heartbeats in a second: some a second by rounds, and one for each message that is handled.
const BEATS_PER_S: u64 = 128;
/// Heartbeats that may come beyond that: pauses of our clock.
const BEATS_IN_HAND: u64 = 1 << 16;
/// The first heartbeat that is believed of a host: a year at the highest rate.
const MAX_FIRST_BEAT: u64 = 1 << 32;
/// Starts of one host that are known at a time. Chitchat forgets a dead one after ten minutes, so an
/// agent that crashes every half minute stays below. Whatever is said of more is cut.
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

/// Why a frame was dropped, or something was cut out of it.
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
    /// It speaks of a member under a false address.
    #[error("{0} is no member of this address")]
    Stranger(String),
    /// It tells us about this start of ours what only we say.
    #[error("somebody else speaks in our name")]
    AboutMe,
    /// A version is not after the one before it, or beyond what its host signed.
    #[error("versions of {0} do not follow")]
    Versions(String),
    /// A heartbeat is beyond what can have happened.
    #[error("the heartbeat of {0} is too far ahead")]
    Heartbeat(String),
    /// A key is none of ours or of a later version, a value is too large, it is deleted, or there are too many.
    #[error("a key or value of {0} is not allowed")]
    Record(String),
    /// A value is not what its host signed for this place.
    #[error("{0} did not sign what is said of it")]
    Unsigned(String),
    /// More than one member may send.
    #[error("more gossip than one member may send")]
    Flood,
}

/// What is left of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// What chitchat may have in the frame's place.
    pub frame: Vec<u8>,
    /// What chitchat must have before it, so that it takes news of starts that it has not met; nobody wants its answer.
    pub before: Option<Vec<u8>>,
    /// The first thing that was cut and that no honest host says.
    pub cut: Option<DropBecause>,
    /// Whether it has values that are new here.
    pub is_news: bool,
    /// The start in which its sender speaks, if that says of itself.
    pub spoken: Option<u64>,
    /// What its sender holds, if the frame says that; chitchat gets nothing of it.
    pub summary: Option<Summary>,
}

/// Unpacks one zstd block to at most the given number of bytes; `None` when it cannot. A block that says that it is
/// larger is not begun.
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

/// A value that was let through: its signature need not be checked again.
#[derive(Clone, Copy, Debug)]
struct Held {
    version: u64,
    digest: [u8; 32],
}

/// What was let through about one id.
#[derive(Clone, Debug, Default)]
struct Passed {
    /// The first heartbeat and when it came: what is believed later grows from here.
    beat: Option<(u64, u64)>,
    /// The heartbeat that the host itself told last, and when.
    own_beat: Option<(u64, u64)>,
    /// The version that chitchat has.
    version: u64,
    held: BTreeMap<String, Held>,
    mentioned_ms: u64,
}

impl Passed {
    fn most_beats(&self, now_ms: u64) -> u64 {
        let Some((first, at_ms)) = self.beat else { return MAX_FIRST_BEAT };
        first.saturating_add(gained(at_ms, now_ms)).saturating_add(BEATS_IN_HAND)
    }

    /// Gives how much of a heartbeat is believed. Too much is taken for the most that can be, or for nothing at first.
    fn believe(&mut self, told: u64, is_own: bool, now_ms: u64) -> u64 {
        let most = self.most_beats(now_ms);
        let mut beat = match (told > most, self.beat) {
            (false, _) => told,
            (true, Some(_)) => most,
            (true, None) => 1,
        };
        match (is_own, self.own_beat) {
            (true, _) => self.own_beat = Some((beat, now_ms)),
            (false, Some((own, at_ms))) => {
                beat = beat.min(own.saturating_add(gained(at_ms, now_ms)).saturating_add(BEATS_PER_S));
            }
            (false, None) => {}
        }
        self.beat.get_or_insert((beat, now_ms));
        beat
    }

    fn most_version(&self) -> u64 {
        match self.version {
            0 => MAX_FIRST_VERSION,
            version => version.saturating_add(MAX_VERSION_STEP),
        }
    }
}

/// Gives the heartbeats that a host may gain in a time.
fn gained(since_ms: u64, now_ms: u64) -> u64 {
    now_ms.saturating_sub(since_ms).saturating_mul(BEATS_PER_S) / 1000
}

/// The gate in front of chitchat.
pub struct Firewall {
    me: GossipId,
    mesh: MeshId,
    seen: BTreeMap<GossipId, Passed>,
    /// When a host last brought a start in the place of an older one.
    replaced: BTreeMap<String, u64>,
    /// What members may still cost.
    purses: BTreeMap<HostId, Purse>,
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
    pub fn new(mesh: MeshId, me: GossipId) -> Firewall {
        Firewall { me, mesh, seen: BTreeMap::new(), replaced: BTreeMap::new(), purses: BTreeMap::new() }
    }

    /// Reads a frame. `Ok` means that chitchat may have what is left of it; what that says is remembered.
    pub fn check(&mut self, frame: &[u8], known: &Known<'_>) -> Result<Cleaned, DropBecause> {
        if frame.len() > MAX_GOSSIP_BYTES {
            return Err(DropBecause::TooLarge);
        }
        self.forget(known.now_ms);
        if !self.purses.entry(known.from).or_default().frame(frame.len(), known.now_ms) {
            return Err(DropBecause::Flood);
        }
        if let Ok(summary) = Summary::decode(frame) {
            return Ok(Cleaned { spoken: Some(summary.start), summary: Some(summary), ..Cleaned::default() });
        }
        let frame = read::frame(frame, known.unpack, MAX_UNPACKED_BYTES)?;
        if matches!(&frame, Frame::Syn { cluster: theirs, .. } if *theirs != cluster(self.mesh)) {
            return Err(DropBecause::Cluster);
        }
        Ok(self.clean(frame, known))
    }

    /// Makes room for a start that is new here. A host itself may bring its newest start now and then: the oldest known
    /// one gives way, so that nobody can lock it out, and it cannot fill others with its own.
    fn make_room(&mut self, id: &GossipId, known: &Known<'_>) -> bool {
        let mut starts = self.seen.keys().filter(|seen| seen.node == id.node);
        let newest = starts.clone().all(|seen| seen.generation < id.generation);
        if starts.clone().count() < MAX_GENERATIONS && self.seen.len() < MAX_IDS {
            return true;
        }
        let oldest = starts.next().cloned();
        let from = node_name(known.from);
        if id.node != from || !newest || !self.may_replace(&from, known.now_ms) {
            return false;
        }
        if let Some(oldest) = oldest {
            self.seen.remove(&oldest);
        }
        true
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
        self.purses.retain(|_, purse| now_ms.saturating_sub(purse.used_ms) <= FORGET_MS);
    }
}

#[cfg(test)]
mod tests;
