//! `agent machine ssh`: the system's ssh, with the session's key, the machine's known host key, and
//! this program as its way into the machine. The key lies in the runtime directory while ssh runs.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
};

use proto::{
    id::hex,
    wire::api::{Error, Kind, SshAccess},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{Cx, Done, error::Exit};
use crate::{client::quoted, machine::openssh};

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
    let code = match enter(cx, &args).await {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        Err(error) => {
            let exit = cx.ui.fail(&error);
            // A name that fits two machines is the command line's fault; the rest is as ssh says it.
            return Ok(if error.kind == Kind::Ambiguous { Kind::Usage.into() } else { failed(exit) });
        }
    };
    Ok(Exit(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn failed(exit: Exit) -> Exit {
    if exit == Kind::Usage.into() { exit } else { Exit::SSH_FAILED }
}

async fn enter(cx: &Cx, args: &Args) -> Result<ExitStatus, Error> {
    let access: SshAccess =
        cx.client.get(&format!("/v1/machine/ssh?machine={}", quoted(&args.machine))).await?;
    let stay = |error: io::Error| {
        Error::new(Kind::Failed, "the key for ssh cannot be written").because(error).next("agent doctor")
    };
    let seed = hex::parse(&access.seed).map_err(|error| stay(io::Error::other(error)))?;
    let place = Place::new(&cx.data.run().map_err(stay)?, &access, &seed).map_err(stay)?;
    let program = std::env::current_exe().map_err(stay)?;
    let way = way(&program, cx.data.path(), &access);
    let mut ssh = Command::new("ssh");
    ssh.args(options(&place.0, &way, &access)).arg(alias(&access)).args(&args.command);
    let missing = |error: io::Error| {
        Error::new(Kind::Failed, "ssh cannot be started")
            .because(error)
            .next("sudo apt-get install -y openssh-client")
    };
    // Ctrl-C is for the program in the machine; `kill` ends ssh, and then the key is removed.
    let _interrupt = signal(SignalKind::interrupt()).map_err(missing)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(missing)?;
    let mut child = ssh.kill_on_drop(true).spawn().map_err(missing)?;
    tokio::select! {
        status = child.wait() => status.map_err(missing),
        _ = terminate.recv() => {
            child.start_kill().map_err(missing)?;
            child.wait().await.map_err(missing)
        }
    }
}

/// What ssh calls the machine, and looks up in `known_hosts`.
fn alias(access: &SshAccess) -> String {
    format!("{}.{}", access.machine, access.session)
}

/// Writes the ProxyCommand: this program, as this data directory's owner.
fn way(program: &Path, data: &Path, access: &SshAccess) -> String {
    let target = format!("{}/{}", access.session_id, access.machine);
    let (program, data) = (shell(program), shell(data));
    // ssh gives `%` a meaning, the shell behind it gives the rest one.
    format!("{program} --data-dir {data} machine dial {target} {}", access.port).replace('%', "%%")
}

fn shell(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn options(place: &Path, way: &str, access: &SshAccess) -> Vec<OsString> {
    let set = |key: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut option = OsString::from(format!("{key}="));
        option.push(value);
        [OsString::from("-o"), option]
    };
    let known = place.join("known_hosts");
    let key = place.join("key");
    [
        // The user's own ssh configuration is about other hosts.
        vec![OsString::from("-F"), OsString::from("none")],
        set("ProxyCommand", &way).into(),
        set("IdentityFile", &key).into(),
        set("IdentitiesOnly", &"yes").into(),
        set("UserKnownHostsFile", &known).into(),
        set("GlobalKnownHostsFile", &"none").into(),
        set("StrictHostKeyChecking", &"yes").into(),
        set("PasswordAuthentication", &"no").into(),
        set("KbdInteractiveAuthentication", &"no").into(),
        set("LogLevel", &"ERROR").into(),
        // A host that went away is noticed within a minute.
        set("ServerAliveInterval", &"15").into(),
        set("User", &access.user).into(),
    ]
    .concat()
}

/// A directory with the key and the known host, for as long as ssh runs.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new(run: &Path, access: &SshAccess, seed: &[u8; 32]) -> io::Result<Place> {
        sweep(run);
        let id = std::process::id();
        let dir = run.join(format!("ssh-{id}"));
        // An earlier process with our number has ended without removing it.
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&dir)?;
        let place = Place(dir);
        let write = |name: &str, text: String| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.0.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
        };
        write("key", openssh::private_file(seed, &access.session))?;
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
            seed: "07".repeat(32),
            host_key: "ssh-ed25519 AAAA".into(),
        }
    }

    #[test]
    fn the_way_survives_ssh_and_the_shell() {
        let way = way(Path::new("/opt/my agent"), Path::new("/data/50%'s"), &access());
        expect_test::expect![[r#"'/opt/my agent' --data-dir '/data/50%%'\''s' machine dial 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a/web-1 22"#]]
            .assert_eq(&way);
    }

    #[test]
    fn the_key_is_private_and_gone_afterwards() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir(run.path().join("ssh-4294967295")).unwrap();
        let place = Place::new(run.path(), &access(), &[7; 32]).unwrap();
        let mode = |name: &str| fs::metadata(place.0.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key"), mode("")), (0o600, 0o700));
        let known = fs::read_to_string(place.0.join("known_hosts")).unwrap();
        assert_eq!(known, "web-1.shop ssh-ed25519 AAAA\n");
        drop(place);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0, "also what others left is gone");
    }
}
