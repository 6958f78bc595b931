//! Two computers that run as one host: a data directory was copied, and both have its key. Starts are counted upwards,
//! so whoever hears of a later start that it did not make knows that there is another one. The earlier one says so by a
//! word that names that start, which nobody else can write and which fits no start after it; the later one stops.
//!
//! Others help without knowing: they tell a host of every new start of it by all connections that it has, and tell one
//! that still speaks in an old start of the new one. Once it has said enough the earlier one speaks in a start after the
//! later one's: what it says of itself would be older than what the copy said.

use super::{Effect, Finding, Liveness, Other, Signed, Testimony};
use crate::{id::HostId, time::Moment};

/// It is said so often: datagrams may be lost.
pub(super) const TIMES: u32 = 6;
const AGAIN_MS: u64 = 700;
/// Of one host that says so this is passed on at most so often.
const PASSED_MS: u64 = 500;
/// A host is told at most so often that it is in a new start.
const BACK_MS: u64 = 1_000;

impl Other {
    /// Tells whether it is news that a host says that there are two of it. What it said before its newest start is over.
    pub(super) fn wants_twice(&self, testimony: &Testimony, now: Moment) -> bool {
        let is_new = |(age, at): (_, Moment)| age != testimony.age() && now.since_ms(at) >= PASSED_MS;
        self.twice.is_none_or(is_new) && testimony.seq >= self.own.0
    }

    /// Tells whether a host itself says something in an old start, and may be told so.
    pub(super) fn speaks_again(&self, from: &HostId, testimony: &Testimony, now: Moment) -> bool {
        let is_old = *from == testimony.about && testimony.generation < self.own.0;
        is_old && self.told_back.is_none_or(|at| now.since_ms(at) >= BACK_MS)
    }
}

impl Liveness {
    /// Tells whether a word in this host's own name is news of another computer that runs as it does.
    pub(super) fn is_of_a_double(&self, testimony: &Testimony) -> bool {
        match testimony.finding {
            Finding::Twice => {
                testimony.generation < self.began && [self.began, self.generation].contains(&testimony.seq)
            }
            _ => {
                let known = self.double.map_or(0, |(start, ..)| start);
                testimony.generation > known.max(self.generation)
            }
        }
    }

    /// There is another one.
    pub(super) fn double(&mut self, testimony: &Testimony, now: Moment) {
        if testimony.finding == Finding::Twice {
            // What it would say from now on is not for it to say.
            self.stopped = true;
            self.effects.push(Effect::StandDown);
            return;
        }
        self.double = Some((testimony.generation, 0, now));
        self.effects.push(Effect::Twice(self.me));
        self.say_twice(now);
    }

    /// Says that there is another one, if it is time.
    pub(super) fn say_twice(&mut self, now: Moment) {
        let Some((start, times, at)) = self.double.filter(|(_, times, at)| *times < TIMES && *at <= now)
        else {
            return;
        };
        self.double = Some((start, times + 1, at.max(now).plus_ms(AGAIN_MS)));
        self.testify_twice(start, self.everybody());
        if times + 1 == TIMES {
            self.generation = self.generation.max(start.saturating_add(1));
            self.effects.push(Effect::Raise(self.generation));
            self.testify_here(Finding::Here, self.everybody(), now);
        }
    }

    /// Says to these that another one is in this start.
    pub(super) fn testify_twice(&mut self, start: u64, to: Vec<HostId>) {
        if to.is_empty() || self.stopped {
            return;
        }
        let testimony = Testimony {
            mesh: self.mesh,
            observer: self.me,
            about: self.me,
            generation: self.began,
            seq: start,
            finding: Finding::Twice,
            evidence: 0,
        };
        self.effects.push(Effect::Testify(testimony, to));
    }

    /// A host says that there are two of it: both are to hear it, and everybody else.
    pub(super) fn note_twice(&mut self, from: HostId, signed: Signed, now: Moment) {
        let about = signed.testimony.about;
        let Some(other) = self.others.get_mut(&about) else { return };
        if other.twice.replace((signed.testimony.age(), now)).is_none() {
            self.effects.push(Effect::Twice(about));
        }
        self.effects.push(Effect::Pass(signed.clone(), vec![about]));
        self.pass(from, signed);
    }

    /// A host speaks in an old start: it is told of the new one.
    pub(super) fn tell_back(&mut self, host: HostId, now: Moment) {
        let Some(other) = self.others.get_mut(&host) else { return };
        other.told_back = Some(now);
        if let Some(word) = other.word.clone() {
            self.effects.push(Effect::Pass(word, vec![host]));
        }
    }
}
