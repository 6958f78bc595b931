//! When a session's level is raised: as soon as everybody who stores the session or is brought a share of it
//! understands more. Never beside a change of voters: a host that comes in while the entry is on its way would be
//! sent what it may not understand. One entry at a time, and a pause after one that failed.

use crate::{
    level::{self, Feature, Level},
    time::Moment,
};

/// Pause after an entry that was not written: as long as a quorum may take to come back.
const AGAIN_MS: u64 = 5_000;

/// The raises of one session, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Raises {
    number: u64,
    under_way: bool,
    not_before: Moment,
}

impl Raises {
    /// None yet.
    pub fn new(now: Moment) -> Raises {
        Raises { number: 0, under_way: false, not_before: now }
    }

    /// Tells whether an entry is on its way.
    pub fn under_way(&self) -> bool {
        self.under_way
    }

    /// Says to what a session of this level is raised now, if it is: what all of these understand.
    pub fn due(&self, from: Level, readers: impl Iterator<Item = Level>, now: Moment) -> Option<Level> {
        let to = level::lowest(readers);
        let may = !self.under_way && now >= self.not_before;
        // The entry itself has a level: it is emitted where everybody understands it, as any other thing.
        (may && to > from && to.allows(Feature::Raise)).then_some(to)
    }

    /// Begins one; gives its number.
    pub fn begin(&mut self) -> u64 {
        self.under_way = true;
        self.number += 1;
        self.number
    }

    /// Takes note of how one ended.
    pub fn ended(&mut self, number: u64, well: bool, now: Moment) {
        if !self.under_way || number != self.number {
            return;
        }
        self.under_way = false;
        if !well {
            self.not_before = now.plus_ms(AGAIN_MS);
        }
    }

    /// Gives up the one that is under way: another host leads.
    pub fn abandon(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::LEVEL;

    const NOW: Moment = Moment(1_000);

    fn check(from: u32, readers: &[u32], to: Option<u32>) {
        let readers = readers.iter().map(|level| Level::from(*level));
        assert_eq!(Raises::new(NOW).due(from.into(), readers, NOW), to.map(Level::from));
    }

    #[test]
    fn a_session_is_raised_to_what_everybody_understands_and_never_lowered() {
        check(1, &[2, 2, 3], Some(2));
        check(1, &[2, 1, 2], None);
        check(2, &[2, 2], None);
        check(3, &[2, 2], None);
        check(2, &[7, 5], Some(5));
        check(1, &[], None);
    }

    #[test]
    fn one_at_a_time_and_a_pause_after_one_that_failed() {
        let mut raises = Raises::new(NOW);
        let due = |raises: &Raises, now| raises.due(Level::FIRST, [LEVEL].into_iter(), now);
        let number = raises.begin();
        assert_eq!(due(&raises, NOW), None);
        raises.ended(number + 1, true, NOW);
        assert!(raises.under_way(), "another one's end counts for nothing");
        raises.ended(number, false, NOW);
        assert_eq!(due(&raises, NOW), None);
        assert_eq!(due(&raises, NOW.plus_ms(AGAIN_MS)), Some(LEVEL));
        raises.begin();
        raises.abandon();
        raises.ended(2, false, NOW.plus_ms(AGAIN_MS));
        assert_eq!(due(&raises, NOW.plus_ms(AGAIN_MS)), Some(LEVEL), "what was given up ends nothing");
    }
}
