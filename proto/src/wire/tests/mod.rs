//! The golden bytes of every message of this crate, in `golden.txt`, and what they may lack, in `golden.fields`.
//! After `UPDATE_GOLDEN=1 cargo test` both have what is new; see `golden` for what is asked of them.

mod beats;
mod golden;
mod sessions;
mod talk;
mod trust;

use std::collections::BTreeSet;

use crate::{
    reasons::{self, Cause, Hindrance, NotChosen, Unchosen},
    wire,
};
use golden::{Files, Sample};

const FILES: Files = Files(concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire/golden.txt"));
/// Where the other crates that have messages keep theirs.
const OTHERS: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../mesh/src/golden.txt"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/machine/golden.txt"),
];

fn samples() -> Vec<Sample> {
    [talk::samples(), sessions::samples(), trust::samples(), reasons(), beats::samples()]
        .into_iter()
        .flatten()
        .collect()
}

/// Reasons stand in messages as bytes of their own.
fn reasons() -> Vec<Sample> {
    use reasons::tests as all;
    let mut samples = Vec::new();
    samples.extend(all::unchosen().into_iter().map(|reason| talk::reason("unchosen", reason)));
    samples.extend(all::because().into_iter().map(|reason| talk::reason("because", reason)));
    samples.extend(all::no_kvm().into_iter().map(|reason| talk::reason("no-kvm", reason)));
    let placed = all::chosen().into_iter().map(|chosen| Cause::Placed { chosen, waits: true });
    let lost = |chosen| Cause::Lost { chosen, waits: true, started: true };
    let placed = placed.chain(all::chosen().into_iter().map(lost));
    let chosen = |cause: &Cause| matches!(cause, Cause::Placed { .. } | Cause::Lost { .. });
    let others = all::causes().into_iter().filter(|cause| !chosen(cause));
    samples.extend(placed.chain(others).map(|reason| talk::reason("cause", reason)));
    samples.push(talk::another("cause", ".egress", all::other_reach()));
    samples.extend(all::hindrances().into_iter().map(|reason| talk::reason("hindrance", reason)));
    samples.extend(
        all::unchosen().into_iter().enumerate().flat_map(|(number, unchosen)| against(number, unchosen)),
    );
    samples
}

/// Everything that a host can be against for one cause.
fn against(number: usize, unchosen: Unchosen) -> Vec<Sample> {
    let (host, machine) = (|| "nas".to_owned(), || sessions::machine("web-1"));
    let boxed = || Box::new(unchosen.clone());
    let hosts = vec![NotChosen { host: host(), unchosen: unchosen.clone() }];
    let all = [
        Hindrance::WrongHost { host: host(), machine: machine(), unchosen: boxed() },
        Hindrance::CannotGrow { host: host(), machine: machine(), unchosen: boxed() },
        Hindrance::CannotRun { host: host(), unchosen: boxed() },
        Hindrance::OlderUnfit { host: host(), unchosen: boxed() },
        Hindrance::NoHostFits { hosts, strangers: Vec::new() },
    ];
    let named = |hindrance| {
        let sample = talk::reason("hindrance", hindrance);
        let name = format!("{}-{number}", sample.name());
        sample.named(name)
    };
    all.into_iter().map(named).collect()
}

#[test]
fn every_message_that_was_ever_written_is_read_as_what_it_was() {
    golden::written(&FILES, &samples());
}

#[test]
fn what_only_a_later_version_has_is_skipped_or_said_and_never_read_as_something_else() {
    golden::tomorrow(&samples());
}

#[test]
fn a_message_of_an_earlier_version_lacks_fields_and_is_read() {
    golden::yesterday(&samples());
}

#[test]
fn what_may_be_absent_or_unknown_is_as_recorded() {
    golden::fields(&FILES, &samples());
}

#[test]
fn every_variant_that_is_known_has_golden_bytes() {
    golden::complete(&samples());
}

#[test]
fn damaged_messages_end_nobody() {
    golden::damaged(&samples());
}

#[test]
fn every_kind_has_golden_bytes() {
    let source = include_str!("../envelope.rs");
    let (_, kinds) = source.split_once("pub enum Kind {\n").unwrap();
    let (kinds, _) = kinds.split_once("\n}\n").unwrap();
    let number = |line: &str| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse().ok();
    let declared: BTreeSet<u64> = kinds.lines().filter_map(number).collect();
    assert_eq!(declared.len(), kinds.lines().filter(|line| line.contains(" = ")).count());
    let elsewhere = OTHERS.map(|path| std::fs::read_to_string(path).unwrap()).concat();
    // Every envelope begins with the number of its kind: 0xa3 0x00, and the number.
    let kind = |line: &str| {
        let head = line.split(' ').nth(2)?.strip_prefix("a300")?;
        let long = head.strip_prefix("18").unwrap_or(head);
        u64::from_str_radix(&long[..2], 16).ok()
    };
    let mut recorded: BTreeSet<u64> = elsewhere.lines().filter_map(kind).collect();
    recorded.extend(samples().iter().filter_map(Sample::kind));
    assert_eq!(
        declared.difference(&recorded).collect::<Vec<_>>(),
        Vec::<&u64>::new(),
        "kinds without golden bytes"
    );
}
