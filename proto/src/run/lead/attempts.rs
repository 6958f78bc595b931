//! Entries of one kind that the coordinator writes by itself: one at a time, and a pause after one that failed.

use crate::time::Moment;

/// Pause after an entry that was not written: as long as a quorum may take to come back.
const AGAIN_MS: u64 = 5_000;

/// Whether one is on its way.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    number: u64,
    under_way: bool,
    not_before: Moment,
}

impl Attempts {
    /// None yet.
    pub fn new(now: Moment) -> Attempts {
        Attempts { number: 0, under_way: false, not_before: now }
    }

    /// Tells whether an entry is on its way.
    pub fn under_way(&self) -> bool {
        self.under_way
    }

    /// Tells whether one may be written now.
    pub fn may_begin(&self, now: Moment) -> bool {
        !self.under_way && now >= self.not_before
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

    const NOW: Moment = Moment(1_000);

    #[test]
    fn one_at_a_time_and_a_pause_after_one_that_failed() {
        let mut attempts = Attempts::new(NOW);
        let number = attempts.begin();
        assert!(!attempts.may_begin(NOW));
        attempts.ended(number + 1, true, NOW);
        assert!(attempts.under_way(), "another one's end counts for nothing");
        attempts.ended(number, false, NOW);
        assert!(!attempts.may_begin(NOW));
        assert!(attempts.may_begin(NOW.plus_ms(AGAIN_MS)));
        attempts.begin();
        attempts.abandon();
        attempts.ended(2, false, NOW.plus_ms(AGAIN_MS));
        assert!(attempts.may_begin(NOW.plus_ms(AGAIN_MS)), "what was given up ends nothing");
    }
}
