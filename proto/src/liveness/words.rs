//! Who is told what. Observers tell each other what they miss; what they find together goes to all neighbours, who
//! pass on what is new to them to a few more. The accused is told as well, and says that it is here.

use super::{
    Account, Effect, Finding, Liveness, Mutant, Presence, Said, Signed, Testimony, judge::DOWN_FOR_MS,
    vigil::Vigil,
};
use crate::{id::HostId, time::Moment};

/// What is new is passed on to so many: then one in fifty misses it.
const PASSED_TO: usize = 4;
/// By what a host turned is passed on again after these times: then of a hundred thousand one misses it, also where
/// one datagram in ten is lost.
const AGAIN: [u64; 2] = [300, 1_000];
/// What everybody must know is said so often, as datagrams may be lost.
const REPEATED: u32 = 3;
/// Who is gone is said to be so again after this time.
const AGAIN_MS: u64 = DOWN_FOR_MS * 2 / 5;
/// An accused host says at most so often that it is here.
const HERE_MS: u64 = 100;
/// Its word is passed on for so long after it was doubted.
const DOUBTED_MS: u64 = 3_000;
/// Words that a new connection begins with: those who are gone, as many as a home has hosts.
const GREETING: usize = 64;

impl Liveness {
    /// Says what this host found of one that it observes: evidence, and whether it may be told.
    pub(super) fn say(&mut self, host: HostId, found: Finding, (own, aloud): (f64, bool), now: Moment) {
        let silenced = self.is_broken(Mutant::SaysNothing);
        let Some(other) = self.others.get_mut(&host) else { return };
        other.doubted = Some(now);
        let before = other.said;
        let finding = before.map_or(found, |said| said.finding.max(found));
        let is_new = before.is_none_or(|said| said.finding < finding);
        let times = before.filter(|_| !is_new).map_or(0, |said| said.times);
        let is_due = times < REPEATED || before.is_some_and(|said| now.since_ms(said.at) >= AGAIN_MS);
        let speaks = aloud && !silenced;
        let widely = speaks && finding >= Finding::Suspect && is_due;
        other.said = Some(Said {
            finding,
            times: times.saturating_add(u32::from(widely)),
            at: before.filter(|_| !widely).map_or(now, |said| said.at),
            widely: widely || before.is_some_and(|said| said.widely),
        });
        let to = match widely {
            true => self.everybody(),
            false if finding < Finding::Down => self.observers_of(host),
            false => Vec::new(),
        };
        if speaks {
            self.testify(host, finding, own, to);
        }
    }

    /// Takes back what was said of a host that is there.
    pub(super) fn take_back(&mut self, host: HostId, said: Said) {
        let to = if said.widely { self.everybody() } else { self.observers_of(host) };
        self.testify(host, Finding::Clear, 0.0, to);
    }

    /// Says of this host itself that it is here, or stops.
    pub(super) fn testify_here(&mut self, finding: Finding, to: Vec<HostId>, now: Moment) {
        // What one alone is told has the pace of who asks, and keeps no word from all the others.
        if finding == Finding::Here && to.len() > 1 {
            if self.here.is_some_and(|at| now.since_ms(at) < HERE_MS) {
                return;
            }
            self.here = Some(now);
        }
        self.testify(self.me, finding, 0.0, to);
    }

    fn testify(&mut self, about: HostId, finding: Finding, own: f64, to: Vec<HostId>) {
        // Whoever connects with a host that stops must not hear that it is here.
        if to.is_empty() || self.stopped {
            return;
        }
        self.seq += 1;
        let testimony = Testimony {
            mesh: self.mesh,
            observer: self.me,
            about,
            generation: self.generation,
            seq: self.seq,
            finding,
            // Saturates: a hundred misses more say nothing more.
            evidence: (own * -100.0) as u16,
        };
        self.effects.push(Effect::Testify(testimony, to));
    }

    /// Begins a new connection: this host is here, and these are gone.
    pub(super) fn greet(&mut self, host: HostId, now: Moment) {
        self.testify_here(Finding::Here, vec![host], now);
        if let Some(double) = self.double.filter(|double| double.due().is_some()) {
            self.testify_twice(double.start, vec![host]);
        }
        let gone = |said: Option<Said>| said.is_some_and(|said| said.finding == Finding::Down);
        let own = self.others.iter().filter(|(about, other)| **about != host && gone(other.said));
        let own: Vec<HostId> = own.map(|(about, _)| *about).take(GREETING).collect();
        for about in &own {
            let evidence = self.vigils.get(about).map_or(0.0, Vigil::evidence);
            self.testify(*about, Finding::Down, evidence, vec![host]);
        }
        let accused = self.accused.iter().filter(|about| **about != host);
        let accounts =
            accused.filter_map(|about| self.others.get(about)).flat_map(|other| other.accounts.values());
        // Its own words it knows.
        let is_down = |account: &&Account| {
            let said = &account.signed.testimony;
            said.finding == Finding::Down && said.observer != host && account.holds(now)
        };
        let held = accounts.filter(is_down).take(GREETING - own.len());
        let held: Vec<Effect> = held.map(|held| Effect::Pass(held.signed.clone(), vec![host])).collect();
        self.effects.extend(held);
    }

    /// Takes somebody's signed word.
    pub(super) fn word(&mut self, from: HostId, signed: Signed, now: Moment) {
        self.reached = now;
        if !self.wants(&from, &signed.testimony, now) {
            return;
        }
        let Testimony { observer, about, finding, .. } = signed.testimony;
        match () {
            () if observer == self.me => self.double(&signed.testimony, now),
            () if finding == Finding::Twice => self.note_twice(from, signed, now),
            () if about == self.me => {
                // An old one, brought again, makes nobody speak.
                self.of_me.insert(observer, signed.testimony.age());
                self.defend(finding, now);
            }
            () if observer == about => self.own_word(from, signed, now),
            () => self.account(from, signed, now),
        }
    }

    /// This host is doubted: it says that it is here.
    fn defend(&mut self, finding: Finding, now: Moment) {
        match finding {
            Finding::Alarm => self.testify_here(Finding::Here, self.observers_of(self.me), now),
            Finding::Suspect | Finding::Down => {
                let to = self.connected.iter().copied().collect();
                self.testify_here(Finding::Here, to, now);
            }
            _ => {}
        }
    }

    /// A host speaks of itself.
    fn own_word(&mut self, from: HostId, signed: Signed, now: Moment) {
        let about = signed.testimony.about;
        let Some(other) = self.others.get_mut(&about) else { return };
        if signed.testimony.age() <= other.age() {
            return self.tell_back(about, now);
        }
        let before = other.word.replace(signed.clone());
        let is_new_start = before.is_some_and(|word| signed.testimony.generation > word.testimony.generation);
        if is_new_start {
            // If it is about twice, the other one hears of it.
            self.effects.push(Effect::Pass(signed.clone(), vec![about]));
        }
        let recently = other.doubted.is_some_and(|at| now.since_ms(at) < DOUBTED_MS);
        let is_news = recently || other.presence != Presence::Up;
        if signed.testimony.finding == Finding::Leaving {
            let is_new = other.left.replace(now).is_none();
            self.turn(about, now);
            if is_new {
                self.spread(from, signed, now);
                self.judge(about, now);
            }
            return;
        }
        if let Some(vigil) = self.vigils.get_mut(&about) {
            vigil.lives(now);
        }
        self.acquit(about, now);
        let returned = self.others.get(&about).and_then(|other| other.returned);
        match () {
            // Those who have no connection with it hear by this word alone that it is back.
            () if returned.is_some_and(|at| now.since_ms(at) < DOUBTED_MS) => self.spread(from, signed, now),
            () if is_news => self.pass(from, signed),
            () => {}
        }
    }

    /// Passes on by what a host turned, now and later: datagrams may be lost, and nobody asks for a word that it does
    /// not know of.
    fn spread(&mut self, from: HostId, signed: Signed, now: Moment) {
        if let Some(other) = self.others.get_mut(&signed.testimony.about) {
            other.rumour = Some((now.plus_ms(AGAIN[0]), 0));
        }
        self.pass(from, signed);
    }

    /// Says again what is due.
    pub(super) fn say_again(&mut self, now: Moment) {
        let mut due = Vec::new();
        for (about, other) in &mut self.others {
            let Some((_, times)) = other.rumour.filter(|(at, _)| *at <= now) else { continue };
            other.rumour = AGAIN.get(times + 1).map(|pause| (now.plus_ms(*pause), times + 1));
            due.extend(other.word.clone().map(|word| (*about, word)));
        }
        for (about, word) in due {
            self.pass(about, word);
        }
    }

    /// An observer speaks of another host.
    fn account(&mut self, from: HostId, signed: Signed, now: Moment) {
        let Testimony { observer, about, finding, .. } = signed.testimony;
        let Some(other) = self.others.get_mut(&about) else { return };
        let before = other.accounts.get(&observer);
        let (refuted, wary) = before.map_or((0, Moment(0)), |account| (account.refuted, account.wary));
        let known = before.filter(|account| account.holds(now));
        let rises = known.is_none_or(|account| account.signed.testimony.finding < finding);
        let account =
            Account { signed: signed.clone(), at: now, void: finding < Finding::Alarm, refuted, wary };
        other.accounts.insert(observer, account);
        if finding >= Finding::Alarm {
            other.doubted = Some(now);
            if self.accused.is_empty() {
                self.sweep = now.plus_ms(super::SWEEP_MS);
            }
            self.accused.insert(about);
            self.look(about, finding, now);
            self.judge(about, now);
            // Whoever begins to doubt one that is gone for this host is told so: it may have begun just now.
            let said = self.others.get(&about).and_then(|other| other.said);
            if finding < Finding::Down
                && said.is_some_and(|said| said.finding == Finding::Down)
                && self.connected.contains(&observer)
            {
                let evidence = self.vigils.get(&about).map_or(0.0, Vigil::evidence);
                self.testify(about, Finding::Down, evidence, vec![observer]);
            }
            if rises && finding >= Finding::Suspect {
                self.pass(from, signed);
            }
        }
        self.turn(about, now);
    }

    /// Asks an accused host itself, where there is a connection.
    fn look(&mut self, about: HostId, finding: Finding, now: Moment) {
        let is_up = self.others.get(&about).is_some_and(|other| other.presence != Presence::Down);
        if let Some(vigil) = self.vigils.get_mut(&about) {
            if is_up {
                vigil.alert(now);
            }
            return;
        }
        if finding >= Finding::Suspect && is_up && self.connected.contains(&about) {
            let mut vigil = Vigil::new(now, now);
            (vigil.heard, vigil.alarm) = (true, true);
            self.vigils.insert(about, vigil);
        }
    }

    /// Hands a word on to a few neighbours, and to the one of whom it speaks.
    pub(super) fn pass(&mut self, from: HostId, signed: Signed) {
        let Testimony { observer, about, .. } = signed.testimony;
        let mut others: Vec<HostId> = self.connected.iter().copied().collect();
        others.retain(|host| ![from, observer, about].contains(host) && self.others.contains_key(host));
        let mut to = Vec::new();
        while to.len() < PASSED_TO
            && let Some(at) = self.random.below(others.len() as u64)
        {
            to.push(others.swap_remove(at as usize));
        }
        if about != from && about != observer && self.connected.contains(&about) {
            to.push(about);
        }
        if !to.is_empty() {
            self.effects.push(Effect::Pass(signed, to));
        }
    }

    /// Those that observe a host and can be told now.
    fn observers_of(&self, host: HostId) -> Vec<HostId> {
        let mut observers = self.circle.observers(&host);
        observers.retain(|other| *other != self.me && self.connected.contains(other));
        observers
    }

    /// All that can be told now, the accused included: it may be there.
    pub(super) fn everybody(&self) -> Vec<HostId> {
        self.connected.iter().copied().filter(|host| self.others.contains_key(host)).collect()
    }
}
