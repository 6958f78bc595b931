//! To whom a coordinator sends a share now. A member that took the version is left alone; one that did
//! not is asked again after a pause that grows, so that a member which refuses is no storm.

use std::collections::{BTreeMap, BTreeSet};

use crate::{backoff::BackOff, id::HostId, time::Moment};

/// Shares under way at once: each is whole, and a home's uplink carries few.
const MAX_UNDER_WAY: usize = 32;
/// Pauses after shares that were not taken. The last one is long: a member that came back pulls by itself
/// long before.
const PAUSES: BackOff = BackOff::new(500, 30_000);

/// What a leader knows of its members' shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    /// The version that each member has acknowledged to this leader.
    taken: BTreeMap<HostId, u64>,
    under_way: BTreeSet<HostId>,
    /// How often in a row a member did not take its share, and when it is asked again.
    failed: BTreeMap<HostId, (u32, Moment)>,
}

impl Deliveries {
    /// Lists the members to send this version to, as many as may be under way.
    pub fn due(&self, up: impl Iterator<Item = HostId>, version: u64, now: Moment) -> Vec<HostId> {
        let free = MAX_UNDER_WAY.saturating_sub(self.under_way.len());
        let waits = |host: &HostId| self.failed.get(host).is_some_and(|(_, again)| now < *again);
        up.filter(|host| !self.has(*host, version) && !self.under_way.contains(host) && !waits(host))
            .take(free)
            .collect()
    }

    /// Notes that a share is on its way.
    pub fn begun(&mut self, to: HostId) {
        self.under_way.insert(to);
    }

    /// Notes how it ended: the version that the member has now, or that it took none.
    pub fn ended(&mut self, host: HostId, taken: Option<u64>, now: Moment) {
        self.under_way.remove(&host);
        match taken {
            Some(version) => {
                self.failed.remove(&host);
                self.taken.insert(host, version);
            }
            None => {
                let times = self.failed.get(&host).map_or(0, |(times, _)| *times);
                let pause = PAUSES.after_ms(times.saturating_add(1));
                self.failed.insert(host, (times.saturating_add(1), now.plus_ms(pause)));
            }
        }
    }

    /// Tells whether a member has this version or a newer one.
    pub fn has(&self, host: HostId, version: u64) -> bool {
        self.taken.get(&host).is_some_and(|taken| *taken >= version)
    }

    /// Gives the next moment after `now` at which a member may be asked again.
    pub fn next(&self, now: Moment) -> Option<Moment> {
        self.failed.values().map(|(_, again)| *again).filter(|again| *again > now).min()
    }

    /// Forgets what members have: another host leads now.
    pub fn forget(&mut self) {
        self.taken.clear();
        self.failed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> HostId {
        HostId([number; 32])
    }

    #[test]
    fn a_member_gets_each_version_once() {
        let (mut shares, now) = (Deliveries::default(), Moment(7));
        assert_eq!(shares.due([host(1), host(2)].into_iter(), 1, now), [host(1), host(2)]);
        shares.begun(host(1));
        assert_eq!(shares.due([host(1), host(2)].into_iter(), 2, now), [host(2)], "one at a time");
        shares.ended(host(1), Some(1), now);
        assert_eq!(shares.due([host(1)].into_iter(), 1, now), []);
        assert_eq!(shares.due([host(1)].into_iter(), 2, now), [host(1)]);
        assert!(shares.has(host(1), 1) && !shares.has(host(1), 2) && !shares.has(host(2), 0));
        shares.forget();
        assert_eq!(shares.due([host(1)].into_iter(), 1, now), [host(1)]);
    }

    #[test]
    fn a_member_that_refuses_is_asked_less_and_less_often() {
        let (mut shares, mut now) = (Deliveries::default(), Moment(7));
        for pause in [1, 2, 3].map(|failures| PAUSES.after_ms(failures)) {
            shares.begun(host(1));
            shares.ended(host(1), None, now);
            assert_eq!(shares.due([host(1)].into_iter(), 1, now.plus_ms(pause / 2)), []);
            assert_eq!(shares.next(now), Some(now.plus_ms(pause)));
            now = now.plus_ms(pause);
            assert_eq!(shares.due([host(1)].into_iter(), 1, now), [host(1)]);
        }
        for _ in 0..40 {
            shares.begun(host(1));
            shares.ended(host(1), None, now);
        }
        assert_eq!(shares.due([host(1)].into_iter(), 1, now.plus_ms(PAUSES.after_ms(u32::MAX))), [host(1)]);
    }

    #[test]
    fn a_large_mesh_is_served_in_turns() {
        let mut shares = Deliveries::default();
        let all = || (0..200).map(host);
        let first = shares.due(all(), 1, Moment(7));
        assert_eq!(first.len(), MAX_UNDER_WAY);
        first.iter().for_each(|to| shares.begun(*to));
        assert_eq!(shares.due(all(), 1, Moment(7)), []);
    }
}
