//! What a member may do beside being one. A certificate that says nothing of it allows everything, as all did before
//! there were limits; of several certificates of one serial the strictest counts. Receivers ask this, about whoever
//! asks them: what a host says of itself grants nothing.

use std::{fmt, ops::BitAnd, str::FromStr};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::spelling;

/// Something that a member may do or not.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Capability {
    /// Run machines.
    #[n(0)]
    Run,
    /// Hold images for others.
    #[n(1)]
    Store,
    /// Carry packets of others.
    #[n(2)]
    Relay,
    /// Store sessions, vote in them, and coordinate them.
    #[n(3)]
    Vote,
    /// Start, change, end and enter sessions, and read what is in them.
    #[n(4)]
    Operate,
}

/// What a member may do: a set of bits. Bits of later versions are kept, and whoever is not limited has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct May(#[n(0)] u32);

/// A word that names no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is nothing that a member may do: {}", known(.word))]
pub struct NoCapability {
    /// The word.
    pub word: String,
}

fn known(word: &str) -> String {
    let all = Capability::ALL.map(Capability::as_str);
    match spelling::nearest(word, all.into_iter()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("choose among {}", all.join(", ")),
    }
}

impl Capability {
    /// All that this version knows.
    pub const ALL: [Capability; 5] =
        [Capability::Run, Capability::Store, Capability::Relay, Capability::Vote, Capability::Operate];

    /// Gives its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Capability::Run => "run",
            Capability::Store => "store",
            Capability::Relay => "relay",
            Capability::Vote => "vote",
            Capability::Operate => "operate",
        }
    }

    /// Says in words what it is to do this.
    pub const fn in_words(self) -> &'static str {
        match self {
            Capability::Run => "run machines",
            Capability::Store => "hold images for others",
            Capability::Relay => "relay for others",
            Capability::Vote => "store sessions",
            Capability::Operate => "operate sessions",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = NoCapability;

    fn from_str(word: &str) -> Result<Capability, NoCapability> {
        let found = Capability::ALL.into_iter().find(|capability| capability.as_str() == word);
        found.ok_or_else(|| NoCapability { word: word.to_owned() })
    }
}

impl May {
    /// Everything, also what later versions add.
    pub const ALL: May = May(u32::MAX);

    /// Only these. Whoever has all that this version knows is not limited.
    pub fn only(these: impl IntoIterator<Item = Capability>) -> May {
        let bits = these.into_iter().fold(0, |bits, capability| bits | capability.bit());
        if Capability::ALL.iter().all(|all| bits & all.bit() != 0) { May::ALL } else { May(bits) }
    }

    /// Tells whether this is in it.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Tells whether something that this version knows is not in it.
    pub fn is_limited(self) -> bool {
        !Capability::ALL.into_iter().all(|capability| self.has(capability))
    }

    /// Lists what is in it, as far as this version knows.
    pub fn list(self) -> Vec<Capability> {
        Capability::ALL.into_iter().filter(|capability| self.has(*capability)).collect()
    }
}

impl Default for May {
    fn default() -> May {
        May::ALL
    }
}

impl BitAnd for May {
    type Output = May;
    fn bitand(self, other: May) -> May {
        May(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{Form, from_bytes, to_bytes};

    #[test]
    fn a_set_has_what_was_put_in_and_all_five_are_everything() {
        let some = May::only([Capability::Run, Capability::Store]);
        assert_eq!(some.list(), [Capability::Run, Capability::Store]);
        assert!(some.is_limited() && !some.has(Capability::Operate));
        assert_eq!(May::only(Capability::ALL), May::ALL);
        assert!(!May::ALL.is_limited() && May::only([]).list().is_empty());
    }

    #[test]
    fn two_sets_have_in_common_what_both_have() {
        let (a, b) = (
            May::only([Capability::Run, Capability::Vote]),
            May::only([Capability::Vote, Capability::Store]),
        );
        assert_eq!(a & b, May::only([Capability::Vote]));
        assert_eq!(a & May::ALL, a);
    }

    #[test]
    fn bits_of_later_versions_are_kept() {
        let later: May = from_bytes(&to_bytes(&0x8000_0001_u32), 16, Form::Canonical).unwrap();
        assert!(later.has(Capability::Run) && later.is_limited());
        assert_eq!(to_bytes(&(later & May::ALL)), to_bytes(&0x8000_0001_u32));
    }

    #[test]
    fn words_are_read_and_a_wrong_one_names_the_nearest() {
        for capability in Capability::ALL {
            assert_eq!(capability.as_str().parse(), Ok(capability));
        }
        let wrong = "operat".parse::<Capability>().unwrap_err().to_string();
        assert_eq!(wrong, "\"operat\" is nothing that a member may do: did you mean \"operate\"?");
        let far = "x".parse::<Capability>().unwrap_err().to_string();
        assert!(far.ends_with("choose among run, store, relay, vote, operate"), "{far}");
    }
}
