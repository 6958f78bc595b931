//! What comes in from members: the requests that the mesh answers itself, and the handing over of all
//! others and of Raft messages. Nothing here decides; the door and the roster do.

use std::sync::Arc;

use proto::{
    id::{HostId, SessionId},
    limits::{MAX_RAFT_BYTES, MAX_RPC_BYTES},
    wire::{
        self, WireError,
        rpc::{Answer, Refusal, Request},
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    join::door::Door,
    members::{exchange, roster::Roster},
    transport::{
        inbound::Inlet,
        protocols::RAFT,
        rpc::{self, Exchange},
    },
};

/// A request of another member.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks.
    pub from: HostId,
    /// What.
    pub request: Request,
    /// Where the answer goes; dropped = none.
    pub answer: oneshot::Sender<Answer>,
}

/// A Raft message of another member.
#[derive(Debug)]
pub struct RaftInbound {
    /// Who sends it.
    pub from: HostId,
    /// Of which session.
    pub session: SessionId,
    /// The message.
    pub frame: Vec<u8>,
    /// Where the answer goes; dropped = none.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// The shape of Raft messages.
pub(crate) fn raft_exchange() -> Exchange {
    Exchange { protocol: RAFT, limit: MAX_RAFT_BYTES }
}

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Answering {
    pub(crate) roster: Arc<Roster>,
    pub(crate) door: Door,
    pub(crate) requests: mpsc::Sender<Inbound>,
}

impl Answering {
    async fn answer(self, from: HostId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let request = match wire::decode(&bytes, MAX_RPC_BYTES) {
            Ok(request) => request,
            Err(WireError::Unknown | WireError::Version { .. }) => {
                return Some(wire::encode(&Answer::Refused(Refusal::Unknown)));
            }
            Err(_) => return None,
        };
        let answer = match request {
            Request::Ping => Answer::Done,
            Request::Compare { summary, news, time } => {
                self.roster.hear_clock(from, time);
                exchange::compared(&self.roster, from, summary, &news)
            }
            Request::Statements { given, wanted } => exchange::exchanged(&self.roster, from, &given, wanted),
            Request::Join { transcript, proof } => {
                let at_their_door = transcript.member == from;
                let decide = || self.door.decide(&transcript, &proof);
                Answer::Join(Box::new(at_their_door.then(decide)?))
            }
            request => {
                let (answer, answered) = oneshot::channel();
                self.requests.send(Inbound { from, request, answer }).await.ok()?;
                answered.await.ok()?
            }
        };
        Some(wire::encode(&answer))
    }
}

/// Answers requests until the swarm ends.
pub(crate) async fn serve_requests(inlet: Inlet, answering: Answering) {
    rpc::serve(inlet, MAX_RPC_BYTES, move |from, bytes| answering.clone().answer(from, bytes)).await;
}

/// Hands Raft messages over until the swarm ends.
pub(crate) async fn serve_raft(inlet: Inlet, raft: mpsc::Sender<RaftInbound>) {
    rpc::serve(inlet, MAX_RAFT_BYTES, move |from, bytes| {
        let raft = raft.clone();
        async move {
            let (session, frame) = bytes.split_first_chunk::<16>()?;
            let (answer, answered) = oneshot::channel();
            let inbound = RaftInbound { from, session: SessionId(*session), frame: frame.to_vec(), answer };
            raft.send(inbound).await.ok()?;
            answered.await.ok()
        }
    })
    .await;
}
