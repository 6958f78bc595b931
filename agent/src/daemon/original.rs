//! Whether a data directory is where this host last ran. A copy of it has the same key: two computers would run as one
//! host, and its machines twice. A file that is copied, or comes back from a backup, is another file with the same
//! bytes, so the key's own number and time of birth tell. A disk that was copied block by block is not told apart
//! here; then the members do (`proto::liveness`).

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use proto::wire::api::{Error, Kind};

use super::{ApiResult, failed, leave};
use crate::host::{data::DataDir, durable};

const MARK: &str = "identity/original";

/// What tells a file from its copies: its number in its file system, and when it was made there in ns; 0 = not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    born: u128,
}

impl Mark {
    fn of(file: &Path) -> io::Result<Mark> {
        let seen = fs::metadata(file)?;
        let born = seen.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(Mark { inode: seen.ino(), born: born.map_or(0, |born| born.as_nanos()) })
    }

    fn read(text: &str) -> Option<Mark> {
        let (inode, born) = text.trim().split_once(' ')?;
        Some(Mark { inode: inode.parse().ok()?, born: born.parse().ok()? })
    }

    /// Nothing that copies a file copies its birth. Not every file system, nor every kernel, knows it; some number files
    /// anew whenever they are mounted.
    fn is(self, other: Mark) -> bool {
        if self.born == 0 || other.born == 0 { self.inode == other.inode } else { self.born == other.born }
    }
}

/// Checks that the directory is no copy, and marks it at the first start. `moved`: somebody says that there is no other.
pub(super) fn check(data: &DataDir, moved: bool) -> ApiResult<()> {
    let (key, path) = (data.identity().join("host.key"), data.path().join(MARK));
    let here = Mark::of(&key).map_err(|error| failed(&error))?;
    let known = match fs::read_to_string(&path) {
        Ok(text) => Mark::read(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&error)),
    };
    match known {
        Some(known) if known.is(here) => Ok(()),
        Some(_) if !moved => Err(is_copy(&key)),
        _ => {
            // A disk that is full keeps no host from running what it has.
            if let Err(error) = durable::write(&path, format!("{} {}\n", here.inode, here.born).as_bytes()) {
                tracing::warn!(%error, "a copy of this directory will not be told from it");
            }
            Ok(())
        }
    }
}

fn is_copy(key: &Path) -> Error {
    let because = format!(
        "{} is not the file with which this host last ran: the directory was copied, or came back from a backup. \
         With one key two computers would run as one host, and its machines twice. If the other one still exists, \
         delete this one and let this computer join by itself",
        key.display()
    );
    Error::new(Kind::Refused, "this data directory is a copy")
        .because(because)
        .next("agent run --moved, if no other computer runs by it any more")
}

/// Stops what was started since this agent began, and says why.
pub(super) async fn stopped(data: &DataDir, began: SystemTime) -> Error {
    if let Err(error) = leave::halt_since(data, began).await {
        return failed(&error);
    }
    twice()
}

/// Says that another computer runs as this host.
pub(super) fn twice() -> Error {
    Error::new(Kind::Refused, "another computer runs as this host")
        .because(
            "a data directory was copied: both have the same key, and the other one ran before. What was started \
             here is stopped. Delete this copy, and let this computer join by itself",
        )
        .next("agent join TOKEN --data-dir DIR, with an empty directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(dir: &Path) -> DataDir {
        DataDir::choose(Some(dir)).unwrap()
    }

    #[test]
    fn a_directory_that_is_moved_on_its_disk_is_itself_and_a_copy_is_none_until_somebody_says_so() {
        let temporary = tempfile::tempdir().unwrap();
        let first = temporary.path().join("first");
        fs::create_dir_all(first.join("identity")).unwrap();
        assert!(check(&data(&first), false).is_err(), "there is no key");
        fs::write(first.join("identity/host.key"), "key").unwrap();
        for _ in 0..2 {
            check(&data(&first), false).unwrap();
        }
        let moved = temporary.path().join("moved");
        fs::rename(&first, &moved).unwrap();
        check(&data(&moved), false).unwrap();

        let copy = temporary.path().join("copy");
        fs::create_dir_all(copy.join("identity")).unwrap();
        fs::copy(moved.join(MARK), copy.join(MARK)).unwrap();
        let (key, of) = (copy.join("identity/host.key"), Mark::of(&moved.join("identity/host.key")).unwrap());
        // The kernel counts births by its ticks: a copy may be as old as what it copies.
        while !key.exists() || Mark::of(&key).unwrap().is(of) {
            fs::remove_file(&key).ok();
            fs::copy(moved.join("identity/host.key"), &key).unwrap();
        }
        let refused = check(&data(&copy), false).unwrap_err();
        assert_eq!((refused.kind, refused.what.as_str()), (Kind::Refused, "this data directory is a copy"));
        assert!(check(&data(&copy), false).is_err(), "it stays one");
        check(&data(&copy), true).unwrap();
        check(&data(&copy), false).unwrap();
        check(&data(&moved), false).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_marked_anew_and_a_time_that_is_not_known_says_nothing() {
        assert_eq!(Mark::read("12 34\n"), Some(Mark { inode: 12, born: 34 }));
        for bad in ["", "12", "x 1", "1 -1", "1 1 1"] {
            assert_eq!(Mark::read(bad), None, "{bad:?}");
        }
        let mark = |inode, born| Mark { inode, born };
        assert!(mark(1, 2).is(mark(1, 2)) && mark(1, 0).is(mark(1, 2)) && mark(1, 2).is(mark(1, 0)));
        assert!(!mark(1, 2).is(mark(1, 3)) && mark(1, 2).is(mark(2, 2)) && !mark(1, 0).is(mark(2, 0)));
    }
}
