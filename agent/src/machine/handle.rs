//! The agent's handle on one shim. Cheap to clone. A task follows the shim's status; when the shim is
//! gone it finds out how QEMU ended, and makes sure that it did: nobody may believe a machine dead
//! while its processor runs.

use std::{io, path::Path, sync::Arc, time::Duration};

use mesh::link::PortCodec;
use tokio::{
    net::UnixStream,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::codec::Framed;

use super::{
    computer::Found,
    process::{self, Process},
    record::{self, Ending, Launch, Paths, ShimStatus},
    wire::{self, Wish},
};

/// How long a living shim may take for an answer on a loaded host.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the shim tries to connect to the guest, and some room for its answer.
const DIAL: Duration = Duration::from_secs(12);
/// How long a killed process may take to be gone; a machine with much memory needs a second.
pub(super) const DEATH: Duration = Duration::from_secs(10);
/// How long QEMU has to write what it holds of its disks when it is told to end.
pub(super) const FLUSH: Duration = Duration::from_secs(5);
/// What the guest gets when the shim is asked by a signal, as when the host itself goes down.
pub(super) const HOST_SHUTDOWN: Duration = Duration::from_secs(30);
/// Between two attempts to reach a shim that lives but does not answer.
const AGAIN: Duration = Duration::from_millis(200);
/// What the shim needs to end QEMU after the guest's own time is over, see `stop`.
const AFTER_STOP: Duration = Duration::from_secs(12);

/// A machine's packet port: packets and DNS in both directions.
pub type PacketPort = Framed<UnixStream, PortCodec>;

/// A shim and its machine.
#[derive(Clone)]
pub struct Shim {
    paths: Arc<Paths>,
    launch: Arc<Launch>,
    status: watch::Receiver<ShimStatus>,
    /// Ends the following task with the last clone.
    _follower: Arc<Follower>,
}

struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shim {
    /// Connects to the shim that lives in `paths`. `intent` is what it was launched with as far as the
    /// disk tells; where that is not what runs, the shim is asked.
    pub(super) async fn connect(paths: &Paths, intent: Option<&Launch>) -> io::Result<Shim> {
        let mut stream = wire::ask(&paths.control(), &Wish::Status, ANSWER).await?;
        let first = timeout(ANSWER, wire::read::<ShimStatus>(&mut stream))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        let launch = match intent.filter(|intent| intent.spec.epoch == first.epoch) {
            Some(intent) => intent.clone(),
            None => launched(paths).await?,
        };
        let (told, status) = watch::channel(first);
        let paths = Arc::new(paths.clone());
        let follower = tokio::spawn(follow(stream, paths.clone(), told));
        let _follower = Arc::new(Follower(follower.abort_handle()));
        Ok(Shim { paths, launch: Arc::new(launch), status, _follower })
    }

    /// Gives what the machine was launched with.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Tells whether the shim answers now.
    pub async fn answers(&self) -> bool {
        let told = async {
            let mut stream = wire::ask(&self.paths.control(), &Wish::Status, ANSWER).await?;
            wire::read::<ShimStatus>(&mut stream).await
        };
        timeout(ANSWER, told).await.is_ok_and(|told| told.is_ok())
    }

    /// Watches what the machine's process is doing.
    pub fn status(&self) -> watch::Receiver<ShimStatus> {
        self.status.clone()
    }

    /// Presses the power button, and ends QEMU when the guest has not shut down `within`. Returns when
    /// QEMU is gone, whatever that takes.
    pub async fn stop(&self, within: Duration) -> io::Result<Ending> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let asked = wire::ask(&self.paths.control(), &Wish::Stop { within_ms }, ANSWER).await;
        let patience = if asked.is_ok() { within + AFTER_STOP } else { self.signalled().await? };
        match self.ending(patience).await {
            Some(ending) => Ok(ending),
            None => self.kill().await,
        }
    }

    /// Asks by a signal, which needs no socket: the shim, or QEMU itself where the shim stands still. Gives
    /// how long that may take.
    async fn signalled(&self) -> io::Result<Duration> {
        let status = self.status.borrow().clone();
        if let Some(shim) = status.shim.living()?
            && !status.shim.stands_still()
        {
            shim.terminate()?;
            return Ok(HOST_SHUTDOWN + AFTER_STOP);
        }
        if let Some(qemu) = status.qemu.as_ref().map(Process::living).transpose()?.flatten() {
            qemu.terminate()?;
            qemu.ended(FLUSH).await;
        }
        Ok(Duration::ZERO)
    }

    /// Kills the shim, and with it QEMU. Returns when both are gone.
    pub async fn kill(&self) -> io::Result<Ending> {
        let shim = self.status.borrow().shim.clone();
        if let Some(living) = shim.living()? {
            living.kill()?;
        }
        let late = || io::Error::new(io::ErrorKind::TimedOut, "QEMU was killed and is not gone after 25 s");
        self.ending(2 * DEATH + ANSWER).await.ok_or_else(late)
    }

    /// Opens a TCP connection to a port of the guest.
    pub async fn dial(&self, port: u16) -> io::Result<UnixStream> {
        wire::ask(&self.paths.control(), &Wish::Dial { port }, DIAL).await
    }

    /// Asks how much the shim holds.
    pub async fn counts(&self) -> io::Result<wire::Counts> {
        wire::counts(&self.paths.control(), ANSWER).await
    }

    /// Opens the serial console: what it printed, then both directions live.
    pub async fn console(&self) -> io::Result<UnixStream> {
        wire::ask(&self.paths.control(), &Wish::Console, ANSWER).await
    }

    /// Opens the packet port. The newest one replaces all others.
    pub async fn network(&self) -> io::Result<PacketPort> {
        let stream = wire::ask(&self.paths.control(), &Wish::Network, ANSWER).await?;
        Ok(Framed::new(stream, PortCodec))
    }

    async fn ending(&self, within: Duration) -> Option<Ending> {
        let mut status = self.status.clone();
        let ended = timeout(within, status.wait_for(|status| status.ended.is_some())).await;
        ended.ok()?.ok()?.ended.clone()
    }
}

/// Asks a shim what it was launched with.
async fn launched(paths: &Paths) -> io::Result<Launch> {
    let mut stream = wire::ask(&paths.control(), &Wish::Launched, ANSWER).await?;
    timeout(ANSWER, wire::read_large(&mut stream, record::MAX_BYTES))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

/// Passes the shim's words on until QEMU has ended.
async fn follow(mut stream: UnixStream, paths: Arc<Paths>, told: watch::Sender<ShimStatus>) {
    loop {
        while let Ok(status) = wire::read(&mut stream).await {
            told.send_replace(status);
        }
        if told.borrow().ended.is_some() {
            return;
        }
        let last = told.borrow().clone();
        match last_words(&paths, last).await {
            Ok(Some(status)) => {
                told.send_replace(status);
                return;
            }
            // It lives: the connection broke, or this host is very busy.
            Ok(None) | Err(_) => sleep(AGAIN).await,
        }
        if let Ok(again) = wire::ask(&paths.control(), &Wish::Status, ANSWER).await {
            stream = again;
        }
    }
}

/// Finds out how a machine ended whose shim may be gone; `None` while the shim lives. QEMU is dead
/// when this returns an ending.
pub(super) async fn last_words(paths: &Paths, last: ShimStatus) -> io::Result<Option<ShimStatus>> {
    if let Some(living) = last.shim.living()?
        && !living.ended(AGAIN).await
    {
        return Ok(None);
    }
    // A damaged file says less than what was heard before.
    let written: Option<ShimStatus> = record::known(&paths.status());
    let status = written.filter(|written| written.shim == last.shim).unwrap_or(last);
    if status.ended.is_some() {
        return Ok(Some(status));
    }
    // Its parent's death has killed it already, unless the kernel was not asked in time.
    bury(status.qemu.as_ref()).await?;
    let rebooted = status.shim.boot != process::boot()?;
    let reason = if rebooted { "the host was started again" } else { "its shim was killed" };
    let ending = Ending { reason: reason.into(), clean: false, asked: false, accelerator_doubted: false };
    let status = ShimStatus { ended: Some(ending), ..status };
    // On a full disk the next agent finds it out again.
    if let Err(error) = record::store(&paths.status(), &status) {
        tracing::warn!(path = %paths.status().display(), %error, "a machine's end is not written down");
    }
    clean(paths);
    Ok(Some(status))
}

/// Makes sure that a process is dead.
async fn bury(process: Option<&Process>) -> io::Result<()> {
    let Some(living) = process.map(Process::living).transpose()?.flatten() else { return Ok(()) };
    living.kill()?;
    if living.ended(DEATH).await {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU was killed and does not end"))
}

/// Makes sure that processes are dead: all are killed before any is waited for.
pub(super) async fn end_all(found: &[Found]) -> io::Result<()> {
    for found in found {
        if let Some(living) = found.process.living()? {
            living.kill()?;
        }
    }
    for found in found {
        bury(Some(&found.process)).await?;
    }
    Ok(())
}

/// Removes the sockets of a machine whose shim is gone.
pub(super) fn clean(paths: &Paths) {
    paths.sockets().iter().for_each(|socket| forget(socket));
}

fn forget(path: &Path) {
    // One that never existed is as gone as one that was removed.
    std::fs::remove_file(path).ok();
}
