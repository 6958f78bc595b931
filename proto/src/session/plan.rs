//! What a topology becomes on these hosts: a plan, or everything that stands in its way. Pure and
//! deterministic, so `session plan` shows exactly what `session up` commits.
//! A machine that exists keeps its host as long as it stays in the topology: every incarnation is
//! guarded by `hold`, nothing is ever started on another host, unless its own is out of the mesh for good. Nothing here
//! commits: that is `state`.

mod notes;

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::{
    id::{HostId, MachineName, SessionId},
    level::{Feature, Level},
    limits::{MAX_REASONS, MIN_REASONS_EACH},
    reasons::{Cause, Chosen, Hindrance, NotChosen, Resized, Stranger, Unchosen},
    session::{
        Change, ChangeAction, Drop, Guard, How, ImageFacts, Inventory, Made, Obstacle, Placement, Plan,
        Prefix, Proposal, Rejection, Replace, State, difference,
        disk::{self, Fate, Stake},
        overlay,
        schedule::{self, Given, Wanted},
        understood::{beyond, understood},
    },
    spelling,
    topology::{Failover, Group, ImageRef, Intent},
};

/// Answers what `up` would do with this intent now, which has no flaws: whoever takes it in asks
/// [`Intent::flaws`]. Of what was started, only the disks that
/// `replace` speaks of may be lost.
pub fn propose(
    session: SessionId,
    state: Option<&State>,
    (intent, replace): (&Intent, &Replace),
    inventory: &Inventory,
) -> Proposal {
    let without = state.and_then(|state| state.without(&inventory.out));
    let state = without.as_ref().map(|(state, _)| state).or(state);
    let old = state.and_then(|state| state.plan.as_ref());
    let level = state.map_or_else(|| inventory.level(), |state| state.level);
    let (mut lacking, wanted) = (beyond(intent, level), understood(intent, level));
    let held = |plan: &Plan| plan.placements.iter().any(|p| inventory.out.contains(&p.host));
    if old.is_some_and(held) && !level.allows(Feature::Out) {
        lacking.push(Feature::Out);
    }
    let intent = &*wanted;
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
        level,
        subnet: old.map_or(chosen.prefix, |plan| plan.subnet),
        given: Given::default(),
        addresses: BTreeSet::new(),
        placements: Vec::new(),
        proposal: Proposal::default(),
        reasons: (0, 0),
    };
    if old.is_none() && chosen.overlaps > 0 {
        planner.proposal.notes.push(format!(
            "the hosts' own networks leave no free network for guests, so {} is shared with {} of theirs: \
             guests do not reach what is there",
            chosen.prefix, chosen.overlaps
        ));
    }
    let (kept, mut new): (Vec<_>, Vec<_>) =
        machines.iter().partition(|machine| state.is_some_and(|state| stays(state, machine)));
    // What exists is counted before what is new is placed; who wishes neighbours comes after them.
    new.sort_by_key(|machine| groups.get(&machine.group).map(|g| g.place.near.len() + g.place.apart.len()));
    planner.reserve_addresses();
    kept.into_iter().for_each(|machine| planner.keep(machine));
    new.into_iter().for_each(|machine| planner.create(machine));
    planner.removals();
    planner.note_strangers();
    planner.proposal.notes.extend(notes::published(intent, inventory));
    planner.proposal.notes.extend(notes::older(&lacking, inventory));
    planner.finish()
}

struct Planner<'a> {
    session: SessionId,
    state: Option<&'a State>,
    intent: &'a Intent,
    replace: &'a Replace,
    inventory: &'a Inventory,
    /// What everybody who reads the session understands.
    level: Level,
    subnet: Prefix,
    given: Given,
    addresses: BTreeSet<Ipv4Addr>,
    placements: Vec<Placement>,
    proposal: Proposal,
    /// Reasons against hosts that are told, and that are not for want of room.
    reasons: (usize, usize),
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
            Err(unknown) => return self.obstacle(machine, unknown),
        };
        let misfit = self.misfit(machine, group, &image, was);
        self.given.take(was.host, &machine.group, group);
        self.given.take_disk(was.host, growth_mib(was, group));
        if let Some(misfit) = misfit {
            return self.obstacle(machine, misfit);
        }
        let made = Made::of(self.intent, &machine.group, group);
        let fate = disk::fate(was, group, &image, &made, self.stake(machine));
        let next = Placement { image: image.digest, image_size: image.size, ..was.clone() };
        let next = Placement { image_name: group.image.clone(), ..next };
        let next = match fate {
            Fate::Goes { losses, started } => {
                if let Some(older) = self.older(was.host) {
                    return self.obstacle(machine, older);
                }
                self.moved_name(was, group);
                self.replaced(was, Cause::Replaced { losses, started, away: self.away(was.host) });
                self.fetch(was.host, &image);
                let epoch = state.highest_epoch(machine).next();
                Placement { epoch, made, disk_mib: group.disk_mib, ..next }
            }
            Fate::Stays { disk_mib, grows, later } => {
                let old = state.intent.as_ref().and_then(|old| old.topology.groups.get(&machine.group));
                let hardware = old.map(|old| difference::in_place(old, group)).unwrap_or_default();
                self.stays(was, hardware.into_iter().chain(grows).collect(), later);
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
    fn replaced(&mut self, was: &Placement, cause: Cause) {
        let change = change(&was.machine, (ChangeAction::Change, Some(How::Replace)), was.host, cause);
        let lost = self.state.is_some_and(|state| state.started(&was.machine));
        if lost && !self.replace.allows(&was.machine) {
            self.proposal.unasked.push(change.clone());
        }
        self.proposal.changes.push(change);
    }

    /// Notes a machine that keeps its disk; `settings` of its hardware change, if any.
    fn stays(&mut self, was: &Placement, settings: Vec<Resized>, later: Vec<String>) {
        let (done, cause) = if settings.is_empty() {
            ((ChangeAction::Keep, None), self.kept(was.host, later))
        } else {
            let away = self.away(was.host);
            ((ChangeAction::Change, Some(How::InPlace)), Cause::InPlace { settings, away, later })
        };
        self.proposal.changes.push(change(&was.machine, done, was.host, cause));
    }

    /// Names a host that has to come back before anything happens there.
    fn away(&self, host: HostId) -> Option<String> {
        self.inventory.hosts.get(&host).filter(|host| !host.up).map(|host| host.name.to_string())
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
    ) -> Option<Hindrance> {
        let host = self.inventory.hosts.get(&was.host)?;
        let named = || (host.name.to_string(), machine.clone());
        let cannot_grow = |unchosen: Unchosen| {
            let (host, machine) = named();
            Hindrance::CannotGrow { host, machine, unchosen: Box::new(unchosen) }
        };
        if let Some(unchosen) = schedule::unwished(group, host) {
            let (host, machine) = named();
            return Some(Hindrance::WrongHost { host, machine, unchosen: Box::new(unchosen) });
        }
        if let Some(unchosen) = schedule::forbidden(group, host) {
            return Some(Hindrance::CannotRun { host: host.name.to_string(), unchosen: Box::new(unchosen) });
        }
        if let Some(small) = small_disk(group, image) {
            return Some(small);
        }
        if let Some(short) = self.given.no_room(was.host, host, growth_mib(was, group)) {
            return Some(cannot_grow(short));
        }
        let replaced = was.image != image.digest;
        if replaced && host.arch != image.arch {
            let unchosen = Box::new(schedule::other_cpu(host, image));
            return Some(Hindrance::CannotRun { host: host.name.to_string(), unchosen });
        }
        let (free_mib, wanted_mib) = (self.given.free_mib(was.host, host), group.memory_mib);
        let grows = self.old_memory_mib(machine) < wanted_mib;
        (grows && free_mib < wanted_mib).then(|| cannot_grow(Unchosen::LittleMemory { free_mib, wanted_mib }))
    }

    /// Says that a host does not understand the session any more, so that no new incarnation comes there.
    fn older(&self, host: HostId) -> Option<Hindrance> {
        let facts = self.inventory.hosts.get(&host)?;
        let unchosen = Box::new(schedule::older(facts, self.level)?);
        Some(Hindrance::CannotRun { host: facts.name.to_string(), unchosen })
    }

    fn old_memory_mib(&self, machine: &MachineName) -> u64 {
        let groups = self.state.and_then(|state| state.intent.as_ref()).map(|intent| &intent.topology.groups);
        groups.and_then(|groups| groups.get(&machine.group)).map_or(0, |group| group.memory_mib)
    }

    fn kept(&self, host: HostId, later: Vec<String>) -> Cause {
        match self.inventory.hosts.get(&host) {
            Some(facts) if facts.up => Cause::Kept { later },
            Some(facts) => Cause::KeptDown { host: facts.name.to_string(), later },
            None => Cause::KeptStranger { later },
        }
    }

    /// Plans a machine that does not exist: the best host, or all reasons against all hosts.
    fn create(&mut self, machine: &MachineName) {
        let Some(group) = self.intent.topology.groups.get(&machine.group) else { return };
        let image = match self.image(&group.image) {
            Ok(image) => image,
            Err(unknown) => return self.obstacle(machine, unknown),
        };
        if let Some(small) = small_disk(group, &image) {
            return self.obstacle(machine, small);
        }
        let wanted = Wanted { group: &machine.group, spec: group, image: &image, level: self.level };
        let (host, chosen) = match self.remains(machine) {
            Some(drop) => match self.back(wanted, drop.host) {
                Ok(chosen) => (drop.host, chosen),
                Err(hindrance) => return self.obstacle(machine, hindrance),
            },
            None => match self.scheduled(machine, wanted) {
                Ok(choice) => choice,
                Err(hindrance) => return self.obstacle(machine, hindrance),
            },
        };
        let Some(address) = self.address(machine) else {
            return self.obstacle(machine, Hindrance::NetworkFull { subnet: self.subnet });
        };
        self.given.take(host, &machine.group, group);
        self.given.take_disk(host, group.disk_mib.unwrap_or(0));
        self.addresses.insert(address);
        self.fetch(host, &image);
        let epoch = self.state.map(|state| state.highest_epoch(machine)).unwrap_or_default().next();
        let waits = group.failover == Failover::Restart;
        let (done, cause) = match self.lost(machine) {
            Some(started) => {
                let cause = Cause::Lost { chosen, waits, started };
                ((ChangeAction::Change, Some(How::Replace)), cause)
            }
            None => ((ChangeAction::Create, None), Cause::Placed { chosen, waits }),
        };
        let because = cause.to_string();
        self.proposal.changes.push(change(machine, done, host, cause));
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

    /// Tells of a machine whose host is out whether it was ever started there.
    fn lost(&self, machine: &MachineName) -> Option<bool> {
        let state = self.state.filter(|state| state.lost(machine))?;
        Some(state.granted.contains_key(machine))
    }

    /// Finds an older incarnation that its host has not removed yet.
    fn remains(&self, machine: &MachineName) -> Option<&'a Drop> {
        self.state?.drops.get(machine)?.first()
    }

    /// Places a machine where its older incarnation still is: only there it cannot run twice.
    fn back(&self, wanted: Wanted, host: HostId) -> Result<Chosen, Hindrance> {
        let Some(facts) = self.inventory.hosts.get(&host) else {
            return Err(Hindrance::OlderAway { host: host.short() });
        };
        match schedule::unfit(wanted, host, facts, &self.given) {
            Some(unchosen) => {
                let (host, unchosen) = (facts.name.to_string(), Box::new(unchosen));
                Err(Hindrance::OlderUnfit { host, unchosen })
            }
            None => Ok(Chosen::OlderThere),
        }
    }

    fn scheduled(&mut self, machine: &MachineName, wanted: Wanted) -> Result<(HostId, Chosen), Hindrance> {
        let choice = schedule::choose(wanted, self.inventory, &self.given);
        let obstacle = choice.host.is_none().then(|| self.no_host(wanted, &choice.rejected));
        let room = self.room(choice.rejected.len(), 0);
        let rejections = choice.rejected.into_iter().take(room);
        self.proposal
            .rejected
            .extend(rejections.map(|(host, unchosen)| Rejection::new(machine.clone(), host, unchosen)));
        choice.host.ok_or_else(|| obstacle.unwrap_or_default())
    }

    /// Gives how many of so many reasons there is room for, at least a few.
    fn room(&mut self, wanted: usize, least: usize) -> usize {
        let (told, left_out) = self.reasons;
        let room = wanted.min(MAX_REASONS.saturating_sub(told).max(least));
        self.reasons = (told + room, left_out + wanted - room);
        room
    }

    /// Says why no host fits, naming each while there is room.
    fn no_host(&mut self, wanted: Wanted, rejected: &[(HostId, Unchosen)]) -> Hindrance {
        let against = |(id, unchosen): &(HostId, Unchosen)| {
            let host = self.inventory.hosts.get(id)?.name.to_string();
            Some(NotChosen { host, unchosen: unchosen.clone() })
        };
        let mut hosts: Vec<NotChosen> = rejected.iter().filter_map(against).collect();
        hosts.sort_by_cached_key(NotChosen::to_string);
        hosts.truncate(self.room(hosts.len(), MIN_REASONS_EACH));
        let strangers = self.strangers(wanted.spec);
        if hosts.is_empty() && strangers.is_empty() {
            return Hindrance::NoHosts;
        }
        Hindrance::NoHostFits { hosts, strangers }
    }

    /// Tells hosts that `place` names and nobody is, each with what may have been meant.
    fn strangers(&self, spec: &Group) -> Vec<Stranger> {
        spec.place.hosts.iter().filter_map(|name| notes::stranger(name, self.inventory)).collect()
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

    fn image(&self, reference: &ImageRef) -> Result<ImageFacts, Hindrance> {
        let images = &self.inventory.images;
        match reference {
            ImageRef::Named(name) => images.get(name).cloned().ok_or_else(|| {
                let nearest = spelling::nearest(name, images.keys().map(String::as_str)).map(str::to_owned);
                Hindrance::UnknownImage { image: name.clone(), nearest }
            }),
            ImageRef::Pinned(digest) => {
                let found = images.values().find(|image| image.digest == *digest);
                found.cloned().ok_or(Hindrance::UnknownContent { digest: *digest })
            }
        }
    }

    /// Gives the address that the machine had, or a new one.
    fn address(&self, machine: &MachineName) -> Option<Ipv4Addr> {
        let had = self.state.and_then(|state| state.addresses.get(machine)).copied();
        let ever = self.state.map(|state| state.addresses.values().copied().collect()).unwrap_or_default();
        // Its own address is reserved while an older incarnation is not removed yet, or was lost with its host.
        let kept = self.remains(machine).is_some() || self.lost(machine).is_some();
        let own = had.filter(|had| !self.addresses.contains(had) || kept);
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
            let cause = match groups.get(&was.machine.group) {
                None => Cause::GroupGone { group: was.machine.group.clone() },
                Some(group) if group.count < was.machine.index => Cause::FewerWanted { count: group.count },
                Some(_) => continue,
            };
            let gone = change(&was.machine, (ChangeAction::Remove, None), was.host, cause);
            self.proposal.changes.push(gone);
        }
    }

    fn finish(mut self) -> Proposal {
        let (parent, level) = (self.state.map(State::generation).unwrap_or_default(), self.level);
        self.placements.sort_by(|a, b| a.machine.cmp(&b.machine));
        if self.reasons.1 > 0 {
            self.proposal.notes.push(format!("{} more reasons against hosts are left out", self.reasons.1));
        }
        let mut proposal = self.proposal;
        proposal.changes.sort_by(|a, b| a.machine.cmp(&b.machine));
        proposal.rejected.sort_by(|a, b| (&a.machine, a.host).cmp(&(&b.machine, b.host)));
        proposal.obstacles.sort_by(|a, b| a.machine.cmp(&b.machine));
        if proposal.obstacles.is_empty() && proposal.unasked.is_empty() {
            let (generation, subnet) = (parent.next(), self.subnet);
            proposal.plan = Some(Plan { generation, parent, subnet, placements: self.placements, level });
        }
        proposal
    }

    fn obstacle(&mut self, machine: &MachineName, why: Hindrance) {
        self.proposal.obstacles.push(Obstacle::new(machine.clone(), why));
    }
}

fn change(
    machine: &MachineName,
    (action, how): (ChangeAction, Option<How>),
    host: HostId,
    why: Cause,
) -> Change {
    Change { machine: machine.clone(), action, how, host, because: why.to_string(), why: Some(why) }
}

/// Tells whether a machine exists where it can stay.
fn stays(state: &State, machine: &MachineName) -> bool {
    state.placement(machine).is_some() && !state.lost(machine)
}

/// Tells how much larger a disk that exists is to be.
fn growth_mib(was: &Placement, group: &Group) -> u64 {
    group.disk_mib.unwrap_or(0).saturating_sub(disk::size_mib(was.disk_mib, was.image_size))
}

/// Says that a disk cannot hold its image.
fn small_disk(group: &Group, image: &ImageFacts) -> Option<Hindrance> {
    let (wanted_mib, least_mib) = (group.disk_mib?, disk::size_mib(None, image.size));
    (wanted_mib < least_mib).then_some(Hindrance::SmallDisk { wanted_mib, least_mib })
}

#[cfg(test)]
mod tests;
