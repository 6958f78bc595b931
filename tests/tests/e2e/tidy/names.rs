//! One word for one thing: the words that this project is explained with name one type each, wherever it stands.

use std::collections::{BTreeMap, BTreeSet};

use super::{none, sources};

/// Words that are written without their module before them.
const WORDS: &[&str] = &[
    "Answer",
    "Birth",
    "Certificate",
    "Directory",
    "Door",
    "Epoch",
    "Generation",
    "Inbound",
    "Intent",
    "Knowledge",
    "Level",
    "Link",
    "Machine",
    "Moment",
    "Picture",
    "Placement",
    "Proposal",
    "Records",
    "Refusal",
    "Request",
    "Seen",
    "Share",
    "Shim",
    "State",
    "Statement",
    "Timestamp",
    "Token",
    "Tombstone",
    "Topology",
    "Wanted",
    "Wire",
];

/// Gives the types of a file, those as well that only it may name.
fn types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start();
        let rest = rest.strip_prefix("pub").unwrap_or(rest);
        let rest =
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
        let rest = rest.trim_start();
        let rest =
            ["struct ", "enum ", "trait ", "type "].into_iter().find_map(|word| rest.strip_prefix(word))?;
        // What a trait or an implementation calls so is no type of ours.
        let associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
        let name = rest.split(|letter: char| !letter.is_alphanumeric()).next()?;
        (!name.is_empty() && !associated).then_some(name)
    })
}

#[test]
fn no_word_of_ours_stands_for_two_types() {
    let (sources, mut homes) = (sources(), BTreeMap::<String, BTreeSet<&str>>::new());
    for source in sources.iter().filter(|source| !source.is_test()) {
        for name in types(&source.code()) {
            homes.entry(name.to_owned()).or_default().insert(&source.path);
        }
    }
    let mut complaints = Vec::new();
    for word in WORDS {
        match homes.get(*word) {
            None => complaints.push(format!("{word} is no type any more")),
            Some(homes) if homes.len() > 1 => {
                complaints.push(format!("{word} stands for several types: {homes:?}"))
            }
            Some(_) => {}
        }
    }
    none(complaints);
}

#[test]
fn a_type_is_found_whoever_may_name_it() {
    let text = "pub struct A;\npub(in crate::b) enum B {}\ntype C = u8;\nimpl D for A {\n    type E = u8;\n}\npub(super) trait F {}\n";
    assert_eq!(types(text).collect::<Vec<_>>(), ["A", "B", "C", "F"]);
}
