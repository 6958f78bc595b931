//! Voters that say what no voter says: a fault of theirs is never ours.

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, RaftNetwork, RaftNetworkFactory, SnapshotMeta, StoredMembership,
    Vote,
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
    storage::RaftStateMachine,
};

use super::*;
use crate::quorum::{
    disk::Place,
    machine::{Content, StateMachine},
    net::{Call, Connections, Factory, Frame, Response},
    store::Store,
};

fn at(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Sends entries 4 and 5 behind 3 to a voter that answers this; gives what openraft hears.
async fn heard(prev: Option<LogId<u64>>, answer: AppendEntriesResponse<u64>) -> Option<String> {
    let answer = wire::encode(&Response::Append(answer));
    let wire = Wire::new(move |_, _, _| std::future::ready(Ok(answer.clone())).boxed());
    let mut factory = Factory(Connections { node: 1, wire, kept: kept::Kept::new() });
    let mut connection = factory.new_client(2, &Voter { host: host(2) }).await;
    let first = prev.map_or(0, |prev| prev.index + 1);
    let blank = |index| Record { log_id: at(2, index), payload: EntryPayload::Blank };
    let request = AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: prev,
        entries: (first..first + 2).map(blank).collect(),
        leader_commit: None,
    };
    connection.append_entries(request, RPCOption::new(PATIENCE)).await.ok().map(|heard| heard.to_string())
}

#[tokio::test]
async fn an_answer_that_fits_nothing_that_was_sent_is_no_answer() {
    use AppendEntriesResponse::{Conflict, HigherVote, PartialSuccess, Success};
    let prev = Some(at(2, 3));
    let answers = [
        Success,
        Conflict,
        PartialSuccess(prev),
        PartialSuccess(Some(at(2, 4))),
        HigherVote(Vote::new(3, 2)),
    ];
    for answer in answers {
        let said = answer.to_string();
        assert_eq!(heard(prev, answer).await, Some(said));
    }
    assert!(heard(None, PartialSuccess(None)).await.is_some());
    let lies = [
        (None, Conflict),
        (prev, PartialSuccess(None)),
        (prev, PartialSuccess(Some(at(2, 2)))),
        (prev, PartialSuccess(Some(at(2, 6)))),
        (prev, PartialSuccess(Some(at(1, 4)))),
        (prev, HigherVote(Vote::new(1, 2))),
        (prev, HigherVote(Vote::new_committed(2, 1))),
    ];
    for (prev, lie) in lies {
        let said = lie.to_string();
        assert_eq!(heard(prev, lie).await, None, "{said}");
    }
}

fn about(last: LogId<u64>) -> SnapshotMeta<u64, Voter> {
    let members = Membership::new(vec![[99].into()], BTreeMap::from([(99, Voter { host: host(9) })]));
    let last_membership = StoredMembership::new(Some(last), members);
    SnapshotMeta { last_log_id: Some(last), last_membership, snapshot_id: "x".into() }
}

fn content(about: &SnapshotMeta<u64, Voter>) -> Vec<u8> {
    let (last, membership) = (about.last_log_id, about.last_membership.clone());
    wire::encode(&Content { last, membership, state: None })
}

async fn sent(group: &Group, vote: Vote<u64>, about: SnapshotMeta<u64, Voter>, data: Vec<u8>) -> Response {
    let frame = Frame { to: group.node_id(), from: 99, call: Call::Snapshot { vote, about, data } };
    wire::decode(&group.handle(host(9), &wire::encode(&frame)).await).unwrap()
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_or_is_another_one_is_refused_and_ends_nobody() {
    let hosts = Hosts::voting(1..=1).await;
    let (group, vote) = (hosts.group(1), Vote::new_committed(50, 99));
    let right = about(at(50, 1000));
    let cut = content(&right)[..20].to_vec();
    for data in [b"nonsense".to_vec(), cut, content(&about(at(50, 999)))] {
        let answer = sent(&group, vote, right.clone(), data).await;
        assert!(matches!(answer, Response::Refused(_)), "it was taken");
    }
    assert_eq!(group.write(apply(0, 10), PATIENCE).await, Ok(Ok(())));
    assert_eq!(group.lead().borrow().stopped, None);
}

#[tokio::test]
async fn who_speaks_for_an_older_vote_is_not_a_leader_that_was_heard() {
    let hosts = Hosts::voting(1..=1).await;
    let group = hosts.group(1);
    let silence = group.seat.ballot.silence();
    let old = about(at(0, 0));
    let answer = sent(&group, Vote::new_committed(0, 99), old.clone(), content(&old)).await;
    assert!(matches!(answer, Response::Snapshot(theirs) if theirs.leader_id().term == 1));
    assert!(group.seat.ballot.silence() >= silence);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(Place::new(dir.path(), SESSION, host(1))).unwrap();
    let (store, _, none) = open();
    let (mut machine, _) = StateMachine::new(store.clone(), none, watch::channel(None).0).unwrap();
    let (good, bad) = (about(at(1, 3)), about(at(1, 5)));
    let data = |bytes: Vec<u8>| Box::new(std::io::Cursor::new(bytes));
    machine.install_snapshot(&good, data(content(&good))).await.unwrap();
    assert!(machine.install_snapshot(&bad, data(b"nonsense".to_vec())).await.is_err());
    let shown = machine.applied_state().await.unwrap();
    assert_eq!(shown, (good.last_log_id, good.last_membership.clone()));
    store.close().await;
    drop((machine, store));
    let (_, _, stored) = open();
    assert_eq!(stored.map(|(about, _)| about), Some(good));
}
