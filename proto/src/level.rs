//! What all who read something understand. A program tells its level in its host record; what came with a level is
//! emitted only where everybody who has to read it is of that level at least: whoever knows less would stumble over
//! it. What older readers skip, such as a new field, needs none of this.
//! A mesh is of the lowest level among its members (`picture::level`). A session is of the level that its hard state
//! was raised to, which never falls: its log holds what needs it.
//!
//! | level | what it added |
//! |---|---|
//! | 1 | messages whose fields have numbers; who tells no level is of this one |
//! | 2 | levels: the entry that raises a session's |
//! | 3 | a topology whose machines reach the internet |
//! | 4 | a topology whose machines reach their hosts' networks: older hosts ask no owner |
//! | 5 | a topology whose services hosts publish in their networks |
//! | 6 | a topology with services that are reached by UDP |
//! | 7 | members that may not do everything: older hosts would let them; probes, which this level answers and is judged by |
//! | 7 | hosts that are out of the mesh: older ones keep the word without effect, and go on talking to them |
//! | 7 | (also) the entry that says that a host is out for good, so that its machines may be placed elsewhere; what members
//! |   | say of the sessions that they have something of |
//! | 7 | what operators sign of sessions, whose machines have keys of their own |
//! | 8 | what a host holds of gossip, said before an exchange of it: older hosts would take it for a malformed one |

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Serialize};

/// What this program understands.
pub const LEVEL: Level = Level(8);

/// How much is understood: everything up to this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub struct Level(u32);

/// Something that a reader of a lower level stumbles over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The entry that raises a session's level.
    Raise,
    /// Machines that reach more than their session: older voters would keep a state without it.
    Egress,
    /// Machines that reach their hosts' own networks: older hosts would let them, whatever their owner says.
    Lan,
    /// Services that hosts publish in their own networks: older voters would keep a state without it.
    Publish,
    /// Services that are reached by UDP: older voters would take them for others.
    Udp,
    /// Members that may not do everything: older hosts would let them, and older issuers renew them without limits.
    Limits,
    /// Datagrams that ask whether a host is there: older hosts do not answer.
    Probes,
    /// The word that puts a host out of the mesh. It is said also where older hosts are, who are named.
    Evict,
    /// The entry that says that a host is out for good: older voters would refuse the plan after it.
    Out,
    /// What members say of the sessions that they have something of: older ones would keep each word for ever.
    Possession,
    /// Entries with what an operator signed: older voters would keep another state.
    Mandates,
    /// What a host holds of gossip, in a few bytes: older hosts want an exchange.
    Summary,
}

impl Feature {
    /// Gives the level that it came with.
    pub const fn since(self) -> Level {
        match self {
            Feature::Raise => Level(2),
            Feature::Egress => Level(3),
            Feature::Lan => Level(4),
            Feature::Publish => Level(5),
            Feature::Udp => Level(6),
            Feature::Limits => Level(7),
            Feature::Probes => Level(7),
            Feature::Evict => Level(7),
            Feature::Out | Feature::Possession => Level(7),
            Feature::Mandates => Level(7),
            Feature::Summary => Level(8),
        }
    }
}

impl Level {
    /// The lowest: what says nothing of its level is of this one.
    pub const FIRST: Level = Level(1);

    /// Tells whether readers of this level understand it. Nothing that has a level is emitted without this question.
    pub fn allows(self, feature: Feature) -> bool {
        feature.since() <= self
    }
}

/// Gives what all of these understand.
pub fn lowest(levels: impl IntoIterator<Item = Level>) -> Level {
    levels.into_iter().min().unwrap_or_default()
}

impl Default for Level {
    fn default() -> Level {
        Level::FIRST
    }
}

impl From<u32> for Level {
    fn from(number: u32) -> Level {
        Level(number).max(Level::FIRST)
    }
}

impl From<Level> for u32 {
    fn from(level: Level) -> u32 {
        level.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number; the first level is left out, so that nothing changes for those who never heard of levels.
impl<C> Encode<C> for Level {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.u32(self.0)?.ok()
    }

    fn is_nil(&self) -> bool {
        *self == Level::FIRST
    }
}

impl<C> Decode<'_, C> for Level {
    fn decode(d: &mut Decoder<'_>, _: &mut C) -> Result<Level, decode::Error> {
        Ok(d.u32()?.into())
    }

    fn nil() -> Option<Level> {
        Some(Level::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{Form, from_bytes, to_bytes};

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Word {
        #[n(0)]
        text: u8,
        #[n(1)]
        level: Level,
    }

    #[test]
    fn who_tells_no_level_is_of_the_first_one() {
        let read = |bytes: &[u8]| from_bytes::<Word>(bytes, 100, Form::Canonical).unwrap().level;
        assert_eq!(read(&[0xa1, 0, 7]), Level::FIRST);
        assert_eq!(to_bytes(&Word { text: 7, level: Level::FIRST }), [0xa1, 0, 7]);
        assert_eq!(read(&to_bytes(&Word { text: 7, level: LEVEL })), LEVEL);
        assert_eq!(read(&[0xa2, 0, 7, 1, 0]), Level::FIRST, "there is none below");
    }

    #[test]
    fn a_feature_is_allowed_from_its_level_on() {
        assert!(!Level::FIRST.allows(Feature::Raise));
        assert!(Feature::Raise.since().allows(Feature::Raise) && Level(9).allows(Feature::Raise));
        assert!(LEVEL.allows(Feature::Raise), "a program understands what it has");
    }

    #[test]
    fn the_lowest_of_nobody_is_the_first() {
        assert_eq!(lowest([Level(3), Level(2), Level(7)]), Level(2));
        assert_eq!(lowest([]), Level::FIRST);
    }
}
