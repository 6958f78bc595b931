//! Bytes that carry a signature: keys, strict decoding, and the signed gossip record.
//! Every signature names its purpose (a [`Domain`]), so none can be replayed as another kind of
//! message. What was signed is written in one way, and is kept, handed on and known by the digest of those
//! bytes. Nothing here makes randomness: seeds are arguments.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{
    Decode, Decoder, Encode, Encoder, decode::Error as Flaw, encode::Error as Fail, encode::Write,
};

use crate::{
    id::{HostId, MeshId},
    limits::MAX_RECORD_BYTES,
    wire::{
        self, Kind, Message, WireError,
        record::{Body, RecordKey},
    },
};

const SIG_BYTES: usize = 64;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A statement about membership or sessions.
    Statement,
    /// A gossip record.
    Record,
    /// A join, signed by the token.
    JoinToken,
    /// A join, signed by the joining host.
    JoinHost,
    /// A stranger's first minute on a relay, signed by the token.
    RelayAdmission,
    /// A word about who is there.
    Liveness,
    /// What an operator wants of a session.
    Mandate,
}

/// The public half of an ed25519 key, 32 bytes.
pub type PublicKey = [u8; 32];

/// The secret half of an ed25519 key. It is never shown.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Seed(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Sig(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 64]);

impl serde::Serialize for Sig {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Sig {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Sig, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(from)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Sig).map_err(|_| serde::de::Error::custom("no signature"))
    }
}

/// Why bytes were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More bytes than allowed.
    #[error("{have} bytes are more than the {limit} allowed")]
    TooLarge {
        /// The bytes.
        have: usize,
        /// The bound.
        limit: usize,
    },
    /// Not an encoding of what was expected, or not its only one.
    #[error("the bytes are not a canonical {0}")]
    Encoding(&'static str),
    /// The signature does not match.
    #[error("the signature does not match")]
    Signature,
    /// The record is for another mesh, host or key than it was found under.
    #[error("the record belongs elsewhere")]
    Misplaced,
    /// The body is of another kind than its key.
    #[error("the body does not fit its key")]
    Kind,
    /// It is of a kind or in a form that only a later version knows: nothing is wrong with it.
    #[error("only a later version knows what it says")]
    Later,
}

impl SealError {
    /// Says what was wrong with bytes that should be `what`.
    pub(crate) fn of(error: WireError, what: &'static str) -> SealError {
        match error {
            WireError::TooLarge { have, limit } => SealError::TooLarge { have, limit },
            WireError::Unknown | WireError::Version { .. } => SealError::Later,
            _ => SealError::Encoding(what),
        }
    }
}

impl Seed {
    /// Gives the public half.
    pub fn public(&self) -> PublicKey {
        SigningKey::from_bytes(&self.0).verifying_key().to_bytes()
    }

    /// Signs `parts` for one purpose. Each part is length-prefixed, so no two lists look alike.
    pub fn sign(&self, domain: Domain, parts: &[&[u8]]) -> Sig {
        Sig(SigningKey::from_bytes(&self.0).sign(&message(domain, parts)).to_bytes())
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}

impl fmt::Debug for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sig({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Tells whether `key` signed `parts` for this purpose. Weak keys and malleable signatures fail.
pub fn verify(key: &PublicKey, domain: Domain, parts: &[&[u8]], sig: &Sig) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(&message(domain, parts), &Signature::from_bytes(&sig.0)).is_ok())
}

fn message(domain: Domain, parts: &[&[u8]]) -> Vec<u8> {
    let name = match domain {
        Domain::Statement => "mesh/statement/1",
        Domain::Record => "mesh/record/1",
        Domain::JoinToken => "mesh/join/1 token",
        Domain::JoinHost => "mesh/join/1 host",
        Domain::RelayAdmission => "mesh/relay/1 admission",
        Domain::Liveness => "mesh/liveness/1",
        Domain::Mandate => "mesh/mandate/1",
    };
    let mut bytes = Vec::with_capacity(64 + parts.iter().map(|part| part.len() + 8).sum::<usize>());
    for part in std::iter::once(&name.as_bytes()).chain(parts) {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A gossip record with its owner's signature. Readers keep the highest (generation, seq) of each
/// key; a record without body withdraws the key, so that no third party can.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SignedRecord {
    /// The mesh it is for.
    #[n(0)]
    pub mesh: MeshId,
    /// Who says it.
    #[n(1)]
    pub host: HostId,
    /// The owner's start: grows with every start of its agent.
    #[n(2)]
    pub generation: u64,
    /// Counts the owner's records within one generation.
    #[n(3)]
    pub seq: u64,
    /// What it is about.
    #[n(4)]
    pub key: RecordKey,
    /// What it says; `None` = nothing any more.
    #[cbor(n(5), with = "crate::wire::fields::option", has_nil)]
    pub body: Option<Body>,
}

impl Message for SignedRecord {
    const KIND: Kind = Kind::Record;
}

/// What a sealed record says of where it belongs, whatever it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The start of its host.
    pub generation: u64,
    /// Its number in that start: no place in gossip beyond it is the host's word.
    pub seq: u64,
}

/// The fields that place a record; also records of kinds that only a later version knows have them.
#[derive(Decode)]
#[cbor(map)]
struct Stamp {
    #[n(0)]
    mesh: MeshId,
    #[n(1)]
    host: HostId,
    #[n(2)]
    generation: u64,
    #[n(3)]
    seq: u64,
    #[n(4)]
    key: String,
}

/// Tells whether the text that was found under `key` is `host`'s own word in `mesh`, and where it stands. What it says
/// is not looked at. [`SealError::Later`] = the host signed it, in a form of which nothing else can be said.
pub fn vouch(text: &str, mesh: MeshId, host: HostId, key: &str) -> Result<Standing, SealError> {
    let sealed = unseal(text, host)?;
    let bytes = sealed.get(SIG_BYTES..).unwrap_or_default();
    let inner = wire::signed_content(bytes, Kind::Record, SignedRecord::VERSION, MAX_RECORD_BYTES);
    let stamp: Stamp = inner.map_err(|error| SealError::of(error, "record"))?;
    if stamp.mesh != mesh || stamp.host != host || stamp.key != key {
        return Err(SealError::Misplaced);
    }
    Ok(Standing { generation: stamp.generation, seq: stamp.seq })
}

/// Gives the bytes of a text with their signature in front, if `host` made it.
fn unseal(text: &str, host: HostId) -> Result<Vec<u8>, SealError> {
    if text.len() > MAX_RECORD_BYTES {
        return Err(SealError::TooLarge { have: text.len(), limit: MAX_RECORD_BYTES });
    }
    let sealed = BASE64.decode(text.as_bytes()).map_err(|_| SealError::Encoding("record"))?;
    let (sig, bytes) = sealed.split_first_chunk::<SIG_BYTES>().ok_or(SealError::Encoding("record"))?;
    if !verify(&host.0, Domain::Record, &[bytes], &Sig(*sig)) {
        return Err(SealError::Signature);
    }
    Ok(sealed)
}

impl SignedRecord {
    /// Signs the record with its host's seed and gives the text for a gossip value.
    pub fn seal(&self, seed: &Seed) -> Result<String, SealError> {
        let bytes = wire::encode(self);
        let mut sealed = seed.sign(Domain::Record, &[&bytes]).0.to_vec();
        sealed.extend_from_slice(&bytes);
        let text = BASE64.encode(&sealed);
        if text.len() > MAX_RECORD_BYTES {
            return Err(SealError::TooLarge { have: text.len(), limit: MAX_RECORD_BYTES });
        }
        Ok(text)
    }

    /// Reads the text that was found under `key` of `host` in `mesh`, and checks all of it.
    pub fn open(text: &str, mesh: MeshId, host: HostId, key: &RecordKey) -> Result<SignedRecord, SealError> {
        let sealed = unseal(text, host)?;
        let bytes = sealed.get(SIG_BYTES..).unwrap_or_default();
        let record: SignedRecord =
            wire::decode_signed(bytes, MAX_RECORD_BYTES).map_err(|error| SealError::of(error, "record"))?;
        if record.mesh != mesh || record.host != host || record.key != *key {
            return Err(SealError::Misplaced);
        }
        if !record.fits() {
            return Err(SealError::Kind);
        }
        Ok(record)
    }

    /// Orders the records of one key: the greater one is newer.
    pub fn age(&self) -> (u64, u64) {
        (self.generation, self.seq)
    }

    fn fits(&self) -> bool {
        match (&self.key, &self.body) {
            (_, None) => true,
            (RecordKey::Host, Some(body)) => matches!(body, Body::Host(_)),
            (RecordKey::Image(_), Some(body)) => matches!(body, Body::Image(_)),
            (RecordKey::Session(_) | RecordKey::More(..), Some(body)) => matches!(body, Body::Session(_)),
            (RecordKey::Head(_), Some(body)) => matches!(body, Body::Head(_)),
            (RecordKey::Seen, Some(body)) => matches!(body, Body::Seen(_)),
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Host => f.write_str("host"),
            RecordKey::Image(digest) => write!(f, "image/{digest}"),
            RecordKey::Session(session) => write!(f, "session/{session}"),
            RecordKey::Head(session) => write!(f, "head/{session}"),
            RecordKey::Seen => f.write_str("seen"),
            RecordKey::More(session, part) => write!(f, "more/{session}{part:02x}"),
        }
    }
}

impl<C> Encode<C> for RecordKey {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), Fail<W::Error>> {
        e.str(&self.to_string()).map(drop)
    }
}

impl<'b, C> Decode<'b, C> for RecordKey {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<RecordKey, Flaw> {
        d.str()?.parse().map_err(Flaw::custom)
    }
}

impl FromStr for RecordKey {
    type Err = SealError;
    fn from_str(text: &str) -> Result<Self, SealError> {
        // One spelling: upper case digits or a `blake3:` prefix would be a second key.
        if !has_form(text) {
            return Err(SealError::Encoding("record key"));
        }
        let known = match text.split_once('/') {
            None if text == "host" => Some(RecordKey::Host),
            None if text == "seen" => Some(RecordKey::Seen),
            Some(("image", id)) => id.parse().ok().map(RecordKey::Image),
            Some(("session", id)) => id.parse().ok().map(RecordKey::Session),
            Some(("head", id)) => id.parse().ok().map(RecordKey::Head),
            Some(("more", id)) => part_of(id),
            _ => None,
        };
        known.ok_or(SealError::Later)
    }
}

/// Reads which part of a session's reports a record has: the first one has no number.
fn part_of(id: &str) -> Option<RecordKey> {
    let (session, part) = id.split_at_checked(id.len().checked_sub(2)?)?;
    let part = u8::from_str_radix(part, 16).ok().filter(|part| *part > 0)?;
    Some(RecordKey::More(session.parse().ok()?, part))
}

/// Tells whether a record of some version may have this key: a word, and what it is about in hex.
fn has_form(text: &str) -> bool {
    let (word, id) = text.split_once('/').map_or((text, None), |(word, id)| (word, Some(id)));
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word.len() <= 31
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        && id.is_none_or(|id| (1..=64).contains(&id.len()) && id.bytes().all(hex))
}

#[cfg(test)]
mod tests;
