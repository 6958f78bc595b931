//! Which direct ways carry small packets alone. The endpoint finds out by itself when a way became narrower, down to
//! the least that QUIC needs; below that all its packets but pings vanish, the way counts as alive, and nothing that
//! is said on it arrives. Suspected is a way on which much was sent and lost while something was heard; then a
//! question as long as a packet is asked. It makes that connection silent too, if the way is too narrow, and the
//! endpoint goes on through a relay where there is one. Only when no answer comes the connections start over, which
//! needs packets of full size, and so another way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::deaf::{Carried, Sounding};
use crate::{id::HostId, time::Moment};

/// How much of the past is looked at.
const WINDOW_MS: u64 = 1_000;
/// Less than a few full packets proves nothing.
const LEAST_SENT: u64 = 4 * 1_200;
/// A way that is as bad as that is worth a question.
const LOST_PERCENT: u64 = 50;
/// Between two questions to one host.
const AGAIN_MS: u64 = 5_000;
/// A way on which nothing was heard for so long is silent; that is for others to judge.
const HEARD_MS: u64 = 3_000;

/// Remembers the last moments of every connection.
#[derive(Debug, Default)]
pub struct Widths {
    past: BTreeMap<(HostId, usize), VecDeque<(Moment, Sounding)>>,
    asked: BTreeMap<HostId, Moment>,
    heard: BTreeMap<HostId, Moment>,
}

impl Widths {
    /// Takes every open connection; gives the hosts that are to be asked a long question.
    pub fn note(&mut self, open: &[Sounding], now: Moment) -> BTreeSet<HostId> {
        let mut before = std::mem::take(&mut self.past);
        for sounding in open {
            let last = before.get(&(sounding.host, sounding.connection)).and_then(VecDeque::back);
            if last.is_some_and(|(_, last)| last.received != sounding.received) {
                self.heard.insert(sounding.host, now);
            }
        }
        let mut suspected = BTreeSet::new();
        for sounding in open {
            let key = (sounding.host, sounding.connection);
            let mut past = before.remove(&key).unwrap_or_default();
            // One sample beyond the window is its beginning.
            while past.get(1).is_some_and(|(at, _)| now.since_ms(*at) >= WINDOW_MS) {
                past.pop_front();
            }
            let first = past.front().filter(|(at, _)| now.since_ms(*at) >= WINDOW_MS);
            // On this connection or another one: where much waits, even pings grow long.
            let heard = self.heard.get(&sounding.host).is_some_and(|at| now.since_ms(*at) < WINDOW_MS);
            if heard && sounding.direct && first.is_some_and(|(_, first)| is_losing(first, sounding)) {
                suspected.insert(sounding.host);
            }
            past.push_back((now, *sounding));
            self.past.insert(key, past);
        }
        let here = |host: &HostId| open.iter().any(|sounding| sounding.host == *host);
        self.heard.retain(|host, _| here(host));
        self.asked.retain(|_, at| now.since_ms(*at) < AGAIN_MS);
        suspected.retain(|host| !self.asked.contains_key(host));
        self.asked.extend(suspected.iter().map(|host| (*host, now)));
        suspected
    }

    /// Takes whether the long question was answered. Tells whether the direct way is too narrow.
    pub fn asked(&self, host: &HostId, answered: bool, now: Moment) -> bool {
        let heard = self.heard.get(host).is_some_and(|at| now.since_ms(*at) < HEARD_MS);
        let direct = self
            .past
            .iter()
            .any(|((of, _), past)| of == host && past.back().is_some_and(|(_, last)| last.direct));
        !answered && heard && direct
    }
}

/// Nothing at all is acknowledged where the pings are the other side's.
fn is_losing(first: &Sounding, now: &Sounding) -> bool {
    let of = |field: fn(&Carried) -> u64| field(&now.carried).saturating_sub(field(&first.carried));
    let (sent, lost) = (of(|carried| carried.sent), of(|carried| carried.lost));
    let unanswered = of(|carried| carried.acknowledged) == 0;
    sent >= LEAST_SENT && (unanswered || lost.saturating_mul(100) >= sent.saturating_mul(LOST_PERCENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAS: HostId = HostId([7; 32]);

    /// Plays a way that carries as much in each quarter of a second; gives when a question was asked.
    fn play(widths: &mut Widths, now: &mut Moment, each: (u64, u64, u64, u64), quarters: u64) -> Vec<u64> {
        let start = *now;
        let mut sounding = Sounding {
            host: NAS,
            connection: 1,
            received: 1,
            sent: 0,
            direct: true,
            relayed: false,
            carried: Carried::default(),
        };
        let mut asked = Vec::new();
        for _ in 0..quarters {
            let (sent, lost, acknowledged, received) = each;
            sounding.carried.sent += sent;
            sounding.carried.lost += lost;
            sounding.carried.acknowledged += acknowledged;
            sounding.received += received;
            if !widths.note(&[sounding], *now).is_empty() {
                asked.push(now.since_ms(start));
            }
            *now = now.plus_ms(250);
        }
        asked
    }

    #[test]
    fn a_way_that_loses_what_is_long_is_asked_within_a_second_and_then_not_all_the_time() {
        // Its own pings are answered, and tell what was lost; or those of the other side are all that passes.
        for each in [(2_400, 2_000, 1, 40), (2_400, 0, 0, 40)] {
            let (mut widths, mut now) = (Widths::default(), Moment(1_000_000));
            assert_eq!(play(&mut widths, &mut now, each, 30), [1_000, 6_000]);
            assert!(widths.asked(&NAS, false, now) && !widths.asked(&NAS, true, now));
        }
    }

    #[test]
    fn a_lossy_way_one_at_rest_and_one_that_is_silent_are_not_asked() {
        // A quarter is lost; only pings go; much is sent and nothing is heard.
        for each in [(12_000, 3_000, 3, 400), (60, 60, 0, 40), (12_000, 0, 0, 0)] {
            let (mut widths, mut now) = (Widths::default(), Moment(1_000_000));
            assert!(play(&mut widths, &mut now, each, 100).is_empty(), "{each:?}");
        }
    }

    #[test]
    fn a_host_that_became_silent_or_is_relayed_meanwhile_is_left_alone() {
        let (mut widths, mut now) = (Widths::default(), Moment(1_000_000));
        play(&mut widths, &mut now, (2_400, 0, 0, 40), 8);
        assert!(!widths.asked(&NAS, false, now.plus_ms(HEARD_MS)), "silence is another illness");
        let sounding = Sounding {
            host: NAS,
            connection: 1,
            received: 9_999,
            sent: 0,
            direct: false,
            relayed: true,
            carried: Carried::default(),
        };
        widths.note(&[sounding], now);
        assert!(!widths.asked(&NAS, false, now), "it has no direct way any more");
        widths.note(&[], now);
        assert!(widths.past.is_empty() && widths.heard.is_empty());
    }
}
