//! Why a host takes a machine, and why another one does not. What is rendered is what the planner found; the
//! host's name stands before it where people read it.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{OTHER, list};
use crate::{id::Name, level::Level, limits::DISK_OVERCOMMIT, size};

/// Why a host was not chosen for a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Unchosen {
    /// `place.hosts` names others.
    #[n(1)]
    NotNamed,
    /// `place.tags` wants another value.
    #[n(2)]
    OtherTag {
        /// The tag.
        #[n(0)]
        key: String,
        /// What it is.
        #[n(1)]
        has: String,
        /// What it is to be.
        #[n(2)]
        wanted: String,
    },
    /// `place.tags` wants a tag that it lacks.
    #[n(3)]
    NoTag {
        /// The tag.
        #[n(0)]
        key: String,
        /// What it is to be.
        #[n(1)]
        wanted: String,
    },
    /// It is not heard.
    #[n(4)]
    Down,
    /// Its owner gives it to no machines.
    #[n(5)]
    OwnerForbids,
    /// It has no usable QEMU.
    #[n(6)]
    NoQemu {
        /// The package that brings it.
        #[n(0)]
        package: String,
    },
    /// The image is for other CPUs.
    #[n(7)]
    OtherCpu {
        /// What the host has.
        #[n(0)]
        has: String,
        /// What the image is for.
        #[n(1)]
        wanted: String,
    },
    /// It has too few CPUs.
    #[n(8)]
    FewCpus {
        /// What it gives.
        #[n(0)]
        has: u32,
        /// What the machine wants.
        #[n(1)]
        wanted: u32,
    },
    /// Too little of its memory is free.
    #[n(9)]
    LittleMemory {
        /// What is free.
        #[n(0)]
        free_mib: u64,
        /// What the machine wants.
        #[n(1)]
        wanted_mib: u64,
    },
    /// Its disk cannot give so much more.
    #[n(10)]
    LittleDisk {
        /// What the disk would grow by.
        #[n(0)]
        more_mib: u64,
        /// What disks of this plan take there already.
        #[n(1)]
        taken_mib: u64,
        /// What is free for machines.
        #[n(2)]
        free_mib: u64,
    },
    /// The image does not fit on its disk.
    #[n(11)]
    NoRoomForImage {
        /// What is free for machines.
        #[n(0)]
        free_mib: u64,
        /// The image's size.
        #[n(1)]
        wanted_mib: u64,
        /// What stays free for the host besides.
        #[n(2)]
        kept_mib: u64,
    },
    /// It has machines that this one is kept apart from, the chosen one has fewer.
    #[n(12)]
    Crowded,
    /// It has fewer of the machines that this one wishes to be near.
    #[n(13)]
    LessNear {
        /// The groups.
        #[n(0)]
        near: Vec<Name>,
        /// The host that was chosen.
        #[n(1)]
        best: Name,
    },
    /// It translates guests, the chosen one does not.
    #[n(14)]
    Slow {
        /// The host that was chosen.
        #[n(0)]
        best: Name,
    },
    /// It has more machines of the same group.
    #[n(15)]
    MoreSiblings {
        /// The group.
        #[n(0)]
        group: Name,
        /// The host that was chosen.
        #[n(1)]
        best: Name,
    },
    /// Less of its memory is free.
    #[n(16)]
    LessMemory {
        /// What is free.
        #[n(0)]
        free_mib: u64,
        /// The host that was chosen.
        #[n(1)]
        best: Name,
    },
    /// It would have to fetch the image.
    #[n(17)]
    NoImage {
        /// The host that was chosen.
        #[n(0)]
        best: Name,
    },
    /// It is farther away.
    #[n(18)]
    Farther {
        /// The host that was chosen.
        #[n(0)]
        best: Name,
    },
    /// It is as good, and its name comes later.
    #[n(19)]
    LaterByName {
        /// The host that was chosen.
        #[n(0)]
        best: Name,
    },
    /// Its agent does not understand the session.
    #[n(20)]
    OlderVersion {
        /// The level of its agent.
        #[n(0)]
        has: Level,
        /// The session's.
        #[n(1)]
        wanted: Level,
    },
    /// Its owner lets no machine into its own network, as this one is to go (`egress = "lan"`).
    #[n(21)]
    LanForbidden,
    /// Its certificate does not let it run machines.
    #[n(22)]
    MayNotRun,
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Unchosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unchosen::Other => f.write_str(OTHER),
            Unchosen::NotNamed => f.write_str("not among place.hosts"),
            Unchosen::OtherTag { key, has, wanted } => write!(f, "its tag {key} is {has}, not {wanted}"),
            Unchosen::NoTag { key, wanted } => write!(f, "it has no tag {key}={wanted}"),
            Unchosen::Down => f.write_str("down"),
            Unchosen::OlderVersion { has, wanted } => {
                write!(f, "runs an older version (level {has}, the session is of level {wanted})")
            }
            Unchosen::LanForbidden => f.write_str("its owner lets no machine into its network (policy.lan)"),
            Unchosen::MayNotRun => {
                f.write_str("it is not allowed to run machines: its certificate limits it")
            }
            Unchosen::OwnerForbids => f.write_str("its owner lets it run no machines"),
            Unchosen::NoQemu { package } => write!(f, "no QEMU (apt-get install {package})"),
            Unchosen::OtherCpu { has, wanted } => write!(f, "its CPU is {has}, the image is for {wanted}"),
            Unchosen::FewCpus { has, wanted } => write!(f, "{has} of {wanted} CPUs"),
            Unchosen::LittleMemory { free_mib, wanted_mib } => {
                write!(f, "{free_mib} of {wanted_mib} MiB free (memory = {})", size::text(*wanted_mib))
            }
            Unchosen::LittleDisk { more_mib, taken_mib, free_mib } => {
                write!(f, "a disk of {}", size::text(*more_mib))?;
                if *taken_mib != 0 {
                    write!(f, " beside {} of others", size::text(*taken_mib))?;
                }
                let free = size::text(*free_mib);
                write!(f, ", with {free} free for machines (at most {DISK_OVERCOMMIT} times that)")
            }
            Unchosen::NoRoomForImage { free_mib, wanted_mib, kept_mib } => {
                write!(f, "{free_mib} of {wanted_mib} MiB disk free for the image")?;
                match kept_mib {
                    0 => Ok(()),
                    kept => {
                        write!(f, ", besides the {kept} MiB that stay free for the host (policy.disk)")
                    }
                }
            }
            Unchosen::Crowded => f.write_str("has machines that this one is kept apart from"),
            Unchosen::LessNear { near, best } => write!(f, "not as near to {} as {best}", list(near)),
            Unchosen::Slow { best } => write!(f, "runs guests slowly (tcg), {best} does not"),
            Unchosen::MoreSiblings { group, best } => write!(f, "has more machines of {group} than {best}"),
            Unchosen::LessMemory { free_mib, best } => {
                write!(f, "less free memory ({free_mib} MiB) than {best}")
            }
            Unchosen::NoImage { best } => write!(f, "would have to fetch the image, {best} has it"),
            Unchosen::Farther { best } => write!(f, "farther away than {best}"),
            Unchosen::LaterByName { best } => write!(f, "as good as {best}, which is first by name"),
        }
    }
}

/// Why a host was chosen for a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Chosen {
    /// No other one fits.
    #[n(1)]
    OnlyOne,
    /// Machines that the topology wants apart stay apart.
    #[n(2)]
    Apart,
    /// It has more of the machines that this one wishes to be near.
    #[n(3)]
    Near {
        /// The groups.
        #[n(0)]
        near: Vec<Name>,
    },
    /// It does not translate guests.
    #[n(4)]
    FullSpeed,
    /// It has fewest machines of the same group.
    #[n(5)]
    FewestSiblings {
        /// The group.
        #[n(0)]
        group: Name,
    },
    /// Most of its memory is free.
    #[n(6)]
    MostMemory {
        /// What is free.
        #[n(0)]
        free_mib: u64,
    },
    /// The image is there.
    #[n(7)]
    HasImage,
    /// It is nearest.
    #[n(8)]
    Nearest {
        /// Round trip from the planner.
        #[n(0)]
        rtt_ms: u32,
    },
    /// Others are as good.
    #[n(9)]
    FirstByName,
    /// Only there it cannot run twice: an older incarnation of it is there.
    #[n(10)]
    OlderThere,
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chosen::Other => f.write_str(OTHER),
            Chosen::OnlyOne => f.write_str("the only host that fits"),
            Chosen::Apart => f.write_str("keeps machines apart, as wished"),
            Chosen::Near { near } => write!(f, "near {}", list(near)),
            Chosen::FullSpeed => f.write_str("runs guests at full speed (kvm)"),
            Chosen::FewestSiblings { group } => write!(f, "fewest machines of {group}"),
            Chosen::MostMemory { free_mib } => write!(f, "most free memory ({free_mib} MiB)"),
            Chosen::HasImage => f.write_str("has the image already"),
            Chosen::Nearest { rtt_ms } => write!(f, "nearest ({rtt_ms} ms)"),
            Chosen::FirstByName => f.write_str("first by name of equal hosts"),
            Chosen::OlderThere => f.write_str(super::plan::OLDER_THERE),
        }
    }
}
