//! Why gossip of a member is not taken: a frame that the firewall drops, or a record that is not what its host signed.

use crate::{firewall::DropBecause, seal::SealError};

use super::Coded;

/// Why gossip of a member is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GossipRefusal {
    /// The firewall drops the frame.
    #[error(transparent)]
    Frame(#[from] DropBecause),
    /// The firewall lets the frame pass, and yet it cannot be read; what the reader says.
    #[error("{0}")]
    Unreadable(String),
    /// The record is not what its host signed, or cannot be read.
    #[error(transparent)]
    Forged(#[from] SealError),
    /// The record is of another start than the one that it was found under.
    #[error("a record of another start")]
    OtherStart,
    /// The host has more records than are kept of one.
    #[error("more records than a host may have")]
    TooMany,
}

impl Coded for GossipRefusal {
    fn code(&self) -> &'static str {
        match self {
            GossipRefusal::Frame(frame) => match frame {
                DropBecause::Malformed(_) => "malformed",
                DropBecause::TooLarge => "too-large",
                DropBecause::Cluster => "cluster",
                DropBecause::Stranger(_) => "stranger",
                DropBecause::AboutMe => "about-me",
                DropBecause::Versions(_) => "versions",
                DropBecause::Heartbeat(_) => "heartbeat",
                DropBecause::Record(_) => "record",
                DropBecause::Unsigned(_) => "unsigned",
                DropBecause::Flood => "flood",
            },
            GossipRefusal::Unreadable(_) => "unreadable",
            GossipRefusal::Forged(_) => "forged",
            GossipRefusal::OtherStart => "other-start",
            GossipRefusal::TooMany => "too-many",
        }
    }
}
