//! What is written down about one machine: the intent before its process exists, and what became of
//! the process. Both survive a power cut, because a restarted agent acts on nothing else.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use proto::{
    id::{Epoch, MachineName, Name, SessionId},
    session::{MachineSpec, Prefix, reconcile::Setup},
    time::Timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{process::Process, qemu::QemuFacts};

/// The intent: everything the shim needs, fixed before its process exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The session.
    pub session: SessionId,
    /// Its label, part of the machine's name.
    pub session_name: Name,
    /// The zone that names end in, such as `mesh.internal`.
    pub zone: String,
    /// The session's network; `.1` is the gateway.
    pub subnet: Prefix,
    /// The machine.
    pub spec: MachineSpec,
    /// The complete raw image, never written to.
    pub base: PathBuf,
    /// The QEMU to run it with.
    pub qemu: QemuFacts,
    /// The boot of the host that this was written in.
    pub boot: String,
}

impl Launch {
    /// Gives the uuid of this incarnation, by which QEMU is recognised.
    pub fn uuid(&self) -> String {
        let label = format!("{} {} {}", self.session, self.spec.machine, self.spec.epoch);
        let hash = blake3::derive_key("mesh machine uuid 1", label.as_bytes());
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&hash[..16]);
        // Version 8, variant 1 of RFC 9562: "vendor specific".
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// Gives the domain that the machine's short names are completed with.
    pub fn domain(&self) -> String {
        format!("{}.{}", self.session_name, self.zone)
    }
}

/// How QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why, in words.
    pub reason: String,
    /// Whether it ended in order: the guest shut down, or we stopped it.
    pub clean: bool,
    /// Whether it was stopped by [`super::Shim::stop`].
    pub asked: bool,
    /// Whether the guest never showed a sign of life under hardware acceleration.
    pub accelerator_doubted: bool,
}

/// What one machine's process is doing, as the shim says and as `shim.json` keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// The session.
    pub session: SessionId,
    /// The machine.
    pub machine: MachineName,
    /// The incarnation.
    pub epoch: Epoch,
    /// The shim.
    pub shim: Process,
    /// QEMU, from the moment that it exists.
    pub qemu: Option<Process>,
    /// Since when the guest runs; `None` while it is being started.
    pub since: Option<Timestamp>,
    /// Whether the guest has answered on the network.
    pub booted: bool,
    /// What became of its setup.
    pub setup: Setup,
    /// How QEMU ended; nothing follows.
    pub ended: Option<Ending>,
}

/// Where the files and sockets of one machine are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The machine's directory.
    pub dir: PathBuf,
    /// The first part of the path of its sockets, short because a socket's path ends at 107 bytes.
    sockets: PathBuf,
}

impl Paths {
    /// Names the files of the machine in `dir` with sockets in `run`.
    pub fn new(dir: &Path, run: &Path) -> Paths {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let hash = blake3::hash(dir.as_os_str().as_encoded_bytes());
        let sockets = run.join(&hash.to_hex()[..12]);
        Paths { dir, sockets }
    }

    fn socket(&self, kind: &str) -> PathBuf {
        self.sockets.with_extension(kind)
    }

    /// The shim's own socket, see [`super::wire`].
    pub fn control(&self) -> PathBuf {
        self.socket("s")
    }

    /// QEMU's control socket.
    pub fn qmp(&self) -> PathBuf {
        self.socket("q")
    }

    /// QEMU's end of the serial console.
    pub fn serial(&self) -> PathBuf {
        self.socket("c")
    }

    /// QEMU's end of the network card.
    pub fn nic(&self) -> PathBuf {
        self.socket("n")
    }

    /// All sockets of this machine.
    pub fn sockets(&self) -> [PathBuf; 4] {
        [self.control(), self.qmp(), self.serial(), self.nic()]
    }

    /// The intent.
    pub fn launch(&self) -> PathBuf {
        self.dir.join("launch.json")
    }

    /// What became of it.
    pub fn status(&self) -> PathBuf {
        self.dir.join("shim.json")
    }

    /// Held locked by the living shim.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("shim.lock")
    }

    /// What shim and QEMU print.
    pub fn log(&self) -> PathBuf {
        self.dir.join("shim.log")
    }

    /// What the guest's serial console printed.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The machine's own disk, on top of the base.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Exists once the setup on the disk is done.
    pub fn set_up(&self) -> PathBuf {
        self.dir.join("setup.done")
    }

    /// The disk that tells the guest who it is.
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed.img")
    }
}

/// Reads what [`store`] wrote; `None` when there is no such file.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces `path` with `value` so that a power cut leaves the old or the new, whole.
pub fn store<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// Replaces `path` with `bytes`, readable by its owner only.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let dir = path.parent().ok_or_else(invalid)?;
    let mut name = path.file_name().map(OsStr::to_owned).ok_or_else(invalid)?;
    name.push(".new");
    let new = dir.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// Reads the wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
