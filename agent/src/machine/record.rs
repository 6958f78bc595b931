//! What is written down about one machine: the intent before its process exists, and what became of
//! the process. Both survive a power cut, because a restarted agent acts on nothing else, and both are read by
//! agents and shims of other versions.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use minicbor::{Decode, Encode};
use proto::{
    id::{Epoch, MachineName, Name, SessionId},
    session::{MachineSpec, Prefix, reconcile::Setup},
    time::{BootMoment, Timestamp},
    topology::Contents,
    wire::{Kind, Message, decode, encode},
};

use super::{
    process::Process,
    qemu::QemuFacts,
    traces::{Mark, Who},
};
use crate::host::durable;

/// Bytes of a file here, and of an intent with all its files as a shim tells it.
pub(super) const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The intent: everything the shim needs, fixed before its process exists.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Launch {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// Its label, part of the machine's name.
    #[n(1)]
    pub session_name: Name,
    /// The zone that names end in, such as `mesh.internal`.
    #[n(2)]
    pub zone: String,
    /// The session's network; `.1` is the gateway.
    #[n(3)]
    pub subnet: Prefix,
    /// The machine.
    #[n(4)]
    pub spec: MachineSpec,
    /// The bytes of its files; absent = none.
    #[cbor(n(5), default)]
    pub contents: Contents,
    /// The complete raw image, never written to.
    #[cbor(n(6), with = "proto::wire::fields::path")]
    pub base: PathBuf,
    /// The QEMU to run it with.
    #[n(7)]
    pub qemu: QemuFacts,
    /// The boot of the host that this was written in.
    #[n(8)]
    pub boot: String,
}

impl Message for Launch {
    const KIND: Kind = Kind::Launch;
}

impl Message for ShimStatus {
    const KIND: Kind = Kind::ShimStatus;
}

impl Launch {
    /// Names the incarnation.
    pub fn who(&self) -> Who {
        let MachineSpec { machine, epoch, .. } = &self.spec;
        Who { session: self.session, machine: machine.clone(), epoch: *epoch }
    }

    /// Gives what its processes in the directory of `paths` carry on their command lines.
    pub fn mark(&self, paths: &Paths) -> Mark {
        Mark { who: self.who(), label: self.session_name.to_string(), place: paths.place() }
    }

    /// Gives the domain that the machine's short names are completed with.
    pub fn domain(&self) -> String {
        format!("{}.{}", self.session_name, self.zone)
    }
}

/// How QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ending {
    /// Why, in words.
    #[n(0)]
    pub reason: String,
    /// Whether it ended in order: the guest shut down, or we stopped it; absent = it did not.
    #[cbor(n(1), default)]
    pub clean: bool,
    /// Whether it was stopped by [`super::Shim::stop`]; absent = it was not.
    #[cbor(n(2), default)]
    pub asked: bool,
    /// Whether the guest never showed a sign of life under hardware acceleration; absent = it did.
    #[cbor(n(3), default)]
    pub accelerator_doubted: bool,
}

/// What one machine's process is doing, as the shim says and as the file `shim` keeps.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ShimStatus {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// The machine.
    #[n(1)]
    pub machine: MachineName,
    /// The incarnation.
    #[n(2)]
    pub epoch: Epoch,
    /// The shim.
    #[n(3)]
    pub shim: Process,
    /// QEMU, from the moment that it exists.
    #[cbor(n(4), with = "proto::wire::fields::option", has_nil)]
    pub qemu: Option<Process>,
    /// Since when the guest runs, for people; `None` while it is being started.
    #[n(5)]
    pub since: Option<Timestamp>,
    /// The same for who decides.
    #[cbor(n(6), with = "proto::wire::fields::option", has_nil)]
    pub began: Option<BootMoment>,
    /// Whether the guest has answered on the network; absent = it has not.
    #[cbor(n(7), default)]
    pub booted: bool,
    /// What became of its setup; absent = the guest has not told.
    #[cbor(n(8), default)]
    pub setup: Setup,
    /// Why QEMU holds the guest, if it does.
    #[n(9)]
    pub paused: Option<String>,
    /// How QEMU ended; nothing follows.
    #[cbor(n(10), with = "proto::wire::fields::option", has_nil)]
    pub ended: Option<Ending>,
    /// Whether the guest has its IPv6 address; absent = it was not seen to have it.
    #[cbor(n(11), with = "proto::wire::fields::usual", has_nil)]
    pub v6: bool,
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

    /// Names this directory in a few characters, among all of a computer.
    pub fn place(&self) -> String {
        self.sockets.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
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
        self.dir.join("launch")
    }

    /// What became of it.
    pub fn status(&self) -> PathBuf {
        self.dir.join("shim")
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

/// What a file of [`store`] holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<T> {
    /// There is none.
    Absent,
    /// What was written.
    Whole(T),
    /// Something else; why it cannot be understood.
    Damaged(String),
}

/// Reads what [`store`] wrote. An error says that nobody can tell now.
pub fn read<T: Message>(path: &Path) -> io::Result<Record<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::Absent),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(match decode(&bytes, MAX_BYTES) {
        Ok(value) => Record::Whole(value),
        Err(error) => Record::Damaged(error.to_string()),
    })
}

/// Gives what can be known from a file of [`store`]: one that is damaged or cannot be read says nothing.
/// It is looked at again and again, so it is told to those only who ask for everything.
pub fn known<T: Message>(path: &Path) -> Option<T> {
    let because = match read(path) {
        Ok(Record::Whole(value)) => return Some(value),
        Ok(Record::Absent) => return None,
        Ok(Record::Damaged(because)) => because,
        Err(error) => error.to_string(),
    };
    tracing::debug!(path = %path.display(), because, "a machine's file is damaged or cannot be read");
    None
}

/// Reads what [`store`] wrote; `None` when there is no such file.
pub fn load<T: Message>(path: &Path) -> io::Result<Option<T>> {
    match read(path)? {
        Record::Absent => Ok(None),
        Record::Whole(value) => Ok(Some(value)),
        Record::Damaged(because) => Err(io::Error::new(io::ErrorKind::InvalidData, because)),
    }
}

/// Replaces `path` with `value` so that a power cut leaves the old or the new, whole.
pub fn store<T: Message>(path: &Path, value: &T) -> io::Result<()> {
    durable::write(path, &encode(value))
}
