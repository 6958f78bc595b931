//! Which open connections to a host are dead although nobody has said so. A host dials only when it has no
//! connection; so when one comes in although there is one, the old one is what a crash left behind, and streams must
//! not be opened on it until it times out. Two hosts that dial each other at the same time keep both.

use std::collections::BTreeMap;

use crate::time::Moment;

/// Two hosts that dial each other at the same time do so within this time.
const SAME_TIME_MS: u64 = 3_000;

/// The open connections to each host.
#[derive(Clone, Debug)]
pub struct Open<H, C>(BTreeMap<H, Vec<(C, Moment)>>);

impl<H, C> Default for Open<H, C> {
    fn default() -> Open<H, C> {
        Open(BTreeMap::new())
    }
}

impl<H: Ord, C: Copy + PartialEq> Open<H, C> {
    /// Takes a new connection in, and gives those of the same host that are dead now.
    pub fn opened(&mut self, host: H, connection: C, inbound: bool, now: Moment) -> Vec<C> {
        let open = self.0.entry(host).or_default();
        let is_dead = |since: Moment| inbound && now.since_ms(since) > SAME_TIME_MS;
        let dead =
            open.iter().filter(|(_, since)| is_dead(*since)).map(|(connection, _)| *connection).collect();
        open.push((connection, now));
        dead
    }

    /// Forgets a connection that was closed.
    pub fn closed(&mut self, host: &H, connection: C) {
        let Some(open) = self.0.get_mut(host) else { return };
        open.retain(|(known, _)| *known != connection);
        if open.is_empty() {
            self.0.remove(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    #[test]
    fn a_host_that_dials_although_it_has_a_connection_has_lost_it() {
        let mut open = Open::default();
        assert_eq!(open.opened("nas", 1, false, NOW), []);
        let later = NOW.plus_ms(SAME_TIME_MS + 1);
        assert_eq!(open.opened("attic", 2, true, later), [], "of another host");
        assert_eq!(open.opened("nas", 3, true, later), [1]);
        open.closed(&"nas", 1);
        assert_eq!(open.opened("nas", 4, true, later.plus_ms(SAME_TIME_MS + 1)), [3]);
    }

    #[test]
    fn what_was_dialled_at_the_same_time_or_by_this_host_ends_nothing() {
        let mut open = Open::default();
        assert_eq!(open.opened("nas", 1, false, NOW), []);
        assert_eq!(open.opened("nas", 2, true, NOW.plus_ms(SAME_TIME_MS)), []);
        assert_eq!(open.opened("nas", 3, false, NOW.plus_ms(60_000)), []);
        for connection in 1..=3 {
            open.closed(&"nas", connection);
        }
        assert!(open.0.is_empty());
        open.closed(&"nas", 3);
    }
}
