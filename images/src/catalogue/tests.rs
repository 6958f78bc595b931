//! Names and their givings, bounds, and the file that outlives a crash.

use proto::{id::Digest, time::Timestamp};

use super::{Catalogue, Entry, Found, Giving, MAX_IMAGES, MAX_NAMES};
use crate::error::ImageError;

const A: Digest = Digest([1; 32]);
const B: Digest = Digest([2; 32]);

fn entry() -> Entry {
    Entry {
        names: Default::default(),
        size: 1,
        allocated: 1,
        arch: "x86_64".to_owned(),
        complete: true,
        source: "import".to_owned(),
        sha256: None,
    }
}

fn two() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.list(A, entry()).unwrap();
    catalogue.list(B, entry()).unwrap();
    catalogue
}

fn giving(name: &str, now: u64) -> Giving {
    Giving { name: name.to_owned(), replace: false, elsewhere: None, now: Timestamp(now) }
}

#[test]
fn a_name_of_other_content_is_refused_unless_replaced() {
    let mut catalogue = two();
    catalogue.give(A, &giving("tiny", 10)).unwrap();
    let refused = catalogue.give(B, &giving("tiny", 20)).unwrap_err();
    assert!(matches!(refused, ImageError::NameTaken { digest: A, .. }), "{refused}");
    assert_eq!(catalogue.meaning("tiny"), Some((A, Timestamp(10))));
    catalogue.give(B, &Giving { replace: true, ..giving("tiny", 20) }).unwrap();
    assert_eq!(catalogue.meaning("tiny"), Some((B, Timestamp(20))));
    assert!(catalogue.images[&A].names.is_empty());
}

#[test]
fn a_name_that_another_member_gave_counts_too() {
    let mut catalogue = two();
    let elsewhere = Some((B, Timestamp(50)));
    let refused = catalogue.give(A, &Giving { elsewhere, ..giving("tiny", 60) }).unwrap_err();
    assert!(matches!(refused, ImageError::NameTaken { digest: B, .. }), "{refused}");
    catalogue.give(B, &Giving { elsewhere, ..giving("tiny", 60) }).unwrap();
    assert_eq!(catalogue.meaning("tiny"), Some((B, Timestamp(50))));
}

#[test]
fn a_replacement_is_newer_even_when_our_clock_is_behind() {
    let mut catalogue = two();
    let elsewhere = Some((B, Timestamp(5_000)));
    catalogue.give(A, &Giving { replace: true, elsewhere, ..giving("tiny", 10) }).unwrap();
    assert_eq!(catalogue.meaning("tiny"), Some((A, Timestamp(5_001))));
}

#[test]
fn giving_a_name_again_changes_nothing() {
    let mut catalogue = two();
    catalogue.give(A, &giving("tiny", 10)).unwrap();
    let before = catalogue.clone();
    catalogue.give(A, &giving("tiny", 99)).unwrap();
    assert_eq!(catalogue, before);
}

#[test]
fn names_learnt_from_members_keep_their_moment_and_never_beat_newer_ones() {
    let mut catalogue = two();
    catalogue.give(A, &giving("tiny", 10)).unwrap();
    catalogue.learn(B, &[("tiny".to_owned(), Timestamp(9)), ("other".to_owned(), Timestamp(3))].into());
    assert_eq!(catalogue.meaning("tiny"), Some((A, Timestamp(10))));
    assert_eq!(catalogue.meaning("other"), Some((B, Timestamp(3))));
    catalogue.learn(B, &[("tiny".to_owned(), Timestamp(11)), ("NOT A NAME".to_owned(), Timestamp(3))].into());
    assert_eq!(catalogue.meaning("tiny"), Some((B, Timestamp(11))));
    assert_eq!(catalogue.meaning("NOT A NAME"), None);
}

#[test]
fn images_and_names_are_bounded_by_what_gossip_can_carry() {
    let mut catalogue = Catalogue::default();
    for n in 0..MAX_IMAGES {
        catalogue.list(Digest([n as u8; 32]), entry()).unwrap();
    }
    assert!(matches!(catalogue.list(Digest([255; 32]), entry()), Err(ImageError::TooMany(_))));
    catalogue.list(A, entry()).unwrap();
    let longest = |n: usize| format!("{n:0>63}");
    for n in 0..MAX_NAMES {
        catalogue.give(A, &giving(&longest(n), u64::MAX)).unwrap();
    }
    assert!(matches!(catalogue.give(A, &giving("more", 1)), Err(ImageError::TooManyNames(_))));
    let bytes = proto::wire::len(&catalogue.records()[&A]);
    assert!(bytes < proto::limits::MAX_RECORD_BYTES / 2, "{bytes}");
}

#[test]
fn the_file_reads_back_and_a_broken_one_is_never_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue.json");
    assert_eq!(Catalogue::read(&path).unwrap(), Found::Absent);
    let mut catalogue = two();
    catalogue.give(A, &giving("debian:12", 10)).unwrap();
    catalogue.write(&path).unwrap();
    assert_eq!(Catalogue::read(&path).unwrap(), Found::Whole(catalogue));
    std::fs::write(&path, "{\"version\": 1, \"ima").unwrap();
    assert!(matches!(Catalogue::read(&path), Ok(Found::Damaged(_))));
    std::fs::write(&path, "{\"version\": 2, \"images\": {}}").unwrap();
    assert!(Catalogue::read(&path).unwrap_err().to_string().contains("version 2"));
}
