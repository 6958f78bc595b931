//! The data directory as something that is held: whose it is, its version, the lock that keeps a
//! second agent away, and how its disk is.

mod trouble;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use proto::wire::api::Trouble;
use rustix::{
    fs::{Access, FlockOperation, Mode, OFlags, StatVfsMountFlags, flock},
    io::Errno,
};

pub use trouble::line;

use crate::host::{data::DataDir, durable, private, users};

/// The layout this program reads and writes. A directory of another number is left alone.
pub const LAYOUT: u32 = 4;
/// What an agent writes in a data directory. Whatever else is there is none of our business: a disk of
/// its own holds root's `lost+found`, others put snapshots there, and the settings are only read.
const OURS: [&str; 16] = [
    "version",
    "lock",
    "api.sock",
    "api.new",
    "identity",
    "mesh",
    "facts",
    "images",
    "sessions",
    "run",
    "forward.json",
    "published",
    "dns.port",
    "browser.port",
    "socks.port",
    "qemu.json",
];
/// Entries of a data directory that are looked at for other owners.
const MAX_LOOKED_AT: usize = 4096;
/// What is written to see whether something can be: more than one block of any file system.
const TRIED_BYTES: usize = 16 * 1024;

/// The right to be the only agent on a data directory; given up when dropped or killed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Something on disk cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It belongs to another user.
    #[error("{path} belongs to {owner}, and this is {me}: files made here would be out of {owner}'s reach")]
    Others {
        /// The data directory.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// Who asks.
        me: String,
    },
    /// Somebody else left files in it.
    #[error("{path} belongs to {owner}, and this is {me}, who may not write it")]
    Left {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// Who asks.
        me: String,
    },
    /// Another agent runs on it.
    #[error("another agent (process {pid}) runs on {path}")]
    Taken {
        /// The data directory.
        path: PathBuf,
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// It is locked, and not by the process that wrote itself down.
    #[error(
        "{path} is locked, but process {pid}, which took it last, does not run here: another computer may share it"
    )]
    Held {
        /// The data directory.
        path: PathBuf,
        /// The process that wrote itself down.
        pid: String,
    },
    /// Its file system cannot keep a second agent away.
    #[error("the file system of {path} has no locks")]
    NoLocks {
        /// The data directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote it.
    #[error("{path} was written by a newer agent (layout {found}, this one knows {LAYOUT})")]
    Newer {
        /// The data directory.
        path: PathBuf,
        /// The number found.
        found: u32,
    },
    /// An older program wrote it, in formats that are not read any more.
    #[error("{path} was written by an older agent (layout {found}, this one needs {LAYOUT})")]
    Older {
        /// The data directory.
        path: PathBuf,
        /// The number found.
        found: u32,
    },
    /// The version file holds no number.
    #[error("{path} does not hold a layout number; is this a data directory of the agent?")]
    Unreadable {
        /// The version file.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

/// Checks, without writing anything, that this program may use the data directory: whose it is, and
/// which program wrote it.
pub fn inspect(data: &DataDir) -> Result<(), DiskError> {
    let root = data.path();
    check_owner(root)?;
    let version = root.join("version");
    match fs::read_to_string(&version) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found > LAYOUT => Err(DiskError::Newer { path: root.to_owned(), found }),
            Ok(found) if found < LAYOUT => Err(DiskError::Older { path: root.to_owned(), found }),
            Ok(_) => check_left(root),
            Err(_) => Err(DiskError::Unreadable { path: version }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(&version)(error)),
    }
}

/// Makes the data directory when it is missing, and checks that this program may use it.
pub fn open(data: &DataDir) -> Result<(), DiskError> {
    inspect(data)?;
    let root = data.path();
    private::dir(root).map_err(at(root))?;
    let version = root.join("version");
    if !version.exists() {
        durable::write(&version, format!("{LAYOUT}\n").as_bytes()).map_err(at(root))?;
    }
    Ok(())
}

/// Refuses a directory of somebody else before a file is made in it. Only root gets this far: others
/// may not write there, unless the owner lets them.
fn check_owner(root: &Path) -> Result<(), DiskError> {
    let me = rustix::process::geteuid();
    match fs::metadata(root) {
        Ok(seen) if seen.uid() != me.as_raw() && (me.is_root() || !may_write(root)) => {
            let (owner, me) = (users::name(seen.uid()), users::name(me.as_raw()));
            Err(DiskError::Others { path: root.to_owned(), owner, me })
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(root)(error)),
        _ => Ok(()),
    }
}

/// Looks for what another user left, as an agent that root once ran does: each write to it would fail.
fn check_left(root: &Path) -> Result<(), DiskError> {
    let me = rustix::process::geteuid();
    if me.is_root() {
        return Ok(());
    }
    for path in ours(root).take(MAX_LOOKED_AT) {
        let Ok(seen) = fs::symlink_metadata(&path) else { continue };
        if seen.uid() != me.as_raw() && !seen.is_symlink() && !may_write(&path) {
            return Err(DiskError::Left {
                owner: users::name(seen.uid()),
                me: users::name(me.as_raw()),
                path,
            });
        }
    }
    Ok(())
}

/// Lists what an agent may have written in a data directory, and what is directly below it.
fn ours(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let names = OURS.iter().map(|name| root.join(name));
    names.flat_map(move |path| std::iter::once(path.clone()).chain(entries(&path)))
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

impl DiskError {
    /// Gives what a person can do about it.
    pub fn next(&self) -> String {
        match self {
            DiskError::Others { path, owner, me } => {
                let path = path.display();
                format!("sudo -u {owner} agent ...    or sudo chown -R {me} {path}, or another --data-dir")
            }
            DiskError::Left { path, me, .. } => format!("sudo chown -R {me} {}", path.display()),
            DiskError::Taken { .. } => "agent status, to ask the one that runs".to_owned(),
            DiskError::Held { .. } => "use another --data-dir; one computer, one data directory".to_owned(),
            DiskError::NoLocks { .. } => {
                "use a --data-dir on a local disk (ext4, xfs, btrfs, tmpfs)".to_owned()
            }
            DiskError::Newer { .. } => "install the newer program, or use another --data-dir".to_owned(),
            DiskError::Older { .. } => {
                "end its sessions with the older program, then use another --data-dir".to_owned()
            }
            DiskError::Io { .. } | DiskError::Unreadable { .. } => "agent doctor".to_owned(),
        }
    }
}

impl Lock {
    /// Takes the data directory for this process.
    pub fn take(data: &DataDir) -> Result<Lock, DiskError> {
        let path = data.path().join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(at(&path))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(at(&path))?;
            let lives = |pid: &str| Path::new("/proc").join(pid).exists();
            return Err(not_locked(data.path(), error, pid.trim().to_owned(), lives));
        }
        file.set_len(0).map_err(at(&path))?;
        write!(file, "{}", std::process::id()).map_err(at(&path))?;
        Ok(Lock { _file: file })
    }
}

/// Says why a lock was not given: only one that somebody holds speaks of another agent.
fn not_locked(path: &Path, error: Errno, pid: String, lives: impl Fn(&str) -> bool) -> DiskError {
    let path = path.to_owned();
    match error {
        Errno::WOULDBLOCK if pid.is_empty() || lives(&pid) => DiskError::Taken { path, pid },
        Errno::WOULDBLOCK => DiskError::Held { path, pid },
        Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL => {
            DiskError::NoLocks { path, source: error.into() }
        }
        error => DiskError::Io { path: path.join("lock"), source: error.into() },
    }
}

/// Looks at the disk of the data directory, and tries whether a file can be written. It is one without
/// a name: nothing of it stays.
pub fn look(data: &DataDir) -> Option<Trouble> {
    let dir = data.path();
    trouble::judge(&measured(trouble::DiskLook {
        refused: try_write(dir).err(),
        dir: dir.to_owned(),
        ..Default::default()
    }))
}

/// The same for who looks often: tries to write only when there is a reason to, so that a disk that
/// sleeps is not woken.
pub fn glance(data: &DataDir, before: Option<&Trouble>) -> Option<Trouble> {
    let seen = measured(trouble::DiskLook { dir: data.path().to_owned(), ..Default::default() });
    let full = seen.inodes.is_some_and(|(free, _)| free == 0);
    if before.is_some() || full || trouble::judge(&seen).is_some() { look(data) } else { None }
}

/// Adds what the file system says of itself.
fn measured(mut seen: trouble::DiskLook) -> trouble::DiskLook {
    match rustix::fs::statvfs(&seen.dir) {
        Ok(found) => {
            seen.free = found.f_bavail.saturating_mul(found.f_frsize);
            seen.read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
            seen.inodes = (found.f_files > 0).then_some((found.f_favail, found.f_files));
        }
        // What cannot be measured is not called full.
        Err(error) => (seen.free, seen.refused) = (u64::MAX, seen.refused.or(Some(error))),
    }
    seen
}

/// Tells whether a small file can be written in a directory now.
pub fn takes_files(dir: &Path) -> bool {
    try_write(dir).is_ok()
}

fn try_write(dir: &Path) -> Result<(), Errno> {
    let nameless = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(dir, nameless, Mode::RUSR | Mode::WUSR) {
        Ok(file) => {
            let bytes = [0; TRIED_BYTES];
            let mut left = &bytes[..];
            while !left.is_empty() {
                let count = rustix::io::write(&file, left)?;
                left = &left[count..];
            }
            Ok(())
        }
        // This file system or kernel has no files without a name: what it has room for, it says itself.
        Err(Errno::NOTSUP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) if dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(dir: &tempfile::TempDir) -> DataDir {
        DataDir::choose(Some(dir.path())).unwrap()
    }

    #[test]
    fn a_second_agent_is_kept_away_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(&dir);
        open(&data).unwrap();
        let lock = Lock::take(&data).unwrap();
        let error = Lock::take(&data).unwrap_err();
        assert!(matches!(&error, DiskError::Taken { pid, .. } if *pid == std::process::id().to_string()));
        drop(lock);
        Lock::take(&data).unwrap();
    }

    #[test]
    fn a_directory_of_a_newer_program_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (found, complaint) in [
            (5, "written by a newer agent (layout 5, this one knows 4)"),
            (3, "written by an older agent (layout 3, this one needs 4)"),
        ] {
            fs::write(dir.path().join("version"), format!("{found}\n")).unwrap();
            let error = open(&data(&dir)).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        fs::write(dir.path().join("version"), "what").unwrap();
        assert!(matches!(open(&data(&dir)), Err(DiskError::Unreadable { .. })));
    }

    #[test]
    fn what_others_keep_in_a_data_directory_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lost+found", ".Trash-0/info", ".snapshots/1", "identity/below"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["config.toml", "lost+found/#12", "identity/host.key", "lock"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let seen = ours(dir.path()).filter(|path| path.exists());
        let seen: std::collections::BTreeSet<PathBuf> = seen.collect();
        let expected = ["lock", "identity", "identity/below", "identity/host.key"];
        assert_eq!(seen, expected.map(|name| dir.path().join(name)).into());
    }

    /// The list of what is ours is only as good as it is whole.
    #[test]
    fn what_is_made_here_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(&dir);
        open(&data).unwrap();
        let _lock = Lock::take(&data).unwrap();
        for path in [data.socket(), data.facts(), dir.path().join("identity")] {
            fs::write(path, "").unwrap();
        }
        let seen: Vec<PathBuf> = ours(dir.path()).collect();
        for entry in fs::read_dir(dir.path()).unwrap() {
            assert!(seen.contains(&entry.unwrap().path()));
        }
    }

    #[test]
    fn only_a_lock_that_somebody_holds_speaks_of_another_agent() {
        let told = |error, lives: bool| not_locked(Path::new("/d"), error, "42".to_owned(), |_| lives);
        let text = |error, lives| told(error, lives).to_string();
        assert_eq!(text(Errno::WOULDBLOCK, true), "another agent (process 42) runs on /d");
        assert!(text(Errno::WOULDBLOCK, false).contains("does not run here"));
        for error in [Errno::NOLCK, Errno::NOTSUP, Errno::NOSYS] {
            assert_eq!(text(error, false), "the file system of /d has no locks");
            assert!(told(error, false).next().contains("local disk"));
        }
        assert_eq!(text(Errno::IO, false), "cannot use /d/lock");
    }

    #[test]
    fn a_disk_that_takes_files_is_well_and_nothing_stays_of_the_try() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&data(&dir)), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
