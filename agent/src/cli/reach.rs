//! Which agent a command speaks to, and what a person is told who reaches none: a user without one of their own finds
//! that of the computer, or the way to it, and is never led to a second mesh.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use proto::wire::api::{Error, Kind};
use rustix::fs::{Access, access};

use crate::{
    host::{data::DataDir, users},
    install::look,
};

/// How the agent of the computer looks to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// There is none.
    None,
    /// Its service is installed, and nothing listens.
    Silent,
    /// It is there: open to this user, or closed.
    There,
}

/// Chooses the data directory whose agent is spoken to: `own`, unless its user has none there and the computer has.
pub fn choose(own: DataDir, chosen: bool) -> DataDir {
    let root = rustix::process::geteuid().is_root();
    let has_own = own.identity().exists() || own.socket().exists();
    if chosen || root || has_own || system() == System::None { own } else { DataDir::system() }
}

fn system() -> System {
    match access(DataDir::system().socket(), Access::WRITE_OK) {
        Ok(()) | Err(rustix::io::Errno::ACCESS) => System::There,
        Err(_) if look::has_service() => System::Silent,
        Err(_) => System::None,
    }
}

/// Refuses to make something of a user's own where their commands would speak to the agent of the computer.
pub fn own_only(data: &DataDir, chosen: bool, verb: &str) -> Result<(), Error> {
    if chosen || rustix::process::geteuid().is_root() || *data != DataDir::system() {
        return Ok(());
    }
    let next = match verb {
        "run" => "agent status",
        _ => "sudo agent init --name NAME    or sudo agent join TOKEN",
    };
    Err(Error::new(Kind::Refused, "this computer has an agent already, which is root's")
        .because(format!("its data are in {}; another one here would be another host", data.path().display()))
        .next(format!("{next}    or, for one of your own: agent --data-dir DIR {verb}")))
}

/// Gives the command that starts the agent of a data directory: its service where there is one.
pub fn start(data: &DataDir) -> &'static str {
    let service = look::has_systemd() && look::has_service() && *data == DataDir::system();
    if service { "systemctl start agent" } else { "agent run" }
}

/// Says why no agent answers, and what leads to it.
pub fn unreachable(socket: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return closed(socket);
    }
    let because = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no socket {}", socket.display()),
        io::ErrorKind::ConnectionRefused => format!("nothing listens at {}", socket.display()),
        _ => format!("{}: {error}", socket.display()),
    };
    let dir = socket.parent().unwrap_or(Path::new("/"));
    if let Some(out) = crate::daemon::out(dir) {
        return Error { kind: Kind::Unreachable, ..out };
    }
    let root = rustix::process::geteuid().is_root();
    let service = dir == DataDir::system().path() && look::has_service();
    let member = dir.join("identity/mesh").exists();
    if dir.join("identity/pending").exists() && !member {
        return Error::new(Kind::Unreachable, "the agent is in no mesh yet")
            .because(format!("it waits for the mesh that its token is of; {because}"))
            .next(if service {
                "systemctl status agent"
            } else {
                "agent run, which says what it waits for"
            });
    }
    let sudo = if root { "" } else { "sudo " };
    let next = match (service, member || !root) {
        (true, true) => format!(
            "{sudo}systemctl start agent    in a mesh already, else first: {sudo}agent init --name NAME"
        ),
        (true, false) => {
            "agent init --name NAME    or agent join TOKEN, then systemctl start agent".to_owned()
        }
        (false, _) if !dir.join("identity").exists() => {
            "agent init --name NAME    or agent join TOKEN".to_owned()
        }
        (false, _) => "agent run".to_owned(),
    };
    Error::new(Kind::Unreachable, "the agent does not run here").because(because).next(next)
}

/// Says whose agent it is that does not let this user in, and which group does.
fn closed(socket: &Path) -> Error {
    let error = Error::new(Kind::Unreachable, "the agent of this computer is not open to you");
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let me = users::name(rustix::process::getuid().as_raw());
    let Ok(seen) = fs::metadata(dir) else {
        return error
            .because(format!("{} cannot be looked at", dir.display()))
            .next("run this as the user that runs the agent, or name its --data-dir");
    };
    let owner = users::name(seen.uid());
    // Passable for its group is the sign that it has one.
    if seen.mode() & 0o010 == 0 {
        return error
            .because(format!("{} belongs to {owner} alone", socket.display()))
            .next("run this as the user that runs the agent, or name its --data-dir");
    }
    let group = users::group_name(seen.gid());
    let listed = users::group(&group).is_some_and(|group| group.members.contains(&me));
    match listed {
        true => error
            .because(format!("{me} is in the group {group}, and was not yet when this login began"))
            .next(format!("log in again, or: newgrp {group}")),
        false => error
            .because(format!(
                "{} belongs to {owner} and the group {group}, and {me} is not in it",
                dir.display()
            ))
            .next(format!("sudo usermod -aG {group} {me}    then log in again")),
    }
}
