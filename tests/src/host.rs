//! One host of a story: a data directory, an agent on it, and the CLI beside it. Whatever a story
//! leaves running is ended when the host is dropped, found by its data directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{agent_bin, eventually};

/// Where a host's programs run.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the network of the test itself.
    Here,
    /// In a network namespace of a lab.
    Namespace(String),
}

/// A host with its own data directory.
pub struct Host {
    /// The host's label in the mesh.
    pub name: String,
    place: Place,
    dir: TempDir,
    agent: Option<Child>,
    /// What the environment of its agent says beside the data directory.
    pub env: Vec<(String, String)>,
    /// Whether the data directory is a disk of its own.
    pub(crate) mounted: bool,
    /// Whether what it holds is looked at when its story is over.
    pub(crate) judged: bool,
    /// What the data directory is called.
    data: String,
    /// The user without rights whose host it is, if it is not the tests' own.
    owner: Option<u32>,
    /// The agent that runs here and is spoken to, if it is not the one under test.
    pub program: Option<PathBuf>,
}

/// What a command of the CLI answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Answer {
    /// Reads what a command that has ended left.
    pub fn of(output: Output) -> Answer {
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Gives stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Asserts the exit code and passes the answer on.
    #[track_caller]
    pub fn expect(self, code: i32) -> Answer {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl Host {
    /// Makes an empty host.
    pub fn new(name: &str, place: Place) -> Host {
        let dir = tempfile::Builder::new().prefix("agent-test-").tempdir().expect("a temporary directory");
        let (data, env) = ("data".to_owned(), Vec::new());
        let (mounted, judged) = (false, true);
        let name = name.to_owned();
        Host { name, place, dir, agent: None, env, mounted, judged, data, owner: None, program: None }
    }

    /// Makes an empty host whose data directory is called `data`, and which belongs to the user with
    /// the number `owner` if there is one. Only root can make such a host.
    pub fn odd(name: &str, data: &str, owner: Option<u32>) -> Host {
        let mut host = Host::new(name, Place::Here);
        (host.data, host.owner) = (data.to_owned(), owner);
        std::os::unix::fs::chown(host.dir.path(), owner, owner).expect("root gives a directory away");
        host
    }

    /// Makes a host that is the first of its mesh and runs.
    pub fn first(name: &str, place: Place) -> Host {
        let mut host = Host::new(name, place);
        host.agent(&["init", "--name", name]).expect(0);
        host.start();
        host
    }

    /// Makes a host that joins by `token` and runs.
    pub fn joined(name: &str, place: Place, token: &str) -> Host {
        let mut host = Host::new(name, place);
        host.agent(&["join", token, "--name", name]).expect(0);
        host.start();
        host
    }

    /// Gives the data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join(&self.data)
    }

    /// Gives a place for files of the story.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn program(&self) -> PathBuf {
        self.program.clone().unwrap_or_else(agent_bin)
    }

    /// Builds a command that runs where this host is.
    pub fn command(&self, program: &Path) -> Command {
        match &self.place {
            Place::Here => match self.owner {
                None => Command::new(program),
                Some(owner) => {
                    let mut command = Command::new("setpriv");
                    command.args([
                        &format!("--reuid={owner}"),
                        &format!("--regid={owner}"),
                        "--clear-groups",
                    ]);
                    command.arg(program).env("HOME", self.dir.path());
                    command
                }
            },
            Place::Namespace(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }

    /// Builds a command of the CLI.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.program());
        command.args(args).env("AGENT_DATA_DIR", self.data()).stdin(Stdio::null());
        // Stories need nobody of the real internet, and no port of the router that this computer stands behind.
        command.env("AGENT_RELAY_FALLBACK", "[]");
        if matches!(self.place, Place::Here) {
            command.env("AGENT_LISTEN_MAP", "false");
        }
        command.envs(self.env.iter().cloned());
        command
    }

    /// Runs a command of the CLI.
    pub fn agent(&self, args: &[&str]) -> Answer {
        Answer::of(self.cli(args).output().expect("the agent starts"))
    }

    /// Runs a command with `--json` that must succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        self.agent(&all).expect(0).json()
    }

    /// Starts the agent and waits for its API.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the agent with more words on its command line and waits for its API.
    #[track_caller]
    pub fn start_with(&mut self, args: &[&str]) {
        self.spawn(args);
        eventually(Duration::from_secs(30), &format!("{} serves its API", self.name), || {
            if let Some(status) = self.agent.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("it ended: {status}\n{}", self.log_text()));
            }
            let answer = self.agent(&["status", "--json"]);
            if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
        });
    }

    /// Starts the agent and waits for nothing.
    pub fn spawn(&mut self, args: &[&str]) {
        if self.program.is_some() && args.is_empty() && Path::new("/dev/kvm").exists() {
            // Older agents believe a KVM that only emulates. A host in a namespace has its own mounts.
            return self.spawn_by(r#"mount --bind /dev/null /dev/kvm && exec "$AGENT" run"#);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let error = log.try_clone().expect("a second handle");
        let mut run = self.cli(&[&["run"], args].concat());
        self.agent = Some(run.stdout(log).stderr(error).spawn().expect("the agent starts"));
    }

    /// Starts the agent by a line of shell, which ends with `exec "$AGENT" run`, and waits for nothing.
    pub fn spawn_by(&mut self, script: &str) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let error = log.try_clone().expect("a second handle");
        let mut run = self.shell(script);
        self.agent = Some(run.stdout(log).stderr(error).spawn().expect("sh starts"));
    }

    /// Starts the agent with its stderr in a pipe, and gives the reader's end.
    pub fn spawn_piped(&mut self) -> ChildStderr {
        let mut run = self.cli(&["run"]);
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the agent starts");
        let stderr = child.stderr.take().expect("a pipe");
        self.agent = Some(child);
        stderr
    }

    /// Runs a line of shell that uses `$AGENT`.
    pub fn by_shell(&self, script: &str) -> Answer {
        Answer::of(self.shell(script).output().expect("sh starts"))
    }

    fn shell(&self, script: &str) -> Command {
        let mut shell = self.command(Path::new("sh"));
        shell.args(["-c", script]).env("AGENT", self.program()).env("AGENT_DATA_DIR", self.data());
        shell.envs(self.env.iter().cloned()).stdin(Stdio::null());
        shell
    }

    /// Gives the file with everything the agent said.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Reads what the agent said.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Ends the agent in order; machines run on.
    #[track_caller]
    pub fn stop(&mut self) {
        self.stop_by(Signal::TERM);
    }

    /// Ends the agent in order, by a signal of choice; machines run on.
    #[track_caller]
    pub fn stop_by(&mut self, signal: Signal) {
        self.signal(signal);
        let mut child = self.agent.take().expect("the agent runs");
        let status = eventually(Duration::from_secs(20), &format!("{} ends in order", self.name), || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "still running".to_owned())
        });
        assert!(status.success(), "{} ended with {status}\n{}", self.name, self.log_text());
    }

    /// Kills the agent at once, as a crash would; machines run on.
    pub fn kill(&mut self) {
        let mut child = self.agent.take().expect("the agent runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("the agent is reaped");
    }

    /// Sends a signal to the agent.
    pub fn signal(&self, signal: Signal) {
        let child = self.agent.as_ref().expect("the agent runs");
        kill_process(Pid::from_child(child), signal).expect("a signal");
    }

    /// Imports the tiny guest as `tiny`.
    #[track_caller]
    pub fn import_tiny(&self) {
        let path = crate::tiny_image();
        self.agent(&["image", "import", path.to_str().expect("UTF-8"), "--name", "tiny"]).expect(0);
    }

    /// Writes a topology and gives its path.
    pub fn topology(&self, text: &str) -> String {
        let path = self.scratch().join("topology.toml");
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Lists processes of this host whose command line contains `word`: (pid, command line).
    pub fn processes(&self, word: &str) -> Vec<(u32, String)> {
        let marks = self.marks();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            if marks.iter().any(|mark| line.contains(mark.as_str())) && line.contains(word) {
                found.push((pid, line));
            }
        }
        found
    }

    /// Ends the agent and every machine of this host at once, as a power cut would.
    pub fn power_off(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        self.end_everything();
    }

    /// Kills what still runs. Looks again, because a dying shim may have just started its QEMU.
    fn end_everything(&self) {
        for _ in 0..100 {
            let mut left = self.processes("");
            left.extend(self.begun_by_its_agent());
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                    let _gone = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lists what its agent began, with or without its directory on the command line, such as a QEMU that is
    /// only being asked what it can do. The agent itself is among it.
    pub fn begun_by_its_agent(&self) -> Vec<(u32, String)> {
        let mark = format!("AGENT_DATA_DIR={}", self.data().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(bytes) = fs::read(entry.path().join("environ")) else { continue };
            if bytes.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Names the directory of this host's sockets, as the agent does.
    pub fn runtime(&self) -> Option<PathBuf> {
        let data = fs::canonicalize(self.data()).ok()?;
        let hash = blake3::hash(data.as_os_str().as_encoded_bytes()).to_hex();
        Some(PathBuf::from(format!("/run/agent-{}", &hash[..8])))
    }

    /// Judges once what an agent that still runs holds at the end of its story. None does on a disk of its own,
    /// which stories fill.
    pub(crate) fn judge(&mut self) -> Result<(), String> {
        let judged = std::mem::take(&mut self.judged) && !self.mounted && !std::thread::panicking();
        let runs = self.agent.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if judged && runs { self.settles() } else { Ok(()) }
    }

    /// What a command line of this host contains: the data or the runtime directory.
    fn marks(&self) -> Vec<String> {
        vec![self.dir.path().to_string_lossy().into_owned()]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let judged = self.judge();
        if let Some(mut child) = self.agent.take() {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        self.end_everything();
        if let Some(run) = self.runtime() {
            let _removed = fs::remove_dir_all(run);
        }
        self.unmount();
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, self.log_text());
        }
        if let Err(held) = judged {
            panic!("its story is over, and {} holds on:\n{held}", self.name);
        }
    }
}
