//! A guest whose host has no room for its disk is held, which is told, and goes on when there is room.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tests::{Host, Place, alive, eventually, lab_or_skip};

const TOPOLOGY: &str = r#"
session = "full"

[machines.web]
image  = "tiny"
memory = "128MiB"
disk   = "256MiB"
[machines.web.services.http]
port  = 8080
ready = { http = "/", interval = "1s", grace = "60s" }
"#;

/// The machine's directory on a disk of its own, which goes with this value.
struct Small(PathBuf);

impl Small {
    fn over(dir: &Path, mib: u32) -> Small {
        let aside = dir.with_extension("aside");
        fs::rename(dir, &aside).expect("the directory moves away");
        fs::create_dir(dir).expect("a directory");
        let small = Small(dir.to_owned());
        small.mount(&["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "tmpfs"]);
        let from = aside.join(".");
        let done = Command::new("cp").arg("-a").arg(&from).arg(dir).status().expect("cp starts");
        assert!(done.success());
        small
    }

    fn grow(&self, mib: u32) {
        self.mount(&["-o", &format!("remount,size={mib}m")]);
    }

    #[track_caller]
    fn mount(&self, args: &[&str]) {
        let done = Command::new("mount").args(args).arg(&self.0).output().expect("mount starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _done = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Lets the guest write more than there is room for.
fn fill(host: &Host) -> tests::Running {
    host.begin(&[
        "machine",
        "ssh",
        "web-1",
        "--",
        "dd if=/dev/urandom of=/dev/vda bs=1M seek=64 count=100 && sync && echo written",
    ])
}

#[test]
fn a_guest_on_a_full_disk_is_paused_and_goes_on_when_there_is_room() {
    if !lab_or_skip("a_guest_on_a_full_disk_is_paused_and_goes_on_when_there_is_room") {
        return;
    }
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(TOPOLOGY)]).expect(0);
    host.agent(&["machine", "stop", "web-1"]).expect(0);
    host.reaches("web-1", "stopped");
    let small = Small::over(&host.session_dir().join("web-1"), 48);
    host.agent(&["machine", "start", "web-1"]).expect(0);
    host.reaches("web-1", "ready");
    let before = host.pids("web-1");
    assert_eq!(host.addresses("web-1.full.mesh.internal").len(), 1);

    let writing = fill(&host);
    let row = host.reaches("web-1", "paused");
    assert!(row["reason"].as_str().is_some_and(|because| because.contains("no space is left")), "{row}");
    eventually(Duration::from_secs(10), "its name is withdrawn", || {
        match host.addresses("web-1.full.mesh.internal").as_slice() {
            [] => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    small.grow(160);
    host.reaches("web-1", "ready");
    assert_eq!(host.pids("web-1"), before, "it went on");
    let answer = writing.ended(Duration::from_secs(60));
    assert!(answer.stdout.contains("written"), "{answer:?}");

    // One that is paused hears no power button, and is not given a minute for it.
    let _writing = host.begin(&[
        "machine",
        "ssh",
        "web-1",
        "--",
        "dd if=/dev/urandom of=/dev/vda bs=1M seek=170 count=80; sync",
    ]);
    host.reaches("web-1", "paused");
    let start = Instant::now();
    host.agent(&["machine", "stop", "web-1"]).expect(0);
    host.reaches("web-1", "stopped");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(!alive(before.qemu));
    // A place where a disk is mounted cannot be removed.
    drop(small);
    host.agent(&["session", "down", "full", "--yes"]).expect(0);
}
