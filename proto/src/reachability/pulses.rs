//! When a connection pulses: QUIC gives a way up over which nothing comes, at both ends. So a connection over which nothing
//! comes carries a packet a second and its acknowledgement. Both are signs of the host at the other end, and whoever
//! observes it needs no probe as long as they come.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::HostId;

/// Between two looks.
pub const LOOK_MS: u64 = 250;
/// Looks without anything that came, after which a connection may pulse.
const QUIET: u32 = 2;
/// Looks between two pulses: a second. Two are missed before a way counts as silent.
const APART: u32 = 4;

/// An open connection as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// With whom.
    pub host: HostId,
    /// Which one.
    pub connection: usize,
    /// How many frames came by it, each proved to be of that host.
    pub came: u64,
    /// Whether it is this host's to pulse: one end does.
    pub ours: bool,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// From these something came since the last one.
    pub heard: BTreeSet<HostId>,
    /// These connections pulse now.
    pub pulses: BTreeSet<usize>,
}

/// What is remembered of the connections.
#[derive(Clone, Debug, Default)]
pub struct Pulses(BTreeMap<usize, Rest>);

#[derive(Clone, Copy, Debug)]
struct Rest {
    came: u64,
    /// Looks since something came, and since it pulsed.
    quiet: u32,
    apart: u32,
}

impl Pulses {
    /// Looks at all open connections.
    pub fn look(&mut self, open: &[Line]) -> Look {
        let (before, mut look) = (std::mem::take(&mut self.0), Look::default());
        for Line { host, connection, came, ours } in open.iter().copied() {
            // Whoever has just met was heard by that.
            let old = before.get(&connection).copied().unwrap_or(Rest { came, quiet: 0, apart: 0 });
            let mut seen = Rest { came, quiet: old.quiet + 1, apart: old.apart + 1 };
            if came != old.came {
                seen.quiet = 0;
                look.heard.insert(host);
            }
            if ours && seen.quiet >= QUIET && seen.apart >= APART {
                seen.apart = 0;
                look.pulses.insert(connection);
            }
            self.0.insert(connection, seen);
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    /// Looks for ten seconds; `comes` says whether something comes after a look, given how long ago it pulsed. Gives at
    /// which looks it pulsed, and how often the host was heard.
    fn watch(ours: bool, mut comes: impl FnMut(u32, Option<u32>) -> bool) -> (Vec<u32>, usize) {
        let (mut pulses, mut came, mut heard, mut at) = (Pulses::default(), 7, 0, Vec::new());
        for number in 0..40 {
            let look = pulses.look(&[Line { host: HOST, connection: 3, came, ours }]);
            heard += look.heard.len();
            if look.pulses.contains(&3) {
                at.push(number);
            }
            came += u64::from(comes(number, at.last().map(|pulse| number - pulse)));
        }
        (at, heard)
    }

    #[test]
    fn a_connection_at_rest_pulses_once_a_second_and_is_heard_as_often_on_slow_ways_too() {
        for round_trip in [0, 1] {
            let (at, heard) = watch(true, |_, ago| ago == Some(round_trip));
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] == APART), "{at:?}");
            assert!((9..=10).contains(&at.len()) && (9..=10).contains(&heard), "{at:?} {heard}");
        }
    }

    #[test]
    fn it_does_not_pulse_where_something_comes_and_goes_on_where_nothing_does() {
        let (at, heard) = watch(true, |number, _| number % 2 == 0);
        assert!(at.is_empty() && heard > 15, "{at:?} {heard}");
        let (at, heard) = watch(true, |_, _| false);
        assert!((9..=10).contains(&at.len()) && heard == 0, "{at:?}");
        let (at, _) = watch(false, |_, _| false);
        assert!(at.is_empty(), "the other end does");
    }

    #[test]
    fn each_connection_has_its_own_and_one_that_is_closed_is_forgotten() {
        let mut pulses = Pulses::default();
        let open =
            |connection, came| Line { host: HostId([connection as u8; 32]), connection, came, ours: true };
        assert_eq!(pulses.look(&[open(1, 5), open(2, 5)]), Look::default());
        let look = pulses.look(&[open(1, 6), open(2, 5)]);
        assert_eq!(look.heard, BTreeSet::from([HostId([1; 32])]));
        pulses.look(&[open(1, 6)]);
        assert_eq!(
            pulses.look(&[open(1, 6), open(2, 9)]).heard,
            BTreeSet::new(),
            "another one of that number"
        );
    }
}
