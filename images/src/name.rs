//! Pure: how people name an image, and what a name means when several hosts gave it.
//! A name is local until a member gossips it; of two givings of one name the newest wins everywhere,
//! which needs no agreement: every host computes the same from the same records.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use proto::{id::Digest, time::Timestamp, wire::record::ImageRecord};

/// Longest name. `debian-testing-backports:2026-11-20` fits, and sixteen of them fit in one gossip record.
const MAX_NAME: usize = 63;

/// Where an image comes from, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `tiny`, `debian:12`.
    Named(String),
    /// `blake3:HASH`.
    Pinned(Digest),
    /// `https://...` or `http://...`; needs a checksum.
    Url(String),
    /// Anything with a `/`, such as `./disk.qcow2`.
    Path(PathBuf),
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Breaks the rule of names.
    #[error("{0:?} is no image name: small letters, digits and '.', '-', '_', ':', 63 characters at most")]
    Name(String),
    /// After `blake3:`.
    #[error(transparent)]
    Digest(#[from] proto::id::IdError),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Reference::Url(text.to_owned()));
        }
        if text.starts_with("blake3:") {
            return Ok(Reference::Pinned(text.parse()?));
        }
        if text.contains('/') {
            return Ok(Reference::Path(PathBuf::from(text)));
        }
        check(text)?;
        Ok(Reference::Named(text.to_owned()))
    }
}

/// Checks that `name` may be given to an image: it is neither a hash, nor a URL, nor a path.
pub fn check(name: &str) -> Result<(), NameError> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|&b| alphanumeric(b) || b".-_:".contains(&b))
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && !name.starts_with("blake3:");
    if valid { Ok(()) } else { Err(NameError::Name(name.chars().take(80).collect())) }
}

/// Says which content each name means, from all records of all hosts: the newest giving wins, and of
/// two at the same moment the one with the greater hash.
pub fn resolve<'a>(
    records: impl IntoIterator<Item = (Digest, &'a ImageRecord)>,
) -> BTreeMap<String, (Digest, Timestamp)> {
    let mut meanings: BTreeMap<String, (Digest, Timestamp)> = BTreeMap::new();
    for (digest, record) in records {
        for (name, given) in &record.names {
            let giving = (digest, *given);
            let meaning = meanings.entry(name.clone()).or_insert(giving);
            if newer(giving, *meaning) {
                *meaning = giving;
            }
        }
    }
    meanings
}

/// Says whether giving `a` of a name beats giving `b`.
pub(crate) fn newer(a: (Digest, Timestamp), b: (Digest, Timestamp)) -> bool {
    (a.1, a.0) > (b.1, b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[(&str, u64)]) -> ImageRecord {
        ImageRecord {
            names: names.iter().map(|(name, at)| (name.to_string(), Timestamp(*at))).collect(),
            size: 1,
            allocated: 1,
            arch: "x86_64".to_owned(),
            complete: true,
        }
    }

    #[test]
    fn references_are_told_apart_by_their_spelling() {
        let hash = "ab".repeat(32);
        let cases = [
            ("debian:12", Reference::Named("debian:12".into())),
            ("./disk.qcow2", Reference::Path("./disk.qcow2".into())),
            ("/srv/disk.raw", Reference::Path("/srv/disk.raw".into())),
            ("https://example.org/a.qcow2", Reference::Url("https://example.org/a.qcow2".into())),
            (&format!("blake3:{hash}"), Reference::Pinned(Digest([0xab; 32]))),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Reference>().unwrap(), want, "{text}");
        }
        for bad in ["", "Debian", "a b", "-x", "x-", ":x", "blake3:12", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_newest_giving_of_a_name_wins_whoever_is_asked_first() {
        let (old, new) = (record(&[("tiny", 1), ("old", 1)]), record(&[("tiny", 2)]));
        let records = [(Digest([9; 32]), &old), (Digest([1; 32]), &new)];
        let there = resolve(records);
        assert_eq!(there["tiny"], (Digest([1; 32]), Timestamp(2)));
        assert_eq!(there["old"], (Digest([9; 32]), Timestamp(1)));
        assert_eq!(there, resolve(records.into_iter().rev()));
    }

    #[test]
    fn givings_at_the_same_moment_have_one_winner() {
        let both = record(&[("tiny", 5)]);
        let records = [(Digest([1; 32]), &both), (Digest([2; 32]), &both)];
        assert_eq!(resolve(records)["tiny"].0, Digest([2; 32]));
        assert_eq!(resolve(records.into_iter().rev())["tiny"].0, Digest([2; 32]));
    }
}
