//! Directories that nobody else may enter, nor have made before us.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

/// Makes a directory for its owner only, with its parents. One that exists is left as it is.
pub fn dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The same where others could have made it first, as below /tmp: one that is not ours is refused, and
/// ours is closed to others.
pub fn own(path: &Path) -> io::Result<()> {
    dir(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let because = format!("{} belongs to somebody else", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, because));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Lets a group pass through a directory of ours, to what is open to it in there; `None` closes it again.
pub fn passable(path: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o777;
    match group {
        Some(group) => {
            chown(path, None, Some(group))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o710))
        }
        None if mode == 0o710 => fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
        None => Ok(()),
    }
}

/// Makes a directory that did not exist.
pub fn new(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_passable_for_a_group_until_it_is_closed_again() {
        let home = tempfile::tempdir().unwrap();
        let mode = || fs::metadata(home.path()).unwrap().mode() & 0o777;
        let group = fs::metadata(home.path()).unwrap().gid();
        passable(home.path(), Some(group)).unwrap();
        assert_eq!(mode(), 0o710);
        passable(home.path(), None).unwrap();
        assert_eq!(mode(), 0o700);
        // What its owner opened otherwise is theirs.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        passable(home.path(), None).unwrap();
        assert_eq!(mode(), 0o755);
    }

    #[test]
    fn a_directory_of_ours_is_closed_to_others_and_a_link_is_none() {
        let home = tempfile::tempdir().unwrap();
        let (path, link) = (home.path().join("a/b"), home.path().join("link"));
        own(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        own(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(own(&link).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
