//! What hosts say that they have seen. `up`, `down` and `image import` wait for such words, which gossip carries:
//! nobody is asked. A host says only what its own lists show at that moment, so that whoever hears it knows what a
//! person there would see. Most of it is told as words of four bytes: two things that share one would be taken for
//! seen a moment too early, nothing else.
//!
//! A host whose record says that it tells nothing of the kind runs an older agent, and is not waited for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Picture, images, readiness};
use crate::{
    id::{Digest, HostId, SessionId},
    limits::{MAX_ENDS_TOLD, MAX_NAMES_TOLD, MAX_SESSIONS},
    session::{Phase, Share},
    time::Timestamp,
    trust::Tombstone,
    wire::record::{Body, RecordKey, SeenRecord},
};

/// The sessions that ended, in the order in which this host heard of it; the newest count.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    known: BTreeSet<SessionId>,
    newest: VecDeque<SessionId>,
}

impl Ends {
    /// Takes in all that says that sessions have ended. Of what is heard at once, the clocks of those who say it
    /// order it.
    pub fn hear<'a>(&mut self, tombstones: impl Iterator<Item = &'a Tombstone>) {
        let all: BTreeMap<SessionId, Timestamp> = tombstones.map(|end| (end.session, end.made)).collect();
        let news = all.iter().filter(|(session, _)| !self.known.contains(session));
        let news: BTreeSet<(Timestamp, SessionId)> = news.map(|(session, made)| (*made, *session)).collect();
        for (_, session) in news {
            self.newest.push_front(session);
        }
        self.newest.truncate(MAX_ENDS_TOLD);
        self.known = all.into_keys().collect();
    }
}

/// Gives what this host says that it has seen.
pub fn seen(picture: &Picture, ends: &Ends) -> SeenRecord {
    let shares = picture.shares.values().take(MAX_SESSIONS);
    let gone = ends.newest.iter().filter(|session| picture.share(**session).is_none());
    SeenRecord {
        sessions: shares.map(|share| (share.session, view(picture, share))).collect(),
        names: names(picture),
        ended: gone.map(|session| word("mesh session end 1", &[&session.0])).collect(),
    }
}

/// Lists the members that are up and do not say that they see this share's machines as this host does, at rest.
pub fn behind(picture: &Picture, share: &Share) -> BTreeSet<HostId> {
    let mine = view(picture, share);
    let agrees = |host: HostId, seen: &SeenRecord| {
        host == picture.me || seen.sessions.get(&share.session).is_some_and(|word| *word == mine)
    };
    lacking(picture, |host, seen| mine != UNSETTLED && agrees(host, seen))
}

/// Lists the other members that are up and do not say that they know of a session's end and have nothing of it.
pub fn unaware_of_end(picture: &Picture, session: SessionId) -> BTreeSet<HostId> {
    let word = word("mesh session end 1", &[&session.0]);
    lacking(picture, |host, seen| host == picture.me || seen.ended.contains(&word))
}

/// Lists the members that are up and do not say that they know this image name with this content.
pub fn unaware_of_name(picture: &Picture, name: &str, digest: Digest) -> BTreeSet<HostId> {
    let (word, meanings) = (name_word(name, digest), images::meanings(picture));
    let here = meanings.get(name).is_some_and(|(known, _)| *known == digest);
    lacking(picture, |host, seen| if host == picture.me { here } else { seen.names.contains(&word) })
}

/// Lists the members that are up, are waited for, and have not said this.
fn lacking(picture: &Picture, said: impl Fn(HostId, &SeenRecord) -> bool) -> BTreeSet<HostId> {
    let nothing = SeenRecord::default();
    let waits = |host: &HostId| {
        let older = picture.host_record(*host).is_some_and(|record| !record.tells_seen);
        let seen = match picture.records.get(&(*host, RecordKey::Seen)) {
            Some(Body::Seen(seen)) => seen,
            _ => &nothing,
        };
        (*host == picture.me || !older) && !said(*host, seen)
    };
    picture.up().map(|(host, _)| host).filter(waits).collect()
}

/// The word for a share that this host has not acted on, or of which a machine that is heard is not at rest.
const UNSETTLED: u32 = 0;

/// Gives a word for what this host sees of a share.
fn view(picture: &Picture, share: &Share) -> u32 {
    let acted = picture.reports.get(&share.session).is_some_and(|acted| acted.version >= share.version);
    if !acted || share.ended {
        return UNSETTLED;
    }
    let mut seen = String::new();
    for entry in share.directory.machines().filter(|entry| picture.is_up(entry.host)) {
        let report = readiness::report(picture, share.session, entry);
        let Some(rest) = report.and_then(|report| at_rest(report.phase)) else { return UNSETTLED };
        seen.push_str(&format!("{} {rest}\n", entry.machine));
    }
    word("mesh session view 1", &[&share.version.to_be_bytes(), seen.as_bytes()]).max(UNSETTLED + 1)
}

/// Names the phases in which a machine stays until something else happens. Those that pass by themselves are not
/// worth a record of every host.
fn at_rest(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Ready => Some("ready"),
        Phase::Paused => Some("paused"),
        Phase::Failed => Some("failed"),
        Phase::Stopped => Some("stopped"),
        Phase::Waiting | Phase::Fetching | Phase::Starting | Phase::Running | Phase::Booted => None,
    }
}

/// Gives a word for each image name that this host knows with its content, the newest first.
fn names(picture: &Picture) -> Vec<u32> {
    let mut known: Vec<_> = images::meanings(picture).into_iter().collect();
    known.sort_by(|a, b| (b.1.1, &b.0).cmp(&(a.1.1, &a.0)));
    known.iter().take(MAX_NAMES_TOLD).map(|(name, (digest, _))| name_word(name, *digest)).collect()
}

fn name_word(name: &str, digest: Digest) -> u32 {
    word("mesh image name 1", &[&digest.0, name.as_bytes()])
}

fn word(what: &str, parts: &[&[u8]]) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key(what);
    for part in parts {
        hasher.update(part);
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
