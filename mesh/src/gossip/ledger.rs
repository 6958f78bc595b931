//! The verified side of gossip: reads what chitchat holds, checks each new record's signature, and
//! keeps the newest of each key and start. What chitchat says without a signature counts for nothing.
//! Which start of a host is believed is `proto::membership::Starts`'s to say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chitchat::{Chitchat, ChitchatId};
use proto::{
    id::{HostId, MeshId},
    limits::MAX_RECORDS_PER_HOST,
    membership::Starts,
    reasons::GossipRefusal,
    seal::{SealError, SignedRecord},
    time::Moment,
    wire::record::{Body, RecordKey},
};

use super::Records;

/// What has been verified.
pub(super) struct Ledger {
    mesh: MeshId,
    /// By owner, key and start.
    newest: BTreeMap<(HostId, RecordKey, u64), Entry>,
    /// What was looked at, good or bad: no signature is checked twice.
    seen: HashMap<(HostId, u64, String), Judged>,
    starts: Starts,
    /// The starts that hold, and the records that follow.
    holding: BTreeSet<(HostId, u64)>,
    shown: Records,
    /// Whether something came that others may wait for.
    is_urgent: bool,
}

struct Entry {
    seq: u64,
    body: Option<Body>,
}

/// A version of a value, and what it came to.
#[derive(Clone, Copy, Debug)]
struct Judged {
    version: u64,
    /// It is the host's own word; else it stays wrong, whatever becomes of the start.
    genuine: bool,
}

/// What a reading brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) changed: bool,
    /// Others said something that others again may wait for.
    pub(super) is_urgent: bool,
    pub(super) refused: Vec<(HostId, GossipRefusal)>,
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
            is_urgent: false,
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
        spoken: &BTreeSet<(HostId, u64)>,
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
            // What this host says itself was pushed when it was said.
            let before = std::mem::take(&mut self.is_urgent);
            for (key, value) in state.key_values() {
                let version = state.get_versioned(key).map_or(0, |value| value.version);
                let place = (host, id.generation_id, key.to_owned());
                match self.note(place, version, value, now) {
                    Ok(new) => is_new |= new,
                    Err(because) => heard.refused.push((host, because)),
                }
            }
            self.is_urgent = before || self.is_urgent && id != me;
        }
        heard.is_urgent = std::mem::take(&mut self.is_urgent);
        let place = |id: &ChitchatId| Some((members.get(&*id.node_id).copied()?, id.generation_id));
        let held = chitchat.node_states().keys().filter_map(place).collect();
        let live = chitchat.live_nodes().filter_map(place).collect();
        let hosts: BTreeSet<HostId> = members.values().copied().collect();
        self.starts.keep(|host| hosts.contains(host));
        spoken.iter().for_each(|(host, generation)| self.starts.spoke(*host, *generation, now));
        self.forget(&held, &live, now);
        let holding = self.starts.holding(now);
        if is_new || holding != self.holding {
            self.holding = holding;
            let shown = self.hold();
            heard.changed = shown != self.shown;
            self.shown = shown;
        }
        heard
    }

    /// Looks at a value unless it was looked at. Tells whether it is news.
    fn note(
        &mut self,
        place: (HostId, u64, String),
        version: u64,
        text: &str,
        now: Moment,
    ) -> Result<bool, GossipRefusal> {
        if self.seen.get(&place).is_some_and(|seen| seen.version == version) {
            return Ok(false);
        }
        let taken = self.take(&place, text, now);
        // Whoever says too much still says it himself.
        let genuine = matches!(taken, Ok(_) | Err(GossipRefusal::TooMany));
        self.seen.insert(place, Judged { version, genuine });
        taken
    }

    fn take(
        &mut self,
        (host, generation, key): &(HostId, u64, String),
        text: &str,
        now: Moment,
    ) -> Result<bool, GossipRefusal> {
        let opened = key.parse().and_then(|key| SignedRecord::open(text, self.mesh, *host, &key));
        let record = match opened {
            Err(SealError::Later) => return Ok(false),
            opened => opened?,
        };
        if record.generation != *generation {
            return Err(GossipRefusal::OtherStart);
        }
        let place = (*host, record.key.clone(), *generation);
        if self.newest.get(&place).is_some_and(|entry| entry.seq >= record.seq) {
            return Ok(false);
        }
        // Each start has its own: what a host says now must not wait until chitchat forgets what it said before.
        let is_same_start =
            |(owner, _, start): &&(HostId, RecordKey, u64)| (owner, start) == (host, generation);
        let owned = self.newest.keys().filter(is_same_start).count();
        if owned >= MAX_RECORDS_PER_HOST && !self.newest.contains_key(&place) {
            return Err(GossipRefusal::TooMany);
        }
        let is_known = self.starts.signed(*host, *generation, now);
        if is_known {
            let before = self.shown.get(&(*host, record.key.clone()));
            self.is_urgent |= super::is_urgent(before, record.body.as_ref());
            self.newest.insert(place, Entry { seq: record.seq, body: record.body });
        }
        Ok(is_known)
    }

    fn forget(&mut self, held: &BTreeSet<(HostId, u64)>, live: &BTreeSet<(HostId, u64)>, now: Moment) {
        self.starts.look(live, held, now);
        let starts = &self.starts;
        self.newest.retain(|(host, _, generation), _| starts.knows(*host, *generation));
        // A start that made room for others is read again once it is heard and one of those is not: sooner, they
        // would take turns.
        let silent = |(host, generation): &&(HostId, u64)| {
            starts.knows(*host, *generation) && !live.contains(&(*host, *generation))
        };
        let with_room: BTreeSet<HostId> = held.iter().filter(silent).map(|(host, _)| *host).collect();
        self.seen.retain(|(host, generation, _), seen| {
            let start = (*host, *generation);
            let is_back = live.contains(&start) && with_room.contains(host);
            held.contains(&start) && (!seen.genuine || starts.knows(*host, *generation) || !is_back)
        });
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

#[cfg(test)]
mod tests {
    use proto::{id::SessionId, seal::Seed, wire::record::SessionRecord};

    use super::*;

    const SEED: Seed = Seed([1; 32]);
    const MESH: MeshId = MeshId([7; 32]);

    fn host() -> HostId {
        HostId(SEED.public())
    }

    /// Lets the ledger look at what a host said in a start: sessions by number, all of one sequence number.
    fn hear(
        ledger: &mut Ledger,
        generation: u64,
        sessions: std::ops::Range<u16>,
        now: u64,
    ) -> Vec<Result<bool, GossipRefusal>> {
        let mut heard = Vec::new();
        for number in sessions {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let key = RecordKey::Session(SessionId(id));
            let body = Some(Body::Session(SessionRecord { version: generation, machines: vec![] }));
            let record =
                SignedRecord { mesh: MESH, host: host(), generation, seq: 1, key: key.clone(), body };
            let text = record.seal(&SEED).unwrap();
            heard.push(ledger.note((host(), generation, key.to_string()), 1, &text, Moment(now)));
        }
        heard
    }

    fn look(ledger: &mut Ledger, held: &[u64], live: &[u64], now: u64) -> BTreeSet<u64> {
        let set = |generations: &[u64]| generations.iter().map(|generation| (host(), *generation)).collect();
        ledger.forget(&set(held), &set(live), Moment(now));
        ledger.holding = ledger.starts.holding(Moment(now));
        let versions = ledger.hold().into_values().map(|body| match body {
            Body::Session(record) => record.version,
            _ => 0,
        });
        versions.collect()
    }

    #[test]
    fn every_start_of_a_host_may_say_as_much_as_the_one_before() {
        let mut ledger = Ledger::new(MESH);
        for generation in 1..=3 {
            let heard = hear(&mut ledger, generation, 0..200, generation);
            assert!(heard.iter().all(|news| *news == Ok(true)), "start {generation}");
        }
        assert_eq!(look(&mut ledger, &[1, 2, 3], &[3], 4), BTreeSet::from([3]));
        assert_eq!(ledger.hold().len(), 200);
        let heard = hear(&mut ledger, 3, 200..300, 4);
        let limit = MAX_RECORDS_PER_HOST - 200;
        assert!(heard[..limit].iter().all(|news| *news == Ok(true)));
        let too_many = |heard: &Result<_, _>| *heard == Err(GossipRefusal::TooMany);
        assert!(heard[limit..].iter().all(too_many), "a host says too much in one start");
        assert!(hear(&mut ledger, 3, 200..300, 4).iter().all(|news| *news == Ok(false)), "told once");
    }

    #[test]
    fn a_start_that_made_room_is_read_again_once_it_is_heard_and_a_forgery_never_is() {
        let mut ledger = Ledger::new(MESH);
        hear(&mut ledger, 9, 0..2, 9);
        look(&mut ledger, &[9], &[], 9);
        // Four later starts push it out.
        for generation in 10..=13 {
            hear(&mut ledger, generation, 0..2, generation);
        }
        let all = [9, 10, 11, 12, 13];
        look(&mut ledger, &all, &[13], 14);
        assert!(!ledger.starts.knows(host(), 9));
        assert_eq!(hear(&mut ledger, 9, 0..2, 15), [Ok(false), Ok(false)], "silent starts do not take turns");
        // The copies are gone; the first of all is heard.
        look(&mut ledger, &all, &[9], 40_000);
        assert_eq!(hear(&mut ledger, 9, 0..2, 40_200), [Ok(true), Ok(true)]);
        ledger.starts.spoke(host(), 9, Moment(80_000));
        assert!(look(&mut ledger, &all, &[9], 80_000).contains(&9));

        let place = (host(), 20, RecordKey::Host.to_string());
        assert!(ledger.note(place.clone(), 1, "forged", Moment(0)).is_err());
        look(&mut ledger, &[20], &[20], 80_001);
        assert_eq!(ledger.note(place, 1, "forged", Moment(0)), Ok(false));
    }
}
