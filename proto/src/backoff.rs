//! How long to wait after failures in a row: the pause doubles with each, up to a bound. One rule for all
//! who try again; what counts as a failure, and when the count begins anew, is theirs.

use std::time::Duration;

/// A pause that doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    first_ms: u64,
    last_ms: u64,
}

impl BackOff {
    /// Begins with one pause and never exceeds the other.
    pub const fn new(first_ms: u64, last_ms: u64) -> BackOff {
        BackOff { first_ms, last_ms }
    }

    /// Gives the pause after so many failures in a row; none after none.
    pub fn after_ms(self, failures: u32) -> u64 {
        match failures.checked_sub(1) {
            None => 0,
            Some(doublings) => self.first_ms.saturating_mul(1 << doublings.min(32)).min(self.last_ms),
        }
    }

    /// Gives the same as a span of time.
    pub fn after(self, failures: u32) -> Duration {
        Duration::from_millis(self.after_ms(failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_to_its_bound_and_there_is_none_after_no_failure() {
        let pauses = BackOff::new(500, 3_000);
        assert_eq!(
            [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| pauses.after_ms(n)),
            [0, 500, 1_000, 2_000, 3_000, 3_000, 3_000]
        );
        assert_eq!(BackOff::new(u64::MAX, u64::MAX).after(9), Duration::from_millis(u64::MAX));
    }
}
