//! A machine's own disk: an empty qcow2 layer over the read-only image. Made once, kept until the
//! machine is removed: it may hold what the user cannot get back. It grows and never shrinks.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::qemu::QemuFacts;

/// Making an empty layer takes milliseconds; this is for a disk that is waking up.
const WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a backing file's name, as qcow2 allows.
const MAX_NAME_BYTES: usize = 1023;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` did not run.
    #[error("cannot run qemu-img (Debian, Ubuntu: apt install qemu-utils)")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("qemu-img cannot make the disk: {0}")]
    Refused(String),
    /// It did not end.
    #[error("qemu-img did not make the disk within 30 s")]
    Late,
    /// The file could not be put in place.
    #[error("cannot put the disk in place")]
    Io(#[from] io::Error),
}

/// Makes `overlay` of `size` bytes over `base`, whole or not at all.
pub async fn create(facts: &QemuFacts, base: &Path, overlay: &Path, size: u64) -> Result<(), DiskError> {
    let new = overlay.with_extension("new");
    let mut create = Command::new(&facts.disk_tool);
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(&new).arg(size.to_string());
    done(create).await?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, overlay)?;
    Ok(())
}

/// Tells whether a disk is a layer over `base`, by the name in its header: that name is the image's hash,
/// and the directory before it may have moved.
pub fn is_over(overlay: &Path, base: &Path) -> io::Result<bool> {
    let mut file = File::open(overlay)?;
    let mut header = [0; 20];
    file.read_exact(&mut header)?;
    let at = u64::from_be_bytes(header[8..16].try_into().unwrap_or_default());
    let size = u32::from_be_bytes(header[16..20].try_into().unwrap_or_default());
    let mut name = vec![0; usize::try_from(size).unwrap_or_default().min(MAX_NAME_BYTES)];
    file.seek(io::SeekFrom::Start(at))?;
    file.read_exact(&mut name)?;
    let name = Path::new(OsStr::from_bytes(&name)).file_name();
    Ok(name.is_some() && name == base.file_name())
}

/// Makes `overlay` as large as `size` if it is smaller. Nobody may have it open.
pub async fn grow(facts: &QemuFacts, overlay: &Path, size: u64) -> Result<(), DiskError> {
    if virtual_size(overlay)? >= size {
        return Ok(());
    }
    let mut resize = Command::new(&facts.disk_tool);
    resize.args(["resize", "-q", "-f", "qcow2"]).arg(overlay).arg(size.to_string());
    done(resize).await?;
    File::open(overlay)?.sync_all()?;
    Ok(())
}

/// Reads how large the guest sees a qcow2 file: its header has the bytes at 24, most significant first.
fn virtual_size(overlay: &Path) -> io::Result<u64> {
    let mut header = [0; 32];
    File::open(overlay)?.read_exact(&mut header)?;
    if !header.starts_with(b"QFI\xfb") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no qcow2 file"));
    }
    let mut size = [0; 8];
    size.copy_from_slice(&header[24..]);
    Ok(u64::from_be_bytes(size))
}

async fn done(mut command: Command) -> Result<(), DiskError> {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(WITHIN, child).await.map_err(|_| DiskError::Late)?.map_err(DiskError::Run)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DiskError::Refused(words));
    }
    Ok(())
}
