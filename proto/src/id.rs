//! Names and ids. Each is a newtype that can only hold a valid value; `Display` and `FromStr` are
//! the one spelling of it. In JSON and TOML an id is a string, in what is sent or stored it is its bytes.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use minicbor::{
    Decode, Decoder, Encode, Encoder, decode::Error as Flaw, encode::Error as Fail, encode::Write,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A host: its ed25519 public key, 32 bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(transparent)]
pub struct HostId(
    #[serde(with = "hex")]
    #[cbor(n(0), with = "minicbor::bytes")]
    pub [u8; 32],
);

/// A mesh: the BLAKE3 hash of its root public key, 32 bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(transparent)]
pub struct MeshId(
    #[serde(with = "hex")]
    #[cbor(n(0), with = "minicbor::bytes")]
    pub [u8; 32],
);

/// A session: 128 bits of a hash over its creator and a random number, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(transparent)]
pub struct SessionId(
    #[serde(with = "hex")]
    #[cbor(n(0), with = "minicbor::bytes")]
    pub [u8; 16],
);

/// Content: the BLAKE3 hash of its bytes, 32 bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(transparent)]
pub struct Digest(
    #[serde(with = "hex")]
    #[cbor(n(0), with = "minicbor::bytes")]
    pub [u8; 32],
);

/// Why a text is no id or name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Wrong number of hex digits, or something else than hex digits.
    #[error("{0:?} is not {1} hex digits")]
    Hex(String, usize),
    /// The text breaks the rule of [`Name`].
    #[error("{0:?} is no name: a letter a-z, then letters, digits and '-', 31 characters at most")]
    Name(String),
    /// A machine is `GROUP-N` with N from 1.
    #[error("{0:?} is no machine: a machine is GROUP-N, such as web-1")]
    Machine(String),
}

impl HostId {
    /// Gives the first ten hex digits, enough for people to tell hosts apart.
    pub fn short(&self) -> String {
        HEX.encode(&self.0[..5])
    }
}

impl SessionId {
    /// Makes the id of a session from who starts it and a random number. Nobody else can state the
    /// birth of a session with this id.
    pub fn born(creator: HostId, salt: &[u8; 16]) -> SessionId {
        let mut hasher = blake3::Hasher::new_derive_key("mesh session id 1");
        hasher.update(&creator.0).update(salt);
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        SessionId(id)
    }

    /// Gives the first eight hex digits, enough for people to tell sessions apart.
    pub fn short(&self) -> String {
        HEX.encode(&self.0[..4])
    }
}

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Gives the first ten hex digits.
    pub fn short(&self) -> String {
        HEX.encode(&self.0[..5])
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({})", self.short())
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({})", HEX.encode(&self.0[..5]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.short())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for HostId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::parse(text).map(HostId)
    }
}

impl FromStr for MeshId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::parse(text).map(MeshId)
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::parse(text).map(SessionId)
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::parse(text.strip_prefix("blake3:").unwrap_or(text)).map(Digest)
    }
}

/// A label of ours: host, session, group, service or image family. `[a-z][a-z0-9-]{0,30}`, and it
/// does not end in `-`, so that it is a DNS label as well.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Borrows the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let valid = text.len() <= 31
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if valid { Ok(Name(text.to_owned())) } else { Err(IdError::Name(text.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<C> Encode<C> for Name {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), Fail<W::Error>> {
        e.str(&self.0).map(drop)
    }
}

impl<'b, C> Decode<'b, C> for Name {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Name, Flaw> {
        d.str()?.parse().map_err(Flaw::custom)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A machine: its group and its number from 1, written `web-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineName {
    /// The group that the topology names.
    pub group: Name,
    /// From 1 to the group's count.
    pub index: u32,
}

impl FromStr for MachineName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Machine(text.to_owned());
        let (group, index) = text.rsplit_once('-').ok_or_else(wrong)?;
        let canonical = !index.starts_with(['0', '+']);
        let index: u32 = index.parse().map_err(|_| wrong())?;
        let group = group.parse().map_err(|_| wrong())?;
        if canonical { Ok(MachineName { group, index }) } else { Err(wrong()) }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.group, self.index))
    }
}

impl fmt::Debug for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.group, self.index)
    }
}

impl<C> Encode<C> for MachineName {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), Fail<W::Error>> {
        e.str(&self.to_string()).map(drop)
    }
}

impl<'b, C> Decode<'b, C> for MachineName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<MachineName, Flaw> {
        d.str()?.parse().map_err(Flaw::custom)
    }
}

impl Serialize for MachineName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MachineName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Counts the incarnations of one machine, from 1. The higher wins everywhere.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(transparent)]
pub struct Epoch(#[n(0)] pub u64);

/// Counts the plans of one session, from 1; 0 is "no plan yet".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(transparent)]
pub struct Generation(#[n(0)] pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Epoch {
    /// Gives the epoch of the next incarnation.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl Generation {
    /// Gives the generation of the next plan.
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

/// Fixed-size bytes as hex text for people.
pub mod hex {
    use super::{HEX, IdError};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Reads exactly `2 * N` hex digits.
    pub fn parse<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
        let wrong = || IdError::Hex(text.chars().take(80).collect(), 2 * N);
        let bytes = HEX.decode(text.as_bytes()).map_err(|_| wrong())?;
        bytes.try_into().map_err(|_| wrong())
    }

    /// For `#[serde(with = "hex")]`.
    pub fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEX.encode(bytes))
    }

    /// For `#[serde(with = "hex")]`.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{Form, from_bytes, to_bytes};

    #[test]
    fn names_are_dns_labels_of_ours() {
        for good in ["a", "web", "web-2x", "a23456789012345678901234567890x"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "Web", "1web", "-web", "web-", "we_b", "web.shop", "a234567890123456789012345678901x"]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn machines_have_one_spelling() {
        let machine: MachineName = "web-api-12".parse().unwrap();
        assert_eq!((machine.group.as_str(), machine.index), ("web-api", 12));
        assert_eq!(machine.to_string(), "web-api-12");
        for bad in ["web", "web-", "web-01", "web-+1", "web-0", "-1", "web-99999999999"] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_text_for_people_and_bytes_on_the_wire() {
        let id = HostId([7; 32]);
        assert_eq!(id.to_string().parse::<HostId>().unwrap(), id);
        let bytes = to_bytes(&id);
        assert_eq!(bytes, [&[0x58, 32][..], &[7; 32]].concat());
        assert_eq!(from_bytes(&bytes, 99, Form::Canonical), Ok(id));
        let short = [&[0x58, 31][..], &[7; 31]].concat();
        assert!(from_bytes::<HostId>(&short, 99, Form::Sound).is_err());
        assert!("07".parse::<HostId>().is_err());
        assert_eq!(format!("blake3:{}", Digest([1; 32])).parse::<Digest>().unwrap(), Digest([1; 32]));
    }
}
