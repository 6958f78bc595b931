//! What a topology becomes on these hosts: a plan, or everything that stands in its way. Pure and
//! deterministic, so `session plan` shows exactly what `session up` commits.
//! A machine that exists keeps its host as long as it stays in the topology: every incarnation is
//! guarded by `hold`, nothing is ever started on another host. Nothing here commits: that is `state`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    id::{Digest, HostId, MachineName, Name, SessionId},
    session::{
        Change, ChangeAction, Drop, Guard, ImageFacts, Inventory, Obstacle, Placement, Plan, Prefix,
        Proposal, Rejection, State, difference, overlay,
        schedule::{self, Given, Wanted},
    },
    topology::{Failover, Group, ImageRef, Intent},
};

/// Answers what `up` would do with this intent now.
pub fn propose(
    session: SessionId,
    state: Option<&State>,
    intent: &Intent,
    inventory: &Inventory,
) -> Proposal {
    let old = state.and_then(|state| state.plan.as_ref());
    let groups = &intent.topology.groups;
    let machines: Vec<MachineName> = intent.topology.machines().collect();
    let avoid: Vec<Prefix> = inventory.hosts.values().flat_map(|host| host.prefixes.clone()).collect();
    let subnet = old.map(|plan| plan.subnet).or_else(|| overlay::subnet(session, machines.len(), &avoid));
    let mut planner = Planner {
        session,
        state,
        intent,
        inventory,
        subnet: subnet.unwrap_or(Prefix::NONE),
        given: Given::default(),
        addresses: BTreeSet::new(),
        placements: Vec::new(),
        proposal: Proposal {
            plan: None,
            changes: vec![],
            rejected: vec![],
            obstacles: vec![],
            fetch: vec![],
        },
    };
    if let (None, Some(first)) = (subnet, machines.first()) {
        let because = format!("the hosts' own networks leave no free network in {}", overlay::RANGE);
        planner.obstacle(first, because);
    }
    let (kept, mut new): (Vec<_>, Vec<_>) =
        machines.iter().partition(|machine| state.is_some_and(|state| state.placement(machine).is_some()));
    // What exists is counted before what is new is placed; who wishes neighbours comes after them.
    new.sort_by_key(|machine| groups.get(&machine.group).map(|g| g.place.near.len() + g.place.apart.len()));
    planner.reserve_addresses();
    kept.into_iter().for_each(|machine| planner.keep(machine));
    new.into_iter().for_each(|machine| planner.create(machine));
    planner.removals();
    planner.finish()
}

struct Planner<'a> {
    session: SessionId,
    state: Option<&'a State>,
    intent: &'a Intent,
    inventory: &'a Inventory,
    subnet: Prefix,
    given: Given,
    addresses: BTreeSet<Ipv4Addr>,
    placements: Vec<Placement>,
    proposal: Proposal,
}

impl<'a> Planner<'a> {
    /// Takes the addresses of machines that exist, and of those that are not removed yet, out of the
    /// choice.
    fn reserve_addresses(&mut self) {
        let Some(state) = self.state else { return };
        let held =
            |machine: &MachineName| state.placement(machine).is_some() || state.drops.contains_key(machine);
        let addresses = state.addresses.iter().filter(|(machine, _)| held(machine));
        self.addresses.extend(addresses.map(|(_, address)| *address));
    }

    /// Plans a machine that exists: same host, and a new incarnation only if its content changes.
    fn keep(&mut self, machine: &MachineName) {
        let Some((state, was)) = self.state.and_then(|state| Some((state, state.placement(machine)?))) else {
            return;
        };
        let Some(group) = self.intent.topology.groups.get(&machine.group) else { return };
        let image = match self.image(&group.image) {
            Ok(image) => image,
            // Its name is unknown just now, perhaps because the holders are away: what was planned
            // from the same name stands.
            Err(_) if was.image_name == group.image => {
                ImageFacts { digest: was.image, size: was.image_size, arch: String::new() }
            }
            Err(because) => return self.obstacle(machine, because),
        };
        if let Some(because) = self.misfit(machine, group, &image, was) {
            self.given.take(was.host, &machine.group, group.memory_mib);
            return self.obstacle(machine, because);
        }
        self.given.take(was.host, &machine.group, group.memory_mib);
        let fingerprint = fingerprint(self.intent, &machine.group, group, image.digest);
        let old_group = state.intent.as_ref().and_then(|old| old.topology.groups.get(&machine.group));
        let (epoch, action, because) = if fingerprint != was.fingerprint {
            let what = difference::content(state.intent.as_ref(), self.intent, &machine.group);
            let because = format!("replace: {what} changed; its disk starts empty");
            (state.highest_epoch(machine).next(), ChangeAction::Change, because)
        } else {
            match old_group.and_then(|old| difference::in_place(old, group)) {
                Some(what) => (was.epoch, ChangeAction::Change, format!("in place: {what}; it restarts")),
                None => (was.epoch, ChangeAction::Keep, self.kept(was.host)),
            }
        };
        let away = self.inventory.hosts.get(&was.host).filter(|host| !host.up);
        let because = match away.filter(|_| action == ChangeAction::Change) {
            Some(host) => format!("{because}; happens when {} is back", host.name),
            None => because,
        };
        self.change(machine, action, was.host, because);
        if epoch != was.epoch {
            self.fetch(was.host, &image);
        }
        let kept = was.clone();
        let (image, image_size) = (image.digest, image.size);
        let image_name = group.image.clone();
        self.placements.push(Placement { epoch, image, image_size, image_name, fingerprint, ..kept });
    }

    /// Says why a machine cannot go on where it is.
    fn misfit(
        &self,
        machine: &MachineName,
        group: &Group,
        image: &ImageFacts,
        was: &Placement,
    ) -> Option<String> {
        let host = self.inventory.hosts.get(&was.host)?;
        let name = &host.name;
        if let Some(because) = schedule::unwished(group, host) {
            let advice = format!("allow {name}, or remove the machine first and add it again");
            return Some(format!(
                "{name}: {because}, but {machine} is there and this version moves no machine ({advice})"
            ));
        }
        let replaced = was.image != image.digest;
        if replaced && host.arch != image.arch {
            return Some(format!("{name}: its CPU is {}, the image is for {}", host.arch, image.arch));
        }
        let free = self.given.free_mib(was.host, host);
        let grows = self.old_memory_mib(machine) < group.memory_mib;
        (grows && free < group.memory_mib).then(|| {
            format!("{name}: {free} of {} MiB free, and {machine} cannot move from it", group.memory_mib)
        })
    }

    fn old_memory_mib(&self, machine: &MachineName) -> u64 {
        let groups = self.state.and_then(|state| state.intent.as_ref()).map(|intent| &intent.topology.groups);
        groups.and_then(|groups| groups.get(&machine.group)).map_or(0, |group| group.memory_mib)
    }

    fn kept(&self, host: HostId) -> String {
        match self.inventory.hosts.get(&host) {
            Some(facts) if facts.up => "unchanged".into(),
            Some(facts) => format!("unchanged; {} is down and the machine waits for it", facts.name),
            None => "unchanged; its host is not in the mesh now".into(),
        }
    }

    /// Plans a machine that does not exist: the best host, or all reasons against all hosts.
    fn create(&mut self, machine: &MachineName) {
        let Some(group) = self.intent.topology.groups.get(&machine.group) else { return };
        let image = match self.image(&group.image) {
            Ok(image) => image,
            Err(because) => return self.obstacle(machine, because),
        };
        let wanted = Wanted { group: &machine.group, spec: group, image: &image };
        let (host, mut because) = match self.remains(machine) {
            Some(drop) => match self.back(wanted, drop.host) {
                Ok(because) => (drop.host, because),
                Err(because) => return self.obstacle(machine, because),
            },
            None => match self.scheduled(machine, wanted) {
                Ok(choice) => choice,
                Err(because) => return self.obstacle(machine, because),
            },
        };
        let Some(address) = self.address(machine) else {
            if self.subnet == Prefix::NONE {
                return; // Said once for all machines already.
            }
            return self.obstacle(machine, format!("the session's network {} is full", self.subnet));
        };
        self.given.take(host, &machine.group, group.memory_mib);
        self.addresses.insert(address);
        self.fetch(host, &image);
        let epoch = self.state.map(|state| state.highest_epoch(machine)).unwrap_or_default().next();
        if group.failover == Failover::Restart {
            because.push_str("; waits for this host when it dies (guard hold)");
        }
        self.change(machine, ChangeAction::Create, host, because.clone());
        self.placements.push(Placement {
            machine: machine.clone(),
            host,
            epoch,
            address,
            mac: overlay::mac(self.session, machine),
            image: image.digest,
            image_size: image.size,
            image_name: group.image.clone(),
            guard: Guard::Hold,
            because,
            fingerprint: fingerprint(self.intent, &machine.group, group, image.digest),
        });
    }

    /// Finds an older incarnation that its host has not removed yet.
    fn remains(&self, machine: &MachineName) -> Option<&'a Drop> {
        self.state?.drops.get(machine)?.first()
    }

    /// Places a machine where its older incarnation still is: only there it cannot run twice.
    fn back(&self, wanted: Wanted, host: HostId) -> Result<String, String> {
        let waits = "an older incarnation is not removed there yet";
        let Some(facts) = self.inventory.hosts.get(&host) else {
            return Err(format!("{}: {waits}, and it is not in the mesh now", host.short()));
        };
        match schedule::unfit(wanted, host, facts, &self.given) {
            Some(because) => Err(format!("{}: {waits}, and now: {because}", facts.name)),
            None => Ok(waits.to_owned()),
        }
    }

    fn scheduled(&mut self, machine: &MachineName, wanted: Wanted) -> Result<(HostId, String), String> {
        let choice = schedule::choose(wanted, self.inventory, &self.given);
        let obstacle = choice.host.is_none().then(|| self.no_host(wanted, &choice.rejected));
        let rejections = choice.rejected.into_iter();
        self.proposal.rejected.extend(rejections.map(|(host, because)| Rejection {
            machine: machine.clone(),
            host,
            because,
        }));
        choice.host.ok_or_else(|| obstacle.unwrap_or_default())
    }

    /// Says why no host fits, naming each.
    fn no_host(&self, wanted: Wanted, rejected: &[(HostId, String)]) -> String {
        let hosts = &self.inventory.hosts;
        let unknown = |name: &&Name| !hosts.values().any(|host| host.name == **name);
        let strangers: Vec<&str> = wanted.spec.place.hosts.iter().filter(unknown).map(Name::as_str).collect();
        let mut reasons: Vec<String> = rejected
            .iter()
            .filter_map(|(id, because)| Some(format!("{}: {because}", hosts.get(id)?.name)))
            .collect();
        reasons.sort();
        reasons.extend(strangers.iter().map(|name| format!("{name}: no member has this name")));
        if reasons.is_empty() {
            return "the mesh has no hosts".into();
        }
        format!("no host fits: {}", reasons.join("; "))
    }

    fn image(&self, reference: &ImageRef) -> Result<ImageFacts, String> {
        let images = &self.inventory.images;
        match reference {
            ImageRef::Named(name) => images.get(name).cloned().ok_or_else(|| {
                format!("no member has an image named {name} (agent image import PATH --name {name})")
            }),
            ImageRef::Pinned(digest) => {
                let found = images.values().find(|image| image.digest == *digest);
                found.cloned().ok_or_else(|| format!("no member has an image blake3:{digest}"))
            }
        }
    }

    /// Gives the address that the machine had, or a new one.
    fn address(&self, machine: &MachineName) -> Option<Ipv4Addr> {
        let had = self.state.and_then(|state| state.addresses.get(machine)).copied();
        let ever = self.state.map(|state| state.addresses.values().copied().collect()).unwrap_or_default();
        // Its own address is reserved while an older incarnation is not removed yet.
        let own = had.filter(|had| !self.addresses.contains(had) || self.remains(machine).is_some());
        own.or_else(|| overlay::address(self.subnet, &ever, &self.addresses))
    }

    fn fetch(&mut self, host: HostId, image: &ImageFacts) {
        let here = self.inventory.hosts.get(&host).is_some_and(|host| host.images.contains(&image.digest));
        let listed = self.proposal.fetch.iter().any(|(h, digest, _)| (*h, *digest) == (host, image.digest));
        if !here && !listed {
            self.proposal.fetch.push((host, image.digest, image.size));
        }
    }

    fn removals(&mut self) {
        let old = self.state.and_then(|state| state.plan.as_ref()).map(|plan| plan.placements.as_slice());
        let groups = &self.intent.topology.groups;
        for was in old.unwrap_or_default() {
            let because = match groups.get(&was.machine.group) {
                None => format!("{} is not in the topology any more", was.machine.group),
                Some(group) if group.count < was.machine.index => format!("count is {} now", group.count),
                Some(_) => continue,
            };
            self.change(&was.machine, ChangeAction::Remove, was.host, because);
        }
    }

    fn finish(mut self) -> Proposal {
        let parent = self.state.map(State::generation).unwrap_or_default();
        self.placements.sort_by(|a, b| a.machine.cmp(&b.machine));
        let mut proposal = self.proposal;
        proposal.changes.sort_by(|a, b| a.machine.cmp(&b.machine));
        proposal.rejected.sort_by(|a, b| (&a.machine, a.host).cmp(&(&b.machine, b.host)));
        proposal.obstacles.sort_by(|a, b| a.machine.cmp(&b.machine));
        if proposal.obstacles.is_empty() {
            let (generation, subnet) = (parent.next(), self.subnet);
            proposal.plan = Some(Plan { generation, parent, subnet, placements: self.placements });
        }
        proposal
    }

    fn change(&mut self, machine: &MachineName, action: ChangeAction, host: HostId, because: String) {
        self.proposal.changes.push(Change { machine: machine.clone(), action, host, because });
    }

    fn obstacle(&mut self, machine: &MachineName, because: String) {
        self.proposal.obstacles.push(Obstacle { machine: machine.clone(), because });
    }
}

/// Hashes everything that a machine's disk is made from: a change of it needs a new incarnation.
pub fn fingerprint(intent: &Intent, name: &Name, group: &Group, image: Digest) -> Digest {
    let files: BTreeMap<_, _> =
        group.files.iter().map(|(path, file)| (path, (file, intent.files.get(&file.source)))).collect();
    let parts =
        (image, group.disk_mib, &group.setup, files, &group.env, intent.ssh_keys.get(name), &group.user);
    // Serialising plain values into memory cannot fail; an empty text would only replace machines.
    let bytes = postcard::to_stdvec(&parts).unwrap_or_default();
    Digest(blake3::derive_key("mesh machine fingerprint 1", &bytes))
}

#[cfg(test)]
mod tests;
