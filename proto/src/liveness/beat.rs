//! What hosts say to each other to know who is there: datagrams that may be lost, and in them testimonies, which are
//! signed by who gives them. A testimony can be carried by anybody and invented by nobody.

use minicbor::{Decode, Encode};

use crate::{
    id::{HostId, MeshId},
    seal::{Domain, SealError, Seed, Sig, verify},
    wire::{self, Kind, Message, WireError},
};

/// Bytes of one beat: a testimony, its signature and what is around them.
pub const MAX_BEAT_BYTES: usize = 512;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum Beat {
    /// Are you there?
    #[n(0)]
    Probe {
        /// Comes back in the answer.
        #[n(0)]
        number: u32,
        /// The asker doubts it: a signed word is to come with the answer.
        #[n(1)]
        accused: bool,
    },
    /// Yes.
    #[n(1)]
    Answer {
        /// The number of the probe.
        #[n(0)]
        number: u32,
    },
    /// Somebody's signed word, as it was signed.
    #[n(2)]
    Testimony(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl Message for Beat {
    const KIND: Kind = Kind::Beat;
}

impl Beat {
    /// Writes it down.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Beat, WireError> {
        wire::decode(bytes, MAX_BEAT_BYTES)
    }
}

/// What somebody finds of a host. A host speaks of itself with the first two and the last, observers of others with the
/// rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Finding {
    /// I am here.
    #[n(0)]
    Here,
    /// I stop, in order.
    #[n(1)]
    Leaving,
    /// It answers.
    #[n(2)]
    Clear,
    /// It does not answer me: look as well.
    #[n(3)]
    Alarm,
    /// It does not answer us.
    #[n(4)]
    Suspect,
    /// It is gone.
    #[n(5)]
    Down,
    /// Another computer runs as me, by a copy of my data directory: `seq` is the start that it said it is in.
    #[n(6)]
    Twice,
}

impl Finding {
    /// Tells whether it is what a host says of itself.
    pub(crate) fn is_of_itself(self) -> bool {
        matches!(self, Finding::Here | Finding::Leaving | Finding::Twice)
    }
}

/// A signed word about a host. Of two by the same observer about the same host the one with the higher
/// (generation, seq) counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Testimony {
    /// The mesh it is for.
    #[n(0)]
    pub mesh: MeshId,
    /// Who says it.
    #[n(1)]
    pub observer: HostId,
    /// Of whom.
    #[n(2)]
    pub about: HostId,
    /// The observer's start: grows with every start of its agent.
    #[n(3)]
    pub generation: u64,
    /// Counts the observer's testimonies within one generation.
    #[n(4)]
    pub seq: u64,
    /// What is found.
    #[n(5)]
    pub finding: Finding,
    /// How unlikely the observer's misses are by chance: hundredths of powers of ten. Absent = none.
    #[cbor(n(6), with = "crate::wire::fields::usual", has_nil)]
    pub evidence: u16,
}

impl Message for Testimony {
    const KIND: Kind = Kind::Testimony;
}

/// A testimony with the bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What they say.
    pub testimony: Testimony,
    /// Signature and testimony.
    pub bytes: Vec<u8>,
}

impl Testimony {
    /// Orders the testimonies of one observer about one host: the greater one is newer.
    pub fn age(&self) -> (u64, u64) {
        (self.generation, self.seq)
    }

    /// Signs it with its observer's seed.
    pub fn sign(self, seed: &Seed) -> Signed {
        let said = wire::encode(&self);
        let bytes = [&seed.sign(Domain::Liveness, &[&said]).0[..], &said].concat();
        Signed { testimony: self, bytes }
    }
}

impl Signed {
    /// Reads a testimony, and checks its signature when `wanted` finds that it matters: that costs more than the rest.
    pub fn open(
        bytes: &[u8],
        mesh: MeshId,
        wanted: impl FnOnce(&Testimony) -> bool,
    ) -> Result<Option<Signed>, SealError> {
        let (sig, said) = bytes.split_first_chunk::<64>().ok_or(SealError::Encoding("testimony"))?;
        let testimony: Testimony =
            wire::decode_signed(said, MAX_BEAT_BYTES).map_err(|error| SealError::of(error, "testimony"))?;
        let of_itself = testimony.observer == testimony.about;
        if testimony.mesh != mesh || of_itself != testimony.finding.is_of_itself() {
            return Err(SealError::Misplaced);
        }
        if !wanted(&testimony) {
            return Ok(None);
        }
        match verify(&testimony.observer.0, Domain::Liveness, &[said], &Sig(*sig)) {
            true => Ok(Some(Signed { testimony, bytes: bytes.to_vec() })),
            false => Err(SealError::Signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: MeshId = MeshId([7; 32]);
    const SEED: Seed = Seed([3; 32]);

    fn testimony() -> Testimony {
        Testimony {
            mesh: MESH,
            observer: HostId(SEED.public()),
            about: HostId([5; 32]),
            generation: u64::MAX,
            seq: u64::MAX,
            finding: Finding::Down,
            evidence: u16::MAX,
        }
    }

    #[test]
    fn a_testimony_is_its_observers_own_or_it_is_refused() {
        let signed = testimony().sign(&SEED);
        let open = |bytes: &[u8]| Signed::open(bytes, MESH, |_| true);
        assert_eq!(open(&signed.bytes), Ok(Some(signed.clone())));
        assert_eq!(Signed::open(&signed.bytes, MESH, |_| false), Ok(None));
        assert_eq!(Signed::open(&signed.bytes, MeshId([8; 32]), |_| true), Err(SealError::Misplaced));
        let others = Testimony { observer: HostId([4; 32]), ..testimony() }.sign(&SEED);
        assert_eq!(open(&others.bytes), Err(SealError::Signature));
        let of_itself = Testimony { finding: Finding::Here, ..testimony() }.sign(&SEED);
        assert_eq!(open(&of_itself.bytes), Err(SealError::Misplaced));
        let own = Testimony { about: HostId(SEED.public()), ..testimony() }.sign(&SEED);
        assert_eq!(open(&own.bytes), Err(SealError::Misplaced), "nobody finds itself gone");
        for end in 0..signed.bytes.len() {
            assert!(open(&signed.bytes[..end]).is_err());
        }
    }

    #[test]
    fn the_longest_beat_fits_a_datagram_of_any_way() {
        let longest = Beat::Testimony(testimony().sign(&SEED).bytes).encode();
        assert!(longest.len() < 256, "{} bytes", longest.len());
        assert_eq!(Beat::decode(&longest).map(|beat| beat.encode()), Ok(longest));
        let probe = Beat::Probe { number: u32::MAX, accused: true };
        assert!(probe.encode().len() <= 24, "{} bytes", probe.encode().len());
        assert!(Beat::decode(&[0; MAX_BEAT_BYTES + 1]).is_err());
    }
}
