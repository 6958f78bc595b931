//! Pure: what is wrong with the disk of the data directory, judged once for `status`, `doctor` and
//! everything that could not be stored.

use std::path::PathBuf;

use proto::{reasons::Plight, wire::api::Trouble};
use rustix::io::Errno;

/// Below this much room the next write may fail: a Raft log and an image record need megabytes.
const NEARLY_FULL: u64 = 8 * 1024 * 1024;

/// What was seen of a disk.
#[derive(Clone, Debug, Default)]
pub struct DiskLook {
    /// The directory.
    pub dir: PathBuf,
    /// Why a small file could not be written now.
    pub refused: Option<Errno>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Bytes that this user may still write.
    pub free: u64,
    /// Files that can still be made, and how many there can be; `None` where they are not counted.
    pub inodes: Option<(u64, u64)>,
}

/// Decides what it means; `None` = all is well.
pub fn judge(look: &DiskLook) -> Option<Trouble> {
    let (dir, free_bytes) = (look.dir.display().to_string(), look.free);
    let refused = match (look.refused, look.read_only) {
        (None, false) if look.free >= NEARLY_FULL => return None,
        (None, false) => return Some(Plight::NearlyFull { dir, free_bytes }.into()),
        (_, true) => Errno::ROFS,
        (Some(refused), false) => refused,
    };
    let seen = std::io::Error::from(refused).to_string();
    let plight = match (refused, look.inodes) {
        (Errno::ROFS, _) => Plight::ReadOnly { dir, seen },
        (Errno::NOSPC, Some((0, files))) => Plight::NoInodes { dir, files, free_bytes },
        (Errno::NOSPC, _) => Plight::Full { dir, seen, free_bytes },
        (Errno::DQUOT, _) => Plight::Quota { dir, seen },
        (Errno::FBIG, _) => Plight::MayNotGrow { dir, seen },
        (Errno::MFILE | Errno::NFILE, _) => Plight::NoDescriptors { seen },
        (Errno::ACCESS | Errno::PERM, _) => Plight::NotOurs { dir, seen },
        _ => Plight::NotWritable { dir, seen },
    };
    Some(plight.into())
}

/// Writes trouble in one line.
pub fn line(trouble: &Trouble) -> String {
    format!("{}: {}", trouble.what, trouble.because)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(refused: Option<Errno>) -> DiskLook {
        let free = if refused == Some(Errno::NOSPC) { 0 } else { 1 << 40 };
        DiskLook { dir: "/d".into(), refused, read_only: false, free, inodes: Some((100, 1000)) }
    }

    fn check(seen: &DiskLook, told: &str) {
        let trouble = judge(seen).map(|trouble| line(&trouble)).unwrap_or_default();
        assert_eq!(trouble, told);
    }

    #[test]
    fn a_disk_that_takes_files_is_well() {
        check(&seen(None), "");
        check(
            &DiskLook { free: 5 << 20, ..seen(None) },
            "the disk of the data directory is nearly full: /d: 5 MiB are free",
        );
    }

    #[test]
    fn each_kind_of_disk_that_takes_nothing_is_called_what_it_is() {
        check(
            &seen(Some(Errno::NOSPC)),
            "the disk of the data directory is full: nothing can be stored: \
             /d: No space left on device (os error 28); 0 bytes are free",
        );
        check(
            &DiskLook { free: 9 << 20, inodes: Some((0, 77)), ..seen(Some(Errno::NOSPC)) },
            "the disk of the data directory has no inodes left: nothing can be stored: \
             /d: all 77 files that it can hold are there, with 9 MiB free",
        );
        let read_only = "the data directory is read-only: nothing can be stored: \
             /d: Read-only file system (os error 30); Linux does this to a disk that fails";
        check(&seen(Some(Errno::ROFS)), read_only);
        check(&DiskLook { read_only: true, ..seen(None) }, read_only);
        for (error, told) in [
            (Errno::DQUOT, "quota"),
            (Errno::FBIG, "may not grow"),
            (Errno::MFILE, "no file can be opened"),
            (Errno::ACCESS, "by this user"),
            (Errno::IO, "cannot be written: nothing can be stored: /d: Input/output error"),
        ] {
            let trouble = judge(&seen(Some(error))).unwrap();
            assert!(line(&trouble).contains(told), "{trouble:?}");
            assert!(trouble.next.is_some());
        }
    }
}
