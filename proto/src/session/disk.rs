//! What becomes of a machine's disk when its topology changes. A disk is made once, from an image and
//! from what the guest is told at its first boot; whatever else is on it is the user's. So a change
//! keeps it unless the content beneath it must be another, and then somebody has to say so.
//! Nothing here plans or commits: `plan` asks [`fate`], `state` asks [`Replace::allows`].

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, MachineName, Name},
    reasons::{Loss, Resized},
    session::{ImageFacts, Placement},
    topology::{FileSpec, Group, ImageRef, Intent},
    wire::codec::to_bytes,
};

/// Whose started disks a person said may be lost. Without a word of it none may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Replace {
    /// `all`: every disk that the change cannot keep.
    #[n(0)]
    pub all: bool,
    /// Machines named one by one: these are also made anew when only their first boot would differ.
    #[n(1)]
    pub machines: BTreeSet<MachineName>,
}

impl Replace {
    /// Allows every disk that a change cannot keep to be lost.
    pub fn all() -> Replace {
        Replace { all: true, machines: BTreeSet::new() }
    }

    /// Tells whether the disk of this machine may be lost.
    pub fn allows(&self, machine: &MachineName) -> bool {
        self.all || self.machines.contains(machine)
    }
}

/// What the guest is told at its first boot only, as digests: a disk keeps what it was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Made {
    /// `setup`.
    #[n(0)]
    pub setup: Digest,
    /// `files` with their content.
    #[n(1)]
    pub files: Digest,
    /// `env`.
    #[n(2)]
    pub env: Digest,
    /// `ssh_keys` as they were read.
    #[n(3)]
    pub ssh_keys: Digest,
    /// `user`, which `machine ssh` logs in as.
    #[n(4)]
    pub user: Option<Name>,
}

impl Made {
    /// Gives what a new machine of this group would be told.
    pub fn of(intent: &Intent, name: &Name, group: &Group) -> Made {
        let content = |file: &FileSpec| intent.files.get(&file.source).map(|content| content.digest);
        let files: BTreeMap<_, _> =
            group.files.iter().map(|(path, file)| (path, (file, content(file)))).collect();
        Made {
            setup: digest(&group.setup),
            files: digest(&files),
            env: digest(&group.env),
            ssh_keys: digest(&intent.ssh_keys.get(name)),
            user: group.user.clone(),
        }
    }

    /// Names the keys of the file that differ.
    pub fn differs(&self, other: &Made) -> Vec<String> {
        let keys = [
            ("setup", self.setup != other.setup),
            ("files", self.files != other.files),
            ("env", self.env != other.env),
            ("ssh_keys", self.ssh_keys != other.ssh_keys),
            ("user", self.user != other.user),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
    }
}

fn digest(value: &impl Encode<()>) -> Digest {
    let bytes = to_bytes(value);
    Digest(blake3::derive_key("mesh machine first boot 1", &bytes))
}

/// How much of a disk there is to lose, and who said that it may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// The incarnation was never allowed to start: its disk does not exist.
    Nothing,
    /// It was started; the change alone decides whether its disk can stay.
    Disk,
    /// It was started, and the user names it to be made anew.
    Named,
}

/// What becomes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays {
        /// Its size from now on, as [`Placement::disk_mib`] keeps it.
        disk_mib: Option<u64>,
        /// How it grows.
        grows: Option<Resized>,
        /// Keys that have changed since it was made.
        later: Vec<String>,
    },
    /// An empty one takes its place.
    Goes {
        /// Why.
        losses: Vec<Loss>,
        /// Whether there is something to lose.
        started: bool,
    },
}

/// Decides what becomes of the disk of a machine that exists.
pub fn fate(was: &Placement, group: &Group, image: &ImageFacts, made: &Made, stake: Stake) -> Fate {
    let mut losses = Vec::new();
    if was.image != image.digest {
        losses.push(other_image(was, group, image));
    }
    let (is_mib, wanted_mib) = (size_mib(was.disk_mib, was.image_size), group.disk_mib);
    if let Some(wanted) = wanted_mib.filter(|wanted| *wanted < is_mib && was.disk_mib.is_some()) {
        losses.push(Loss::Shrinks { was_mib: is_mib, is_mib: wanted });
    }
    let later = made.differs(&was.made);
    if !later.is_empty() && (stake != Stake::Disk || !losses.is_empty()) {
        losses.push(Loss::FirstBoot { keys: later.clone() });
    }
    if !losses.is_empty() {
        return Fate::Goes { losses, started: stake != Stake::Nothing };
    }
    match wanted_mib.filter(|wanted| *wanted > is_mib) {
        Some(wanted) => {
            let grows = Some(Resized::Disk { was_mib: is_mib, is_mib: wanted });
            Fate::Stays { disk_mib: wanted_mib, grows, later }
        }
        // Who takes the key out of the file does not ask for a smaller disk.
        None => Fate::Stays { disk_mib: was.disk_mib, grows: None, later },
    }
}

/// Gives the size that a disk has in MiB: never less than its image.
pub fn size_mib(disk_mib: Option<u64>, image_size: u64) -> u64 {
    disk_mib.unwrap_or(0).max(image_size.div_ceil(1024 * 1024))
}

fn other_image(was: &Placement, group: &Group, image: &ImageFacts) -> Loss {
    match &group.image {
        ImageRef::Named(name) if was.image_name == group.image => {
            Loss::OtherContent { image: name.clone(), was: was.image, is: image.digest }
        }
        ImageRef::Named(name) => Loss::OtherImage { image: name.clone() },
        ImageRef::Pinned(digest) => Loss::OtherPinned { is: *digest },
    }
}
