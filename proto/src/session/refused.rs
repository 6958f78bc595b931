//! Why a command on the hard state changed nothing.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{
    id::{Generation, HostId, MachineName},
    reasons::Coded,
};

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, thiserror::Error)]
#[cbor(map)]
pub enum Refused {
    /// The state has no [`Command::Create`] yet, or has one already.
    #[error("the session exists already, or not yet")]
    #[n(0)]
    Existence,
    /// The session has ended.
    #[error("the session has ended")]
    #[n(1)]
    Ended,
    /// Someone else committed a plan in between.
    #[error("the plan changed meanwhile: it is generation {current}, this one was made for {parent}")]
    #[n(2)]
    NotCurrent {
        /// The committed plan.
        #[n(0)]
        current: Generation,
        /// The parent that the refused plan names.
        #[n(1)]
        parent: Generation,
    },
    /// The plan breaks a rule that keeps machines from running twice.
    #[error("the plan is not safe: {0}")]
    #[n(3)]
    Unsafe(#[n(0)] String),
    /// A disk that was started would be lost, and nobody said that it may be.
    #[error("{0} was started and nobody said that its disk may be replaced")]
    #[n(4)]
    Started(#[n(0)] MachineName),
    /// No such machine in the plan.
    #[error("the session has no machine {0}")]
    #[n(5)]
    NoMachine(#[n(0)] MachineName),
    /// This incarnation may not start: it is stopped, removed, elsewhere, or not the current one.
    #[error("{0} is not to be started there")]
    #[n(6)]
    NoStart(#[n(0)] MachineName),
    /// Bytes that the topology names are not kept.
    #[error("the content of the file {0} is not here")]
    #[n(7)]
    Lacks(#[n(0)] String),
    /// More bytes of files than a session keeps.
    #[error("the files have more bytes than a session keeps")]
    #[n(8)]
    Full,
    /// The plan was made before the session's level was raised.
    #[error("the session's level was raised meanwhile")]
    #[n(9)]
    Raised,
    /// The plan has a machine on a host that is out of the mesh.
    #[error("host {} is out of the mesh", .0.short())]
    #[n(11)]
    Out(#[n(0)] HostId),
    /// The session's mandate changed meanwhile, or the entry carries none.
    #[error("another operator changed the session meanwhile: its mandate is number {current}")]
    #[n(12)]
    Mandate {
        /// The session's.
        #[n(0)]
        current: u64,
    },
}

impl Coded for Refused {
    fn code(&self) -> &'static str {
        match self {
            Refused::Existence => "existence",
            Refused::Ended => "ended",
            Refused::NotCurrent { .. } => "not-current",
            Refused::Unsafe(_) => "unsafe",
            Refused::Started(_) => "started",
            Refused::NoMachine(_) => "no-machine",
            Refused::NoStart(_) => "no-start",
            Refused::Lacks(_) => "lacks",
            Refused::Full => "full",
            Refused::Raised => "raised",
            Refused::Out(_) => "out",
            Refused::Mandate { .. } => "mandate",
        }
    }
}
