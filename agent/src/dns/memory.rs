//! What was answered, as bytes, so that whoever asks the same again costs no reading, finding and writing.
//! Pure: an answer is given again as long as the edition is the one that it was found in.
//!
//! A question is the same when all its bytes but the id's are: spelling, flags, class and EDNS are part of it.
//! Bounded in bytes: one answer too many, and all are forgotten, so that a flood costs what it costs without a memory.

use std::collections::HashMap;

/// The bytes of the id, with which every message begins.
const ID_BYTES: usize = 2;
/// What is remembered at most, some 600 answers.
const MOST_BYTES: usize = 128 * 1024;
/// What an entry takes beside the bytes of question and answer.
const ENTRY_BYTES: usize = 128;

/// Answers of one edition, to those who see the same names.
#[derive(Debug, Default)]
pub struct Memory {
    edition: u64,
    bytes: usize,
    /// By question, both without their id.
    answers: HashMap<Box<[u8]>, Box<[u8]>>,
}

impl Memory {
    /// Writes the answer to a message after what is in `into`, if it is remembered. Tells whether it is.
    pub fn answer(&self, message: &[u8], edition: u64, into: &mut Vec<u8>) -> bool {
        if edition != self.edition {
            return false;
        }
        let Some((id, question)) = message.split_at_checked(ID_BYTES) else { return false };
        let Some(answer) = self.answers.get(question) else { return false };
        into.extend_from_slice(id);
        into.extend_from_slice(answer);
        true
    }

    /// Remembers the answer to a message, and forgets those of older editions.
    pub fn keep(&mut self, message: &[u8], answer: &[u8], edition: u64) {
        let (Some(question), Some(answer)) = (message.get(ID_BYTES..), answer.get(ID_BYTES..)) else { return };
        let bytes = ENTRY_BYTES + question.len() + answer.len();
        if edition < self.edition || bytes > MOST_BYTES {
            return;
        }
        if edition > self.edition || self.bytes + bytes > MOST_BYTES {
            self.answers.clear();
            self.bytes = 0;
        }
        self.edition = edition;
        if self.answers.insert(question.into(), answer.into()).is_none() {
            self.bytes += bytes;
        }
    }
}
