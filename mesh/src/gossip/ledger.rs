//! The verified side of gossip: reads what chitchat holds, checks each new record's signature, and
//! keeps the newest of each key. What chitchat says without a signature counts for nothing.

use std::collections::{BTreeMap, HashMap};

use chitchat::Chitchat;
use proto::{
    id::{HostId, MeshId},
    limits::MAX_RECORDS_PER_HOST,
    seal::SignedRecord,
    time::Timestamp,
    wire::record::{Body, RecordKey},
};

use super::Records;

/// After its restart a host says again what holds; what it does not repeat in this time is over.
const REPEAT_MS: u64 = 60_000;

/// What has been verified.
pub(super) struct Ledger {
    mesh: MeshId,
    newest: BTreeMap<(HostId, RecordKey), Entry>,
    /// Versions that were looked at, good or bad: no signature is checked twice.
    seen: HashMap<(HostId, u64, String), u64>,
    /// The newest start of each host, and when it was first heard of.
    starts: BTreeMap<HostId, (u64, Timestamp)>,
}

struct Entry {
    age: (u64, u64),
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
        Ledger { mesh, newest: BTreeMap::new(), seen: HashMap::new(), starts: BTreeMap::new() }
    }

    /// Gives what holds now.
    pub(super) fn records(&self) -> Records {
        let holds = |(key, entry): (&(HostId, RecordKey), &Entry)| Some((key.clone(), entry.body.clone()?));
        self.newest.iter().filter_map(holds).collect()
    }

    /// Reads all that chitchat holds of members.
    pub(super) fn read(
        &mut self,
        chitchat: &Chitchat,
        members: &BTreeMap<String, HostId>,
        now: Timestamp,
    ) -> Heard {
        let mut heard = Heard::default();
        for (id, state) in chitchat.node_states() {
            let Some(host) = members.get(&*id.node_id).copied() else { continue };
            for (key, value) in state.key_values() {
                let version = state.get_versioned(key).map_or(0, |value| value.version);
                let place = (host, id.generation_id, key.to_owned());
                if self.seen.get(&place) == Some(&version) {
                    continue;
                }
                self.seen.insert(place, version);
                match self.take(host, key, value, now) {
                    Ok(changed) => heard.changed |= changed,
                    Err(because) => heard.refused.push((host, because)),
                }
            }
        }
        heard.changed |= self.forget(chitchat, members, now);
        heard
    }

    fn take(&mut self, host: HostId, key: &str, text: &str, now: Timestamp) -> Result<bool, String> {
        let key: RecordKey = key.parse().map_err(|_| format!("unknown key {key:?}"))?;
        let record = SignedRecord::open(text, self.mesh, host, &key).map_err(|error| error.to_string())?;
        let start = self.starts.entry(host).or_insert((record.generation, now));
        if record.generation > start.0 {
            *start = (record.generation, now);
        }
        let place = (host, key);
        if self.newest.get(&place).is_some_and(|entry| entry.age >= record.age()) {
            return Ok(false);
        }
        let owned = self.newest.keys().filter(|(owner, _)| *owner == host).count();
        if owned >= MAX_RECORDS_PER_HOST && !self.newest.contains_key(&place) {
            return Err("more records than a host may have".to_owned());
        }
        self.newest.insert(place, Entry { age: record.age(), body: record.body });
        Ok(true)
    }

    fn forget(&mut self, chitchat: &Chitchat, members: &BTreeMap<String, HostId>, now: Timestamp) -> bool {
        let known: BTreeMap<HostId, u64> = members
            .values()
            .map(|host| (*host, self.starts.get(host).map_or(0, |start| settled(*start, now))))
            .collect();
        let before = self.newest.len();
        self.newest.retain(|(host, _), entry| known.get(host).is_some_and(|oldest| entry.age.0 >= *oldest));
        let held: Vec<(&str, u64)> =
            chitchat.node_states().keys().map(|id| (&*id.node_id, id.generation_id)).collect();
        self.seen.retain(|(host, generation, _), _| {
            held.iter().any(|(name, held)| held == generation && members.get(*name) == Some(host))
        });
        self.newest.len() != before
    }
}

/// Gives the oldest start whose records still hold.
fn settled((generation, heard): (u64, Timestamp), now: Timestamp) -> u64 {
    if now.since_ms(heard) > REPEAT_MS { generation } else { 0 }
}
