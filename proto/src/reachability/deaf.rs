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

/// One open connection as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Sounding {
    /// With whom.
    pub host: HostId,
    /// Which of the connections with that host.
    pub connection: usize,
    /// Bytes received so far.
    pub received: u64,
    /// Whether it has a direct path.
    pub direct: bool,
    /// Whether it has a relayed one.
    pub relayed: bool,
}

/// When each open connection last received anything.
#[derive(Debug, Default)]
pub struct Hearing(BTreeMap<(HostId, usize), (Sounding, Moment)>);

impl Hearing {
    /// Takes every open connection; gives the hosts whose connections must all be closed.
    pub fn note(&mut self, open: &[Sounding], now: Moment) -> BTreeSet<HostId> {
        let mut before = std::mem::take(&mut self.0);
        for sounding in open {
            let key = (sounding.host, sounding.connection);
            let heard = match before.remove(&key) {
                Some((old, heard)) if old.received == sounding.received => heard,
                _ => now,
            };
            self.0.insert(key, (*sounding, heard));
        }
        // What ended meanwhile still counts once: it may be what left the dead way behind.
        let all = || self.0.values().chain(before.values());
        let deaf = all().filter(|(sounding, heard)| now.since_ms(*heard) >= DEAF_MS && !sounding.relayed);
        let held = deaf.map(|(sounding, _)| sounding.host).filter(|host| {
            let of_host = self.0.values().filter(|(sounding, _)| sounding.host == *host);
            let mut live = of_host.filter(|(_, heard)| now.since_ms(*heard) <= HEARD_MS).peekable();
            live.peek().is_some() && live.all(|(sounding, _)| sounding.relayed && !sounding.direct)
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    fn sounding(connection: usize, received: u64, way: &str) -> Sounding {
        Sounding { host: HOST, connection, received, direct: way == "direct", relayed: way == "relayed" }
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
