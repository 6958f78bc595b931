//! What is public in `proto`, `mesh` and `images` is there for somebody: whatever no other code names goes. Tests and
//! comments are nobody.

use std::collections::BTreeSet;

use super::{Source, none, sources};

/// Public and named nowhere outside its file, each for its reason.
const UNNAMED: &[(&str, &str)] = &[];

/// Gives the public items of a file, without those of its own tests.
fn public(code: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for line in code.lines() {
        let Some(mut rest) = line.trim_start().strip_prefix("pub ") else { continue };
        for word in ["const fn ", "async fn ", "unsafe fn "] {
            if let Some(name) = rest.strip_prefix(word) {
                rest = name;
                found.push((identifier(rest), false));
            }
        }
        for (word, is_type) in [("fn ", false), ("const ", false), ("static ", false), ("struct ", true)] {
            found.extend(rest.strip_prefix(word).map(|name| (identifier(name), is_type)));
        }
        for word in ["enum ", "trait ", "type "] {
            found.extend(rest.strip_prefix(word).map(|name| (identifier(name), true)));
        }
    }
    found.retain(|(name, _)| !["fn", ""].contains(&name.as_str()));
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect()
}

/// Tells whether a type is what a public function or field of the same file gives: who calls it need not
/// name the type.
fn is_given(name: &str, code: &str) -> bool {
    let defines = |line: &str| {
        ["struct ", "enum ", "type "].iter().any(|word| line.contains(&format!("pub {word}{name}")))
    };
    code.lines().any(|line| !defines(line) && !line.starts_with("impl") && words(line).contains(name))
}

#[test]
fn nothing_is_public_that_nobody_names() {
    let sources = sources();
    let code = |source: &Source| if source.is_test() { String::new() } else { source.code() };
    let codes: Vec<String> = sources.iter().map(code).collect();
    let named: Vec<BTreeSet<&str>> = codes.iter().map(|code| words(code)).collect();
    let (mut complaints, mut seen) = (Vec::new(), 0);
    let mut needed = BTreeSet::new();
    for (at, source) in sources.iter().enumerate() {
        let library =
            ["proto/src/", "mesh/src/", "images/src/"].iter().any(|dir| source.path.starts_with(dir));
        if !library || source.is_test() {
            continue;
        }
        let code = &codes[at];
        for (name, is_type) in public(code) {
            seen += 1;
            let mut others = named.iter().enumerate().filter(|(other, _)| *other != at);
            if others.any(|(_, words)| words.contains(name.as_str())) || (is_type && is_given(&name, code)) {
                continue;
            }
            match UNNAMED.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => drop(needed.insert(*known)),
                None => complaints.push(format!("{}: {name} is public and named nowhere else", source.path)),
            }
        }
    }
    let stale = UNNAMED.iter().filter(|(known, _)| !needed.contains(known));
    complaints.extend(stale.map(|(known, _)| format!("{known} is no exception any more")));
    assert!(seen > 500, "only {seen} public items were found");
    none(complaints);
}
