//! How statements come to everybody: with whom this host compares its set, and when.
//!
//! ```text
//! learned ──pause──► told to the neighbours ──► who pass on what was new to them
//! connected ───────► compared, by the smaller id of the two
//! wanted ──────────► compared, at once
//! every now and then compared with somebody
//! ```
//! Two hosts compare a digest over their sets first, so equal sets cost one small message; only what lacks is sent.
//! What is told goes to the two neighbours on the ring of those that are connected, which alone reaches everybody where
//! everybody is connected with everybody, and to a few others, which makes it fast. In a larger mesh each is connected with
//! few and that ring has gaps: there most of them are told. What got lost is found by the comparisons that follow.
//! Nothing here knows what a statement says, and nothing here sends.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    backoff::BackOff,
    id::{Digest, HostId},
    liveness::FULL,
    random::Random,
    time::Moment,
};

/// Statements that arrive together are told together. Drawn anew each time, so that hosts that learn the same at once
/// do not tell it at once.
const PAUSE_MS: (u64, u64) = (30, 150);
/// Neighbours beyond those on the ring that are told: with two, a mesh of forty knows after three or four hops.
const OTHERS: usize = 2;
/// The same where not all are connected with each other, drawn from a dozen: somebody whom none of a dozen tells would hear
/// it in a round, seconds later.
const OTHERS_APART: usize = 10;
/// Statements that are told by themselves; of more, the comparison finds out.
const MAX_NEWS: usize = 32;
/// Comparisons under way at once.
const WIDTH: usize = 4;
/// How often somebody is compared with, whatever happens: half a minute makes up for any message that got lost.
const ROUND_MS: (u64, u64) = (8_000, 12_000);
/// Before a comparison that failed is tried again.
const AGAIN: BackOff = BackOff::new(1_000, 8_000);
/// Failures in a row after which it is left to the next connection, change or round.
const MAX_TRIES: u32 = 4;
/// How often an issuer looks whether a certificate is due.
const HOUSEKEEPING_MS: u64 = 60_000;

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// These hosts are connected now.
    Connected(BTreeSet<HostId>),
    /// So many hosts are members now.
    Members(usize),
    /// These statements are new here.
    Learned {
        /// Their digests.
        statements: Vec<Digest>,
        /// Who told them; nobody when they are this host's own.
        from: Option<HostId>,
    },
    /// This host wants to know what that one has, before it does anything else with it.
    Wanted(HostId),
    /// A comparison came to its end.
    Compared(HostId),
    /// A comparison failed; the other side may have heard it or not.
    Failed(HostId),
    /// Time has passed.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Compare sets with this host, telling it these statements. Answered by `Compared` or `Failed`.
    Compare {
        /// With whom.
        with: HostId,
        /// What it probably lacks.
        news: Vec<Digest>,
    },
    /// See whether this host owes somebody a certificate, and whether anything waits to be stored.
    KeepHouse,
}

/// A rule that a test breaks on purpose, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// What was new is not passed on.
    TellsNobody,
    /// Nobody is compared with now and then.
    SkipsRounds,
    /// A new connection is no reason to compare.
    IgnoresConnections,
    /// Everybody is told everything.
    TellsEverybody,
    /// As few are told where not all are connected with each other.
    TellsFewApart,
    /// A host whose comparison failed is never compared with again.
    ForgetsFailed,
}

/// The machine.
#[derive(Debug)]
pub struct Spread {
    me: HostId,
    random: Random,
    members: usize,
    connected: BTreeSet<HostId>,
    due: BTreeMap<HostId, Due>,
    under_way: BTreeMap<HostId, Due>,
    round: Moment,
    house: Moment,
    broken: Option<Mutant>,
}

/// A comparison that waits or is under way.
#[derive(Clone, Debug)]
struct Due {
    at: Moment,
    news: BTreeSet<Digest>,
    tries: u32,
}

impl Spread {
    /// Begins with nobody connected. `seed` makes the draws of this host.
    pub fn new(me: HostId, seed: u64, now: Moment) -> Spread {
        let mut random = Random::new(seed);
        let round = now.plus_ms(random.between(ROUND_MS.0, ROUND_MS.1));
        Spread {
            me,
            random,
            members: 0,
            connected: BTreeSet::new(),
            due: BTreeMap::new(),
            under_way: BTreeMap::new(),
            round,
            house: now,
            broken: None,
        }
    }

    /// Breaks a rule on purpose.
    #[cfg(test)]
    pub(super) fn without(self, broken: Option<Mutant>) -> Spread {
        Spread { broken, ..self }
    }

    /// Takes an event, and tells what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        match event {
            Event::Connected(connected) => self.connect(connected, now),
            Event::Members(count) => self.members = count,
            Event::Learned { statements, from } => {
                self.learn(&statements, from, now);
                self.house = self.house.min(now);
            }
            Event::Wanted(host) => self.plan(host, [], now),
            Event::Compared(host) => drop(self.under_way.remove(&host)),
            Event::Failed(host) => self.fail(host, now),
            Event::Time => {}
        }
        self.work(now)
    }

    /// Gives the next moment at which something is due.
    pub fn next(&self) -> Moment {
        let waiting = self.due.iter().filter(|(host, _)| !self.under_way.contains_key(*host));
        let waiting = waiting.map(|(_, due)| due.at).min();
        let told = waiting.filter(|_| self.under_way.len() < WIDTH);
        told.into_iter().fold(self.round.min(self.house), Moment::min)
    }

    fn connect(&mut self, connected: BTreeSet<HostId>, now: Moment) {
        let is_mine = |host: &&HostId| self.me < **host && !self.is_broken(Mutant::IgnoresConnections);
        let new: Vec<HostId> = connected.difference(&self.connected).filter(is_mine).copied().collect();
        self.connected = connected;
        self.connected.remove(&self.me);
        self.due.retain(|host, _| self.connected.contains(host));
        for host in new {
            let at = self.soon(now);
            self.plan(host, [], at);
        }
    }

    fn learn(&mut self, statements: &[Digest], from: Option<HostId>, now: Moment) {
        if self.is_broken(Mutant::TellsNobody) && from.is_some() {
            return;
        }
        let neighbours = self.neighbours();
        for host in neighbours.into_iter().filter(|host| Some(*host) != from) {
            let at = self.soon(now);
            self.plan(host, statements.iter().copied(), at);
        }
    }

    /// Chooses who is told: those before and after this host on the ring of the connected, and a few more.
    fn neighbours(&mut self) -> BTreeSet<HostId> {
        if self.is_broken(Mutant::TellsEverybody) {
            return self.connected.clone();
        }
        let after = self.connected.range(self.me..).next().or(self.connected.first());
        let before = self.connected.range(..self.me).next_back().or(self.connected.last());
        let mut chosen: BTreeSet<HostId> = after.into_iter().chain(before).copied().collect();
        let apart = self.members > FULL && !self.is_broken(Mutant::TellsFewApart);
        for _ in 0..if apart { OTHERS_APART } else { OTHERS } {
            chosen.extend(self.anybody());
        }
        chosen
    }

    fn anybody(&mut self) -> Option<HostId> {
        let count = u64::try_from(self.connected.len()).unwrap_or(u64::MAX);
        let at = self.random.below(count)?;
        self.connected.iter().nth(usize::try_from(at).ok()?).copied()
    }

    fn soon(&mut self, now: Moment) -> Moment {
        now.plus_ms(self.random.between(PAUSE_MS.0, PAUSE_MS.1))
    }

    fn plan(&mut self, host: HostId, news: impl IntoIterator<Item = Digest>, at: Moment) {
        let due = self.due.entry(host).or_insert(Due { at, news: BTreeSet::new(), tries: 0 });
        due.at = due.at.min(at);
        let before = due.news.len();
        due.news.extend(news);
        if due.news.len() > before {
            // What a round or an earlier failure gave up on, news is tried for.
            due.tries = 0;
        }
        while due.news.len() > MAX_NEWS {
            due.news.pop_last();
        }
    }

    fn fail(&mut self, host: HostId, now: Moment) {
        let Some(failed) = self.under_way.remove(&host) else { return };
        let is_there = self.connected.contains(&host) && !self.is_broken(Mutant::ForgetsFailed);
        if is_there && failed.tries < MAX_TRIES {
            let at = now.plus_ms(AGAIN.after_ms(failed.tries + 1));
            let due = self.due.entry(host).or_insert(Due { at, news: BTreeSet::new(), tries: 0 });
            due.at = due.at.max(at);
            due.tries = failed.tries + 1;
            due.news.extend(failed.news.into_iter().take(MAX_NEWS.saturating_sub(due.news.len())));
        }
    }

    fn work(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.round <= now {
            self.round = now.plus_ms(self.random.between(ROUND_MS.0, ROUND_MS.1));
            let anybody = self.anybody().filter(|_| !self.is_broken(Mutant::SkipsRounds));
            if let Some(host) = anybody.filter(|host| !self.due.contains_key(host)) {
                self.due.insert(host, Due { at: now, news: BTreeSet::new(), tries: MAX_TRIES });
            }
        }
        if self.house <= now {
            self.house = now.plus_ms(HOUSEKEEPING_MS);
            effects.push(Effect::KeepHouse);
        }
        let ready =
            self.due.iter().filter(|(host, due)| due.at <= now && !self.under_way.contains_key(*host));
        let mut ready: Vec<(Moment, HostId)> = ready.map(|(host, due)| (due.at, *host)).collect();
        ready.sort();
        for (_, host) in ready.into_iter().take(WIDTH.saturating_sub(self.under_way.len())) {
            if let Some(due) = self.due.remove(&host) {
                effects.push(Effect::Compare { with: host, news: due.news.iter().copied().collect() });
                self.under_way.insert(host, due);
            }
        }
        effects
    }

    fn is_broken(&self, rule: Mutant) -> bool {
        cfg!(test) && self.broken == Some(rule)
    }
}
