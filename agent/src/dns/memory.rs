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
        let (Some(question), Some(answer)) = (message.get(ID_BYTES..), answer.get(ID_BYTES..)) else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn given(memory: &Memory, message: &[u8], edition: u64) -> Option<Vec<u8>> {
        let mut into = b"before".to_vec();
        let there = memory.answer(message, edition, &mut into);
        let answer = into.strip_prefix(b"before").expect("what was there stays").to_vec();
        assert_eq!(there, !answer.is_empty());
        there.then_some(answer)
    }

    #[test]
    fn the_same_question_gets_the_same_answer_with_its_own_id_until_the_edition_changes() {
        let mut memory = Memory::default();
        memory.keep(b"aaWeb.", b"aaWeb.10.0.0.1", 1);
        assert_eq!(given(&memory, b"zzWeb.", 1).as_deref(), Some(&b"zzWeb.10.0.0.1"[..]));
        assert_eq!(given(&memory, b"zzweb.", 1), None, "another spelling is another question");
        assert_eq!(given(&memory, b"zzWeb.", 2), None, "what it stood on is another");
        assert_eq!(given(&memory, b"z", 1), None);
        memory.keep(b"aadb.", b"aadb.10.0.0.2", 2);
        assert_eq!(given(&memory, b"aaWeb.", 2), None, "and it does not come back");
        memory.keep(b"aaWeb.", b"aaWeb.10.0.0.1", 1);
        assert_eq!(given(&memory, b"aaWeb.", 2), None, "what was found too late is not kept");
        assert!(given(&memory, b"aadb.", 2).is_some());
    }

    proptest! {
        #[test]
        fn a_flood_of_questions_takes_no_more_than_its_room(
            sizes in proptest::collection::vec((2usize..600, 2usize..2000), 1..1000),
        ) {
            let mut memory = Memory::default();
            for (number, (question, answer)) in sizes.into_iter().enumerate() {
                let mut message = vec![0; question + 8];
                message[2..10].copy_from_slice(&(number as u64).to_be_bytes());
                memory.keep(&message, &vec![1; answer], 1);
                let entries = memory.answers.iter();
                let held: usize = entries.map(|(asked, said)| asked.len() + said.len() + ENTRY_BYTES).sum();
                prop_assert_eq!(held, memory.bytes);
                prop_assert!(held <= MOST_BYTES);
                prop_assert!(given(&memory, &message, 1).is_some_and(|given| given.len() == answer));
            }
        }
    }
}
