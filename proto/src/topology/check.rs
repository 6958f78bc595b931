//! Rules of a topology that span several keys: what refers to what, cycles, totals.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, machines, parse::Places, report::Report, rules};
use crate::{id::Name, limits, spelling};

/// Reports everything in the groups together that no single key shows.
pub(super) fn check(groups: &BTreeMap<Name, Group>, places: &Places, report: &mut Report) {
    if !totals(groups, places, report) {
        return;
    }
    for (name, group) in groups {
        let at = places.get(name);
        let referring =
            [("needs", &group.needs), ("place.near", &group.place.near), ("place.apart", &group.place.apart)];
        for (key, others) in referring {
            for other in others {
                if other == name {
                    let what = format!("machines.{name}.{key} names the group itself");
                    report.add(at, what, "remove it");
                } else if !places.contains_key(other) {
                    let known = spelling::list(places.keys().map(Name::as_str));
                    let what = format!("machines.{name}.{key} names {other}, which is no group");
                    report.add(at, what, format!("groups here: {known}"));
                }
            }
        }
        ports(name, group, places, report);
        for key in group.env.keys() {
            if let Err((what, hint)) = rules::variable(&format!("machines.{name}.env"), key) {
                report.add(at, what, hint);
            }
        }
    }
    published(groups, places, report);
    if let Some(cycle) = cycle(groups) {
        let names: Vec<&str> = cycle.iter().map(Name::as_str).collect();
        let what = format!("the groups need each other in a circle: {}", names.join(" -> "));
        report.add(places.get(&cycle[0]), what, "remove one of these needs");
    }
}

fn ports(name: &Name, group: &Group, places: &Places, report: &mut Report) {
    let mut seen = BTreeMap::new();
    for (service, spec) in &group.services {
        if let Some(other) = seen.insert((spec.protocol, spec.port), service) {
            let what = format!(
                "machines.{name}: the services {other} and {service} have the same port {}",
                spec.port
            );
            report.add(places.get(name), what, "give each service its own port");
        }
    }
}

/// Reports ports of hosts that several services would take.
fn published(groups: &BTreeMap<Name, Group>, places: &Places, report: &mut Report) {
    let mut seen = BTreeMap::new();
    for (group, service, publish) in super::published(groups) {
        for host in &publish.on {
            let Some((other, of)) = seen.insert((publish.lan, host), (service, group)) else { continue };
            let what = format!(
                "{other}.{of} and {service}.{group} are both published on port {} of {host}",
                publish.lan
            );
            report.add(places.get(group), what, "give each its own port");
        }
    }
}

/// Says how many machines there are if a session cannot have so many.
pub(super) fn too_many(groups: &BTreeMap<Name, Group>) -> Option<String> {
    let machines = machines(groups);
    let many = machines > limits::MAX_MACHINES as u64;
    many.then(|| format!("the topology has {machines} machines"))
}

/// Tells whether the topology is of a size that a session can have.
fn totals(groups: &BTreeMap<Name, Group>, places: &Places, report: &mut Report) -> bool {
    let before = report.found.len();
    if places.len() > limits::MAX_GROUPS {
        let what = format!("the topology has {} groups", places.len());
        report.add(None, what, format!("at most {} are possible", limits::MAX_GROUPS));
    }
    if let Some(what) = too_many(groups) {
        report.add(None, what, format!("at most {} are possible", limits::MAX_MACHINES));
    }
    report.found.len() == before
}

/// Finds one circle of needs and gives it with its first group repeated at the end.
fn cycle(groups: &BTreeMap<Name, Group>) -> Option<Vec<Name>> {
    let mut left: BTreeSet<&Name> = groups.keys().collect();
    // What needs nothing that is left cannot be on a circle.
    loop {
        let free: Vec<&Name> = left
            .iter()
            .filter(|name| !groups[**name].needs.iter().any(|need| left.contains(need)))
            .copied()
            .collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            left.remove(name);
        }
    }
    // Every group that is left needs another that is left, so walking must come back.
    let mut path: Vec<&Name> = vec![left.first().copied()?];
    loop {
        let here = path[path.len() - 1];
        let next = groups[here].needs.iter().find(|need| left.contains(need))?;
        if let Some(start) = path.iter().position(|name| *name == next) {
            let circle = path[start..].iter().chain([&path[start]]);
            return Some(circle.map(|name| (*name).clone()).collect());
        }
        path.push(next);
    }
}
