//! The process that is the parent of one QEMU and outlives the agent: `agent shim DIR RUN`.
//! It owns QEMU's control socket, its console and its network card, and answers agents on one socket.
//! It ends by itself once QEMU has ended and that is written down. One thread, so that QEMU's parent
//! thread lives exactly as long as the shim: the kernel kills QEMU when that thread ends.
//!
//! ```text
//! lock, intent -> QEMU -S -> attach -> cont -> supervise -> ending written -> exit
//!                   \___________\________\________/^ QEMU ended, whenever that is
//! ```

use std::{ffi::OsString, io, path::Path, process::ExitCode, time::Duration};

use proto::session::Accelerator;
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

use self::{
    ending::Seen,
    network::{Happening, Signs},
};
use super::{
    argv::argv,
    console, handle, launch,
    process::{self, Process},
    qmp::{Event, Qmp, QmpError},
    record::{self, Launch, Paths, ShimStatus},
    stop::{Step, step},
};

mod ending;
mod guard;
mod network;
mod serve;
mod streams;

/// How long QEMU may take to open its sockets on a loaded host.
const ATTACH: Duration = Duration::from_secs(30);
/// How long a command may take; a QEMU that is busier than this is stuck.
const COMMAND: Duration = Duration::from_secs(3);
/// What the guest gets when the host itself goes down and asks us to end.
const HOST_SHUTDOWN: Duration = Duration::from_secs(30);
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
        [dir, run] => start(Path::new(dir), Path::new(run)),
        _ => Err(io::Error::other("this command is the agent's own: agent shim DIR RUN")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shim: {error}");
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
    runtime.block_on(run_machine(&intent, &paths))?;
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
    let first = ShimStatus {
        session: intent.session,
        machine: intent.spec.machine.clone(),
        epoch: intent.spec.epoch,
        shim: Process::of(std::process::id())?,
        qemu: None,
        since: None,
        booted: false,
        ended: None,
    };
    record::store(&paths.status(), &first)?;
    let (status, _) = watch::channel(first);
    handle::clean(paths);
    let listener = UnixListener::bind(paths.control())?;
    let (stop, stops) = mpsc::channel(MAX_WISHES);
    let (watcher, watchers) = mpsc::channel(MAX_WISHES);
    let (happen, happenings) = network::channel();
    let callers = TaskTracker::new();
    let desk = serve::Desk {
        status: status.clone(),
        stop,
        watcher,
        happen: happen.clone(),
        callers: callers.clone(),
    };
    let server = tokio::spawn(serve::serve(listener, desk));

    let mut seen = Seen::default();
    let mut child = spawn(intent, paths)?;
    status.send_modify(|status| status.qemu = child.id().and_then(|pid| Process::of(pid).ok()));
    record::store(&paths.status(), &*status.borrow())?;
    // Both arms may be dropped: an attachment that is not complete is of no use, and waiting for a child
    // can begin again.
    let attached = tokio::select! {
        attached = attach(paths) => Some(attached),
        _ = child.wait() => None,
    };
    match attached {
        Some(Ok(links)) => {
            let (sign, signs) = watch::channel(Signs::default());
            tokio::spawn(console::carry(links.console, paths.console_log(), watchers));
            tokio::spawn(network::carry(network::Wires::new(intent, paths, links.nic, sign), happenings));
            status.send_modify(|status| status.since = Some(record::now()));
            record::store(&paths.status(), &*status.borrow())?;
            let doubts = intent.qemu.accelerator == Accelerator::Kvm;
            let supervised =
                Supervised { qmp: links.qmp, events: links.events, stops, signs, happen, doubts };
            supervise(&mut child, supervised, &status, &mut seen).await?;
        }
        // Its sockets break some moments before it is seen to end; then its exit says more than they do.
        Some(Err(error)) => {
            if timeout(LAST_WORD, child.wait()).await.is_err() {
                seen.failure = Some(error.to_string());
                child.start_kill()?;
            }
        }
        None => {}
    }
    let exit = child.wait().await?;
    let log = std::fs::read_to_string(paths.log()).unwrap_or_default();
    status.send_modify(|status| status.ended = Some(seen.ending(exit, &log)));
    record::store(&paths.status(), &*status.borrow())?;
    server.abort();
    callers.close();
    // Who is too slow reads it from the disk.
    timeout(LAST_WORD, callers.wait()).await.ok();
    handle::clean(paths);
    Ok(())
}

fn spawn(intent: &Launch, paths: &Paths) -> io::Result<Child> {
    let (program, arguments) = guard::wrapped(&intent.qemu.program, &argv(intent, &intent.qemu, paths));
    // Output goes where the shim's own goes: shim.log.
    Command::new(program).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).spawn()
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
    happen: mpsc::Sender<Happening>,
    /// Whether silence of the guest speaks against the accelerator.
    doubts: bool,
}

/// Watches over QEMU until it ends.
async fn supervise(
    child: &mut Child,
    mut on: Supervised,
    status: &watch::Sender<ShimStatus>,
    seen: &mut Seen,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let doubt_at = Instant::now() + SIGN_OF_LIFE;
    // When stopping began, what the guest was given, and when the next step is due.
    let mut stopping: Option<(Instant, Duration, Instant)> = None;
    let begin = |stopping: &mut Option<(Instant, Duration, Instant)>, within: Duration| {
        let now = Instant::now();
        // A second wish may shorten the first, never lengthen it.
        if stopping.is_none_or(|(began, before, _)| now + within < began + before) {
            *stopping = Some((now, within, now));
        }
    };
    loop {
        let due = stopping.map_or(doubt_at, |(_, _, due)| due);
        // All arms wait for a channel, a signal, the clock or the child's end: nothing is lost by
        // dropping them.
        tokio::select! {
            _ = child.wait() => break,
            Some(event) = on.events.recv() => {
                seen.on(&event);
                if event.name == "RESET" {
                    status.send_modify(|status| status.booted = false);
                    on.happen.send(Happening::Reset).await.ok();
                } else if event.name == "GUEST_PANICKED" {
                    on.qmp.call("quit", Value::Null, COMMAND).await.ok();
                }
            }
            Some(within) = on.stops.recv() => {
                seen.asked = true;
                begin(&mut stopping, within);
            }
            _ = terminate.recv() => {
                seen.asked = true;
                begin(&mut stopping, HOST_SHUTDOWN);
            }
            Ok(()) = on.signs.changed() => {
                let Signs { alive, booted } = *on.signs.borrow_and_update();
                on.doubts &= !alive;
                status.send_if_modified(|status| {
                    booted && !std::mem::replace(&mut status.booted, booted)
                });
            }
            () = sleep_until(due), if stopping.is_some() || on.doubts => {
                let Some((began, within, _)) = stopping else {
                    seen.doubted = true;
                    child.start_kill()?;
                    continue;
                };
                let (what, wait) = step(began.elapsed(), within);
                stopping = Some((began, within, Instant::now() + wait));
                seen.pressed = Some(what);
                // An answer that does not come is what the next step is for.
                match what {
                    Step::PowerDown => drop(on.qmp.call("system_powerdown", Value::Null, COMMAND).await),
                    Step::Quit => drop(on.qmp.call("quit", Value::Null, COMMAND).await),
                    Step::Kill => child.start_kill()?,
                }
            }
        }
    }
    // What QEMU said last may still be on its way; its closed socket ends the queue.
    while let Ok(Some(event)) = timeout(LAST_WORD, on.events.recv()).await {
        seen.on(&event);
    }
    Ok(())
}
