//! What the tree promises about itself: what is linked, what is forbidden, what must not be forgotten.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every crate that `package` links, without what only its tests use.
fn linked(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "-e",
            "normal",
            "--prefix",
            "none",
            "-f",
            "{p}",
            "-p",
            package,
        ])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["proto", "mesh", "images", "agent", "netsim", "tests"].map(|name| root().join(name)).into();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 20, "only {} source files were found", found.len());
    found
}

#[test]
fn proto_links_nothing_that_does_io() {
    let linked = linked("proto");
    assert!(linked.contains("blake3"), "the list is not what it should be: {linked:?}");
    for crate_name in
        ["tokio", "mio", "socket2", "rustix", "nix", "libp2p", "iroh", "rand", "getrandom", "tempfile"]
    {
        assert!(!linked.contains(crate_name), "proto links {crate_name}");
    }
}

#[test]
fn proto_names_no_clock_no_file_no_socket_and_no_randomness() {
    let forbidden = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "SystemTime::",
        "Instant::now",
        "std::env::var",
    ];
    for (path, text) in sources() {
        if path.strip_prefix(root()).is_ok_and(|path| path.starts_with("proto/src")) {
            for word in forbidden {
                assert!(!text.contains(word), "{} names {word}", path.display());
            }
        }
    }
}

#[test]
fn mesh_and_images_never_meet() {
    assert!(!linked("mesh").contains("images"), "mesh links images");
    assert!(!linked("images").contains("mesh"), "images links mesh");
}

#[test]
fn files_that_claim_to_be_pure_name_nothing_impure() {
    let forbidden =
        ["tokio::", "std::fs", "Instant::now", "SystemTime", "rand::", "std::process", "std::env::var"];
    for (path, text) in sources() {
        if text.lines().next().is_some_and(|line| line.contains("Pure:")) {
            let body = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in forbidden {
                assert!(!body.contains(word), "{} claims to be pure and names {word}", path.display());
            }
        }
    }
}

#[test]
fn the_world_holds_no_rule_of_a_host() {
    // What comes next for a machine, when, and what is said of it: `run::host` alone asks these.
    let rules = [
        "reconcile::reconcile",
        "reconcile::phase",
        "reconcile::ends",
        "reconcile::presumed",
        "back_off",
        "order::",
        "waits_for",
        "Observed",
        "Seen {",
    ];
    let world = root().join("netsim/src/world");
    let files = sources().into_iter().filter(|(path, _)| path.starts_with(&world));
    let driven = files.filter(|(path, text)| {
        for word in rules {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
        text.contains("rules::Host::new(")
    });
    assert_eq!(driven.count(), 1, "hosts are begun in one place");
}

#[test]
fn every_file_says_why_it_exists() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no header", path.display());
    }
}

#[test]
fn every_story_is_part_of_the_one_binary() {
    let dir = root().join("tests/tests/e2e");
    let main = fs::read_to_string(dir.join("main.rs")).expect("main.rs");
    for entry in fs::read_dir(dir).expect("the stories").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let story = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(story == "main" || main.contains(&format!("mod {story};")), "{name} is forgotten");
    }
}

#[test]
fn the_cli_prints_where_a_failed_write_is_noticed() {
    let prints = ["println!(", "print!(", "io::stdout().lock", "io::stdout().write", "&mut io::stdout"];
    for (path, text) in sources() {
        let Ok(file) = path.strip_prefix(root().join("agent/src/cli")) else { continue };
        let text = text.replace("eprint!(", "").replace("eprintln!(", "");
        for word in prints.iter().filter(|_| file != Path::new("out.rs")) {
            assert!(!text.contains(word), "{} names {word}: let `out.rs` do it", path.display());
        }
    }
}
