//! What the end-to-end stories need: hosts with a real agent each, the tiny guest, bounded waits.
//! The binary under test is named by `AGENT_BIN`, the guest's disk by `TINY_IMAGE`; `make test` sets both.

mod disk;
mod held;
mod host;
mod lab;
mod machines;
mod running;
mod wait;

pub use disk::Mounted;
pub use host::{Answer, Host, Place};
pub use lab::{Copies, Lab, Solo, tiny_topology};
pub use machines::{BOOT, Pids, alive, kill};
pub use running::Running;
pub use wait::{eventually, http_get};

use std::{env, path::PathBuf};

/// Names the agent under test.
pub fn agent_bin() -> PathBuf {
    named("AGENT_BIN", "the agent under test")
}

/// Names the tiny guest's disk.
pub fn tiny_image() -> PathBuf {
    named("TINY_IMAGE", "the tiny guest's disk")
}

/// Names the Debian guest's disk for the stories that take minutes; they run with `SLOW=1` only, as
/// `make test-debian` sets it, and else say that they were skipped.
pub fn debian_image_or_skip(story: &str) -> Option<PathBuf> {
    slow_or_skip(story, "DEBIAN_IMAGE", "the Debian guest's disk")
}

/// Names the disk of the same guest with QEMU in it, so that it can be a host.
pub fn debian_host_image_or_skip(story: &str) -> Option<PathBuf> {
    slow_or_skip(story, "DEBIAN_HOST_IMAGE", "the disk of the Debian guest that is a host")
}

fn slow_or_skip(story: &str, variable: &str, what: &str) -> Option<PathBuf> {
    if env::var_os("SLOW").is_some_and(|value| value == "1") {
        return Some(named(variable, what));
    }
    eprintln!("SKIPPED {story}: it takes minutes; run `make test-debian`");
    None
}

/// Names the agent of an older commit for the stories in which two programs meet. Where there was no history to
/// build it from, they say that they were skipped.
pub fn older_agent_or_skip(story: &str) -> Option<PathBuf> {
    let built = env::var_os("OLDER_AGENT").map(PathBuf::from).filter(|path| path.is_file());
    if built.is_none() {
        eprintln!("SKIPPED {story}: there is no older agent; `make test` builds it from git's history");
    }
    built
}

fn named(variable: &str, what: &str) -> PathBuf {
    let path =
        env::var_os(variable).unwrap_or_else(|| panic!("{variable} does not name {what}; run `make test`"));
    let path = PathBuf::from(path);
    assert!(path.is_file(), "{variable} = {} is no file", path.display());
    path
}

/// Tells whether stories that need a lab can run here. Without root, namespaces or QEMU they are
/// skipped with a line that says so, unless `REQUIRE_LAB=1`, which makes that a failure.
pub fn lab_or_skip(story: &str) -> bool {
    there_or_skip(story, lab_missing())
}

/// Tells whether programs are there that a story compares with, as [`lab_or_skip`] does. Some of them bring servers that
/// begin at once, so `make test` does not install them on anybody's computer.
pub fn programs_or_skip(story: &str, programs: &[&str]) -> bool {
    there_or_skip(story, not_installed(programs))
}

fn there_or_skip(story: &str, missing: Option<String>) -> bool {
    match missing {
        None => true,
        Some(missing) if env::var_os("REQUIRE_LAB").is_some_and(|value| value == "1") => {
            panic!("REQUIRE_LAB=1, but {missing}")
        }
        Some(missing) => {
            eprintln!("SKIPPED {story}: {missing}");
            false
        }
    }
}

fn lab_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !PathBuf::from("/dev/net/tun").exists() {
        return Some("/dev/net/tun is missing".into());
    }
    not_installed(&["ip", "nft"])
}

fn not_installed(programs: &[&str]) -> Option<String> {
    // Servers are not always on the path.
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(["/usr/sbin".into()]).collect();
    let there = |program: &str| dirs.iter().any(|dir| dir.join(program).is_file());
    programs.iter().find(|program| !there(program)).map(|program| format!("{program} is not installed"))
}
