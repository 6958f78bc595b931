//! Puts a newer program in the place of the one that runs, under machines that run on: the file is replaced whole, the
//! daemon ends and begins again the way it was begun, and when it does not come up the old file comes back.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{
    Scope, carry,
    look::{self, Unit},
    program::{About, Unfit},
};
use crate::machine::process::Process;

/// How long a program may take to say what it is.
const SAYS_WITHIN: Duration = Duration::from_secs(20);
/// Longest answer to that.
const SAYS_MAX: usize = 64 * 1024;
/// How long an orderly end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long a manager may take to restart a service.
const MANAGER_WITHIN: Duration = Duration::from_secs(120);

/// Why the program was not replaced, or not for good.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The file cannot be run.
    #[error("{0} cannot be asked what it is")]
    Asked(PathBuf, #[source] io::Error),
    /// It gave no answer that an agent gives.
    #[error("{0} is no agent that can take over: it answered nothing that one answers")]
    Mute(PathBuf),
    /// It is no successor.
    #[error("{0} does not fit")]
    Unfit(PathBuf, #[source] Unfit),
    /// Something of the running agent cannot be seen.
    #[error("the running agent, process {0}, cannot be looked at")]
    Unseen(i32, #[source] io::Error),
    /// A file could not be written.
    #[error("{0} cannot be written")]
    File(PathBuf, #[source] io::Error),
    /// The agent did not end, or its service did not restart.
    #[error("the agent did not restart: {0}")]
    Restart(String),
}

/// Asks a program what it is, and checks that it may take over here.
pub async fn ask(file: &Path) -> Result<About, SwapError> {
    let asked = |error| SwapError::Asked(file.to_owned(), error);
    let mut command = Command::new(file);
    command.args(["--version", "--json"]).stdin(Stdio::null()).kill_on_drop(true);
    let said = timeout(SAYS_WITHIN, command.output()).await;
    let said = said.map_err(|_| asked(io::ErrorKind::TimedOut.into()))?.map_err(asked)?;
    let text = said.stdout.get(..said.stdout.len().min(SAYS_MAX)).unwrap_or_default();
    let about: About = serde_json::from_slice(text).map_err(|_| SwapError::Mute(file.to_owned()))?;
    About::this().fits(&about).map_err(|unfit| SwapError::Unfit(file.to_owned(), unfit))?;
    Ok(about)
}

/// The running daemon, with what is needed to begin it again.
#[derive(Debug)]
pub struct Daemon {
    /// Its process.
    pub process: Process,
    /// Its program's file.
    pub program: PathBuf,
    unit: Option<Unit>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    log: Option<PathBuf>,
}

impl Daemon {
    /// Looks at the daemon that has this process.
    pub fn look(pid: i32) -> Result<Daemon, SwapError> {
        read(pid).map_err(|error| SwapError::Unseen(pid, error))
    }

    /// Ends it, and begins `program` the way it was begun. Gives the process when it was begun here.
    pub async fn restart(&self) -> Result<Option<Child>, SwapError> {
        if let Some(unit) = &self.unit {
            return manage(unit).await.map(|()| None);
        }
        let restart = |error: io::Error| SwapError::Restart(error.to_string());
        if let Some(living) = self.process.living().map_err(restart)? {
            living.terminate().map_err(restart)?;
            if !living.ended(ENDS_WITHIN).await {
                return Err(SwapError::Restart(format!("process {} does not end", self.process.pid)));
            }
        }
        self.begin().map(Some).map_err(restart)
    }

    /// Begins it as it was begun, out of reach of this terminal.
    fn begin(&self) -> io::Result<Child> {
        let words = || match &self.log {
            Some(log) => {
                OpenOptions::new().append(true).open(log).map(Stdio::from).unwrap_or_else(|_| Stdio::null())
            }
            None => Stdio::null(),
        };
        std::process::Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(words())
            .stderr(words())
            .process_group(0)
            .spawn()
    }
}

fn read(pid: i32) -> io::Result<Daemon> {
    let number = u32::try_from(pid).map_err(io::Error::other)?;
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let fields = |name: &str| -> io::Result<Vec<OsString>> {
        let bytes = fs::read(proc.join(name))?;
        let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        Ok(parts.map(|part| OsStr::from_bytes(part).to_owned()).collect())
    };
    let variable = |text: &OsString| {
        let bytes = text.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        Some((part(&bytes[..at]), part(&bytes[at + 1..])))
    };
    let log = fs::read_link(proc.join("fd/2")).ok().filter(|path| path.is_file());
    Ok(Daemon {
        process: Process::of(number)?,
        program: undeleted(fs::read_link(proc.join("exe"))?),
        unit: look::unit_of(pid),
        arguments: fields("cmdline")?.into_iter().skip(1).collect(),
        environment: fields("environ")?.iter().filter_map(variable).collect(),
        directory: fs::read_link(proc.join("cwd"))?,
        log,
    })
}

/// Gives the path of a program's file, also when that was replaced since it began.
fn undeleted(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(before) => OsStr::from_bytes(before).into(),
        None => path,
    }
}

async fn manage(unit: &Unit) -> Result<(), SwapError> {
    let mut command = Command::new("systemctl");
    command.args((unit.scope == Scope::User).then_some("--user")).args(["restart", &unit.name]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match timeout(MANAGER_WITHIN, command.output()).await {
        Ok(Ok(said)) if said.status.success() => Ok(()),
        Ok(Ok(said)) => Err(SwapError::Restart(String::from_utf8_lossy(&said.stderr).trim().to_owned())),
        Ok(Err(error)) => Err(SwapError::Restart(error.to_string())),
        Err(_) => Err(SwapError::Restart(format!("systemctl took more than {} s", MANAGER_WITHIN.as_secs()))),
    }
}

/// The file of an installed program while another takes its place.
#[derive(Debug)]
pub struct Place {
    program: PathBuf,
    old: PathBuf,
}

impl Place {
    /// Puts `file` there, and keeps what was there beside it.
    pub fn take(program: &Path, file: &Path) -> Result<Place, SwapError> {
        let mut old = program.as_os_str().to_owned();
        old.push(".old");
        let place = Place { program: program.to_owned(), old: PathBuf::from(old) };
        copy(program, &place.old)?;
        copy(file, program)?;
        Ok(place)
    }

    /// Puts the old one back.
    pub fn give_back(&self) -> Result<(), SwapError> {
        fs::rename(&self.old, &self.program).map_err(|error| SwapError::File(self.program.clone(), error))
    }

    /// Forgets the old one.
    pub fn keep(&self) {
        fs::remove_file(&self.old).ok();
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), SwapError> {
    let copied = File::open(from).and_then(|mut from| carry::put(to, &mut from, 0o755));
    copied.map_err(|error| SwapError::File(to.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_replaced_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (program, file) = (dir.path().join("agent"), dir.path().join("newer"));
        fs::write(&program, "old").unwrap();
        fs::write(&file, "new").unwrap();
        let place = Place::take(&program, &file).unwrap();
        assert_eq!(fs::read_to_string(&program).unwrap(), "new");
        place.give_back().unwrap();
        assert_eq!(fs::read_to_string(&program).unwrap(), "old");
        Place::take(&program, &file).unwrap().keep();
        assert_eq!(fs::read_to_string(&program).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[tokio::test]
    async fn what_is_no_agent_takes_nobody_s_place() {
        assert!(matches!(ask(Path::new("/bin/true")).await, Err(SwapError::Mute(_))));
        assert!(matches!(ask(Path::new("/no/such/file")).await, Err(SwapError::Asked(..))));
        assert!(matches!(ask(Path::new("/etc/passwd")).await, Err(SwapError::Asked(..))));
    }

    #[test]
    fn a_running_program_is_seen_as_it_was_begun() {
        let me = Daemon::look(std::process::id().cast_signed()).unwrap();
        assert_eq!(me.program, std::env::current_exe().unwrap());
        assert_eq!(undeleted("/usr/bin/agent (deleted)".into()), Path::new("/usr/bin/agent"));
    }
}
