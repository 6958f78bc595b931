//! What changes of a machine that stays on its disk: its virtual hardware, and how far it reaches.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::OTHER;
use crate::topology::Egress;

/// A piece of virtual hardware that changes its size, or its reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Resized {
    /// Its CPUs.
    #[n(1)]
    Cpus {
        /// How many.
        #[n(0)]
        was: u32,
        /// How many from now on.
        #[n(1)]
        is: u32,
    },
    /// Its memory.
    #[n(2)]
    Memory {
        /// How much.
        #[n(0)]
        was_mib: u64,
        /// How much from now on.
        #[n(1)]
        is_mib: u64,
    },
    /// Its disk.
    #[n(3)]
    Disk {
        /// How much.
        #[n(0)]
        was_mib: u64,
        /// How much from now on.
        #[n(1)]
        is_mib: u64,
    },
    /// Where it may go outside of its session.
    #[n(4)]
    Egress {
        /// Where it could go.
        #[n(0)]
        was: Egress,
        /// Where it may go from now on.
        #[n(1)]
        is: Egress,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Resized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resized::Other => f.write_str(OTHER),
            Resized::Cpus { was, is } => write!(f, "cpus {was} -> {is}"),
            Resized::Memory { was_mib, is_mib } => write!(f, "memory {was_mib} -> {is_mib} MiB"),
            Resized::Disk { was_mib, is_mib } => write!(f, "disk {was_mib} -> {is_mib} MiB"),
            Resized::Egress { was, is } => write!(f, "egress {} -> {}", was.word(), is.word()),
        }
    }
}
