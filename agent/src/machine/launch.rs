//! The life of a machine's process as the agent drives it: launched from a written intent, found again
//! after the agent's own death, removed with everything it had. A shim holds the lock on its directory
//! for as long as it lives, so two processes of one machine cannot be.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use proto::session::Accelerator;
use rustix::fs::{FlockOperation, flock};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{
    cidata,
    disk::{self, DiskError},
    handle::{self, Shim},
    process,
    qemu::QemuFacts,
    record::{self, Launch, Paths, ShimStatus},
    seed,
};

/// How long shim and QEMU may take until the guest runs: seconds on a very loaded host.
const START: Duration = Duration::from_secs(40);
/// How long a shim that holds the lock may take until it answers.
const FIND: Duration = Duration::from_secs(10);
/// Between two looks at a shim that is starting.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const MIB: u64 = 1024 * 1024;

/// What is the same for all machines of this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where sockets are; short, and open to nobody else.
    pub run: PathBuf,
    /// The agent program, which has the shim in it.
    pub program: PathBuf,
}

impl Host {
    /// Uses this very program, also when its file was replaced by an upgrade.
    pub fn new(run: PathBuf) -> Host {
        Host { run, program: "/proc/self/exe".into() }
    }
}

/// Why a machine was not launched or not found.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its process exists already.
    #[error("it runs already")]
    Running,
    /// The disk that is here was made from another image.
    #[error("its disk was made from another image; the machine must be removed first")]
    OtherImage,
    /// The image is not where it should be.
    #[error("its image is not at {0}")]
    NoImage(PathBuf),
    /// The disk could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file could not be written or read.
    #[error("cannot {0}")]
    Io(&'static str, #[source] io::Error),
    /// The process ended at once.
    #[error("QEMU did not start: {0}")]
    Ended(String),
    /// The process exists and does not answer.
    #[error("its shim does not answer; see {0}")]
    Silent(PathBuf),
    /// What answers is another machine.
    #[error("the process in {dir} is {found}, not {wanted}")]
    Another {
        /// The directory.
        dir: PathBuf,
        /// What it says to be.
        found: String,
        /// What it should be.
        wanted: String,
    },
}

/// Writes the intent, makes the disks that are missing, and starts the machine in `dir`.
pub async fn launch(host: &Host, dir: &Path, intent: &Launch) -> Result<Shim, LaunchError> {
    private(dir).map_err(|error| LaunchError::Io("make the machine's directory", error))?;
    private(&host.run).map_err(|error| LaunchError::Io("make the directory for sockets", error))?;
    let paths = Paths::new(dir, &host.run);
    let lock = lock_dead(&paths).await?;
    bury(&paths).await?;
    let boot = process::boot().map_err(|error| LaunchError::Io("read the boot id", error))?;
    let before = record::load(&paths.launch())
        .map_err(|error| LaunchError::Io("read the intent of the last start", error))?;
    let last = record::load(&paths.status())
        .map_err(|error| LaunchError::Io("read what became of the last start", error))?;
    let qemu = trusted(intent.qemu.clone(), &boot, before.as_ref(), last.as_ref());
    // From here on the file speaks of this start only.
    forget(&paths.status()).map_err(|error| LaunchError::Io("forget the last start", error))?;
    drop(lock);
    if !intent.base.is_file() {
        return Err(LaunchError::NoImage(intent.base.clone()));
    }
    let intent = as_made(intent, before.as_ref());
    disks(&paths, &intent, before.as_ref()).await?;
    let intent = Launch { boot, qemu, ..intent };
    record::store(&paths.launch(), &intent).map_err(|error| LaunchError::Io("write the intent", error))?;
    let child = spawn(host, &paths).map_err(|error| LaunchError::Io("start the shim", error))?;
    started(paths, &intent, child).await
}

/// Takes the lock of a machine that does not run. A shim that has written its ending needs a moment more.
async fn lock_dead(paths: &Paths) -> Result<File, LaunchError> {
    let wrong = |error| LaunchError::Io("lock the machine's directory", error);
    let deadline = Instant::now() + FIND;
    loop {
        if let Some(lock) = try_lock(paths).map_err(wrong)? {
            return Ok(lock);
        }
        let last = record::load::<ShimStatus>(&paths.status()).map_err(wrong)?;
        if last.is_none_or(|last| last.ended.is_none()) || Instant::now() >= deadline {
            return Err(LaunchError::Running);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Gives the QEMU facts to start with: without hardware acceleration once this machine has shown no sign
/// of life under it, until the host is started again.
fn trusted(qemu: QemuFacts, boot: &str, before: Option<&Launch>, last: Option<&ShimStatus>) -> QemuFacts {
    const SILENT: &str = "this machine showed no sign of life under hardware acceleration";
    let doubted = last.and_then(|last| last.ended.as_ref()).is_some_and(|end| end.accelerator_doubted);
    let same_boot = before.is_some_and(|before| before.boot == boot);
    let gave_up = before.is_some_and(|before| before.qemu.refused.as_deref() == Some(SILENT));
    if qemu.accelerator == Accelerator::Kvm && same_boot && (doubted || gave_up) {
        return qemu.translated(SILENT);
    }
    qemu
}

/// Gives the intent with what the disk was made with: what a guest is told at its first boot stays as it
/// was for as long as it has that disk, also for guests that ask at every boot.
fn as_made(intent: &Launch, before: Option<&Launch>) -> Launch {
    let mut intent = intent.clone();
    if let Some(was) = before.map(|before| &before.spec).filter(|was| was.epoch == intent.spec.epoch) {
        let spec = &mut intent.spec;
        (spec.setup, spec.files, spec.env) = (was.setup.clone(), was.files.clone(), was.env.clone());
        (spec.ssh_keys, spec.user) = (was.ssh_keys.clone(), was.user.clone());
    }
    intent
}

async fn disks(paths: &Paths, intent: &Launch, before: Option<&Launch>) -> Result<(), LaunchError> {
    let size = intent.spec.disk_mib.unwrap_or(0).saturating_mul(MIB).max(intent.spec.image_size);
    if !paths.disk().exists() {
        forget(&paths.set_up()).map_err(|error| LaunchError::Io("forget the last disk", error))?;
        disk::create(&intent.qemu, &intent.base, &paths.disk(), size).await?;
    } else if before.is_some_and(|before| before.spec.image != intent.spec.image) {
        return Err(LaunchError::OtherImage);
    } else {
        disk::grow(&intent.qemu, &paths.disk(), size).await?;
    }
    cidata::write(&paths.seed(), &seed::seed(intent))
        .map_err(|error| LaunchError::Io("write the seed disk", error))
}

fn spawn(host: &Host, paths: &Paths) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(paths.log())?;
    log.set_len(0)?;
    Command::new(&host.program)
        .arg0("agent")
        .arg("shim")
        .arg(&paths.dir)
        .arg(&host.run)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// Waits until the guest runs or the shim has ended.
async fn started(paths: Paths, intent: &Launch, mut child: Child) -> Result<Shim, LaunchError> {
    let deadline = Instant::now() + START;
    let log = paths.log();
    let silent = || LaunchError::Silent(log.clone());
    let shim = loop {
        if let Ok(shim) = Shim::connect(paths.clone()).await {
            break shim;
        }
        if let Ok(Some(_)) = child.try_wait() {
            return Err(LaunchError::Ended(why_ended(&paths)));
        }
        if Instant::now() >= deadline {
            return Err(silent());
        }
        sleep(LOOK_AGAIN).await;
    };
    // The runtime reaps it when it ends, handle or not.
    drop(child);
    let mut status = shim.status();
    let known = |status: &ShimStatus| status.since.is_some() || status.ended.is_some();
    let left = deadline.saturating_duration_since(Instant::now());
    match tokio::time::timeout(left, status.wait_for(known)).await {
        Ok(Ok(status)) => {
            if let Some(ending) = status.ended.as_ref().filter(|_| status.since.is_none()) {
                return Err(LaunchError::Ended(ending.reason.clone()));
            }
        }
        _ => return Err(silent()),
    }
    check(&paths, intent, &shim)?;
    Ok(shim)
}

fn why_ended(paths: &Paths) -> String {
    let status: Option<ShimStatus> = record::load(&paths.status()).ok().flatten();
    if let Some(ending) = status.and_then(|status| status.ended) {
        return ending.reason;
    }
    let log = fs::read_to_string(paths.log()).unwrap_or_default();
    log.lines().rev().find(|line| !line.is_empty()).unwrap_or("the shim ended without a word").to_owned()
}

/// Finds the machine in `dir` that an earlier agent launched; `None` when it does not run, and then
/// its QEMU is certainly dead.
pub async fn adopt(host: &Host, dir: &Path) -> Result<Option<Shim>, LaunchError> {
    let paths = Paths::new(dir, &host.run);
    let read = |error| LaunchError::Io("read what became of the machine", error);
    let Some(intent) = record::load::<Launch>(&paths.launch()).map_err(read)? else { return Ok(None) };
    let deadline = Instant::now() + FIND;
    loop {
        if let Some(_lock) = try_lock(&paths).map_err(read)? {
            bury(&paths).await?;
            return Ok(None);
        }
        if let Ok(shim) = Shim::connect(paths.clone()).await {
            check(&paths, &intent, &shim)?;
            return Ok(Some(shim));
        }
        if Instant::now() >= deadline {
            return Err(LaunchError::Silent(paths.log()));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Tells what became of the last start of the machine in `dir`; `None` when there was none.
pub fn last(host: &Host, dir: &Path) -> Result<Option<ShimStatus>, LaunchError> {
    record::load(&Paths::new(dir, &host.run).status())
        .map_err(|error| LaunchError::Io("read what became of the machine", error))
}

/// Makes sure that what the last shim left behind is dead, and writes its ending down. The caller has
/// the lock, so no shim lives here; what is written tells whom to look for.
async fn bury(paths: &Paths) -> Result<(), LaunchError> {
    let wrong = |error| LaunchError::Io("end what is left of the machine's last start", error);
    if let Some(last) = record::load::<ShimStatus>(&paths.status()).map_err(wrong)? {
        handle::last_words(paths, last).await.map_err(wrong)?;
    }
    Ok(())
}

/// Ends the machine in `dir`, if it runs, and deletes everything it had.
pub async fn remove(host: &Host, dir: &Path) -> Result<(), LaunchError> {
    if !dir.exists() {
        return Ok(());
    }
    let wrong = |error| LaunchError::Io("remove the machine", error);
    match adopt(host, dir).await {
        Ok(Some(shim)) => drop(shim.kill().await.map_err(wrong)?),
        Ok(None) => {}
        // Whoever it is, it is in the way: the directory is ours.
        Err(LaunchError::Silent(_) | LaunchError::Another { .. }) => kill_recorded(host, dir).await?,
        Err(error) => return Err(error),
    }
    let paths = Paths::new(dir, &host.run);
    handle::clean(&paths);
    // The intent goes last: whatever is left without it is no machine.
    fs::remove_dir_all(dir).map_err(wrong)
}

async fn kill_recorded(host: &Host, dir: &Path) -> Result<(), LaunchError> {
    let paths = Paths::new(dir, &host.run);
    let wrong = |error| LaunchError::Io("end the machine's process", error);
    let Some(last) = record::load::<ShimStatus>(&paths.status()).map_err(wrong)? else {
        return Err(LaunchError::Silent(paths.log()));
    };
    if let Some(living) = last.shim.living().map_err(wrong)? {
        living.kill().map_err(wrong)?;
        living.ended(handle::DEATH).await;
    }
    handle::last_words(&paths, last).await.map_err(wrong)?.ok_or(LaunchError::Silent(paths.log())).map(drop)
}

/// Compares who answers with who was launched.
fn check(paths: &Paths, intent: &Launch, shim: &Shim) -> Result<(), LaunchError> {
    let status = shim.status().borrow().clone();
    let found = (status.session, &status.machine, status.epoch);
    let wanted = (intent.session, &intent.spec.machine, intent.spec.epoch);
    if found == wanted {
        return Ok(());
    }
    Err(LaunchError::Another {
        dir: paths.dir.clone(),
        found: format!("{} epoch {}", status.machine, status.epoch),
        wanted: format!("{} epoch {}", intent.spec.machine, intent.spec.epoch),
    })
}

/// Takes the lock of the machine's directory; `None` when a shim has it.
pub(super) fn try_lock(paths: &Paths) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(paths.lock())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory for its owner only. Below /tmp somebody else could have made it first.
fn private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let because = format!("{} belongs to somebody else", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, because));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use proto::session::reconcile::Setup;

    use super::{super::tests::sample, *};
    use crate::machine::{process::Process, record::Ending};

    fn check(doubted: bool, before: Accelerator, boot: &str) -> Accelerator {
        let mut before_launch = sample();
        let kvm = QemuFacts { accelerator: Accelerator::Kvm, ..before_launch.qemu.clone() };
        before_launch.qemu = match before {
            Accelerator::Kvm => kvm.clone(),
            // As this very function left it.
            Accelerator::Tcg => trusted(kvm.clone(), "b", Some(&before_launch), Some(&status(true))),
        };
        trusted(kvm, boot, Some(&before_launch), Some(&status(doubted))).accelerator
    }

    fn status(accelerator_doubted: bool) -> ShimStatus {
        let launch = sample();
        let ending = Ending { reason: String::new(), clean: false, asked: false, accelerator_doubted };
        ShimStatus {
            session: launch.session,
            machine: launch.spec.machine,
            epoch: launch.spec.epoch,
            shim: Process { pid: 1, start: 1, boot: "b".into() },
            qemu: None,
            since: None,
            booted: false,
            setup: Setup::Pending,
            ended: Some(ending),
        }
    }

    #[test]
    fn a_machine_that_was_silent_under_hardware_acceleration_is_translated_until_the_host_restarts() {
        use Accelerator::{Kvm, Tcg};
        assert_eq!(check(false, Kvm, "b"), Kvm);
        assert_eq!(check(true, Kvm, "b"), Tcg);
        assert_eq!(check(false, Tcg, "b"), Tcg, "also at the start after the next");
        assert_eq!(check(true, Tcg, "another boot"), Kvm);
    }
}
