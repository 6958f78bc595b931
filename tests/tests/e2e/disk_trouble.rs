//! A disk that takes nothing: what is acknowledged is stored, what cannot be stored says why, the
//! screens know it, and everything goes on once there is room.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Answer, Host, Place, eventually, lab_or_skip, tiny_topology};

const SOON: Duration = Duration::from_secs(30);

/// What `status --json` says is wrong, in one line each.
#[track_caller]
fn troubles(host: &Host) -> Vec<String> {
    let status = host.json(&["status"]);
    let health = status["health"].as_array().unwrap_or_else(|| panic!("no health in {status}"));
    let line = |trouble: &Value| {
        assert!(trouble["next"].is_string(), "{trouble}");
        format!(
            "{}: {}",
            trouble["what"].as_str().expect("words"),
            trouble["because"].as_str().expect("words")
        )
    };
    health.iter().map(line).collect()
}

#[track_caller]
fn says(answer: &Answer, words: &[&str]) {
    let all = format!("{}{}", answer.stdout, answer.stderr);
    for word in words {
        assert!(all.contains(word), "no {word:?} in {answer:?}");
    }
}

/// Asserts that nothing is acknowledged, and that everybody knows that the disk is `what`.
#[track_caller]
fn takes_nothing(host: &Host, token: &str, what: &str, system: &str) {
    let live = live_tokens(host);
    says(&host.agent(&["token", "create"]).expect(1), &["no token was made", what, "hint:"]);
    says(&host.agent(&["token", "revoke", token]).expect(1), &["was not revoked", system, "hint:"]);
    assert_eq!(live_tokens(host), live, "a token that was refused is there, or one is gone that was kept");
    let seen = troubles(host);
    assert!(seen.len() == 1 && seen[0].contains(what), "{what}: {seen:?}");
    says(&host.agent(&["status"]).expect(0), &["NOT WELL", what]);
    says(&host.agent(&["doctor"]).expect(1), &["MISSING", what, "mend data:"]);
}

#[track_caller]
fn live_tokens(host: &Host) -> Vec<String> {
    let tokens = host.json(&["token", "list"]);
    let live = tokens["tokens"].as_array().expect("a list").iter().filter(|token| token["state"] == "live");
    live.map(|token| token["id"].as_str().expect("an id").to_owned()).collect()
}

#[track_caller]
fn mount(args: &[&str], at: &Path) {
    let done = Command::new("mount").args(args).arg(at).output().expect("mount starts");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn nothing_is_acknowledged_that_a_full_a_read_only_or_an_inodeless_disk_does_not_hold() {
    if !lab_or_skip("a disk that takes nothing") {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    host.small_disk(40);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    assert_eq!(troubles(&host), [""; 0]);
    let made = host.json(&["token", "create"]);
    let token = made["id"].as_str().expect("an id");

    let filling = host.fill_disk();
    takes_nothing(&host, token, "is full", "No space left on device");
    fs::remove_file(&filling).expect("the filling");
    assert_eq!(troubles(&host), [""; 0], "there is room again");

    // As after an error of the disk: what is open stays so, nothing new can be written.
    let data = host.data();
    let path = data.to_str().expect("UTF-8");
    mount(&["--bind", path], &data);
    mount(&["-o", "remount,bind,ro"], &data);
    takes_nothing(&host, token, "is read-only", "Read-only file system");
    let done = Command::new("umount").arg(&data).status().expect("umount starts");
    assert!(done.success());
    assert_eq!(troubles(&host), [""; 0], "it can be written again");

    let used = rustix::fs::statvfs(&data).expect("a file system");
    mount(&["-o", &format!("remount,nr_inodes={}", used.f_files - used.f_ffree)], &data);
    takes_nothing(&host, token, "no inodes left", "No space left on device");
    mount(&["-o", "remount,nr_inodes=100000"], &data);

    let second = host.json(&["token", "create"])["id"].as_str().expect("an id").to_owned();
    host.agent(&["token", "revoke", token]).expect(0);
    // What was acknowledged is there after a crash, and nothing else.
    host.kill();
    host.start();
    assert_eq!(live_tokens(&host), [second]);
}

#[test]
fn a_session_on_a_full_disk_says_what_it_waits_for_and_ends_once_there_is_room() {
    if !lab_or_skip("a session on a full disk") {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    host.small_disk(200);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    host.import_tiny();
    let file = host.topology(&tiny_topology("shop", 1));
    host.agent(&["session", "up", &file]).expect(0);

    let filling = host.fill_disk();
    let stop = host.agent(&["machine", "stop", "web-1"]);
    assert_ne!(stop.code, 0, "nothing was stopped: {stop:?}");
    says(&stop, &["was not stopped", "No space left on device", "hint:"]);
    let started = Instant::now();
    let down = host.agent(&["session", "down", "shop", "--yes", "--timeout", "5s"]);
    assert!(started.elapsed() < Duration::from_secs(40), "it hangs: {down:?}");
    assert_ne!(down.code, 0, "{down:?}");
    says(&down, &["No space left on device", "hint:"]);
    let seen = troubles(&host);
    assert!(seen[0].contains("is full"), "{seen:?}");
    let log = host.log_text();
    assert!(log.lines().count() < 60, "it says the same again and again:\n{log}");

    fs::remove_file(&filling).expect("the filling");
    eventually(SOON, "the session can be ended", || {
        let down = host.agent(&["session", "down", "shop", "--yes"]);
        if down.code == 0 { Ok(()) } else { Err(format!("{down:?}")) }
    });
    assert_eq!(host.qemus().len() + host.processes(" shim ").len(), 0);
    assert!(host.session_dirs().is_empty(), "{:?}", host.session_dirs());
    assert_eq!(troubles(&host), [""; 0]);
}
