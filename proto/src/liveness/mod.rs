//! Who is there, as a machine: observers listen to the hosts that the circle gives them, probe those of whom nothing comes
//! any more (each second something does, see `reachability::pulses`), weigh what they miss, and say by
//! signed words what they find; everybody else believes two observers, or the only one there is. Any sign of the
//! accused ends suspicion: its answer, a new connection, its own signed word, which anybody may carry.
//! Liveness is a hint. Two observers that lie can make a third host look gone to those that are not connected with it,
//! until that host's own word comes around; who is connected asks for itself first.
//!
//! ```text
//! silence -> probe, no answer -> miss -> unlikely -> alarm: the other observers look as well
//!                                 together: 1e-4 suspect, 1e-9 down, after as much patience as the host has taught
//! ```
//!
//! - `circle`: who observes whom, who stays connected with whom;
//! - `vigil`: one observer's evidence about one host;
//! - `beat`: what is said, and signed words;
//! - `judge`: what follows from all evidence;
//! - `words`: whom it is told;
//! - `twice`: two computers that run as one host.

mod beat;
mod circle;
mod judge;
mod twice;
mod vigil;
mod words;

use std::collections::{BTreeMap, BTreeSet};

pub use beat::{Beat, Finding, MAX_BEAT_BYTES, Signed, Testimony};
pub use circle::{Circle, FULL, sought};

use crate::{
    id::{HostId, MeshId},
    random::Random,
    time::Moment,
};
use twice::Double;
use vigil::{REST_MS, Vigil};

/// Connections come up within this time of a start; before, nobody is missed.
const START_MS: u64 = 3_000;
/// A timer that comes later than this was late itself: what seemed missed meanwhile was not.
const LATE_MS: u64 = 150;
/// Later than this, nothing that was known of others holds.
const LONG_LATE_MS: u64 = 1_000;
/// Words that have lost their worth are looked for so often.
const SWEEP_MS: u64 = 5_000;

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It is.
    Up,
    /// It does not answer.
    Suspect,
    /// It is gone, or was never heard.
    Down,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// These are the members that answer probes, this host included.
    Members(BTreeSet<HostId>),
    /// These are connected.
    Connected(BTreeSet<HostId>),
    /// Of these gossip holds what they said of themselves.
    Told(BTreeSet<HostId>),
    /// A probe or an answer came.
    Beat(HostId, Beat),
    /// From these something came, whatever it was: their connections' acknowledgements are a sign of them as well.
    Heard(BTreeSet<HostId>),
    /// A signed word came, and was verified.
    Word(HostId, Signed),
    /// It is time, by [`Liveness::next`].
    Time,
    /// This host stops, in order.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this.
    Send(HostId, Beat),
    /// Sign this and send it.
    Testify(Testimony, Vec<HostId>),
    /// Send on what another has signed.
    Pass(Signed, Vec<HostId>),
    /// A member is there, or is not, otherwise than before.
    Turn(HostId, Presence),
    /// Two computers run as this member, by a copy of its data directory.
    Twice(HostId),
    /// Another computer runs as this host and did so before it: this one must stop.
    StandDown,
    /// This host speaks in this start from now on: the next one must be later.
    Raise(u64),
    /// Whoever this host met would have told it of another computer that runs as it does.
    Single,
}

/// Another member.
#[derive(Clone, Debug)]
struct Other {
    presence: Presence,
    /// Whether there was any sign of it.
    heard: bool,
    /// Whether gossip holds what it said of itself.
    told: bool,
    /// Its newest word of itself.
    word: Option<Signed>,
    /// That word turned it here: when it is said again, and how often it was.
    rumour: Option<(Moment, usize)>,
    /// The age of what it last said of another computer that runs as it does, and when that came.
    twice: Option<((u64, u64), Moment)>,
    /// When it was last told that it speaks in an old start.
    told_back: Option<Moment>,
    /// When it said that it stops.
    left: Option<Moment>,
    /// What its observers say.
    accounts: BTreeMap<HostId, Account>,
    /// What this host says of it as its observer.
    said: Option<Said>,
    /// When somebody doubted it last.
    doubted: Option<Moment>,
    /// When it was there again after it had left, or had been doubted.
    returned: Option<Moment>,
}

/// What an observer says of a host.
#[derive(Clone, Debug)]
struct Account {
    signed: Signed,
    at: Moment,
    /// The host was heard since.
    void: bool,
    /// How often it was called gone and was there at once; and until when this observer is not believed for that.
    refuted: u32,
    wary: Moment,
}

/// What this host said of another.
#[derive(Clone, Copy, Debug)]
struct Said {
    finding: Finding,
    times: u32,
    at: Moment,
    /// Whether everybody was told, or the other observers alone.
    widely: bool,
}

/// A rule that a test breaks on purpose, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// Every way is taken for a clean one.
    LearnsNothing,
    /// One observer is enough.
    BelievesOne,
    /// The others are not told.
    SaysNothing,
}

/// The machine.
#[derive(Debug)]
pub struct Liveness {
    mesh: MeshId,
    me: HostId,
    /// The start of this host, and the one in which it speaks: a later one, once a copy of it spoke.
    began: u64,
    generation: u64,
    seq: u64,
    random: Random,
    circle: Circle,
    others: BTreeMap<HostId, Other>,
    connected: BTreeSet<HostId>,
    /// Those that this host observes.
    observed: BTreeSet<HostId>,
    /// Those that it asks: all that it observes, and others that are accused.
    vigils: BTreeMap<HostId, Vigil>,
    /// Those of whom there are words that hold.
    accused: BTreeSet<HostId>,
    /// The age of each observer's newest word about this host.
    of_me: BTreeMap<HostId, (u64, u64)>,
    /// Another computer that runs as this host.
    double: Option<Double>,
    /// Of whom it was said lately that there are two.
    named: BTreeMap<HostId, Moment>,
    /// When this host may take itself for the only one, if it may not yet.
    single: Option<Moment>,
    /// When it last said that it is here.
    here: Option<Moment>,
    /// When anything came from anybody.
    reached: Moment,
    /// Since when most others are missing.
    doubt: Option<Moment>,
    sweep: Moment,
    /// It said that it stops: it says nothing more.
    stopped: bool,
    /// When the next `Time` should come.
    expected: Option<Moment>,
    effects: Vec<Effect>,
    broken: Option<Mutant>,
}

impl Other {
    fn new() -> Other {
        Other {
            presence: Presence::Down,
            heard: false,
            told: false,
            word: None,
            rumour: None,
            twice: None,
            told_back: None,
            left: None,
            accounts: BTreeMap::new(),
            said: None,
            doubted: None,
            returned: None,
        }
    }

    /// The age of its newest word of itself.
    fn age(&self) -> (u64, u64) {
        self.word.as_ref().map_or((0, 0), |word| word.testimony.age())
    }
}

impl Liveness {
    /// Begins with a start of this host; `generation` is higher at each.
    pub fn new((mesh, me): (MeshId, HostId), generation: u64, seed: u64, now: Moment) -> Liveness {
        Liveness {
            mesh,
            me,
            began: generation,
            generation,
            seq: 0,
            random: Random::new(seed),
            circle: Circle::default(),
            others: BTreeMap::new(),
            connected: BTreeSet::new(),
            observed: BTreeSet::new(),
            vigils: BTreeMap::new(),
            accused: BTreeSet::new(),
            of_me: BTreeMap::new(),
            double: None,
            named: BTreeMap::new(),
            single: None,
            here: None,
            reached: now,
            doubt: None,
            sweep: now.plus_ms(SWEEP_MS),
            stopped: false,
            expected: None,
            effects: Vec::new(),
            broken: None,
        }
    }

    /// Breaks a rule on purpose.
    #[cfg(test)]
    fn without(self, broken: Option<Mutant>) -> Liveness {
        Liveness { broken, ..self }
    }

    fn is_broken(&self, rule: Mutant) -> bool {
        cfg!(test) && self.broken == Some(rule)
    }

    /// Takes an event, and tells what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        match event {
            Event::Members(members) => self.arrange(&members, now),
            Event::Connected(connected) => self.connect(connected, now),
            Event::Told(told) => self.hear_of(&told, now),
            Event::Beat(from, beat) => self.beat(from, beat, now),
            Event::Heard(hosts) => self.hear(hosts, now),
            Event::Word(from, signed) => self.word(from, signed, now),
            Event::Time => self.time(now),
            Event::Stop => {
                self.testify_here(Finding::Leaving, self.connected.iter().copied().collect(), now);
                self.stopped = true;
            }
        }
        self.expected = self.due();
        std::mem::take(&mut self.effects)
    }

    /// Gives when `Time` is due; none as long as there is nobody to be asked.
    pub fn next(&self) -> Option<Moment> {
        self.expected
    }

    fn due(&self) -> Option<Moment> {
        let first = self.vigils.values().map(Vigil::due).min();
        let sweep = (!self.accused.is_empty()).then_some(self.sweep);
        let again = self.others.values().filter_map(|other| other.rumour.map(|(at, _)| at)).min();
        let double = self.double.and_then(Double::due);
        [first, sweep, again, double, self.single].into_iter().flatten().min()
    }

    /// Lists the members with whom this host keeps connections.
    #[cfg(test)]
    fn neighbours(&self) -> BTreeSet<HostId> {
        self.circle.neighbours(&self.me)
    }

    /// Tells whether a word that somebody brings would matter, before its signature is checked.
    pub fn wants(&self, from: &HostId, testimony: &Testimony, now: Moment) -> bool {
        let Testimony { observer, about, .. } = testimony;
        if *observer == self.me {
            // What this host said of others comes back to it at times.
            return *about == self.me && self.is_of_a_double(testimony);
        }
        if *about == self.me {
            let is_newer = self.of_me.get(observer).is_none_or(|known| testimony.age() > *known);
            return is_newer && self.others.contains_key(observer);
        }
        let Some(other) = self.others.get(about) else { return false };
        match observer == about {
            true if testimony.finding == Finding::Twice => other.wants_twice(testimony, now),
            true => testimony.age() > other.age() || other.speaks_again(from, testimony, now),
            false => {
                let known = other.accounts.get(observer);
                known.is_none_or(|account| testimony.age() > account.signed.testimony.age())
                    && self.circle.observers(about).contains(observer)
            }
        }
    }

    fn arrange(&mut self, members: &BTreeSet<HostId>, now: Moment) {
        self.circle = Circle::of(members);
        let me = self.me;
        self.others.retain(|host, _| members.contains(host));
        let is_new = |host: &&HostId| **host != me && !self.others.contains_key(*host);
        let new: BTreeSet<HostId> = members.iter().filter(is_new).copied().collect();
        self.others.extend(new.iter().map(|host| (*host, Other::new())));
        self.observed = self.circle.observed(&me).into_iter().collect();
        self.vigils.retain(|host, _| self.observed.contains(host));
        self.accused.retain(|host| members.contains(host));
        self.of_me.retain(|host, _| members.contains(host));
        for host in self.observed.clone() {
            if !self.vigils.contains_key(&host) {
                let is_there = self.connected.contains(&host);
                let start = if is_there { 0 } else { START_MS };
                let first = now.plus_ms(start + self.random.between(0, REST_MS));
                let mut vigil = Vigil::new(now, first);
                vigil.heard = self.others.get(&host).is_some_and(|other| other.heard);
                self.vigils.insert(host, vigil);
            }
        }
        for host in self.others.keys().copied().collect::<Vec<_>>() {
            let observers = self.circle.observers(&host);
            if let Some(other) = self.others.get_mut(&host) {
                other.accounts.retain(|observer, _| observers.contains(observer));
            }
            if new.contains(&host) && self.connected.contains(&host) {
                self.alive(host, None, now);
                self.greet(host, now);
            }
            self.turn(host, now);
        }
    }

    fn connect(&mut self, connected: BTreeSet<HostId>, now: Moment) {
        let before = std::mem::replace(&mut self.connected, connected);
        for host in before.difference(&self.connected) {
            if let Some(vigil) = self.vigils.get_mut(host)
                && self.others.get(host).is_some_and(|other| other.presence == Presence::Up)
            {
                vigil.alert(now);
            }
        }
        if !self.connected.is_empty() {
            self.meet_somebody(now);
        }
        let new: Vec<HostId> = self.connected.difference(&before).copied().collect();
        for host in new {
            self.reached = now;
            self.alive(host, None, now);
            if self.others.contains_key(&host) {
                self.greet(host, now);
            }
            // Not before everybody else: those that are met at once are not to be asked at once.
            let first = now.plus_ms(self.random.between(0, REST_MS));
            if let Some(vigil) = self.vigils.get_mut(&host) {
                vigil.meet(first);
            }
        }
    }

    fn hear_of(&mut self, told: &BTreeSet<HostId>, now: Moment) {
        let changed = |(host, other): (&HostId, &mut Other)| {
            let is_new = other.told != told.contains(host);
            other.told = told.contains(host);
            is_new.then_some(*host)
        };
        let changed: Vec<HostId> = self.others.iter_mut().filter_map(changed).collect();
        for host in changed {
            self.turn(host, now);
        }
    }

    fn hear(&mut self, hosts: BTreeSet<HostId>, now: Moment) {
        if !hosts.is_empty() {
            self.reached = now;
        }
        for host in hosts {
            if self.vigils.get(&host).is_none_or(|vigil| !vigil.must_answer(now)) {
                self.alive(host, None, now);
            }
        }
    }

    fn beat(&mut self, from: HostId, beat: Beat, now: Moment) {
        self.reached = now;
        match beat {
            Beat::Probe { number, accused } => {
                self.effects.push(Effect::Send(from, Beat::Answer { number }));
                if accused {
                    self.testify_here(Finding::Here, vec![from], now);
                }
                self.alive(from, None, now);
            }
            Beat::Answer { number } => self.alive(from, Some(number), now),
            // Whoever carries it is there too; what it says comes as a word.
            Beat::Testimony(_) => self.alive(from, None, now),
        }
    }

    fn time(&mut self, now: Moment) {
        let late = self.expected.map_or(0, |expected| now.since_ms(expected));
        if late > LATE_MS {
            let long = late > LONG_LATE_MS;
            self.vigils.values_mut().for_each(|vigil| vigil.overslept(long, now));
        }
        let due = self.vigils.iter().filter(|(_, vigil)| vigil.due() <= now).map(|(host, _)| *host);
        for host in due.collect::<Vec<_>>() {
            let missed = self.vigils.get_mut(&host).is_some_and(|vigil| vigil.missed(now));
            if missed {
                self.missed(host, now);
            }
            self.probe(host, now);
        }
        self.say_again(now);
        self.say_twice(now);
        self.settle(now);
        if now >= self.sweep {
            self.sweep = now.plus_ms(SWEEP_MS);
            for host in self.accused.clone() {
                self.turn(host, now);
                let holds = |other: &Other| other.accounts.values().any(|account| account.holds(now));
                if !self.others.get(&host).is_some_and(holds) {
                    self.accused.remove(&host);
                }
            }
        }
    }

    fn probe(&mut self, host: HostId, now: Moment) {
        let jitter = self.random.between(0, REST_MS / 4);
        let gone = self.others.get(&host).is_none_or(|other| other.presence == Presence::Down);
        let Some(vigil) = self.vigils.get_mut(&host) else { return };
        let accused = vigil.alarm || gone;
        if let Some(number) = vigil.probe(now, jitter, gone)
            && self.connected.contains(&host)
        {
            self.effects.push(Effect::Send(host, Beat::Probe { number, accused }));
        }
    }
}

#[cfg(test)]
mod tests;
