//! A refusal with its words beside it, for `#[cbor(with = "...")]`: a reader that knows the refusal reads its data,
//! and one that is older reads what it says. The words are one more field of whatever variant it is.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error as Flaw, encode::Write};

use super::codec;

/// The words' number among the fields of every variant; none of their own is as high.
const WORDS: u32 = 23;
/// What is kept of words: some sentences.
const MAX_CHARS: usize = 400;

/// A refusal that can be known by its words alone.
pub trait Refuses: fmt::Display {
    /// Makes the refusal that these words are all of.
    fn in_words(words: String) -> Self;
}

/// Encodes it.
pub fn encode<C, T: Refuses + Encode<()>, W: Write>(
    refusal: &T,
    e: &mut Encoder<W>,
    _: &mut C,
) -> Result<(), minicbor::encode::Error<W::Error>> {
    let bytes = codec::to_bytes(refusal);
    let Some((variant, fields, rest)) = taken_apart(&bytes) else {
        return Err(minicbor::encode::Error::message("a refusal is a variant with its fields"));
    };
    e.array(2)?.u32(variant)?.map(fields + 1)?;
    e.writer_mut().write_all(rest).map_err(minicbor::encode::Error::write)?;
    e.u32(WORDS)?.str(&refusal.to_string())?.ok()
}

/// Decodes it; one of a later version is what its words say.
pub fn decode<'b, C, T: Refuses + Decode<'b, ()>>(d: &mut Decoder<'b>, _: &mut C) -> Result<T, Flaw> {
    let at = d.position();
    match T::decode(d, &mut ()) {
        Err(error) if codec::is_unknown(&error) => {
            d.set_position(at);
            Ok(T::in_words(words(d)?))
        }
        known => known,
    }
}

/// Gives an encoded variant's number, how many fields it has, and their bytes.
fn taken_apart(bytes: &[u8]) -> Option<(u32, u64, &[u8])> {
    let mut d = Decoder::new(bytes);
    d.array().ok()?;
    let variant = d.u32().ok()?;
    let fields = d.map().ok()??;
    Some((variant, fields, bytes.get(d.position()..)?))
}

/// Reads a variant for its words.
fn words(d: &mut Decoder<'_>) -> Result<String, Flaw> {
    d.array()?;
    d.u32()?;
    let mut words = None;
    for _ in 0..d.map()?.unwrap_or_default() {
        if d.u32()? == WORDS {
            words = Some(d.str()?.chars().take(MAX_CHARS).collect());
        } else {
            d.skip()?;
        }
    }
    // Without them nobody can say what it was.
    words.ok_or_else(|| Flaw::custom(codec::Tomorrow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::HostId,
        session::Refused,
        trust::{JoinAnswer, JoinRefusal},
        wire::{
            codec::{Form, from_bytes, to_bytes},
            rpc::{Answer, Refusal},
        },
    };

    #[derive(Debug, thiserror::Error, Encode, Decode)]
    #[cbor(map)]
    enum Tomorrow {
        #[error("the moon is full until {until}")]
        #[n(4711)]
        Moon {
            #[n(0)]
            until: u64,
        },
        #[error("{0}")]
        #[n(4712)]
        Other(#[n(0)] String),
    }

    impl Refuses for Tomorrow {
        fn in_words(words: String) -> Tomorrow {
            Tomorrow::Other(words)
        }
    }

    #[derive(Encode)]
    #[cbor(map)]
    enum AnswerOfTomorrow {
        #[n(11)]
        Refused(#[cbor(n(0), with = "crate::wire::words")] Tomorrow),
        #[n(2)]
        Join(#[cbor(n(0), with = "crate::wire::words")] Tomorrow),
    }

    #[derive(Encode)]
    #[cbor(map)]
    enum AnswerOfYesterday {
        #[n(11)]
        Refused(#[n(0)] Refusal),
    }

    fn read(answer: &impl Encode<()>) -> Answer {
        from_bytes(&to_bytes(answer), 10_000, Form::Canonical).unwrap()
    }

    #[test]
    fn a_refusal_of_tomorrow_is_what_its_words_say() {
        let moon = || Tomorrow::Moon { until: 7 };
        let said = || "the moon is full until 7".to_owned();
        assert_eq!(read(&AnswerOfTomorrow::Refused(moon())), Answer::Refused(Refusal::Other(said())));
        let bytes = to_bytes(&AnswerOfTomorrow::Join(moon()));
        let join: JoinAnswer = from_bytes(&bytes, 10_000, Form::Canonical).unwrap();
        assert_eq!(join, JoinAnswer::Refused(JoinRefusal::Other(said())));
    }

    #[test]
    fn a_refusal_of_yesterday_has_no_words_and_is_read_all_the_same() {
        for refusal in crate::reasons::tests::refusals() {
            assert_eq!(read(&AnswerOfYesterday::Refused(refusal.clone())), Answer::Refused(refusal.clone()));
            assert_eq!(read(&Answer::Refused(refusal.clone())), Answer::Refused(refusal));
        }
    }

    #[test]
    fn what_a_hard_state_of_tomorrow_refuses_is_read_by_its_words_too() {
        let known = Answer::Refused(Refusal::State(Refused::Ended));
        let mut bytes = to_bytes(&known);
        let at = bytes.windows(4).position(|some| some == [0x82, 1, 0xa0, 0x17]).unwrap();
        // A variant that the hard state does not have here.
        bytes[at + 1] = 0x16;
        let read: Answer = from_bytes(&bytes, 10_000, Form::Canonical).unwrap();
        assert_eq!(read, Answer::Refused(Refusal::Other("the session has ended".into())));
    }

    #[test]
    fn a_refusal_that_is_unknown_and_says_nothing_is_a_message_of_a_later_version() {
        let bytes = [0x82, 11, 0xa1, 0, 0x82, 0x18, 99, 0xa0];
        let read = from_bytes::<Answer>(&bytes, 10_000, Form::Canonical);
        assert_eq!(read, Err(codec::WireError::Unknown));
        let elsewhere = Answer::Refused(Refusal::NotCoordinator { leader: Some(HostId([3; 32])) });
        assert_eq!(super::tests::read(&elsewhere), elsewhere);
    }
}
