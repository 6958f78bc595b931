//! Opens the two ends of the local API's socket. A data directory may lie deeper than the 107
//! bytes that a socket's path can have; such a socket is named through its open directory.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of a socket's path that every Linux takes, the final zero not counted.
const MAX_PATH: usize = 107;

/// Listens at `path`, for the owner alone or also for a group. A socket that a dead daemon left is replaced; the caller
/// holds the data directory's lock, so a living daemon's is not.
pub fn listen(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    // The name appears only when its permissions are right.
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (short, _dir) = short(&new)?;
    let listener = UnixListener::bind(short)?;
    chown(&new, None, group)?;
    fs::set_permissions(&new, Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Connects to the daemon behind `path`.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (short, _dir) = short(path)?;
    UnixStream::connect(short).await
}

/// Gives a path of at most [`MAX_PATH`] bytes, and the open directory that it needs.
fn short(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((path.to_owned(), None));
    }
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let dir = File::from(dir);
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name), Some(dir)))
}
