//! Whom to ask as a session's coordinator: the one that is known, then whoever those that were asked name,
//! each once; when nobody knows, everybody again after a moment, until the time is over.

use std::collections::BTreeSet;

use crate::{
    id::HostId,
    time::Moment,
    wire::rpc::{Answer, Refusal},
};

/// How long a question to a coordinator may take: a quorum round over a slow relay, twice.
const ASK_MS: u64 = 10_000;
/// A new leader is being elected, or its head is on the way.
const PAUSE_MS: u64 = 200;

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ask this host, which may be the asker itself.
    Ask(HostId),
    /// Go on at this moment.
    Pause(Moment),
    /// Nobody will answer.
    GiveUp(Refusal),
}

/// Names the coordinator of a session as far as a host can tell: whom its own log follows, else who says so in the
/// newest head.
pub fn coordinator(led: Option<HostId>, head: Option<HostId>) -> Option<HostId> {
    led.or(head)
}

/// One question on its way to the coordinator.
#[derive(Clone, Debug)]
pub struct Route {
    until: Moment,
    hint: Option<HostId>,
    asked: BTreeSet<HostId>,
    paused: bool,
}

impl Route {
    /// Begins.
    pub fn new(now: Moment) -> Route {
        Route { until: now.plus_ms(ASK_MS), hint: None, asked: BTreeSet::new(), paused: true }
    }

    /// Gives the moment at which the question is given up, also while somebody is being asked.
    pub fn until(&self) -> Moment {
        self.until
    }

    /// Says what comes next. `coordinator` is the one that is known now; `known` tells whether anything of
    /// the session is here.
    pub fn next(&mut self, coordinator: Option<HostId>, known: bool, now: Moment) -> Step {
        if now >= self.until {
            return Step::GiveUp(Refusal::NoQuorum);
        }
        let hint = self.hint.take();
        if hint.is_none() && !std::mem::replace(&mut self.paused, true) {
            self.asked.clear();
            return Step::Pause(now.plus_ms(PAUSE_MS));
        }
        match hint.or(coordinator) {
            Some(host) => {
                self.paused = false;
                Step::Ask(host)
            }
            None if known => Step::Pause(now.plus_ms(PAUSE_MS)),
            None => Step::GiveUp(Refusal::UnknownSession),
        }
    }

    /// Takes what a host answered, if it did. `None` = the question goes on.
    pub fn answered(&mut self, by: HostId, answer: Option<Answer>) -> Option<Result<Answer, Refusal>> {
        let leader = match answer {
            None => None,
            Some(Answer::Refused(Refusal::NotCoordinator { leader })) => leader,
            Some(Answer::Refused(refusal)) => return Some(Err(refusal)),
            Some(answer) => return Some(Ok(answer)),
        };
        self.asked.insert(by);
        self.hint = leader.filter(|leader| !self.asked.contains(leader));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(5_000);

    fn host(n: u8) -> HostId {
        HostId([n; 32])
    }

    fn elsewhere(leader: Option<u8>) -> Option<Answer> {
        Some(Answer::Refused(Refusal::NotCoordinator { leader: leader.map(host) }))
    }

    #[test]
    fn hints_are_followed_each_once() {
        let mut route = Route::new(NOW);
        assert_eq!(route.next(Some(host(1)), true, NOW), Step::Ask(host(1)));
        assert_eq!(route.answered(host(1), elsewhere(Some(2))), None);
        assert_eq!(route.next(Some(host(1)), true, NOW), Step::Ask(host(2)));
        assert_eq!(route.answered(host(2), elsewhere(Some(1))), None);
        assert_eq!(route.next(Some(host(1)), true, NOW), Step::Pause(NOW.plus_ms(PAUSE_MS)));
        assert_eq!(route.next(Some(host(3)), true, NOW), Step::Ask(host(3)), "with what is known by then");
        assert_eq!(route.answered(host(3), Some(Answer::Done)), Some(Ok(Answer::Done)));
    }

    #[test]
    fn a_refusal_of_another_kind_is_the_answer() {
        let mut route = Route::new(NOW);
        route.next(Some(host(1)), true, NOW);
        let refused = route.answered(host(1), Some(Answer::Refused(Refusal::NoQuorum)));
        assert_eq!(refused, Some(Err(Refusal::NoQuorum)));
    }

    #[test]
    fn nobody_is_waited_for_in_a_session_that_nobody_knows_and_nobody_for_ever() {
        assert_eq!(Route::new(NOW).next(None, false, NOW), Step::GiveUp(Refusal::UnknownSession));
        let mut route = Route::new(NOW);
        assert_eq!(route.next(None, true, NOW), Step::Pause(NOW.plus_ms(PAUSE_MS)));
        assert_eq!(route.next(None, true, NOW.plus_ms(ASK_MS)), Step::GiveUp(Refusal::NoQuorum));
        let mut silent = Route::new(NOW);
        assert_eq!(silent.next(Some(host(1)), true, NOW), Step::Ask(host(1)));
        assert_eq!(silent.answered(host(1), None), None);
        assert_eq!(silent.next(Some(host(1)), true, NOW), Step::Pause(NOW.plus_ms(PAUSE_MS)));
    }
}
