//! Pure: which claims of "this member is there" are looked into. Anybody on the LAN can make them, as fast as it likes.

use std::{collections::BTreeMap, net::IpAddr};

use proto::{id::HostId, time::Moment};

/// Between two looks at the same claim.
const GAP_MS: u64 = 1_000;
/// Claims that are remembered. More in one second are a flood, of which some are passed over.
const MAX_CLAIMS: usize = 256;

/// The claims that were looked into just now.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<(HostId, IpAddr), Moment>);

impl Claims {
    /// Tells whether this claim is looked into now. The port does not count: it would make one claim into many.
    pub(super) fn is_due(&mut self, host: HostId, ip: IpAddr, now: Moment) -> bool {
        if self.0.len() >= MAX_CLAIMS {
            self.0.retain(|_, at| now.since_ms(*at) < GAP_MS);
        }
        let is_known = self.0.contains_key(&(host, ip));
        if self.0.get(&(host, ip)).is_some_and(|at| now.since_ms(*at) < GAP_MS)
            || !is_known && self.0.len() >= MAX_CLAIMS
        {
            return false;
        }
        self.0.insert((host, ip), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    #[test]
    fn what_is_repeated_is_looked_into_once_a_second() {
        let (mut claims, start) = (Claims::default(), Moment(1_000_000));
        let (one, other) = (HostId([1; 32]), HostId([2; 32]));
        assert!(claims.is_due(one, ip(1), start));
        assert!((0..999).all(|ms| !claims.is_due(one, ip(1), start.plus_ms(ms))));
        assert!(claims.is_due(other, ip(1), start), "another member");
        assert!(claims.is_due(one, ip(2), start), "another place");
        assert!(claims.is_due(one, ip(1), start.plus_ms(GAP_MS)));
    }

    #[test]
    fn a_flood_costs_no_more_memory_and_is_over_when_it_ends() {
        let (mut claims, start) = (Claims::default(), Moment(1_000_000));
        let due = (0..10_000).filter(|number| claims.is_due(HostId([1; 32]), ip(*number), start));
        assert_eq!(due.count(), MAX_CLAIMS);
        assert!(claims.0.len() <= MAX_CLAIMS);
        assert!(claims.is_due(HostId([2; 32]), ip(1), start.plus_ms(GAP_MS)));
    }
}
