//! How QEMU dies with its shim. `agent shim exec PARENT PROGRAM ...` asks the kernel to be killed when
//! its parent ends, looks whether the parent has ended already, and becomes PROGRAM. The wish survives
//! `exec`, and no code runs between fork and exec in a process that has threads.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::limits;

/// What tells this use of the subcommand from the other.
pub const EXEC: &str = "exec";

/// Gives the command that runs `program` so that it dies with this process.
pub fn wrapped(program: &Path, arguments: &[OsString]) -> (&'static str, Vec<OsString>) {
    let me = std::process::id().to_string();
    let mut all: Vec<OsString> = vec!["shim".into(), EXEC.into(), me.into(), program.into()];
    all.extend_from_slice(arguments);
    ("/proc/self/exe", all)
}

/// Becomes `program`. Returns only when that fails.
pub fn exec(parent: &OsStr, program: &OsStr, arguments: &[OsString]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_deref().map(OsStr::new) != Some(parent) {
        return Err(io::Error::other("the shim ended before QEMU began"));
    }
    limits::lower();
    Err(Command::new(program).args(arguments).exec())
}
