//! Who may knock at a member's door, and when: it stands open to anybody, so that what one source and all together
//! may ask of it has bounds. A burst of a hundred hosts is within them; somebody who tries tokens is not.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use crate::time::Moment;

/// What is counted in.
const MINUTE_MS: u64 = 60_000;
/// Strangers that are served or wait in line.
pub const MAX_IN_LINE: usize = 128;
/// Knocks in a minute, of all together: a hundred hosts that boot, some times over.
const PER_MINUTE: usize = 1_200;
/// Proofs that do not hold and tokens that nobody knows, of one source in a minute.
const WRONG_PER_MINUTE: usize = 10;
/// Sources that are remembered; of more, the newcomers share one place.
const MAX_SOURCES: usize = 1_024;
/// What one stranger ahead in line takes, about.
const TURN_MS: u64 = 25;

/// Where a stranger comes from: what it cannot change at will.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An address; of IPv6 the network, in which a host takes any it likes.
    Network(IpAddr),
    /// A relay, by its URL: who comes through it shows no address.
    Relay(String),
    /// One of too many to be told apart.
    Other,
}

impl Source {
    /// Gives the source that an address is of.
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V6(v6) => Source::Network(IpAddr::V6((v6.to_bits() >> 64 << 64).into())),
            v4 => Source::Network(v4),
        }
    }
}

/// What a stranger that knocks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// It may come in, or stand in line.
    Enter,
    /// It may knock again after this time.
    Busy {
        /// How long that is.
        again_ms: u64,
    },
}

/// The door's memory.
#[derive(Clone, Debug, Default)]
pub struct Knocks {
    recent: VecDeque<Moment>,
    wrong: BTreeMap<Source, VecDeque<Moment>>,
}

impl Knocks {
    /// Takes a knock, with so many in line.
    pub fn knock(&mut self, source: &Source, in_line: usize, now: Moment) -> Knock {
        self.forget(now);
        let wrong = self.wrong.get(self.place(source)).filter(|times| times.len() >= WRONG_PER_MINUTE);
        let until = |first: Option<&Moment>| {
            first.map_or(MINUTE_MS, |first| MINUTE_MS.saturating_sub(now.since_ms(*first)).max(1))
        };
        if let Some(times) = wrong {
            return Knock::Busy { again_ms: until(times.front()) };
        }
        if self.recent.len() >= PER_MINUTE {
            return Knock::Busy { again_ms: until(self.recent.front()) };
        }
        if in_line >= MAX_IN_LINE {
            return Knock::Busy { again_ms: TURN_MS * MAX_IN_LINE as u64 / 2 };
        }
        self.recent.push_back(now);
        Knock::Enter
    }

    /// Notes that what a source showed does not hold.
    pub fn wrong(&mut self, source: &Source, now: Moment) {
        let place = self.place(source).clone();
        self.wrong.entry(place).or_default().push_back(now);
    }

    fn place<'a>(&self, source: &'a Source) -> &'a Source {
        let fits = self.wrong.contains_key(source) || self.wrong.len() < MAX_SOURCES;
        if fits { source } else { &Source::Other }
    }

    fn forget(&mut self, now: Moment) {
        let is_old = |at: &Moment| now.since_ms(*at) >= MINUTE_MS;
        self.recent.retain(|at| !is_old(at));
        self.wrong.retain(|_, times| {
            times.retain(|at| !is_old(at));
            !times.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_hundred_hosts_that_boot_at_once_all_may_stand_in_line() {
        let mut knocks = Knocks::default();
        for at in 0..100 {
            let now = Moment(u64::from(at) * 20);
            assert_eq!(knocks.knock(&source(at), usize::from(at), now), Knock::Enter);
        }
        let full = knocks.knock(&source(100), MAX_IN_LINE, Moment(2_000));
        assert!(matches!(full, Knock::Busy { again_ms: 500..10_000 }), "{full:?}");
    }

    #[test]
    fn a_source_tries_ten_tokens_a_minute_and_others_do_not_suffer() {
        let mut knocks = Knocks::default();
        let mut tried = 0;
        for second in 0..600 {
            let now = Moment(second * 1_000);
            if knocks.knock(&source(1), 0, now) == Knock::Enter {
                tried += 1;
                knocks.wrong(&source(1), now);
            }
            if second % 60 == 30 {
                assert_eq!(knocks.knock(&source(2), 0, now), Knock::Enter);
            }
        }
        assert_eq!(tried, 100, "ten minutes");
        let told = knocks.knock(&source(1), 0, Moment(599_500));
        assert!(matches!(told, Knock::Busy { again_ms } if again_ms <= MINUTE_MS), "{told:?}");
    }

    #[test]
    fn a_host_of_ipv6_is_one_source_whatever_addresses_it_takes() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::abcd:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
    }

    #[test]
    fn its_memory_has_an_end() {
        let mut knocks = Knocks::default();
        for at in 0..5_000_u32 {
            let network = Source::of(IpAddr::from(at.to_be_bytes()));
            knocks.knock(&network, 0, Moment(0));
            knocks.wrong(&network, Moment(0));
        }
        assert!(knocks.wrong.len() <= MAX_SOURCES + 1 && knocks.recent.len() <= PER_MINUTE);
        assert!(matches!(knocks.knock(&source(1), 0, Moment(1)), Knock::Busy { .. }));
        assert_eq!(knocks.knock(&source(1), 0, Moment(MINUTE_MS)), Knock::Enter);
        assert!(knocks.wrong.is_empty());
    }
}
