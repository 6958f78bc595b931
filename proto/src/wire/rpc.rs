//! Requests between members on `/mesh/rpc/1`: one request, one answer, one substream each.
//! Postcard, length-prefixed, at most `limits::MAX_RPC_BYTES`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, Epoch, HostId, MachineName, Name, SessionId},
    session::{MachineReport, Proposal, Replace, Share, State},
    time::Timestamp,
    topology::Intent,
    trust::{JoinAnswer, JoinProof, Short, Transcript},
};

/// A question to another member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? The answer proves that data goes both ways.
    Ping,
    /// Are our sets of statements equal?
    Compare {
        /// The digest over the asker's set.
        summary: Digest,
        /// Statements that the receiver may lack, sealed.
        news: Vec<Vec<u8>>,
        /// The asker's clock.
        time: Timestamp,
    },
    /// What lacks on both sides, after `Compare`.
    Statements {
        /// Those that the receiver lacks, sealed.
        given: Vec<Vec<u8>>,
        /// The names of those that the asker lacks.
        wanted: Vec<Short>,
    },
    /// A new share for the receiver. Pushed by the coordinator, and pulled by `GetShare`.
    PutShare(Box<Share>),
    /// The asker's share of a session.
    GetShare(SessionId),
    /// Do you know this name with this content? (`image import` waits for it.)
    KnowsImage {
        /// The name.
        name: String,
        /// The content.
        digest: Digest,
    },
    /// What the receiver's `session status` would say about its own view: version and reports.
    View(SessionId),
    /// For the coordinator: the hard state, read through a quorum round.
    State(SessionId),
    /// For the coordinator: what would `up` do?
    Plan {
        /// The session.
        session: SessionId,
        /// The topology with its files.
        intent: Box<Intent>,
        /// Whose started disks may be lost.
        replace: Replace,
    },
    /// For the coordinator: make it so. Refused when `index` is given and no longer current.
    Up {
        /// The session.
        session: SessionId,
        /// The topology with its files.
        intent: Box<Intent>,
        /// The generation that the user saw.
        index: Option<u64>,
        /// Whose started disks may be lost.
        replace: Replace,
    },
    /// For the coordinator: end the session.
    Down(SessionId),
    /// For the coordinator: `machine start` and `machine stop`.
    Wish {
        /// The session.
        session: SessionId,
        /// The machine.
        machine: MachineName,
        /// Whether it shall run.
        run: bool,
    },
    /// For the coordinator: may the asker start this incarnation for the first time? Answered
    /// after a quorum round that lists it.
    MayStart {
        /// The session.
        session: SessionId,
        /// The machine.
        machine: MachineName,
        /// The incarnation.
        epoch: Epoch,
    },
    /// For the coordinator: the asker removed this incarnation.
    Dropped {
        /// The session.
        session: SessionId,
        /// The machine.
        machine: MachineName,
        /// This incarnation and all before it.
        epoch: Epoch,
    },
    /// For a host that shall become a voter: open a log for this session and answer with its
    /// Raft node id.
    OpenVoter {
        /// The session.
        session: SessionId,
        /// Its label, for messages.
        name: Name,
        /// The node whose log of the receiver is older than what it acknowledged: it gets a new one.
        outdated: Option<u64>,
    },
    /// Whose word on this session counts, as far as the receiver knows? For a host that was away.
    Voices(SessionId),
    /// For an issuer: the asker has a stranger at its door with this proof.
    Join {
        /// What both sides of the join know.
        transcript: Box<Transcript>,
        /// What the stranger signed.
        proof: Box<JoinProof>,
    },
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Ping`, `PutShare`, `Down`, `Wish`, `Dropped`: done.
    Done,
    /// To `Compare`.
    Compared {
        /// The names of all that the answerer has; none when the sets are equal.
        have: Option<Vec<Short>>,
        /// The answerer's clock.
        time: Timestamp,
    },
    /// To `Statements`: those that were wanted, sealed.
    Statements(Vec<Vec<u8>>),
    /// To `GetShare`.
    Share(Box<Share>),
    /// To `KnowsImage`.
    Knows(bool),
    /// To `View`.
    View {
        /// The version of the share that the host has; 0 = none.
        version: u64,
        /// The newest version that the host has looked at its machines with; what it says of them
        /// before is about the plan before.
        acted: u64,
        /// What it knows of every machine, its own and others'.
        machines: Vec<MachineReport>,
    },
    /// To `State`.
    State(Box<State>),
    /// To `Plan`.
    Proposal(Box<Proposal>),
    /// To `Up`: the proposal that was committed, or that has obstacles.
    Applied(Box<Proposal>),
    /// To `MayStart`.
    MayStart(bool),
    /// To `OpenVoter`.
    Voter {
        /// The Raft node id of that host's log for this session.
        node: u64,
    },
    /// To `Voices`.
    Voices(BTreeSet<HostId>),
    /// The request cannot be done, and why.
    Refused(Refusal),
    /// To `Join`.
    Join(Box<JoinAnswer>),
}

/// Why a member does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The receiver does not lead this session; it names who does, if it knows.
    #[error("this host does not coordinate the session")]
    NotCoordinator {
        /// The coordinator, if known.
        leader: Option<HostId>,
    },
    /// The receiver knows nothing of this session.
    #[error("unknown session")]
    UnknownSession,
    /// The hard state said no.
    #[error("{0}")]
    State(#[from] crate::session::Refused),
    /// There is no quorum, or it did not answer in time; whether the write happened is unknown.
    #[error("no quorum of voters answered in time")]
    NoQuorum,
    /// The receiver has a newer share than the one it was sent.
    #[error("the share is older than the one this host has")]
    Older,
    /// The sender neither stores the session nor ever did, as far as the receiver knows.
    #[error("the sender has no say in this session")]
    NoVoice,
    /// Something failed on the receiver; its words.
    #[error("{0}")]
    Failed(String),
}
