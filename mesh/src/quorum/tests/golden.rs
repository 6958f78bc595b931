//! One of each message that voters send each other, and of each row that they store.

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, Membership, SnapshotMeta, StoredMembership, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use proto::{
    id::{Epoch, MachineName},
    level::Level,
    seal::Seed,
    session::{Decision, Mandate, State},
    topology::Contents,
};

use super::*;
use crate::{
    quorum::{
        machine::Content,
        net::{Call, Frame, Response},
        wire::{Owner, Written, encode, stored},
    },
    tests::golden::bytes::Sample,
};

/// Nodes are large numbers.
const NODE: u64 = 1_000_001;
const OTHER: u64 = 1_000_002;

pub(crate) fn samples() -> Vec<Sample> {
    let owner = Owner { session: SESSION, host: host(1), node: NODE };
    let membership = StoredMembership::new(Some(at(3)), members());
    let none = StoredMembership::new(None, Membership::default());
    let content = |last, membership, state| Content { last, membership, state };
    let mut samples = vec![
        written("raft-owner.one", &owner),
        written("raft-place.one", &at(7)),
        written("raft-vote.asked", &Vote::new(4, NODE)),
        written("raft-vote.committed", &Vote::new_committed(4, NODE)),
        written("raft-snapshot.one", &(about(), vec![1, 2, 3])),
        written("raft-content.one", &content(Some(at(7)), membership, Some(state()))),
        written("raft-content.first", &content(None, none, None)),
    ];
    let entries = entries().into_iter().map(|(name, entry)| written(&format!("raft-entry.{name}"), &entry));
    samples.extend(entries);
    samples.push(written("raft-entry.later", &later_entry(7)));
    samples.extend(
        calls().into_iter().map(|(name, call)| {
            written(&format!("raft-call.{name}"), &Frame { to: NODE, from: OTHER, call })
        }),
    );
    samples
        .extend(answers().into_iter().map(|(name, answer)| written(&format!("raft-answer.{name}"), &answer)));
    samples
}

fn written<T: Written + 'static>(name: &str, value: &T) -> Sample {
    Sample::written(name, encode(value), |bytes| stored::<T>(bytes).map(|value| encode(&value)))
}

fn at(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(4, NODE), index)
}

/// Two sets of voters, of which one takes the other's place.
fn members() -> Membership<u64, Voter> {
    let hosts = BTreeMap::from([(NODE, Voter { host: host(1) }), (OTHER, Voter { host: host(2) })]);
    Membership::new(vec![[NODE].into(), [NODE, OTHER].into()], hosts)
}

fn about() -> SnapshotMeta<u64, Voter> {
    let last_membership = StoredMembership::new(Some(at(3)), members());
    SnapshotMeta { last_log_id: Some(at(7)), last_membership, snapshot_id: "4-7".into() }
}

fn commands() -> Vec<Command> {
    let (machine, host, epoch) = (|| "web-1".parse::<MachineName>().unwrap(), host(1), Epoch(3));
    let mut contents = Contents::default();
    contents.add(b"port = 80\n");
    vec![
        create(),
        apply(4, 20),
        Command::Grant { machine: machine(), host, epoch },
        Command::Wish { machine: machine(), run: true },
        Command::Dropped { machine: machine(), host, epoch },
        Command::End,
        Command::Keep(contents),
        Command::Raise { level: Level::from(2) },
    ]
}

/// Those of level 7.
fn later_commands() -> Vec<Command> {
    let mandate = Mandate {
        session: SESSION,
        number: 2,
        parent: None,
        groups: BTreeMap::new(),
        stopped: BTreeSet::new(),
        replaced: BTreeMap::new(),
        ended: true,
    };
    let signed = |decision| Command::Signed { mandate: mandate.sign(&Seed([1; 32])), decision };
    let Command::Apply { intent, plan, replace } = apply(4, 20) else { unreachable!() };
    let wish = Decision::Wish { machine: "web-1".parse().unwrap(), run: true };
    vec![
        Command::Out { host: host(1) },
        signed(Decision::Apply { intent, plan, replace }),
        signed(wish),
        signed(Decision::End),
    ]
}

fn later_entry(index: u64) -> Record {
    Record { log_id: at(index), payload: EntryPayload::Normal(Batch(later_commands())) }
}

fn entries() -> Vec<(&'static str, Record)> {
    let entry = |payload| Record { log_id: at(7), payload };
    vec![
        ("blank", entry(EntryPayload::Blank)),
        ("commands", entry(EntryPayload::Normal(Batch(commands())))),
        ("members", entry(EntryPayload::Membership(members()))),
    ]
}

fn state() -> State {
    let Command::Apply { intent, plan, .. } = apply(4, 20) else { unreachable!() };
    State {
        id: SESSION,
        name: "shop".parse().unwrap(),
        stamp: Timestamp(1_790_000_000_000),
        version: 300,
        recovery: 1,
        intent: Some(intent),
        plan: Some(plan),
        epochs: BTreeMap::new(),
        granted: BTreeMap::new(),
        addresses: BTreeMap::new(),
        stopped: BTreeSet::new(),
        starts: BTreeMap::new(),
        drops: BTreeMap::new(),
        ended: false,
        ssh_seed: [9; 32],
        contents: Contents::default(),
        level: Level::from(2),
        out: BTreeSet::new(),
        mandate: None,
    }
}

fn calls() -> Vec<(&'static str, Call)> {
    let vote = Vote::new_committed(4, NODE);
    let mut entries = entries();
    for (index, (_, entry)) in entries.iter_mut().enumerate() {
        entry.log_id = at(8 + index as u64);
    }
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    let append = |entries| AppendEntriesRequest {
        vote,
        prev_log_id: Some(at(7)),
        entries,
        leader_commit: Some(at(6)),
    };
    vec![
        ("append", Call::Append(append(entries))),
        ("append-later", Call::Append(append(vec![later_entry(8)]))),
        ("vote", Call::Vote(VoteRequest { vote, last_log_id: Some(at(7)) })),
        ("snapshot", Call::Snapshot { vote, about: about(), data: vec![1, 2, 3] }),
        ("ask", Call::Ask { last: Some(at(7)) }),
    ]
}

fn answers() -> Vec<(&'static str, Response)> {
    let vote = Vote::new(5, OTHER);
    vec![
        ("appended", Response::Append(AppendEntriesResponse::Success)),
        ("appended-to", Response::Append(AppendEntriesResponse::PartialSuccess(Some(at(7))))),
        ("conflict", Response::Append(AppendEntriesResponse::Conflict)),
        ("higher-vote", Response::Append(AppendEntriesResponse::HigherVote(vote))),
        ("vote", Response::Vote(VoteResponse { vote, vote_granted: true, last_log_id: Some(at(7)) })),
        ("snapshot", Response::Snapshot(vote)),
        ("ask", Response::Ask(true)),
        ("refused", Response::Refused("its disk is full".into())),
        ("removed", Response::Removed),
    ]
}
