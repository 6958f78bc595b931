//! Whom to dial now, so that every two members stay connected. Of two hosts the one with the
//! smaller id dials first, the other only when nothing came of it; failures back off. A host that
//! has just started dials everybody: nobody else can know that it is back, or where.

use std::collections::{BTreeMap, BTreeSet};

use crate::{backoff::BackOff, id::HostId, time::Moment};

/// How long the host with the larger id leaves the dialling to the other.
const COURTESY_MS: u64 = 1_500;
/// How long a host counts as just started.
const START_MS: u64 = 2_000;
/// A way that died is forgotten by iroh only when nothing uses it any more; then a dial finds another.
const PAUSE_MS: u64 = 1_000;
/// A connection that ended sooner was not one: the other side refused us.
const SETTLED_MS: u64 = 10_000;
/// Before a dial that came to nothing is repeated.
const RETRY: BackOff = BackOff::new(1_000, 15_000);
/// Beyond this the mesh is no longer full, and connections are made when needed.
const MAX_CONNECTED: usize = 64;

/// Remembers who is missing.
#[derive(Debug)]
pub struct Dialer {
    me: HostId,
    started: Moment,
    missing: BTreeMap<HostId, Missing>,
    since: BTreeMap<HostId, Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    next: Moment,
    tries: u32,
}

impl Dialer {
    /// Begins with nobody missing.
    pub fn new(me: HostId, now: Moment) -> Dialer {
        Dialer { me, started: now, missing: BTreeMap::new(), since: BTreeMap::new() }
    }

    /// Notes which members have a known address and who is connected, and gives whom to dial.
    pub fn due(
        &mut self,
        known: &BTreeSet<HostId>,
        connected: &BTreeSet<HostId>,
        now: Moment,
    ) -> Vec<HostId> {
        self.note_connected(connected, now);
        self.missing.retain(|host, _| known.contains(host) || connected.contains(host));
        let mut due = Vec::new();
        for host in known.iter().filter(|host| **host != self.me && !connected.contains(*host)) {
            let lost = self.since.remove(host);
            let first = self.me < *host || now.since_ms(self.started) < START_MS;
            let courtesy = if first { 0 } else { COURTESY_MS };
            let fresh = Missing { next: now.plus_ms(courtesy), tries: 0 };
            let missing = self.missing.entry(*host).or_insert(fresh);
            match lost {
                Some(since) if now.since_ms(since) >= SETTLED_MS => {
                    *missing = Missing { next: now.plus_ms(PAUSE_MS + courtesy), tries: 0 }
                }
                Some(_) => missing.next = missing.next.max(now.plus_ms(PAUSE_MS)),
                None => {}
            }
            if missing.next <= now && connected.len() + due.len() < MAX_CONNECTED {
                missing.tries += 1;
                missing.next = now.plus_ms(RETRY.after_ms(missing.tries));
                due.push(*host);
            }
        }
        due
    }

    /// This host has another address: nobody else can know where it is, so it dials everybody, as at its start.
    pub fn moved(&mut self, now: Moment) {
        // Connections that are stranded end a moment later; the same holds for them.
        self.started = now.plus_ms(START_MS);
        self.missing.clear();
    }

    /// Forgets failures: something changed that may have caused them.
    pub fn retry(&mut self, host: &HostId, now: Moment) {
        if let Some(missing) = self.missing.get_mut(host).filter(|missing| missing.tries > 1) {
            *missing = Missing { next: now, tries: 0 };
        }
    }

    fn note_connected(&mut self, connected: &BTreeSet<HostId>, now: Moment) {
        for host in connected {
            let since = *self.since.entry(*host).or_insert(now);
            if now.since_ms(since) >= SETTLED_MS {
                self.missing.remove(host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(byte: u8) -> HostId {
        HostId([byte; 32])
    }

    fn set(hosts: &[u8]) -> BTreeSet<HostId> {
        hosts.iter().map(|byte| host(*byte)).collect()
    }

    #[test]
    fn the_smaller_id_dials_first_and_the_larger_when_nothing_came_of_it() {
        let start = Moment(1_000_000);
        let mut middle = Dialer::new(host(2), Moment(start.0 - START_MS));
        assert_eq!(middle.due(&set(&[1, 2, 3]), &set(&[]), start), [host(3)]);
        assert_eq!(middle.due(&set(&[1, 2, 3]), &set(&[3]), start.plus_ms(COURTESY_MS)), [host(1)]);
    }

    #[test]
    fn a_host_that_has_moved_dials_everybody_at_once() {
        let start = Moment(1_000_000);
        let mut last = Dialer::new(host(9), Moment(start.0 - 60_000));
        assert_eq!(last.due(&set(&[1]), &set(&[]), start), [], "the other one dials");
        last.moved(start);
        assert_eq!(last.due(&set(&[1]), &set(&[]), start.plus_ms(1_900)), [host(1)]);
        assert_eq!(last.due(&set(&[1, 2]), &set(&[]), start.plus_ms(2 * START_MS)), [host(1)]);
    }

    #[test]
    fn a_host_that_has_just_started_dials_everybody() {
        let start = Moment(1_000_000);
        let mut largest = Dialer::new(host(9), start);
        assert_eq!(largest.due(&set(&[1, 2, 9]), &set(&[]), start), [host(1), host(2)]);
    }

    #[test]
    fn failures_back_off_to_a_bound() {
        let (mut now, mut dialer) = (Moment(1_000_000), Dialer::new(host(1), Moment(1_000_000)));
        let mut dials = 0;
        for _ in 0..600 {
            dials += dialer.due(&set(&[1, 2]), &set(&[]), now).len();
            now = now.plus_ms(100);
        }
        assert_eq!(dials, 7); // at 0, 1, 3, 7, 15, 30, 45 s
    }

    #[test]
    fn a_connection_that_is_refused_at_once_does_not_reset_the_back_off() {
        let (mut now, mut dialer) = (Moment(1_000_000), Dialer::new(host(1), Moment(1_000_000)));
        let mut dials = 0;
        for _ in 0..300 {
            if !dialer.due(&set(&[1, 2]), &set(&[]), now).is_empty() {
                dials += 1;
                dialer.due(&set(&[1, 2]), &set(&[2]), now);
            }
            now = now.plus_ms(100);
        }
        assert_eq!(dials, 5); // at 0, 1, 3, 7, 15 s
    }

    #[test]
    fn a_lost_connection_is_dialled_again_after_a_pause() {
        let (start, mut dialer) = (Moment(1_000_000), Dialer::new(host(1), Moment(1_000_000)));
        dialer.due(&set(&[1, 2]), &set(&[2]), start);
        let lost = start.plus_ms(60_000);
        assert!(dialer.due(&set(&[1, 2]), &set(&[]), lost).is_empty());
        assert_eq!(dialer.due(&set(&[1, 2]), &set(&[]), lost.plus_ms(PAUSE_MS)), [host(2)]);
    }
}
