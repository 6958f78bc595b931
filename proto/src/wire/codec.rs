//! The one encoding of everything that is sent or stored: CBOR in which every field has a number. Fields that
//! a reader does not know are skipped, absent ones have the meaning that their type states. Bytes are looked
//! at whole before a value is made of them: lengths that lie, endless nesting and left-over bytes never reach
//! a type. Outside `wire` three places call the encoder, for bytes that are signed or hashed without an
//! envelope: `trust::statement`, `trust::token` and `session::disk`.

use std::error::Error;

use minicbor::{Decode, Encode, decode};

/// How deep values may be nested: three times what our deepest message needs.
const MAX_DEPTH: usize = 48;
/// How many values a message of others may have: one byte can be a value that takes a hundred in memory. What
/// ours have is bounded where it is made (`limits`): the largest, shares and plans, have less than two thirds of it.
const MAX_PARTS: usize = 1 << 18;
/// How much is told of one cause of an error: a text of others may stand in it.
const MAX_CAUSE_CHARS: usize = 80;

/// Why bytes are not the value that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes than allowed.
    #[error("{have} bytes are more than the {limit} allowed")]
    TooLarge {
        /// The bytes.
        have: usize,
        /// The bound.
        limit: usize,
    },
    /// Damaged, or no encoding of ours.
    #[error("the bytes are malformed: {0}")]
    Malformed(String),
    /// A message of another kind.
    #[error("the message is of kind {found}, not {wanted}")]
    Kind {
        /// The number found.
        found: u16,
        /// The number wanted.
        wanted: u16,
    },
    /// A message in a form that this program does not read.
    #[error("the message is in form {found}, this program reads form {known}")]
    Version {
        /// The number found.
        found: u16,
        /// The number known.
        known: u16,
    },
    /// It holds something that only a later version knows and that cannot be left out.
    #[error("the message holds something that this version does not know")]
    Unknown,
}

/// How strictly bytes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Definite lengths, bounded depth, nothing left over.
    Sound,
    /// As `Sound`, every number in its shortest form, every map sorted, and what is absent left out: what is
    /// signed is written in one way. Fields of a later version may stand in it besides, so two such bytes can
    /// be read as the same value: what was signed is known by the digest of its bytes.
    Canonical,
}

/// Encodes a value: the same value gives the same bytes, on every host.
pub(crate) fn to_bytes<T: Encode<()> + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoded = minicbor::encode(value, &mut bytes);
    encoded.expect("writing into memory does not fail, and our types have no failing encoders");
    bytes
}

/// Decodes bytes that are exactly one value.
pub(crate) fn from_bytes<'b, T: Decode<'b, ()>>(
    bytes: &'b [u8],
    limit: usize,
    form: Form,
) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { have: bytes.len(), limit });
    }
    // What this host stored itself is of the size that it is.
    let parts = if limit == usize::MAX { usize::MAX } else { MAX_PARTS };
    check(bytes, form, parts).map_err(|what| WireError::Malformed(what.into()))?;
    minicbor::decode(bytes).map_err(|error| match is_unknown(&error) {
        true => WireError::Unknown,
        false => WireError::Malformed(causes(&error)),
    })
}

/// Tells an error and what caused it, each in a few words.
fn causes(error: &dyn Error) -> String {
    let short = |error: &dyn Error| {
        let text = error.to_string();
        match text.char_indices().nth(MAX_CAUSE_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let mut said = vec![short(error)];
    let mut source = error.source();
    while let Some(cause) = source {
        said.push(short(cause));
        source = cause.source();
    }
    said.join(": ")
}

/// Gives the length of a value's encoding.
pub fn len<T: Encode<()> + ?Sized>(value: &T) -> usize {
    to_bytes(value).len()
}

/// Something of a later version stands where it cannot be left out. The derived decoders skip unknown
/// variants of optional fields by themselves, and lose their place when the variant is nested: this error
/// is one that they hand on.
#[derive(Debug, thiserror::Error)]
#[error("unknown to this version")]
pub(super) struct Tomorrow;

/// Tells whether a decoder met something of a later version.
pub(super) fn is_unknown(error: &decode::Error) -> bool {
    let source = Error::source(error);
    error.is_unknown_variant() || source.is_some_and(|source| source.is::<Tomorrow>())
}

/// Looks at bytes before anything is made of them.
fn check(bytes: &[u8], form: Form, parts: usize) -> Result<(), &'static str> {
    let mut reader = Reader { bytes, at: 0, form, parts };
    reader.item(MAX_DEPTH)?;
    if reader.at == bytes.len() { Ok(()) } else { Err("something is left over") }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    form: Form,
    /// How many values may still come.
    parts: usize,
}

impl<'a> Reader<'a> {
    fn item(&mut self, depth: usize) -> Result<(), &'static str> {
        self.parts = self.parts.checked_sub(1).ok_or("it has too many parts")?;
        let (major, value) = self.head()?;
        let deeper = depth.checked_sub(1).ok_or("it is nested too deeply");
        match major {
            0 | 1 => Ok(()),
            2 => self.take(value).map(drop),
            3 => match std::str::from_utf8(self.take(value)?) {
                Ok(_) => Ok(()),
                Err(_) => Err("a text is no UTF-8"),
            },
            4 => (0..value).try_for_each(|_| self.item(deeper?)),
            5 => self.map(value, deeper?),
            6 => Err("a tag"),
            _ => Ok(()),
        }
    }

    fn map(&mut self, pairs: u64, depth: usize) -> Result<(), &'static str> {
        let mut before: Option<Key> = None;
        for _ in 0..pairs {
            let start = self.at;
            self.item(depth)?;
            let key = Key::of(&self.bytes[start..self.at]);
            if self.form == Form::Canonical && before.is_some_and(|before| before >= key) {
                return Err("the keys of a map are not in order");
            }
            before = Some(key);
            self.item(depth)?;
        }
        Ok(())
    }

    /// Reads what stands before an item: its major type, and its value or length.
    fn head(&mut self) -> Result<(u8, u64), &'static str> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let bytes = match info {
            0..=23 => 0,
            24..=27 => 1 << (info - 24),
            _ => return Err("a length is not definite"),
        };
        let value = self.take(bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if major == 7 {
            // false, true, null and numbers with a fraction.
            return match info {
                22 if self.form == Form::Canonical => Err("what is absent is written out"),
                20..=22 | 27 => Ok((major, value)),
                _ => Err("a value of no kind that we use"),
            };
        }
        let least = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => 24,
            25 => 1 << 8,
            26 => 1 << 16,
            _ => 1 << 32,
        };
        if self.form == Form::Canonical && value < least {
            return Err("a number is longer than it need be");
        }
        Ok((major, value))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], &'static str> {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let count = usize::try_from(count).ok().filter(|count| *count <= left.len());
        let taken = &left[..count.ok_or("it ends too early")?];
        self.at += taken.len();
        Ok(taken)
    }
}

/// A map's key as it is ordered: numbers by value, texts by their letters, as the maps of our types are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(u8, &'a [u8], usize);

impl<'a> Key<'a> {
    fn of(item: &'a [u8]) -> Key<'a> {
        let (major, info) = item.first().map_or((0, 0), |first| (first >> 5, first & 31));
        let head = 1 + if (24..=27).contains(&info) { 1 << (info - 24) } else { 0 };
        match major {
            // A longer head is a larger number, in the shortest form.
            0 | 1 => Key(major, item, 0),
            _ => Key(major, item.get(head..).unwrap_or_default(), item.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(bytes: &[u8], form: Form) -> Option<&'static str> {
        check(bytes, form, 100).err()
    }

    #[test]
    fn bytes_that_lie_about_themselves_are_seen_before_anything_is_made_of_them() {
        let sound = Form::Sound;
        assert_eq!(flaw(&[0xa1, 0, 0x18, 3], sound), None);
        let endless = [vec![0x81; 60], vec![0]].concat();
        let cases: [(&[u8], &str); 9] = [
            (&[], "it ends too early"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "it ends too early"),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "it ends too early"),
            (&[0x9f, 0xff], "a length is not definite"),
            (&[0, 0], "something is left over"),
            (&[0x61, 0xff], "a text is no UTF-8"),
            (&[0xc0, 0], "a tag"),
            (&[0xf7], "a value of no kind that we use"),
            (&endless, "it is nested too deeply"),
        ];
        for (bytes, what) in cases {
            assert_eq!(flaw(bytes, sound), Some(what), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_signed_is_written_in_one_way() {
        let canonical = Form::Canonical;
        let good: [&[u8]; 4] = [
            &[0xa2, 0, 0, 1, 0],
            &[0xa2, 0, 0, 0x18, 24, 0],
            &[0xa2, 0x61, b'b', 0, 0x62, b'b', b'a', 0],
            &[0xa2, 0x62, b'a', b'a', 0, 0x61, b'b', 0],
        ];
        for bytes in good {
            assert_eq!(flaw(bytes, canonical), None, "{bytes:02x?}");
        }
        let bad: [&[u8]; 7] = [
            &[0xa2, 1, 0, 0, 0],
            &[0xa2, 0, 0, 0, 0],
            &[0xa2, 0x61, b'b', 0, 0x62, b'a', b'a', 0],
            &[0x18, 23],
            &[0x19, 0, 255],
            &[0xf6],
            &[0xa1, 0, 0xf6],
        ];
        for bytes in bad {
            assert!(flaw(bytes, canonical).is_some(), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_has_more_parts_than_any_message_of_ours_is_seen_before_anything_is_made_of_it() {
        let flat = |count: u32| [&[0x9a][..], &count.to_be_bytes(), &vec![0; count as usize]].concat();
        let most = MAX_PARTS as u32 - 1;
        let read = |bytes: &[u8], limit| from_bytes::<Vec<u8>>(bytes, limit, Form::Sound);
        assert!(read(&flat(most), 1 << 20).is_ok());
        let refused = Err(WireError::Malformed("it has too many parts".into()));
        assert_eq!(read(&flat(most + 1), 1 << 20), refused);
        assert!(read(&flat(most + 1), usize::MAX).is_ok(), "a host reads what it stored");
    }

    #[test]
    fn an_error_says_its_cause_and_not_more_than_a_few_words_of_others() {
        let read = |text: &str| match from_bytes::<crate::id::Name>(&to_bytes(text), 1 << 20, Form::Sound) {
            Err(WireError::Malformed(what)) => what,
            other => panic!("{other:?}"),
        };
        assert!(read("Shop").contains("is no name"), "{}", read("Shop"));
        let long = read(&"ä".repeat(100_000));
        assert!(long.chars().count() < 3 * MAX_CAUSE_CHARS && long.ends_with('…'), "{long}");
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Old {
        #[n(0)]
        a: u8,
        #[cbor(n(1), with = "crate::wire::fields::option", has_nil)]
        kind: Option<Outer>,
        #[cbor(n(2), with = "crate::wire::fields::lenient", has_nil)]
        hint: Option<Outer>,
        #[n(3)]
        b: Option<u8>,
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Outer {
        #[n(0)]
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(index_only)]
    enum Kind {
        #[n(0)]
        One,
    }

    #[test]
    fn what_only_a_later_version_knows_is_skipped_or_said_and_never_read_wrongly() {
        let read = |bytes: &[u8]| from_bytes::<Old>(bytes, 100, Form::Sound);
        let kind = || Some(Outer { kind: Kind::One });
        let known = Old { a: 1, kind: kind(), hint: kind(), b: Some(4) };
        assert_eq!(to_bytes(&known), [0xa4, 0, 1, 1, 0xa1, 0, 0, 2, 0xa1, 0, 0, 3, 4]);
        let hint = Ok(Old { hint: None, ..known });
        assert_eq!(read(&[0xa4, 0, 1, 1, 0xa1, 0, 0, 2, 0xa1, 0, 7, 3, 4]), hint);
        assert_eq!(read(&[0xa4, 0, 1, 1, 0xa1, 0, 7, 2, 0xa1, 0, 0, 3, 4]), Err(WireError::Unknown));
        let few = Ok(Old { a: 1, kind: None, hint: None, b: None });
        assert_eq!(read(&[0xa2, 0, 1, 9, 0x82, 0xa1, 0, 0, 0x61, b'x']), few);
    }
}
