//! Which host takes a machine: filter, then rank, then say why. Every host that is not chosen gets a
//! reason that a newcomer understands. Nothing here knows sessions or epochs: that is `plan`.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    id::{HostId, Name},
    limits::DISK_OVERCOMMIT,
    session::{Accelerator, HostFacts, ImageFacts, Inventory},
    size,
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
    pub host: Option<(HostId, String)>,
    /// Everybody else and why not.
    pub rejected: Vec<(HostId, String)>,
}

/// Chooses the host of one machine. The same inputs give the same host everywhere.
pub fn choose(wanted: Wanted, inventory: &Inventory, given: &Given) -> Choice {
    let mut rejected = Vec::new();
    let mut fitting = Vec::new();
    for (id, host) in &inventory.hosts {
        match unfit(wanted, *id, host, given) {
            Some(because) => rejected.push((*id, because)),
            None => fitting.push((rank(wanted, *id, host, given), *id)),
        }
    }
    fitting.sort();
    let Some(((best, id), others)) = fitting.split_first() else {
        return Choice { host: None, rejected };
    };
    let because = match others.first() {
        Some((second, _)) => best.because(second, wanted),
        None => "the only host that fits".to_owned(),
    };
    for (rank, other) in others {
        rejected.push((*other, best.against(rank, wanted)));
    }
    rejected.sort();
    Choice { host: Some((*id, because)), rejected }
}

/// Says why a host cannot take the machine, the user's own wishes first.
pub fn unfit(wanted: Wanted, id: HostId, host: &HostFacts, given: &Given) -> Option<String> {
    let Wanted { spec, image, .. } = wanted;
    if let Some(because) = unwished(spec, host) {
        return Some(because);
    }
    if !host.up {
        return Some("down".into());
    }
    if !host.runs_machines {
        return Some("its owner lets it run no machines".into());
    }
    if host.accelerator.is_none() {
        return Some(format!("no QEMU (apt-get install {})", qemu_package(&host.arch)));
    }
    if host.arch != image.arch {
        return Some(format!("its CPU is {}, the image is for {}", host.arch, image.arch));
    }
    if host.cpus < spec.cpus {
        return Some(format!("{} of {} CPUs", host.cpus, spec.cpus));
    }
    let free = given.free_mib(id, host);
    if free < spec.memory_mib {
        return Some(no_memory(free, spec.memory_mib));
    }
    if let Some(because) = given.no_room(id, host, spec.disk_mib.unwrap_or(0)) {
        return Some(because);
    }
    // Disks are sparse: what must fit at once is the image, where it is not yet.
    let image_mib = image.size.div_ceil(1024 * 1024);
    if !host.images.contains(&image.digest) && host.disk_mib < image_mib {
        let kept = match host.disk_kept_mib {
            0 => String::new(),
            kept => format!(", besides the {kept} MiB that stay free for the host (policy.disk)"),
        };
        return Some(format!("{} of {image_mib} MiB disk free for the image{kept}", host.disk_mib));
    }
    None
}

/// Says which wish of the topology forbids the host.
pub fn unwished(spec: &Group, host: &HostFacts) -> Option<String> {
    if !spec.place.hosts.is_empty() && !spec.place.hosts.contains(&host.name) {
        return Some("not among place.hosts".into());
    }
    spec.place.tags.iter().find_map(|(key, value)| match host.tags.get(key) {
        Some(has) if has == value => None,
        Some(has) => Some(format!("its tag {key} is {has}, not {value}")),
        None => Some(format!("it has no tag {key}={value}")),
    })
}

/// Says that memory is missing.
pub fn no_memory(free_mib: u64, wanted_mib: u64) -> String {
    format!("{free_mib} of {wanted_mib} MiB free (memory = {})", size::text(wanted_mib))
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
    pub fn no_room(&self, id: HostId, host: &HostFacts, more_mib: u64) -> Option<String> {
        let taken = self.disk_mib.get(&id).copied().unwrap_or(0);
        let most = host.disk_mib.saturating_mul(DISK_OVERCOMMIT);
        (more_mib > 0 && taken.saturating_add(more_mib) > most).then(|| {
            let (more, free) = (size::text(more_mib), size::text(host.disk_mib));
            let taken = if taken == 0 { String::new() } else { format!(" beside {} of others", size::text(taken)) };
            format!("a disk of {more}{taken}, with {free} free for machines (at most {DISK_OVERCOMMIT} times that)")
        })
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
    fn because(&self, second: &Rank, wanted: Wanted) -> String {
        let place = &wanted.spec.place;
        if self.crowd != second.crowd {
            "keeps machines apart, as wished".into()
        } else if self.near != second.near {
            format!("near {}", list(&place.near))
        } else if self.translated != second.translated {
            "runs guests at full speed (kvm)".into()
        } else if self.siblings != second.siblings {
            format!("fewest machines of {}", wanted.group)
        } else if self.free_mib != second.free_mib {
            format!("most free memory ({} MiB)", self.free_mib.0)
        } else if self.fetches != second.fetches {
            "has the image already".into()
        } else if self.rtt_ms != second.rtt_ms {
            format!("nearest ({} ms)", self.rtt_ms)
        } else {
            "first by name of equal hosts".into()
        }
    }

    /// Says what put `other` behind this host, the chosen one.
    fn against(&self, other: &Rank, wanted: Wanted) -> String {
        let (best, place) = (&self.name, &wanted.spec.place);
        if self.crowd != other.crowd {
            "has machines that this one is kept apart from".into()
        } else if self.near != other.near {
            format!("not as near to {} as {best}", list(&place.near))
        } else if self.translated != other.translated {
            format!("runs guests slowly (tcg), {best} does not")
        } else if self.siblings != other.siblings {
            format!("has more machines of {} than {best}", wanted.group)
        } else if self.free_mib != other.free_mib {
            format!("less free memory ({} MiB) than {best}", other.free_mib.0)
        } else if self.fetches != other.fetches {
            format!("would have to fetch the image, {best} has it")
        } else if self.rtt_ms != other.rtt_ms {
            format!("farther away than {best}")
        } else {
            format!("as good as {best}, which is first by name")
        }
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    names.into_iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use crate::session::{
        Replace,
        fixture::{SESSION, intent, inventory},
        plan::propose,
    };

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
