//! A computer whose clock is wrong: its owner is told, and nobody else is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{Host, Lab, eventually, lab_or_skip};

const PATIENCE: Duration = Duration::from_secs(60);
/// Moves the wall clock of one program, as a wrong clock of its computer would; the time since the start stays right.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    const char *by = getenv("TEST_CLOCK_S");
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (!result && id == CLOCK_REALTIME && by) now->tv_sec += atoll(by);
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
