//! The process that is the parent of one QEMU and outlives the agent: `agent shim DIR RUN MARK`. The mark
//! is for those who look for it among all processes, see `traces`.
//! It owns QEMU's control socket, its console and its network card, and answers agents on one socket.
//! It ends by itself once QEMU has ended and that is written down. One thread, so that QEMU's parent
//! thread lives exactly as long as the shim: the kernel kills QEMU when that thread ends.
//!
//! ```text
//! lock, intent -> QEMU -S -> attach -> cont -> supervise -> ending written -> exit
//!                   \___________\________\________/^ QEMU ended, whenever that is
//! ```

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use proto::{
    session::{Accelerator, reconcile::Setup},
    time::BootMoment,
};
use rustix::fs::Mode;
use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

pub use ending::words;

use self::{ending::EndSigns, happening::Happening, knock::Signs, pause::Pause};
use super::{
    argv::argv,
    console, guard, handle, launch,
    process::{self, Process},
    qmp::{Event, Qmp, QmpError},
    record::{self, Ending, Launch, Paths, ShimStatus},
    setup,
    stop::{Step, Stopping},
};
use crate::host::limits;

mod descriptors;
mod ending;
mod happening;
mod knock;
pub(super) mod log;
pub(crate) mod names;
mod network;
mod outside;
mod pause;
mod serve;
mod streams;

/// How long QEMU may take to open its sockets on a loaded host.
const ATTACH: Duration = Duration::from_secs(30);
/// How long a command may take; a QEMU that is busier than this is stuck.
const COMMAND: Duration = Duration::from_secs(3);
/// How long an accelerated guest may take to its first frame: ten times what a slow one needs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(120);
/// How long agents have to hear the last word before the shim ends. It is on disk as well.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long another holder of the lock may take to let go: an agent looks for a moment only.
const LOCK: Duration = Duration::from_secs(2);
/// Wishes to stop that wait; one is enough, more change nothing.
const MAX_WISHES: usize = 4;

/// Runs the hidden subcommand with what follows `shim` on the command line.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let outcome = match arguments {
        [exec, parent, program, arguments @ ..] if exec == guard::EXEC => {
            guard::exec(parent, program, arguments)
        }
        [dir, run, _mark] => start(Path::new(dir), Path::new(run)),
        _ => Err(io::Error::other("this command is the agent's own: agent shim DIR RUN MARK")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "shim: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn start(dir: &Path, run: &Path) -> io::Result<()> {
    // Leaves the agent's terminal and its signals behind. Fails for a group's leader, which has none.
    rustix::process::setsid().ok();
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let paths = Paths::new(dir, run);
    let lock = lock(&paths)?;
    let intent = record::load::<Launch>(&paths.launch())?;
    let intent = intent.ok_or_else(|| io::Error::other("there is no intent to launch a machine here"))?;
    if intent.boot != process::boot()? {
        return Err(io::Error::other("the intent is from before this host's last start"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        limits::raise();
        limits::catch_file_size();
        run_machine(&intent, &paths).await
    })?;
    drop(lock);
    Ok(())
}

fn lock(paths: &Paths) -> io::Result<std::fs::File> {
    let deadline = std::time::Instant::now() + LOCK;
    loop {
        if let Some(lock) = launch::try_lock(paths)? {
            return Ok(lock);
        }
        if std::time::Instant::now() >= deadline {
            return Err(io::Error::other("another shim runs this machine"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What connects the shim with its QEMU.
struct Links {
    qmp: Qmp,
    events: mpsc::Receiver<Event>,
    console: UnixStream,
    nic: UnixStream,
}

async fn run_machine(intent: &Launch, paths: &Paths) -> io::Result<()> {
    let known = !setup::wanted(&intent.spec) || paths.set_up().exists();
    let first = ShimStatus {
        session: intent.session,
        machine: intent.spec.machine.clone(),
        epoch: intent.spec.epoch,
        shim: Process::of(std::process::id())?,
        qemu: None,
        since: None,
        began: None,
        booted: false,
        v6: false,
        setup: if known { Setup::Done } else { Setup::Pending },
        paused: None,
        ended: None,
    };
    record::store(&paths.status(), &first)?;
    handle::clean(paths);
    let listener = UnixListener::bind(paths.control())?;
    let launch = Arc::new(intent.clone());
    let (stop, stops) = mpsc::channel(MAX_WISHES);
    let (watcher, watchers) = mpsc::channel(MAX_WISHES);
    let (happen, happenings) = happening::channel();
    let (status, callers) = (watch::Sender::new(first), TaskTracker::new());
    let desk = serve::Desk { launch, status, stop, watcher, happen, callers };
    let server = tokio::spawn(serve::stand(listener, paths.control(), desk.clone()));
    tokio::spawn(log::keep_short(paths.log()));
    let waiting = Waiting { stops, watchers, happenings };
    let ending = run_qemu(intent, paths, &desk, waiting).await?;
    desk.status.send_modify(|status| status.ended = Some(ending));
    note(paths, &desk.status);
    server.abort();
    desk.callers.close();
    // Who is too slow reads it from the disk.
    timeout(LAST_WORD, desk.callers.wait()).await.ok();
    handle::clean(paths);
    Ok(())
}

/// What callers want, in the order that they came.
struct Waiting {
    stops: mpsc::Receiver<Duration>,
    watchers: mpsc::Receiver<UnixStream>,
    happenings: happening::Happenings,
}

/// Runs QEMU from its beginning to its end.
async fn run_qemu(
    intent: &Launch,
    paths: &Paths,
    desk: &serve::Desk,
    waiting: Waiting,
) -> io::Result<Ending> {
    let mut seen = EndSigns::default();
    let mut child = spawn(intent, paths)?;
    desk.status.send_modify(|status| status.qemu = child.id().and_then(|pid| Process::of(pid).ok()));
    note(paths, &desk.status);
    // Both arms may be dropped: an attachment that is not complete is of no use, and waiting for a child
    // can begin again.
    let attached = tokio::select! {
        attached = attach(paths) => Some(attached),
        _ = child.wait() => None,
    };
    match attached {
        Some(Ok(links)) => {
            let (sign, signs) = watch::channel(Signs::default());
            let wires = network::Wires::new(intent, paths, links.nic, sign);
            let (told, tells) = watch::channel(Setup::Pending);
            let hears = (setup::Scan::of(&intent.spec.setup), told);
            tokio::spawn(console::carry(links.console, paths.console_log(), waiting.watchers, hears));
            tokio::spawn(network::carry(wires, waiting.happenings));
            desk.status.send_modify(|status| {
                status.since = Some(mesh::Clock.timestamp());
                status.began = Some(BootMoment::of(&status.shim.boot, mesh::Clock.moment()));
            });
            note(paths, &desk.status);
            let doubts = intent.qemu.accelerator == Accelerator::Kvm;
            let stops = waiting.stops;
            let on = Supervised { qmp: links.qmp, events: links.events, stops, signs, tells, doubts };
            supervise(&mut child, on, (paths, desk), &mut seen).await?;
        }
        // Its sockets break some moments before it is seen to end; then its exit says more than they do.
        Some(Err(error)) if timeout(LAST_WORD, child.wait()).await.is_err() => {
            seen.failure = Some(error.to_string());
            child.start_kill()?;
        }
        Some(Err(_)) | None => {}
    }
    let exit = child.wait().await?;
    Ok(seen.ending(exit, &log::last(&paths.log())))
}

/// Writes down what is going on. A full disk must not end the machine: its agent finds out by itself
/// when the shim has gone without a word.
fn note(paths: &Paths, status: &watch::Sender<ShimStatus>) {
    if let Err(error) = record::store(&paths.status(), &*status.borrow()) {
        // Not eprintln, which panics when the log's disk is the full one.
        writeln!(io::stderr(), "shim: cannot write {}: {error}", paths.status().display()).ok();
    }
}

fn spawn(intent: &Launch, paths: &Paths) -> io::Result<Child> {
    let arguments = guard::wrapped(&intent.qemu.program, argv(intent, &intent.qemu, paths));
    // Output goes where the shim's own goes: shim.log.
    Command::new(guard::SELF).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).spawn()
}

/// Takes hold of everything, then lets the guest run.
async fn attach(paths: &Paths) -> Result<Links, QmpError> {
    let (qmp, events) = Qmp::connect(&paths.qmp(), ATTACH).await?;
    // QEMU listens on all its sockets before it answers on one.
    let console = UnixStream::connect(paths.serial()).await?;
    let nic = UnixStream::connect(paths.nic()).await?;
    qmp.call("cont", Value::Null, COMMAND).await?;
    Ok(Links { qmp, events, console, nic })
}

/// Everything that a running machine is watched by.
struct Supervised {
    qmp: Qmp,
    events: mpsc::Receiver<Event>,
    stops: mpsc::Receiver<Duration>,
    signs: watch::Receiver<Signs>,
    tells: watch::Receiver<Setup>,
    /// Whether silence of the guest speaks against the accelerator.
    doubts: bool,
}

/// Watches over QEMU until it ends.
async fn supervise(
    child: &mut Child,
    mut on: Supervised,
    (paths, desk): (&Paths, &serve::Desk),
    seen: &mut EndSigns,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut doubt_at = Instant::now() + SIGN_OF_LIFE;
    let mut stopping: Option<Stopping> = None;
    let mut pause = Pause::default();
    loop {
        let due = stopping.map_or(doubt_at, |stopping| Instant::from_std(stopping.due));
        let look = pause.due().map_or_else(Instant::now, Instant::from_std);
        // All arms wait for a channel, a signal, the clock or the child's end: nothing is lost by
        // dropping them.
        let within = tokio::select! {
            _ = child.wait() => break,
            Some(event) = on.events.recv() => {
                seen.on(&event);
                let now = std::time::Instant::now();
                if pause.on(&event, now) {
                    held(paths, desk, &pause, seen);
                    // While it was held it could give no sign.
                    doubt_at = Instant::now() + SIGN_OF_LIFE;
                    // The guest hears no power button any more.
                    stopping = stopping.map(|before| Stopping::ask(Some(before), pause.patience(before.within), now));
                }
                match event.name.as_str() {
                    "RESET" => drop(desk.happen.send(Happening::Reset).await),
                    // It is held so that this can be known; there is nothing left to run.
                    "GUEST_PANICKED" => on.tell("quit").await,
                    _ => {}
                }
                continue;
            }
            Ok(()) = on.signs.changed() => {
                let Signs { alive, booted, v6 } = *on.signs.borrow_and_update();
                on.doubts &= !alive;
                desk.status.send_if_modified(|status| {
                    let before = (status.booted, status.v6);
                    (status.booted, status.v6) = (booted, v6);
                    before != (booted, v6)
                });
                continue;
            }
            Ok(()) = on.tells.changed() => {
                hear_setup(paths, desk, on.tells.borrow_and_update().clone());
                continue;
            }
            () = sleep_until(due), if stopping.is_some() || on.doubts && pause.because().is_none() => {
                match &mut stopping {
                    Some(stopping) => on.press(stopping, child, seen).await?,
                    None => {
                        seen.doubted = true;
                        child.start_kill()?;
                        on.doubts = false;
                    }
                }
                continue;
            }
            () = sleep_until(look), if pause.due().is_some() && stopping.is_none() => {
                if pause.step(room(&paths.dir), std::time::Instant::now()) {
                    on.tell("cont").await;
                }
                continue;
            }
            Some(within) = on.stops.recv() => within,
            _ = terminate.recv() => handle::HOST_SHUTDOWN,
        };
        seen.asked = true;
        stopping = Some(Stopping::ask(stopping, pause.patience(within), std::time::Instant::now()));
    }
    // What QEMU said last may still be on its way; its closed socket ends the queue.
    while let Ok(Some(event)) = timeout(LAST_WORD, on.events.recv()).await {
        seen.on(&event);
    }
    Ok(())
}

/// Gives the bytes that are free where `dir` is.
fn room(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Passes on whether QEMU holds the guest, and why.
fn held(paths: &Paths, desk: &serve::Desk, pause: &Pause, seen: &mut EndSigns) {
    let because = pause.because().map(str::to_owned);
    seen.paused.clone_from(&because);
    desk.status.send_modify(|status| status.paused = because);
    note(paths, &desk.status);
}

/// Passes on what the guest told of its setup. That it is done holds for as long as its disk.
fn hear_setup(paths: &Paths, desk: &serve::Desk, setup: Setup) {
    if setup == Setup::Done
        && let Err(error) = crate::host::durable::write(&paths.set_up(), b"")
    {
        // The guest tells it again at its next boot.
        writeln!(io::stderr(), "shim: cannot write {}: {error}", paths.set_up().display()).ok();
    }
    desk.status.send_modify(|status| status.setup = setup);
    note(paths, &desk.status);
}

impl Supervised {
    async fn press(&self, stopping: &mut Stopping, child: &mut Child, seen: &mut EndSigns) -> io::Result<()> {
        let step = stopping.step(std::time::Instant::now());
        seen.pressed = Some(step);
        match step {
            Step::PowerDown => self.tell("system_powerdown").await,
            Step::Quit => self.tell("quit").await,
            Step::Kill => child.start_kill()?,
        }
        Ok(())
    }

    /// Runs a command for its effect. An answer that does not come is what the next step is for.
    async fn tell(&self, command: &str) {
        self.qmp.call(command, Value::Null, COMMAND).await.ok();
    }
}
