//! Images as the whole mesh knows them. A name is local until a member gossips it; of two givings of one name the
//! newest wins everywhere, which needs no agreement: every host computes the same from the same records.

use std::collections::BTreeMap;

use super::Picture;
use crate::{
    id::{Digest, HostId},
    session::ImageFacts,
    time::Timestamp,
    topology::ImageRef,
    trust::Capability,
    wire::record::{Body, ImageRecord, RecordKey},
};

/// Longest name. `debian-testing-backports:2026-11-20` fits, and sixteen of them fit in one gossip record.
const MAX_NAME: usize = 63;

/// An image as the whole mesh knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownImage {
    /// Content, size and architecture.
    pub facts: ImageFacts,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Its names now.
    pub names: Vec<String>,
    /// Hosts that hold all of it.
    pub holders: Vec<HostId>,
}

/// A member that has an image or part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// The member.
    pub host: HostId,
    /// Its label.
    pub name: String,
    /// Whether all of it is there.
    pub complete: bool,
    /// Whether packets to it go straight.
    pub direct: bool,
    /// The round trip to it.
    pub rtt_ms: Option<f64>,
}

/// Tells whether an image may have this name: it is neither a hash, nor a URL, nor a path.
pub fn is_name(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|&b| alphanumeric(b) || b".-_:".contains(&b))
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && !name.starts_with("blake3:")
}

/// Says whether giving `a` of a name beats giving `b`: the newer does, and of two at the same moment the one with
/// the greater hash.
pub fn newer(a: (Digest, Timestamp), b: (Digest, Timestamp)) -> bool {
    (a.1, a.0) > (b.1, b.0)
}

/// Says which content each name means, from records of any hosts. What is no name is passed over: a member may
/// send anything.
pub fn resolve<'a>(
    records: impl IntoIterator<Item = (Digest, &'a ImageRecord)>,
) -> BTreeMap<String, (Digest, Timestamp)> {
    let mut meanings: BTreeMap<String, (Digest, Timestamp)> = BTreeMap::new();
    for (digest, record) in records {
        for (name, given) in record.names.iter().filter(|(name, _)| is_name(name)) {
            let giving = (digest, *given);
            let meaning = meanings.entry(name.clone()).or_insert(giving);
            if newer(giving, *meaning) {
                *meaning = giving;
            }
        }
    }
    meanings
}

/// Says what content a topology's image is now, by this host's own picture.
pub fn meaning(picture: &Picture) -> impl Fn(&ImageRef) -> Option<Digest> + use<> {
    let meanings = meanings(picture);
    move |image| match image {
        ImageRef::Named(name) => meanings.get(name).map(|(digest, _)| *digest),
        ImageRef::Pinned(digest) => Some(*digest),
    }
}

/// Says which content each name means in the mesh now, and since when.
pub fn meanings(picture: &Picture) -> BTreeMap<String, (Digest, Timestamp)> {
    resolve(said(picture).map(|(_, digest, record)| (digest, record)))
}

/// Gives every image that some member has, sorted by its first name.
pub fn all(picture: &Picture) -> Vec<KnownImage> {
    let mut known: BTreeMap<Digest, KnownImage> = BTreeMap::new();
    for (host, digest, record) in said(picture) {
        let entry = known.entry(digest).or_insert_with(|| KnownImage {
            facts: ImageFacts { digest, size: record.size, arch: record.arch.clone() },
            allocated: record.allocated,
            names: Vec::new(),
            holders: Vec::new(),
        });
        if record.complete {
            entry.holders.push(host);
        }
    }
    for (name, (digest, _)) in meanings(picture) {
        if let Some(image) = known.get_mut(&digest) {
            image.names.push(name);
        }
    }
    let mut images: Vec<KnownImage> = known.into_values().collect();
    images.iter_mut().for_each(|image| image.holders.sort());
    images.sort_by(|a, b| (a.names.first(), a.facts.digest).cmp(&(b.names.first(), b.facts.digest)));
    images
}

/// Gives every name of an image with the moment it was given, from whoever has it.
pub fn names(picture: &Picture, digest: Digest) -> BTreeMap<String, Timestamp> {
    let of = said(picture).filter(|(_, of, _)| *of == digest);
    let named = of.flat_map(|(_, _, record)| &record.names).filter(|(name, _)| is_name(name));
    named.map(|(name, when)| (name.clone(), *when)).collect()
}

/// Lists the other members that are up and have an image or part of it.
pub fn holdings(picture: &Picture, digest: Digest) -> Vec<Holding> {
    let others =
        picture.up().filter(|(host, member)| *host != picture.me && member.may.has(Capability::Store));
    let holding = |(host, member): (HostId, &super::Member)| {
        let record = picture.image_record(host, digest)?;
        Some(Holding {
            host,
            name: member.name.to_string(),
            complete: record.complete,
            direct: member.way.as_ref().is_some_and(|way| way.direct),
            rtt_ms: member.rtt_ms(),
        })
    };
    others.filter_map(holding).collect()
}

/// Lists what every host says of its images: of this one what it has, of others what they told. Who may not hold
/// images for others neither gives names nor counts as a holder.
fn said(picture: &Picture) -> impl Iterator<Item = (HostId, Digest, &ImageRecord)> {
    let own = picture.images.iter().map(|(digest, record)| (picture.me, *digest, record));
    let theirs = picture.records.iter().filter_map(|((host, key), body)| match (key, body) {
        (RecordKey::Image(digest), Body::Image(record))
            if *host != picture.me
                && !picture.out.contains_key(host)
                && !picture.lacks(*host, Capability::Store) =>
        {
            Some((*host, *digest, record))
        }
        _ => None,
    });
    own.chain(theirs)
}
