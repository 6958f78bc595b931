//! Why the way to a member is another one than before.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::OTHER;

/// Why a way turned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Turned {
    /// There was none before.
    #[n(1)]
    FirstMet,
    /// The two hosts got through to each other.
    #[n(2)]
    DirectFound,
    /// Nothing came over the direct way any more.
    #[n(3)]
    DirectSilent,
    /// Small packets pass the direct way, and larger ones vanish.
    #[n(4)]
    DirectNarrow,
    /// The relay that carried it is silent.
    #[n(5)]
    RelaySilent,
    /// Another relay carries it.
    #[n(6)]
    OtherRelay,
    /// There is a way again.
    #[n(7)]
    MetAgain,
    /// Nothing comes over any way.
    #[n(8)]
    NothingHeard,
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Turned::FirstMet => "the first way that was found",
            Turned::DirectFound => "the hosts got through to each other",
            Turned::DirectSilent => "nothing came over the direct way any more",
            Turned::DirectNarrow => "the direct way loses all packets but small ones",
            Turned::RelaySilent => "the relay that carried it is silent",
            Turned::OtherRelay => "another relay carries it",
            Turned::MetAgain => "there is a way again",
            Turned::NothingHeard => "nothing comes over any way",
            Turned::Other => OTHER,
        })
    }
}
