//! How a machine's processes are ended when nobody answers for them, and how everything that it had is
//! deleted. The computer is asked what lives, again and again until nothing does.

use std::{fs, io, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    computer::{self, Found},
    handle,
    launch::{self, Host, LaunchError},
    record::Paths,
    traces::{Role, Scope, Who},
};

/// How long the end of everything may take: a machine with much memory needs a second or two.
const WITHIN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);

/// Ends whatever lives of `who` in `dir`; when this returns well, nothing does, and the ending is written
/// down. `asked` gives QEMU a moment to write what it holds.
pub async fn end(host: &Host, dir: &Path, who: &Who, scope: Scope, asked: bool) -> Result<(), LaunchError> {
    let paths = Paths::new(dir, &host.run);
    let deadline = Instant::now() + WITHIN;
    loop {
        let found = computer::search(&paths, who, scope).await.map_err(LaunchError::Unknown)?;
        if found.is_empty() && !is_held(&paths) {
            break;
        }
        if Instant::now() >= deadline {
            return Err(match found.is_empty() {
                true => LaunchError::Locked(paths.lock()),
                false => LaunchError::Running(computer::named(&found)),
            });
        }
        if found.is_empty() {
            sleep(AGAIN).await;
            continue;
        }
        tracing::warn!(machine = %who.machine, processes = computer::named(&found), "what does not answer is ended");
        if asked {
            flush(&found).await.map_err(LaunchError::Unknown)?;
        }
        handle::end_all(&found).await.map_err(LaunchError::Unknown)?;
        sleep(AGAIN).await;
    }
    if paths.dir.exists() { launch::bury(&paths).await } else { Ok(()) }
}

/// Tells whether somebody holds the lock who is not seen: what runs in another container, perhaps.
fn is_held(paths: &Paths) -> bool {
    paths.dir.exists() && matches!(launch::try_lock(paths), Ok(None))
}

/// Asks QEMU itself, which hears it although its shim does not.
async fn flush(found: &[Found]) -> io::Result<()> {
    for found in found {
        if found.trace.as_ref().is_some_and(|trace| trace.role == Role::Qemu)
            && let Some(living) = found.process.living()?
        {
            living.terminate()?;
            living.ended(handle::FLUSH).await;
        }
    }
    Ok(())
}

/// Ends what runs of `who` and of older incarnations in `dir`, and deletes everything it had. Where the
/// directory is gone already, its processes may not be.
pub async fn remove(host: &Host, dir: &Path, who: &Who) -> Result<(), LaunchError> {
    end(host, dir, who, Scope::UpTo, false).await?;
    let paths = Paths::new(dir, &host.run);
    handle::clean(&paths);
    // The intent goes last: whatever is left without it is no machine.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if Some(&*entry.file_name()) != paths.launch().file_name()
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            fs::remove_file(entry.path()).map_err(|error| LaunchError::Io("remove the machine", error))?;
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LaunchError::Io("remove the machine", error))
        }
        _ => Ok(()),
    }
}
