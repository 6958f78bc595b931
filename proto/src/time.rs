//! Two kinds of time, as values. A [`Moment`] decides; a [`Timestamp`] is for people, certificates and
//! records. They do not convert: a wall clock may jump, and nothing that waits may jump with it.
//! Nothing here reads a clock: `now` is always handed in.

use std::{fmt, time::Duration};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A point on `CLOCK_BOOTTIME` of one boot of one host, in milliseconds since that boot: it counts through
/// sleep, and nobody can set it. It is not serialisable: on another host, or after a boot, it means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Gives the moment `millis` later.
    pub fn plus_ms(self, millis: u64) -> Moment {
        Moment(self.0.saturating_add(millis))
    }

    /// Gives the milliseconds from `earlier` to this moment, 0 if it is not earlier.
    pub fn since_ms(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Gives the time from `earlier` to this moment, none if it is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.since_ms(earlier))
    }
}

/// A [`Moment`] that outlives its process, written down with the boot that it is of. In another boot it says
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BootMoment {
    #[n(0)]
    boot: String,
    #[n(1)]
    millis: u64,
}

impl BootMoment {
    /// Binds a moment to the boot that it is of, by the id that the kernel gives.
    pub fn of(boot: &str, at: Moment) -> BootMoment {
        BootMoment { boot: boot.to_owned(), millis: at.0 }
    }

    /// Gives the moment to whom is in the same boot.
    pub fn within(&self, boot: &str) -> Option<Moment> {
        (self.boot == boot).then_some(Moment(self.millis))
    }
}

/// A point of wall time, in milliseconds since 1970-01-01 UTC. Shown as RFC 3339.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] pub u64);

impl Timestamp {
    /// Gives the time `millis` later.
    pub fn plus_ms(self, millis: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(millis))
    }

    /// Gives the milliseconds from `earlier` to this time, 0 if it is not earlier.
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with milliseconds. The calendar is Howard Hinnant's
    /// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, in_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_was_written_down_counts_in_its_own_boot_only() {
        let noted = BootMoment::of("a", Moment(7));
        assert_eq!(noted.within("a"), Some(Moment(7)));
        assert_eq!(noted.within("b"), None);
    }

    #[test]
    fn timestamps_are_shown_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_132_799_999, "2026-11-19T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(Timestamp(millis).to_string(), text);
        }
    }
}
