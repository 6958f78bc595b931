//! What the host's resolvers answered, for as long as they said. Answers are kept as the bytes that they are
//! on a wire, which is what they are counted by.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};

/// Answers that are remembered.
const MAX_CACHED: usize = 512;
/// An answer that is longer is asked for again: all together stay below 640 KiB.
const MAX_BYTES: usize = super::DATAGRAM_BYTES;
/// What a server says is believed no longer than this.
const MOST_TTL_S: u32 = 3600;

/// What was asked: the name in small letters, and the type.
pub type Asked = (Name, RecordType);

/// The answers to one guest.
#[derive(Default)]
pub struct Cache(BTreeMap<Asked, Cached>);

struct Cached {
    answer: Bytes,
    at: Instant,
    until: Instant,
}

impl Cache {
    /// Gives an answer that is remembered, with what is left of its time.
    pub fn get(&self, asked: &Asked, now: Instant) -> Option<Message> {
        let cached = self.0.get(asked).filter(|cached| now < cached.until)?;
        let mut answer = Message::from_vec(&cached.answer).ok()?;
        let age = u32::try_from((now - cached.at).as_secs()).unwrap_or(u32::MAX);
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Remembers an answer, if it says for how long and is not too long.
    pub fn remember(&mut self, asked: &Asked, answer: &Message, now: Instant) {
        let Some(ttl) = lasts(answer) else { return };
        let Some(bytes) = answer.to_vec().ok().filter(|bytes| bytes.len() <= MAX_BYTES) else { return };
        if self.0.len() >= MAX_CACHED {
            self.0.retain(|_, cached| now < cached.until);
        }
        if self.0.len() >= MAX_CACHED {
            let soonest = self.0.iter().min_by_key(|(_, cached)| cached.until);
            if let Some(asked) = soonest.map(|(asked, _)| asked.clone()) {
                self.0.remove(&asked);
            }
        }
        let until = now + Duration::from_secs(ttl.into());
        self.0.insert(asked.clone(), Cached { answer: bytes.into(), at: now, until });
    }
}

/// Says for how many seconds an answer may be remembered: by its records, or, when it says that there is
/// nothing, by its SOA (RFC 2308). Anything else is not remembered.
fn lasts(answer: &Message) -> Option<u32> {
    let good = matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !good || answer.metadata.truncation {
        return None;
    }
    let shortest = answer.answers.iter().map(|record| record.ttl).min();
    let nothing = || {
        answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
    };
    shortest.or_else(nothing).map(|ttl| ttl.min(MOST_TTL_S)).filter(|&ttl| ttl > 0)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::{
        op::OpCode,
        rr::{
            Record,
            rdata::{A, SOA, TXT},
        },
    };

    use super::*;

    fn asked(name: &str) -> Asked {
        (Name::from_str(name).unwrap(), RecordType::A)
    }

    fn answer(asked: &Asked) -> Message {
        let mut answer = Message::response(1, OpCode::Query);
        answer.add_answer(Record::from_rdata(asked.0.clone(), 60, RData::A(A([93, 184, 216, 34].into()))));
        answer
    }

    #[test]
    fn answers_are_remembered_as_long_as_they_say() {
        let asked = asked("example.org.");
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.remember(&asked, &answer(&asked), now);
        let later = cache.get(&asked, now + Duration::from_secs(20)).unwrap();
        assert_eq!((later.answers[0].ttl, later.answers.len()), (40, 1));
        assert!(cache.get(&asked, now + Duration::from_secs(60)).is_none());

        let mut nothing = Message::response(1, OpCode::Query);
        nothing.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(lasts(&nothing), None);
        let soa = SOA::new(asked.0.clone(), asked.0.clone(), 1, 60, 60, 60, 30);
        nothing.authorities.push(Record::from_rdata(asked.0, 900, RData::SOA(soa)));
        assert_eq!(lasts(&nothing), Some(30));
        nothing.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(lasts(&nothing), None);
    }

    #[test]
    fn neither_many_answers_nor_long_ones_fill_the_memory() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..2 * MAX_CACHED {
            let asked = asked(&format!("n{number}.example.org."));
            cache.remember(&asked, &answer(&asked), now);
        }
        assert_eq!(cache.0.len(), MAX_CACHED);
        let long = asked("long.example.org.");
        let mut much = answer(&long);
        let text = RData::TXT(TXT::new(vec!["x".repeat(250); 5]));
        much.add_answer(Record::from_rdata(long.0.clone(), 60, text));
        cache.remember(&long, &much, now);
        assert!(cache.get(&long, now).is_none());
        assert!(cache.0.values().all(|cached| cached.answer.len() <= MAX_BYTES));
    }
}
