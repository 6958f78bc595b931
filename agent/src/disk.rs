//! The data directory as something that is held: its version, the lock that keeps a second agent
//! away, and writes that survive a crash whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::data::DataDir;

/// The layout this program reads and writes. A directory of a higher number is left alone.
const LAYOUT: u32 = 1;

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
    /// Another agent runs on it.
    #[error("another agent (process {pid}) runs on {path}")]
    Taken {
        /// The data directory.
        path: PathBuf,
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// A newer program wrote it.
    #[error("{path} was written by a newer agent (layout {found}, this one knows {LAYOUT})")]
    Newer {
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

/// Makes the data directory when it is missing, and checks that this program may use it.
pub fn open(data: &DataDir) -> Result<(), DiskError> {
    let root = data.path();
    private_dir(root).map_err(at(root))?;
    let version = root.join("version");
    match fs::read_to_string(&version) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found > LAYOUT => Err(DiskError::Newer { path: root.to_owned(), found }),
            Ok(_) => Ok(()),
            Err(_) => Err(DiskError::Unreadable { path: version }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(&version, format!("{LAYOUT}\n").as_bytes()).map_err(at(&version))
        }
        Err(error) => Err(at(&version)(error)),
    }
}

impl Lock {
    /// Takes the data directory for this process.
    pub fn take(data: &DataDir) -> Result<Lock, DiskError> {
        let path = data.path().join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(at(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(at(&path))?;
            return Err(DiskError::Taken { path: data.path().to_owned(), pid: pid.trim().to_owned() });
        }
        file.set_len(0).map_err(at(&path))?;
        write!(file, "{}", std::process::id()).map_err(at(&path))?;
        Ok(Lock { _file: file })
    }
}

/// Makes a directory that only its owner may enter, with its parents.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file so that after a crash either the old or the new content is there, whole.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(parent)?.sync_all()
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
        fs::write(dir.path().join("version"), "2\n").unwrap();
        let error = open(&data(&dir)).unwrap_err().to_string();
        assert!(error.contains("newer agent (layout 2, this one knows 1)"), "{error}");
        fs::write(dir.path().join("version"), "what").unwrap();
        assert!(matches!(open(&data(&dir)), Err(DiskError::Unreadable { .. })));
    }
}
