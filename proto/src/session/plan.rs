//! What a topology becomes on these hosts: a plan, or everything that stands in its way. Pure and
//! deterministic, so `session plan` shows exactly what `session up` commits.
//! A machine that exists keeps its host as long as it stays in the topology: every incarnation is
//! guarded by `hold`, nothing is ever started on another host. Nothing here commits: that is `state`.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::{
    id::{HostId, MachineName, Name, SessionId},
    session::{
        Change, ChangeAction, Drop, Guard, How, ImageFacts, Inventory, Made, Obstacle, Placement, Plan,
        Prefix, Proposal, Rejection, Replace, State, difference,
        disk::{self, Fate, Stake},
        overlay,
        schedule::{self, Given, Wanted},
    },
    size, spelling,
    topology::{Failover, Group, ImageRef, Intent},
};

/// What is said of a change that reaches no machine that exists.
const LATER: &str = "applies to new machines";

/// Answers what `up` would do with this intent now, which has no flaws: whoever takes it in asks
/// [`Intent::flaws`]. Of what was started, only the disks that
/// `replace` speaks of may be lost.
pub fn propose(
    session: SessionId,
    state: Option<&State>,
    (intent, replace): (&Intent, &Replace),
    inventory: &Inventory,
) -> Proposal {
    let old = state.and_then(|state| state.plan.as_ref());
    let groups = &intent.topology.groups;
    let machines: Vec<MachineName> = intent.topology.machines().collect();
    let avoid: Vec<Prefix> = inventory.hosts.values().flat_map(|host| host.prefixes.clone()).collect();
    let chosen = overlay::subnet(session, machines.len(), &avoid);
    let mut planner = Planner {
        session,
        state,
        intent,
        replace,
        inventory,
        subnet: old.map_or(chosen.prefix, |plan| plan.subnet),
        given: Given::default(),
        addresses: BTreeSet::new(),
        placements: Vec::new(),
        proposal: Proposal::default(),
    };
    if old.is_none() && chosen.overlaps > 0 {
        planner.proposal.notes.push(format!(
            "the hosts' own networks leave no free network for guests, so {} is shared with {} of theirs: \
             guests do not reach what is there",
            chosen.prefix, chosen.overlaps
        ));
    }
    let (kept, mut new): (Vec<_>, Vec<_>) =
        machines.iter().partition(|machine| state.is_some_and(|state| state.placement(machine).is_some()));
    // What exists is counted before what is new is placed; who wishes neighbours comes after them.
    new.sort_by_key(|machine| groups.get(&machine.group).map(|g| g.place.near.len() + g.place.apart.len()));
    planner.reserve_addresses();
    kept.into_iter().for_each(|machine| planner.keep(machine));
    new.into_iter().for_each(|machine| planner.create(machine));
    planner.removals();
    planner.note_strangers();
    planner.finish()
}

struct Planner<'a> {
    session: SessionId,
    state: Option<&'a State>,
    intent: &'a Intent,
    replace: &'a Replace,
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

    /// Plans a machine that exists: same host, and a new incarnation only if its disk cannot stay.
    fn keep(&mut self, machine: &MachineName) {
        let Some((state, was)) = self.state.and_then(|state| Some((state, state.placement(machine)?))) else {
            return;
        };
        let Some(group) = self.intent.topology.groups.get(&machine.group) else { return };
        let image = match self.image(&group.image) {
            Ok(image) => image,
            // Its name is unknown just now, perhaps because the holders are away: what was planned
            // from the same name stands.
            Err(_) if was.image_name == group.image || group.image == ImageRef::Pinned(was.image) => {
                ImageFacts { digest: was.image, size: was.image_size, arch: String::new() }
            }
            Err(because) => return self.obstacle(machine, because),
        };
        let misfit = self.misfit(machine, group, &image, was);
        self.given.take(was.host, &machine.group, group);
        self.given.take_disk(was.host, growth_mib(was, group));
        if let Some(because) = misfit {
            return self.obstacle(machine, because);
        }
        let made = Made::of(self.intent, &machine.group, group);
        let fate = disk::fate(was, group, &image, &made, self.stake(machine));
        let next = Placement { image: image.digest, image_size: image.size, ..was.clone() };
        let next = Placement { image_name: group.image.clone(), ..next };
        let next = match fate {
            Fate::Goes(because) => {
                self.moved_name(was, group);
                self.replaced(was, format!("replace: {because}"));
                self.fetch(was.host, &image);
                let epoch = state.highest_epoch(machine).next();
                Placement { epoch, made, disk_mib: group.disk_mib, ..next }
            }
            Fate::Stays { disk_mib, grows, later } => {
                let old = state.intent.as_ref().and_then(|old| old.topology.groups.get(&machine.group));
                let hardware = old.and_then(|old| difference::in_place(old, group));
                let what: Vec<String> = hardware.into_iter().chain(grows).collect();
                self.stays(was, &what.join(", "), &later);
                Placement { disk_mib, ..next }
            }
        };
        self.placements.push(next);
    }

    /// Tells how much there is to lose of a machine that exists, and what was said about it.
    fn stake(&self, machine: &MachineName) -> Stake {
        match self.state.is_some_and(|state| state.started(machine)) {
            false => Stake::Nothing,
            true if self.replace.machines.contains(machine) => Stake::Named,
            true => Stake::Disk,
        }
    }

    /// Notes a machine that gets an empty disk.
    fn replaced(&mut self, was: &Placement, because: String) {
        let (machine, host) = (was.machine.clone(), was.host);
        let because = self.when(host, because);
        let change = Change { machine, action: ChangeAction::Change, how: Some(How::Replace), host, because };
        let lost = self.state.is_some_and(|state| state.started(&was.machine));
        if lost && !self.replace.allows(&was.machine) {
            self.proposal.unasked.push(change.clone());
        }
        self.proposal.changes.push(change);
    }

    /// Notes a machine that keeps its disk; `what` changes of its hardware, if not empty.
    fn stays(&mut self, was: &Placement, what: &str, later: &[&str]) {
        let (machine, host) = (was.machine.clone(), was.host);
        let (action, how, mut because) = if what.is_empty() {
            (ChangeAction::Keep, None, self.kept(host))
        } else {
            let because = self.when(host, format!("in place: {what}; it restarts"));
            (ChangeAction::Change, Some(How::InPlace), because)
        };
        if !later.is_empty() {
            because = format!("{because}; {} changed since it was made: {LATER}", later.join(", "));
        }
        self.proposal.changes.push(Change { machine, action, how, host, because });
    }

    /// Adds to a change when it happens, if not at once.
    fn when(&self, host: HostId, because: String) -> String {
        match self.inventory.hosts.get(&host).filter(|host| !host.up) {
            Some(host) => format!("{because}; happens when {} is back", host.name),
            None => because,
        }
    }

    /// Says once how a disk stays whose image's name was given to other content.
    fn moved_name(&mut self, was: &Placement, group: &Group) {
        let ImageRef::Named(name) = &group.image else { return };
        if was.image_name != group.image || !self.state.is_some_and(|state| state.started(&was.machine)) {
            return;
        }
        let note = format!(
            "{name} was given to other content; image = \"blake3:{}\" keeps what is there",
            was.image
        );
        if !self.proposal.notes.contains(&note) {
            self.proposal.notes.push(note);
        }
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
        if let Some(because) = small_disk(group, image) {
            return Some(because);
        }
        if let Some(because) = self.given.no_room(was.host, host, growth_mib(was, group)) {
            return Some(format!("{name}: {because}, and {machine} cannot move from it"));
        }
        let replaced = was.image != image.digest;
        if replaced && host.arch != image.arch {
            return Some(format!("{name}: its CPU is {}, the image is for {}", host.arch, image.arch));
        }
        let free = self.given.free_mib(was.host, host);
        let grows = self.old_memory_mib(machine) < group.memory_mib;
        (grows && free < group.memory_mib).then(|| {
            let short = schedule::no_memory(free, group.memory_mib);
            format!("{name}: {short}, and {machine} cannot move from it")
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
        if let Some(because) = small_disk(group, &image) {
            return self.obstacle(machine, because);
        }
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
            return self.obstacle(machine, format!("the session's network {} is full", self.subnet));
        };
        self.given.take(host, &machine.group, group);
        self.given.take_disk(host, group.disk_mib.unwrap_or(0));
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
            disk_mib: group.disk_mib,
            made: Made::of(self.intent, &machine.group, group),
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
        let mut reasons: Vec<String> = rejected
            .iter()
            .filter_map(|(id, because)| Some(format!("{}: {because}", hosts.get(id)?.name)))
            .collect();
        reasons.sort();
        reasons.extend(self.strangers(wanted.spec));
        if reasons.is_empty() {
            return "the mesh has no hosts".into();
        }
        format!("no host fits: {}", reasons.join("; "))
    }

    /// Tells hosts that `place` names and nobody is, each with what may have been meant.
    fn strangers(&self, spec: &Group) -> Vec<String> {
        let names = || self.inventory.hosts.values().map(|host| host.name.as_str());
        let unknown = spec.place.hosts.iter().filter(|name| !names().any(|known| known == name.as_str()));
        let tell = |name: &Name| {
            let known = spelling::list(names());
            let nearest = spelling::nearest(name.as_str(), names());
            let meant = nearest.map(|nearest| format!("did you mean {nearest}? ")).unwrap_or_default();
            format!("{name}: no member has this name ({meant}hosts: {known})")
        };
        unknown.map(tell).collect()
    }

    /// Notes names of `place` that nobody has, also where another host was found.
    fn note_strangers(&mut self) {
        for (name, group) in &self.intent.topology.groups {
            let strangers = self.strangers(group).into_iter();
            let notes: Vec<String> =
                strangers.map(|told| format!("machines.{name}.place.hosts: {told}")).collect();
            self.proposal.notes.extend(notes);
        }
    }

    fn image(&self, reference: &ImageRef) -> Result<ImageFacts, String> {
        let images = &self.inventory.images;
        match reference {
            ImageRef::Named(name) => images.get(name).cloned().ok_or_else(|| {
                let nearest = spelling::nearest(name, images.keys().map(String::as_str));
                let meant = nearest.map(|nearest| format!("did you mean {nearest}? ")).unwrap_or_default();
                format!("no member has an image named {name} ({meant}agent image import PATH --name {name})")
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
            let because = format!("{because}; its disk goes with it");
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
        if proposal.obstacles.is_empty() && proposal.unasked.is_empty() {
            let (generation, subnet) = (parent.next(), self.subnet);
            proposal.plan = Some(Plan { generation, parent, subnet, placements: self.placements });
        }
        proposal
    }

    fn change(&mut self, machine: &MachineName, action: ChangeAction, host: HostId, because: String) {
        let machine = machine.clone();
        self.proposal.changes.push(Change { machine, action, how: None, host, because });
    }

    fn obstacle(&mut self, machine: &MachineName, because: String) {
        self.proposal.obstacles.push(Obstacle { machine: machine.clone(), because });
    }
}

/// Tells how much larger a disk that exists is to be.
fn growth_mib(was: &Placement, group: &Group) -> u64 {
    group.disk_mib.unwrap_or(0).saturating_sub(disk::size_mib(was.disk_mib, was.image_size))
}

/// Says that a disk cannot hold its image.
fn small_disk(group: &Group, image: &ImageFacts) -> Option<String> {
    let (wanted, least) = (group.disk_mib?, disk::size_mib(None, image.size));
    (wanted < least).then(|| {
        format!("disk = {} is smaller than its image, which has {}", size::text(wanted), size::text(least))
    })
}

#[cfg(test)]
mod tests;
