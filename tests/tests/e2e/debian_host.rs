//! Debian with systemd as a host: the package is installed in it, its service runs a machine, and that machine lives
//! through a restart of the service and a newer package, and is back after a reboot.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{Answer, Host, Solo, agent_bin, debian_host_image_or_skip, eventually, lab_or_skip, tiny_image};

/// A boot takes half a minute translated, and many times that on a busy computer.
const BOOT: Duration = Duration::from_secs(900);

const TOPOLOGY: &str = r#"
session = "shop"

[machines.db]
image = "debian:12"
cpus = 2
memory = "2GiB"
disk = "6GiB"
user = "ann"
services = { ssh = { port = 22, ready = { tcp = true, interval = "1s", grace = "900s" } } }
"#;

/// What runs in the host that is itself a machine: translated twice, so nothing of it is quick.
const INNER: &str = r#"
session = "inner"

[machines.web]
image = "tiny"
memory = "128MiB"
services = { http = { port = 8080, ready = { http = "/", interval = "2s", grace = "900s" } } }
"#;

#[test]
fn a_package_in_debian_keeps_its_machine_through_restart_upgrade_and_reboot() {
    let story = "a_package_in_debian_keeps_its_machine_through_restart_upgrade_and_reboot";
    let Some(image) = debian_host_image_or_skip(story) else { return };
    if !lab_or_skip(story) {
        return;
    }
    let solo = Solo::started();
    let host = &solo.host;
    host.agent(&["image", "import", image.to_str().expect("UTF-8"), "--name", "debian:12"]).expect(0);
    host.agent(&["session", "up", &host.topology(TOPOLOGY), "--timeout", "20m"]).expect(0);
    let older = package(host, "1.0.0");
    send(host, &older, "older.deb");
    send(host, &tiny_image(), "tiny.raw");

    // Installed: the service is enabled, and no mesh is made.
    inside(host, "sudo dpkg -i older.deb && systemctl is-enabled agent && ! systemctl is-active agent");
    inside(host, "getent group agent && ! sudo test -e /var/lib/agent/identity");
    inside(host, "sudo systemd-analyze verify --man=no agent.service");
    let asked = host.agent(&["machine", "ssh", "db-1", "--", "agent status"]);
    assert!(asked.code == 7 && asked.stderr.contains("sudo systemctl start agent"), "{asked:?}");
    inside(host, "sudo agent init --name inner && sudo systemctl start agent && systemctl is-active agent");
    // Who is not in the group is told; the next login is.
    let closed = host.agent(&["machine", "ssh", "db-1", "--", "agent status"]);
    assert!(closed.code == 7 && closed.stderr.contains("sudo usermod -aG agent ann"), "{closed:?}");
    inside(host, "sudo usermod -aG agent ann");
    inside(host, "agent status --json | grep -q '\"inner\"'");

    inside(host, "agent image import tiny.raw --name tiny");
    fs::write(host.scratch().join("inner.toml"), INNER).expect("a file");
    send(host, &host.scratch().join("inner.toml"), "inner.toml");
    inside(host, "agent session up inner.toml --timeout 20m");
    let running = qemu(host);
    inside(host, "sudo systemctl restart agent");
    assert_eq!(qemu(host), running, "a restart leaves machines alone");
    inside(host, "sudo systemctl kill --signal=KILL --kill-whom=main agent");
    ready(host);
    assert_eq!(qemu(host), running, "a crash as well");

    every_program_finds_names(host);

    let newer = package(host, "1.0.1");
    send(host, &newer, "newer.deb");
    inside(host, "sudo dpkg -i newer.deb && systemctl is-active agent");
    ready(host);
    assert_eq!(qemu(host), running, "the same process under the newer package");

    let boot = inside(host, "cat /proc/sys/kernel/random/boot_id");
    host.agent(&["machine", "ssh", "db-1", "--", "sudo systemctl reboot"]);
    eventually(BOOT, "it has booted again", || {
        let now = host.agent(&["machine", "ssh", "db-1", "--", "cat /proc/sys/kernel/random/boot_id"]);
        if now.code == 0 && now.stdout != boot { Ok(()) } else { Err(format!("{now:?}")) }
    });
    ready(host);
    // Still hooked in after a boot, and taken back with the package.
    inside(host, "getent ahostsv4 web.inner.mesh.internal | grep -q ^127");
    inside(host, "agent session down inner --yes && sudo dpkg -r agent");
    inside(host, "! ls /etc/systemd/*/agent-mesh* && ! test -e /usr/local/lib/agent");
    inside(host, "! test -e /usr/bin/agent && sudo test -e /var/lib/agent/identity");
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

/// Hooks names into the system, asks as programs do, takes it back and does it again.
fn every_program_finds_names(host: &Host) {
    let asked = host.agent(&["machine", "ssh", "db-1", "--", "agent dns setup"]);
    assert!(asked.code == 4 && asked.stderr.contains("sudo agent dns setup"), "{asked:?}");
    inside(host, "! getent ahostsv4 web.inner.mesh.internal");
    inside(host, "sudo agent dns setup && getent ahostsv4 web.inner.mesh.internal | grep -q ^127");
    inside(host, "curl -sS --max-time 120 http://web.inner.mesh.internal:8080/ | grep -q web-1");
    inside(host, "agent dns status --json | grep -q '\"found\":true'");
    inside(host, "sudo agent dns undo && ! getent ahostsv4 web.inner.mesh.internal");
    inside(host, "! ls /etc/systemd/*/agent-mesh* && ! test -e /usr/local/lib/agent");
    inside(host, "sudo agent dns setup");
}

/// Makes a package of the agent under test.
fn package(host: &Host, version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(".ci/package");
    let out = host.scratch().join("packages");
    let words = [agent_bin().into_os_string(), version.into(), "x86_64".into(), out.clone().into_os_string()];
    Answer::of(Command::new(script).args(words).output().expect("it starts")).expect(0);
    out.join(format!("agent_{version}_amd64.deb"))
}

/// Runs a command in the machine, as a person who logs in anew.
#[track_caller]
fn inside(host: &Host, command: &str) -> String {
    host.ssh("db-1", command)
}

/// Puts a file into the home of the machine's user.
#[track_caller]
fn send(host: &Host, file: &Path, name: &str) {
    let mut command = host.cli(&["machine", "ssh", "db-1", "--", &format!("cat >{name}")]);
    let sent = command.stdin(File::open(file).expect("a file")).output().expect("it starts");
    Answer::of(sent).expect(0);
}

/// Names the process of the inner machine's QEMU.
#[track_caller]
fn qemu(host: &Host) -> String {
    let found = inside(host, "pgrep -x qemu-system-x86").trim().to_owned();
    assert!(!found.is_empty());
    found
}

#[track_caller]
fn ready(host: &Host) {
    eventually(BOOT, "the inner machine is ready", || {
        let status = host.agent(&["machine", "ssh", "db-1", "--", "agent session status inner"]);
        let answer = status.code == 0 && status.stdout.contains("ready");
        if answer { Ok(()) } else { Err(format!("{status:?}")) }
    });
}
