//! Whatever is killed on one host, the rest goes on: machines outlive their agent, a dead QEMU or shim
//! costs one machine one restart, and the next agent finds everything as it was.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tests::{Host, Place, alive, eventually, http_get, kill};

/// Two machines that know nothing of each other, so that one can fall and the other be watched.
const PAIR: &str = r#"
session = "pair"

[machines.web]
count  = 2
image  = "tiny"
memory = "128MiB"
[machines.web.services.http]
port  = 8080
ready = { http = "/", interval = "1s", grace = "60s" }
"#;

/// A host on which both machines are ready.
fn pair() -> Host {
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(PAIR)]).expect(0);
    host
}

/// Asks a machine for its page by its own name's address.
fn page(address: SocketAddr) -> Result<String, String> {
    http_get(address, "/").map(|(_, body)| body)
}

/// Where this host reaches one machine.
#[track_caller]
fn address(host: &Host, machine: &str) -> SocketAddr {
    let name = format!("{machine}.pair.mesh.internal");
    eventually(Duration::from_secs(20), &format!("{name} is answered"), || {
        let answer = host.agent(&["dns", "query", &name]);
        let line = answer.stdout.lines().next().ok_or(answer.stderr.clone())?;
        let address = line.parse().map_err(|error| format!("{line}: {error}"))?;
        Ok(SocketAddr::new(address, 8080))
    })
}

#[track_caller]
fn both_serve(host: &Host) {
    for machine in ["web-1", "web-2"] {
        let address = address(host, machine);
        let body = eventually(Duration::from_secs(20), &format!("{machine} serves"), || page(address));
        assert!(body.contains(machine), "{body}");
    }
}

#[test]
fn an_agent_that_is_killed_while_it_asks_qemu_leaves_none_behind() {
    let mut host = Host::new("nas", Place::Here);
    host.agent(&["init", "--name", "nas"]).expect(0);
    // It asks at every first start, for less than a second: one of a few kills falls into it.
    let asked = (0..5).any(|_| {
        let _first = std::fs::remove_file(host.data().join("qemu.json"));
        host.spawn(&[]);
        let asks =
            |host: &Host| host.begun_by_its_agent().iter().any(|(_, line)| line.contains("-machine none"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !asks(&host) && !host.data().join("qemu.json").exists() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let asked = asks(&host);
        host.kill();
        asked
    });
    assert!(asked, "no QEMU was ever seen to be asked");
    eventually(Duration::from_secs(5), "nothing is left of the killed agent", || {
        let left = host.begun_by_its_agent();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_killed_agent_leaves_its_machines_running_and_the_next_one_adopts_them() {
    let mut host = pair();
    let before = [host.pids("web-1"), host.pids("web-2")];
    let boots = host.facts("machine-restarted").len();
    host.kill();
    host.agent(&["status"]).expect(7);
    // Their shims answer nobody now, but they and QEMU live, and nothing ends them.
    assert_eq!([host.pids("web-1"), host.pids("web-2")], before);

    host.start();
    both_serve(&host);
    assert_eq!([host.pids("web-1"), host.pids("web-2")], before, "the same processes");
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1), ("web-2".to_owned(), 1)].into());
    assert_eq!(host.facts("machine-adopted").len(), 2);
    assert_eq!(host.facts("machine-restarted").len(), boots, "no machine was started again");
    up_works_after_a_restart(&host);
}

/// The only voter's state came back from its disk: the session can be read and changed.
fn up_works_after_a_restart(host: &Host) {
    host.reaches("web-1", "ready");
    host.reaches("web-2", "ready");
    let before = host.json(&["session", "status", "pair"]);
    assert_eq!((&before["generation"], &before["coordinator"]), (&1.into(), &"nas".into()));
    let file = host.topology(&PAIR.replace("count  = 2", "count  = 1"));
    let after = host.json(&["session", "up", &file]);
    assert_eq!((&after["id"], &after["generation"]), (&before["id"], &2.into()));
    eventually(Duration::from_secs(30), "web-2 is gone", || match host.qemus().get("web-2") {
        Some(count) => Err(format!("{count} run")),
        None => Ok(()),
    });
}

#[test]
fn an_agent_that_ends_in_order_leaves_its_machines_running() {
    let mut host = pair();
    let before = [host.pids("web-1"), host.pids("web-2")];
    host.stop();
    assert_eq!([host.pids("web-1"), host.pids("web-2")], before);
    host.agent(&["machine", "list"]).expect(7);
    host.start();
    both_serve(&host);
    assert_eq!([host.pids("web-1"), host.pids("web-2")], before);

    // Interrupted as by Ctrl-C in its terminal: the same.
    host.stop_by(Signal::INT);
    assert_eq!([host.pids("web-1"), host.pids("web-2")], before);
}

#[test]
fn a_killed_qemu_is_restarted_and_nobody_else_notices() {
    let host = pair();
    let (fallen, other) = (host.pids("web-1"), host.pids("web-2"));
    let (there, here) = (address(&host, "web-2"), address(&host, "web-1"));
    kill(fallen.qemu);
    let row = host.leaves("web-1", "ready");
    assert!(row["reason"].as_str().is_some_and(|because| because.contains("signal 9")), "{row}");
    assert!(page(there).expect("a page").contains("web-2"));
    let row = host.reaches("web-1", "ready");
    assert_eq!((&row["host"], &row["epoch"]), (&"nas".into(), &1.into()), "the same incarnation, here");
    let restarts = host.facts("machine-restarted");
    assert_eq!(restarts.len(), 1, "{restarts:?}");
    assert_eq!(restarts[0]["machine"], "web-1");
    assert!(restarts[0]["because"].as_str().is_some_and(|b| b.contains("signal 9")), "{restarts:?}");
    assert_ne!(host.pids("web-1").qemu, fallen.qemu);
    assert_eq!(host.pids("web-2"), other);
    let body = eventually(Duration::from_secs(20), "web-1 serves again", || page(here));
    assert!(body.contains("web-1"), "{body}");
}

#[test]
fn a_killed_shim_takes_its_qemu_along_and_the_machine_is_restarted() {
    let host = pair();
    let (fallen, other) = (host.pids("web-1"), host.pids("web-2"));
    let start = Instant::now();
    kill(fallen.shim);
    eventually(Duration::from_secs(10), "its QEMU is gone", || {
        if alive(fallen.qemu) { Err(format!("process {} lives", fallen.qemu)) } else { Ok(()) }
    });
    assert!(start.elapsed() < Duration::from_secs(1), "QEMU lived on for {:?}", start.elapsed());
    let row = host.leaves("web-1", "ready");
    assert!(row["reason"].as_str().is_some_and(|because| because.contains("shim was killed")), "{row}");
    host.reaches("web-1", "ready");
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1), ("web-2".to_owned(), 1)].into());
    assert_eq!(host.pids("web-2"), other);
    assert_eq!(host.facts("machine-restarted").len(), 1);
}

#[test]
fn an_agent_finds_out_what_died_while_it_was_away() {
    let mut host = pair();
    let (fallen, other) = (host.pids("web-1"), host.pids("web-2"));
    host.kill();
    kill(fallen.shim);
    eventually(Duration::from_secs(10), "its QEMU is gone", || {
        if alive(fallen.qemu) { Err(format!("process {} lives", fallen.qemu)) } else { Ok(()) }
    });
    host.start();
    host.reaches("web-1", "ready");
    assert_ne!(host.pids("web-1"), fallen);
    assert_eq!(host.pids("web-2"), other);
    both_serve(&host);
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1), ("web-2".to_owned(), 1)].into());
}
