//! Pure: how a voter's log, votes, snapshots and messages are written. openraft's types have no encoding that
//! can grow, so each has a form of ours here, with numbered fields, and nothing outside this file knows it.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use openraft::{
    CommittedLeaderId, EntryPayload, LogId, Membership, SnapshotMeta, StoredMembership, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use proto::{
    id::{HostId, SessionId},
    limits::MAX_RAFT_BYTES,
    session::{Command, State},
    wire::{self, Kind, Message, WireError},
};

use super::{Batch, Record, Types, Voter, machine::Content, net};

/// A value that is sent or stored under a form of its own.
pub(super) trait Written: Sized {
    /// The form.
    type Form: Message;
    /// Gives the form of a value.
    fn form(&self) -> Self::Form;
    /// Gives the value of a form; `None` = one that we never write.
    fn value(form: Self::Form) -> Option<Self>;
}

/// Encodes a value.
pub(super) fn encode<T: Written>(value: &T) -> Vec<u8> {
    wire::encode(&value.form())
}

/// Decodes what another voter sent.
pub(super) fn decode<T: Written>(bytes: &[u8]) -> Result<T, WireError> {
    read(bytes, MAX_RAFT_BYTES)
}

/// Decodes what this host stored.
pub(super) fn stored<T: Written>(bytes: &[u8]) -> Result<T, WireError> {
    read(bytes, usize::MAX)
}

fn read<T: Written>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    let form = wire::decode(bytes, limit)?;
    T::value(form).ok_or_else(|| WireError::Malformed("a value that nobody writes".into()))
}

/// Counts up whenever what a store holds is encoded so that older agents cannot read it.
pub(super) const FORMAT: u16 = 3;

/// Who a store belongs to, fixed when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Owner {
    #[n(0)]
    pub session: SessionId,
    #[n(1)]
    pub host: HostId,
    /// The Raft node id, minted with the store and never used again.
    #[n(2)]
    pub node: u64,
}

impl Message for Owner {
    const KIND: Kind = Kind::RaftOwner;
    const VERSION: u16 = FORMAT;
}

impl Written for Owner {
    type Form = Owner;
    fn form(&self) -> Owner {
        self.clone()
    }
    fn value(form: Owner) -> Option<Owner> {
        Some(form)
    }
}

#[derive(Clone, Copy, Encode, Decode)]
#[cbor(map)]
pub(super) struct Place {
    #[n(0)]
    term: u64,
    #[n(1)]
    node: u64,
    #[n(2)]
    index: u64,
}

impl Message for Place {
    const KIND: Kind = Kind::RaftPlace;
}

impl Written for LogId<u64> {
    type Form = Place;
    fn form(&self) -> Place {
        Place { term: self.leader_id.term, node: self.leader_id.node_id, index: self.index }
    }
    fn value(form: Place) -> Option<LogId<u64>> {
        // Nothing comes after the last number, and openraft counts on.
        let counted = form.index < u64::MAX;
        counted.then(|| LogId::new(CommittedLeaderId::new(form.term, form.node), form.index))
    }
}

#[derive(Clone, Copy, Encode, Decode)]
#[cbor(map)]
pub(super) struct VoteForm {
    #[n(0)]
    term: u64,
    #[n(1)]
    node: u64,
    #[n(2)]
    committed: bool,
}

impl Message for VoteForm {
    const KIND: Kind = Kind::RaftVote;
}

impl Written for Vote<u64> {
    type Form = VoteForm;
    fn form(&self) -> VoteForm {
        let leader = self.leader_id();
        VoteForm { term: leader.term, node: leader.node_id, committed: self.committed }
    }
    fn value(form: VoteForm) -> Option<Vote<u64>> {
        let new = if form.committed { Vote::new_committed } else { Vote::new };
        (form.term < u64::MAX).then(|| new(form.term, form.node))
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Members {
    /// Who votes: one set, or two while they change.
    #[n(0)]
    voting: Vec<BTreeSet<u64>>,
    #[n(1)]
    hosts: BTreeMap<u64, HostId>,
}

impl Members {
    fn of(members: &Membership<u64, Voter>) -> Members {
        let hosts = members.nodes().map(|(node, voter)| (*node, voter.host)).collect();
        Members { voting: members.get_joint_config().clone(), hosts }
    }

    /// Somebody votes, in one set or two, and of everybody who votes the host is known.
    fn value(self) -> Option<Membership<u64, Voter>> {
        let sound = (1..=2).contains(&self.voting.len())
            && self.voting.iter().all(|set| !set.is_empty())
            && self.voting.iter().flatten().all(|node| self.hosts.contains_key(node));
        sound.then(|| self.of_hosts())
    }

    fn of_hosts(self) -> Membership<u64, Voter> {
        let hosts = self.hosts.into_iter().map(|(node, host)| (node, Voter { host }));
        Membership::new(self.voting, hosts.collect::<BTreeMap<_, _>>())
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Named {
    #[n(0)]
    place: Option<Place>,
    #[n(1)]
    members: Members,
}

impl Named {
    fn of(stored: &StoredMembership<u64, Voter>) -> Named {
        let place = stored.log_id().as_ref().map(Written::form);
        Named { place, members: Members::of(stored.membership()) }
    }

    /// Before the first list of members there is none, and no place of one.
    fn value(self) -> Option<StoredMembership<u64, Voter>> {
        let none = self.place.is_none() && self.members.voting.is_empty() && self.members.hosts.is_empty();
        let members = if none { self.members.of_hosts() } else { self.members.value()? };
        Some(StoredMembership::new(place(self.place)?, members))
    }
}

/// Gives the place, if there is one; `None` = it is one that we never write.
fn place(form: Option<Place>) -> Option<Option<LogId<u64>>> {
    match form {
        None => Some(None),
        Some(form) => LogId::value(form).map(Some),
    }
}

/// Tells whether these entries are numbered on from `before`, without a gap.
fn follow(before: Option<LogId<u64>>, entries: &[Record]) -> bool {
    let first = before.map_or(0, |before| before.index + 1);
    (first..).zip(entries).all(|(index, record)| record.log_id.index == index)
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Entry {
    #[n(0)]
    place: Place,
    #[n(1)]
    what: What,
}

#[derive(Encode, Decode)]
#[cbor(map)]
enum What {
    #[n(0)]
    Blank,
    #[n(1)]
    Commands(#[n(0)] Vec<Command>),
    #[n(2)]
    Members(#[n(0)] Members),
}

impl Message for Entry {
    const KIND: Kind = Kind::RaftEntry;
}

impl Written for Record {
    type Form = Entry;
    fn form(&self) -> Entry {
        let what = match &self.payload {
            EntryPayload::Blank => What::Blank,
            EntryPayload::Normal(batch) => What::Commands(batch.0.clone()),
            EntryPayload::Membership(members) => What::Members(Members::of(members)),
        };
        Entry { place: self.log_id.form(), what }
    }
    fn value(form: Entry) -> Option<Record> {
        let payload = match form.what {
            What::Blank => EntryPayload::Blank,
            What::Commands(commands) => EntryPayload::Normal(Batch(commands)),
            What::Members(members) => EntryPayload::Membership(members.value()?),
        };
        Some(Record { log_id: LogId::value(form.place)?, payload })
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct About {
    #[n(0)]
    last: Option<Place>,
    #[n(1)]
    members: Named,
    #[n(2)]
    name: String,
}

impl About {
    fn of(meta: &SnapshotMeta<u64, Voter>) -> About {
        let last = meta.last_log_id.as_ref().map(Written::form);
        About { last, members: Named::of(&meta.last_membership), name: meta.snapshot_id.clone() }
    }

    fn value(self) -> Option<SnapshotMeta<u64, Voter>> {
        let (last_log_id, last_membership) = (place(self.last)?, self.members.value()?);
        Some(SnapshotMeta { last_log_id, last_membership, snapshot_id: self.name })
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Snapshot {
    #[n(0)]
    about: About,
    #[cbor(n(1), with = "minicbor::bytes")]
    data: Vec<u8>,
}

impl Message for Snapshot {
    const KIND: Kind = Kind::RaftSnapshot;
}

impl Written for (SnapshotMeta<u64, Voter>, Vec<u8>) {
    type Form = Snapshot;
    fn form(&self) -> Snapshot {
        Snapshot { about: About::of(&self.0), data: self.1.clone() }
    }
    fn value(form: Snapshot) -> Option<Self> {
        Some((form.about.value()?, form.data))
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Held {
    #[n(0)]
    last: Option<Place>,
    #[n(1)]
    members: Named,
    #[cbor(n(2), with = "proto::wire::fields::option", has_nil)]
    state: Option<State>,
}

impl Message for Held {
    const KIND: Kind = Kind::RaftContent;
}

impl Written for Content {
    type Form = Held;
    fn form(&self) -> Held {
        let last = self.last.as_ref().map(Written::form);
        Held { last, members: Named::of(&self.membership), state: self.state.clone() }
    }
    fn value(form: Held) -> Option<Content> {
        let (last, membership) = (place(form.last)?, form.members.value()?);
        Some(Content { last, membership, state: form.state })
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Frame {
    #[n(0)]
    to: u64,
    #[n(1)]
    from: u64,
    #[n(2)]
    call: Call,
}

#[derive(Encode, Decode)]
#[cbor(map)]
enum Call {
    #[n(0)]
    Append {
        #[n(0)]
        vote: VoteForm,
        #[n(1)]
        before: Option<Place>,
        #[n(2)]
        entries: Vec<Entry>,
        #[n(3)]
        committed: Option<Place>,
    },
    #[n(1)]
    Vote {
        #[n(0)]
        vote: VoteForm,
        #[n(1)]
        last: Option<Place>,
    },
    #[n(2)]
    Snapshot {
        #[n(0)]
        vote: VoteForm,
        #[n(1)]
        snapshot: Snapshot,
    },
    #[n(3)]
    Ask {
        #[n(0)]
        last: Option<Place>,
    },
}

impl Message for Frame {
    const KIND: Kind = Kind::RaftCall;
}

impl Written for net::Frame {
    type Form = Frame;
    fn form(&self) -> Frame {
        let at = |log: &Option<LogId<u64>>| log.as_ref().map(Written::form);
        let call = match &self.call {
            net::Call::Append(request) => Call::Append {
                vote: request.vote.form(),
                before: at(&request.prev_log_id),
                entries: request.entries.iter().map(Written::form).collect(),
                committed: at(&request.leader_commit),
            },
            net::Call::Vote(request) => {
                Call::Vote { vote: request.vote.form(), last: at(&request.last_log_id) }
            }
            net::Call::Snapshot { vote, about, data } => {
                let snapshot = Snapshot { about: About::of(about), data: data.clone() };
                Call::Snapshot { vote: vote.form(), snapshot }
            }
            net::Call::Ask { last } => Call::Ask { last: at(last) },
        };
        Frame { to: self.to, from: self.from, call }
    }
    fn value(form: Frame) -> Option<net::Frame> {
        let call = match form.call {
            Call::Append { vote, before, entries, committed } => {
                let prev_log_id = place(before)?;
                let entries: Vec<_> = entries.into_iter().map(Record::value).collect::<Option<_>>()?;
                if !follow(prev_log_id, &entries) {
                    return None;
                }
                let (vote, leader_commit) = (Vote::value(vote)?, place(committed)?);
                net::Call::Append(AppendEntriesRequest::<Types> { vote, prev_log_id, entries, leader_commit })
            }
            Call::Vote { vote, last } => {
                net::Call::Vote(VoteRequest { vote: Vote::value(vote)?, last_log_id: place(last)? })
            }
            Call::Snapshot { vote, snapshot } => net::Call::Snapshot {
                vote: Vote::value(vote)?,
                about: snapshot.about.value()?,
                data: snapshot.data,
            },
            Call::Ask { last } => net::Call::Ask { last: place(last)? },
        };
        Some(net::Frame { to: form.to, from: form.from, call })
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) enum ResponseForm {
    #[n(0)]
    Appended,
    #[n(1)]
    AppendedTo(#[n(0)] Option<Place>),
    #[n(2)]
    Conflict,
    #[n(3)]
    HigherVote(#[n(0)] VoteForm),
    #[n(4)]
    Vote {
        #[n(0)]
        vote: VoteForm,
        #[n(1)]
        granted: bool,
        #[n(2)]
        last: Option<Place>,
    },
    #[n(5)]
    Snapshot(#[n(0)] VoteForm),
    #[n(6)]
    Ask(#[n(0)] bool),
    #[n(7)]
    Refused(#[n(0)] String),
    #[n(8)]
    Removed,
}

impl Message for ResponseForm {
    const KIND: Kind = Kind::RaftAnswer;
}

impl Written for net::Response {
    type Form = ResponseForm;
    fn form(&self) -> ResponseForm {
        match self {
            net::Response::Append(AppendEntriesResponse::Success) => ResponseForm::Appended,
            net::Response::Append(AppendEntriesResponse::PartialSuccess(to)) => {
                ResponseForm::AppendedTo(to.as_ref().map(Written::form))
            }
            net::Response::Append(AppendEntriesResponse::Conflict) => ResponseForm::Conflict,
            net::Response::Append(AppendEntriesResponse::HigherVote(vote)) => {
                ResponseForm::HigherVote(vote.form())
            }
            net::Response::Vote(VoteResponse { vote, vote_granted, last_log_id }) => ResponseForm::Vote {
                vote: vote.form(),
                granted: *vote_granted,
                last: last_log_id.as_ref().map(Written::form),
            },
            net::Response::Snapshot(vote) => ResponseForm::Snapshot(vote.form()),
            net::Response::Ask(yes) => ResponseForm::Ask(*yes),
            net::Response::Refused(because) => ResponseForm::Refused(because.clone()),
            net::Response::Removed => ResponseForm::Removed,
        }
    }
    fn value(form: ResponseForm) -> Option<net::Response> {
        Some(match form {
            ResponseForm::Appended => net::Response::Append(AppendEntriesResponse::Success),
            ResponseForm::AppendedTo(to) => {
                net::Response::Append(AppendEntriesResponse::PartialSuccess(place(to)?))
            }
            ResponseForm::Conflict => net::Response::Append(AppendEntriesResponse::Conflict),
            ResponseForm::HigherVote(vote) => {
                net::Response::Append(AppendEntriesResponse::HigherVote(Vote::value(vote)?))
            }
            ResponseForm::Vote { vote, granted, last } => net::Response::Vote(VoteResponse {
                vote: Vote::value(vote)?,
                vote_granted: granted,
                last_log_id: place(last)?,
            }),
            ResponseForm::Snapshot(vote) => net::Response::Snapshot(Vote::value(vote)?),
            ResponseForm::Ask(yes) => net::Response::Ask(yes),
            ResponseForm::Refused(because) => net::Response::Refused(because),
            ResponseForm::Removed => net::Response::Removed,
        })
    }
}

#[cfg(test)]
mod tests;
