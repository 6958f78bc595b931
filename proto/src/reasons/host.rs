//! Why a host does not use what it has, and what keeps its agent from doing its work: that alone is put into three
//! sets of words, what is wrong, what was seen, and what helps.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::OTHER;

/// What most of them come to.
const NOTHING_STORED: &str = "nothing can be stored";

/// Why guests of a host are translated, although hardware might run them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum NoKvm {
    /// QEMU cannot.
    #[n(1)]
    NotBuilt,
    /// There is no device.
    #[n(2)]
    Absent,
    /// The device is not for the agent's user.
    #[n(3)]
    Denied {
        /// What the system says.
        #[n(0)]
        seen: String,
    },
    /// The device cannot be opened, for another cause.
    #[n(4)]
    NotOpened {
        /// What the system says.
        #[n(0)]
        seen: String,
    },
    /// The device opens and emulates.
    #[n(5)]
    Emulates {
        /// Turns of a loop that it does, in tens of thousands a second.
        #[n(0)]
        turns_10k_s: u64,
    },
    /// QEMU ends with it.
    #[n(6)]
    Ended {
        /// What QEMU says.
        #[n(0)]
        seen: String,
    },
    /// A guest on it hangs.
    #[n(7)]
    Hangs,
    /// One machine showed no sign of life on it.
    #[n(8)]
    MachineSilent,
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for NoKvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoKvm::NotBuilt => f.write_str("QEMU was built without KVM"),
            NoKvm::Absent => f.write_str("there is no /dev/kvm"),
            NoKvm::Denied { seen } | NoKvm::NotOpened { seen } => {
                write!(f, "/dev/kvm cannot be opened: {seen}")
            }
            NoKvm::Emulates { turns_10k_s } => {
                let millions = (*turns_10k_s as f64 / 10.0).round() / 10.0;
                write!(
                    f,
                    "/dev/kvm opens but emulates: {millions} million loop turns a second, hardware does hundreds"
                )
            }
            NoKvm::Ended { seen } => write!(f, "QEMU cannot use /dev/kvm: {seen}"),
            NoKvm::Hangs => f.write_str("/dev/kvm opens but a guest on it hangs"),
            NoKvm::MachineSilent => {
                f.write_str("this machine showed no sign of life under hardware acceleration")
            }
            NoKvm::Other => f.write_str(OTHER),
        }
    }
}

/// What keeps an agent from doing its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Plight {
    /// The next write may fail.
    #[n(1)]
    NearlyFull {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What may still be written.
        #[n(1)]
        free_bytes: u64,
    },
    /// The disk is mounted read-only.
    #[n(2)]
    ReadOnly {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
    },
    /// The disk holds as many files as it can.
    #[n(3)]
    NoInodes {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// How many that is.
        #[n(1)]
        files: u64,
        /// What may still be written.
        #[n(2)]
        free_bytes: u64,
    },
    /// The disk is full.
    #[n(4)]
    Full {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
        /// What may still be written.
        #[n(2)]
        free_bytes: u64,
    },
    /// The agent's user may not have more.
    #[n(5)]
    Quota {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
    },
    /// Files of the agent may not grow so far.
    #[n(6)]
    MayNotGrow {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
    },
    /// The agent has as many files open as it may.
    #[n(7)]
    NoDescriptors {
        /// What the system says.
        #[n(0)]
        seen: String,
    },
    /// The data directory is not the agent's user's.
    #[n(8)]
    NotOurs {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
    },
    /// The data directory cannot be written, for another cause.
    #[n(9)]
    NotWritable {
        /// The data directory.
        #[n(0)]
        dir: String,
        /// What the system says.
        #[n(1)]
        seen: String,
    },
    /// The disk does not answer.
    #[n(10)]
    DiskSilent {
        /// How long a small write was waited for.
        #[n(0)]
        within_s: u64,
    },
    /// The log of a session could not be written.
    #[n(11)]
    LogClosed {
        /// The session.
        #[n(0)]
        session: String,
        /// What the log says.
        #[n(1)]
        seen: String,
    },
    /// The log of a session cannot be opened.
    #[n(12)]
    LogUnusable {
        /// The session.
        #[n(0)]
        session: String,
        /// What the log says.
        #[n(1)]
        seen: String,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl Plight {
    /// Says what is wrong.
    pub fn what(&self) -> String {
        let unable = |what: &str| format!("{what}: {NOTHING_STORED}");
        match self {
            Plight::NearlyFull { .. } => "the disk of the data directory is nearly full".to_owned(),
            Plight::ReadOnly { .. } => unable("the data directory is read-only"),
            Plight::NoInodes { .. } => unable("the disk of the data directory has no inodes left"),
            Plight::Full { .. } => unable("the disk of the data directory is full"),
            Plight::Quota { .. } => unable("the disk quota of this user is used up"),
            Plight::MayNotGrow { .. } => unable("files may not grow"),
            Plight::NoDescriptors { .. } => unable("no file can be opened"),
            Plight::NotOurs { .. } => unable("the data directory cannot be written by this user"),
            Plight::NotWritable { .. } => unable("the data directory cannot be written"),
            Plight::DiskSilent { .. } => "the disk of the data directory does not answer".to_owned(),
            Plight::LogClosed { session, .. } => {
                format!("this host's log of the session {session} is closed")
            }
            Plight::LogUnusable { session, .. } => format!(
                "this host's log of the session {session} cannot be used: its machines run on, nothing of it changes"
            ),
            Plight::Other => OTHER.to_owned(),
        }
    }

    /// Says what helps: what to type, where there is something.
    pub fn next(&self) -> Option<String> {
        Some(match self {
            Plight::NearlyFull { dir, .. } | Plight::Full { dir, .. } => {
                format!("df -h {dir}    and agent image list, then agent image remove NAME")
            }
            Plight::ReadOnly { dir, .. } => {
                format!("findmnt -T {dir}    then dmesg, and sudo mount -o remount,rw of that disk")
            }
            Plight::NoInodes { dir, .. } => format!("df -i {dir}    and remove files that nobody needs"),
            Plight::Quota { .. } => "quota -s    and remove files that nobody needs".to_owned(),
            Plight::MayNotGrow { .. } => "ulimit -f unlimited    before agent run".to_owned(),
            Plight::NoDescriptors { .. } => "ulimit -n 4096    before agent run".to_owned(),
            Plight::NotOurs { dir, .. } => format!("sudo chown -R $USER {dir}"),
            Plight::NotWritable { dir, .. } => format!("findmnt -T {dir}    then dmesg"),
            Plight::DiskSilent { .. } => "dmesg".to_owned(),
            Plight::LogClosed { .. } => {
                "it is opened again as soon as the disk takes files: agent doctor".to_owned()
            }
            Plight::LogUnusable { .. } => {
                "run the agent that wrote it, or put the session's directory back from a copy".to_owned()
            }
            Plight::Other => return None,
        })
    }
}

impl fmt::Display for Plight {
    /// Says what was seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plight::NearlyFull { dir, free_bytes } => write!(f, "{dir}: {} are free", bytes(*free_bytes)),
            Plight::ReadOnly { dir, seen } => {
                write!(f, "{dir}: {seen}; Linux does this to a disk that fails")
            }
            Plight::NoInodes { dir, files, free_bytes } => write!(
                f,
                "{dir}: all {files} files that it can hold are there, with {} free",
                bytes(*free_bytes)
            ),
            Plight::Full { dir, seen, free_bytes } => {
                write!(f, "{dir}: {seen}; {} are free", bytes(*free_bytes))
            }
            Plight::Quota { dir, seen }
            | Plight::MayNotGrow { dir, seen }
            | Plight::NotOurs { dir, seen }
            | Plight::NotWritable { dir, seen } => write!(f, "{dir}: {seen}"),
            Plight::NoDescriptors { seen } | Plight::LogUnusable { seen, .. } => f.write_str(seen),
            Plight::DiskSilent { within_s } => write!(f, "a small write took more than {within_s} s"),
            Plight::LogClosed { seen, .. } => write!(f, "it could not be written: {seen}"),
            Plight::Other => f.write_str(OTHER),
        }
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
