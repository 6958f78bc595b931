//! What a host holds of gossip, in a few bytes. Two hosts of one summary have nothing to tell each other, so they need no
//! exchange, which names every member: 70 bytes of each, both ways. Heartbeats are left out of it: they never rest.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::{Kind, Message, WireError, decode, encode};

/// Bytes of the message.
const MAX_BYTES: usize = 64;

/// What a host holds: a digest over the starts that it knows, and how far it knows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Summary {
    /// The first bytes of it.
    #[cbor(n(0), with = "minicbor::bytes")]
    digest: [u8; 16],
    /// The start in which the host itself speaks.
    #[n(1)]
    pub start: u64,
}

impl Message for Summary {
    const KIND: Kind = Kind::GossipSummary;
}

impl Summary {
    /// Sums up what a host knows that speaks in this start: a host's name in gossip, its start, and the last version of it.
    pub fn of<'a>(start: u64, known: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Summary {
        let known: BTreeSet<(&str, u64, u64)> = known.into_iter().collect();
        let mut hash = blake3::Hasher::new_derive_key("mesh gossip summary 1");
        for (name, start, version) in known {
            hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hash.update(&start.to_le_bytes()).update(&version.to_le_bytes());
        }
        let mut digest = [0; 16];
        hash.finalize_xof().fill(&mut digest);
        Summary { digest, start }
    }

    /// Tells whether another host holds the same.
    pub fn is_of_the_same(&self, other: &Summary) -> bool {
        self.digest == other.digest
    }

    /// Writes it down.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads it; what is of another kind is an exchange's.
    pub fn decode(bytes: &[u8]) -> Result<Summary, WireError> {
        decode(bytes, MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_what_is_known_in_any_order_and_of_nothing_else() {
        let known = [("attic", 5, 12), ("cellar", 7, 3)];
        let summary = Summary::of(5, known);
        assert!(summary.is_of_the_same(&Summary::of(7, [known[1], known[0]])), "whoever holds it");
        let others: [&[(&str, u64, u64)]; 5] = [
            &[],
            &known[..1],
            &[("attic", 5, 13), ("cellar", 7, 3)],
            &[("attic", 6, 12), ("cellar", 7, 3)],
            &[("garden", 5, 12), ("cellar", 7, 3)],
        ];
        let same = |other: &[_]| Summary::of(5, other.iter().copied()).is_of_the_same(&summary);
        assert!(!others.into_iter().any(same));
    }

    #[test]
    fn a_summary_is_small_and_no_exchange_is_taken_for_one() {
        let summary = Summary::of(u64::MAX, [("attic", 5, 12)]);
        let bytes = summary.encode();
        assert!(bytes.len() <= 40, "{} bytes", bytes.len());
        assert_eq!(Summary::decode(&bytes), Ok(summary));
        // As chitchat's messages begin.
        assert!(Summary::decode(&[0x53, 0xb0, 0, 0]).is_err());
    }
}
