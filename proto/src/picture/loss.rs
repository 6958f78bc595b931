//! What a mesh loses with a host that goes for good.

use std::collections::{BTreeMap, BTreeSet};

use super::Picture;
use crate::{
    id::{HostId, SessionId},
    wire::{
        api::SessionLoss,
        record::{Body, HeadRecord, RecordKey},
    },
};

/// Lists the sessions that have machines or a vote on a host, by name.
pub fn sessions(picture: &Picture, host: HostId) -> Vec<SessionLoss> {
    let heads = newest_heads(picture);
    let known: BTreeSet<SessionId> = picture.shares.keys().chain(heads.keys()).copied().collect();
    let mut losses: Vec<SessionLoss> =
        known.into_iter().filter_map(|session| loss(picture, &heads, session, host)).collect();
    losses.sort_by(|a, b| a.session.cmp(&b.session));
    losses
}

fn loss(
    picture: &Picture,
    heads: &BTreeMap<SessionId, &HeadRecord>,
    session: SessionId,
    host: HostId,
) -> Option<SessionLoss> {
    let (share, head) = (picture.share(session), heads.get(&session));
    let ended = head.is_some_and(|head| head.ended) || share.is_some_and(|share| share.ended);
    let mut machines: Vec<String> = match share {
        Some(share) => {
            let all = share.directory.machines().filter(|entry| entry.host == host);
            all.map(|entry| entry.machine.to_string()).collect()
        }
        None => {
            let told = picture.session_records(host, session);
            told.flat_map(|part| &part.machines).map(|report| report.machine.to_string()).collect()
        }
    };
    machines.sort();
    let voters = head.map(|head| &head.voters[..]).unwrap_or_default();
    let votes = voters.contains(&host);
    let left = voters.iter().filter(|voter| **voter != host && picture.is_up(**voter)).count();
    if ended || (machines.is_empty() && !votes) {
        return None;
    }
    let name = share.map(|share| &share.name).or(head.map(|head| &head.name))?;
    Some(SessionLoss {
        session: name.to_string(),
        machines,
        votes,
        stands: !votes || left * 2 > voters.len(),
    })
}

/// Gives the newest word on each session; whose word counts does not matter to who is only told of it.
fn newest_heads(picture: &Picture) -> BTreeMap<SessionId, &HeadRecord> {
    let mut heads: BTreeMap<SessionId, &HeadRecord> = BTreeMap::new();
    for ((_, key), body) in picture.records.iter() {
        let (RecordKey::Head(session), Body::Head(head)) = (key, body) else { continue };
        let newest = heads.entry(*session).or_insert(head);
        if (head.recovery, head.term, head.version) > (newest.recovery, newest.term, newest.version) {
            *newest = head;
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        id::Generation,
        picture::{Input, fixture::picture},
        session::fixture::{SESSION, created, host_id, up},
        time::Timestamp,
    };

    fn seen(members: &str, voters: &[&str]) -> Picture {
        let state = up(created(), "web 2 256 service=http:80\ndb 1 256", "attic 900 image\nnas 900 image");
        let mut picture = picture("vps", Some(&state), members);
        let head = HeadRecord {
            name: "shop".parse().unwrap(),
            stamp: Timestamp(1),
            term: 1,
            recovery: 0,
            version: 9,
            generation: Generation(1),
            voters: voters.iter().map(|voter| host_id(voter)).collect(),
            ended: false,
        };
        let mut records = (*picture.records).clone();
        records.insert((host_id("vps"), RecordKey::Head(SESSION)), Body::Head(head));
        picture.apply(Input::Records(Arc::new(records)));
        picture
    }

    fn told(members: &str, voters: &[&str], host: &str) -> String {
        let line = |lost: &SessionLoss| {
            format!("{} {:?} votes={} stands={}", lost.session, lost.machines, lost.votes, lost.stands)
        };
        let losses = sessions(&seen(members, voters), host_id(host));
        losses.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_goes_with_a_host_are_its_machines_and_its_votes() {
        let (all, three) = ("attic\nnas\nvps", ["attic", "nas", "vps"]);
        assert_eq!(told(all, &three, "nas"), "shop [\"web-1\"] votes=true stands=true");
        assert_eq!(told(all, &three, "attic"), "shop [\"db-1\", \"web-2\"] votes=true stands=true");
        assert_eq!(told(all, &["attic"], "nas"), "shop [\"web-1\"] votes=false stands=true");
        assert_eq!(told(all, &["attic", "nas"], "vps"), "", "nothing of it is there");
    }

    #[test]
    fn a_session_falls_with_a_host_whose_vote_is_needed() {
        let three = ["attic", "nas", "vps"];
        assert!(told("attic down\nnas\nvps", &three, "nas").ends_with("stands=false"));
        assert!(told("attic\nnas\nvps", &["nas"], "nas").ends_with("stands=false"));
        assert!(told("attic\nnas down\nvps", &three, "nas").ends_with("stands=true"), "it is gone already");
    }
}
