//! Pure: what `agent install` and `agent uninstall` write, run and say on a computer that is like this one. A dry run
//! shows the very value that is carried out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    SERVICE, Scope,
    hook::Hook,
    layout::{Firewalls, Layout},
    unit,
};

/// Group whose members use the system's agent.
pub const GROUP: &str = "agent";
/// Ports that others come to: traffic between hosts and the relay, and beside it address discovery.
const UFW: &str = "\
[agent]
title=agent
description=Virtual machines on the computers you own: traffic between hosts, relay, address discovery
ports=7440/tcp|7440:7441/udp
";
const FIREWALLD: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<service>
  <short>agent</short>
  <description>Virtual machines on the computers you own: traffic between hosts, relay, address discovery.</description>
  <port protocol="udp" port="7440-7441"/>
  <port protocol="tcp" port="7440"/>
</service>
"#;

/// What this computer is like.
#[derive(Clone, Debug, Default)]
pub struct Computer {
    /// The user's name.
    pub user: String,
    /// Where the user's manager has its sockets, when the environment does not say so.
    pub runtime: Option<PathBuf>,
    /// Whether systemd manages this computer.
    pub systemd: bool,
    /// Whether services of this user outlive their logins.
    pub linger: Linger,
    /// Whether the group exists.
    pub group: bool,
    /// Whether the directories of ufw and firewalld exist.
    pub firewalls: [bool; 2],
    /// The data directory.
    pub data: PathBuf,
    /// Whether it is another than the usual one.
    pub chosen: bool,
    /// Whether it belongs to a mesh.
    pub member: bool,
    /// The process of an agent that somebody started by hand on it.
    pub by_hand: Option<i32>,
    /// Whether the system's resolver is told of the mesh's names.
    pub named: bool,
}

/// Whether services of a user outlive their logins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linger {
    /// They do.
    #[default]
    On,
    /// They end with the last login.
    Off,
    /// There is no `loginctl` that could tell.
    Unknown,
}

/// What is to be done, in this order: files, commands, words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Commands before any file is touched.
    pub first: Vec<Command>,
    /// What is written.
    pub write: Vec<File>,
    /// What is removed.
    pub remove: Vec<PathBuf>,
    /// Commands after that.
    pub run: Vec<Command>,
    /// What a person is told at the end.
    pub say: Vec<String>,
}

/// A file that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// What is in it; `None` = this very program.
    pub text: Option<String>,
}

/// A command that is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Program and arguments.
    pub words: Vec<String>,
    /// One variable that it needs.
    pub variable: Option<(String, String)>,
    /// What is told when it fails and all else is well without it; `None` = its failure ends the work.
    pub otherwise: Option<String>,
}

/// What was written, for the day it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub scope: Scope,
    /// Each file and the hash of what was written.
    pub files: Vec<(PathBuf, String)>,
    /// Directories that did not exist before, the inner ones first.
    pub made: Vec<PathBuf>,
    /// Whether the user's services were made to outlive their logins.
    pub linger: bool,
    /// What the system's resolver was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Hook>,
}

/// Pages of the command line: completions in the order of the layout, and manual pages by file name.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// Of bash, zsh and fish.
    pub completions: [String; 3],
    /// Each with its name.
    pub manual: Vec<(String, String)>,
}

impl Plan {
    /// Does what another one does as well, after this.
    pub fn and(mut self, other: &Plan) -> Plan {
        self.first.extend_from_slice(&other.first);
        self.write.extend_from_slice(&other.write);
        self.remove.extend_from_slice(&other.remove);
        self.run.extend_from_slice(&other.run);
        self.say.extend_from_slice(&other.say);
        self
    }
}

impl Command {
    /// Makes one whose failure ends the work.
    pub(super) fn new(words: &[&str]) -> Command {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Command { words, variable: None, otherwise: None }
    }

    /// Writes it as a person types it.
    pub fn line(&self) -> String {
        let variable = self.variable.as_ref().map(|(name, value)| format!("{name}={value} "));
        variable.unwrap_or_default() + &self.words.join(" ")
    }
}

/// Decides how the agent is installed.
pub fn install(layout: &Layout, pages: &Pages, seen: &Computer) -> Plan {
    let (run, say) = match (seen.systemd, layout.scope) {
        (false, _) => (Vec::new(), without_systemd(layout, seen)),
        (true, Scope::System) => (system(seen), then(layout.scope, seen)),
        (true, Scope::User) => (user(seen), then(layout.scope, seen)),
    };
    Plan { write: files(layout, pages, seen), run, say, ..Plan::default() }
}

/// Gives the files of an installed agent.
pub fn files(layout: &Layout, pages: &Pages, seen: &Computer) -> Vec<File> {
    let file =
        |path: &Path, text: &str| File { path: path.to_owned(), mode: 0o644, text: Some(text.to_owned()) };
    let mut files = vec![File { path: layout.program.clone(), mode: 0o755, text: None }];
    if seen.systemd {
        let text = unit::text(layout.scope, &layout.program, &seen.data, seen.chosen);
        files.push(file(&layout.unit, &text));
    }
    if let Some(Firewalls { ufw, firewalld }) = &layout.firewalls {
        let both = [(ufw, UFW), (firewalld, FIREWALLD)];
        let there = both.iter().zip(seen.firewalls).filter(|(_, there)| *there);
        files.extend(there.map(|((path, text), _)| file(path, text)));
    }
    files.extend(layout.completions.iter().zip(&pages.completions).map(|(path, text)| file(path, text)));
    files.extend(pages.manual.iter().map(|(name, page)| file(&layout.manual.join(name), page)));
    files
}

fn system(seen: &Computer) -> Vec<Command> {
    let mut run = Vec::new();
    if !seen.group {
        let otherwise =
            format!("the group {GROUP} could not be made: only root uses the agent until it exists");
        run.push(Command { otherwise: Some(otherwise), ..Command::new(&["groupadd", "--system", GROUP]) });
    }
    run.extend(managed(&["systemctl"], None, seen));
    run
}

fn user(seen: &Computer) -> Vec<Command> {
    let mut run = Vec::new();
    if seen.linger == Linger::Off {
        // It starts the user's manager as well, where no login has.
        let otherwise = format!("the agent ends with your last login; root can mend it: {}", lingers(seen));
        let command = Command::new(&["loginctl", "enable-linger", &seen.user]);
        run.push(Command { otherwise: Some(otherwise), ..command });
    }
    run.extend(managed(&["systemctl", "--user"], seen.runtime.as_deref(), seen));
    run
}

fn managed(manager: &[&str], runtime: Option<&Path>, seen: &Computer) -> Vec<Command> {
    let variable = runtime.map(|dir| ("XDG_RUNTIME_DIR".to_owned(), dir.display().to_string()));
    let command =
        |words: &[&str]| Command { variable: variable.clone(), ..Command::new(&[manager, words].concat()) };
    let mut run = vec![command(&["daemon-reload"]), command(&["enable", SERVICE])];
    if seen.member && seen.by_hand.is_none() {
        run.push(command(&["restart", SERVICE]));
    }
    run
}

/// Says how services of a user are made to outlive logins where there is no `loginctl`.
fn lingers(seen: &Computer) -> String {
    format!("sudo mkdir -p /var/lib/systemd/linger && sudo touch /var/lib/systemd/linger/{}", seen.user)
}

fn then(scope: Scope, seen: &Computer) -> Vec<String> {
    let (sudo, manager) = match scope {
        Scope::System => ("sudo ", "sudo systemctl"),
        Scope::User => ("", "systemctl --user"),
    };
    let mut say = Vec::new();
    if scope == Scope::User && seen.linger == Linger::Unknown {
        say.push(format!(
            "there is no loginctl: the agent ends with your last login, unless: {}",
            lingers(seen)
        ));
    }
    match seen.by_hand {
        Some(pid) => say.push(format!(
            "an agent that was started by hand runs: kill {pid}    then {manager} start agent; machines run on"
        )),
        None if !seen.member => {
            say.push(format!("next: {sudo}agent init --name NAME    or {sudo}agent join TOKEN"));
            say.push(format!("then: {manager} start agent"));
        }
        None => {}
    }
    if scope == Scope::System {
        say.push(format!("who else may use it: sudo usermod -aG {GROUP} USER    and a new login"));
        if !seen.named {
            say.push("names in every program: sudo agent dns setup".to_owned());
        }
    }
    say
}

/// Says how to run the agent where nothing manages services: one line for a shell, and where it belongs.
fn without_systemd(layout: &Layout, seen: &Computer) -> Vec<String> {
    let mut say = Vec::new();
    if !seen.member {
        say.push("next: agent init --name NAME    or agent join TOKEN".to_owned());
    }
    say.push(format!("there is no systemd here; this line runs the agent: {}", line(layout, seen)));
    say.push(
        "at every boot: that line in /etc/local.d/agent.start (OpenRC) or /etc/rc.local; in a container, `agent run` is \
         its command"
            .to_owned(),
    );
    say
}

/// Writes the line that runs the agent without a manager: it leaves the terminal, and says what it says into a file.
pub fn line(layout: &Layout, seen: &Computer) -> String {
    let shell = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"));
    let (program, data) = (shell(&layout.program), shell(&seen.data));
    let log = shell(&seen.data.with_extension("log"));
    let chosen = if seen.chosen { format!("AGENT_DATA_DIR={data} ") } else { String::new() };
    format!("{chosen}nohup {program} run </dev/null >>{log} 2>&1 &")
}

/// Decides how what was installed is removed.
pub fn uninstall(layout: &Layout, record: &Record, seen: &Computer) -> Plan {
    let manager: &[&str] =
        if record.scope == Scope::User { &["systemctl", "--user"] } else { &["systemctl"] };
    let runtime = seen.runtime.as_ref().filter(|_| record.scope == Scope::User);
    let variable = runtime.map(|dir| ("XDG_RUNTIME_DIR".to_owned(), dir.display().to_string()));
    let command =
        |words: &[&str]| Command { variable: variable.clone(), ..Command::new(&[manager, words].concat()) };
    let mut plan = Plan::default();
    let has_unit = record.files.iter().any(|(path, _)| *path == layout.unit);
    if seen.systemd && has_unit {
        plan.first.push(command(&["disable", "--now", SERVICE]));
        plan.run.push(command(&["daemon-reload"]));
    }
    if record.linger {
        let otherwise =
            format!("your services still outlive your logins: loginctl disable-linger {}", seen.user);
        let disable = Command::new(&["loginctl", "disable-linger", &seen.user]);
        plan.run.push(Command { otherwise: Some(otherwise), ..disable });
    }
    plan.remove = record.files.iter().map(|(path, _)| path.clone()).collect();
    plan.remove.extend(layout.record.clone());
    plan.remove.extend(record.made.clone());
    if let Some(pid) = seen.by_hand {
        plan.say.push(format!("an agent that was started by hand still runs: kill {pid}"));
    }
    if seen.member {
        plan.say.push(format!("the mesh, images and disks stay in {}", seen.data.display()));
    }
    plan
}
