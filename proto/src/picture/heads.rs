//! Who speaks for a session in gossip, and which shares are older than that. Whom this host believes comes in as
//! `believed`: the hosts that a session's birth names, that its log names here, and that were believed before.

use std::collections::BTreeSet;

use super::Picture;
use crate::{
    id::{HostId, SessionId},
    session::voices,
    wire::record::{Body, HeadRecord, RecordKey},
};

/// Gives a host's own head of a session, believed or not.
pub fn said(picture: &Picture, host: HostId, session: SessionId) -> Option<&HeadRecord> {
    match picture.records.get(&(host, RecordKey::Head(session))) {
        Some(Body::Head(head)) => Some(head),
        _ => None,
    }
}

/// Lists who says that it coordinates which session.
pub fn speakers(picture: &Picture) -> impl Iterator<Item = (HostId, SessionId)> {
    picture.records.keys().filter_map(|(host, key)| match key {
        RecordKey::Head(session) => Some((*host, *session)),
        _ => None,
    })
}

/// Lists every session that somebody has a head of.
pub fn sessions(picture: &Picture) -> BTreeSet<SessionId> {
    speakers(picture).map(|(_, session)| session).collect()
}

/// Tells whose word on a session counts: the chain from those that are believed already.
pub fn voices(
    picture: &Picture,
    session: SessionId,
    believed: impl IntoIterator<Item = HostId>,
) -> BTreeSet<HostId> {
    voices::voices(believed, |host| said(picture, host, session).map(|head| &head.voters[..]))
}

/// Gives the newest head of a session among these hosts', with the host that says so.
pub fn newest<'a>(
    picture: &'a Picture,
    session: SessionId,
    voices: &BTreeSet<HostId>,
) -> Option<(HostId, &'a HeadRecord)> {
    let heads = voices.iter().filter_map(|host| Some((*host, said(picture, *host, session)?)));
    heads.max_by_key(|(_, head)| (head.recovery, head.term, head.version))
}

/// Tells whether this host's share is older than a head says it should be, or not there.
pub fn is_behind(picture: &Picture, session: SessionId, head: &HeadRecord) -> bool {
    let older = |version: (u64, u64)| version < (head.recovery, head.version);
    picture.share(session).is_none_or(|share| older((share.recovery, share.version)))
}
