//! A whole distribution as a guest: Debian with systemd and cloud-init, beside a tiny one. Everything
//! that a topology promises holds there too, through reboots and stops.

use std::{fs, path::PathBuf, time::Duration};

use agent::machine::{
    ShimStatus,
    record::{self, Ending},
};
use tests::{Host, Solo, debian_image_or_skip, eventually, lab_or_skip};

/// A boot takes half a minute translated, and many times that on a busy computer.
const BOOT: Duration = Duration::from_secs(600);

const TOPOLOGY: &str = r#"
session = "shop"

[machines.db]
image = "debian:12"
cpus = 2
memory = "512MiB"
disk = "4GiB"
user = "ann"
env = { GREETING = "it's $HOME \"here\"" }
files = { "/etc/app.toml" = { source = "app.toml", mode = "0640", owner = "ann:www-data" }, "/srv/plain" = "app.toml" }
setup = ["cat /srv/plain >>/srv/ran", "echo $GREETING >>/srv/ran", "sleep 3", "touch /srv/done"]
services = { ssh = { port = 22, ready = { tcp = true, interval = "1s", grace = "600s" } } }

[machines.web]
image = "tiny"
memory = "128MiB"
services = { http = { port = 8080, ready = { http = "/", interval = "1s", grace = "60s" } } }
"#;

/// What the guest is asked, and what it must answer, line by line.
const CHECKS: &[(&str, &str)] = &[
    // sshd answers long before setup ends: ready means that setup is done.
    ("ls /srv/done", "/srv/done"),
    ("hostname; hostname -f", "db-1\ndb-1.shop.mesh.internal"),
    ("id -un; sudo -n id -u", "ann\n0"),
    ("stat -c '%U:%G %a' /etc/app.toml /srv/plain", "ann:www-data 640\nroot:root 644"),
    ("cat /etc/app.toml", "x = 1"),
    ("cat /srv/ran", "x = 1\nit's $HOME \"here\""),
    ("bash -lc 'echo \"$GREETING\"'", "it's $HOME \"here\""),
    ("getent hosts web | tr -s ' ' | cut -d' ' -f2", "web.shop.mesh.internal"),
    ("curl -sS --max-time 60 http://web:8080/ | tail -n 1", "<p>web-1"),
    ("cat /sys/class/net/e*/mtu; grep ^search /etc/resolv.conf", "1280\nsearch shop.mesh.internal"),
    ("cloud-init status --wait | tail -n 1", "status: done"),
    ("systemctl is-active ssh systemd-networkd-wait-online cloud-config | sort -u", "active"),
    ("df -BG --output=size / | tail -n 1 | tr -d ' '", "4G"),
];

#[test]
fn debian_with_cloud_init_is_what_its_topology_says_through_reboot_stop_and_start() {
    let story = "debian_with_cloud_init_is_what_its_topology_says_through_reboot_stop_and_start";
    let Some(image) = debian_image_or_skip(story) else { return };
    if !lab_or_skip(story) {
        return;
    }
    let solo = Solo::started();
    let host = &solo.host;
    host.agent(&["image", "import", image.to_str().expect("UTF-8"), "--name", "debian:12"]).expect(0);
    fs::write(host.scratch().join("app.toml"), "x = 1\n").expect("a file");
    let topology = host.topology(TOPOLOGY);
    host.agent(&["session", "up", &topology, "--timeout", "15m"]).expect(0);
    check(host);

    let boot = boot_id(host).expect("a boot id");
    host.agent(&["machine", "ssh", "db-1", "--", "sudo systemctl reboot"]);
    let boot = booted_since(host, &boot);
    state_is(host, "ready");
    check(host);

    host.agent(&["machine", "stop", "db-1"]).expect(0);
    state_is(host, "stopped");
    // By its own shutdown: nothing on its disk is lost.
    assert_eq!(ending(host).reason, "stopped");
    host.agent(&["machine", "start", "db-1"]).expect(0);
    booted_since(host, &boot);
    state_is(host, "ready");
    check(host);
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert_eq!(host.processes("qemu-system").len(), 0);
}

/// Asks everything in one login: logins are slow there.
#[track_caller]
fn check(host: &Host) {
    let script: String = CHECKS.iter().map(|(ask, _)| format!("{ask}; echo --\n")).collect();
    let answers = host.ssh("db-1", &script);
    let answers: Vec<&str> = answers.split("--\n").map(str::trim).collect();
    for ((ask, wanted), answer) in CHECKS.iter().zip(answers) {
        assert_eq!(&answer, wanted, "{ask}");
    }
}

fn boot_id(host: &Host) -> Result<String, String> {
    let answer = host.agent(&["machine", "ssh", "db-1", "--", "cat /proc/sys/kernel/random/boot_id"]);
    if answer.code == 0 { Ok(answer.stdout) } else { Err(answer.stderr) }
}

/// Waits until people may log in after another boot than `before`, and names that boot.
#[track_caller]
fn booted_since(host: &Host, before: &str) -> String {
    eventually(BOOT, "it has booted again", || match boot_id(host) {
        Ok(now) if now != before => Ok(now),
        other => Err(format!("{other:?}")),
    })
}

#[track_caller]
fn state_is(host: &Host, state: &str) {
    eventually(BOOT, &format!("db-1 is {state}"), || {
        let status = host.session("shop");
        let machines = status["machines"].as_array().expect("a list");
        let row = machines.iter().find(|row| row["name"] == "db-1").expect("the machine");
        if row["state"] == state { Ok(()) } else { Err(row.to_string()) }
    });
}

/// Reads how the machine's QEMU ended.
fn ending(host: &Host) -> Ending {
    let sessions = fs::read_dir(host.data().join("sessions")).expect("sessions").flatten();
    let paths: Vec<PathBuf> = sessions.map(|entry| entry.path().join("db-1/shim")).collect();
    let path = paths.iter().find(|path| path.exists()).expect("the machine's directory");
    let status = record::load::<ShimStatus>(path).expect("a file").expect("a status");
    status.ended.expect("it has ended")
}
