//! What the tree promises about itself: what is linked and what uses what, what is pure, how long things
//! are, what is public, and what must not be forgotten.

mod arrows;
mod clocks;
mod encoders;
mod names;
mod sizes;
mod surface;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a pure file never names: clocks, files, sockets, tasks, processes, randomness.
const IMPURE: [&str; 17] = [
    "tokio::",
    "rustix::fs",
    "rustix::net",
    "rustix::process",
    "rand::",
    "std::fs",
    "fs::File",
    "File::open",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::process",
    "std::env::var",
    "env::var(",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A source file: its path from the workspace, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Tells whether it holds tests only, or what they are made of.
    fn is_test(&self) -> bool {
        let names = ["/tests.rs", "/fixture.rs"];
        names.iter().any(|name| self.path.ends_with(name))
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/")
    }

    /// Gives what comes before its own tests.
    fn without_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }

    /// Gives the same without comments.
    fn code(&self) -> String {
        let bare = |line: &str| {
            if line.trim_start().starts_with("//") { String::new() } else { cut(line, " // ").to_owned() }
        };
        self.without_tests().lines().map(|line| bare(line) + "\n").collect()
    }

    /// Gives the lines of its header.
    fn header(&self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
        lines.map(|line| line.trim_start_matches("//!").trim().to_owned() + " ").collect()
    }

    fn claims_to_be_pure(&self) -> bool {
        let header = self.header();
        self.path.starts_with("proto/src/") || header.starts_with("Pure:") || header.contains(" Pure: ")
    }
}

fn cut<'a>(line: &'a str, at: &str) -> &'a str {
    line.split(at).next().unwrap_or_default()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["proto", "mesh", "images", "agent", "netsim", "tests", "fuzz"].map(|name| root().join(name)).into();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(root()).expect("below the workspace");
                found.push(Source { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    assert!(found.len() > 200, "only {} source files were found", found.len());
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Fails with all complaints at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn proto_and_files_that_claim_to_be_pure_name_nothing_impure() {
    let (mut complaints, mut pure) = (Vec::new(), 0);
    for source in sources().iter().filter(|source| !source.is_test() && source.claims_to_be_pure()) {
        let code = source.code();
        pure += usize::from(!source.path.starts_with("proto/"));
        let named = IMPURE.iter().filter(|word| code.contains(**word));
        complaints.extend(named.map(|word| format!("{} is pure and names {word}", source.path)));
    }
    assert!(pure > 20, "only {pure} files claim to be pure");
    none(complaints);
}

#[test]
fn every_file_says_why_it_exists() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    none(silent.map(|source| format!("{} has no header", source.path)).collect());
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
    let mut complaints = Vec::new();
    for source in sources() {
        if !source.path.starts_with("agent/src/cli/") || source.path.ends_with("/out.rs") {
            continue;
        }
        let text = source.text.replace("eprint!(", "").replace("eprintln!(", "");
        let named = prints.iter().filter(|word| text.contains(**word));
        complaints.extend(named.map(|word| format!("{} names {word}: let `out.rs` do it", source.path)));
    }
    none(complaints);
}
