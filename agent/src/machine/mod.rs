//! Machines on this host: a proved QEMU, a disk and a seed for each machine, and one shim process for
//! each that owns QEMU and outlives the agent. `argv` and `seed` decide, everything else acts.
//! Nothing here knows plans, names or other hosts: it is given a [`Launch`] and gives back a [`Shim`].
//!
//! ```text
//! Launch (fsynced) -> shim process -> QEMU -S -> console, network, QMP attached -> cont
//!                        |                                  |
//!                     shim <- Running ... Ended <- QEMU's end, whatever caused it
//! ```

pub mod accelerator;
pub mod argv;
pub mod cidata;
pub mod computer;
pub mod console;
pub mod disk;
pub mod guard;
pub mod halt;
pub mod handle;
mod hangup;
pub mod keys;
pub mod launch;
pub mod openssh;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod record;
pub mod remove;
pub mod seed;
pub mod setup;
pub mod shim;
pub mod stop;
pub mod traces;
pub mod wire;

pub use handle::Shim;
pub use launch::{Host, LaunchError, adopt, last, launch};
pub use qemu::Qemu;
pub use record::{Launch, Paths, ShimStatus};
pub use remove::{end, remove};
pub use traces::{Scope, Who};

#[cfg(test)]
mod tests;
