//! A computer whose clock is wrong: its owner is told, nobody else is, and its machines are looked after as
//! promptly as ever.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use proto::time::Timestamp;
use serde_json::Value;
use tests::{Host, Lab, Place, alive, eventually, kill, lab_or_skip, tiny_topology};

const PATIENCE: Duration = Duration::from_secs(60);
/// Moves the wall clock of one program, as a wrong clock of its computer would; the time since the start stays right.
/// A file may say by how much, or, after `=`, at which second the clock stands.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    const char *by = getenv("TEST_CLOCK_S");
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (!result && id == CLOCK_REALTIME && by) now->tv_sec += atoll(by);
    const char *file = getenv("TEST_CLOCK_FILE");
    if (!result && id == CLOCK_REALTIME && file) {
        char text[32] = {0};
        int from = open(file, O_RDONLY | O_CLOEXEC);
        if (from >= 0 && read(from, text, sizeof text - 1) > 0) {
            if (text[0] == '=') { now->tv_sec = atoll(text + 1); now->tv_nsec = 0; }
            else now->tv_sec += atoll(text);
        }
        if (from >= 0) close(from);
    }
    return result;
}
"#;

#[test]
fn a_host_whose_clock_is_ahead_of_everybodys_or_behind_is_told_so_and_the_others_are_not() {
    if !lab_or_skip("a_host_whose_clock_is_ahead_of_everybodys_or_behind_is_told_so_and_the_others_are_not") {
        return;
    }
    let mut lab = Lab::empty();
    let shift = build(lab.nas.scratch());
    lab.vps.agent(&["init", "--name", "vps"]).expect(0);
    lab.vps.start();
    let token = lab.vps.token(&[]);
    for (host, seconds) in [(&mut lab.nas, 3 * 3600 + 60), (&mut lab.laptop, 0)] {
        let name = host.name.clone();
        host.env.push(("LD_PRELOAD".into(), shift.to_string_lossy().into_owned()));
        host.env.push(("TEST_CLOCK_S".into(), seconds.to_string()));
        host.agent(&["join", &token, "--name", &name]).expect(0);
        host.start();
    }
    lab.settled();
    warned(&lab.nas, Some(("3h", "ahead")));
    let doctor = lab.nas.agent(&["doctor"]);
    assert!(
        doctor.stdout.contains("clock is 3h") && doctor.stdout.contains("ahead of the mesh"),
        "{doctor:?}"
    );
    for host in [&lab.vps, &lab.laptop] {
        warned(host, None);
    }

    // Set the other way, it is behind.
    lab.nas.stop();
    lab.nas.env.retain(|(key, _)| key != "TEST_CLOCK_S");
    lab.nas.env.push(("TEST_CLOCK_S".into(), "-7260".into()));
    lab.nas.start();
    lab.settled();
    warned(&lab.nas, Some(("2h", "behind")));
    warned(&lab.vps, None);
}

#[test]
fn a_machine_that_crashes_is_restarted_as_promptly_as_ever_whatever_the_clock_says() {
    let mut host = Host::new("nas", Place::Here);
    let shift = build(host.scratch());
    let clock = host.scratch().join("clock");
    let set = |to: &str| fs::write(&clock, to).expect("a file");
    set("0");
    host.env.push(("LD_PRELOAD".into(), shift.to_string_lossy().into_owned()));
    host.env.push(("TEST_CLOCK_FILE".into(), clock.to_string_lossy().into_owned()));
    host.agent(&["init", "--name", "nas"]).expect(0);
    // Five years ahead, right after the mesh was made.
    set("157680000");
    host.start();
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 1))]).expect(0);
    crashes_and_comes_back(&host, 1, "157680000");
    for (tries, clock) in [(2, "0"), (3, "-3600"), (4, "=86400")] {
        set(clock);
        crashes_and_comes_back(&host, tries, clock);
    }

    // The agent starts where the clock stands in 1970, finds its machine, and restarts it like any other.
    host.stop();
    host.start();
    host.reaches("web-1", "ready");
    assert_eq!(host.facts("machine-adopted").len(), 1);
    crashes_and_comes_back(&host, 1, "=86400");
    set("157680000");
    crashes_and_comes_back(&host, 2, "157680000");
}

/// Kills the QEMU of `web-1`, for the time of this number in a row, and sees that the agent takes it for the time that
/// `clock` shows, and that the next one comes after the pause that is said.
#[track_caller]
fn crashes_and_comes_back(host: &Host, tries: u32, clock: &str) {
    let (before, told, began) = (host.pids("web-1"), newest(host).0, wall_ms());
    kill(before.qemu);
    let killed = Instant::now();
    let pause = 1 << (tries - 1);
    let row = host.leaves("web-1", "ready");
    let said = format!("try {} follows after {pause} s", tries + 1);
    assert!(row["reason"].as_str().is_some_and(|reason| reason.contains(&said)), "{said}: {row}");
    eventually(PATIENCE, "another QEMU runs", || match host.qemus().get("web-1") {
        Some(1) if !alive(before.qemu) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (took, pause) = (killed.elapsed(), Duration::from_secs(pause));
    assert!(pause <= took && took < pause + Duration::from_secs(30), "{took:?} for a pause of {pause:?}");
    host.reaches("web-1", "ready");
    let (seq, time) = newest(host);
    assert!(seq > told, "nothing was told of the crash");
    let (earliest, latest) = (shown(clock, began), shown(clock, wall_ms()));
    // Text of one form and length, so the order of letters is that of time.
    assert!(earliest <= time && time <= latest, "{time} is not between {earliest} and {latest}");
}

/// Gives number and time of what the agent told last.
#[track_caller]
fn newest(host: &Host) -> (u64, String) {
    let answer = host.agent(&["events", "--json-lines"]).expect(0);
    let last: Value = serde_json::from_str(answer.stdout.lines().last().expect("an event")).expect("JSON");
    (last["seq"].as_u64().expect("a number"), last["time"].as_str().expect("a time").to_owned())
}

fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(now.as_millis()).expect("this age")
}

/// Gives what a clock shows that is moved, or stands, as its file says, when it really is `ms`.
fn shown(clock: &str, ms: i64) -> String {
    let shown = match clock.strip_prefix('=') {
        Some(stands) => stands.parse::<i64>().expect("seconds") * 1000,
        None => ms + clock.parse::<i64>().expect("seconds") * 1000,
    };
    Timestamp(u64::try_from(shown).expect("after 1970")).to_string()
}

/// What moves a clock of today to 1970.
fn to_1970() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    format!("-{}", now.as_secs() - 60)
}

#[test]
fn a_mesh_made_five_years_ahead_lives_in_the_present_and_a_host_in_1970_joins_it() {
    if !lab_or_skip("a_mesh_made_five_years_ahead_lives_in_the_present_and_a_host_in_1970_joins_it") {
        return;
    }
    let mut lab = Lab::empty();
    let shift = build(lab.nas.scratch());
    let preload = || ("LD_PRELOAD".into(), shift.to_string_lossy().into_owned());
    // The first host is five years ahead when it makes the mesh, and a token.
    lab.vps.env.push(preload());
    lab.vps.env.push(("TEST_CLOCK_S".into(), (5 * 365 * 86_400).to_string()));
    lab.vps.agent(&["init", "--name", "vps"]).expect(0);
    lab.vps.start();
    let early = lab.vps.token(&[]);
    // Its clock is set, and the mesh is in the present: the token of seven days does not live for five years.
    lab.vps.stop();
    lab.vps.env.retain(|(key, _)| key != "TEST_CLOCK_S");
    lab.vps.start();
    let refused = lab.laptop.agent(&["join", &early, "--name", "laptop"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("a clock was more than a day ahead"), "{refused:?}");
    let token = lab.vps.token(&[]);
    lab.laptop.agent(&["join", &token, "--name", "laptop"]).expect(0);
    lab.laptop.start();
    // A computer without a clock of its own joins by it, and is a member like any other.
    lab.nas.env.push(preload());
    lab.nas.env.push(("TEST_CLOCK_S".into(), to_1970()));
    lab.nas.agent(&["join", &token, "--name", "nas"]).expect(0);
    lab.nas.start();
    lab.settled();
    warned(&lab.vps, None);
    let tokens = lab.vps.agent(&["token", "list", "--json"]).json();
    let state = |state: &str| {
        tokens["tokens"].as_array().into_iter().flatten().filter(|token| token["state"] == state).count()
    };
    assert_eq!((state("not-yet"), state("live")), (1, 1), "{tokens}");
}

/// Waits until `host` warns that its clock is off by so much and in this direction, or does not warn of it.
#[track_caller]
fn warned(host: &Host, wanted: Option<(&str, &str)>) {
    eventually(PATIENCE, &format!("{} warns of its clock: {wanted:?}", host.name), || {
        let warnings = host.status()["warnings"].clone();
        let all = warnings.as_array().into_iter().flatten().filter_map(|warning| warning["what"].as_str());
        let said = all.filter(|what| what.contains("clock")).collect::<Vec<_>>();
        let as_wanted = match (&said[..], wanted) {
            ([], None) => true,
            ([said], Some((span, way))) => {
                said.starts_with(&format!("this host's clock is {span}"))
                    && said.contains(&format!(" {way} "))
            }
            _ => false,
        };
        if as_wanted { Ok(()) } else { Err(warnings.to_string()) }
    });
}

/// Builds the library that moves the clock.
fn build(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("shift.c"), dir.join("shift.so"));
    fs::write(&source, SHIFT).expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output();
    let built = built.expect("a C compiler, which building the agent needs as well");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}
