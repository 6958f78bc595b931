//! Asks the computer itself what runs of a machine, whatever its directory says. One look through
//! `/proc`; nothing is kept. What cannot be seen is an error, never "nothing".

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, thread, time::Duration};

use super::{
    process::Process,
    record::{self, Paths, ShimStatus},
    traces::{self, Scope, Trace, Who},
};

/// Looks at a process that has no command line yet. The kernel shows none while a program takes another's
/// place, which takes microseconds.
const LOOKS: u32 = 50;
/// Between two of these looks.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A living process of a machine.
#[derive(Clone, Debug)]
pub struct Found {
    /// The process.
    pub process: Process,
    /// How it was recognised; `None` = by its number in the file `shim`.
    pub trace: Option<Trace>,
}

/// Finds what lives of `who`: by command lines, and by the numbers that the directory remembers.
pub async fn search(paths: &Paths, who: &Who, scope: Scope) -> io::Result<Vec<Found>> {
    let (place, wanted) = (paths.place(), who.clone());
    let look = tokio::task::spawn_blocking(move || marked(&wanted, &place, scope));
    let mut found = look.await.map_err(io::Error::other)??;
    if let Some(status) = record::known::<ShimStatus>(&paths.status())
        && (scope == Scope::Any || status.epoch <= who.epoch)
    {
        for process in [Some(status.shim), status.qemu].into_iter().flatten() {
            let known = found.iter().any(|found| found.process == process);
            if !known && process.runs()? {
                found.push(Found { process, trace: None });
            }
        }
    }
    Ok(found)
}

/// Goes through all processes of this user.
fn marked(who: &Who, place: &str, scope: Scope) -> io::Result<Vec<Found>> {
    let me = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Some(line) = command_line(&entry.path())? else { continue };
        let Some(trace) = traces::read(&line).filter(|trace| trace.is(who, place, scope)) else { continue };
        // Somebody else can write anything on a command line.
        let Some(owner) = living(fs::metadata(entry.path()))?.map(|meta| meta.uid()) else { continue };
        if owner == me
            && let Some(process) = living(Process::of(pid))?
        {
            found.push(Found { process, trace: Some(trace) });
        }
    }
    Ok(found)
}

/// Reads the command line of a process; `None` when it has none, as kernel threads and the dead have.
fn command_line(process: &Path) -> io::Result<Option<Vec<u8>>> {
    for _ in 0..LOOKS {
        let Some(line) = living(fs::read(process.join("cmdline")))? else { return Ok(None) };
        if !line.is_empty() {
            return Ok(Some(line));
        }
        if living(fs::read_link(process.join("exe")))?.is_none() {
            return Ok(None);
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(None)
}

/// A process that ends while it is looked at is gone; what may not be looked at is not ours. Anything
/// else is not knowing.
fn living<T>(seen: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{InvalidData, NotFound, PermissionDenied};
    match seen {
        Ok(seen) => Ok(Some(seen)),
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied | InvalidData) => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names processes for people.
pub fn named(found: &[Found]) -> String {
    let pids: Vec<String> = found.iter().map(|found| found.process.pid.to_string()).collect();
    format!("process{} {}", if pids.len() == 1 { "" } else { "es" }, pids.join(" and "))
}
