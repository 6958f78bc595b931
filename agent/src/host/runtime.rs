//! Runtime directories of data directories that are gone. Those outside a data directory say in a file
//! whose they are; what belongs to nothing any more, and to nobody who lives, is removed at a start.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Names the data directory of a runtime directory.
const OWNER: &str = "data";
/// A directory that says nothing may have been made this very moment.
const YOUNG: Duration = Duration::from_secs(60);
/// Directories that are looked at.
const MAX_LOOKED_AT: usize = 1024;

/// Writes down whose runtime directory this is, if it lies outside the data directory.
pub fn claim(run: &Path, data: &Path) -> io::Result<()> {
    let data = fs::canonicalize(data)?;
    if run.starts_with(&data) {
        return Ok(());
    }
    fs::write(run.join(OWNER), data.as_os_str().as_bytes())
}

/// Removes the runtime directory, unless machines run on with sockets in it.
pub fn leave(run: &Path) {
    let seen = fs::read_dir(run).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    if nobody_is_in(seen) {
        fs::remove_file(run.join(OWNER)).ok();
        fs::remove_dir(run).ok();
    }
}

/// What cannot be listed may have somebody in it.
fn nobody_is_in(seen: io::Result<Vec<OsString>>) -> bool {
    seen.is_ok_and(|names| names.iter().all(|name| name == OWNER))
}

/// Removes what data directories that are gone left beside `run`, and gives what was removed.
pub fn sweep(run: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (run.parent(), run.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    // All of one user differ in their last part, the hash: `agent-HASH` or `agent-UID-HASH`.
    let Some((kind, hash)) = name.rsplit_once('-') else { return Vec::new() };
    let is_alike = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'));
        name.is_some_and(|(of, end)| {
            of == kind && end.len() == hash.len() && end.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    let alike = entries.filter(|path| path != run && is_alike(path)).take(MAX_LOOKED_AT);
    alike.filter(|path| is_left_over(path) && fs::remove_dir_all(path).is_ok()).collect()
}

/// Tells whether a directory is ours, of nothing that exists, and nobody listens in it.
fn is_left_over(dir: &Path) -> bool {
    let Ok(seen) = fs::symlink_metadata(dir) else { return false };
    if !seen.is_dir() || seen.uid() != rustix::process::geteuid().as_raw() {
        return false;
    }
    match fs::read(dir.join(OWNER)) {
        Ok(owner) => {
            let owner = PathBuf::from(OsString::from_vec(owner));
            owner.is_absolute() && is_gone(&owner) && !has_life(dir)
        }
        // One that does not say whose it is: only when nothing is in it.
        Err(_) => {
            let empty = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
            let age = seen.modified().ok().and_then(|at| at.elapsed().ok());
            empty && age.is_some_and(|age| age > YOUNG)
        }
    }
}

/// Only what certainly is not there is gone. What is on a disk that is not mounted now looks the same;
/// its agent makes the directory again.
fn is_gone(data: &Path) -> bool {
    matches!(fs::symlink_metadata(data), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn has_life(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return true };
    let mut sockets = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    // A refused connection is the only sign that nobody listens.
    sockets.any(|entry| match UnixStream::connect(entry.path()) {
        Err(error) => error.kind() != io::ErrorKind::ConnectionRefused,
        Ok(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_belongs_to_nothing_and_nobody_goes() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let make = |name: &str, owner: Option<&Path>| {
            let run = dir.path().join(name);
            fs::create_dir(&run).unwrap();
            if let Some(owner) = owner {
                fs::write(run.join(OWNER), owner.as_os_str().as_bytes()).unwrap();
            }
            run
        };
        let gone = dir.path().join("gone");
        let mine = make("agent-00000000", None);
        claim(&mine, &data).unwrap();
        let left = make("agent-11111111", Some(&gone));
        fs::create_dir(left.join("ssh-1")).unwrap();
        drop(UnixListener::bind(left.join("dead.s")).unwrap());
        let lives = make("agent-22222222", Some(&gone));
        let _listener = UnixListener::bind(lives.join("lives.s")).unwrap();
        make("agent-33333333", Some(&data));
        make("agent-44444444", None);
        make("agent-5555-66666666", Some(&gone));
        make("agent-mine-or-not", Some(&gone));
        assert_eq!(sweep(&mine), [left]);
        leave(&mine);
        assert!(!mine.exists());
        leave(&lives);
        assert!(lives.join(OWNER).exists(), "what lives keeps its place and its name");
    }

    #[test]
    fn only_what_was_seen_empty_is_left() {
        let names = |names: &[&str]| Ok(names.iter().map(OsString::from).collect());
        assert!(nobody_is_in(names(&[])) && nobody_is_in(names(&[OWNER])));
        assert!(!nobody_is_in(names(&[OWNER, "1.s"])));
        let no_descriptor = io::Error::from(rustix::io::Errno::MFILE);
        assert!(!nobody_is_in(Err(no_descriptor)));
    }
}
