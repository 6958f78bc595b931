//! Setup comes before readiness, and a setup that fails is told.

use tests::{Solo, lab_or_skip};

const TOPOLOGY: &str = r#"
session = "shop"
[defaults]
image = "tiny"
memory = "128MiB"

[machines.bad]
setup = ["true", "ls /nowhere", "touch /run/after"]
services = { ssh = { port = 22, ready = { tcp = true, interval = "1s", grace = "60s" } } }

[machines.good]
setup = ["echo done >/srv/www/index.html"]
services = { ssh = { port = 22, ready = { tcp = true, interval = "1s", grace = "60s" } } }
"#;

/// The command and what it printed last, not its number alone.
const FAILED: &str =
    "setup command 2 (ls /nowhere) ended with exit code 1: ls: /nowhere: No such file or directory";

#[test]
fn a_machine_whose_setup_fails_is_failed_with_the_command_although_its_port_is_open() {
    if !lab_or_skip("a_machine_whose_setup_fails_is_failed_with_the_command_although_its_port_is_open") {
        return;
    }
    let solo = Solo::started();
    let topology = solo.host.topology(TOPOLOGY);
    let up = solo.host.agent(&["session", "up", &topology, "--timeout", "4m"]);
    assert_ne!(up.code, 0, "{up:?}");
    let status = solo.host.session("shop");
    let row = |name: &str| {
        let machines = status["machines"].as_array().expect("a list");
        let row = machines.iter().find(|row| row["name"] == name).expect("a machine");
        (row["state"].as_str().expect("text").to_owned(), row["reason"].clone())
    };
    let (state, reason) = row("bad-1");
    assert_eq!((state.as_str(), reason.as_str()), ("failed", Some(FAILED)));
    assert_eq!(row("good-1").0, "ready");
    // It can be looked into, and nothing ran after the failure.
    assert_eq!(solo.host.ssh("bad-1", "cat /var/lib/mesh/step; ls /run/after; true").trim(), "2");
    solo.host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}
