//! How members reach each other: where they may be, whom to dial now, which connections to start over, which relays
//! to use. The machine here puts the parts together; a shell gathers what it sees and carries out what follows.
//!
//! - `ways`: where a member may be;
//! - `dialer`: whom to dial now;
//! - `fallback`: when relays of strangers are used;
//! - `deaf`: connections that hold on to a dead way;
//! - `narrow`: ways that carry small packets alone;
//! - `pulses`: what keeps a way alive over which nothing else goes;
//! - `relays`: the relays in use, and the watchdog; `discovery`: which of them are asked for this host's address;
//! - `situation`: whether nobody answers because they are down, or because nothing gets out of here;
//! - `traffic`: what the connections carried lately;
//! - `path`: what is said of the way to a member;
//! - `turns`: what is told when it becomes another one;
//! - `proof`: whether this host is reached from outside.

pub mod deaf;
pub mod dialer;
pub mod discovery;
pub mod fallback;
pub mod narrow;
pub mod open;
pub mod path;
pub mod proof;
pub mod pulses;
pub mod relays;
pub mod situation;
pub mod traffic;
pub mod turns;
pub mod ways;

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment, wire::record::RelayOffer};
use deaf::{Hearing, Sounding};
use dialer::Dialer;
use fallback::{Fallback, Foreign, Outlook};
use narrow::Widths;
use relays::{Home, Relays};

/// A relay is dead when its host and all whom it carries were silent for so long: two beats of a connection.
const RELAY_SILENT_MS: u64 = 2_500;
/// The same where it carries nobody: its host alone may have lost its direct way, and found another by then.
const RELAY_ALONE_MS: u64 = 5_000;

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody looked around; to come several times a second.
    Look(Sight),
    /// Where these members may be is not what it was: failures before count no more.
    Ways(Vec<HostId>),
    /// These relays are offered now, this host's own first.
    Offered(Vec<RelayOffer>),
    /// This host lost an address.
    Moved,
    /// These members were connected and are not any more.
    Lost(Vec<HostId>),
    /// The long question to a member ended.
    Asked {
        /// The member.
        host: HostId,
        /// Whether an answer came.
        answered: bool,
    },
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Members of whom a way is known.
    pub known: BTreeSet<HostId>,
    /// Who is connected.
    pub connected: BTreeSet<HostId>,
    /// Every open connection.
    pub soundings: Vec<Sounding>,
    /// Members that are reached through a relay now, and its URL.
    pub relayed: BTreeMap<HostId, String>,
    /// The home relays.
    pub homes: Vec<Home>,
    /// There is nobody to be met: no other member, and no token that would lead one here.
    pub alone: bool,
    /// Whose each relay is.
    pub served: BTreeMap<String, HostId>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to this member.
    Dial(HostId),
    /// Close every connection with this member: the endpoint forgets its ways, and the next dial looks for new ones.
    StartOver(HostId, Broke),
    /// Ask this member something as long as a packet may be.
    AskLong(HostId),
    /// Use exactly these relays, and trust these certificates.
    UseRelays {
        /// Those in use.
        used: Vec<RelayOffer>,
        /// All that are offered.
        offered: Vec<RelayOffer>,
    },
    /// Dial members that are missed through these relays, too.
    Lend(Vec<String>),
    /// These relays are left; look for another home.
    LeaveRelays(BTreeSet<String>),
}

/// Why connections are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broke {
    /// The last one has ended.
    Ended,
    /// They hold on to a way that is dead.
    DeadWay,
    /// A relay carries them that is dead.
    DeadRelay,
    /// Their direct way carries small packets alone.
    TooNarrow,
}

/// A rule that a test breaks on purpose, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The host with the larger id never dials.
    LeavesDialling,
    /// Failures do not back off.
    ForgetsFailures,
    /// Connections that hold on to a dead way are kept.
    KeepsDeadWays,
    /// A silent home relay is kept.
    KeepsDeadRelays,
}

/// The machine.
#[derive(Debug)]
pub struct Reachability {
    me: HostId,
    dialer: Dialer,
    hearing: Hearing,
    widths: Widths,
    relays: Relays,
    fallback: Fallback,
    broken: Option<Mutant>,
}

impl Reachability {
    /// Begins when this host starts.
    pub fn new(me: HostId, now: Moment) -> Reachability {
        let (dialer, hearing, relays) = (Dialer::new(me, now), Hearing::default(), Relays::default());
        let widths = Widths::default();
        Reachability { me, dialer, hearing, widths, relays, fallback: Fallback::default(), broken: None }
    }

    /// Lets it fall back on these relays.
    pub fn falling_back_on(self, foreign: Foreign) -> Reachability {
        Reachability { fallback: Fallback::new(foreign), ..self }
    }

    /// Breaks a rule on purpose.
    #[cfg(test)]
    fn without(self, broken: Option<Mutant>) -> Reachability {
        Reachability { broken, ..self }
    }

    /// Takes an event, and tells what is to be done, in this order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        match event {
            Event::Look(sight) => self.look(&sight, now),
            Event::Ways(hosts) => {
                for host in hosts {
                    self.dialer.retry(&host, now);
                }
                Vec::new()
            }
            Event::Offered(offers) => match self.relays.offer(offers) {
                true => vec![self.use_relays()],
                false => Vec::new(),
            },
            Event::Moved => {
                self.hearing.moved(now);
                self.dialer.moved(now);
                Vec::new()
            }
            Event::Lost(hosts) => {
                hosts.into_iter().map(|host| Effect::StartOver(host, Broke::Ended)).collect()
            }
            Event::Asked { host, answered } => match self.widths.asked(&host, answered, now) {
                true => vec![Effect::StartOver(host, Broke::TooNarrow)],
                false => Vec::new(),
            },
        }
    }

    fn look(&mut self, sight: &Sight, now: Moment) -> Vec<Effect> {
        if self.is_broken(Mutant::ForgetsFailures) {
            sight.known.iter().for_each(|host| self.dialer.retry(host, now));
        }
        let mut dialled = self.dialer.due(&sight.known, &sight.connected, now);
        if self.is_broken(Mutant::LeavesDialling) {
            dialled.retain(|host| self.me < *host);
        }
        let mut effects: Vec<Effect> = dialled.into_iter().map(Effect::Dial).collect();
        let mut deaf = self.hearing.note(&sight.soundings, now);
        let forgiven = self.relays.forgive(now);
        let (fell, lent) = self.fall_back(sight, now);
        let in_use = self.used().len();
        let mut left = self.relays.watch(&sight.homes, &self.silent_relays(sight, now), in_use, now);
        if self.is_broken(Mutant::KeepsDeadRelays) {
            left.clear();
        }
        if forgiven || fell || !left.is_empty() {
            effects.push(self.use_relays());
        }
        if lent {
            effects.push(Effect::Lend(self.fallback.lent()));
        }
        if !left.is_empty() {
            // The endpoint would try that way until the connections time out.
            let carried = sight.relayed.iter().filter(|(_, url)| left.contains(*url));
            let carried = carried.map(|(host, _)| Effect::StartOver(*host, Broke::DeadRelay));
            let carried: Vec<Effect> = carried.collect();
            effects.push(Effect::LeaveRelays(left));
            effects.extend(carried);
        }
        if self.is_broken(Mutant::KeepsDeadWays) {
            deaf.clear();
        }
        effects.extend(deaf.into_iter().map(|host| Effect::StartOver(host, Broke::DeadWay)));
        effects.extend(self.widths.note(&sight.soundings, now).into_iter().map(Effect::AskLong));
        effects
    }

    /// Gives the relays that died without a word: their connections stand, and nothing comes over them. The relay is
    /// its host's, so it is silent as well, and so is everybody whom the relay carries; whoever else there is, is not.
    fn silent_relays(&self, sight: &Sight, now: Moment) -> BTreeSet<String> {
        let silence = |host: &HostId| self.hearing.silence_ms(host, now);
        let is_dead = |(url, owner): &(&String, &HostId)| {
            let is_carried = |host: &HostId| sight.relayed.get(host) == Some(*url);
            let carried = sight.relayed.keys().filter(|host| *host != *owner && is_carried(host));
            let carried: Vec<u64> = carried.filter_map(silence).collect();
            let enough = if carried.is_empty() { RELAY_ALONE_MS } else { RELAY_SILENT_MS };
            let others = sight.connected.iter().filter(|host| *host != *owner && !is_carried(host));
            let other_is_heard = others.filter_map(silence).any(|ms| ms < RELAY_SILENT_MS);
            silence(owner).into_iter().chain(carried).all(|ms| ms >= enough)
                && silence(owner).is_some()
                && other_is_heard
        };
        let dead = sight.served.iter().filter(is_dead);
        dead.map(|(url, _)| url.clone()).collect()
    }

    fn is_broken(&self, rule: Mutant) -> bool {
        cfg!(test) && self.broken == Some(rule)
    }

    /// Tells whether other relays are used now, and whether others are lent.
    fn fall_back(&mut self, sight: &Sight, now: Moment) -> (bool, bool) {
        let own: BTreeSet<String> = self.relays.offered().map(|offer| offer.url.clone()).collect();
        let me = self.me;
        let missed = sight.known.difference(&sight.connected).copied().filter(|host| *host != me);
        let (homes, missed) = (&sight.homes[..], missed.collect());
        self.fallback.note(Outlook { homes, own: &own, missed: &missed, alone: sight.alone }, now)
    }

    fn used(&self) -> Vec<RelayOffer> {
        let foreign = self.fallback.used().iter().filter(|offer| !self.relays.is_left(&offer.url));
        self.relays.used().into_iter().chain(foreign.cloned()).collect()
    }

    fn use_relays(&self) -> Effect {
        let offered = self.relays.offered().chain(self.fallback.all()).cloned().collect();
        Effect::UseRelays { used: self.used(), offered }
    }
}

#[cfg(test)]
mod tests;
