//! Pure: how people name an image on a command line. What a name means in the mesh: `proto::picture::images`.

use std::{path::PathBuf, str::FromStr};

use proto::{id::Digest, picture::images};

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

/// Checks that `name` may be given to an image.
pub fn check(name: &str) -> Result<(), NameError> {
    if images::is_name(name) { Ok(()) } else { Err(NameError::Name(name.chars().take(80).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
