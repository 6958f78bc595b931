//! How a machine's process begins, and how the next agent finds it again. Before anything starts the
//! computer itself is asked what runs, because a directory can be copied, replaced or damaged meanwhile;
//! a shim also holds the lock on its directory for as long as it lives. What may run is never taken for
//! dead: it is found, or it is unknown and looked for again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use proto::{id::MachineName, reasons::NoKvm, session::Accelerator};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout_at},
};

use super::{
    cidata,
    computer::{self, Found},
    disk::{self, DiskError},
    handle::{self, Shim},
    keys, process,
    qemu::QemuFacts,
    record::{self, Launch, Paths, ShimStatus},
    seed, shim,
    traces::{Role, Scope, Who},
};
use crate::host::private;

/// Between two looks at a shim that is starting.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two looks at all processes.
const SEARCH_AGAIN: Duration = Duration::from_millis(100);
/// How long a shim that has written its ending may take to be gone.
const LAST_STEPS: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

/// What is the same for all machines of this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where sockets are; short, and open to nobody else.
    pub run: PathBuf,
    /// The agent program, which has the shim in it.
    pub program: PathBuf,
    /// How long is waited for shims.
    pub patience: Patience,
}

/// How long is waited for a shim before it is called silent. Who is silent is looked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long shim and QEMU may take until the guest runs.
    pub start: Duration,
    /// How long a living shim may take until it answers.
    pub find: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        // Seconds on a very loaded host; and a look that is repeated for ever may be short.
        Patience { start: Duration::from_secs(40), find: Duration::from_secs(5) }
    }
}

impl Host {
    /// Uses this very program, also when its file was replaced by an upgrade.
    pub fn new(run: PathBuf) -> Host {
        Host { run, program: "/proc/self/exe".into(), patience: Patience::default() }
    }
}

/// Why a machine was not launched or not found.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Something of it runs already; which processes.
    #[error("it runs already ({0})")]
    Running(String),
    /// Something of it lives and does not answer; which processes.
    #[error("its shim does not answer ({0})")]
    Silent(String),
    /// It was started from another directory, a copy of which this one is.
    #[error("it runs from another directory, {dir} ({processes}); `agent machine stop` ends it")]
    Elsewhere {
        /// The other directory.
        dir: PathBuf,
        /// Which processes.
        processes: String,
    },
    /// Nothing of it is seen, and yet its lock is held.
    #[error("something that cannot be seen from here holds {0}")]
    Locked(PathBuf),
    /// Nobody can tell whether it runs.
    #[error("it cannot be found out whether it runs")]
    Unknown(#[source] io::Error),
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
    /// The disk that is here was made from another image.
    #[error("its disk was made from another image; the machine must be removed first")]
    OtherImage,
    /// The disk that was made for it is not there any more.
    #[error("its disk {0} is gone; put it back, or: agent session up FILE --replace {1}")]
    DiskGone(PathBuf, MachineName),
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
}

impl LaunchError {
    /// Tells whether the machine may be running in spite of the error.
    pub fn may_run(&self) -> bool {
        use LaunchError::{Another, Elsewhere, Locked, Running, Silent, Unknown};
        matches!(self, Running(_) | Silent(_) | Elsewhere { .. } | Locked(_) | Unknown(_) | Another { .. })
    }
}

/// Writes the intent, makes the disks that are missing, with keys of its own if it shall have some, and starts the
/// machine in `dir`.
pub async fn launch(host: &Host, dir: &Path, intent: &Launch, own_keys: bool) -> Result<Shim, LaunchError> {
    private::own(dir).map_err(|error| LaunchError::Io("make the machine's directory", error))?;
    private::own(&host.run).map_err(|error| LaunchError::Io("make the directory for sockets", error))?;
    let paths = Paths::new(dir, &host.run);
    let lock = lock_dead(&paths, &intent.who()).await?;
    bury(&paths).await?;
    let boot = process::boot().map_err(|error| LaunchError::Io("read the boot id", error))?;
    let before = record::known::<Launch>(&paths.launch());
    let last = record::known::<ShimStatus>(&paths.status());
    let qemu = trusted(intent.qemu.clone(), &boot, before.as_ref(), last.as_ref());
    // From here on the file speaks of this start only.
    forget(&paths.status()).map_err(|error| LaunchError::Io("forget the last start", error))?;
    drop(lock);
    if !intent.base.is_file() {
        return Err(LaunchError::NoImage(intent.base.clone()));
    }
    let intent = as_made(intent, before.as_ref());
    disks(&paths, &intent, before.as_ref(), own_keys).await?;
    let intent = Launch { boot, qemu, ..intent };
    record::store(&paths.launch(), &intent).map_err(|error| LaunchError::Io("write the intent", error))?;
    let mark = intent.mark(&paths).to_string();
    let child = spawn(host, &paths, &mark).map_err(|error| LaunchError::Io("start the shim", error))?;
    started(host, paths, intent, child).await
}

/// Takes the lock of a machine of which nothing lives on this computer. A shim that has written its
/// ending needs a moment more.
async fn lock_dead(paths: &Paths, who: &Who) -> Result<File, LaunchError> {
    let deadline = Instant::now() + LAST_STEPS;
    loop {
        let lock = try_lock(paths).map_err(|error| LaunchError::Io("lock the machine's directory", error))?;
        let found = computer::search(paths, who, Scope::Any).await.map_err(LaunchError::Unknown)?;
        // Let go of at once otherwise: a shim that is starting waits for it.
        if let Some(lock) = lock.filter(|_| found.is_empty()) {
            return Ok(lock);
        }
        let last = record::known::<ShimStatus>(&paths.status());
        if last.is_none_or(|last| last.ended.is_none()) || Instant::now() >= deadline {
            return Err(match found.is_empty() {
                true => LaunchError::Locked(paths.lock()),
                false => LaunchError::Running(computer::named(&found)),
            });
        }
        sleep(SEARCH_AGAIN).await;
    }
}

/// Gives the QEMU facts to start with: without hardware acceleration once this machine has shown no sign
/// of life under it, until the host is started again.
fn trusted(qemu: QemuFacts, boot: &str, before: Option<&Launch>, last: Option<&ShimStatus>) -> QemuFacts {
    let doubted = last.and_then(|last| last.ended.as_ref()).is_some_and(|end| end.accelerator_doubted);
    let same_boot = before.is_some_and(|before| before.boot == boot);
    let gave_up = before.is_some_and(|before| before.qemu.no_kvm == Some(NoKvm::MachineSilent));
    if qemu.accelerator == Accelerator::Kvm && same_boot && (doubted || gave_up) {
        return qemu.translated(NoKvm::MachineSilent);
    }
    qemu
}

/// Gives the intent with what the disk was made with: what a guest is told at its first boot stays as it
/// was for as long as it has that disk, also for guests that ask at every boot.
fn as_made(intent: &Launch, before: Option<&Launch>) -> Launch {
    let mut intent = intent.clone();
    if let Some(before) = before.filter(|before| before.spec.epoch == intent.spec.epoch) {
        let (spec, was) = (&mut intent.spec, &before.spec);
        intent.contents = before.contents.clone();
        (spec.setup, spec.files, spec.env) = (was.setup.clone(), was.files.clone(), was.env.clone());
        (spec.ssh_keys, spec.user) = (was.ssh_keys.clone(), was.user.clone());
    }
    intent
}

async fn disks(
    paths: &Paths,
    intent: &Launch,
    before: Option<&Launch>,
    own_keys: bool,
) -> Result<(), LaunchError> {
    let size = intent.spec.disk_mib.unwrap_or(0).saturating_mul(MIB).max(intent.spec.image_size);
    let there = paths.disk().try_exists().map_err(|error| LaunchError::Io("look for the disk", error))?;
    if !there && before.is_some_and(|before| before.spec.epoch == intent.spec.epoch) {
        // The intent is written after the disk is made: it was there, and may hold what nobody has again.
        return Err(LaunchError::DiskGone(paths.disk(), intent.spec.machine.clone()));
    }
    if !there {
        forget(&paths.set_up()).map_err(|error| LaunchError::Io("forget the last disk", error))?;
        keys::make(&paths.dir, own_keys)
            .map_err(|error| LaunchError::Io("write the machine's keys", error))?;
        disk::create(&intent.qemu, &intent.base, &paths.disk(), size).await?;
    } else if before.is_some_and(|before| before.spec.image != intent.spec.image) {
        return Err(LaunchError::OtherImage);
    } else if before.is_none()
        && !disk::is_over(&paths.disk(), &intent.base)
            .map_err(|error| LaunchError::Io("read the disk's header", error))?
    {
        // Nothing else tells any more what it was made from.
        return Err(LaunchError::OtherImage);
    } else {
        disk::grow(&intent.qemu, &paths.disk(), size).await?;
    }
    let keys = keys::of(&paths.dir).map_err(|error| LaunchError::Io("read the machine's keys", error))?;
    cidata::write(&paths.seed(), &seed::seed(intent, keys.as_ref()))
        .map_err(|error| LaunchError::Io("write the seed disk", error))
}

fn spawn(host: &Host, paths: &Paths, mark: &str) -> io::Result<Child> {
    let (out, err) = log(paths).unwrap_or_else(|error| {
        tracing::warn!(path = %paths.log().display(), %error, "a shim's words are kept nowhere");
        (Stdio::null(), Stdio::null())
    });
    Command::new(&host.program)
        .arg0("agent")
        .arg("shim")
        .arg(&paths.dir)
        .arg(&host.run)
        .arg(mark)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
}

/// Opens the shim's log for both of its voices, empty. A machine does not wait for a place to write words.
fn log(paths: &Paths) -> io::Result<(Stdio, Stdio)> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(paths.log())?;
    if log.metadata()?.is_file() {
        log.set_len(0)?;
    }
    Ok((log.try_clone()?.into(), log.into()))
}

/// Waits until the guest runs or the shim has ended.
async fn started(host: &Host, paths: Paths, intent: Launch, mut child: Child) -> Result<Shim, LaunchError> {
    let deadline = Instant::now() + host.patience.start;
    let silent = LaunchError::Silent(format!("process {}", child.id().unwrap_or_default()));
    let who = intent.who();
    let shim = loop {
        if let Ok(Ok(shim)) = timeout_at(deadline, Shim::connect(&paths, Some(&intent))).await {
            break shim;
        }
        if let Ok(Some(_)) = child.try_wait() {
            return Err(LaunchError::Ended(why_ended(&paths)));
        }
        if Instant::now() >= deadline {
            return Err(silent);
        }
        sleep(LOOK_AGAIN).await;
    };
    // The runtime reaps it when it ends, handle or not.
    drop(child);
    let mut status = shim.status();
    let known = |status: &ShimStatus| status.since.is_some() || status.ended.is_some();
    match timeout_at(deadline, status.wait_for(known)).await {
        Ok(Ok(status)) => {
            if let Some(ending) = status.ended.as_ref().filter(|_| status.since.is_none()) {
                return Err(LaunchError::Ended(ending.reason.clone()));
            }
        }
        _ => return Err(silent),
    }
    check(&paths, &who, &shim)?;
    Ok(shim)
}

fn why_ended(paths: &Paths) -> String {
    let status: Option<ShimStatus> = record::known(&paths.status());
    if let Some(ending) = status.and_then(|status| status.ended) {
        return ending.reason;
    }
    let log = shim::log::last(&paths.log());
    shim::words(&log).unwrap_or_else(|| "the shim ended without a word".to_owned())
}

/// Finds the machine that an earlier agent launched in `dir`; `None` when it does not run, and then its
/// QEMU is certainly dead. What answers is the truth: an intent on the disk that is lost, or speaks of
/// another incarnation, is written again.
pub async fn adopt(host: &Host, dir: &Path, who: &Who) -> Result<Option<Shim>, LaunchError> {
    let paths = Paths::new(dir, &host.run);
    let deadline = Instant::now() + host.patience.find;
    loop {
        let found = computer::search(&paths, who, Scope::Any).await.map_err(LaunchError::Unknown)?;
        if found.is_empty() {
            settle_dead(&paths).await?;
            return Ok(None);
        }
        let intent = record::known(&paths.launch());
        let asked = timeout_at(deadline, Shim::connect(&paths, intent.as_ref())).await;
        if let Ok(Ok(shim)) = asked {
            check(&paths, who, &shim)?;
            write_again(&paths, intent.as_ref(), shim.launch());
            return Ok(Some(shim));
        }
        if let Some(error) = elsewhere(&paths, &found) {
            return Err(error);
        }
        if found.iter().all(is_qemu) {
            // Its shim is dead, and the kernel was not asked in time to end it as well.
            handle::end_all(&found).await.map_err(LaunchError::Unknown)?;
        } else if Instant::now() >= deadline {
            return Err(LaunchError::Silent(computer::named(&found)));
        }
        sleep(SEARCH_AGAIN).await;
    }
}

/// Nothing of it lives: its ending is written down, unless it is already.
async fn settle_dead(paths: &Paths) -> Result<(), LaunchError> {
    if !paths.dir.exists() {
        return Ok(());
    }
    match try_lock(paths) {
        Ok(Some(_lock)) => bury(paths).await,
        Ok(None) => Err(LaunchError::Locked(paths.lock())),
        // The lock is a second opinion; a disk that takes none does not make the dead alive.
        Err(_) => bury(paths).await,
    }
}

fn is_qemu(found: &Found) -> bool {
    found.trace.as_ref().is_some_and(|trace| trace.role == Role::Qemu)
}

/// Tells of a shim that was started for another directory which is still there.
fn elsewhere(paths: &Paths, found: &[Found]) -> Option<LaunchError> {
    let dir = found.iter().find_map(|found| match found.trace.as_ref() {
        Some(trace) if trace.mark.place != paths.place() => match &trace.role {
            Role::Shim(dir) if dir.exists() => Some(dir.clone()),
            _ => None,
        },
        _ => None,
    })?;
    Some(LaunchError::Elsewhere { dir, processes: computer::named(found) })
}

fn write_again(paths: &Paths, known: Option<&Launch>, launch: &Launch) {
    if known.is_some_and(|known| known.who() == launch.who()) {
        return;
    }
    let written = private::own(&paths.dir).and_then(|()| record::store(&paths.launch(), launch));
    match written {
        Ok(()) => {
            tracing::warn!(path = %paths.launch().display(), "the intent was lost and is written again")
        }
        // The handle has it.
        Err(error) => tracing::warn!(path = %paths.launch().display(), %error, "the intent is lost"),
    }
}

/// Tells what became of the last start of the machine in `dir`; `None` when nothing does.
pub fn last(host: &Host, dir: &Path) -> Option<ShimStatus> {
    record::known(&Paths::new(dir, &host.run).status())
}

/// Writes down the ending of what the last shim left behind, and makes sure that it is dead.
pub(super) async fn bury(paths: &Paths) -> Result<(), LaunchError> {
    // A damaged file names nobody; who lived would have been found by its command line.
    let Some(last) = record::known::<ShimStatus>(&paths.status()) else { return Ok(()) };
    let shim = format!("process {}", last.shim.pid);
    match handle::last_words(paths, last).await.map_err(LaunchError::Unknown)? {
        Some(_) => Ok(()),
        None => Err(LaunchError::Running(shim)),
    }
}

/// Compares who answers with whose directory it is. Of which incarnation it is, it knows best.
fn check(paths: &Paths, who: &Who, shim: &Shim) -> Result<(), LaunchError> {
    let status = shim.status().borrow().clone();
    if (status.session, &status.machine) == (who.session, &who.machine) {
        return Ok(());
    }
    Err(LaunchError::Another {
        dir: paths.dir.clone(),
        found: format!("{} of session {}", status.machine, status.session),
        wanted: format!("{} of session {}", who.machine, who.session),
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
            began: None,
            booted: false,
            v6: false,
            setup: Setup::Pending,
            paused: None,
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
