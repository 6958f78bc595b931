//! Cuts the share of one host out of the hard state: its machines with everything needed to make
//! them, what it must remove, and the directory that every member has. Always whole, never a patch.

use std::collections::BTreeMap;

use data_encoding::BASE64;

use crate::{
    id::{HostId, MachineName, Name},
    seal::{PublicKey, Seed},
    session::{
        Directory, Drop, GroupEntry, MachineEntry, MachineFile, MachineSpec, Placement, Prefix, Share, State,
    },
    topology::{Content, Group, Intent, Probe, Protocol, Service},
    trust::{Capability, May},
};

/// Gives what `host` must make true and must know.
pub fn share(state: &State, host: HostId) -> Share {
    let mine = |p: &&Placement| p.host == host && !state.ended;
    let placements = state.plan.iter().flat_map(|plan| &plan.placements);
    let here = |drop: &&Drop| drop.host == host;
    let drops = state.drops.iter().flat_map(|(machine, drops)| {
        drops.iter().filter(here).map(move |drop| (machine.clone(), drop.epoch))
    });
    Share {
        session: state.id,
        name: state.name.clone(),
        stamp: state.stamp,
        recovery: state.recovery,
        version: state.version,
        generation: state.generation(),
        ended: state.ended,
        directory: directory(state),
        machines: placements.filter(mine).filter_map(|p| machine(state, p)).collect(),
        drops: drops.collect(),
        ssh_seed: state.ssh_seed,
        level: state.level,
        mandate: state.mandate.clone(),
    }
}

/// Gives what `host` must make true and may know. A host that may not operate gets no key that opens machines, and of
/// a session that it has no part in not even who is where.
pub fn share_of(state: &State, host: HostId, may: May) -> Share {
    let mut share = share(state, host);
    if !may.has(Capability::Operate) {
        share.ssh_seed = [0; 32];
        if share.machines.is_empty() && share.drops.is_empty() {
            share.directory.groups.clear();
        }
    }
    share
}

/// Tells whether `new` may take the place of `old`: shares are ordered by (recovery, version).
pub fn supersedes(new: &Share, old: &Share) -> bool {
    (new.recovery, new.version) > (old.recovery, old.version)
}

/// Lists the groups of a share's machines that have these bytes.
pub fn groups_with<'a>(share: &'a Share, content: &'a Content) -> impl Iterator<Item = &'a Name> {
    let has = |spec: &&MachineSpec| spec.files.iter().any(|file| file.content == *content);
    share.machines.iter().filter(has).map(|spec| &spec.machine.group)
}

/// Tells whether a machine of this host has these bytes.
pub fn needs_content(state: &State, host: HostId, content: &Content) -> bool {
    let Some((plan, intent)) = state.plan.as_ref().zip(state.intent.as_ref()) else { return false };
    let has = |group: &Name| {
        let files = intent.topology.groups.get(group).into_iter().flat_map(|group| group.files.values());
        files.into_iter().any(|file| intent.files.get(&file.source) == Some(content))
    };
    plan.placements.iter().any(|placement| placement.host == host && has(&placement.machine.group))
}

fn directory(state: &State) -> Directory {
    let Some((plan, intent)) = state.plan.as_ref().zip(state.intent.as_ref()) else {
        return Directory { subnet: Prefix::NONE, groups: BTreeMap::new() };
    };
    let entry = |(name, group): (&Name, &Group)| {
        let machines = plan.placements.iter().filter(|p| p.machine.group == *name);
        let machine = |p: &Placement| MachineEntry {
            machine: p.machine.clone(),
            host: p.host,
            epoch: p.epoch,
            address: p.address,
            guard: p.guard,
            user: p.made.user.clone(),
            run: !state.stopped.contains(&p.machine),
        };
        let services = group.services.iter().map(|(name, service)| (name.clone(), service.port)).collect();
        let speaks_http = |service: &Service| {
            service.ready.as_ref().is_some_and(|ready| matches!(ready.probe, Probe::Http(_)))
        };
        let http = group.services.iter().filter(|(_, service)| speaks_http(service));
        let udp = group.services.iter().filter(|(_, service)| service.protocol == Protocol::Udp);
        let publish = group
            .services
            .iter()
            .filter_map(|(name, service)| Some((name.clone(), service.publish.clone()?)));
        let entry = GroupEntry {
            services,
            http: http.map(|(name, _)| name.clone()).collect(),
            needs: group.needs.clone(),
            machines: machines.map(machine).collect(),
            publish: publish.collect(),
            udp: udp.map(|(name, _)| name.clone()).collect(),
        };
        (name.clone(), entry)
    };
    Directory { subnet: plan.subnet, groups: intent.topology.groups.iter().map(entry).collect() }
}

fn machine(state: &State, placement: &Placement) -> Option<MachineSpec> {
    let intent = state.intent.as_ref()?;
    let name = &placement.machine.group;
    let group = intent.topology.groups.get(name)?;
    let mut ssh_keys = intent.ssh_keys.get(name).cloned().unwrap_or_default();
    ssh_keys.push(public_key(&state.ssh_seed, state.name.as_str()));
    Some(MachineSpec {
        machine: placement.machine.clone(),
        epoch: placement.epoch,
        run: !state.stopped.contains(&placement.machine),
        starts: state.starts.get(&placement.machine).copied().unwrap_or_default(),
        image: placement.image,
        image_size: placement.image_size,
        cpus: group.cpus,
        memory_mib: group.memory_mib,
        disk_mib: placement.disk_mib,
        address: placement.address,
        mac: placement.mac,
        needs: group.needs.clone(),
        guard: placement.guard,
        restart: group.restart,
        failover: group.failover,
        services: services(group),
        setup: group.setup.clone(),
        files: files(intent, group),
        env: group.env.clone(),
        ssh_keys,
        user: placement.made.user.clone(),
        host_key_seed: host_key_seed(&state.ssh_seed, &placement.machine),
        egress: group.egress,
    })
}

/// Leaves out where services are published: that is told to all hosts, and no reason to start a machine again.
pub(super) fn services(group: &Group) -> BTreeMap<Name, Service> {
    let service =
        |(name, service): (&Name, &Service)| (name.clone(), Service { publish: None, ..service.clone() });
    group.services.iter().map(service).collect()
}

pub(super) fn files(intent: &Intent, group: &Group) -> Vec<MachineFile> {
    let file = |(path, file): (&String, &crate::topology::FileSpec)| {
        let content = *intent.files.get(&file.source)?;
        Some(MachineFile { path: path.clone(), mode: file.mode, owner: file.owner.clone(), content })
    };
    group.files.iter().filter_map(file).collect()
}

/// Derives a machine's SSH host key, so that `machine ssh` knows it before the first connection. It
/// belongs to the machine and outlives its incarnations.
pub fn host_key_seed(ssh_seed: &[u8; 32], machine: &MachineName) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("mesh machine ssh host key 1");
    hasher.update(ssh_seed).update(machine.to_string().as_bytes());
    *hasher.finalize().as_bytes()
}

/// Writes the public half of an ed25519 seed, see [`public_line`].
pub fn public_key(seed: &[u8; 32], comment: &str) -> String {
    public_line(&Seed(*seed).public(), comment)
}

/// Writes a public ed25519 key as OpenSSH does: `ssh-ed25519 BASE64 COMMENT`.
pub fn public_line(key: &PublicKey, comment: &str) -> String {
    const KIND: &[u8] = b"ssh-ed25519";
    let mut blob = Vec::with_capacity(51);
    for part in [KIND, key] {
        // Both parts are far shorter than 2^32.
        blob.extend_from_slice(&(part.len() as u32).to_be_bytes());
        blob.extend_from_slice(part);
    }
    format!("ssh-ed25519 {} {comment}", BASE64.encode(&blob))
}

#[cfg(test)]
mod tests;
