//! The bytes of a topology's files, apart from the topology. Whatever names them does so by hash and length, so
//! that they lie and travel once, however many machines have them. Bytes are entered only through their hash:
//! what lies under a name is what the name says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::Intent;
use crate::{id::Digest, limits::MAX_KEEP_BYTES};

/// The name of some bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(map)]
pub struct Content {
    /// Their hash.
    #[n(0)]
    pub digest: Digest,
    /// How many they are.
    #[n(1)]
    pub size: u64,
}

impl Content {
    /// Names these bytes.
    pub fn of(bytes: &[u8]) -> Content {
        Content { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Content {
        Content::of(bytes)
    }
}

/// Bytes by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Contents(#[cbor(n(0), with = "crate::wire::fields::contents")] BTreeMap<Content, Arc<[u8]>>);

impl Contents {
    /// Takes bytes in and gives their name.
    pub fn add(&mut self, bytes: &[u8]) -> Content {
        let content = Content::of(bytes);
        self.0.entry(content).or_insert_with(|| bytes.into());
        content
    }

    /// Finds bytes.
    pub fn get(&self, content: &Content) -> Option<&Arc<[u8]>> {
        self.0.get(content)
    }

    /// Lists all bytes, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<[u8]>> {
        self.0.values()
    }

    /// Counts all bytes.
    pub fn bytes(&self) -> usize {
        self.0.values().map(|bytes| bytes.len()).sum()
    }

    /// Takes in all of the other's.
    pub fn extend(&mut self, other: Contents) {
        self.0.extend(other.0);
    }

    /// Keeps only those that are named.
    pub fn retain(&mut self, named: &BTreeSet<Content>) {
        self.0.retain(|content, _| named.contains(content));
    }

    /// Divides those that are named into parts of which each fits one entry of a log.
    pub fn parts(&self, named: &BTreeSet<Content>) -> Vec<Contents> {
        let mut parts: Vec<Contents> = Vec::new();
        for (content, bytes) in self.0.iter().filter(|(content, _)| named.contains(content)) {
            match parts.last_mut().filter(|last| last.bytes() + bytes.len() <= MAX_KEEP_BYTES) {
                Some(last) => drop(last.0.insert(*content, bytes.clone())),
                None => parts.push(Contents([(*content, bytes.clone())].into())),
            }
        }
        parts
    }
}

/// What a user asks for with all that it names: an intent and the bytes of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// What is asked for.
    pub intent: Intent,
    /// The bytes.
    pub contents: Contents,
}
