//! How members reach each other: where they may be, whom to dial now, which connections to start over, which relays
//! to use. The machine here puts the parts together; a shell gathers what it sees and carries out what follows.
//!
//! - `ways`: where a member may be;
//! - `dialer`: whom to dial now;
//! - `deaf`: connections that hold on to a dead way;
//! - `relays`: the relays in use, and the watchdog;
//! - `path`: what is said of the way to a member.

pub mod deaf;
pub mod dialer;
pub mod open;
pub mod path;
pub mod relays;
pub mod ways;

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment, wire::record::RelayOffer};
use deaf::{Hearing, Sounding};
use dialer::Dialer;
use relays::{Home, Relays};

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody looked around; to come several times a second.
    Look(Sight),
    /// Where these members may be is not what it was: failures before count no more.
    Ways(Vec<HostId>),
    /// These relays are offered now, this host's own first.
    Offered(Vec<RelayOffer>),
    /// These members were connected and are not any more.
    Lost(Vec<HostId>),
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
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to this member.
    Dial(HostId),
    /// Close every connection with this member: the endpoint forgets its ways, and the next dial looks for new ones.
    StartOver(HostId, Broke),
    /// Use exactly these relays, and trust these certificates.
    UseRelays {
        /// Those in use.
        used: Vec<RelayOffer>,
        /// All that are offered.
        offered: Vec<RelayOffer>,
    },
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
    relays: Relays,
    broken: Option<Mutant>,
}

impl Reachability {
    /// Begins when this host starts.
    pub fn new(me: HostId, now: Moment) -> Reachability {
        let (dialer, hearing, relays) = (Dialer::new(me, now), Hearing::default(), Relays::default());
        Reachability { me, dialer, hearing, relays, broken: None }
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
            Event::Lost(hosts) => {
                hosts.into_iter().map(|host| Effect::StartOver(host, Broke::Ended)).collect()
            }
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
        let forgiven = self.relays.forgive(now);
        let mut left = self.relays.watch(&sight.homes, now);
        if self.is_broken(Mutant::KeepsDeadRelays) {
            left.clear();
        }
        if forgiven || !left.is_empty() {
            effects.push(self.use_relays());
        }
        if !left.is_empty() {
            // The endpoint would try that way until the connections time out.
            let carried = sight.relayed.iter().filter(|(_, url)| left.contains(*url));
            let carried = carried.map(|(host, _)| Effect::StartOver(*host, Broke::DeadRelay));
            let carried: Vec<Effect> = carried.collect();
            effects.push(Effect::LeaveRelays(left));
            effects.extend(carried);
        }
        let mut deaf = self.hearing.note(&sight.soundings, now);
        if self.is_broken(Mutant::KeepsDeadWays) {
            deaf.clear();
        }
        effects.extend(deaf.into_iter().map(|host| Effect::StartOver(host, Broke::DeadWay)));
        effects
    }

    fn is_broken(&self, rule: Mutant) -> bool {
        cfg!(test) && self.broken == Some(rule)
    }

    fn use_relays(&self) -> Effect {
        Effect::UseRelays { used: self.relays.used(), offered: self.relays.offered().cloned().collect() }
    }
}

#[cfg(test)]
mod tests;
