//! An agent that is told to end in the middle of something: what would be left half made comes to its end first,
//! nothing waits for ever, and the next agent goes on from there.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{Host, Place, eventually, tiny_topology};

const PATIENCE: Duration = Duration::from_secs(60);

/// Puts a `qemu-img` before the system's own that says when it begins to make a disk, and takes its time.
fn slow_disks(host: &mut Host) -> PathBuf {
    let (bin, asked) = (host.scratch().join("bin"), host.scratch().join("asked"));
    fs::create_dir(&bin).expect("a directory");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = create ]; then : > '{}'; sleep $(cat '{}'); fi\nPATH=${{PATH#*:}} exec qemu-img \"$@\"\n",
        asked.display(),
        seconds(host).display()
    );
    let tool = bin.join("qemu-img");
    fs::write(&tool, script).expect("a script");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("a program");
    let path = std::env::var("PATH").expect("a PATH");
    host.env.push(("PATH".into(), format!("{}:{path}", bin.display())));
    asked
}

/// The file that says how long making a disk takes.
fn seconds(host: &Host) -> PathBuf {
    host.scratch().join("seconds")
}

#[track_caller]
fn begins_to_make_a_disk(asked: &Path) {
    eventually(PATIENCE, "a disk is being made", || {
        if asked.exists() { Ok(()) } else { Err("nobody asked for one".to_owned()) }
    });
    fs::remove_file(asked).expect("it was there");
}

/// Whether a disk is as its own program wants it.
fn is_whole(disk: &Path) -> bool {
    let checked = Command::new("qemu-img").args(["check", "-U", "-q"]).arg(disk).status();
    checked.expect("qemu-img").success()
}

#[test]
fn an_agent_that_ends_while_a_machine_is_launched_leaves_nothing_half_made() {
    let mut host = Host::new("nas", Place::Here);
    let asked = slow_disks(&mut host);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    host.import_tiny();

    // Too long for an end to wait for: it is given up, and no intent speaks of it.
    fs::write(seconds(&host), "300").expect("a file");
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 1)), "--wait", "none"]).expect(0);
    begins_to_make_a_disk(&asked);
    host.stop();
    let machine = host.session_dir().join("web-1");
    let (intent, disk) = (machine.join("launch"), machine.join("disk.qcow2"));
    assert!(!intent.exists() && !disk.exists() && host.qemus().is_empty(), "{}", host.log_text());

    // Soon done: it is waited for, and the machine runs on without its agent.
    fs::write(seconds(&host), "0.5").expect("a file");
    host.start();
    begins_to_make_a_disk(&asked);
    assert!(!intent.exists(), "the disk comes first");
    host.stop();
    assert!(intent.exists() && is_whole(&disk), "{}", host.log_text());
    let before = eventually(PATIENCE, "its process is found", || match host.processes("shim").is_empty() {
        true => Err("no process".to_owned()),
        false => Ok(host.processes("shim").into_iter().map(|(pid, _)| pid).collect::<Vec<_>>()),
    });

    host.start();
    host.reaches("web-1", "ready");
    assert_eq!(host.facts("machine-adopted").len(), 1);
    assert_eq!(host.processes("shim").into_iter().map(|(pid, _)| pid).collect::<Vec<_>>(), before);
    assert_eq!(host.qemus(), [("web-1".to_owned(), 1)].into());
}
