//! Which hosts are held on a dead way. iroh selects one path per host for all connections. A
//! connection whose only path died keeps that path selected, and when it ends nothing selects again
//! while another connection (over a relay, say) lives: every new dial goes to the dead address. Only
//! when all connections to the host are closed does iroh forget, and the next dial finds the relay.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment};

/// As long as a path may be silent: five missed beats.
const DEAF_MS: u64 = 5_000;
/// A connection that beats every second was heard lately.
const HEARD_MS: u64 = 2_000;

/// What a connection's direct ways carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes sent that want to be acknowledged.
    pub sent: u64,
    /// Those of them that are known to be lost.
    pub lost: u64,
    /// Acknowledgements that came.
    pub acknowledged: u64,
}

/// One open connection as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Sounding {
    /// With whom.
    pub host: HostId,
    /// Which of the connections with that host.
    pub connection: usize,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub sent: u64,
    /// Whether it has a direct path.
    pub direct: bool,
    /// Whether it has a relayed one.
    pub relayed: bool,
    /// What its direct ways carried so far.
    pub carried: Carried,
}

/// Once this host's own address is another, a connection that is to live has heard something on its new way by then.
const STRANDED_MS: u64 = 1_500;
/// What comes in so soon after the move was under way before it.
const UNDER_WAY_MS: u64 = 400;

/// When each open connection last received anything.
#[derive(Debug, Default)]
pub struct Hearing {
    heard: BTreeMap<(HostId, usize), (Sounding, Moment)>,
    /// When this host lost an address.
    moved: Option<Moment>,
}

impl Hearing {
    /// Notes that this host lost an address: what went from there may be stranded.
    pub fn moved(&mut self, now: Moment) {
        self.moved = Some(now);
    }

    /// Gives the hosts of whom nothing was heard since the move, once.
    fn stranded(&mut self, now: Moment) -> BTreeSet<HostId> {
        let Some(moved) = self.moved.filter(|moved| now.since_ms(*moved) >= STRANDED_MS) else {
            return BTreeSet::new();
        };
        self.moved = None;
        let since = moved.plus_ms(UNDER_WAY_MS);
        let (fresh, old): (Vec<_>, Vec<_>) = self.heard.values().partition(|(_, heard)| *heard > since);
        let fresh: BTreeSet<HostId> = fresh.into_iter().map(|(sounding, _)| sounding.host).collect();
        let old = old.into_iter().map(|(sounding, _)| sounding.host);
        old.filter(|host| !fresh.contains(host)).collect()
    }

    /// Takes every open connection; gives the hosts whose connections must all be closed.
    pub fn note(&mut self, open: &[Sounding], now: Moment) -> BTreeSet<HostId> {
        let mut before = std::mem::take(&mut self.heard);
        for sounding in open {
            let key = (sounding.host, sounding.connection);
            let heard = match before.remove(&key) {
                Some((old, heard)) if old.received == sounding.received => heard,
                _ => now,
            };
            self.heard.insert(key, (*sounding, heard));
        }
        // What ended meanwhile still counts once: it may be what left the dead way behind.
        let all = || self.heard.values().chain(before.values());
        let deaf = all().filter(|(sounding, heard)| now.since_ms(*heard) >= DEAF_MS && !sounding.relayed);
        let held = deaf.map(|(sounding, _)| sounding.host).filter(|host| {
            let of_host = self.heard.values().filter(|(sounding, _)| sounding.host == *host);
            let mut live = of_host.filter(|(_, heard)| now.since_ms(*heard) <= HEARD_MS).peekable();
            live.peek().is_some() && live.all(|(sounding, _)| sounding.relayed && !sounding.direct)
        });
        let held: BTreeSet<HostId> = held.collect();
        held.into_iter().chain(self.stranded(now)).collect()
    }

    /// Tells for how long nothing was received from a host on any connection; `None` = there is none.
    pub fn silence_ms(&self, host: &HostId, now: Moment) -> Option<u64> {
        let of_host = self.heard.values().filter(|(sounding, _)| sounding.host == *host);
        of_host.map(|(_, heard)| now.since_ms(*heard)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    fn sounding(connection: usize, received: u64, way: &str) -> Sounding {
        let (direct, relayed) = (way == "direct", way == "relayed");
        Sounding { host: HOST, connection, received, sent: 0, direct, relayed, carried: Carried::default() }
    }

    #[test]
    fn a_host_heard_through_a_relay_alone_is_not_held_on_a_dead_direct_way() {
        let (mut hearing, start) = (Hearing::default(), Moment(1_000_000));
        let mut at =
            |second: u64, open: &[Sounding]| !hearing.note(open, start.plus_ms(second * 1000)).is_empty();
        for second in 0..5 {
            assert!(!at(second, &[sounding(1, second, "relayed"), sounding(2, 7, "direct")]));
        }
        assert!(at(5, &[sounding(1, 5, "relayed"), sounding(2, 7, "direct")]));
        assert!(at(6, &[sounding(1, 6, "relayed")]), "the deaf one has just ended");
        assert!(!at(7, &[sounding(1, 7, "relayed")]), "and is forgotten");
    }

    #[test]
    fn who_is_not_heard_after_a_move_is_stranded_once() {
        let (mut hearing, start) = (Hearing::default(), Moment(1_000_000));
        let other = |received| Sounding { host: HostId([2; 32]), ..sounding(2, received, "direct") };
        let quiet = sounding(1, 7, "direct");
        let at = |ms: u64| start.plus_ms(ms);
        assert!(hearing.note(&[quiet, other(1)], at(0)).is_empty());
        hearing.moved(at(1_000));
        // What was under way at the move comes in a moment later.
        assert!(hearing.note(&[sounding(1, 8, "direct"), other(2)], at(1_200)).is_empty());
        assert!(hearing.note(&[sounding(1, 8, "direct"), other(3)], at(2_000)).is_empty());
        let open = [sounding(1, 8, "direct"), other(3)];
        assert_eq!(hearing.note(&open, at(2_500)), BTreeSet::from([HOST]));
        assert!(hearing.note(&open, at(2_750)).is_empty(), "once");
    }

    #[test]
    fn a_restarted_host_and_one_that_is_gone_are_left_alone() {
        let (mut hearing, start) = (Hearing::default(), Moment(1_000_000));
        for second in 0..20 {
            let now = start.plus_ms(second * 1000);
            // The restarted one speaks directly on a new connection; the other says nothing at all.
            let gone = Sounding { host: HostId([2; 32]), ..sounding(3, 7, "direct") };
            let relayed = Sounding { connection: 4, relayed: true, direct: false, ..gone };
            let open = [sounding(1, second, "direct"), sounding(2, 7, "direct"), gone, relayed];
            assert!(hearing.note(&open, now).is_empty());
        }
    }
}
