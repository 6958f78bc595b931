//! The verified side of gossip: reads what chitchat holds, checks each new record's signature, and
//! keeps the newest of each key and start. What chitchat says without a signature counts for nothing.
//! Which start of a host is believed is `proto::membership::Starts`'s to say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chitchat::{Chitchat, ChitchatId};
use proto::{
    id::{HostId, MeshId},
    limits::MAX_RECORDS_PER_HOST,
    membership::Starts,
    seal::{SealError, SignedRecord},
    time::Moment,
    wire::record::{Body, RecordKey},
};

use super::Records;

/// Records of all starts of one host together: those of the start before stay until the new one has spoken.
const MAX_RECORDS: usize = 2 * MAX_RECORDS_PER_HOST;

/// What has been verified.
pub(super) struct Ledger {
    mesh: MeshId,
    /// By owner, key and start.
    newest: BTreeMap<(HostId, RecordKey, u64), Entry>,
    /// Versions that were looked at, good or bad: no signature is checked twice.
    seen: HashMap<(HostId, u64, String), u64>,
    starts: Starts,
    /// The starts that hold, and the records that follow.
    holding: BTreeSet<(HostId, u64)>,
    shown: Records,
}

struct Entry {
    seq: u64,
    body: Option<Body>,
}

/// What a reading brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) changed: bool,
    pub(super) refused: Vec<(HostId, String)>,
}

impl Ledger {
    pub(super) fn new(mesh: MeshId) -> Ledger {
        Ledger {
            mesh,
            newest: BTreeMap::new(),
            seen: HashMap::new(),
            starts: Starts::default(),
            holding: BTreeSet::new(),
            shown: Records::new(),
        }
    }

    /// Gives what holds now.
    pub(super) fn records(&self) -> Records {
        self.shown.clone()
    }

    /// Reads all that chitchat holds of members.
    pub(super) fn read(
        &mut self,
        chitchat: &Chitchat,
        members: &BTreeMap<String, HostId>,
        now: Moment,
    ) -> Heard {
        let (mut heard, mut is_new) = (Heard::default(), false);
        let me = chitchat.self_chitchat_id();
        for (id, state) in chitchat.node_states() {
            // Of this host only what this start says: a copy of its directory may be about.
            if id.node_id == me.node_id && id != me {
                continue;
            }
            let Some(host) = members.get(&*id.node_id).copied() else { continue };
            for (key, value) in state.key_values() {
                let version = state.get_versioned(key).map_or(0, |value| value.version);
                let place = (host, id.generation_id, key.to_owned());
                if self.seen.get(&place) == Some(&version) {
                    continue;
                }
                self.seen.insert(place, version);
                match self.take(host, key, value, now) {
                    Ok(new) => is_new |= new,
                    Err(because) => heard.refused.push((host, because)),
                }
            }
        }
        self.forget(chitchat, members, now);
        let holding = self.starts.holding(now);
        if is_new || holding != self.holding {
            self.holding = holding;
            let shown = self.hold();
            heard.changed = shown != self.shown;
            self.shown = shown;
        }
        heard
    }

    fn take(&mut self, host: HostId, key: &str, text: &str, now: Moment) -> Result<bool, String> {
        let opened = key.parse().and_then(|key| SignedRecord::open(text, self.mesh, host, &key));
        let record = match opened {
            Err(SealError::Later) => return Ok(false),
            opened => opened.map_err(|error| error.to_string())?,
        };
        let place = (host, record.key.clone(), record.generation);
        if self.newest.get(&place).is_some_and(|entry| entry.seq >= record.seq) {
            return Ok(false);
        }
        let owned = self.newest.keys().filter(|(owner, ..)| *owner == host).count();
        if owned >= MAX_RECORDS && !self.newest.contains_key(&place) {
            return Err("more records than a host may have".to_owned());
        }
        let is_known = self.starts.signed(host, record.generation, now);
        if is_known {
            self.newest.insert(place, Entry { seq: record.seq, body: record.body });
        }
        Ok(is_known)
    }

    fn forget(&mut self, chitchat: &Chitchat, members: &BTreeMap<String, HostId>, now: Moment) {
        let place = |id: &ChitchatId| Some((members.get(&*id.node_id).copied()?, id.generation_id));
        let held: BTreeSet<(HostId, u64)> = chitchat.node_states().keys().filter_map(place).collect();
        let live: BTreeSet<(HostId, u64)> = chitchat.live_nodes().filter_map(place).collect();
        let hosts: BTreeSet<HostId> = members.values().copied().collect();
        self.starts.keep(|host| hosts.contains(host));
        self.starts.look(&live, &held, now);
        let starts = &self.starts;
        self.newest.retain(|(host, _, generation), _| starts.knows(*host, *generation));
        self.seen.retain(|(host, generation, _), _| held.contains(&(*host, *generation)));
    }

    /// Gives the newest of each key that holds: an older start comes first in the map.
    fn hold(&self) -> Records {
        let mut newest: BTreeMap<(HostId, RecordKey), &Entry> = BTreeMap::new();
        for ((host, key, generation), entry) in &self.newest {
            if self.holding.contains(&(*host, *generation)) {
                newest.insert((*host, key.clone()), entry);
            }
        }
        newest.into_iter().filter_map(|(place, entry)| Some((place, entry.body.clone()?))).collect()
    }
}
