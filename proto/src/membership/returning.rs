//! How a host that was away comes back: it hears what members have said meanwhile before it serves any of them, so that
//! whoever was put out while it was away finds no door that still stands open.
//!
//! ```text
//!            compared with an issuer, or with most members; nobody to hear from; or ten seconds
//!   waits ──────────────────────────────────────────────────────────────────────────────────────► serves
//!     ▲                                                                                             │
//!     └───── started; asleep for longer than connections live; a minute without any member ◄───────┘
//! ```
//! The ten seconds begin with the start and with the wake; after a time without any member, with the first that is met.
//! What was compared before does not count. Nothing here serves, compares or reads a clock.

use std::collections::BTreeSet;

use crate::{id::HostId, time::Moment};

/// The longest that a host waits that hears from nobody who matters: members that need it need it more than they fear
/// who was put out.
pub const WAIT_MS: u64 = 10_000;
/// Without a packet for so long connections end. What was said during a shorter sleep still comes on those there are.
const ASLEEP_MS: u64 = 8_000;
/// Without any member for so long a host counts as away: a way that changes, or a member that restarts, takes less.
const LONELY_MS: u64 = 60_000;

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// These are the members now, and these of them may put others out.
    Members {
        /// All of them, this host included.
        all: BTreeSet<HostId>,
        /// The issuers.
        issuers: BTreeSet<HostId>,
    },
    /// These hosts are connected now.
    Connected(BTreeSet<HostId>),
    /// A comparison of statements came to its end.
    Compared {
        /// With whom.
        with: HostId,
        /// When it was begun.
        begun: Moment,
    },
    /// Time has passed.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// This host waits from now on: what members have open for its services is closed.
    Wait,
    /// Compare statements with this host, at once.
    Compare(HostId),
    /// This host serves from now on.
    Serve,
}

/// The machine.
#[derive(Debug)]
pub struct Returning {
    me: HostId,
    others: BTreeSet<HostId>,
    issuers: BTreeSet<HostId>,
    connected: BTreeSet<HostId>,
    stage: Stage,
    /// When it was asked last; a host that sleeps asks nothing.
    asked: Moment,
    /// When a member was connected last, or could have been.
    met: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Waits {
        since: Moment,
        /// Not known before a member was met.
        until: Option<Moment>,
        /// With whom statements were compared since.
        compared: BTreeSet<HostId>,
    },
    Serves,
}

impl Returning {
    /// Begins with a start, among these members: all of them, and those that are issuers.
    pub fn new(me: HostId, (all, issuers): (BTreeSet<HostId>, BTreeSet<HostId>), now: Moment) -> Returning {
        let stage = Stage::waits(now, Some(now.plus_ms(WAIT_MS)));
        let connected = BTreeSet::new();
        let mut machine =
            Returning { me, others: BTreeSet::new(), issuers, connected, stage, asked: now, met: now };
        machine.others = machine.without_me(all);
        machine.decide(now);
        machine
    }

    /// Tells whether this host serves members. It does not as soon as it was away, be it that nobody has told it so yet.
    pub fn serves(&self, now: Moment) -> bool {
        self.hears_nobody() || self.stage == Stage::Serves && !self.slept(now) && !self.is_lonely(now)
    }

    /// Takes an event, and tells what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = self.notice(now);
        self.asked = now;
        match event {
            Event::Members { all, issuers } => {
                self.others = self.without_me(all);
                self.issuers = issuers;
            }
            Event::Connected(connected) => effects.extend(self.connect(connected, now)),
            Event::Compared { with, begun } => self.compare(with, begun),
            Event::Time => {}
        }
        effects.extend(self.decide(now));
        effects
    }

    /// A member asks something of this host: it is met, by whatever way it came.
    pub fn knocked(&mut self, now: Moment) {
        if let Stage::Waits { until, .. } = &mut self.stage {
            until.get_or_insert(now.plus_ms(WAIT_MS));
        }
    }

    /// Finds out whether this host was away until now.
    fn notice(&mut self, now: Moment) -> Vec<Effect> {
        if self.hears_nobody() {
            self.met = now;
            return Vec::new();
        }
        if self.slept(now) {
            self.met = now;
            return self.wait(now, Some(now.plus_ms(WAIT_MS)));
        }
        if self.stage == Stage::Serves && self.is_lonely(now) {
            return self.wait(now, None);
        }
        if !self.connected.is_empty() {
            self.met = now;
        }
        Vec::new()
    }

    fn wait(&mut self, now: Moment, until: Option<Moment>) -> Vec<Effect> {
        self.stage = Stage::waits(now, until);
        let all = self.issuers_first(&self.connected);
        [Effect::Wait].into_iter().chain(all.into_iter().map(Effect::Compare)).collect()
    }

    fn connect(&mut self, connected: BTreeSet<HostId>, now: Moment) -> Vec<Effect> {
        let connected = self.without_me(connected);
        let new: BTreeSet<HostId> = connected.difference(&self.connected).copied().collect();
        self.connected = connected;
        let Stage::Waits { until, .. } = &mut self.stage else { return Vec::new() };
        if !new.is_empty() {
            until.get_or_insert(now.plus_ms(WAIT_MS));
        }
        self.issuers_first(&new).into_iter().map(Effect::Compare).collect()
    }

    fn compare(&mut self, with: HostId, begun: Moment) {
        if let Stage::Waits { since, compared, .. } = &mut self.stage
            && begun >= *since
        {
            compared.insert(with);
        }
    }

    /// Serves when it may.
    fn decide(&mut self, now: Moment) -> Option<Effect> {
        let Stage::Waits { until, compared, .. } = &self.stage else { return None };
        let by_issuer = compared.iter().any(|host| self.others.contains(host) && self.issuers.contains(host));
        let by_most = 2 * compared.intersection(&self.others).count() > self.others.len();
        let is_over = until.is_some_and(|until| until <= now);
        (by_issuer || by_most || is_over || self.hears_nobody()).then(|| {
            self.stage = Stage::Serves;
            Effect::Serve
        })
    }

    /// Tells whether nobody could have put anybody out but this host: it is the only member, or the only issuer.
    fn hears_nobody(&self) -> bool {
        self.others.is_empty() || self.issuers.iter().eq([&self.me])
    }

    fn slept(&self, now: Moment) -> bool {
        now.since_ms(self.asked) > ASLEEP_MS
    }

    fn is_lonely(&self, now: Moment) -> bool {
        self.connected.is_empty() && now.since_ms(self.met) > LONELY_MS
    }

    fn without_me(&self, mut hosts: BTreeSet<HostId>) -> BTreeSet<HostId> {
        hosts.remove(&self.me);
        hosts
    }

    /// Comparisons are made a few at a time, and one with an issuer is enough.
    fn issuers_first(&self, hosts: &BTreeSet<HostId>) -> Vec<HostId> {
        let (first, rest): (Vec<HostId>, Vec<HostId>) =
            hosts.iter().partition(|host| self.issuers.contains(*host));
        [first, rest].concat()
    }
}

impl Stage {
    fn waits(since: Moment, until: Option<Moment>) -> Stage {
        Stage::Waits { since, until, compared: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests;
