//! Cuts out of a frame what nobody may say, entry by entry. The rest of what is said of a host ends where the first bad
//! thing about it stands, as if the frame had had no more room: what came after a gap would hide it for ever.

use super::{
    BTreeSet, Cleaned, DropBecause, Firewall, GossipId, Held, HostId, Known, MAX_RECORD_BYTES,
    MAX_RECORDS_PER_HOST, MeshId, Passed, Purse, address, cluster, node_name,
    read::{self, Delta, Digest, Entry, Frame, Op, Part},
};
use crate::{
    seal::{self, SealError},
    wire::record::RecordKey,
};

/// What is found on the way.
#[derive(Default)]
struct Found {
    cut: Option<DropBecause>,
    /// Starts that came with this frame.
    new: BTreeSet<GossipId>,
    is_news: bool,
    spoken: Option<u64>,
}

impl Found {
    fn blame(&mut self, because: DropBecause) {
        self.cut.get_or_insert(because);
    }
}

/// Why what is said of a host goes no further.
enum Stop {
    /// No honest host says this.
    Lie(DropBecause),
    /// It is more than may be taken now; it comes again.
    Enough,
}

/// Whose state a part is of.
struct Owner<'a> {
    mesh: MeshId,
    host: HostId,
    id: &'a GossipId,
    now_ms: u64,
}

impl Firewall {
    pub(super) fn clean(&mut self, frame: Frame, known: &Known<'_>) -> Cleaned {
        let mut found = Found::default();
        let frame = match frame {
            Frame::Syn { cluster, digest } => {
                Frame::Syn { cluster, digest: self.clean_digest(digest, known, &mut found) }
            }
            Frame::SynAck { digest, delta } => {
                // News first: they prove starts that the digest names.
                let delta = self.clean_delta(delta, known, &mut found);
                Frame::SynAck { digest: self.clean_digest(digest, known, &mut found), delta }
            }
            Frame::Ack { delta } => Frame::Ack { delta: self.clean_delta(delta, known, &mut found) },
            Frame::BadCluster => Frame::BadCluster,
        };
        Cleaned {
            before: self.introduction(&frame, found.new),
            frame: read::write(&frame),
            cut: found.cut,
            is_news: found.is_news,
            spoken: found.spoken,
            summary: None,
        }
    }

    /// Chitchat takes news only of starts that a digest named.
    fn introduction(&self, frame: &Frame, mut new: BTreeSet<GossipId>) -> Option<Vec<u8>> {
        if let Frame::Syn { digest, .. } | Frame::SynAck { digest, .. } = frame {
            new.retain(|id| digest.iter().all(|entry| entry.id != *id));
        }
        let entry = |id| Entry { id, heartbeat: 1, last_gc_version: 0, max_version: 0 };
        let digest: Digest = new.into_iter().map(entry).collect();
        let syn = |digest| read::write(&Frame::Syn { cluster: cluster(self.mesh), digest });
        (!digest.is_empty()).then(|| syn(digest))
    }

    fn clean_delta(&mut self, delta: Delta, known: &Known<'_>, found: &mut Found) -> Delta {
        let mut told = BTreeSet::new();
        let mut cleaned = Delta::new();
        for part in delta {
            let Some(host) = self.owner(&part.id, known, found) else { continue };
            // Others may hand back what another start of ours said, nothing of this one.
            if part.id == self.me {
                found.blame(DropBecause::AboutMe);
            } else if !told.insert(part.id.clone()) {
                found.blame(DropBecause::Malformed("an id twice"));
            } else if part.last_gc_version != 0 {
                // Nothing is ever deleted, so this would make chitchat throw a state away.
                found.blame(DropBecause::Versions(part.id.node));
            } else {
                cleaned.extend(self.clean_part(part, host, known, found));
            }
        }
        cleaned
    }

    fn clean_part(
        &mut self,
        mut part: Part,
        host: HostId,
        known: &Known<'_>,
        found: &mut Found,
    ) -> Option<Part> {
        let is_own = known.from == host;
        let is_new = !self.seen.contains_key(&part.id);
        // What a host said in an earlier start is news from itself only.
        let later = |seen: &GossipId| seen.node == part.id.node && seen.generation > part.id.generation;
        if is_new && !is_own && self.seen.keys().any(later) {
            return None;
        }
        let mut passed = self.seen.get_mut(&part.id).map(std::mem::take).unwrap_or_default();
        let before = passed.version;
        let kept = self.keep(&part, host, &mut passed, known, found);
        part.ops.truncate(kept);
        let proved = is_own || !passed.held.is_empty();
        if is_new && !(proved && self.make_room(&part.id, known)) {
            return None;
        }
        found.is_news |= passed.version > before;
        passed.mentioned_ms = known.now_ms;
        self.seen.insert(part.id.clone(), passed);
        if is_new {
            found.new.insert(part.id.clone());
        }
        Some(part)
    }

    /// Takes in what a part says, and gives how many of its changes may go on.
    fn keep(
        &mut self,
        part: &Part,
        host: HostId,
        passed: &mut Passed,
        known: &Known<'_>,
        found: &mut Found,
    ) -> usize {
        let owner = Owner { mesh: self.mesh, host, id: &part.id, now_ms: known.now_ms };
        let mut last = 0;
        for (at, op) in part.ops.iter().enumerate() {
            let sender = self.purses.entry(known.from).or_default();
            let taken = passed.take(op, last, &owner, sender).and_then(|news| {
                let Some((key, held, bytes)) = news else { return Ok(()) };
                if !self.purses.entry(host).or_default().news(bytes, known.now_ms) {
                    let is_own = known.from == host;
                    return Err(if is_own { Stop::Lie(DropBecause::Flood) } else { Stop::Enough });
                }
                passed.held.insert(key, held);
                passed.version = passed.version.max(held.version);
                Ok(())
            });
            match taken {
                Ok(()) => last = op.version(),
                Err(Stop::Enough) => return at,
                Err(Stop::Lie(because)) => {
                    found.blame(because);
                    return at;
                }
            }
        }
        part.ops.len()
    }

    fn clean_digest(&mut self, digest: Digest, known: &Known<'_>, found: &mut Found) -> Digest {
        let mut told = BTreeSet::new();
        let mut cleaned = Digest::new();
        for mut entry in digest {
            let Some(host) = self.owner(&entry.id, known, found) else { continue };
            if !told.insert(entry.id.clone()) {
                found.blame(DropBecause::Malformed("an id twice"));
                continue;
            }
            // Chitchat ignores heartbeats about itself; versions about us only shape answers.
            if entry.id == self.me {
                cleaned.push(entry);
                continue;
            }
            let is_own = known.from == host;
            let is_new = !self.seen.contains_key(&entry.id);
            // Who has not seen a start's signed word yet waits for it: the sender has it, if there is one.
            if is_new && !(is_own && self.make_room(&entry.id, known)) {
                continue;
            }
            let passed = self.seen.entry(entry.id.clone()).or_default();
            passed.mentioned_ms = known.now_ms;
            // An earlier start of ours is nothing that we need to know, but one id more.
            let past = entry.id.node == self.me.node && entry.id.generation < self.me.generation;
            if !past && entry.heartbeat > passed.most_beats(known.now_ms) {
                found.blame(DropBecause::Heartbeat(entry.id.node.clone()));
            }
            let before = passed.own_beat.map_or(0, |(beat, _)| beat);
            if is_own && entry.heartbeat > before {
                // Of several of its starts it goes on counting in the one that runs.
                found.spoken = found.spoken.max(Some(entry.id.generation));
            }
            entry.heartbeat = passed.believe(entry.heartbeat, is_own, known.now_ms);
            cleaned.push(entry);
        }
        cleaned
    }

    /// Gives whose start this is. A stranger may be a member whose certificate has not come here yet: no lie.
    fn owner(&self, id: &GossipId, known: &Known<'_>, found: &mut Found) -> Option<HostId> {
        let host = known.members.get(&id.node).copied()?;
        if address(self.mesh, host) != id.address {
            found.blame(DropBecause::Stranger(node_name(host)));
            return None;
        }
        Some(host)
    }
}

impl Passed {
    /// Judges one change, the one before which led to version `last`. Gives what is to be remembered when it is news.
    fn take(
        &self,
        op: &Op,
        last: u64,
        owner: &Owner<'_>,
        sender: &mut Purse,
    ) -> Result<Option<(String, Held, usize)>, Stop> {
        let lie = |of: fn(String) -> DropBecause| Stop::Lie(of(owner.id.node.clone()));
        let Op::KeyValue { key, value, version, status } = op else {
            return Err(lie(DropBecause::Versions));
        };
        // What a later version says is handed on: others may know it.
        let is_ours = matches!(key.parse::<RecordKey>(), Ok(_) | Err(SealError::Later));
        let before = self.held.get(key);
        let has_room = before.is_some() || self.held.len() < MAX_RECORDS_PER_HOST;
        if !is_ours || value.len() > MAX_RECORD_BYTES || *status != 0 || !has_room {
            return Err(lie(DropBecause::Record));
        }
        if *version <= last {
            return Err(lie(DropBecause::Versions));
        }
        let digest = *blake3::hash(value.as_bytes()).as_bytes();
        if before.is_some_and(|held| held.version == *version && held.digest == digest) {
            return Ok(None);
        }
        if !sender.signature(owner.now_ms) {
            return Err(Stop::Enough);
        }
        let most = match seal::vouch(value, owner.mesh, owner.host, key) {
            Ok(standing) if standing.generation == owner.id.generation => standing.seq,
            Err(SealError::Later) => self.most_version(),
            Ok(_) | Err(_) => return Err(lie(DropBecause::Unsigned)),
        };
        if *version > most {
            return Err(lie(DropBecause::Versions));
        }
        let is_news = before.is_none_or(|held| held.version < *version);
        let held = Held { version: *version, digest };
        Ok(is_news.then(|| (key.clone(), held, key.len() + value.len())))
    }
}
