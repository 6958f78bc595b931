//! What follows from all evidence about a host: its own observer adds up what it misses itself and what the others
//! say; everybody else counts observers.

use super::{
    Account, Effect, Finding, Liveness, Mutant, Presence,
    vigil::{ALERT, LEAST_PATIENCE_MS, Vigil},
};
use crate::{id::HostId, time::Moment};

/// Evidence of all observers together, as a power of ten, from which on a host is suspected.
const SUSPECT: f64 = -4.0;
/// The same, for gone.
const DOWN: f64 = -9.0;
/// What one observer alone can bring: the way to it may be bad for reasons of its own.
const MOST_EACH: f64 = -7.0;
/// What another observer said of its misses is as fresh as its next probe.
const EVIDENCE_FOR_MS: u64 = 3_000;
/// A suspicion that nobody repeats has ended.
const SUSPECT_FOR_MS: u64 = 10_000;
/// Who is gone is said to be every minute; after two that were lost it holds no more.
pub(super) const DOWN_FOR_MS: u64 = 150_000;
/// When most others are missing at once, this host may be the one that is cut off: so long it decides nothing.
const DOUBT_MS: u64 = 4_000;
/// Nothing from anybody for so long: this host is cut off.
const ISOLATED_MS: u64 = 3_000;
/// After a host said that it stops, what was under way from it still comes in.
const LEAVING_MS: u64 = 2_000;
/// A host that is there within this time of being called gone was called so wrongly.
const WRONG_MS: u64 = 3_000;
/// An observer that was wrong is not believed for this long, doubled with each time, up to the bound.
const WARY_MS: u64 = 5_000;
const MOST_WARY: u32 = 6;

impl Account {
    /// Tells whether what it says is still to be believed.
    pub(super) fn holds(&self, now: Moment) -> bool {
        let lasts = match self.signed.testimony.finding {
            Finding::Down => DOWN_FOR_MS,
            Finding::Suspect | Finding::Alarm => SUSPECT_FOR_MS,
            _ => return false,
        };
        !self.void && now.since_ms(self.at) < lasts && now >= self.wary
    }

    fn evidence(&self, now: Moment) -> f64 {
        match self.holds(now) && now.since_ms(self.at) < EVIDENCE_FOR_MS {
            true => (f64::from(self.signed.testimony.evidence) / -100.0).max(MOST_EACH),
            false => 0.0,
        }
    }

    /// The host of whom it speaks is there.
    fn refute(&mut self, left: bool, now: Moment) {
        let wrong = self.signed.testimony.finding == Finding::Down && now.since_ms(self.at) < WRONG_MS;
        if !self.void && wrong && !left {
            self.refuted = (self.refuted + 1).min(MOST_WARY);
            self.wary = now.plus_ms(WARY_MS << self.refuted);
        }
        self.void = true;
    }
}

impl Liveness {
    /// A probe went unanswered.
    pub(super) fn missed(&mut self, host: HostId, now: Moment) {
        let is_down = self.others.get(&host).is_none_or(|other| other.presence == Presence::Down);
        if let Some(vigil) = self.vigils.get_mut(&host)
            && vigil.evidence() <= ALERT
            && !is_down
        {
            vigil.alert(now);
        }
        self.judge(host, now);
        self.turn(host, now);
    }

    /// There is a sign of a host: the answer to a probe, or something else.
    pub(super) fn alive(&mut self, host: HostId, number: Option<u32>, now: Moment) {
        let Some(other) = self.others.get_mut(&host) else { return };
        if other.left.is_some_and(|left| now.since_ms(left) < LEAVING_MS) {
            return;
        }
        let broken = self.broken == Some(Mutant::LearnsNothing);
        if let Some(vigil) = self.vigils.get_mut(&host) {
            if cfg!(test) && broken {
                vigil.overslept(true, now);
            }
            vigil.answered(number, now);
        }
        self.acquit(host, now);
    }

    /// Ends every doubt about a host.
    pub(super) fn acquit(&mut self, host: HostId, now: Moment) {
        let Some(other) = self.others.get_mut(&host) else { return };
        let left = other.left.take().is_some();
        other.heard = true;
        let accused = self.accused.remove(&host);
        if left || accused {
            other.returned = Some(now);
        }
        if accused {
            other.accounts.values_mut().for_each(|account| account.refute(left, now));
        }
        let said = other.said.take();
        if !self.observed.contains(&host) {
            self.vigils.remove(&host);
        }
        if let Some(said) = said {
            self.take_back(host, said);
        }
        self.turn(host, now);
    }

    /// Weighs the evidence about a host that this one observes and missed, and says what it finds.
    pub(super) fn judge(&mut self, host: HostId, now: Moment) {
        if !self.observed.contains(&host) {
            return;
        }
        self.note_doubt(&host, now);
        let only = self.is_only_observer(&host) || self.is_broken(Mutant::BelievesOne);
        let Some(vigil) = self.vigils.get_mut(&host) else { return };
        let (silent, patience, alarm) = (vigil.silent_ms(now), vigil.patience_ms(now), vigil.alarm);
        let own = vigil.evidence();
        let own = if only { own } else { own.max(MOST_EACH) };
        let Some(other) = self.others.get(&host) else { return };
        if other.left.is_some() {
            return self.say(host, Finding::Down, (own, true), now);
        }
        if own >= 0.0 {
            return;
        }
        let told: Vec<f64> = other.accounts.values().map(|account| account.evidence(now)).collect();
        let together = own + told.iter().sum::<f64>();
        let enough = only || told.iter().any(|evidence| *evidence < 0.0);
        let decides = self.doubt.is_none_or(|since| now.since_ms(since) >= DOUBT_MS);
        let found = match () {
            () if !decides => Finding::Alarm,
            () if enough && together <= DOWN && silent >= patience => Finding::Down,
            () if enough && together <= SUSPECT && silent >= LEAST_PATIENCE_MS => Finding::Suspect,
            () if alarm => Finding::Alarm,
            () => return,
        };
        let isolated = self.doubt.is_some() && now.since_ms(self.reached) >= ISOLATED_MS;
        self.say(host, found, (own, decides && !isolated), now);
    }

    /// Notes whether so many others are missing that this host may be the one that is cut off.
    fn note_doubt(&mut self, host: &HostId, now: Moment) {
        let is_known = |other: &&HostId| {
            let presence = self.others.get(*other).map(|other| (other.heard, other.presence));
            *other != host && matches!(presence, Some((true, Presence::Up | Presence::Suspect)))
        };
        let known: Vec<&HostId> = self.observed.iter().filter(is_known).collect();
        let missing = known.iter().filter(|other| self.vigils.get(**other).is_some_and(is_missing));
        match 2 * missing.count() > known.len() {
            true => drop(self.doubt.get_or_insert(now)),
            false => self.doubt = None,
        }
    }

    /// Tells whether nobody else is there to observe a host.
    fn is_only_observer(&self, host: &HostId) -> bool {
        let mut observers = self.circle.observers(host).into_iter().filter(|other| *other != self.me);
        observers.all(|observer| {
            let is_up = self.others.get(&observer).is_some_and(|other| other.presence == Presence::Up);
            !is_up || self.vigils.get(&observer).is_some_and(is_missing)
        })
    }

    /// Sees whether a host is there now.
    pub(super) fn turn(&mut self, host: HostId, now: Moment) {
        let presence = self.presence(&host, now);
        let Some(other) = self.others.get_mut(&host) else { return };
        if other.presence != presence {
            other.presence = presence;
            self.effects.push(Effect::Turn(host, presence));
        }
    }

    fn presence(&self, host: &HostId, now: Moment) -> Presence {
        let Some(other) = self.others.get(host) else { return Presence::Down };
        let own = other.said.map(|said| said.finding);
        if other.left.is_some() || own == Some(Finding::Down) || !(other.heard || other.told) {
            return Presence::Down;
        }
        let holding = other.accounts.iter().filter(|(_, account)| account.holds(now));
        let found: Vec<Finding> = holding.map(|(_, account)| account.signed.testimony.finding).collect();
        let (mut down, mut suspect) = (0, 0);
        for finding in found.into_iter().chain(own) {
            down += usize::from(finding >= Finding::Down);
            suspect += usize::from(finding >= Finding::Suspect);
        }
        // One that could not be reached since this host began is one more who does not hear it.
        let unheard = self.observed.contains(host) && !other.heard;
        let (down, suspect) = (down + usize::from(unheard && down > 0), suspect);
        let believed = if self.is_broken(Mutant::BelievesOne) { 1 } else { self.witnesses(host) };
        let asked = self.vigils.get(host).filter(|_| other.heard);
        match () {
            // Its own eyes come first: it has not missed anything yet.
            () if asked.is_some_and(|vigil| vigil.silent_ms(now) == 0) => Presence::Up,
            () if down >= believed => Presence::Down,
            () if suspect >= believed || own == Some(Finding::Suspect) => Presence::Suspect,
            () => Presence::Up,
        }
    }

    /// How many observers must say the same: two, or the only one there is.
    fn witnesses(&self, host: &HostId) -> usize {
        let is_up = |observer: &HostId| {
            *observer == self.me
                || self.others.get(observer).is_some_and(|other| other.presence == Presence::Up)
        };
        self.circle.observers(host).iter().filter(|observer| is_up(observer)).count().clamp(1, 2)
    }
}

fn is_missing(vigil: &Vigil) -> bool {
    vigil.evidence() <= ALERT
}
