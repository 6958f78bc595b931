//! Pure: when this host speaks on its LANs. At first and after a change soon and then ever more rarely, while members
//! are missing; when all are there, only when it is asked.

use proto::time::Moment;

const FIRST_GAP_MS: u64 = 500;
const LAST_GAP_MS: u64 = 64_000;
/// One answer is heard by everybody; more in this time would be noise.
const ANSWER_GAP_MS: u64 = 1_000;
/// Questions after a change that are asked although nobody is missed yet: it takes a while until a connection over
/// addresses that are gone is given up.
const EAGER: u32 = 5;

/// The pace.
#[derive(Debug)]
pub(super) struct Pace {
    question: Moment,
    gap_ms: u64,
    asked: u32,
    /// When each LAN is answered, and when it last was.
    answers: Vec<(Option<Moment>, Option<Moment>)>,
}

impl Pace {
    /// Begins on so many LANs.
    pub(super) fn new(lans: usize, now: Moment) -> Pace {
        Pace { question: now, gap_ms: FIRST_GAP_MS, asked: 0, answers: vec![(None, None); lans] }
    }

    /// Begins again: somebody was lost.
    pub(super) fn hurry(&mut self, now: Moment) {
        let answers = std::mem::take(&mut self.answers);
        *self = Pace { answers, ..Pace::new(0, now.plus_ms(FIRST_GAP_MS)) };
    }

    /// Tells whether to ask now.
    pub(super) fn question_due(&mut self, now: Moment, missing: bool) -> bool {
        if now < self.question {
            return false;
        }
        self.question = now.plus_ms(self.gap_ms);
        self.gap_ms = (self.gap_ms * 2).min(LAST_GAP_MS);
        self.asked = self.asked.saturating_add(1);
        missing || self.asked <= EAGER
    }

    /// Notes a question on a LAN; all who are asked answer at their own moment.
    pub(super) fn asked(&mut self, lan: usize, delay_ms: u64, now: Moment) {
        if let Some((due, last)) = self.answers.get_mut(lan) {
            let soonest = last.map_or(now, |last| now.max(last.plus_ms(ANSWER_GAP_MS)));
            let at = soonest.plus_ms(delay_ms);
            due.get_or_insert(at);
        }
    }

    /// Gives the LANs that are answered now.
    pub(super) fn answers_due(&mut self, now: Moment) -> Vec<usize> {
        let mut lans = Vec::new();
        for (index, (due, last)) in self.answers.iter_mut().enumerate() {
            if due.is_some_and(|at| at <= now) {
                (*due, *last) = (None, Some(now));
                lans.push(index);
            }
        }
        lans
    }

    /// Gives the next moment at which something may be due.
    pub(super) fn next(&self) -> Moment {
        self.answers.iter().filter_map(|(due, _)| *due).fold(self.question, Moment::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(missing: bool, seconds: u64) -> usize {
        let start = Moment(1_000_000);
        let mut pace = Pace::new(1, start);
        let looks = (0..seconds * 10).map(|tenth| start.plus_ms(tenth * 100));
        looks.filter(|now| pace.question_due(*now, missing)).count()
    }

    #[test]
    fn it_asks_soon_and_then_rarely_and_not_at_all_when_all_are_there() {
        assert_eq!(questions(true, 4), 4); // at 0, 0.5, 1.5, 3.5 s
        assert!((10..=25).contains(&questions(true, 900)), "{}", questions(true, 900));
        assert_eq!(questions(false, 900), EAGER as usize);
    }

    #[test]
    fn who_is_lost_is_asked_for_soon() {
        let start = Moment(1_000_000);
        let mut pace = Pace::new(1, start);
        let mut now = start;
        for _ in 0..9000 {
            now = now.plus_ms(100);
            pace.question_due(now, false);
        }
        pace.hurry(now);
        assert!(!pace.question_due(now, true));
        assert!(pace.question_due(now.plus_ms(FIRST_GAP_MS), true));
        assert_eq!(pace.next(), now.plus_ms(2 * FIRST_GAP_MS));
    }

    #[test]
    fn a_flood_of_questions_is_answered_once_a_second() {
        let start = Moment(1_000_000);
        let (mut pace, mut answers) = (Pace::new(2, start), 0);
        for tenth in 0..100 {
            let now = start.plus_ms(tenth * 100);
            pace.asked(1, 50, now);
            pace.asked(7, 0, now);
            let due = pace.answers_due(now);
            assert!(due.iter().all(|lan| *lan == 1));
            answers += due.len();
        }
        assert!((5..=10).contains(&answers), "{answers}");
    }
}
