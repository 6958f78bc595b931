//! Files that survive a crash whole: written beside, synced, renamed. Nothing here knows what is in them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Writes a file, readable by its owner only, so that after a crash either the old or the new content is
/// there, whole. Errors name the file. What cannot be written leaves nothing beside it: on a full disk it
/// would be in the way.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let written = write_new(&staged, bytes).and_then(|()| fs::rename(&staged, path));
    if written.is_err() {
        fs::remove_file(&staged).ok();
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    let stored = written.and_then(|()| File::open(parent)?.sync_all());
    stored.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_leaves_nothing_behind_and_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/such/file");
        let error = write(&path, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
        // A directory is no file: its replacement is written and cannot be put in place.
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        write(&path, b"x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
