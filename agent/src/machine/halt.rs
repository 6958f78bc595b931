//! Stops every machine of this host, whatever its session says: for a host that is out of its mesh, where nobody else
//! may be sure that they do not run. Disks stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::task::JoinSet;

use super::{Host, Launch, Paths, Scope, adopt, end, record};
use crate::host::words::words;

/// What a guest has to shut down.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Stops all machines below the directory of sessions. Gives those that may still run, with why.
pub async fn all(sessions: &Path, run: &Path) -> Vec<String> {
    since(sessions, run, SystemTime::UNIX_EPOCH).await
}

/// Stops those that were launched since a moment: what a copied directory says of others is of another host.
pub async fn since(sessions: &Path, run: &Path, moment: SystemTime) -> Vec<String> {
    let mut dirs = match machines(sessions) {
        Ok(dirs) => dirs,
        Err(error) => return vec![format!("machines cannot be looked for: {error}")],
    };
    let launched = |dir: &PathBuf| fs::metadata(Paths::new(dir, run).launch())?.modified();
    dirs.retain(|dir| launched(dir).map_or(true, |launched| launched >= moment));
    let mut stopping: JoinSet<Result<(), String>> = JoinSet::new();
    for dir in dirs {
        let host = Host::new(run.to_owned());
        stopping.spawn(async move { stop(&host, &dir).await });
    }
    let mut left = Vec::new();
    while let Some(stopped) = stopping.join_next().await {
        left.extend(stopped.unwrap_or_else(|error| Err(error.to_string())).err());
    }
    left
}

/// Lists the directories in which a machine may have been launched.
fn machines(sessions: &Path) -> io::Result<Vec<PathBuf>> {
    let below = |dir: &Path| -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.flatten().map(|entry| entry.path());
        Ok(paths.filter(|path| path.is_dir()).collect())
    };
    let mut machines = Vec::new();
    for session in below(sessions)? {
        machines.extend(below(&session)?);
    }
    Ok(machines)
}

async fn stop(host: &Host, dir: &Path) -> Result<(), String> {
    let Some(launch) = record::known::<Launch>(&Paths::new(dir, &host.run).launch()) else { return Ok(()) };
    let who = launch.who();
    match adopt(host, dir, &who).await {
        Ok(None) => return Ok(()),
        Ok(Some(shim)) => match shim.stop(STOP_WITHIN).await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::warn!(machine = %who.machine, %error, "it does not stop; it is ended"),
        },
        Err(error) => {
            tracing::warn!(machine = %who.machine, error = words(&error), "it does not answer; it is ended");
        }
    }
    let ended = end(host, dir, &who, Scope::UpTo, true).await;
    ended.map_err(|error| format!("{}/{}: {}", launch.session_name, who.machine, words(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nothing_was_launched_nothing_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = dir.path().join("sessions");
        assert!(all(&sessions, dir.path()).await.is_empty(), "there are none");
        fs::create_dir_all(sessions.join("0a/web-1")).unwrap();
        fs::write(sessions.join("0a/share"), b"").unwrap();
        assert_eq!(machines(&sessions).unwrap(), [sessions.join("0a/web-1")]);
        assert!(all(&sessions, dir.path()).await.is_empty());
    }
}
