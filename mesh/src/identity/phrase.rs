//! The recovery phrase: the mesh's root key as people write it down. Base32 of the key and of a check of it, in groups;
//! spaces, dashes and capitals do not matter.

use data_encoding::BASE32_NOPAD;
use proto::seal::Seed;

/// Characters between the dashes.
const GROUP: usize = 5;
/// Bytes of the check: of 16 million mistakes one is not noticed.
const CHECK: usize = 3;

/// Why a text gives no root key.
#[derive(Debug, thiserror::Error)]
#[error("the recovery phrase is wrong: copy all of it")]
pub struct PhraseError;

/// Writes the root key as a phrase.
pub(crate) fn of(root: &Seed) -> String {
    let check = blake3::hash(&root.0);
    let bytes = [&root.0[..], &check.as_bytes()[..CHECK]].concat();
    let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    let groups: Vec<String> =
        text.as_bytes().chunks(GROUP).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join("-")
}

/// Reads the root key of a phrase.
pub(crate) fn root(phrase: &str) -> Result<Seed, PhraseError> {
    let text: String = phrase.chars().filter(char::is_ascii_alphanumeric).collect();
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| PhraseError)?;
    let (seed, check) = bytes.split_first_chunk::<32>().ok_or(PhraseError)?;
    match blake3::hash(seed).as_bytes()[..CHECK] == *check {
        true => Ok(Seed(*seed)),
        false => Err(PhraseError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_read_as_people_write_it_and_a_mistake_is_noticed() {
        let (key, phrase) = (Seed([7; 32]), of(&Seed([7; 32])));
        assert_eq!(phrase.len(), 56 + 11);
        for spelling in
            [phrase.clone(), phrase.to_uppercase(), phrase.replace('-', " "), format!("\n {phrase}\r\n")]
        {
            assert!(root(&spelling).is_ok_and(|read| read == key), "{spelling:?}");
        }
        let swapped = phrase.replacen(&phrase[..5], "aaaaa", 1);
        for wrong in [&swapped, &phrase[..60], &format!("{phrase}a"), "", "a word"] {
            assert!(root(wrong).is_err(), "{wrong:?}");
        }
    }
}
