//! Which relays are asked for this host's own address. Each question costs a handshake of some 6 kB, and is asked again
//! every 20 to 26 s (github.com/n0-computer/iroh/issues/4523). So once nothing has changed for a while the home relay
//! alone is asked. All are again when it is the home no more, when the network is another one, and when this host has
//! lost an address since: address discovery may be filtered where the relay is not.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::time::Moment;

/// So long after the last change all relays are asked: a router that gives each of them another address is found by
/// that, and whoever waits for a way is served first.
const SETTLES_MS: u64 = 20_000;
/// A home relay by whose word alone an address was lost is not asked alone for so long.
const DISTRUST_MS: u64 = 30 * 60_000;

/// Who is asked. `R` names a relay.
#[derive(Clone, Debug)]
pub struct Discovery<R> {
    /// When something changed.
    changed: Moment,
    /// The one that alone is asked, with the addresses that this host had then.
    rests: Option<(R, BTreeSet<SocketAddr>)>,
    /// When an address was lost by that.
    distrusted: Option<Moment>,
}

impl<R: Clone + PartialEq> Discovery<R> {
    /// All are asked.
    pub fn new(now: Moment) -> Discovery<R> {
        Discovery { changed: now, rests: None, distrusted: None }
    }

    /// Notes that the relays are others, or this host's network.
    pub fn changed(&mut self, now: Moment) {
        self.changed = now;
    }

    /// Tells whether a relay is asked.
    pub fn asks(&self, relay: &R) -> bool {
        self.rests.as_ref().is_none_or(|(rests, _)| rests == relay)
    }

    /// Looks at the home relay that is connected, if it is one that can be asked, and at the addresses that this host
    /// has now. Tells whether others are asked from now on.
    pub fn look(&mut self, home: Option<R>, seen: BTreeSet<SocketAddr>, now: Moment) -> bool {
        if home.is_none() {
            self.changed = now;
        }
        if self.rests.as_ref().is_some_and(|(_, had)| !had.is_subset(&seen)) {
            (self.distrusted, self.changed) = (Some(now), now);
        }
        let trusts = self.distrusted.is_none_or(|at| now.since_ms(at) >= DISTRUST_MS);
        let rests = home.filter(|_| trusts && now.since_ms(self.changed) >= SETTLES_MS);
        let before = self.rests.as_ref().map(|(rests, _)| rests);
        let is_other = before != rests.as_ref();
        if is_other {
            self.rests = rests.map(|rests| (rests, seen));
        }
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn seen(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// One that rests on `vps`; and when it is.
    fn resting(addresses: &[&str]) -> (Discovery<&'static str>, Moment) {
        let mut discovery = Discovery::new(NOW);
        let settled = NOW.plus_ms(SETTLES_MS);
        assert!(!discovery.look(Some("vps"), seen(addresses), NOW.plus_ms(SETTLES_MS - 1)));
        assert!(discovery.asks(&"nas"), "all are");
        assert!(discovery.look(Some("vps"), seen(addresses), settled));
        assert!(discovery.asks(&"vps") && !discovery.asks(&"nas"));
        (discovery, settled)
    }

    #[test]
    fn the_home_relay_alone_is_asked_once_nothing_changes_any_more() {
        let (mut discovery, now) = resting(&["192.0.2.1:7440"]);
        assert!(!discovery.look(Some("vps"), seen(&["192.0.2.1:7440", "192.0.2.2:7440"]), now), "one more");
        discovery.changed(now);
        assert!(discovery.look(Some("vps"), seen(&["192.0.2.1:7440"]), now) && discovery.asks(&"nas"));
        assert!(discovery.look(Some("vps"), seen(&["192.0.2.1:7440"]), now.plus_ms(SETTLES_MS)));
    }

    #[test]
    fn all_are_asked_while_there_is_no_home_and_for_a_while_after() {
        let (mut discovery, now) = resting(&[]);
        assert!(discovery.look(None, seen(&[]), now) && discovery.asks(&"nas"));
        let back = now.plus_ms(60_000);
        discovery.look(None, seen(&[]), back);
        assert!(!discovery.look(Some("nas"), seen(&[]), back.plus_ms(SETTLES_MS - 1)));
        assert!(discovery.look(Some("nas"), seen(&[]), back.plus_ms(SETTLES_MS)));
        assert!(discovery.asks(&"nas") && !discovery.asks(&"vps"));
    }

    #[test]
    fn a_home_by_which_an_address_is_lost_is_not_asked_alone_again_for_long() {
        let (mut discovery, now) = resting(&["192.0.2.1:7440", "203.0.113.9:31111"]);
        let left = || seen(&["192.0.2.1:7440"]);
        assert!(discovery.look(Some("vps"), left(), now) && discovery.asks(&"nas"));
        assert!(!discovery.look(Some("vps"), left(), now.plus_ms(DISTRUST_MS - 1)));
        assert!(discovery.look(Some("vps"), left(), now.plus_ms(DISTRUST_MS)));
    }
}
