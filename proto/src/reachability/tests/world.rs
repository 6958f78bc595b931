//! Worlds of nothing but these machines: hosts whose ways die and come back, behind routers that let only one side
//! dial, with relays that die. The endpoint is as stubborn as the real one: while a connection holds on to a dead way,
//! a new dial takes that way too.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    deaf::{Carried, Sounding},
    relays::Home,
    *,
};
use crate::id::Digest;

const TICK_MS: u64 = 250;
/// A connection that hears nothing for so long ends.
const IDLE_MS: u64 = 8_000;
const HOSTS: u8 = 5;

fn host(number: u8) -> HostId {
    HostId([number; 32])
}

fn relay(name: u8) -> RelayOffer {
    RelayOffer { url: format!("http://{name}/"), qad_port: 1, certificate: Digest([name; 32]) }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    id: usize,
    relayed: bool,
    received: u64,
    heard: Moment,
}

struct End {
    machine: Reachability,
    connections: BTreeMap<HostId, Vec<Connection>>,
    dials: BTreeMap<HostId, Vec<Moment>>,
    used: BTreeSet<String>,
    home: Option<String>,
}

struct World {
    now: Moment,
    count: usize,
    ends: BTreeMap<HostId, End>,
    /// Pairs without a direct way now.
    blocked: BTreeSet<(HostId, HostId)>,
    /// Who cannot be dialled directly, only dial.
    behind: BTreeSet<HostId>,
    dead_relays: BTreeSet<String>,
}

fn pair(one: HostId, other: HostId) -> (HostId, HostId) {
    (one.min(other), one.max(other))
}

impl World {
    fn new(broken: Option<Mutant>) -> World {
        let now = Moment(1_000_000);
        let end = |number| End {
            machine: Reachability::new(host(number), now).without(broken),
            connections: BTreeMap::new(),
            dials: BTreeMap::new(),
            used: BTreeSet::new(),
            home: None,
        };
        let ends = (0..HOSTS).map(|number| (host(number), end(number))).collect();
        let (blocked, behind, dead_relays) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        World { now, count: 0, ends, blocked, behind, dead_relays }
    }

    fn offer(&mut self, relays: &[u8]) {
        let offers: Vec<RelayOffer> = relays.iter().map(|name| relay(*name)).collect();
        for at in self.ends.keys().copied().collect::<Vec<_>>() {
            self.happen(at, Event::Offered(offers.clone()));
        }
    }

    fn happen(&mut self, at: HostId, event: Event) {
        let effects = self.ends.get_mut(&at).unwrap().machine.on(event, self.now);
        for effect in effects {
            match effect {
                Effect::Dial(to) => self.dial(at, to),
                Effect::StartOver(with, _) => self.close(at, with),
                // Nothing is ever lost here but all.
                Effect::AskLong(_) => unreachable!("no way is narrow"),
                Effect::UseRelays { used, .. } => {
                    let end = self.ends.get_mut(&at).unwrap();
                    end.used = used.into_iter().map(|offer| offer.url).collect();
                    // A home that is not used any more is left; another is found only when this one is.
                    end.home = end.home.take().filter(|home| end.used.contains(home));
                }
                Effect::Lend(lent) => assert_eq!(lent, Vec::<String>::new(), "there are none"),
                Effect::LeaveRelays(left) => {
                    let end = self.ends.get_mut(&at).unwrap();
                    end.home = end.home.take().filter(|home| !left.contains(home));
                }
            }
        }
    }

    fn dial(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        self.ends.get_mut(&from).unwrap().dials.entry(to).or_default().push(now);
        let open = self.ends[&from].connections.get(&to).into_iter().flatten();
        let is_held = open.clone().any(|connection| !connection.relayed && self.is_silent(connection));
        let is_open = !self.blocked.contains(&pair(from, to)) && !self.behind.contains(&to) && !is_held;
        let by_relay =
            |home: &Option<String>| home.as_ref().is_some_and(|home| !self.dead_relays.contains(home));
        let is_relayed = by_relay(&self.ends[&to].home) && by_relay(&self.ends[&from].home);
        if is_open || is_relayed {
            self.connect(from, to, !is_open);
        }
    }

    fn connect(&mut self, one: HostId, other: HostId, relayed: bool) {
        self.count += 1;
        let connection = Connection { id: self.count, relayed, received: 1, heard: self.now };
        for (at, with) in [(one, other), (other, one)] {
            self.ends.get_mut(&at).unwrap().connections.entry(with).or_default().push(connection);
        }
    }

    fn close(&mut self, one: HostId, other: HostId) {
        for (at, with) in [(one, other), (other, one)] {
            self.ends.get_mut(&at).unwrap().connections.remove(&with);
        }
    }

    fn is_silent(&self, connection: &Connection) -> bool {
        self.now.since_ms(connection.heard) > 1_000
    }

    /// Lets every open connection beat, and ends those that were silent for too long.
    fn beat(&mut self) {
        let (now, blocked, dead) = (self.now, self.blocked.clone(), self.dead_relays.clone());
        let homes: BTreeMap<HostId, Option<String>> =
            self.ends.iter().map(|(at, end)| (*at, end.home.clone())).collect();
        let mut lost: Vec<(HostId, HostId)> = Vec::new();
        for (at, end) in &mut self.ends {
            for (with, connections) in &mut end.connections {
                for connection in connections.iter_mut() {
                    let carried =
                        |home: &Option<String>| home.as_ref().is_some_and(|home| !dead.contains(home));
                    let lives = match connection.relayed {
                        true => carried(&homes[at]) && carried(&homes[with]),
                        false => !blocked.contains(&pair(*at, *with)),
                    };
                    if lives {
                        (connection.received, connection.heard) = (connection.received + 1, now);
                    }
                }
                let before = connections.len();
                connections.retain(|connection| now.since_ms(connection.heard) < IDLE_MS);
                if connections.is_empty() && before > 0 {
                    lost.push((*at, *with));
                }
            }
            end.connections.retain(|_, connections| !connections.is_empty());
            if end.home.is_none() {
                end.home = end.used.first().cloned();
            }
        }
        for (at, with) in lost {
            self.happen(at, Event::Lost(vec![with]));
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now.plus_ms(millis);
        while self.now < end {
            self.now = self.now.plus_ms(TICK_MS);
            self.beat();
            for at in self.ends.keys().copied().collect::<Vec<_>>() {
                let sight = self.sight(at);
                self.happen(at, Event::Look(sight));
            }
        }
    }

    fn sight(&self, at: HostId) -> Sight {
        let end = &self.ends[&at];
        let sounding = |host: HostId, connection: &Connection| Sounding {
            host,
            connection: connection.id,
            received: connection.received,
            sent: 0,
            direct: !connection.relayed,
            relayed: connection.relayed,
            carried: Carried::default(),
        };
        let all = end.connections.iter();
        let soundings = all.clone().flat_map(|(with, open)| open.iter().map(|open| sounding(*with, open)));
        let carried = all.filter(|(_, open)| open.iter().all(|open| open.relayed));
        let home = end.home.clone();
        Sight {
            alone: false,
            known: self.ends.keys().filter(|host| **host != at).copied().collect(),
            connected: end.connections.keys().copied().collect(),
            soundings: soundings.collect(),
            relayed: carried.filter_map(|(with, _)| Some((*with, home.clone()?))).collect(),
            homes: home
                .iter()
                .map(|url| Home { url: url.clone(), is_connected: !self.dead_relays.contains(url) })
                .collect(),
            served: BTreeMap::new(),
        }
    }

    /// Tells whether every two hosts hear each other.
    fn are_connected(&self) -> bool {
        self.ends.iter().all(|(at, end)| {
            let others = self.ends.keys().filter(|with| *with != at);
            others.into_iter().all(|with| {
                let open = end.connections.get(with).into_iter().flatten();
                open.into_iter().any(|connection| !self.is_silent(connection))
            })
        })
    }

    /// Gives the most dials of one host to another within one minute.
    fn most_dials(&self) -> usize {
        let all = self.ends.values().flat_map(|end| end.dials.values());
        let in_a_minute = |dials: &Vec<Moment>, from: &Moment| {
            dials.iter().filter(|dial| **dial >= *from && dial.since_ms(*from) < 60_000).count()
        };
        all.flat_map(|dials| dials.iter().map(move |from| in_a_minute(dials, from))).max().unwrap_or(0)
    }
}

/// Hosts behind a router that lets them dial only; those with the larger ids must do it.
fn behind_a_router(broken: Option<Mutant>) -> World {
    let mut world = World::new(broken);
    world.behind = BTreeSet::from([host(4)]);
    world.run(60_000);
    world
}

/// All direct ways die one after the other and come back, while relays are there.
fn ways_that_die(broken: Option<Mutant>) -> World {
    let mut world = World::new(broken);
    world.offer(&[8, 9]);
    world.run(20_000);
    for round in 0..HOSTS {
        for other in 0..HOSTS {
            world.blocked.insert(pair(host(round), host(other)));
        }
        world.run(3_000 + u64::from(round) * 2_000);
    }
    world.run(60_000);
    world
}

/// The home relay dies, and nothing but relays leads from one to another.
fn a_relay_that_dies(broken: Option<Mutant>) -> World {
    let mut world = ways_that_die(broken);
    world.dead_relays.insert("http://8/".to_owned());
    world.run(60_000);
    world
}

/// A host is away for ten minutes.
fn a_host_that_is_away(broken: Option<Mutant>) -> World {
    let mut world = World::new(broken);
    world.run(20_000);
    world.blocked = (0..HOSTS - 1).map(|other| pair(host(other), host(HOSTS - 1))).collect();
    world.run(600_000);
    world.blocked.clear();
    world.run(60_000);
    world
}

#[test]
fn within_a_minute_of_the_last_fault_all_are_connected_and_nobody_was_dialled_all_the_time() {
    for life in [behind_a_router, ways_that_die, a_relay_that_dies, a_host_that_is_away] {
        let world = life(None);
        assert!(world.are_connected());
        assert!(world.most_dials() <= 16, "{} dials in a minute", world.most_dials());
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    assert!(!behind_a_router(Some(Mutant::LeavesDialling)).are_connected());
    assert!(!a_relay_that_dies(Some(Mutant::KeepsDeadRelays)).are_connected());
    assert!(a_host_that_is_away(Some(Mutant::ForgetsFailures)).most_dials() > 50);
    assert!(!a_way_that_is_held(Some(Mutant::KeepsDeadWays)) && a_way_that_is_held(None));
}

/// A direct connection goes deaf beside one through a relay, which then ends; tells whether the two meet again soon.
fn a_way_that_is_held(broken: Option<Mutant>) -> bool {
    let mut world = World::new(broken);
    world.offer(&[8, 9]);
    world.run(10_000);
    let (one, other) = (host(0), host(1));
    world.connect(one, other, true);
    world.blocked.insert(pair(one, other));
    world.run(6_000);
    let held = world.ends[&one].connections.get(&other).into_iter().flatten();
    let held = held.into_iter().any(|connection| !connection.relayed);
    world.run(2_000);
    !held && world.are_connected()
}
