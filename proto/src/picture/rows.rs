//! Sessions, machines, hosts and images as people see them in lists.

use std::collections::{BTreeMap, BTreeSet};

use super::{Member, Picture, Way, images, readiness};
use crate::{
    id::{HostId, MachineName, Name},
    liveness::FULL,
    reasons::{Because, Why},
    session::{MachineEntry, MachineReport, Phase, Share},
    wire::api::{self, PathKind, SessionState},
};

/// Sums a session up in one word.
pub fn state(picture: &Picture, share: &Share) -> SessionState {
    if share.ended {
        return SessionState::Stopping;
    }
    let phases: Vec<Option<Phase>> = share
        .directory
        .machines()
        .map(|entry| readiness::report(picture, share.session, entry).map(|report| report.phase))
        .collect();
    let well = |phase: &Option<Phase>| matches!(phase, Some(Phase::Ready | Phase::Stopped));
    let bad = |phase: &Option<Phase>| matches!(phase, Some(Phase::Failed | Phase::Paused));
    if phases.iter().all(well) {
        SessionState::Healthy
    } else if !away(picture, share).is_empty() || phases.iter().any(bad) {
        SessionState::Degraded
    } else {
        SessionState::Starting
    }
}

/// Lists the hosts with machines of a session that are not heard now.
pub fn away(picture: &Picture, share: &Share) -> BTreeSet<HostId> {
    share.directory.machines().map(|entry| entry.host).filter(|host| !picture.is_up(*host)).collect()
}

/// Gives a session's line in a list; who coordinates it, the caller knows.
pub fn session(picture: &Picture, share: &Share, coordinator: Option<HostId>) -> api::SessionRow {
    api::SessionRow {
        id: share.session,
        name: share.name.to_string(),
        state: state(picture, share),
        ready: readiness::ready(picture, share).len() as u64,
        machines: share.directory.machines().count() as u64,
        coordinator: coordinator.map(|host| picture.name(host)),
    }
}

/// Gives the lines of a session's machines, sorted by name.
pub fn machines(picture: &Picture, share: &Share) -> Vec<api::MachineRow> {
    let groups = share.directory.groups.iter();
    let rows = groups
        .flat_map(|(group, entry)| entry.machines.iter().map(|entry| machine(picture, share, group, entry)));
    let mut rows: Vec<api::MachineRow> = rows.collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn machine(picture: &Picture, share: &Share, group: &Name, entry: &MachineEntry) -> api::MachineRow {
    let host = picture.name(entry.host);
    let (state, why) = match readiness::report(picture, share.session, entry) {
        Some(report) => {
            let told = |words: &String| Why::told(report.why.as_ref(), words);
            let untold = report.why.clone().map(Why::new);
            (report.phase, report.reason.as_ref().map(told).or(untold))
        }
        None if picture.out.contains_key(&entry.host) => {
            let (host, session) = (host.clone(), share.name.clone());
            (Phase::Failed, Some(Why::new(Because::HostOut { host, session })))
        }
        None if picture.is_up(entry.host) => (Phase::Waiting, Some(Why::new(Because::Unreported))),
        None => (Phase::Failed, Some(Why::new(Because::HostAway { host: host.clone() }))),
    };
    api::MachineRow {
        name: entry.machine.clone(),
        group: group.to_string(),
        session: share.name.to_string(),
        session_id: share.session,
        host: Some(host),
        state,
        guard: entry.guard,
        epoch: entry.epoch.0,
        address: Some(entry.address.to_string()),
        reason: why.as_ref().map(|why| why.text.clone()),
        why,
    }
}

/// Gives the lines of all hosts: this one first, the others by name.
pub fn hosts(picture: &Picture) -> Vec<api::HostRow> {
    let mut rows: Vec<_> = picture.members.iter().map(|(id, member)| host(picture, *id, member)).collect();
    rows.sort_by(|a, b| (a.id != picture.me, &a.name).cmp(&(b.id != picture.me, &b.name)));
    rows
}

fn host(picture: &Picture, id: HostId, member: &Member) -> api::HostRow {
    let record = picture.host_record(id);
    let way = member.way.as_ref().map(way_in_words).or_else(|| idle(picture, member));
    let own = api::Path { kind: PathKind::Me, rtt_ms: None, via: None };
    api::HostRow {
        id,
        name: member.name.to_string(),
        state: member.state,
        path: if id == picture.me { Some(own) } else { way },
        version: record.map(|record| record.version.clone()),
        arch: record.map(|record| record.arch.clone()),
        accelerator: record.and_then(|record| record.accelerator),
        cpus: record.map(|record| record.cpus),
        memory_mib: record.map(|record| record.memory_mib),
        memory_used_mib: record
            .map(|record| record.memory_used_mib.values().copied().fold(0, u64::saturating_add)),
        disk_mib: record.map(|record| record.disk_mib),
        runs_machines: record.map(|record| record.runs_machines),
        issuer: member.issuer,
        capabilities: member.may.list(),
        relay: record.and_then(|record| record.reach.serves.as_ref()).map(|offer| offer.url.clone()),
        tags: record.map(|record| record.tags.clone()).unwrap_or_default(),
    }
}

/// Gives the line of a way to a member.
pub fn path(member: &Member, way: Option<Way>) -> api::PathRow {
    let path = way.as_ref().map(way_in_words);
    api::PathRow {
        host: member.name.to_string(),
        state: member.state,
        kind: path.as_ref().map(|path| path.kind),
        rtt_ms: path.as_ref().and_then(|path| path.rtt_ms),
        via: path.and_then(|path| path.via),
        address: way.map(|way| way.via),
    }
}

/// In a large mesh a host is connected with some of the others; the rest it reaches when there is something to say.
fn idle(picture: &Picture, member: &Member) -> Option<api::Path> {
    let is_idle = member.is_up() && picture.members.len() > FULL;
    is_idle.then_some(api::Path { kind: PathKind::Idle, rtt_ms: None, via: None })
}

fn way_in_words(way: &Way) -> api::Path {
    api::Path {
        kind: if way.direct { PathKind::Direct } else { PathKind::Relayed },
        rtt_ms: Some(way.rtt_ms),
        via: way.owner.as_ref().map(Name::to_string),
    }
}

/// Gives a line for each name of each image, and one for each image without a name.
pub fn images(picture: &Picture) -> Vec<api::ImageRow> {
    let mut rows = Vec::new();
    for image in images::all(picture) {
        let mut hosts: Vec<String> = image.holders.iter().map(|host| picture.name(*host)).collect();
        hosts.sort();
        let row = api::ImageRow {
            name: None,
            digest: image.facts.digest,
            size: image.facts.size,
            allocated: Some(image.allocated),
            arch: image.facts.arch.clone(),
            hosts,
            here: image.holders.contains(&picture.me),
        };
        if image.names.is_empty() {
            rows.push(row);
            continue;
        }
        rows.extend(image.names.into_iter().map(|name| api::ImageRow { name: Some(name), ..row.clone() }));
    }
    rows
}

/// Lists the images that machines of a session wait for, by what their hosts report.
pub fn fetching(picture: &Picture, share: &Share) -> Vec<api::Fetching> {
    let known: BTreeMap<MachineName, &MachineReport> = readiness::known(picture, share);
    let fetches = |entry: &&MachineEntry| {
        known.get(&entry.machine).is_some_and(|report| report.phase == Phase::Fetching)
    };
    let hosts: BTreeSet<HostId> =
        share.directory.machines().filter(fetches).map(|entry| entry.host).collect();
    let mut rows = BTreeMap::new();
    for image in images::all(picture) {
        for host in &hosts {
            let there = picture.image_record(*host, image.facts.digest);
            if let Some(record) = there.filter(|record| !record.complete) {
                let named = image.names.first().cloned().unwrap_or_else(|| image.facts.digest.short());
                rows.insert((picture.name(*host), named), record.size);
            }
        }
    }
    let row = |((host, image), bytes)| api::Fetching { host, image, done: None, bytes };
    rows.into_iter().map(row).collect()
}
