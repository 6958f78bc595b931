//! What the mesh offers, as the planner wants it: gathered from signed host and image records.
//! Decides nothing.

use std::collections::BTreeMap;

use images::Holder;
use mesh::{MemberView, PathKind, Records};
use proto::{
    id::{Digest, HostId, SessionId},
    session::{HostFacts, ImageFacts, Inventory},
    time::Timestamp,
    wire::record::{Body, ImageRecord, RecordKey},
};

use super::hub::Hub;

/// Gathers the inventory for one session: memory that its own machines hold counts as free.
pub fn gather(hub: &Hub, session: SessionId) -> Inventory {
    let members = hub.deps().mesh.members().borrow().clone();
    let records = hub.deps().mesh.records().borrow().clone();
    let mut hosts = BTreeMap::new();
    for member in members.hosts.values() {
        let Some(Body::Host(record)) = records.get(&(member.id, RecordKey::Host)) else { continue };
        let others = record.memory_used_mib.iter().filter(|(of, _)| **of != session).map(|(_, mib)| mib);
        let facts = HostFacts {
            name: member.name.clone(),
            up: member.is_up(),
            arch: record.arch.clone(),
            accelerator: record.accelerator,
            cpus: record.cpus,
            memory_mib: record.memory_mib,
            disk_mib: record.disk_mib,
            disk_kept_mib: record.disk_kept_mib,
            runs_machines: record.runs_machines,
            memory_used_mib: others.sum(),
            tags: record.tags.clone(),
            images: Default::default(),
            prefixes: record.prefixes.clone(),
            rtt_ms: member.rtt_ms().map(|rtt| rtt.round() as u32),
        };
        hosts.insert(member.id, facts);
    }
    let mut inventory = Inventory { hosts, images: BTreeMap::new() };
    for image in images(hub) {
        // One that lost its names to another is still what machines were made from.
        let pinned = image.names.is_empty().then(|| format!("blake3:{}", image.facts.digest));
        for name in image.names.into_iter().chain(pinned) {
            inventory.images.insert(name, image.facts.clone());
        }
        for holder in image.holders {
            if let Some(host) = inventory.hosts.get_mut(&holder) {
                host.images.insert(image.facts.digest);
            }
        }
    }
    inventory
}

/// An image as the whole mesh knows it.
pub struct KnownImage {
    /// Content, size and architecture.
    pub facts: ImageFacts,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Its names now: of two contents with one name, the newest giving wins.
    pub names: Vec<String>,
    /// Hosts that hold all of it.
    pub holders: Vec<HostId>,
}

/// Gathers every image that some member has, sorted by its first name.
pub fn images(hub: &Hub) -> Vec<KnownImage> {
    known(&hub.deps().mesh.records().borrow().clone())
}

fn known(records: &Records) -> Vec<KnownImage> {
    let mut known: BTreeMap<Digest, KnownImage> = BTreeMap::new();
    let mut given: BTreeMap<String, (Timestamp, Digest)> = BTreeMap::new();
    for ((host, key), body) in records.iter() {
        let (RecordKey::Image(digest), Body::Image(record)) = (key, body) else { continue };
        let entry = known.entry(*digest).or_insert_with(|| KnownImage {
            facts: ImageFacts { digest: *digest, size: record.size, arch: record.arch.clone() },
            allocated: record.allocated,
            names: Vec::new(),
            holders: Vec::new(),
        });
        if record.complete {
            entry.holders.push(*host);
        }
        for (name, when) in names_of(record) {
            let newest = given.entry(name.clone()).or_insert((*when, *digest));
            *newest = (*newest).max((*when, *digest));
        }
    }
    for (name, (_, digest)) in given {
        if let Some(image) = known.get_mut(&digest) {
            image.names.push(name);
        }
    }
    let mut images: Vec<KnownImage> = known.into_values().collect();
    images.sort_by(|a, b| (a.names.first(), a.facts.digest).cmp(&(b.names.first(), b.facts.digest)));
    images
}

/// Gives every name of an image with the moment it was given, from whoever has it.
pub fn names(hub: &Hub, digest: Digest) -> BTreeMap<String, Timestamp> {
    let records = hub.deps().mesh.records().borrow().clone();
    let mut names = BTreeMap::new();
    for ((_, key), body) in records.iter() {
        if let (RecordKey::Image(of), Body::Image(record)) = (key, body)
            && *of == digest
        {
            names.extend(names_of(record).map(|(name, when)| (name.clone(), *when)));
        }
    }
    names
}

/// Gives the names of a record that are some: a member may send anything.
fn names_of(record: &ImageRecord) -> impl Iterator<Item = (&String, &Timestamp)> {
    record.names.iter().filter(|(name, _)| images::name::check(name).is_ok())
}

/// Tells what a name means in the mesh now, and since when.
pub fn given(hub: &Hub, name: &str) -> Option<(Digest, Timestamp)> {
    let records = hub.deps().mesh.records().borrow().clone();
    let giving = |((_, key), body): (&(HostId, RecordKey), &Body)| match (key, body) {
        (RecordKey::Image(digest), Body::Image(record)) => Some((*record.names.get(name)?, *digest)),
        _ => None,
    };
    records.iter().filter_map(giving).max().map(|(when, digest)| (digest, when))
}

/// Lists the other members that are up and have an image or part of it.
pub fn holders(hub: &Hub, digest: Digest) -> Vec<Holder> {
    let records = hub.deps().mesh.records().borrow().clone();
    let members = hub.deps().mesh.members().borrow().clone();
    let holder = |member: &MemberView| {
        let record = match records.get(&(member.id, RecordKey::Image(digest))) {
            Some(Body::Image(record)) if member.id != hub.me() => record,
            _ => return None,
        };
        Some(Holder {
            id: mesh::identity::endpoint_id(&member.id)?,
            name: member.name.to_string(),
            complete: record.complete,
            direct: member.path.as_ref().is_some_and(|path| path.kind == PathKind::Direct),
            rtt_ms: member.rtt_ms(),
        })
    };
    members.up().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_calls_an_image_is_looked_at_first() {
        let (host, digest) = (HostId([1; 32]), Digest([2; 32]));
        let names = ["debian:12", "\u{1b}[2J", "a\nb", "blake3:00", "", "http://x/y", "-x"];
        let record = ImageRecord {
            names: names.iter().map(|name| ((*name).to_owned(), Timestamp(7))).collect(),
            size: 1,
            allocated: 1,
            arch: "x86_64".to_owned(),
            complete: true,
        };
        let records = Records::from([((host, RecordKey::Image(digest)), Body::Image(record))]);
        let known = known(&records);
        assert_eq!(known.len(), 1, "the image itself is there");
        assert_eq!(known[0].names, ["debian:12"]);
    }
}
