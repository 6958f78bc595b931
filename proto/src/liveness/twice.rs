//! Two computers that run as one host: a data directory was copied, and both have its key. Starts are counted upwards,
//! so whoever hears of a later start that it did not make knows that there is another one. The earlier one says so by a
//! word that names that start, which nobody else can write and which fits no start after it; the later one stops.
//!
//! Others help without knowing: they tell a host of every new start of it by all connections that it has, and tell one
//! that still speaks in an old start of the new one. Once it has said enough the earlier one speaks in a start after the
//! later one's: what it says of itself would be older than what the copy said.
//!
//! Whoever is met would tell; so a host that asks takes itself for the only one some time after it met somebody.

use std::collections::btree_map::Entry;

use super::{Effect, Finding, Liveness, Other, Signed, Testimony};
use crate::{id::HostId, time::Moment};

/// It is said so often: datagrams may be lost.
const TIMES: u32 = 6;
const AGAIN_MS: u64 = 700;
/// Of one host that says so this is passed on at most so often.
const PASSED_MS: u64 = 500;
/// A host is told at most so often that it is in a new start.
const BACK_MS: u64 = 1_000;
/// That there are two of one member is an effect at most so often.
const NAMED_MS: u64 = 60_000;
/// Others tell a host of a start of it that they know within this time of meeting it.
const TOLD_MS: u64 = 4_000;
/// Who reaches nobody for so long asks nobody: longer than a home's network takes to come up after a start.
const UNREACHED_MS: u64 = 15_000;

/// Another computer that runs as this host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Double {
    /// The start in which it spoke.
    pub start: u64,
    /// How often this was said, and when it is said again.
    times: u32,
    again: Moment,
}

impl Double {
    /// When it is said again; none when it was said often enough.
    pub fn due(self) -> Option<Moment> {
        (self.times < TIMES).then_some(self.again)
    }
}

impl Other {
    /// Tells whether it is news that a host says that there are two of it. What it said before its newest start is over.
    pub(super) fn wants_twice(&self, testimony: &Testimony, now: Moment) -> bool {
        let is_new = |(age, at): (_, Moment)| age != testimony.age() && now.since_ms(at) >= PASSED_MS;
        self.twice.is_none_or(is_new) && testimony.seq >= self.age().0
    }

    /// Tells whether a host itself says something in an old start, and may be told so.
    pub(super) fn speaks_again(&self, from: &HostId, testimony: &Testimony, now: Moment) -> bool {
        let is_old = *from == testimony.about && testimony.generation < self.age().0;
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
                let known = self.double.map_or(0, |double| double.start);
                testimony.generation > known.max(self.generation)
            }
        }
    }

    /// Asks, with the time that passes, whether another computer runs as this host.
    pub fn asking(mut self, now: Moment) -> Liveness {
        self.single = Some(now.plus_ms(UNREACHED_MS));
        self
    }

    /// Somebody is there who would tell.
    pub(super) fn meet_somebody(&mut self, now: Moment) {
        self.single = self.single.map(|at| at.min(now.plus_ms(TOLD_MS)));
    }

    /// Says that this host is the only one, if it is time.
    pub(super) fn settle(&mut self, now: Moment) {
        if self.single.take_if(|at| *at <= now).is_some() {
            self.effects.push(Effect::Single);
        }
    }

    /// There is another one.
    pub(super) fn double(&mut self, testimony: &Testimony, now: Moment) {
        if testimony.finding == Finding::Twice {
            // What it would say from now on is not for it to say.
            (self.stopped, self.single) = (true, None);
            self.effects.push(Effect::StandDown);
            return;
        }
        self.double = Some(Double { start: testimony.generation, times: 0, again: now });
        self.name(self.me, now);
        self.say_twice(now);
    }

    /// Tells that there are two of a member, unless it was told just now.
    fn name(&mut self, host: HostId, now: Moment) {
        self.named.retain(|_, at| now.since_ms(*at) < NAMED_MS);
        if let Entry::Vacant(lately) = self.named.entry(host) {
            lately.insert(now);
            self.effects.push(Effect::Twice(host));
        }
    }

    /// Says that there is another one, if it is time.
    pub(super) fn say_twice(&mut self, now: Moment) {
        let Some(double) = self.double.filter(|double| double.due().is_some_and(|at| at <= now)) else {
            return;
        };
        let times = double.times + 1;
        self.double = Some(Double { times, again: now.plus_ms(AGAIN_MS), ..double });
        self.testify_twice(double.start, self.everybody());
        if times == TIMES {
            self.generation = self.generation.max(double.start.saturating_add(1));
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
        other.twice = Some((signed.testimony.age(), now));
        self.name(about, now);
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
