//! Which host takes a machine: filter, then rank, then say why. Every host that is not chosen gets a
//! reason. Nothing here knows sessions or epochs: that is `plan`.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    id::{HostId, Name},
    level::Level,
    limits::DISK_OVERCOMMIT,
    reasons::{Chosen, Unchosen},
    session::{Accelerator, HostFacts, ImageFacts, Inventory},
    topology::Group,
};

/// What is asked for: one machine of a group, with its image.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The group's label.
    pub group: &'a Name,
    /// What the topology says about it.
    pub spec: &'a Group,
    /// The image it boots.
    pub image: &'a ImageFacts,
    /// The session's level.
    pub level: Level,
}

/// What the machines of this plan take from each host so far.
#[derive(Clone, Debug, Default)]
pub struct Given {
    memory_mib: BTreeMap<HostId, u64>,
    disk_mib: BTreeMap<HostId, u64>,
    groups: BTreeMap<(HostId, Name), u32>,
}

/// What came of choosing.
pub struct Choice {
    /// The host and why it, or `None` when none fits.
    pub host: Option<(HostId, Chosen)>,
    /// Everybody else and why not.
    pub rejected: Vec<(HostId, Unchosen)>,
}

/// Chooses the host of one machine. The same inputs give the same host everywhere.
pub fn choose(wanted: Wanted, inventory: &Inventory, given: &Given) -> Choice {
    let mut rejected = Vec::new();
    let mut fitting = Vec::new();
    for (id, host) in &inventory.hosts {
        match unfit(wanted, *id, host, given) {
            Some(unchosen) => rejected.push((*id, unchosen)),
            None => fitting.push((rank(wanted, *id, host, given), *id)),
        }
    }
    fitting.sort();
    let Some(((best, id), others)) = fitting.split_first() else {
        return Choice { host: None, rejected };
    };
    let chosen = match others.first() {
        Some((second, _)) => best.before(second, wanted),
        None => Chosen::OnlyOne,
    };
    for (rank, other) in others {
        rejected.push((*other, best.against(rank, wanted)));
    }
    rejected.sort();
    Choice { host: Some((*id, chosen)), rejected }
}

/// Says why a host cannot take the machine, the user's own wishes first.
pub fn unfit(wanted: Wanted, id: HostId, host: &HostFacts, given: &Given) -> Option<Unchosen> {
    let Wanted { spec, image, level, .. } = wanted;
    if let Some(unwished) = unwished(spec, host) {
        return Some(unwished);
    }
    if !host.up {
        return Some(Unchosen::Down);
    }
    if let Some(older) = older(host, level) {
        return Some(older);
    }
    if host.barred {
        return Some(Unchosen::MayNotRun);
    }
    if !host.runs_machines {
        return Some(Unchosen::OwnerForbids);
    }
    if let Some(forbidden) = forbidden(spec, host) {
        return Some(forbidden);
    }
    if host.accelerator.is_none() {
        return Some(Unchosen::NoQemu { package: qemu_package(&host.arch).to_owned() });
    }
    if host.arch != image.arch {
        return Some(other_cpu(host, image));
    }
    if host.cpus < spec.cpus {
        return Some(Unchosen::FewCpus { has: host.cpus, wanted: spec.cpus });
    }
    let free = given.free_mib(id, host);
    if free < spec.memory_mib {
        return Some(Unchosen::LittleMemory { free_mib: free, wanted_mib: spec.memory_mib });
    }
    if let Some(short) = given.no_room(id, host, spec.disk_mib.unwrap_or(0)) {
        return Some(short);
    }
    // Disks are sparse: what must fit at once is the image, where it is not yet.
    let wanted_mib = image.size.div_ceil(1024 * 1024);
    let lacks = !host.images.contains(&image.digest) && host.disk_mib < wanted_mib;
    let (free_mib, kept_mib) = (host.disk_mib, host.disk_kept_mib);
    lacks.then_some(Unchosen::NoRoomForImage { free_mib, wanted_mib, kept_mib })
}

/// Says which wish of the topology forbids the host.
pub fn unwished(spec: &Group, host: &HostFacts) -> Option<Unchosen> {
    if !spec.place.hosts.is_empty() && !spec.place.hosts.contains(&host.name) {
        return Some(Unchosen::NotNamed);
    }
    spec.place.tags.iter().find_map(|(key, value)| {
        let (key, wanted) = (key.clone(), value.clone());
        match host.tags.get(&key) {
            Some(has) if *has == wanted => None,
            Some(has) => Some(Unchosen::OtherTag { key, has: has.clone(), wanted }),
            None => Some(Unchosen::NoTag { key, wanted }),
        }
    })
}

/// Says which way out of its session a host's owner forbids a machine.
pub fn forbidden(spec: &Group, host: &HostFacts) -> Option<Unchosen> {
    spec.egress.is_forbidden(host.lan).then_some(Unchosen::LanForbidden)
}

/// Says that a host's agent does not understand the session.
pub fn older(host: &HostFacts, level: Level) -> Option<Unchosen> {
    (host.level < level).then_some(Unchosen::OlderVersion { has: host.level, wanted: level })
}

/// Says that an image is for other CPUs.
pub fn other_cpu(host: &HostFacts, image: &ImageFacts) -> Unchosen {
    Unchosen::OtherCpu { has: host.arch.clone(), wanted: image.arch.clone() }
}

/// Names the package that brings QEMU on Debian and its kin.
fn qemu_package(arch: &str) -> &'static str {
    match arch {
        "aarch64" | "arm" => "qemu-system-arm",
        _ => "qemu-system-x86",
    }
}

impl Given {
    /// Notes that a host takes a machine.
    pub fn take(&mut self, host: HostId, group: &Name, spec: &Group) {
        let memory = self.memory_mib.entry(host).or_default();
        *memory = memory.saturating_add(spec.memory_mib);
        *self.groups.entry((host, group.clone())).or_default() += 1;
    }

    /// Gives what is left of a host's memory.
    pub fn free_mib(&self, id: HostId, host: &HostFacts) -> u64 {
        let taken = self.memory_mib.get(&id).copied().unwrap_or(0);
        host.memory_mib.saturating_sub(host.memory_used_mib).saturating_sub(taken)
    }

    /// Notes that a host takes so much disk more.
    pub fn take_disk(&mut self, host: HostId, disk_mib: u64) {
        let disk = self.disk_mib.entry(host).or_default();
        *disk = disk.saturating_add(disk_mib);
    }

    /// Says why a host cannot give so much disk more. Only wished sizes count: a disk that is no larger
    /// than its image needs what its guest writes.
    pub fn no_room(&self, id: HostId, host: &HostFacts, more_mib: u64) -> Option<Unchosen> {
        let taken_mib = self.disk_mib.get(&id).copied().unwrap_or(0);
        let most = host.disk_mib.saturating_mul(DISK_OVERCOMMIT);
        let short = more_mib > 0 && taken_mib.saturating_add(more_mib) > most;
        short.then_some(Unchosen::LittleDisk { more_mib, taken_mib, free_mib: host.disk_mib })
    }

    fn of_group(&self, host: HostId, group: &Name) -> u32 {
        self.groups.get(&(host, group.clone())).copied().unwrap_or(0)
    }
}

/// How good a host is, best first by the derived order: wishes, then speed, then room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Machines that the topology wants elsewhere.
    crowd: u32,
    /// Machines that the topology wants beside this one.
    near: Reverse<u32>,
    translated: bool,
    /// Two machines of one group on one host help nobody when it dies, wished or not.
    siblings: u32,
    free_mib: Reverse<u64>,
    fetches: bool,
    rtt_ms: u32,
    name: Name,
}

fn rank(wanted: Wanted, id: HostId, host: &HostFacts, given: &Given) -> Rank {
    let place = &wanted.spec.place;
    let count = |groups: &std::collections::BTreeSet<Name>| -> u32 {
        groups.iter().map(|group| given.of_group(id, group)).sum()
    };
    let siblings = given.of_group(id, wanted.group);
    Rank {
        crowd: count(&place.apart) + if place.spread_host { siblings } else { 0 },
        near: Reverse(count(&place.near)),
        translated: host.accelerator != Some(Accelerator::Kvm),
        siblings,
        free_mib: Reverse(given.free_mib(id, host)),
        fetches: !host.images.contains(&wanted.image.digest),
        rtt_ms: host.rtt_ms.unwrap_or(u32::MAX),
        name: host.name.clone(),
    }
}

impl Rank {
    /// Says what put this host before `second`.
    fn before(&self, second: &Rank, wanted: Wanted) -> Chosen {
        if self.crowd != second.crowd {
            Chosen::Apart
        } else if self.near != second.near {
            Chosen::Near { near: near(wanted) }
        } else if self.translated != second.translated {
            Chosen::FullSpeed
        } else if self.siblings != second.siblings {
            Chosen::FewestSiblings { group: wanted.group.clone() }
        } else if self.free_mib != second.free_mib {
            Chosen::MostMemory { free_mib: self.free_mib.0 }
        } else if self.fetches != second.fetches {
            Chosen::HasImage
        } else if self.rtt_ms != second.rtt_ms {
            Chosen::Nearest { rtt_ms: self.rtt_ms }
        } else {
            Chosen::FirstByName
        }
    }

    /// Says what put `other` behind this host, the chosen one.
    fn against(&self, other: &Rank, wanted: Wanted) -> Unchosen {
        let best = self.name.clone();
        if self.crowd != other.crowd {
            Unchosen::Crowded
        } else if self.near != other.near {
            Unchosen::LessNear { near: near(wanted), best }
        } else if self.translated != other.translated {
            Unchosen::Slow { best }
        } else if self.siblings != other.siblings {
            Unchosen::MoreSiblings { group: wanted.group.clone(), best }
        } else if self.free_mib != other.free_mib {
            Unchosen::LessMemory { free_mib: other.free_mib.0, best }
        } else if self.fetches != other.fetches {
            Unchosen::NoImage { best }
        } else if self.rtt_ms != other.rtt_ms {
            Unchosen::Farther { best }
        } else {
            Unchosen::LaterByName { best }
        }
    }
}

fn near(wanted: Wanted) -> Vec<Name> {
    wanted.spec.place.near.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use crate::session::{
        Replace,
        fixture::{SESSION, host_id, intent, inventory},
        plan::propose,
    };

    #[test]
    fn a_host_that_is_not_allowed_to_run_machines_gets_none_and_the_reason_is_told() {
        let proposal = propose(
            SESSION,
            None,
            (&intent("web 1 256"), &Replace::default()),
            &inventory("attic 900 image\nnas 4096 image barred"),
        );
        let plan = proposal.plan.expect("attic can");
        assert_eq!(plan.placements[0].host, host_id("attic"));
        let because = "it is not allowed to run machines: its certificate limits it";
        assert_eq!((proposal.rejected[0].host, &*proposal.rejected[0].because), (host_id("nas"), because));
        let none = propose(
            SESSION,
            None,
            (&intent("web 1 256"), &Replace::default()),
            &inventory("nas 4096 image barred"),
        );
        assert!(none.plan.is_none() && none.obstacles.len() == 1, "{none:?}");
    }

    #[test]
    fn a_host_without_room_for_an_image_names_what_it_keeps_for_itself() {
        let told = |host: &str| {
            let proposal =
                propose(SESSION, None, (&intent("web 1 256"), &Replace::default()), &inventory(host));
            assert!(proposal.plan.is_none(), "{proposal:?}");
            proposal.rejected[0].because.clone()
        };
        assert_eq!(told("nas 4096 disk=10"), "10 of 64 MiB disk free for the image");
        assert_eq!(
            told("nas 4096 disk=0 kept=2048"),
            "0 of 64 MiB disk free for the image, besides the 2048 MiB that stay free for the host (policy.disk)"
        );
    }
}
