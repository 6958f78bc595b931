//! Why a host does not use what it has.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::OTHER;

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
