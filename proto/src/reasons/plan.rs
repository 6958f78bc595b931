//! Why a plan does to a machine what it does, and why there is none.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Chosen, OTHER, Resized, Unchosen, list};
use crate::{
    id::{Digest, MachineName, Name},
    session::Prefix,
    size,
};

/// What binds a machine to a host that has an older incarnation of it.
pub(super) const OLDER_THERE: &str = "an older incarnation is not removed there yet";

/// Why a plan does to a machine what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Cause {
    /// It is new, and placed.
    #[n(1)]
    Placed {
        /// Why there.
        #[n(0)]
        chosen: Chosen,
        /// Whether it could run elsewhere when its host dies, and does not in this version.
        #[n(1)]
        waits: bool,
    },
    /// Nothing of it changes.
    #[n(2)]
    Kept {
        /// Keys that changed since its disk was made: they reach new machines only.
        #[n(0)]
        later: Vec<String>,
    },
    /// Nothing of it changes; its host is not heard.
    #[n(3)]
    KeptDown {
        /// Its host.
        #[n(0)]
        host: String,
        /// As of `Kept`.
        #[n(1)]
        later: Vec<String>,
    },
    /// Nothing of it changes; its host is no member now.
    #[n(4)]
    KeptStranger {
        /// As of `Kept`.
        #[n(0)]
        later: Vec<String>,
    },
    /// It restarts on its disk with other hardware.
    #[n(5)]
    InPlace {
        /// What changes.
        #[n(0)]
        settings: Vec<Resized>,
        /// Its host, if that is not heard: it happens when it is back.
        #[n(1)]
        away: Option<String>,
        /// As of `Kept`.
        #[n(2)]
        later: Vec<String>,
    },
    /// An empty disk takes the place of its own.
    #[n(6)]
    Replaced {
        /// Why its own cannot stay.
        #[n(0)]
        losses: Vec<Loss>,
        /// Whether it was started, so that there is a disk to lose.
        #[n(1)]
        started: bool,
        /// As of `InPlace`.
        #[n(2)]
        away: Option<String>,
    },
    /// Its group is gone from the file.
    #[n(7)]
    GroupGone {
        /// The group.
        #[n(0)]
        group: Name,
    },
    /// Its group has fewer machines now.
    #[n(8)]
    FewerWanted {
        /// How many.
        #[n(0)]
        count: u32,
    },
    /// Its host is out of the mesh for good: it begins anew elsewhere.
    #[n(9)]
    Lost {
        /// Why there.
        #[n(0)]
        chosen: Chosen,
        /// As of `Placed`.
        #[n(1)]
        waits: bool,
        /// Whether it was started, so that there was a disk to lose.
        #[n(2)]
        started: bool,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl Cause {
    /// Tells whether part of the change does not reach a machine that exists.
    pub fn applies_later(&self) -> bool {
        match self {
            Cause::Kept { later }
            | Cause::KeptDown { later, .. }
            | Cause::KeptStranger { later }
            | Cause::InPlace { later, .. } => !later.is_empty(),
            _ => false,
        }
    }

    /// Gives its words without what holds for every machine of this version, where that is said once for all.
    pub fn briefly(&self) -> String {
        match self {
            Cause::Placed { chosen, .. } => chosen.to_string(),
            cause => cause.to_string(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Other => f.write_str(OTHER),
            Cause::Placed { chosen, waits } => write!(f, "{chosen}{}", waiting(*waits)),
            Cause::Lost { chosen, waits, started } => {
                let disk = if *started { " and its disk with it" } else { "" };
                write!(f, "its host is out of the mesh{disk}: it begins anew; {chosen}{}", waiting(*waits))
            }
            Cause::Kept { later } => {
                f.write_str("unchanged")?;
                write_later(f, later)
            }
            Cause::KeptDown { host, later } => {
                write!(f, "unchanged; {host} is down and the machine waits for it")?;
                write_later(f, later)
            }
            Cause::KeptStranger { later } => {
                f.write_str("unchanged; its host is not in the mesh now")?;
                write_later(f, later)
            }
            Cause::InPlace { settings, away, later } => {
                write!(f, "in place: {}; it restarts", list(settings))?;
                write_away(f, away.as_deref())?;
                write_later(f, later)
            }
            Cause::Replaced { losses, started, away } => {
                let lost = if *started { "its disk starts empty" } else { "it was not started yet" };
                write!(f, "replace: {}; {lost}", list(losses))?;
                write_away(f, away.as_deref())
            }
            Cause::GroupGone { group } => {
                write!(f, "{group} is not in the topology any more; its disk goes with it")
            }
            Cause::FewerWanted { count } => write!(f, "count is {count} now; its disk goes with it"),
        }
    }
}

fn waiting(waits: bool) -> &'static str {
    if waits { "; waits for this host when it dies (guard hold)" } else { "" }
}

fn write_away(f: &mut fmt::Formatter<'_>, away: Option<&str>) -> fmt::Result {
    away.iter().try_for_each(|host| write!(f, "; happens when {host} is back"))
}

fn write_later(f: &mut fmt::Formatter<'_>, later: &[String]) -> fmt::Result {
    match later {
        [] => Ok(()),
        keys => write!(f, "; {} changed since it was made: applies to new machines", list(keys)),
    }
}

/// Why a disk cannot stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Loss {
    /// The name of its image was given to other content.
    #[n(1)]
    OtherContent {
        /// The name.
        #[n(0)]
        image: String,
        /// The content that it was made of.
        #[n(1)]
        was: Digest,
        /// The content that the name means now.
        #[n(2)]
        is: Digest,
    },
    /// The topology names another image.
    #[n(2)]
    OtherImage {
        /// Its name.
        #[n(0)]
        image: String,
    },
    /// The topology pins another image.
    #[n(3)]
    OtherPinned {
        /// Its content.
        #[n(0)]
        is: Digest,
    },
    /// A smaller disk is wished.
    #[n(4)]
    Shrinks {
        /// What it has.
        #[n(0)]
        was_mib: u64,
        /// What is wished.
        #[n(1)]
        is_mib: u64,
    },
    /// What the guest is told at its first boot only.
    #[n(5)]
    FirstBoot {
        /// The keys of the file that differ.
        #[n(0)]
        keys: Vec<String>,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Other => f.write_str(OTHER),
            Loss::OtherContent { image, was, is } => {
                write!(f, "image {image} is blake3:{} now, it has blake3:{}", is.short(), was.short())
            }
            Loss::OtherImage { image } => write!(f, "image is {image} now"),
            Loss::OtherPinned { is } => write!(f, "image is blake3:{} now", is.short()),
            Loss::Shrinks { was_mib, is_mib } => {
                write!(f, "disk {was_mib} -> {is_mib} MiB (a disk never shrinks)")
            }
            Loss::FirstBoot { keys } => write!(f, "{} changed", list(keys)),
        }
    }
}

/// Why a machine cannot be placed, or cannot stay where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Hindrance {
    /// No member has an image of this name.
    #[n(1)]
    UnknownImage {
        /// The name.
        #[n(0)]
        image: String,
        /// What may have been meant.
        #[n(1)]
        nearest: Option<String>,
    },
    /// No member has this content.
    #[n(2)]
    UnknownContent {
        /// The content.
        #[n(0)]
        digest: Digest,
    },
    /// Its disk would be smaller than its image.
    #[n(3)]
    SmallDisk {
        /// What is wished.
        #[n(0)]
        wanted_mib: u64,
        /// What the image has.
        #[n(1)]
        least_mib: u64,
    },
    /// The topology forbids the host that it is on.
    #[n(4)]
    WrongHost {
        /// The host.
        #[n(0)]
        host: String,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// What forbids it.
        #[n(2)]
        unchosen: Box<Unchosen>,
    },
    /// Its host has no room for what it is to become.
    #[n(5)]
    CannotGrow {
        /// The host.
        #[n(0)]
        host: String,
        /// The machine.
        #[n(1)]
        machine: MachineName,
        /// What is short.
        #[n(2)]
        unchosen: Box<Unchosen>,
    },
    /// Its host cannot run what it is to become.
    #[n(6)]
    CannotRun {
        /// The host.
        #[n(0)]
        host: String,
        /// Why.
        #[n(1)]
        unchosen: Box<Unchosen>,
    },
    /// An older incarnation is on a host that is no member now.
    #[n(7)]
    OlderAway {
        /// The host.
        #[n(0)]
        host: String,
    },
    /// An older incarnation is on a host that cannot take it now.
    #[n(8)]
    OlderUnfit {
        /// The host.
        #[n(0)]
        host: String,
        /// Why.
        #[n(1)]
        unchosen: Box<Unchosen>,
    },
    /// The session's network has no address left.
    #[n(9)]
    NetworkFull {
        /// The network.
        #[n(0)]
        subnet: Prefix,
    },
    /// There is nobody.
    #[n(10)]
    NoHosts,
    /// Each host has a reason against it.
    #[n(11)]
    NoHostFits {
        /// The hosts, by name.
        #[n(0)]
        hosts: Vec<NotChosen>,
        /// Names of `place.hosts` that nobody has.
        #[n(1)]
        strangers: Vec<Stranger>,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

/// A host that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct NotChosen {
    /// Its name.
    #[n(0)]
    pub host: String,
    /// Why.
    #[n(1)]
    pub unchosen: Unchosen,
}

impl fmt::Display for NotChosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.unchosen)
    }
}

/// A name in `place.hosts` that no member has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Stranger {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// What may have been meant.
    #[n(1)]
    pub nearest: Option<String>,
    /// The hosts that there are, in words.
    #[n(2)]
    pub known: String,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stranger { name, nearest, known } = self;
        write!(f, "{name}: no member has this name ({}hosts: {known})", meant(nearest.as_deref()))
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::Other => f.write_str(OTHER),
            Hindrance::UnknownImage { image, nearest } => {
                let meant = meant(nearest.as_deref());
                write!(
                    f,
                    "no member has an image named {image} ({meant}agent image import PATH --name {image})"
                )
            }
            Hindrance::UnknownContent { digest } => write!(f, "no member has an image blake3:{digest}"),
            Hindrance::SmallDisk { wanted_mib, least_mib } => {
                let (wanted, least) = (size::text(*wanted_mib), size::text(*least_mib));
                write!(f, "disk = {wanted} is smaller than its image, which has {least}")
            }
            Hindrance::WrongHost { host, machine, unchosen } => {
                let advice = format!("allow {host}, or remove the machine first and add it again");
                write!(
                    f,
                    "{host}: {unchosen}, but {machine} is there and this version moves no machine ({advice})"
                )
            }
            Hindrance::CannotGrow { host, machine, unchosen } => {
                write!(f, "{host}: {unchosen}, and {machine} cannot move from it")
            }
            Hindrance::CannotRun { host, unchosen } => write!(f, "{host}: {unchosen}"),
            Hindrance::OlderAway { host } => {
                write!(f, "{host}: {OLDER_THERE}, and it is not in the mesh now")
            }
            Hindrance::OlderUnfit { host, unchosen } => {
                write!(f, "{host}: {OLDER_THERE}, and now: {unchosen}")
            }
            Hindrance::NetworkFull { subnet } => write!(f, "the session's network {subnet} is full"),
            Hindrance::NoHosts => f.write_str("the mesh has no hosts"),
            Hindrance::NoHostFits { hosts, strangers } => {
                let hosts = hosts.iter().map(NotChosen::to_string);
                let all: Vec<String> = hosts.chain(strangers.iter().map(Stranger::to_string)).collect();
                write!(f, "no host fits: {}", all.join("; "))
            }
        }
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("did you mean {nearest}? ")).unwrap_or_default()
}
