//! `agent machine ssh`: the system's ssh, with the machine's known host key, this program as its way into the machine,
//! and the machine's host as its ssh agent. What ssh reads lies in the runtime directory while it runs, and it runs in
//! that directory. A terminal is ssh's own; what goes elsewhere is carried by this program.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use proto::{
    id::hex,
    wire::api::{Error, Kind, SshAccess},
};
use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::{self, Instant},
};

use super::{
    Cx, Done,
    error::Exit,
    out::{self, Pace, Stop},
    ssh_agent,
};
use crate::{cli::client::quoted, host::private, machine::openssh};

/// A server that hears of a closed pipe ends the command and says how; others never will.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Enter a machine, or run a command in it
///
/// Works from every host of the mesh, wherever the machine runs. Needs the program ssh. Ends with
/// the exit code of the command, with 255 when the machine cannot be entered.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent machine ssh web-1\n  agent machine ssh shop/web-1 -- uptime")]
pub struct Args {
    /// The machine
    #[arg(value_name = "[SESSION/]MACHINE")]
    machine: String,
    /// What to run in it [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    enter(cx, &args).await.or_else(|error| {
        let exit = cx.ui.fail(&error);
        // A name that fits two machines is the command line's fault; the rest is as ssh says it.
        Ok(if error.kind == Kind::Ambiguous { Kind::Usage.into() } else { failed(exit) })
    })
}

fn failed(exit: Exit) -> Exit {
    if exit == Kind::Usage.into() { exit } else { Exit::SSH_FAILED }
}

async fn enter(cx: &Cx, args: &Args) -> Done {
    let access: SshAccess =
        cx.client.get(&format!("/v1/machine/ssh?machine={}", quoted(&args.machine))).await?;
    let stay = |error: io::Error| {
        Error::new(Kind::Failed, "the key for ssh cannot be written").because(error).next("agent doctor")
    };
    let place = Place::new(&cx.data.run().map_err(stay)?, &access).map_err(stay)?;
    let key = access.login_key.as_deref();
    let agent = key.map(|key| ssh_agent::serve(&place.0.join(AGENT), &cx.client, &access, key));
    let agent = agent.transpose().map_err(stay)?;
    let program = std::env::current_exe().map_err(stay)?;
    let terminal = io::stdout().is_terminal();
    let mut ssh = Command::new("ssh");
    ssh.args(OPTIONS.iter().flat_map(|option| ["-o", option]))
        .args(["-F", "none", "-o", &way(&access), "-o", &format!("User={}", access.user)])
        .args(["-o", &format!("IdentityAgent={}", if agent.is_some() { AGENT } else { "none" })])
        // What follows is no option, whatever it begins with.
        .args(["--", &alias(&access)])
        .args(&args.command)
        .current_dir(&place.0)
        .env("SHELL", "/bin/sh")
        .env(PROGRAM, program)
        .env(DATA, cx.data.path())
        .stdout(if terminal { Stdio::inherit() } else { Stdio::piped() })
        .kill_on_drop(true);
    let missing = |error: io::Error| {
        Error::new(Kind::Failed, "ssh cannot be started")
            .because(error)
            .next("sudo apt-get install -y openssh-client")
    };
    // Ctrl-C is for the program in the machine; `kill` ends ssh, and then the key is removed.
    let _interrupt = signal(SignalKind::interrupt()).map_err(missing)?;
    let terminate = signal(SignalKind::terminate()).map_err(missing)?;
    let ended = watch(ssh.spawn().map_err(missing)?, terminate).await.map_err(missing)?;
    if let Some(error) = agent.and_then(|agent| agent.failure()) {
        return Err(error);
    }
    Ok(code(cx, ended))
}

/// How ssh came to its end.
struct Ended {
    status: ExitStatus,
    /// Whether it had to be told.
    told: bool,
    /// Why its data found no way out.
    lost: Option<io::Error>,
}

/// Waits for ssh and carries what it says. Where a machine's ssh server does not hear that nobody
/// reads any more, ssh would wait for it for ever: then it is ended.
async fn watch(mut ssh: Child, mut terminate: Signal) -> io::Result<Ended> {
    let pace = Pace::default();
    let from = ssh.stdout.take();
    let mut carried = from.is_none();
    let mut carrying = pin!(async {
        match from {
            Some(from) => out::carry(from, &pace).await,
            None => Stop::End,
        }
    });
    let (mut status, mut told, mut lost, mut limit) = (None, false, None, None::<Instant>);
    // All arms are cancel-safe but the carrying, which is the same future each time.
    while status.is_none() || !carried {
        let late = async {
            match limit {
                Some(limit) => time::sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = ssh.wait(), if status.is_none() => status = Some(ended?),
            stop = &mut carrying, if !carried => {
                carried = true;
                if let Stop::Stdout(error) = stop {
                    lost = Some(error);
                    limit = Some(Instant::now() + ENDS_WITHIN);
                }
            }
            _ = terminate.recv(), if status.is_none() => {
                end(&mut ssh, &mut told)?;
                limit = Some(Instant::now() + ENDS_WITHIN);
            }
            () = late, if status.is_none() => {
                end(&mut ssh, &mut told)?;
                limit = Some(Instant::now() + ENDS_WITHIN);
            }
        }
    }
    Ok(Ended { status: status.unwrap_or_default(), told, lost })
}

/// Asks ssh to end, and the second time does not ask.
fn end(ssh: &mut Child, told: &mut bool) -> io::Result<()> {
    let pid = ssh.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    match pid {
        Some(pid) if !std::mem::replace(told, true) => Ok(kill_process(pid, rustix::process::Signal::TERM)?),
        _ => ssh.start_kill(),
    }
}

/// Decides the exit code: ssh's, or why it had to be ended.
fn code(cx: &Cx, ended: Ended) -> Exit {
    let status = ended.status;
    let own = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    let own = Exit(u8::try_from(own).unwrap_or(u8::MAX));
    match ended.lost {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            cx.ui.fail(&out::unwritten(&error));
            if ended.told || own == Exit::WELL { Exit::SSH_FAILED } else { own }
        }
        Some(_) if ended.told => Exit::CLOSED_PIPE,
        _ => own,
    }
}

/// What ssh calls the machine, and looks up in `known_hosts`.
fn alias(access: &SshAccess) -> String {
    format!("{}.{}", access.machine, access.session)
}

/// The variables that hold paths for [`way`].
const PROGRAM: &str = "MACHINE_SSH_PROGRAM";
const DATA: &str = "MACHINE_SSH_DATA";

/// Writes the ProxyCommand: this program, as this data directory's owner. Paths of the user's come
/// through the environment, so neither ssh nor the shell behind it reads anything into them.
fn way(access: &SshAccess) -> String {
    let target = format!("{}/{}", access.session_id, access.machine);
    format!(r#"ProxyCommand="${PROGRAM}" --data-dir "${DATA}" machine dial {target} {}"#, access.port)
}

/// How ssh is to behave. The files are named as they lie in the directory that ssh runs in, for the
/// same reason.
const OPTIONS: [&str; 9] = [
    "IdentityFile=key",
    "IdentitiesOnly=yes",
    "UserKnownHostsFile=known_hosts",
    "GlobalKnownHostsFile=none",
    "StrictHostKeyChecking=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "LogLevel=ERROR",
    // A host that went away is noticed within a minute.
    "ServerAliveInterval=15",
];

/// The socket in that directory of whoever signs.
const AGENT: &str = "agent";

/// A directory with the key and the known host, for as long as ssh runs.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new(run: &Path, access: &SshAccess) -> io::Result<Place> {
        sweep(run);
        let id = std::process::id();
        let dir = run.join(format!("ssh-{id}"));
        // An earlier process with our number has ended without removing it.
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private::new(&dir)?;
        let place = Place(dir);
        let write = |name: &str, text: String| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.0.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
        };
        // Of a key that an ssh agent has, ssh reads the public half.
        if let Some(key) = &access.login_key {
            write("key.pub", format!("{key}\n"))?;
        }
        if let Some(seed) = &access.seed {
            let seed = hex::parse(seed).map_err(io::Error::other)?;
            write("key", openssh::private_file(&seed, &access.session))?;
        }
        write("known_hosts", format!("{} {}\n", alias(access), access.host_key))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is swept by the next one.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Removes what processes that were killed left behind.
fn sweep(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("ssh-")?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn access() -> SshAccess {
        SshAccess {
            session: "shop".into(),
            session_id: "0a".repeat(16).parse().unwrap(),
            machine: "web-1".parse().unwrap(),
            user: "root".into(),
            port: 22,
            login_key: None,
            seed: Some("07".repeat(32)),
            host_key: "ssh-ed25519 AAAA".into(),
        }
    }

    #[test]
    fn the_key_is_private_and_gone_afterwards() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir(run.path().join("ssh-4294967295")).unwrap();
        let place = Place::new(run.path(), &access()).unwrap();
        let mode = |name: &str| fs::metadata(place.0.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key"), mode("")), (0o600, 0o700));
        let known = fs::read_to_string(place.0.join("known_hosts")).unwrap();
        assert_eq!(known, "web-1.shop ssh-ed25519 AAAA\n");
        drop(place);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0, "also what others left is gone");
        let own = SshAccess { seed: None, login_key: Some("ssh-ed25519 BBBB shop".into()), ..access() };
        let place = Place::new(run.path(), &own).unwrap();
        assert_eq!(fs::read_to_string(place.0.join("key.pub")).unwrap(), "ssh-ed25519 BBBB shop\n");
        assert!(!place.0.join("key").exists(), "there is no secret to write");
    }
}
