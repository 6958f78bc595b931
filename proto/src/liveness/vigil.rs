//! One observer's evidence about one host. A probe without an answer is a miss; misses in a row are as unlikely as the
//! product of the rate at which probes to this host are missed, which is learned from runs that ended with an answer:
//! never from one that may be its death. All in powers of ten.

use crate::time::Moment;

/// Between two probes of a host that answers.
pub(super) const REST_MS: u64 = 2_000;
/// The same while something is wrong.
pub(super) const ALARM_MS: u64 = 250;
/// An answer takes no longer than this on a way that is not slow.
const ANSWER_MS: u64 = 200;
/// On a slow one it takes no longer than so many round trips, and in any case than this.
const ROUND_TRIPS: u64 = 4;
const SLOWEST_MS: u64 = 3_000;
/// Nobody answers more reliably than this: a probe in a hundred meets a hiccup.
const FLOOR: f64 = 0.01;
/// A rate above this says that nothing is known.
const CEILING: f64 = 0.97;
/// How much of the rate one probe teaches: it is an average over the last fifty or so.
const LEARNING: f64 = 0.02;
/// One observer that is so sure asks the others.
pub(super) const ALERT: f64 = -1.5;
/// A host that misses so little at a time is asked at rest; the lossier, the more often.
const CALM: f64 = 1.4;
/// A silence shorter than one round of alarm is not noticed.
const LEAST_SILENCE_MS: u64 = ALARM_MS;
/// Silences count for an hour: those of the last two of these.
const SILENCES_MS: u64 = 30 * 60_000;
const MOST_PATIENCE_MS: u64 = 10_000;
pub(super) const LEAST_PATIENCE_MS: u64 = 500;
/// Probes whose answers are still told apart.
const REMEMBERED: usize = 8;
/// Whoever is heard by itself is asked when it was silent for so long: at rest its connection brings something each
/// second. So an answer is asked for only once that fails.
const SPARED_MS: u64 = 1_300;
/// Between two answers of a host that is heard all the time.
const ANSWERS_MS: u64 = 30_000;

/// What one observer knows of one host.
#[derive(Clone, Debug)]
pub(super) struct Vigil {
    rate: f64,
    run: u32,
    number: u32,
    sent: Vec<(u32, Moment)>,
    /// Until when the last probe may be answered.
    open: Option<Moment>,
    /// When the next one is due.
    next: Moment,
    rtt_ms: Option<u64>,
    /// When a probe was answered last.
    answered: Moment,
    /// When a calm rest has taught last how little is lost.
    taught: Moment,
    missed_since: Option<Moment>,
    /// The longest silence that ended, in this half hour and in the one before.
    silences: [u64; 2],
    counted_since: Moment,
    /// Whether it was ever heard.
    pub(super) heard: bool,
    /// Whether it is looked at closely.
    pub(super) alarm: bool,
}

impl Vigil {
    pub(super) fn new(now: Moment, first: Moment) -> Vigil {
        Vigil {
            rate: FLOOR,
            run: 0,
            number: 0,
            sent: Vec::new(),
            open: None,
            next: first,
            rtt_ms: None,
            answered: now,
            taught: now,
            missed_since: None,
            silences: [0; 2],
            counted_since: now,
            heard: false,
            alarm: false,
        }
    }

    /// Cautious: two standard deviations above the average.
    fn miss(&self) -> f64 {
        let rate = self.rate;
        match rate < 2.0 * FLOOR {
            true => rate.max(FLOOR),
            false => (rate + 2.0 * (rate * (1.0 - rate) * LEARNING).sqrt()).min(CEILING),
        }
    }

    /// How unlikely the misses in a row are by chance, as a power of ten.
    pub(super) fn evidence(&self) -> f64 {
        f64::from(self.run) * self.miss().log10()
    }

    /// How long until the next probe, when nothing is wrong.
    fn rest_ms(&self) -> u64 {
        let calm = (-self.miss().log10() / CALM).min(1.0);
        ((REST_MS as f64 * calm) as u64).max(ALARM_MS)
    }

    fn answer_ms(&self) -> u64 {
        self.rtt_ms.map_or(ANSWER_MS, |rtt| (ROUND_TRIPS * rtt).clamp(ANSWER_MS, SLOWEST_MS))
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Moment {
        self.open.unwrap_or(self.next)
    }

    /// Probes now, if it is time. Gives the number of the probe.
    pub(super) fn probe(&mut self, now: Moment, jitter_ms: u64, gone: bool) -> Option<u32> {
        if now < self.next || self.open.is_some() {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        if self.sent.len() >= REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push((self.number, now));
        self.open = Some(now.plus_ms(self.answer_ms()));
        let pause = match (gone, self.alarm) {
            (true, _) => REST_MS,
            (false, true) => ALARM_MS,
            (false, false) => self.rest_ms(),
        };
        self.next = now.plus_ms(pause.saturating_sub(jitter_ms.min(pause / 4)));
        Some(self.number)
    }

    /// Tells whether a probe has just gone unanswered, and counts it.
    pub(super) fn missed(&mut self, now: Moment) -> bool {
        if self.open.is_none_or(|open| now < open) {
            return false;
        }
        self.open = None;
        self.run = self.run.saturating_add(1);
        let sent = self.sent.last().map_or(now, |(_, sent)| *sent);
        self.missed_since.get_or_insert(sent);
        true
    }

    /// It was heard, in answer to a probe or by itself.
    pub(super) fn answered(&mut self, number: Option<u32>, now: Moment) {
        if let Some(at) = number.and_then(|number| self.sent.iter().position(|(sent, _)| *sent == number)) {
            let took = now.since_ms(self.sent[at].1).min(SLOWEST_MS);
            self.rtt_ms = Some(self.rtt_ms.map_or(took, |rtt| (7 * rtt + took).div_ceil(8)));
        }
        self.open = None;
        // Whoever is heard is hardly ever asked, and what was lost once is not held against the way for ever.
        let calm = self.run == 0 && now.since_ms(self.taught) >= REST_MS;
        self.lives(now);
        if number.is_some() || calm {
            self.rate -= LEARNING * self.rate;
            self.taught = now;
        }
        if number.is_some() {
            self.answered = now;
        }
        let spared = if number.is_some() { self.rest_ms() * 3 / 4 } else { self.rest_ms().min(SPARED_MS) };
        self.next = self.next.max(now.plus_ms(spared));
    }

    /// Tells whether a probe must be answered again before other signs count: a connection acknowledges as long as the
    /// process lives, whatever has become of the rest of it.
    pub(super) fn must_answer(&self, now: Moment) -> bool {
        now.since_ms(self.answered) > ANSWERS_MS
    }

    /// Others heard it: what was missed here is the way's fault.
    pub(super) fn lives(&mut self, now: Moment) {
        for _ in 0..self.run.min(100) {
            self.rate += LEARNING * (1.0 - self.rate);
        }
        self.turn(now);
        if let Some(since) = self.missed_since.take() {
            self.silences[0] = self.silences[0].max(now.since_ms(since));
        }
        (self.run, self.heard, self.alarm) = (0, true, false);
    }

    /// What was asked while this host itself slept says nothing.
    pub(super) fn overslept(&mut self, long: bool, now: Moment) {
        if self.open.take().is_some() || long {
            self.next = now;
        }
        if long {
            (self.run, self.missed_since, self.alarm) = (0, None, false);
        }
    }

    /// It is met: it is asked then at the latest.
    pub(super) fn meet(&mut self, first: Moment) {
        self.next = self.next.min(first);
    }

    /// Looks closely from now on.
    pub(super) fn alert(&mut self, now: Moment) {
        if !self.alarm {
            (self.alarm, self.next) = (true, now);
        }
    }

    /// How long the misses have lasted.
    pub(super) fn silent_ms(&self, now: Moment) -> u64 {
        self.missed_since.map_or(0, |since| now.since_ms(since))
    }

    /// How long it may be silent before it is gone: it came back from half of that.
    pub(super) fn patience_ms(&mut self, now: Moment) -> u64 {
        self.turn(now);
        let longest = self.silences[0].max(self.silences[1]).max(LEAST_SILENCE_MS);
        (LEAST_PATIENCE_MS + 2 * longest).min(MOST_PATIENCE_MS)
    }

    fn turn(&mut self, now: Moment) {
        let ago = now.since_ms(self.counted_since);
        if ago >= SILENCES_MS {
            self.silences = [0, if ago < 2 * SILENCES_MS { self.silences[0] } else { 0 }];
            self.counted_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment(1_000_000);

    /// Asks so many times, and answers those that `answers` says.
    fn live(vigil: &mut Vigil, probes: u32, answers: impl Fn(u32) -> bool) -> Moment {
        let mut now = vigil.due();
        for number in 0..probes {
            now = vigil.next.max(now);
            let probe = vigil.probe(now, 0, false).unwrap();
            if answers(number) {
                now = now.plus_ms(30);
                vigil.answered(Some(probe), now);
            } else {
                now = vigil.open.unwrap();
                assert!(vigil.missed(now));
            }
        }
        now
    }

    #[test]
    fn one_miss_on_a_clean_way_is_an_alarm_and_on_a_lossy_one_it_is_not() {
        let mut clean = Vigil::new(START, START);
        live(&mut clean, 100, |_| true);
        assert_eq!((clean.evidence(), clean.rest_ms()), (0.0, REST_MS));
        live(&mut clean, 1, |_| false);
        assert!(clean.evidence() <= ALERT, "{}", clean.evidence());
        let mut lossy = Vigil::new(START, START);
        live(&mut lossy, 405, |number| number % 9 > 3);
        live(&mut lossy, 4, |_| false);
        assert!(lossy.evidence() > ALERT, "{}", lossy.evidence());
        assert!((ALARM_MS..REST_MS / 4).contains(&lossy.rest_ms()), "{}", lossy.rest_ms());
    }

    #[test]
    fn what_was_lost_once_is_forgotten_while_the_host_is_heard() {
        let mut vigil = Vigil::new(START, START);
        let now = live(&mut vigil, 10, |_| false);
        vigil.answered(None, now);
        assert!(vigil.miss() > 0.15, "{}", vigil.miss());
        for second in 1..1_200 {
            vigil.answered(None, now.plus_ms(1_000 * second));
        }
        assert_eq!(vigil.miss(), FLOOR);
    }

    #[test]
    fn a_connection_that_speaks_stands_for_its_host_for_half_a_minute() {
        let mut vigil = Vigil::new(START, START);
        vigil.answered(None, START.plus_ms(ANSWERS_MS));
        assert!(!vigil.must_answer(START.plus_ms(ANSWERS_MS)));
        assert!(vigil.must_answer(START.plus_ms(ANSWERS_MS + 1)), "it never answered");
        vigil.answered(Some(1), START.plus_ms(ANSWERS_MS + 1));
        assert!(!vigil.must_answer(START.plus_ms(2 * ANSWERS_MS + 1)));
    }

    #[test]
    fn a_run_that_may_be_a_death_teaches_nothing() {
        let mut vigil = Vigil::new(START, START);
        live(&mut vigil, 50, |_| true);
        let before = vigil.miss();
        live(&mut vigil, 50, |_| false);
        assert_eq!(vigil.miss(), before);
        vigil.lives(START.plus_ms(1_000_000));
        assert!(vigil.miss() > 0.5, "others heard it: this way is bad");
    }

    #[test]
    fn who_came_back_from_a_silence_is_waited_for_twice_as_long_for_an_hour() {
        let mut vigil = Vigil::new(START, START);
        assert_eq!(vigil.patience_ms(START), 1_000);
        let asked = vigil.due();
        vigil.probe(asked, 0, false);
        assert!(vigil.missed(asked.plus_ms(ANSWER_MS)));
        vigil.answered(None, asked.plus_ms(2_000));
        assert_eq!(vigil.patience_ms(asked.plus_ms(2_000)), 4_500);
        assert_eq!(vigil.patience_ms(asked.plus_ms(SILENCES_MS)), 4_500);
        assert_eq!(vigil.patience_ms(asked.plus_ms(2 * SILENCES_MS + 2_000)), 1_000);
    }

    #[test]
    fn what_was_asked_while_this_host_slept_counts_for_nothing() {
        let mut vigil = Vigil::new(START, START);
        vigil.probe(START, 0, false);
        vigil.overslept(false, START.plus_ms(900));
        assert!(!vigil.missed(START.plus_ms(900)) && vigil.probe(START.plus_ms(900), 0, false).is_some());
        assert!(vigil.missed(START.plus_ms(900 + ANSWER_MS)));
        vigil.overslept(true, START.plus_ms(9_000));
        assert_eq!((vigil.evidence(), vigil.silent_ms(START.plus_ms(9_000))), (0.0, 0));
    }

    #[test]
    fn a_slow_way_gets_its_round_trips() {
        let mut vigil = Vigil::new(START, START);
        for _ in 0..20 {
            let now = vigil.next;
            let probe = vigil.probe(now, 0, false);
            vigil.answered(probe, now.plus_ms(150));
        }
        assert_eq!(vigil.answer_ms(), 600);
        vigil.answered(Some(vigil.number), START.plus_ms(u64::MAX));
        assert!(vigil.answer_ms() <= SLOWEST_MS);
    }
}
