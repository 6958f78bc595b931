//! Looks at this computer as far as installing needs it: what manages its services, who asks, which firewalls there are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    SERVICE, Scope,
    carry::Root,
    layout::{BY_ROOT, PACKAGED},
    names::look as names,
    plan::{Computer, GROUP, Linger},
};
use crate::host::{data::DataDir, users};

/// Gathers what a plan depends on. `runs` is the process of the agent that answers on the data directory.
pub fn look(data: &DataDir, chosen: bool, runs: Option<i32>) -> Computer {
    let me = rustix::process::getuid().as_raw();
    let user = users::name(me);
    let systemd = has_systemd();
    let runtime = env::var_os("XDG_RUNTIME_DIR").is_none().then(|| PathBuf::from(format!("/run/user/{me}")));
    Computer {
        runtime: runtime.filter(|_| me != 0),
        systemd,
        linger: if me == 0 || !systemd { Linger::On } else { linger(&user) },
        group: users::group(GROUP).is_some(),
        firewalls: [Path::new("/etc/ufw").is_dir(), has_firewalld()],
        data: data.path().to_owned(),
        chosen,
        member: data.identity().join("mesh").exists(),
        by_hand: runs.filter(|pid| unit_of(*pid).is_none()),
        named: names::hooked(&Root(None), data.path()).is_some(),
        user,
    }
}

/// Gives what a computer is like that has everything: a package, or the root of another system, is made for it.
pub fn anywhere(scope: Scope, data: &Path) -> Computer {
    let (user, data) = (String::from("root"), data.to_owned());
    let linger = if scope == Scope::User { Linger::Off } else { Linger::On };
    Computer { user, systemd: true, linger, firewalls: [true, true], data, ..Computer::default() }
}

/// Tells whether systemd manages this computer.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn has_firewalld() -> bool {
    ["/etc/firewalld", "/usr/lib/firewalld"].iter().any(|dir| Path::new(dir).is_dir())
}

fn linger(user: &str) -> Linger {
    if Path::new("/var/lib/systemd/linger").join(user).exists() {
        return Linger::On;
    }
    let asked = Command::new("loginctl").arg("--version").output();
    if asked.is_ok_and(|output| output.status.success()) { Linger::Off } else { Linger::Unknown }
}

/// Gives the unit that a package manager put here.
pub fn packaged() -> Option<&'static Path> {
    PACKAGED.iter().map(Path::new).find(|path| path.exists())
}

/// Tells whether this computer's own agent is installed as a service, whoever did it.
pub fn has_service() -> bool {
    packaged().is_some() || Path::new(BY_ROOT).exists()
}

/// A service that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Whose manager it has.
    pub scope: Scope,
}

/// Tells of which service a process is, by its control group.
pub fn unit_of(pid: i32) -> Option<Unit> {
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Reads the same from the text. A shell in a login belongs to a scope and to no service of ours.
fn unit_in(text: &str) -> Option<Unit> {
    let path = text.lines().find_map(|line| line.rsplit_once(':').map(|(_, path)| path.trim()))?;
    let name = path.rsplit('/').next().filter(|name| name.ends_with(".service"))?;
    let users = path.contains("/user@");
    // What the manager of a user runs in is itself a service, of the system's manager.
    let own = name == SERVICE || !name.starts_with("user@");
    own.then(|| Unit { name: name.to_owned(), scope: if users { Scope::User } else { Scope::System } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_the_service_whose_control_group_it_is_in() {
        let unit = |name: &str, scope| Some(Unit { name: name.into(), scope });
        assert_eq!(unit_in("0::/system.slice/agent.service\n"), unit("agent.service", Scope::System));
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service\n";
        assert_eq!(unit_in(user), unit("agent.service", Scope::User));
        assert_eq!(unit_in("0::/user.slice/user-1000.slice/session-3.scope\n"), None);
        assert_eq!(unit_in("0::/user.slice/user-1000.slice/user@1000.service\n"), None);
        assert_eq!(unit_in("0::/\n"), None);
        assert_eq!(
            unit_in("1:name=systemd:/system.slice/mine.service\n"),
            unit("mine.service", Scope::System)
        );
    }
}
