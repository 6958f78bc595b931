//! Pure: what a person should know of a plan beside its changes and obstacles.

use crate::{
    id::Name,
    level::Feature,
    reasons::Stranger,
    session::Inventory,
    spelling,
    topology::{self, Intent},
};

/// Tells that nobody has this name, and what may have been meant.
pub(super) fn stranger(name: &Name, inventory: &Inventory) -> Option<Stranger> {
    let names = || inventory.hosts.values().map(|host| host.name.as_str());
    if names().any(|known| known == name.as_str()) {
        return None;
    }
    let nearest = spelling::nearest(name.as_str(), names()).map(str::to_owned);
    Some(Stranger { name: name.clone(), nearest, known: spelling::list(names()) })
}

/// Tells which services hosts publish in their networks, and which they will not.
pub(super) fn published(intent: &Intent, inventory: &Inventory) -> Vec<String> {
    let mut notes = Vec::new();
    for (group, service, publish) in topology::published(&intent.topology.groups) {
        for name in &publish.on {
            let host = inventory.hosts.values().find(|host| host.name == *name);
            notes.extend(match host {
                None => stranger(name, inventory)
                    .map(|stranger| format!("{service}.{group}: publish.on: {stranger}")),
                Some(host) if host.level < Feature::Publish.since() => {
                    Some(format!("{service}.{group} is not published by {name}: an older version runs there"))
                }
                Some(host) if !host.publishes => Some(format!(
                    "{service}.{group} is not published by {name}: its owner does not let it \
                     (policy.publish = true in its config.toml)"
                )),
                Some(_) => Some(format!(
                    "{service}.{group} is published in the network of {name}, on port {}",
                    publish.lan
                )),
            });
        }
    }
    notes
}

/// Says why something is not done although the topology wishes it.
pub(super) fn older(beyond: &[Feature], inventory: &Inventory) -> Vec<String> {
    let without = |feature: Feature| {
        let lacks = match feature {
            Feature::Egress => "its machines do not reach the internet",
            // The other note says it already.
            Feature::Lan if beyond.contains(&Feature::Egress) => return None,
            Feature::Lan => "its machines do not reach their hosts' networks",
            Feature::Publish => "its services are published in no network",
            Feature::Udp => "its UDP services do not exist",
            Feature::Out => "machines whose host is out of the mesh are not placed elsewhere",
            // No topology has it.
            Feature::Raise
            | Feature::Limits
            | Feature::Probes
            | Feature::Evict
            | Feature::Possession
            | Feature::Mandates
            | Feature::Summary => {
                return None;
            }
        };
        let older = inventory.hosts.values().filter(|host| host.level < feature.since());
        let older = spelling::list(older.map(|host| host.name.as_str()));
        Some(if older.is_empty() {
            format!("{lacks} yet: its hosts were upgraded a moment ago; run this again in a few seconds")
        } else {
            format!("{lacks}: an older version runs on {older}; run this again when all are upgraded")
        })
    };
    beyond.iter().filter_map(|feature| without(*feature)).collect()
}
