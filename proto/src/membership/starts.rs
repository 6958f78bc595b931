//! Which start of a host is believed. A host has one start at a time, and the newest counts. A copy of its
//! directory makes a second one, newer or not, for a while; what that one said must not outlive it. So of
//! the starts that are heard the newest counts, and one that fell silent while another is heard is over. The host's own
//! word says that a start runs now; what others say of it is older than that.
//! Only starts that the host has signed come here.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment};

/// After a restart a host says again what holds; what it does not repeat in this time is over.
const REPEAT_MS: u64 = 60_000;
/// A start that was heard so much earlier than another gives way to that: three times what a loaded host is silent.
const SILENT_MS: u64 = 15_000;
/// How old it may be what others say of a start: gossip calls a dead one live for about as long, and a new one not yet.
const HEARSAY_MS: u64 = 90_000;
/// Starts of one host that are known at a time; a host that restarts all the time is known by its newest.
const MAX_STARTS: usize = 4;

/// The starts of every host.
#[derive(Clone, Debug, Default)]
pub struct Starts(BTreeMap<HostId, BTreeMap<u64, Start>>);

#[derive(Clone, Copy, Debug)]
struct Start {
    first: Moment,
    /// When it was last heard; at first, when it was first known.
    heard: Moment,
}

impl Starts {
    /// Notes that a host has signed something in this start. Tells whether the start counts among those that
    /// are remembered.
    pub fn signed(&mut self, host: HostId, generation: u64, now: Moment) -> bool {
        let starts = self.0.entry(host).or_default();
        starts.entry(generation).or_insert(Start { first: now, heard: now });
        while starts.len() > MAX_STARTS {
            // The one that was silent the longest, and of these the oldest.
            let least = starts.iter().min_by_key(|(generation, start)| (start.heard, **generation));
            let Some(least) = least.map(|(generation, _)| *generation) else { break };
            starts.remove(&least);
        }
        starts.contains_key(&generation)
    }

    /// Notes that the host itself spoke in this start.
    pub fn spoke(&mut self, host: HostId, generation: u64, now: Moment) {
        if let Some(start) = self.0.get_mut(&host).and_then(|starts| starts.get_mut(&generation)) {
            start.heard = start.heard.max(now);
        }
    }

    /// Notes which starts others call live, and forgets those that nobody holds any more.
    pub fn look(&mut self, live: &BTreeSet<(HostId, u64)>, held: &BTreeSet<(HostId, u64)>, now: Moment) {
        let told = Moment(now.0.saturating_sub(HEARSAY_MS));
        for (host, starts) in &mut self.0 {
            for (generation, start) in starts.iter_mut() {
                if live.contains(&(*host, *generation)) {
                    start.heard = start.heard.max(told);
                }
            }
            let believed = believed(starts);
            starts.retain(|generation, _| {
                Some(*generation) == believed || held.contains(&(*host, *generation))
            });
        }
    }

    /// Forgets who is no member.
    pub fn keep(&mut self, is_member: impl Fn(&HostId) -> bool) {
        self.0.retain(|host, _| is_member(host));
    }

    /// Tells whether a start is remembered.
    pub fn knows(&self, host: HostId, generation: u64) -> bool {
        self.0.get(&host).is_some_and(|starts| starts.contains_key(&generation))
    }

    /// Gives the starts that hold: what a host said in one of them is true unless a newer of them says otherwise.
    pub fn holding(&self, now: Moment) -> BTreeSet<(HostId, u64)> {
        let mut holding = BTreeSet::new();
        for (host, starts) in &self.0 {
            let Some(newest) = believed(starts) else { continue };
            let repeated = starts.get(&newest).is_some_and(|start| now.since_ms(start.first) > REPEAT_MS);
            let older = starts.keys().filter(|generation| **generation < newest && !repeated);
            holding.extend(older.map(|generation| (*host, *generation)));
            holding.insert((*host, newest));
        }
        holding
    }
}

/// Chooses the newest of the starts that were heard about as late as any.
fn believed(starts: &BTreeMap<u64, Start>) -> Option<u64> {
    let last = starts.values().map(|start| start.heard).max()?;
    let mut newest_first = starts.iter().rev();
    newest_first.find(|(_, start)| last.since_ms(start.heard) <= SILENT_MS).map(|(generation, _)| *generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    fn set(generations: &[u64]) -> BTreeSet<(HostId, u64)> {
        generations.iter().map(|generation| (HOST, *generation)).collect()
    }

    #[test]
    fn after_a_restart_the_old_start_holds_until_all_is_repeated() {
        let mut starts = Starts::default();
        starts.signed(HOST, 5, Moment(0));
        starts.signed(HOST, 9, Moment(1000));
        assert!(
            starts.holding(Moment(2000)).contains(&(HOST, 5))
                && starts.holding(Moment(2000)).contains(&(HOST, 9))
        );
        starts.look(&set(&[9]), &set(&[5, 9]), Moment(61_001));
        assert!(
            !starts.holding(Moment(61_001)).contains(&(HOST, 5))
                && starts.holding(Moment(61_001)).contains(&(HOST, 9))
        );
    }

    #[test]
    fn what_a_copy_said_is_over_soon_after_the_host_itself_is_heard_again() {
        let mut starts = Starts::default();
        starts.signed(HOST, 5, Moment(0));
        starts.signed(HOST, 9, Moment(0));
        for second in 0..200 {
            let now = Moment(second * 1000);
            let copy_lives = second < 100;
            starts.spoke(HOST, if copy_lives { 9 } else { 5 }, now);
            // Others call it live for a while.
            starts.look(&set(&[5, 9]), &set(&[5, 9]), now);
            let over = second > 99 + SILENT_MS / 1000;
            assert_eq!(starts.holding(now).contains(&(HOST, 9)), !over, "at {second} s");
            assert_eq!(starts.holding(now).contains(&(HOST, 5)), second <= 60 || over);
        }
    }

    #[test]
    fn a_new_start_that_others_do_not_call_live_yet_counts() {
        let mut starts = Starts::default();
        starts.signed(HOST, 5, Moment(0));
        starts.signed(HOST, 9, Moment(1000));
        for second in 0..300 {
            let now = Moment(second * 1000);
            // The old one looks alive for 80 s, the new one after 60 s.
            let live: &[u64] = match second {
                0..60 => &[5],
                60..80 => &[5, 9],
                _ => &[9],
            };
            starts.look(&set(live), &set(&[5, 9]), now);
            assert!(starts.holding(now).contains(&(HOST, 9)), "at {second} s");
        }
        assert!(!starts.holding(Moment(300_000)).contains(&(HOST, 5)));
    }

    #[test]
    fn a_host_that_is_gone_is_remembered_by_its_newest_start() {
        let mut starts = Starts::default();
        starts.signed(HOST, 5, Moment(0));
        starts.signed(HOST, 9, Moment(0));
        starts.look(&set(&[]), &set(&[]), Moment(600_000));
        assert!(
            starts.holding(Moment(600_000)).contains(&(HOST, 9))
                && !starts.holding(Moment(600_000)).contains(&(HOST, 5))
        );
        // It comes back with a clock that is behind, after everybody else forgot the newer start.
        starts.signed(HOST, 6, Moment(700_000));
        starts.spoke(HOST, 6, Moment(700_200));
        starts.look(&set(&[6]), &set(&[6]), Moment(700_200));
        assert!(
            starts.holding(Moment(700_200)).contains(&(HOST, 6))
                && !starts.holding(Moment(700_200)).contains(&(HOST, 9))
        );
        starts.keep(|_| false);
        assert!(!starts.holding(Moment(700_200)).contains(&(HOST, 6)));
    }

    #[test]
    fn many_starts_are_bounded_and_the_one_that_is_heard_stays() {
        let mut starts = Starts::default();
        for generation in 1..1000 {
            let now = Moment(generation * 20_000);
            starts.signed(HOST, generation, now);
            starts.spoke(HOST, 1, now);
            starts.look(&set(&[1]), &set(&[1, generation]), now);
            assert!(starts.0[&HOST].len() <= MAX_STARTS && starts.0[&HOST].contains_key(&1));
        }
    }
}
