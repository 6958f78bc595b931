//! What may be written into the hard state of a session, and what of it an operator decides.

use minicbor::{Decode, Encode};

use super::{Plan, Replace, SignedMandate, understood};
use crate::{
    id::{Epoch, HostId, MachineName, Name, SessionId},
    level::{Feature, Level},
    time::Timestamp,
    topology::{Contents, Intent},
};

/// What may be written into the hard state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum Command {
    /// The first entry. A second one is refused.
    #[n(0)]
    Create {
        /// The session's identity.
        #[n(0)]
        id: SessionId,
        /// Its label.
        #[n(1)]
        name: Name,
        /// When it was made.
        #[n(2)]
        stamp: Timestamp,
        /// The key pair of `machine ssh`.
        #[cbor(n(3), with = "minicbor::bytes")]
        ssh_seed: [u8; 32],
    },
    /// A topology and the plan that makes it true, together, by compare-and-swap on the plan.
    #[n(1)]
    Apply {
        /// The topology. All bytes that it names must be kept already.
        #[n(0)]
        intent: Intent,
        /// The plan; its parent must be current.
        #[n(1)]
        plan: Plan,
        /// Whose started disks it may replace.
        #[n(2)]
        replace: Replace,
    },
    /// A host is told that it may start an incarnation for the first time. Written before it is told.
    #[n(2)]
    Grant {
        /// The machine.
        #[n(0)]
        machine: MachineName,
        /// The host that asked.
        #[n(1)]
        host: HostId,
        /// The incarnation.
        #[n(2)]
        epoch: Epoch,
    },
    /// `machine stop` and `machine start`.
    #[n(3)]
    Wish {
        /// The machine.
        #[n(0)]
        machine: MachineName,
        /// Whether it shall run.
        #[n(1)]
        run: bool,
    },
    /// A host removed this incarnation: QEMU dead, disk gone.
    #[n(4)]
    Dropped {
        /// The machine.
        #[n(0)]
        machine: MachineName,
        /// The host that says so.
        #[n(1)]
        host: HostId,
        /// This incarnation and all before it.
        #[n(2)]
        epoch: Epoch,
    },
    /// `session down`: every machine goes, nothing starts again.
    #[n(5)]
    End,
    /// Bytes of files that the next topology names. What none names goes with the next one.
    #[n(6)]
    Keep(#[n(0)] Contents),
    /// What an operator signed, with what follows from it: both stand, or none.
    #[n(10)]
    Signed {
        /// What was signed.
        #[n(0)]
        mandate: SignedMandate,
        /// What follows from it.
        #[n(1)]
        decision: Decision,
    },
    /// Everybody who reads the session understands this much: from here on what came with that level may be written.
    #[n(7)]
    Raise {
        /// The level.
        #[n(0)]
        level: Level,
    },
    /// A host is out of the mesh for good, by an operator's recorded word: its machines may be placed elsewhere, each
    /// with its next epoch.
    #[n(9)]
    Out {
        /// The host.
        #[n(0)]
        host: HostId,
    },
}

/// What an operator decides. The fields are those of the entries of these names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum Decision {
    /// [`Command::Apply`].
    #[n(0)]
    Apply {
        /// The topology.
        #[n(0)]
        intent: Intent,
        /// The plan.
        #[n(1)]
        plan: Plan,
        /// Whose started disks it may replace.
        #[n(2)]
        replace: Replace,
    },
    /// [`Command::Wish`].
    #[n(1)]
    Wish {
        /// The machine.
        #[n(0)]
        machine: MachineName,
        /// Whether it shall run.
        #[n(1)]
        run: bool,
    },
    /// [`Command::End`].
    #[n(2)]
    End,
}

impl Decision {
    /// Gives the entry, with what was signed for it if the session has mandates.
    pub fn entry(self, mandate: Option<SignedMandate>) -> Command {
        match (mandate, self) {
            (Some(mandate), decision) => Command::Signed { mandate, decision },
            (None, Decision::Apply { intent, plan, replace }) => Command::Apply { intent, plan, replace },
            (None, Decision::Wish { machine, run }) => Command::Wish { machine, run },
            (None, Decision::End) => Command::End,
        }
    }
}

impl Command {
    /// Names what it is that readers of the first level stumble over, if there is such.
    pub fn feature(&self) -> Option<Feature> {
        match self {
            Command::Raise { .. } => Some(Feature::Raise),
            Command::Out { .. } => Some(Feature::Out),
            Command::Signed { .. } => Some(Feature::Mandates),
            Command::Apply { intent, .. } => understood::feature(intent),
            Command::Create { .. }
            | Command::Grant { .. }
            | Command::Wish { .. }
            | Command::Dropped { .. }
            | Command::End
            | Command::Keep(_) => None,
        }
    }
}
