//! Raft messages between voters: one frame to a host, one frame back, carried by a [`Wire`] that
//! the caller gives. Frames name the Raft node they are for, so a host whose store was made anew
//! never answers for the old one.
//!
//! openraft gives up on an append after one heartbeat interval. An entry may hold a topology with
//! all its files and take many seconds on a home's uplink, so a large append goes on in the
//! background while empty ones keep the lease.

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use openraft::{
    LogId, RaftNetwork, RaftNetworkFactory, Snapshot, SnapshotMeta, Vote,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
        SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use proto::{id::HostId, limits::MAX_RAFT_BYTES};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Raft, Types, Voter,
    elect::Ballot,
    kept::Kept,
    machine::Content,
    wire::{decode, encode},
};

/// Frames up to this size are sent in one go: 400 ms at 1.3 Mbit/s.
const SMALL_FRAME_BYTES: usize = 64 * 1024;
/// The longest that a large frame may take: the largest one at 2 Mbit/s.
pub(super) const TRANSFER: Duration = Duration::from_secs(60);
/// Room for a frame's fields beside its entries or data.
const FRAME_MARGIN: usize = 4096;
/// Pause before the next try to reach a voter that did not answer.
const BACKOFF: Duration = Duration::from_millis(100);

/// How frames reach other hosts: (host, frame, within) to the answer's frame.
#[derive(Clone)]
pub struct Wire(Arc<Carry>);

/// What carries a frame.
type Carry = dyn Fn(HostId, Vec<u8>, Duration) -> Carried + Send + Sync;
type Carried = BoxFuture<'static, Result<Vec<u8>, String>>;

impl Wire {
    /// Makes a wire of a function.
    pub fn new(carry: impl Fn(HostId, Vec<u8>, Duration) -> Carried + Send + Sync + 'static) -> Wire {
        Wire(Arc::new(carry))
    }
}

/// A message and the Raft nodes at both ends.
pub(super) struct Frame {
    pub to: u64,
    pub from: u64,
    pub call: Call,
}

#[derive(Clone)]
pub(super) enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot {
        vote: Vote<u64>,
        about: SnapshotMeta<u64, Voter>,
        data: Vec<u8>,
    },
    /// Would you vote for me? Changes nothing but a promise in memory.
    Ask {
        last: Option<LogId<u64>>,
    },
}

pub(super) enum Response {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(Vote<u64>),
    Ask(bool),
    Refused(String),
    /// To `Ask`: the candidate was taken out of the group, which it may not have heard.
    Removed,
}

/// This voter's end of all its connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    pub node: u64,
    pub wire: Wire,
    pub kept: Kept,
}

/// What answers other voters.
#[derive(Clone)]
pub(super) struct Seat {
    pub raft: Raft,
    pub ballot: Ballot,
    pub link: Connections,
}

impl Connections {
    /// Sends one call and waits for its answer.
    pub(super) async fn call(
        &self,
        to: (u64, HostId),
        call: Call,
        within: Duration,
    ) -> Result<Response, String> {
        self.send(to, encode(&Frame { to: to.0, from: self.node, call }), within).await
    }

    async fn send(&self, to: (u64, HostId), frame: Vec<u8>, within: Duration) -> Result<Response, String> {
        if frame.len() > MAX_RAFT_BYTES {
            return Err(format!("a Raft message of {} bytes is too large", frame.len()));
        }
        let sent = (self.wire.0)(to.1, frame, within);
        let bytes =
            tokio::time::timeout(within, sent).await.map_err(|_| "no answer in time".to_owned())??;
        decode(&bytes).map_err(|error| format!("the answer is of no use: {error}"))
    }
}

/// Answers one frame from another host.
pub(super) async fn answer(seat: &Seat, from: HostId, frame: &[u8]) -> Vec<u8> {
    encode(&respond(seat, from, frame).await.unwrap_or_else(Response::Refused))
}

async fn respond(seat: &Seat, from: HostId, frame: &[u8]) -> Result<Response, String> {
    let Seat { raft, ballot, link } = seat;
    let node = link.node;
    let frame: Frame = decode(frame).map_err(|error| error.to_string())?;
    if frame.to != node {
        return Err(format!("this host is node {node} of the session, not {}", frame.to));
    }
    let membership = raft.metrics().borrow().membership_config.clone();
    let known = membership.membership().get_node(&frame.from);
    let is_known = known.is_some();
    if known.is_some_and(|voter| voter.host != from) {
        return Err(format!("node {} is another host", frame.from));
    }
    let speaks_for = match &frame.call {
        Call::Append(request) => Some(request.vote),
        Call::Vote(request) => Some(request.vote),
        Call::Snapshot { vote, .. } => Some(*vote),
        Call::Ask { .. } => None,
    };
    if speaks_for.is_some_and(|vote| vote.leader_id().voted_for() != Some(frame.from)) {
        return Err(format!("node {} speaks for another one", frame.from));
    }
    match frame.call {
        Call::Append(request) => {
            let committed = request.leader_commit;
            let response = raft.append_entries(request).await.map_err(|e| e.to_string())?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                ballot.heard();
                if is_known {
                    link.kept.has(frame.from, committed, committed);
                }
            }
            Ok(Response::Append(response))
        }
        Call::Vote(request) => Ok(Response::Vote(raft.vote(request).await.map_err(|e| e.to_string())?)),
        Call::Snapshot { vote, about, data } => {
            whole(&about, &data)?;
            // Before it is installed, which may take longer than a voter waits for a leader.
            let ours = raft.metrics().borrow().vote;
            if vote >= ours {
                ballot.heard();
            }
            let snapshot = Snapshot { meta: about, snapshot: Box::new(io::Cursor::new(data)) };
            let response = raft.install_full_snapshot(vote, snapshot).await;
            Ok(Response::Snapshot(response.map_err(|e| e.to_string())?.vote))
        }
        Call::Ask { last } if was_removed(raft, frame.from, last).await => Ok(Response::Removed),
        Call::Ask { last } if link.kept.ends_early(frame.from, last) => Ok(Response::Ask(false)),
        Call::Ask { last } => Ok(Response::Ask(ballot.asked(raft, frame.from, last))),
    }
}

/// Refuses a snapshot that cannot be read, or that is another one than is said: openraft stops for good when
/// it has taken one and its machine cannot.
fn whole(about: &SnapshotMeta<u64, Voter>, data: &[u8]) -> Result<(), String> {
    let content: Content = decode(data).map_err(|error| format!("the snapshot is of no use: {error}"))?;
    match (content.last, &content.membership) == (about.last_log_id, &about.last_membership) {
        true => Ok(()),
        false => Err("the snapshot is of another moment than it says".to_owned()),
    }
}

/// Tells whether a committed list of members that the candidate has not seen leaves it out.
async fn was_removed(raft: &Raft, candidate: u64, last: Option<LogId<u64>>) -> bool {
    let left_out = raft.with_raft_state(move |state| {
        let committed = state.membership_state.committed();
        *committed.log_id() > last && committed.membership().get_node(&candidate).is_none()
    });
    left_out.await.unwrap_or(false)
}

/// Makes a connection for each other voter.
pub(super) struct Factory(pub Connections);

impl RaftNetworkFactory<Types> for Factory {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, voter: &Voter) -> Connection {
        Connection { link: self.0.clone(), to: (target, voter.host), transfer: None }
    }
}

/// One voter's way to another.
pub(super) struct Connection {
    link: Connections,
    to: (u64, HostId),
    transfer: Option<Transfer>,
}

/// A large append on its way.
struct Transfer {
    vote: Vote<u64>,
    prev: Option<LogId<u64>>,
    last: LogId<u64>,
    task: AbortOnDropHandle<Result<Response, String>>,
}

/// openraft's own type: its errors are what they are.
type AppendResult = Result<AppendEntriesResponse<u64>, RPCError<u64, Voter, RaftError<u64>>>;

impl Connection {
    /// Goes on with a transfer that is under way, or sends.
    async fn append(&mut self, request: AppendEntriesRequest<Types>, within: Duration) -> AppendResult {
        let last = request.entries.last().map(|entry| entry.log_id);
        let same = |transfer: &Transfer| {
            transfer.vote == request.vote
                && transfer.prev == request.prev_log_id
                && Some(transfer.last) <= last
        };
        if self.transfer.as_ref().is_some_and(same) {
            return self.watch(AppendEntriesRequest { entries: Vec::new(), ..request }, within).await;
        }
        if !request.entries.is_empty() {
            self.transfer = None;
        }
        self.send(request, within).await
    }

    /// Sends what fits one small frame at once, and more than that as a transfer.
    async fn send(&mut self, mut request: AppendEntriesRequest<Types>, within: Duration) -> AppendResult {
        let (whole, prev, vote) = (request.entries.len(), request.prev_log_id, request.vote);
        let keep_alive = AppendEntriesRequest { entries: Vec::new(), ..request.clone() };
        let (frame, last) = loop {
            let last = request.entries.last().map(|entry| entry.log_id);
            let frame = Frame { to: self.to.0, from: self.link.node, call: Call::Append(request.clone()) };
            let frame = encode(&frame);
            if frame.len() <= SMALL_FRAME_BYTES || request.entries.len() <= 1 {
                break (frame, last);
            }
            let half = request.entries.len() / 2;
            request.entries.truncate(half);
        };
        if frame.len() <= SMALL_FRAME_BYTES {
            let answer = self.link.send(self.to, frame, within).await;
            let part = if request.entries.len() < whole { last } else { None };
            return appended(answer, part);
        }
        let last = last.unwrap_or_default();
        let (link, to) = (self.link.clone(), self.to);
        let task = tokio::spawn(async move { link.send(to, frame, TRANSFER).await });
        let task = AbortOnDropHandle::new(task);
        self.transfer = Some(Transfer { vote, prev, last, task });
        self.watch(keep_alive, within).await
    }

    /// Waits for the transfer a little; if it goes on, keeps the lease and says "nothing yet".
    async fn watch(&mut self, keep_alive: AppendEntriesRequest<Types>, within: Duration) -> AppendResult {
        let Some(transfer) = &mut self.transfer else {
            return Err(unreachable("no transfer is under way"));
        };
        let (prev, last) = (transfer.prev, transfer.last);
        if let Ok(ended) = tokio::time::timeout(within / 2, &mut transfer.task).await {
            self.transfer = None;
            return appended(ended.unwrap_or_else(|error| Err(error.to_string())), Some(last));
        }
        let answer = self.link.call(self.to, Call::Append(keep_alive), within / 2).await;
        match appended(answer, None)? {
            AppendEntriesResponse::Success => Ok(AppendEntriesResponse::PartialSuccess(prev)),
            other => Ok(other),
        }
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> AppendResult {
        let within = option.hard_ttl();
        let (prev, committed) = (request.prev_log_id, request.leader_commit);
        let (vote, sent): (_, Vec<_>) =
            (request.vote, request.entries.iter().map(|entry| entry.log_id).collect());
        let last = sent.last().copied();
        let response = self.append(request, within).await?;
        // openraft believes a voter, and panics over what no voter says.
        let sensible = match &response {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(part) => {
                *part == prev || part.is_some_and(|p| sent.contains(&p))
            }
            AppendEntriesResponse::Conflict => prev.is_some(),
            AppendEntriesResponse::HigherVote(theirs) => *theirs > vote,
        };
        if !sensible {
            return Err(unreachable("its answer does not fit what it was sent"));
        }
        let (kept, node) = (&self.link.kept, self.to.0);
        match &response {
            AppendEntriesResponse::Success => kept.has(node, last.or(prev), committed),
            AppendEntriesResponse::PartialSuccess(part) => kept.has(node, *part, committed),
            // openraft must not hear of it: it takes this for impossible and panics.
            AppendEntriesResponse::Conflict if kept.lacks(node, prev) => {
                return Err(unreachable("its store is older than what it acknowledged"));
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(response)
    }

    /// Never called: [`Connection::full_snapshot`] sends snapshots whole.
    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, Voter, RaftError<u64, openraft::error::InstallSnapshotError>>,
    > {
        Err(unreachable("snapshots are sent whole"))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Voter, RaftError<u64>>> {
        match self.link.call(self.to, Call::Vote(request), option.hard_ttl()).await {
            Ok(Response::Vote(response)) => Ok(response),
            answer => Err(unreachable(&trouble(answer))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let data = snapshot.snapshot.into_inner();
        if data.len() > MAX_RAFT_BYTES - FRAME_MARGIN {
            let what = format!("a snapshot of {} bytes is too large", data.len());
            return Err(Unreachable::new(&io::Error::other(what)).into());
        }
        let covered = snapshot.meta.last_log_id;
        let call = Call::Snapshot { vote, about: snapshot.meta, data };
        let answer = tokio::select! {
            // Either side may be dropped: a snapshot that arrives twice is installed once.
            closed = cancel => return Err(closed.into()),
            answer = self.link.call(self.to, call, TRANSFER) => answer,
        };
        match answer {
            Ok(Response::Snapshot(theirs)) => {
                if theirs == vote {
                    self.link.kept.has(self.to.0, covered, covered);
                }
                Ok(SnapshotResponse::new(theirs))
            }
            answer => Err(Unreachable::new(&io::Error::other(trouble(answer))).into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// Reads the answer to an append of which only the entries up to `part` were sent.
#[allow(clippy::result_large_err)]
fn appended(answer: Result<Response, String>, part: Option<LogId<u64>>) -> AppendResult {
    match (answer, part) {
        (Ok(Response::Append(AppendEntriesResponse::Success)), Some(last)) => {
            Ok(AppendEntriesResponse::PartialSuccess(Some(last)))
        }
        (Ok(Response::Append(response)), _) => Ok(response),
        (answer, _) => Err(unreachable(&trouble(answer))),
    }
}

fn trouble(answer: Result<Response, String>) -> String {
    match answer {
        Err(what) | Ok(Response::Refused(what)) => what,
        Ok(_) => "the answer is of another kind".to_owned(),
    }
}

fn unreachable<E: std::error::Error>(what: &str) -> RPCError<u64, Voter, E> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(what.to_owned())))
}
