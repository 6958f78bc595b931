//! Who makes bytes of values, and values of bytes: `proto::wire` for everything that members, shims and stores
//! hold, and for forms that others chose the files that are named here, each with its reason.

use std::collections::BTreeSet;

use super::{arrows::paths, none, sources};

/// Where the one encoding is at home.
const HOME: &str = "proto/src/wire/";

/// Encodings, each with how it is called: the crate or file, and its functions as their names begin.
const ENCODINGS: &[(&str, &[&str])] = &[
    ("minicbor", &["encode", "decode", "to_vec", "len", "Encoder::new", "Decoder::new"]),
    ("codec", &["to_bytes", "from_bytes"]),
    ("serde_json", &["to_vec", "to_string", "to_writer", "to_value", "from_", "Deserializer", "Serializer"]),
    ("postcard", &[""]),
    ("bincode", &[""]),
    ("ciborium", &[""]),
    ("serde_cbor", &[""]),
    ("rmp_serde", &[""]),
];

/// Files that encode all the same: the encoding, the file, and why.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "codec",
        "proto/src/trust/statement.rs",
        "what is signed has no envelope: the seal around it says what it is",
    ),
    ("codec", "proto/src/trust/token.rs", "a token is typed and has its own version and checksum"),
    (
        "codec",
        "proto/src/session/mandate.rs",
        "what is signed has no envelope either, and a digest is no message",
    ),
    ("codec", "proto/src/session/disk.rs", "a digest of what a disk was made from is no message"),
    ("serde_json", "agent/src/machine/qmp.rs", "QMP is QEMU's"),
    ("serde_json", "agent/src/machine/qemu.rs", "what the local QEMU can do is a cache, made again"),
    (
        "serde_json",
        "agent/src/access/places.rs",
        "addresses are remembered, and given anew when they are lost",
    ),
    ("serde_json", "agent/src/install/carry.rs", "what was installed is written down for people too"),
    ("serde_json", "agent/src/install/swap.rs", "another program says by `--json` what it is"),
    ("serde_json", "agent/src/facts.rs", "facts are lines for people and their tools"),
    ("serde_json", "agent/src/api/answers.rs", "the local API is JSON over HTTP"),
    ("serde_json", "agent/src/cli/client.rs", "the local API is JSON over HTTP"),
    ("serde_json", "agent/src/cli/image.rs", "the local API is JSON over HTTP"),
    ("serde_json", "agent/src/cli/events.rs", "the local API is JSON over HTTP"),
    ("serde_json", "agent/src/cli/ui.rs", "`--json` is for people and their tools"),
    ("serde_json", "images/src/catalogue.rs", "the catalogue is of this host only, and people repair it"),
];

/// Gives the encodings that some code calls, or takes in to call them.
fn called(code: &str) -> BTreeSet<&'static str> {
    let imported = paths(code);
    let calls = |home: &str, name: &str| {
        let imports = |path: &Vec<String>| match path.as_slice() {
            // Two modules have the names of encoders, and are taken in for what else is in them.
            [.., before, last] if before == home && ["encode", "decode"].contains(&last.as_str()) => {
                last == name && bare(code, name)
            }
            [.., before, last] => before == home && last.starts_with(name),
            _ => false,
        };
        let said = |(at, word): (usize, &str)| {
            let rest = &code[at + word.len()..];
            let name = rest.trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_');
            name.starts_with('(') || name.starts_with("::<")
        };
        let whole = if name.ends_with("::new") { (*name).to_owned() } else { format!("{home}::{name}") };
        imported.iter().any(imports) || code.match_indices(&whole).any(said)
    };
    let found = ENCODINGS.iter().filter(|(home, names)| names.iter().any(|name| calls(home, name)));
    found.map(|(home, _)| *home).collect()
}

/// Tells whether a function is called by its name alone.
fn bare(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let part = |letter: char| letter.is_alphanumeric() || ['_', '.', ':'].contains(&letter);
        let calls = after.starts_with('(') || after.starts_with("::<");
        calls && !before.ends_with(part) && !before.ends_with("fn ")
    })
}

#[test]
fn nothing_encodes_outside_wire_but_what_others_chose_the_form_of() {
    let (mut complaints, mut seen) = (Vec::new(), BTreeSet::new());
    for source in sources().iter().filter(|source| source.path.contains("/src/") && !source.is_test()) {
        if source.path.starts_with(HOME) || source.path.starts_with("tests/") {
            continue;
        }
        for encoding in called(&source.code()) {
            let allowed = OTHERS.iter().any(|(other, path, _)| (*other, *path) == (encoding, &source.path));
            if !allowed {
                complaints.push(format!("{} encodes with {encoding}: let {HOME} do it", source.path));
            }
            seen.insert((encoding, source.path.clone()));
        }
    }
    let idle = OTHERS.iter().filter(|(encoding, path, _)| !seen.contains(&(*encoding, (*path).to_owned())));
    complaints
        .extend(idle.map(|(encoding, path, _)| format!("{path} does not encode with {encoding} any more")));
    none(complaints);
}

#[test]
fn a_call_of_an_encoder_is_seen_however_it_is_written() {
    let calls = [
        ("minicbor", "let bytes = minicbor::to_vec(&share)?;"),
        ("minicbor", "let share = minicbor::decode::<Share>(bytes)?;"),
        ("minicbor", "let mut d = minicbor::Decoder::new(bytes);"),
        ("minicbor", "use minicbor::{Encode, decode};\nlet share = decode::<Share>(bytes)?;"),
        ("minicbor", "Share::decode(&mut Decoder::new(bytes), &mut ())"),
        ("codec", "use crate::{\n    id::HostId,\n    wire::{codec::{Form, from_bytes}, record},\n};"),
        ("serde_json", "fs::write(path, serde_json::to_vec_pretty(&launch)?)"),
        ("serde_json", "serde_json::from_slice::<Launch>(&bytes)"),
        ("serde_json", "use serde_json::from_str as read;"),
        ("postcard", "let bytes = postcard::to_allocvec(&share);"),
    ];
    for (encoding, code) in calls {
        assert_eq!(called(code), [encoding].into(), "{code}");
    }
    let others = [
        "use minicbor::{Decode, Decoder, Encode, decode::Error as Flaw, encode::Write};",
        "use minicbor::{Decode, decode};\nfn decode(d: &mut Decoder) -> Result<Id, decode::Error> { d.decode() }",
        "let bytes = wire::encode(&share);",
        "let key = SigningKey::from_bytes(seed).to_bytes();",
        "let line = json!({\"execute\": call});",
        "#[cbor(n(1), with = \"minicbor::bytes\")]",
        "Err(minicbor::encode::Error::message(\"no\"))",
    ];
    for code in others {
        assert_eq!(called(code), BTreeSet::new(), "{code}");
    }
}
