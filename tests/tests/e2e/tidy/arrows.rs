//! What uses what: crates, the folders in them, and files. The arrows are those that ARCHITECTURE draws;
//! files that use each other in a circle are named here with their reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use super::{none, root, sources};

/// Files that use each other, each circle by one of its files, with what defends it.
const CIRCLES: &[(&str, &str, &str)] = &[
    ("proto", "topology/check", "reading asks for checks, which give the mistakes that reading collects"),
    ("mesh", "net/hosts", "a connection carries streams, and a stream is opened on a connection"),
    ("mesh", "quorum/net", "a frame is answered by the ballot, which asks by frames"),
    ("images", "error", "an error names what failed, and what fails gives an error"),
    ("agent", "machine/launch", "a shim is begun by the daemon, and begins with what that wrote"),
    ("agent", "cli/session", "`session up` is a verb of the noun, and shows its table"),
    ("netsim", "world/coordinator", "hosts and coordinators of the world ask each other"),
];

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Every crate that `package` links, without what only its tests use.
fn linked(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none", "-f", "{p}", "-p"];
    let output = Command::new(cargo).args(words).arg(package).current_dir(root()).output();
    let output = output.expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
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
fn crates_use_each_other_only_along_the_arrows() {
    let drawn = [
        ("proto", vec![]),
        ("mesh", vec!["proto"]),
        ("images", vec!["proto"]),
        ("agent", vec!["images", "mesh", "proto"]),
        ("netsim", vec!["proto"]),
        ("tests", vec!["agent", "netsim", "proto"]),
        ("fuzz", vec!["agent", "mesh", "proto"]),
    ];
    let ours: Vec<&str> = drawn.iter().map(|(name, _)| *name).collect();
    for (name, expected) in drawn {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let uses = |line: &str| line.split(['.', ' ', '=']).next().map(str::to_owned);
        // A feature may be called like a crate.
        let sections = manifest
            .split("\n[")
            .filter(|section| section.split(']').next().is_some_and(|title| title.ends_with("dependencies")));
        let words = sections.flat_map(str::lines).filter_map(uses);
        let used: BTreeSet<String> = words.filter(|word| ours.contains(&word.as_str())).collect();
        assert_eq!(used, expected.into_iter().map(str::to_owned).collect(), "{name}");
    }
}

/// Gives the folders that each folder of a crate may use, as ARCHITECTURE says: `crate/folder: others`.
fn drawn() -> Arrows {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("ARCHITECTURE");
    let block = text.split("```folders\n").nth(1).and_then(|rest| rest.split("```").next());
    let lines = block.expect("the arrows between folders").lines();
    let arrow = |line: &str| {
        let (folder, uses) = line.split_once(" →").expect("an arrow");
        (folder.trim().to_owned(), uses.split_whitespace().map(str::to_owned).collect())
    };
    lines.map(arrow).collect()
}

/// Gives which file of a crate uses which, by their module paths; a folder and what lies in it are one.
fn used_in(name: &str) -> Arrows {
    let home = format!("{name}/src/");
    let sources = sources();
    let files: BTreeMap<Vec<String>, String> = sources
        .iter()
        .filter(|source| source.path.starts_with(&home) && !source.is_test())
        .map(|source| (module(&source.path[home.len()..]), source.code()))
        .collect();
    let mut arrows = Arrows::new();
    for (from, code) in &files {
        let to = paths(code).into_iter().filter_map(|path| target(from, &path, &files));
        let to = to.filter(|to| !to.is_empty() && !from.starts_with(to) && !to.starts_with(from));
        arrows.entry(from.join("/")).or_default().extend(to.map(|to| to.join("/")));
    }
    arrows
}

fn module(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Resolves a path of `crate`, `super` or `self` to the module that it names something of.
fn target(from: &[String], path: &[String], files: &BTreeMap<Vec<String>, String>) -> Option<Vec<String>> {
    let mut rest = path;
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => from.to_vec(),
        _ => return None,
    };
    while let Some((first, more)) =
        rest.split_first().filter(|(first, _)| ["crate", "self", "super"].contains(&first.as_str()))
    {
        if first == "super" {
            at.pop();
        }
        rest = more;
    }
    at.extend(rest.iter().cloned());
    while !at.is_empty() && !files.contains_key(&at) {
        at.pop();
    }
    Some(at)
}

/// Gives every path that a file names, those of its `use` trees one by one.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(|before: char| before.is_whitespace() || before == '(') || at == 0 {
            let tree: String = code[at + 4..].chars().take_while(|letter| *letter != ';').collect();
            spread(&[], &tree, &mut found);
        }
    }
    for word in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(word) {
            let is_path = |letter: &char| letter.is_alphanumeric() || ['_', ':'].contains(letter);
            let path: String = code[at..].chars().take_while(is_path).collect();
            found.push(parts(&path));
        }
    }
    found
}

fn parts(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn spread(prefix: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let Some((before, inside)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        return found.push([prefix, &parts(name)].concat());
    };
    let prefix = [prefix, &parts(before)].concat();
    let inside = inside.trim_end().strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&prefix, &inside[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        spread(&prefix, &inside[start..], found);
    }
}

#[test]
fn folders_use_each_other_only_along_the_arrows_and_each_arrow_is_needed() {
    let drawn = drawn();
    let (mut complaints, mut used) = (Vec::new(), Arrows::new());
    let folder = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    for name in ["proto", "mesh", "images", "agent", "netsim"] {
        for (from, all) in used_in(name) {
            let here = format!("{name}/{}", folder(&from));
            let Some(allowed) = drawn.get(&here) else { continue };
            let others = all.iter().filter(|to| folder(to) != folder(&from));
            let used = used.entry(here.clone()).or_default();
            for to in others {
                used.insert(folder(to));
                if !allowed.contains(&folder(to)) {
                    complaints.push(format!("{name}/{from} uses {to}: {here} may not"));
                }
            }
        }
    }
    for (here, allowed) in &drawn {
        match used.get(here) {
            Some(used) => {
                complaints.extend(allowed.difference(used).map(|to| format!("{here} never uses {to}")))
            }
            None => complaints.push(format!("there is no {here}")),
        }
    }
    none(complaints);
}

#[test]
fn the_rest_of_the_agent_reaches_sessions_through_ports_alone() {
    // What builds them holds them; others ask. Values and pure functions are nobody's power.
    let builds = "daemon/build";
    let open = ["session/ports", "session/birth", "session/nic", "session/actions"];
    let used = used_in("agent");
    assert!(used.contains_key(builds), "nothing builds sessions");
    let others = used.iter().filter(|(from, _)| !from.starts_with("session/") && *from != builds);
    let inside = |to: &&String| to.starts_with("session/") && !open.contains(&to.as_str());
    none(
        others
            .flat_map(|(from, all)| all.iter().filter(inside).map(move |to| format!("{from} uses {to}")))
            .collect(),
    );
}

#[test]
fn no_task_of_sessions_holds_all_of_them() {
    let used = used_in("agent");
    let holds = |(from, all): &(&String, &BTreeSet<String>)| {
        from.starts_with("session/") && all.contains("session/sessions")
    };
    none(used.iter().filter(holds).map(|(from, _)| format!("{from} takes every part")).collect());
    assert!(used["daemon/build"].contains("session/sessions"), "the test sees who holds them");
}

/// Gives the files that can be reached from each, and so whether it is in a circle.
fn reached(from: &str, arrows: &Arrows) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(at) = open.pop() {
        for to in arrows.get(&at).into_iter().flatten() {
            if seen.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    seen
}

#[test]
fn files_use_each_other_in_no_circle_that_is_not_defended() {
    let (mut complaints, mut needed) = (Vec::new(), BTreeSet::new());
    for name in ["proto", "mesh", "images", "agent", "netsim"] {
        let arrows = used_in(name);
        let reach: BTreeMap<&String, BTreeSet<String>> =
            arrows.keys().map(|file| (file, reached(file, &arrows))).collect();
        for (file, _) in reach.iter().filter(|(file, all)| all.contains(**file)) {
            let circle: BTreeSet<&String> = reach[file]
                .iter()
                .filter(|other| reach.get(other).is_some_and(|back| back.contains(*file)))
                .collect();
            let defended =
                CIRCLES.iter().find(|(home, one, _)| *home == name && circle.iter().any(|file| file == one));
            match defended {
                Some((_, one, _)) => drop(needed.insert(*one)),
                None => complaints.push(format!("{name}: {file} is in a circle: {circle:?}")),
            }
        }
    }
    let stale = CIRCLES.iter().filter(|(_, one, _)| !needed.contains(one));
    complaints.extend(stale.map(|(_, one, _)| format!("{one} is in no circle any more")));
    none(complaints);
}

#[test]
fn a_use_tree_is_read_to_its_last_leaf() {
    let code = "use crate::{a::{self, b as c}, d};\nuse super::e;\nfn f() { crate::g::h(); }\n";
    let all: BTreeSet<String> = paths(code).iter().map(|path| path.join("::")).collect();
    for path in ["crate::a::self", "crate::a::b", "crate::d", "super::e", "crate::g::h"] {
        assert!(all.contains(path), "{path}: {all:?}");
    }
}
