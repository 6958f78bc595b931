//! Builds a lab from its blueprint, runs things in its hosts, and removes it.
//!
//! Nothing stays behind, however this process ends: a guard process holds the end of a pipe, and when the other end
//! closes (drop, panic, kill) it ends what runs in the lab's namespaces and deletes them. Should the guard be killed as
//! well, the next lab sweeps: each lab is named in `/run/netsim`, with the process that owns it.

use std::{
    ffi::OsStr,
    fs,
    io::{self, PipeReader, PipeWriter, Write},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

use crate::{
    lab::{self, Layout, Link, Mistake},
    mapper,
    rules::{self, Blueprint, HostAddress, Step},
    tap,
};

mod trouble;

/// Where living labs are named, one file each.
const REGISTRY: &str = "/run/netsim";
/// How long the removal of a lab may take before its owner goes on without it.
const REMOVAL: Duration = Duration::from_secs(10);
/// Ends what runs in the namespaces given as arguments and deletes them, once its standard input is closed.
const GUARD: &str = r#"
cat >/dev/null
registry=$1
shift
for n in "$@"; do kill -9 $(ip netns pids "$n" 2>/dev/null) 2>/dev/null; done
for n in "$@"; do ip netns del "$n" 2>/dev/null; done
rm -rf "$registry" "${registry%/*}/clocks/${registry##*/}"
"#;

/// Why a lab could not be built or used.
#[derive(Debug, Error)]
pub enum LabError {
    /// The file has mistakes.
    #[error("the text has mistakes:\n{}", .0.iter().map(|mistake| format!("  {mistake}\n")).collect::<String>())]
    Parse(Vec<Mistake>),
    /// This machine or user cannot have labs.
    #[error("no lab is possible here: {0}")]
    Impossible(String),
    /// A command of the blueprint failed.
    #[error("`{step}` failed: {because}")]
    Step {
        /// The command.
        step: String,
        /// What it said.
        because: String,
    },
    /// No such host or home.
    #[error("the lab has no `{0}`")]
    Unknown(String),
    /// A link of the kernel's.
    #[error("the link of `{0}` cannot change while it runs: say `wire` in its line of the lab file")]
    NoWire(String),
    /// The system refused something.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn because(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let what = what.into();
    |source| LabError::Io { what, source }
}

/// A running lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    layout: Layout,
    blueprint: Blueprint,
    wires: Vec<Cable>,
    mappers: Vec<JoinHandle<io::Result<()>>>,
    /// Ends the mappers.
    ended: Arc<AtomicBool>,
    /// Closing this ends the wires.
    stop: Option<PipeWriter>,
    guard: Child,
    /// Closing this makes the guard remove the lab.
    leash: Option<ChildStdin>,
}

/// A wire of ours, and the thread that plays it.
#[derive(Debug)]
struct Cable {
    /// Namespace and device of its far end.
    far: (String, String),
    links: tap::Links,
    thread: JoinHandle<io::Result<()>>,
}

impl Lab {
    /// Builds the lab that `text` describes.
    pub fn up(text: &str) -> Result<Lab, LabError> {
        let layout = lab::parse(text).map_err(LabError::Parse)?;
        possible().map_err(LabError::Impossible)?;
        sweep();
        let prefix = format!("lab{}", random_word().map_err(because("read random bytes"))?);
        let blueprint = rules::blueprint(&layout, &prefix);
        fs::create_dir_all(REGISTRY).map_err(because("make /run/netsim"))?;
        register(&prefix, &blueprint).map_err(because("name the lab in /run/netsim"))?;
        // The guard comes first: whatever fails from here on, it cleans up.
        let mut guard = guard(&prefix, &blueprint.namespaces).map_err(because("start the guard"))?;
        let leash = guard.stdin.take();
        let (held, stop) = io::pipe().map_err(because("make a pipe"))?;
        let (mappers, ended) = (vec![], Arc::new(AtomicBool::new(false)));
        let (wires, stop) = (vec![], Some(stop));
        let mut lab = Lab { prefix, layout, blueprint, wires, mappers, ended, stop, guard, leash };
        for (index, step) in lab.blueprint.steps.clone().iter().enumerate() {
            if let Step::Wire { ends, link } = step {
                let held = held.try_clone().map_err(because("copy a descriptor"))?;
                let seed = lab.layout.seed.wrapping_add(index as u64 * 2);
                lab.wires.push(wire(ends, *link, seed, held)?);
            } else if let Step::Mapper { namespace, lan, public } = step {
                let (lan, public, ended) = (*lan, *public, lab.ended.clone());
                let served = within(namespace, move || mapper::serve(lan, public, ended));
                let mapper =
                    served.and_then(|made| made).map_err(because(format!("map ports in {namespace}")))?;
                lab.mappers.push(mapper);
            } else {
                carry_out(step)?;
            }
        }
        Ok(lab)
    }

    /// What the names of this lab's namespaces begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The hosts of the lab with their addresses.
    pub fn hosts(&self) -> &[HostAddress] {
        &self.blueprint.hosts
    }

    /// A host's address on its own network.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr, LabError> {
        self.host(host).map(|host| host.address)
    }

    /// The network namespace of a host, home or `net` (the public net), as `ip netns` names it.
    pub fn namespace(&self, name: &str) -> Result<String, LabError> {
        let namespace = format!("{}-{name}", self.prefix);
        let known = self.blueprint.namespaces.contains(&namespace);
        if known { Ok(namespace) } else { Err(LabError::Unknown(name.into())) }
    }

    /// A command that will run in a host (or home, or `net`): add arguments, environment and streams as usual. The
    /// process that starts is the program itself, not a wrapper.
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        Ok(command_in(&self.namespace(host)?, program))
    }

    /// Runs a prepared command in a host and waits for it. Its program, arguments, environment and directory count;
    /// its streams are captured.
    pub fn exec(&self, host: &str, command: &Command) -> Result<Output, LabError> {
        let mut inside = self.command(host, command.get_program())?;
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            inside.current_dir(directory);
        }
        inside.stdin(Stdio::null()).output().map_err(because(format!("run {command:?} in {host}")))
    }

    /// Calls `work` on a thread in a host's network: sockets made there are that host's, wherever they go afterwards.
    pub fn inside<T: Send + 'static>(
        &self,
        host: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LabError> {
        within(&self.namespace(host)?, work).map_err(because(format!("enter {host}")))
    }

    fn host(&self, name: &str) -> Result<&HostAddress, LabError> {
        self.hosts().iter().find(|host| host.name == name).ok_or_else(|| LabError::Unknown(name.into()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.ended.store(true, Ordering::Relaxed);
        for mapper in self.mappers.drain(..) {
            if let Ok(Err(error)) = mapper.join() {
                tracing::warn!(%error, "a router had stopped mapping ports");
            }
        }
        for wire in self.wires.drain(..) {
            // A wire that failed has already taken its devices with it.
            let _ended = wire.thread.join();
        }
        drop(self.leash.take());
        if wait_for(&mut self.guard, REMOVAL).is_none() {
            tracing::warn!(lab = self.prefix, "the lab is still being removed");
        }
    }
}

/// Says why labs are impossible here, if they are.
pub fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("making network namespaces needs root".into());
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        // nft says its version by -v; that it starts at all is what counts.
        if found.is_err() {
            return Err(format!("`{program}` is missing: install the package {package}"));
        }
    }
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/net/tun cannot be opened: {error}")),
    }
}

/// For tests: whether labs can run. If not, says so and returns false, or panics where `REQUIRE_LAB=1` demands them.
pub fn lab_or_skip(test: &str) -> bool {
    match possible() {
        Ok(()) => true,
        Err(why) if std::env::var("REQUIRE_LAB").is_ok_and(|value| value == "1") => {
            panic!("{test} needs a lab (REQUIRE_LAB=1): {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED {test}: {why}");
            false
        }
    }
}

/// A command that starts a program in a namespace.
pub(crate) fn command_in(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A living lab as the registry names it.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub prefix: String,
    pub owner: (u32, u64),
    pub namespaces: Vec<String>,
    path: PathBuf,
}

/// The labs that the registry names, dead ones included.
pub(crate) fn registered() -> Vec<Registered> {
    let files = fs::read_dir(REGISTRY).into_iter().flatten().flatten();
    files.filter_map(|file| read_registered(&file.path())).collect()
}

fn read_registered(path: &Path) -> Option<Registered> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let (pid, started) = lines.next()?.split_once(' ')?;
    Some(Registered {
        prefix: path.file_name()?.to_str()?.to_string(),
        owner: (pid.parse().ok()?, started.parse().ok()?),
        namespaces: lines.map(String::from).collect(),
        path: path.into(),
    })
}

fn register(prefix: &str, blueprint: &Blueprint) -> io::Result<()> {
    let pid = std::process::id();
    let started = start_time(pid).unwrap_or(0);
    // Written whole under another name first: a sweep that reads half a file would miss namespaces.
    let partial = Path::new(REGISTRY).join(format!(".{prefix}"));
    fs::write(&partial, format!("{pid} {started}\n{}\n", blueprint.namespaces.join("\n")))?;
    fs::rename(partial, Path::new(REGISTRY).join(prefix))
}

/// When a process started, in clock ticks since boot: with its number this names it for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and brackets; the fields behind its last bracket do not.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes labs whose owner and guard are both gone.
pub(crate) fn sweep() {
    for lab in registered() {
        let (pid, started) = lab.owner;
        if start_time(pid) == Some(started) {
            continue;
        }
        tracing::info!(lab = lab.prefix, "removing a lab that was left behind");
        let guard = guard(&lab.prefix, &lab.namespaces);
        match guard {
            Ok(mut guard) => {
                drop(guard.stdin.take());
                wait_for(&mut guard, REMOVAL);
            }
            Err(error) => tracing::warn!(path = %lab.path.display(), %error, "cannot remove a lab"),
        }
    }
}

/// Starts the guard, in a group of its own: what ends this process by a signal to its group spares the guard.
fn guard(prefix: &str, namespaces: &[String]) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD, "netsim-guard"])
        .arg(Path::new(REGISTRY).join(prefix))
        .args(namespaces)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn wait_for(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

fn carry_out(step: &Step) -> Result<(), LabError> {
    let words = |program: &str, words: &str| {
        let mut command = Command::new(program);
        command.args(words.split_whitespace());
        finish(step, command, "")
    };
    match step {
        Step::Ip(text) => words("ip", text),
        Step::Tc(text) => words("tc", text),
        Step::Set { namespace, key, value } => {
            let mut command = command_in(namespace, "sh");
            command.args(["-c", &format!("echo {value} >/proc/sys/net/{key}")]);
            finish(step, command, "")
        }
        Step::Nft { namespace, rules } => {
            let mut command = command_in(namespace, "nft");
            command.args(["-f", "-"]);
            finish(step, command, rules)
        }
        Step::Wire { .. } | Step::Mapper { .. } => Ok(()),
    }
}

fn finish(step: &Step, mut command: Command, input: &str) -> Result<(), LabError> {
    let failed = |because: String| LabError::Step { step: step.to_string(), because };
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()))
}

fn wire(ends: &[(String, String); 2], link: Link, seed: u64, stop: PipeReader) -> Result<Cable, LabError> {
    let device = |(namespace, device): &(String, String)| {
        let name = device.clone();
        within(namespace, move || tap::tap(&name))
            .and_then(|made| made)
            .map_err(because(format!("make the TAP device {device} in {namespace}")))
    };
    let files = [device(&ends[0])?, device(&ends[1])?];
    let links = tap::Links::new(Mutex::new([link; 2]));
    let played = links.clone();
    let thread = thread::Builder::new()
        .name("wire".into())
        .spawn(move || tap::run(files, &played, seed, &stop))
        .map_err(because("start a wire"))?;
    Ok(Cable { far: ends[1].clone(), links, thread })
}

/// Calls `work` on a new thread that has entered a namespace; the thread ends with it, so nobody has to come back.
fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let file = fs::File::open(Path::new("/run/netns").join(namespace))?;
    let entered = thread::spawn(move || -> io::Result<T> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    });
    entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Four hexadecimal digits that other labs on this machine do not have.
fn random_word() -> io::Result<String> {
    loop {
        let mut bytes = [0u8; 2];
        io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
        let word = format!("{:02x}{:02x}", bytes[0], bytes[1]);
        if !Path::new(REGISTRY).join(format!("lab{word}")).exists() {
            return Ok(word);
        }
    }
}
