//! Requests between members on `/mesh/rpc/1`: one request, one answer, one substream each.
//! In the envelope, length-prefixed, at most `limits::MAX_RPC_BYTES`.

use std::{collections::BTreeSet, net::SocketAddr};

use minicbor::{Decode, Encode};

use crate::{
    id::{Digest, Epoch, HostId, MachineName, Name, SessionId},
    reachability::proof::{Claim, Reached},
    reasons::Coded,
    seal::{PublicKey, Sig},
    session::{Proposal, Replace, Share, SignedMandate, State},
    time::Timestamp,
    topology::{Content, Contents, Intent},
    trust::{Capability, JoinAnswer, JoinProof, Short, Transcript},
    wire::{Kind, Message, words::Refuses},
};

/// A question to another member. The numbers 4 and 5 stay free: earlier agents ask something with them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub enum Request {
    /// Are you there? The answer proves that data goes both ways.
    #[n(0)]
    Ping,
    /// Are our sets of statements equal?
    #[n(16)]
    Compare {
        /// The digest over the asker's set.
        #[n(0)]
        summary: Digest,
        /// Statements that the receiver may lack, sealed.
        #[cbor(n(1), with = "crate::wire::fields::blobs")]
        news: Vec<Vec<u8>>,
        /// The asker's clock.
        #[n(2)]
        time: Timestamp,
    },
    /// What lacks on both sides, after `Compare`.
    #[n(1)]
    Statements {
        /// Those that the receiver lacks, sealed.
        #[cbor(n(0), with = "crate::wire::fields::blobs")]
        given: Vec<Vec<u8>>,
        /// The names of those that the asker lacks.
        #[n(1)]
        wanted: Vec<Short>,
    },
    /// A new share for the receiver. Pushed by the coordinator, and pulled by `GetShare`.
    #[n(2)]
    PutShare(#[n(0)] Box<Share>),
    /// The asker's share of a session.
    #[n(3)]
    GetShare(#[n(0)] SessionId),
    /// For the coordinator: the hard state, read through a quorum round.
    #[n(6)]
    State(#[n(0)] SessionId),
    /// For the coordinator: what would `up` do?
    #[n(7)]
    Plan {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The topology.
        #[n(1)]
        intent: Box<Intent>,
        /// Whose started disks may be lost.
        #[n(2)]
        replace: Replace,
    },
    /// For the coordinator: make it so. Refused when `index` is given and no longer current.
    #[n(8)]
    Up {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The topology.
        #[n(1)]
        intent: Box<Intent>,
        /// The generation that the user saw.
        #[n(2)]
        index: Option<u64>,
        /// Whose started disks may be lost.
        #[n(3)]
        replace: Replace,
        /// The bytes of its files; absent = none.
        #[cbor(n(4), default)]
        contents: Contents,
        /// What the operator signed; `None` = the session has no mandates yet.
        #[cbor(n(5), with = "crate::wire::fields::option", has_nil)]
        mandate: Option<Box<SignedMandate>>,
    },
    /// For the coordinator: end the session.
    #[n(9)]
    Down {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// See [`Request::Up`].
        #[cbor(n(1), with = "crate::wire::fields::option", has_nil)]
        mandate: Option<Box<SignedMandate>>,
    },
    /// For the coordinator: `machine start` and `machine stop`.
    #[n(10)]
    Wish {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// Whether it shall run.
        #[n(2)]
        run: bool,
        /// See [`Request::Up`].
        #[cbor(n(3), with = "crate::wire::fields::option", has_nil)]
        mandate: Option<Box<SignedMandate>>,
    },
    /// For the coordinator: may the asker start this incarnation for the first time? Answered
    /// after a quorum round that lists it.
    #[n(11)]
    MayStart {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// The incarnation.
        #[n(2)]
        epoch: Epoch,
    },
    /// For the coordinator: the asker removed this incarnation.
    #[n(12)]
    Dropped {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// This incarnation and all before it.
        #[n(2)]
        epoch: Epoch,
    },
    /// For a host that shall become a voter: open a log for this session and answer with its
    /// Raft node id.
    #[n(13)]
    OpenVoter {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// Its label, for messages.
        #[n(1)]
        name: Name,
        /// The node whose log of the receiver is older than what it acknowledged: it gets a new one.
        #[n(2)]
        outdated: Option<u64>,
    },
    /// Whose word on this session counts, as far as the receiver knows? For a host that was away.
    #[n(14)]
    Voices(#[n(0)] SessionId),
    /// For an issuer: the asker has a stranger at its door with this proof.
    #[n(15)]
    Join {
        /// What both sides of the join know.
        #[n(0)]
        transcript: Box<Transcript>,
        /// What the stranger signed.
        #[n(1)]
        proof: Box<JoinProof>,
    },
    /// A piece of the bytes that the asker's share names. For voters and for hosts that have them.
    #[n(17)]
    Content {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The bytes.
        #[n(1)]
        content: Content,
        /// Where the piece begins.
        #[n(2)]
        offset: u64,
    },
    /// For the host that has a machine: which keys is it entered by?
    #[n(18)]
    LoginKeys {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The machine.
        #[n(1)]
        machine: MachineName,
    },
    /// For the same: sign what the machine's ssh server asks of who logs in.
    #[n(19)]
    Login {
        /// The session.
        #[n(0)]
        session: SessionId,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// What is to be signed (RFC 4252, section 7).
        #[cbor(n(2), with = "minicbor::bytes")]
        question: Vec<u8>,
    },
    /// Dial the asker where it claims to be reached from outside; see `reachability::proof`.
    #[n(30)]
    DialBack {
        /// Where.
        #[n(0)]
        claim: Claim,
        /// The certificate of its address discovery.
        #[n(1)]
        certificate: Digest,
        /// What its relay is shown.
        #[cbor(n(2), with = "minicbor::bytes")]
        word: [u8; 16],
    },
    /// Did a question as long as a packet arrive? Whatever is answered, it did.
    #[n(40)]
    Long(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// How far away are the others, and where is the asker seen?
    #[n(41)]
    Around,
}

/// How far one member is from the one that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rtt {
    /// The other member.
    #[n(0)]
    pub to: HostId,
    /// Smoothed round trip in microseconds.
    #[n(1)]
    pub rtt_us: u32,
    /// Whether a relay carries it.
    #[n(2)]
    pub relayed: bool,
}

/// The public halves of the keys by which a machine is entered; the others never leave its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LoginKeys {
    /// Whom its ssh server lets in.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub login: PublicKey,
    /// Whom its ssh server is known by.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub host: PublicKey,
}

impl Request {
    /// Gives what a member must be allowed to do before the receiver does what it asks. The receiver judges by the
    /// asker's certificate, whatever the asker says; what else a request needs, such as a voice in the session, is
    /// looked at where it is answered.
    pub fn needs(&self) -> Option<Capability> {
        match self {
            // Membership itself.
            Request::Ping | Request::Compare { .. } | Request::Statements { .. } | Request::Join { .. } => {
                None
            }
            // Of the asker's own machines: its share names them.
            Request::GetShare(_) | Request::Content { .. } | Request::Voices(_) => None,
            // Also of a host that may not run any more: what is gone is gone.
            Request::Dropped { .. } => None,
            // How members reach each other.
            Request::Long(_) | Request::Around => None,
            Request::MayStart { .. } => Some(Capability::Run),
            // Of whom nobody would use the relay.
            Request::DialBack { .. } => Some(Capability::Relay),
            Request::PutShare(_) | Request::OpenVoter { .. } => Some(Capability::Vote),
            Request::State(_) | Request::Plan { .. } => Some(Capability::Operate),
            Request::LoginKeys { .. } | Request::Login { .. } => Some(Capability::Operate),
            Request::Up { .. } | Request::Down { .. } | Request::Wish { .. } => Some(Capability::Operate),
        }
    }
}

impl Request {
    /// Gives what its operator signed, and for which session.
    pub fn mandate(&self) -> Option<(SessionId, &SignedMandate)> {
        let (session, mandate) = match self {
            Request::Up { session, mandate, .. }
            | Request::Down { session, mandate }
            | Request::Wish { session, mandate, .. } => (session, mandate),
            _ => return None,
        };
        Some((*session, mandate.as_deref()?))
    }
}

/// What a member answers. The numbers 3 and 4 stay free: earlier agents answer something with them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub enum Answer {
    /// To `Ping`, `PutShare`, `Down`, `Wish`, `Dropped`: done.
    #[n(0)]
    Done,
    /// To `Compare`.
    #[n(12)]
    Compared {
        /// The names of all that the answerer has; none when the sets are equal.
        #[n(0)]
        have: Option<Vec<Short>>,
        /// The answerer's clock.
        #[n(1)]
        time: Timestamp,
    },
    /// To `Statements`: those that were wanted, sealed.
    #[n(1)]
    Statements(#[cbor(n(0), with = "crate::wire::fields::blobs")] Vec<Vec<u8>>),
    /// To `GetShare`.
    #[n(2)]
    Share(#[n(0)] Box<Share>),
    /// To `State`.
    #[n(5)]
    State(#[n(0)] Box<State>),
    /// To `Plan`.
    #[n(6)]
    Proposal(#[n(0)] Box<Proposal>),
    /// To `Up`: the proposal that was committed, or that has obstacles.
    #[n(7)]
    Applied(#[n(0)] Box<Proposal>),
    /// To `MayStart`.
    #[n(8)]
    MayStart(#[n(0)] bool),
    /// To `OpenVoter`.
    #[n(9)]
    Voter {
        /// The Raft node id of that host's log for this session.
        #[n(0)]
        node: u64,
    },
    /// To `Voices`.
    #[n(10)]
    Voices(#[n(0)] BTreeSet<HostId>),
    /// The request cannot be done, and why.
    #[n(11)]
    Refused(#[cbor(n(0), with = "crate::wire::words")] Refusal),
    /// To `Join`.
    #[n(13)]
    Join(#[n(0)] Box<JoinAnswer>),
    /// To `Content`: from the offset on, as much as one answer holds.
    #[n(14)]
    Content(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// To `LoginKeys`; none = it is entered by its session's key, which every host of the session has.
    #[n(15)]
    LoginKeys {
        /// The keys of the machine itself.
        #[cbor(n(0), with = "crate::wire::fields::option", has_nil)]
        own: Option<LoginKeys>,
    },
    /// To `Login`: the signature.
    #[n(16)]
    Login(#[n(0)] Sig),
    /// To `DialBack`: what was reached.
    #[n(30)]
    DialledBack(#[n(0)] Reached),
    /// To `Around`.
    #[n(41)]
    Around {
        /// Those that the answerer is connected with.
        #[n(0)]
        rtts: Vec<Rtt>,
        /// Where the asker's packets come from, as the answerer sees it.
        #[n(1)]
        seen: Vec<SocketAddr>,
    },
}

impl Message for Request {
    const KIND: Kind = Kind::Request;
}

impl Message for Answer {
    const KIND: Kind = Kind::Answer;
}

/// Why a member does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(map)]
pub enum Refusal {
    /// The receiver does not lead this session; it names who does, if it knows.
    #[error("this host does not coordinate the session")]
    #[n(0)]
    NotCoordinator {
        /// The coordinator, if known.
        #[n(0)]
        leader: Option<HostId>,
    },
    /// The receiver knows nothing of this session.
    #[error("unknown session")]
    #[n(1)]
    UnknownSession,
    /// The hard state said no.
    #[error("{0}")]
    #[n(2)]
    State(
        #[from]
        #[n(0)]
        crate::session::Refused,
    ),
    /// There is no quorum, or it did not answer in time; whether the write happened is unknown.
    #[error("no quorum of voters answered in time")]
    #[n(3)]
    NoQuorum,
    /// The receiver has a newer share than the one it was sent.
    #[error("the share is older than the one this host has")]
    #[n(4)]
    Older,
    /// The sender neither stores the session nor ever did, as far as the receiver knows.
    #[error("the sender has no say in this session")]
    #[n(5)]
    NoVoice,
    /// Something failed on the receiver; its words.
    #[error("{0}")]
    #[n(6)]
    Failed(#[n(0)] String),
    /// The request, or something in it, is of a later version than the receiver.
    #[error("that host runs an older agent, which does not know this request")]
    #[n(7)]
    Unknown,
    /// The topology has mistakes; the first of them.
    #[error("the topology has mistakes: {0}")]
    #[n(8)]
    Invalid(#[n(0)] String),
    /// The share names bytes that are not on the receiver's disk yet.
    #[error("what the share names is still on its way to that host")]
    #[n(10)]
    Gathering,
    /// The bytes are not on the receiver either.
    #[error("that host does not have the content")]
    #[n(11)]
    NoContent,
    /// The asker's certificate does not let it do this.
    #[error("the host that asks is not allowed to {}: its certificate limits it", .0.in_words())]
    #[n(12)]
    MayNot(#[n(0)] Capability),
    /// What the share or the request asks for, no operator signed; why, in words.
    #[error("{0}")]
    #[n(13)]
    Unsigned(#[n(0)] String),
    /// Something that only a later version says; its words.
    #[error("{0}")]
    #[n(9)]
    Other(#[n(0)] String),
}

impl Refuses for Refusal {
    fn in_words(words: String) -> Refusal {
        Refusal::Other(words)
    }
}

impl Coded for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Refusal::NotCoordinator { .. } => "not-coordinator",
            Refusal::UnknownSession => "unknown-session",
            Refusal::State(refused) => refused.code(),
            Refusal::NoQuorum => "no-quorum",
            Refusal::Older => "older",
            Refusal::NoVoice => "no-voice",
            Refusal::Failed(_) => "failed",
            Refusal::Unknown => "unknown",
            Refusal::Invalid(_) => "invalid",
            Refusal::Other(_) => "other",
            Refusal::Gathering => "gathering",
            Refusal::NoContent => "no-content",
            Refusal::MayNot(_) => "may-not",
            Refusal::Unsigned(_) => "unsigned",
        }
    }
}
