//! What runs is known by the computer, not by a directory: copies, damaged files, lost sockets and shims
//! that answer late neither start a machine twice nor hide it.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{Host, Pids, Place, alive, eventually};

const ONE: &str = r#"
session = "one"

[machines.web]
image  = "tiny"
memory = "128MiB"
[machines.web.services.http]
port  = 8080
ready = { http = "/", interval = "1s", grace = "60s" }
"#;

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it lives");
}

/// Spoils what the machine's directory says of it.
fn spoil(host: &Host, text: &[u8]) {
    for file in ["launch", "shim"] {
        fs::write(host.session_dir().join("web-1").join(file), text).expect("a file");
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts");
    assert!(done.success());
}

/// The one machine is ready, and its processes are still these.
#[track_caller]
fn same(host: &Host, before: Pids, after: &str) {
    host.reaches("web-1", "ready");
    assert!(alive(before.shim) && alive(before.qemu), "after {after}");
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1)].into(), "after {after}");
    assert_eq!(host.pids("web-1"), before, "after {after}");
    assert_eq!(host.facts("machine-restarted").len(), 0, "after {after}");
}

#[track_caller]
fn gone(pids: Pids) {
    eventually(Duration::from_secs(20), "both processes are gone", || {
        match alive(pids.shim) || alive(pids.qemu) {
            true => Err(format!("{pids:?}")),
            false => Ok(()),
        }
    });
}

fn reason(row: &Value) -> &str {
    row["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_running_machine_is_never_lost_and_never_doubled() {
    let mut host = Host::first("nas", Place::Here);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(ONE)]).expect(0);
    let first = host.pids("web-1");

    a_copy_takes_the_place_of_the_directory(&mut host);
    same(&host, first, "a copy");

    host.stop();
    spoil(&host, b"");
    host.start();
    // Its shim tells what is lost.
    eventually(Duration::from_secs(20), "its shim has written its numbers again", || {
        let bytes = fs::read(host.session_dir().join("web-1/launch")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains("web-1") { Ok(()) } else { Err(text) }
    });
    assert_eq!(host.machine("web-1").expect("a row")["epoch"], 1);
    host.reaches("web-1", "ready");
    assert!(alive(first.shim) && alive(first.qemu), "after damage");
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1)].into(), "after damage");

    sockets_vanish(&host);
    assert!(alive(first.shim) && alive(first.qemu), "after lost sockets");
    a_shim_answers_late(&mut host, first);
    stopping_means_stopped(&host, first);

    // Ended although nothing in the directory can be read.
    host.agent(&["machine", "start", "web-1"]).expect(0);
    host.reaches("web-1", "ready");
    let last = host.pids("web-1");
    host.kill();
    spoil(&host, b"{");
    host.start();
    host.agent(&["session", "down", "one", "--yes"]).expect(0);
    gone(last);
    assert!(host.qemus().is_empty());
}

fn a_copy_takes_the_place_of_the_directory(host: &mut Host) {
    let data = host.data();
    let (taken, old) = (data.with_extension("copy"), data.with_extension("old"));
    copy(&data, &taken);
    host.stop();
    fs::rename(&data, &old).expect("the data directory moves away");
    fs::rename(&taken, &data).expect("its copy takes its place");
    // It may be one of two, until somebody says that it is not.
    let refused = host.agent(&["run"]);
    assert!(refused.code != 0 && refused.stderr.contains("agent run --moved"), "{refused:?}");
    host.start_with(&["--moved"]);
}

fn sockets_vanish(host: &Host) {
    let run = host.runtime().expect("the directory of sockets");
    assert!(run.is_dir(), "{}", run.display());
    fs::remove_dir_all(&run).expect("it goes");
    eventually(Duration::from_secs(10), "ssh enters the machine", || {
        let answer = host.agent(&["machine", "ssh", "web-1", "--", "hostname"]);
        if answer.stdout.trim() == "web-1" { Ok(()) } else { Err(answer.stderr) }
    });
    host.reaches("web-1", "ready");
}

/// Also when its agent is another one meanwhile.
fn a_shim_answers_late(host: &mut Host, pids: Pids) {
    signal(pids.shim, Signal::STOP);
    host.kill();
    host.start();
    let row = eventually(Duration::from_secs(20), "it is unknown to us", || {
        let row = host.machine("web-1").ok_or("it is not listed")?;
        if reason(&row).starts_with("unknown to us") { Ok(row) } else { Err(row.to_string()) }
    });
    assert_eq!(row["state"], "running", "{row}");
    assert!(reason(&row).contains(&pids.shim.to_string()), "{row}");
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1)].into());
    signal(pids.shim, Signal::CONT);
    host.reaches("web-1", "ready");
    assert!(alive(pids.shim) && alive(pids.qemu));
    assert_eq!(host.facts("machine-restarted").len(), 0);
}

/// A shim that hears nothing is no reason to say that a machine is stopped which is not.
fn stopping_means_stopped(host: &Host, pids: Pids) {
    signal(pids.shim, Signal::STOP);
    let row = host.leaves("web-1", "ready");
    assert_ne!(row["state"], "stopped", "{row}");
    let answer = host.json(&["machine", "stop", "web-1"]);
    assert!(answer["state"] != "stopped" || !alive(pids.qemu), "{answer}");
    host.reaches("web-1", "stopped");
    assert!(!alive(pids.qemu) && !alive(pids.shim), "it is stopped");
}

#[test]
fn what_a_power_cut_left_empty_blocks_nothing() {
    let mut host = Host::first("nas", Place::Here);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(ONE)]).expect(0);
    let disk = host.session_dir().join("web-1/disk.qcow2");
    let made = fs::metadata(&disk).expect("a disk").ino();
    host.power_off();
    spoil(&host, b"");
    fs::write(host.data().join("images/catalogue.json"), b"").expect("a file");
    host.start();
    host.reaches("web-1", "ready");
    let row = host.machine("web-1").expect("a row");
    assert_eq!(row["epoch"], 1, "{row}");
    let now = fs::metadata(&disk).expect("a disk").ino();
    assert_eq!(now, made, "its disk is the same");
    let images = host.json(&["image", "list"]);
    assert!(images.to_string().contains("\"tiny\""), "{images}");
    let data = fs::read_dir(host.data().join("images")).expect("images").flatten();
    let kept = data.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")).count();
    assert_eq!(kept, 1, "what was damaged is kept");
    host.agent(&["session", "down", "one", "--yes"]).expect(0);
    assert!(host.qemus().is_empty());
}
