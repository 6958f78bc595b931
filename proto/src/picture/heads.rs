//! Who speaks for a session in gossip, and what they say. Whose word counts is for [`crate::run::knowledge`].

use super::Picture;
use crate::{
    id::{HostId, SessionId},
    wire::record::{Body, HeadRecord, RecordKey},
};

/// Gives a host's own head of a session, believed or not.
pub fn said(picture: &Picture, host: HostId, session: SessionId) -> Option<&HeadRecord> {
    match picture.records.get(&(host, RecordKey::Head(session))) {
        Some(Body::Head(head)) => Some(head),
        _ => None,
    }
}

/// Lists who says that it coordinates which session, of those that are not out.
pub fn speakers(picture: &Picture) -> impl Iterator<Item = (HostId, SessionId)> {
    picture.records.keys().filter_map(|(host, key)| match key {
        RecordKey::Head(session) if !picture.out.contains_key(host) => Some((*host, *session)),
        _ => None,
    })
}
