//! A change of voters, from the wish to the new set of logs. Each wanted host is asked for the node id of
//! its log: a new voter's is new, and a voter that is up with another log than it voted with lost the old
//! one and is taken as a new one. One that does not answer keeps its place; a new one that does not answer
//! ends the change.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment};

/// Pause after a change that failed: the host that was to come needs as long to come back.
const AGAIN_MS: u64 = 5_000;
/// How often the voters are asked whether they still have the log they vote with. One that lost it is
/// up, and no silence would ever replace it.
const VERIFY_MS: u64 = 40_000;
/// A change that is not over after this time never will be: whoever carries it out waits less for each step.
const OVER_MS: u64 = 90_000;

/// What is to be done for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask these hosts for the node ids of their logs.
    Ask(BTreeSet<HostId>),
    /// Make these the voters.
    Set(BTreeMap<u64, HostId>),
    /// Nothing: it is over, or answers are on the way.
    Nothing,
}

#[derive(Clone, Debug)]
struct Change {
    number: u64,
    begun: Moment,
    /// The voters' logs before, of hosts that stay.
    nodes: BTreeMap<u64, HostId>,
    before: BTreeMap<u64, HostId>,
    /// Hosts whose answers are still to come.
    asked: BTreeSet<HostId>,
}

/// The changes of one session's voters, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    number: u64,
    current: Option<Change>,
    not_before: Moment,
    verify_at: Moment,
}

impl Changes {
    /// No change yet.
    pub fn new(now: Moment) -> Changes {
        Changes { number: 0, current: None, not_before: now, verify_at: now.plus_ms(VERIFY_MS) }
    }

    /// Tells whether a change may begin now.
    pub fn may_begin(&mut self, now: Moment) -> bool {
        if self.current.as_ref().is_some_and(|change| now >= change.begun.plus_ms(OVER_MS)) {
            self.fail(now);
        }
        self.current.is_none() && now >= self.not_before
    }

    /// Tells whether a change is under way.
    pub fn under_way(&self) -> bool {
        self.current.is_some()
    }

    /// Tells whether it is time to ask the voters for their logs.
    pub fn must_verify(&self, now: Moment) -> bool {
        now >= self.verify_at
    }

    /// Gives the number that answers of the change under way carry.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Gives the next moment after `now` at which time alone lets something happen.
    pub fn next(&self, now: Moment) -> Moment {
        let over = self.current.as_ref().map(|change| change.begun.plus_ms(OVER_MS));
        let all = [Some(self.not_before), Some(self.verify_at), over];
        all.into_iter().flatten().filter(|at| *at > now).min().unwrap_or(now.plus_ms(VERIFY_MS))
    }

    /// Begins a change to the wanted hosts; `up` are those that can be asked.
    pub fn begin(
        &mut self,
        before: &BTreeMap<u64, HostId>,
        wanted: &BTreeSet<HostId>,
        up: &BTreeSet<HostId>,
        now: Moment,
    ) -> Step {
        self.number += 1;
        self.verify_at = now.plus_ms(VERIFY_MS);
        let mut nodes = before.clone();
        nodes.retain(|_, host| wanted.contains(host));
        let has_log = |host: &HostId| nodes.values().any(|known| known == host);
        let asked: BTreeSet<HostId> =
            wanted.iter().copied().filter(|host| up.contains(host) || !has_log(host)).collect();
        let (number, before) = (self.number, before.clone());
        self.current = Some(Change { number, begun: now, nodes, before, asked: asked.clone() });
        if asked.is_empty() { self.asked_all() } else { Step::Ask(asked) }
    }

    /// Takes one answer: the node id of that host's log, or nothing.
    pub fn answered(&mut self, number: u64, host: HostId, node: Option<u64>, now: Moment) -> Step {
        let Some(change) = self.current.as_mut().filter(|change| change.number == number) else {
            return Step::Nothing;
        };
        if !change.asked.remove(&host) {
            return Step::Nothing;
        }
        match node {
            Some(node) => {
                change.nodes.retain(|_, known| *known != host);
                change.nodes.insert(node, host);
            }
            None if change.nodes.values().any(|known| *known == host) => {}
            None => {
                self.fail(now);
                return Step::Nothing;
            }
        }
        if change.asked.is_empty() { self.asked_all() } else { Step::Nothing }
    }

    /// Takes note of how the change ended.
    pub fn set(&mut self, number: u64, well: bool, now: Moment) {
        if self.current.as_ref().is_some_and(|change| change.number == number) {
            self.current = None;
            if !well {
                self.fail(now);
            }
        }
    }

    /// Gives the change up that is under way: another host leads.
    pub fn abandon(&mut self) {
        self.current = None;
    }

    fn asked_all(&mut self) -> Step {
        match &self.current {
            Some(change) if change.nodes != change.before && !change.nodes.is_empty() => {
                Step::Set(change.nodes.clone())
            }
            _ => {
                self.current = None;
                Step::Nothing
            }
        }
    }

    fn fail(&mut self, now: Moment) {
        self.current = None;
        self.not_before = now.plus_ms(AGAIN_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000);

    fn hosts(numbers: &[u8]) -> BTreeSet<HostId> {
        numbers.iter().map(|n| HostId([*n; 32])).collect()
    }

    fn logs(pairs: &[(u64, u8)]) -> BTreeMap<u64, HostId> {
        pairs.iter().map(|(node, n)| (*node, HostId([*n; 32]))).collect()
    }

    /// Begins a change from `before` to `wanted` and gives every asked host's answer.
    fn check(
        before: &[(u64, u8)],
        wanted: &[u8],
        up: &[u8],
        answers: &[(u8, Option<u64>)],
    ) -> (Step, Changes) {
        let mut changes = Changes::new(NOW);
        let mut step = changes.begin(&logs(before), &hosts(wanted), &hosts(up), NOW);
        for (host, node) in answers {
            step = changes.answered(changes.number(), HostId([*host; 32]), *node, NOW);
        }
        (step, changes)
    }

    #[test]
    fn a_new_voter_brings_its_own_log() {
        let answers = [(1, Some(11)), (2, Some(22)), (3, Some(33))];
        let (step, _) = check(&[(11, 1)], &[1, 2, 3], &[1, 2, 3], &answers);
        assert_eq!(step, Step::Set(logs(&[(11, 1), (22, 2), (33, 3)])));
    }

    #[test]
    fn a_voter_that_lost_its_log_is_taken_as_a_new_one() {
        let before = [(11, 1), (22, 2), (33, 3)];
        let (step, _) =
            check(&before, &[1, 2, 3], &[1, 2, 3], &[(1, Some(11)), (2, Some(77)), (3, Some(33))]);
        assert_eq!(step, Step::Set(logs(&[(11, 1), (77, 2), (33, 3)])));
        let (same, mut changes) =
            check(&before, &[1, 2, 3], &[1, 2, 3], &[(1, Some(11)), (2, Some(22)), (3, Some(33))]);
        assert_eq!(same, Step::Nothing, "nothing is written when nothing changed");
        assert!(changes.may_begin(NOW));
    }

    #[test]
    fn a_voter_that_does_not_answer_keeps_its_place_and_a_new_one_does_not_get_one() {
        let before = [(11, 1), (22, 2), (33, 3)];
        let (step, _) = check(&before, &[1, 2, 4], &[1, 4], &[(1, Some(11)), (4, Some(44))]);
        assert_eq!(step, Step::Set(logs(&[(11, 1), (22, 2), (44, 4)])));
        let (step, mut changes) =
            check(&before, &[1, 2, 4], &[1, 2, 4], &[(1, Some(11)), (2, None), (4, None)]);
        assert_eq!(step, Step::Nothing);
        assert!(!changes.may_begin(NOW) && changes.may_begin(NOW.plus_ms(AGAIN_MS)));
    }

    #[test]
    fn answers_to_an_abandoned_change_count_for_nothing() {
        let (_, mut changes) = check(&[(11, 1)], &[1, 2, 3], &[1, 2, 3], &[(1, Some(11))]);
        let old = changes.number();
        changes.abandon();
        changes.begin(&logs(&[(11, 1)]), &hosts(&[1, 2, 3]), &hosts(&[1, 2, 3]), NOW);
        assert_eq!(changes.answered(old, HostId([2; 32]), Some(5), NOW), Step::Nothing);
        changes.set(old, true, NOW);
        assert!(!changes.may_begin(NOW), "the other change is still under way");
        assert!(!changes.may_begin(NOW.plus_ms(OVER_MS)), "its failure has a pause as well");
        assert!(changes.may_begin(NOW.plus_ms(OVER_MS + AGAIN_MS)), "nothing is under way for ever");
    }
}
