//! Pure: the service of systemd that runs the agent, as text. It never ends machines: they belong to their shims, and
//! the next agent finds them.

use std::path::Path;

use super::Scope;

/// What every line of a unit is about is said in it: it is read by people who wonder.
const MACHINES: &str = "\
# Machines outlive the agent: when it stops, crashes or is upgraded, only its own process is ended, and the next one
# finds them. They stay in this unit's control group; a scope for each would need a manager that answers at the very
# moment a machine starts. Memory that runs out ends one of them, not all.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=524288
";

/// Everything here is inherited by QEMU, and QEMU's translator writes the code that it runs: no
/// `MemoryDenyWriteExecute`. A private `/tmp` would hide the images that people import from theirs.
const HARD: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
UMask=0077
";

/// What only root's manager can do for a service.
const HARD_AS_ROOT: &str = "\
# Its group, others' images, its shims, port 53 where the settings ask for it: nothing else of root's.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_KILL CAP_NET_BIND_SERVICE
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
ProtectSystem=full
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
";

/// Writes the unit. `data` is the data directory, and `chosen` whether it is another than the usual one.
pub fn text(scope: Scope, program: &Path, data: &Path, chosen: bool) -> String {
    let (program, dir) = (quoted(program), path(data));
    let hard = match scope {
        Scope::System => format!("{HARD}{HARD_AS_ROOT}"),
        Scope::User => HARD.to_owned(),
    };
    let environment = match (chosen, scope) {
        (false, _) => String::new(),
        (true, Scope::User) => format!("Environment={}\n", variable(data)),
        (true, Scope::System) => format!("Environment={}\nReadWritePaths=-{dir}\n", variable(data)),
    };
    let wanted = match scope {
        Scope::System => "multi-user.target",
        Scope::User => "default.target",
    };
    format!(
        "[Unit]\n\
         Description=Virtual machines on the computers you own\n\
         Documentation=man:agent(1)\n\
         After=network.target\n\
         # Without a mesh there is nothing to run: agent init, or agent join, then start it.\n\
         ConditionPathExists=|{dir}/identity/mesh\n\
         ConditionPathExists=|{dir}/identity/pending\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={program} run\n\
         {environment}\
         Restart=always\n\
         RestartSec=2\n\
         # Wrong settings, and a mesh that says no, are not mended by another try.\n\
         RestartPreventExitStatus=2 4\n\
         TimeoutStopSec=30\n\
         \n\
         {MACHINES}\n\
         {hard}\n\
         [Install]\n\
         WantedBy={wanted}\n"
    )
}

/// Writes a path as the manager reads it: `%` is its own sign.
fn path(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

/// Writes one word of a command line: blanks, quotes and `$` are the manager's own signs there.
fn quoted(word: &Path) -> String {
    let escaped = path(word).replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    if escaped.contains(|letter: char| letter.is_whitespace() || letter == '\'' || letter == '"') {
        format!("\"{escaped}\"")
    } else {
        escaped
    }
}

/// Writes the data directory as a variable.
fn variable(data: &Path) -> String {
    let escaped = path(data).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"AGENT_DATA_DIR={escaped}\"")
}
