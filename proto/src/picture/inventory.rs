//! What the mesh offers, as the planner wants it.

use std::collections::BTreeMap;

use super::{Picture, images};
use crate::{
    id::SessionId,
    session::{HostFacts, Inventory},
    trust::Capability,
};

/// Gives the inventory for one session: memory that its own machines hold counts as free.
pub fn inventory(picture: &Picture, session: SessionId) -> Inventory {
    let mut hosts = BTreeMap::new();
    for (id, member) in picture.present() {
        let Some(record) = picture.host_record(id) else { continue };
        let others = record.memory_used_mib.iter().filter(|(of, _)| **of != session).map(|(_, mib)| *mib);
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
            memory_used_mib: others.fold(0, u64::saturating_add),
            tags: record.tags.clone(),
            images: Default::default(),
            prefixes: record.prefixes.clone(),
            rtt_ms: member.rtt_ms().map(|rtt| rtt.round() as u32),
            level: member.level.unwrap_or_default(),
            lan: record.lan,
            publishes: record.publishes,
            barred: !member.may.has(Capability::Run),
        };
        hosts.insert(id, facts);
    }
    let mut inventory =
        Inventory { hosts, images: BTreeMap::new(), out: picture.out.keys().copied().collect() };
    for image in images::all(picture) {
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
