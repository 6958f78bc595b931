//! What comes in from members: the requests that the mesh answers itself, and the handing over of all
//! others and of Raft messages. Nothing here decides; the door and the roster do.

use std::sync::Arc;

use proto::{
    id::{HostId, SessionId},
    limits::{MAX_RAFT_BYTES, MAX_RPC_BYTES},
    reachability::path::PathKind,
    wire::{
        self, WireError,
        rpc::{Answer, Refusal, Request, Rtt},
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    join::door::Door,
    members::{
        exchange,
        roster::{Roll, Roster},
    },
    reach::dialback::DialBack,
    transport::{
        gate::Gate,
        inbound::Inlet,
        protocols::RAFT,
        rpc::{self, Exchange},
    },
};

/// Places at which a member is seen that are told to it: its connections have few.
const MAX_SEEN: usize = 8;

/// A request of another member.
#[derive(Debug)]
pub struct Incoming {
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
    pub(crate) dial_back: DialBack,
    pub(crate) gate: Gate,
    pub(crate) requests: mpsc::Sender<Incoming>,
}

impl Answering {
    async fn answer(self, from: HostId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let request = match read(&bytes) {
            Ok(request) => request,
            Err(refusal) => return refusal.map(|refusal| wire::encode(&Answer::Refused(refusal))),
        };
        if waits(&request) && !self.gate.lets_in(&from).await {
            return None;
        }
        let answer = match request {
            Request::Ping | Request::Long(_) => Answer::Done,
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
            Request::DialBack { claim, certificate, word } => {
                self.dial_back.answer(from, claim, certificate, word).await
            }
            Request::Around => Answer::Around {
                rtts: rtts(&self.roster.roll(), &self.gate),
                seen: self.gate.places(&from).into_iter().take(MAX_SEEN).collect(),
            },
            request => {
                let (answer, answered) = oneshot::channel();
                self.requests.send(Incoming { from, request, answer }).await.ok()?;
                answered.await.ok()?
            }
        };
        Some(wire::encode(&answer))
    }
}

/// Tells whether a host that was away answers it only once it serves again. Until then it does what brings statements to
/// it, and says that it is there.
fn waits(request: &Request) -> bool {
    use Request::{Compare, Long, Ping, Statements};
    !matches!(request, Ping | Long(_) | Compare { .. } | Statements { .. })
}

/// Tells how far the members are with whom there is a connection.
pub(crate) fn rtts(roll: &Roll, gate: &Gate) -> Vec<Rtt> {
    let rtt = |host: &HostId| {
        let path = gate.path(host)?;
        let relayed = path.kind == PathKind::Relayed;
        Some(Rtt { to: *host, rtt_us: (path.rtt_ms * 1_000.0) as u32, relayed })
    };
    roll.members.keys().filter_map(rtt).collect()
}

/// Reads a request, or says what is answered to one that is not read: nothing when it is damaged.
fn read(bytes: &[u8]) -> Result<Request, Option<Refusal>> {
    wire::decode(bytes, MAX_RPC_BYTES).map_err(|error| match error {
        WireError::Unknown | WireError::Version { .. } => Some(Refusal::Unknown),
        _ => None,
    })
}

/// Answers requests until the swarm ends.
pub(crate) async fn serve_requests(inlet: Inlet, answering: Answering) {
    rpc::serve(inlet, MAX_RPC_BYTES, move |from, bytes| answering.clone().answer(from, bytes)).await;
}

/// Hands Raft messages over until the swarm ends.
pub(crate) async fn serve_raft(inlet: Inlet, gate: Gate, raft: mpsc::Sender<RaftInbound>) {
    rpc::serve(inlet, MAX_RAFT_BYTES, move |from, bytes| {
        let (raft, gate) = (raft.clone(), gate.clone());
        async move {
            if !gate.lets_in(&from).await {
                return None;
            }
            let (session, frame) = bytes.split_first_chunk::<16>()?;
            let (answer, answered) = oneshot::channel();
            let inbound = RaftInbound { from, session: SessionId(*session), frame: frame.to_vec(), answer };
            raft.send(inbound).await.ok()?;
            answered.await.ok()
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_later_version_is_refused_as_unknown_and_a_damaged_one_is_not_answered() {
        let ping = wire::encode(&Request::Ping);
        assert!(matches!(read(&ping), Ok(Request::Ping)));
        // A variant is its number and its fields.
        let at = ping.windows(3).position(|some| some == [0x82, 0, 0xa0]).unwrap();
        let with = |at: usize, byte: u8| {
            let mut changed = ping.clone();
            changed[at] = byte;
            read(&changed).unwrap_err()
        };
        assert_eq!(with(at + 1, 0x16), Some(Refusal::Unknown));
        // The second field of the envelope is the form.
        assert_eq!(with(4, 2), Some(Refusal::Unknown));
        assert_eq!(with(2, 2), None, "another kind");
        assert_eq!(with(at, 0xff), None, "damaged");
    }
}
