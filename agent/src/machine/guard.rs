//! How QEMU dies with who started it: a machine's with its shim, one that is only asked with the agent.
//! `agent shim exec PARENT PROGRAM ...` asks the kernel to be killed when its parent ends, looks whether
//! the parent has ended already, and becomes PROGRAM. The wish survives `exec`, and no code runs between
//! fork and exec in a process that has threads.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::host::limits;

/// What tells this use of the subcommand from the other.
pub const EXEC: &str = "exec";

/// This very program, also when its file was replaced by an upgrade.
pub const SELF: &str = "/proc/self/exe";

/// Gives the words after `agent` that run `program` so that it dies with this process.
pub fn wrapped(program: &Path, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Vec<OsString> {
    let me = std::process::id().to_string();
    let mut all: Vec<OsString> = vec!["shim".into(), EXEC.into(), me.into(), program.into()];
    all.extend(arguments.into_iter().map(Into::into));
    all
}

/// Becomes `program`. Returns only when that fails.
pub fn exec(parent: &OsStr, program: &OsStr, arguments: &[OsString]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_deref().map(OsStr::new) != Some(parent) {
        return Err(io::Error::other("who started QEMU ended before it began"));
    }
    limits::lower();
    Err(Command::new(program).args(arguments).exec())
}
