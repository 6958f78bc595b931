//! Worlds of nothing but these machines: hosts that die, freeze, stop and come back, on ways that lose what they carry.
//! Nobody signs here: what a machine testifies is its own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::super::{vigil::REST_MS, *};
use crate::reachability::pulses::LOOK_MS;

/// One way; a home and the next.
const DELAY_MS: u64 = 10;

#[derive(Debug)]
enum Happening {
    Time,
    Come(HostId, Beat),
    /// The connection with a host brings its pulse, or the acknowledgement of one.
    Pulse(HostId),
    Acknowledged(HostId),
    /// It is looked at what connections brought.
    Look(u64),
    Word(HostId, Signed),
}

struct Host {
    machine: Liveness,
    alive: bool,
    /// Of whom something came since the last look.
    heard: BTreeSet<HostId>,
    /// Until when it stands still: what comes in waits.
    frozen: Moment,
    /// When its timer is set to.
    timer: Option<Moment>,
}

/// How a world goes wrong.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    /// Packets in a hundred that are lost, each way.
    pub(super) loss: u64,
    /// One of so many ordered pairs carries nothing.
    pub(super) one_way: Option<u64>,
    /// The first so many hosts stand still in five of six seconds.
    pub(super) freezing: usize,
}

pub(super) struct World {
    pub(super) now: Moment,
    hosts: BTreeMap<HostId, Host>,
    pub(super) ids: Vec<HostId>,
    queue: BinaryHeap<Reverse<(Moment, u64)>>,
    happenings: BTreeMap<u64, (HostId, Happening)>,
    count: u64,
    faults: Faults,
    random: Random,
    starts: u64,
    /// Everything that turned: when, for whom, who, and how.
    pub(super) turns: Vec<(Moment, HostId, HostId, Presence)>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

fn id(number: usize) -> HostId {
    HostId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

impl World {
    pub(super) fn new(hosts: usize, faults: Faults, seed: u64, broken: Option<Mutant>) -> World {
        let ids: Vec<HostId> = (0..hosts).map(id).collect();
        let mut world = World {
            now: Moment(1_000_000),
            hosts: BTreeMap::new(),
            ids: ids.clone(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            count: 0,
            faults,
            random: Random::new(seed),
            starts: 0,
            turns: Vec::new(),
            packets: 0,
            bytes: 0,
        };
        for host in ids {
            world.start(host, broken);
        }
        world.run(2 * REST_MS);
        world.run(5_000);
        world
    }

    /// Starts a host that is connected with its neighbours and knows of everybody.
    pub(super) fn start(&mut self, host: HostId, broken: Option<Mutant>) {
        self.starts += 1;
        let seed = self.random.draw();
        let machine = Liveness::new((MeshId([7; 32]), host), self.starts, seed, self.now).without(broken);
        self.hosts.insert(
            host,
            Host { machine, alive: true, heard: BTreeSet::new(), frozen: Moment(0), timer: None },
        );
        let first = self.now.plus_ms(self.random.between(0, LOOK_MS));
        self.queue(host, first, Happening::Look(self.starts));
        let all: BTreeSet<HostId> = self.ids.iter().copied().collect();
        self.happen(host, Event::Members(all.clone()));
        let neighbours = self.hosts[&host].machine.neighbours();
        self.happen(host, Event::Told(all));
        let connected =
            neighbours.into_iter().filter(|other| self.hosts.get(other).is_some_and(|host| host.alive));
        let connected: BTreeSet<HostId> = connected.collect();
        for other in &connected {
            let mut theirs = self.hosts[other].machine.connected.clone();
            theirs.remove(&host);
            self.happen(*other, Event::Connected(theirs.clone()));
            theirs.insert(host);
            self.happen(*other, Event::Connected(theirs));
        }
        self.happen(host, Event::Connected(connected));
    }

    pub(super) fn kill(&mut self, host: HostId) {
        self.hosts.get_mut(&host).unwrap().alive = false;
    }

    /// Lets two hosts lose each other and meet again.
    pub(super) fn reconnect(&mut self, pair: [HostId; 2]) {
        for (at, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let mut connected = self.hosts[&at].machine.connected.clone();
            connected.remove(&other);
            self.happen(at, Event::Connected(connected.clone()));
            connected.insert(other);
            self.happen(at, Event::Connected(connected));
        }
    }

    pub(super) fn stop(&mut self, host: HostId) {
        self.happen(host, Event::Stop);
        self.kill(host);
    }

    /// Lets a host stand still for so long.
    pub(super) fn freeze(&mut self, host: HostId, for_ms: u64) {
        self.hosts.get_mut(&host).unwrap().frozen = self.now.plus_ms(for_ms);
    }

    /// Tells how many think so of a host.
    pub(super) fn seen(&self, of: HostId, presence: Presence) -> usize {
        let others = self.hosts.iter().filter(|(at, host)| **at != of && host.alive);
        others.filter(|(_, host)| host.machine.others[&of].presence == presence).count()
    }

    /// Runs until all that live think so of a host; gives how long it took.
    pub(super) fn until(&mut self, of: HostId, presence: Presence, within_ms: u64) -> Option<u64> {
        let begun = self.now;
        let all = self.hosts.iter().filter(|(at, host)| **at != of && host.alive).count();
        while self.now.since_ms(begun) <= within_ms {
            if self.seen(of, presence) == all {
                return Some(self.now.since_ms(begun));
            }
            self.run(50);
        }
        None
    }

    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now.plus_ms(millis);
        while let Some(Reverse((at, number))) = self.queue.peek().copied().filter(|next| next.0.0 <= end) {
            self.queue.pop();
            self.now = at;
            let (to, happening) = self.happenings.remove(&number).unwrap();
            self.meet(to, number, happening);
        }
        self.now = end;
    }

    fn meet(&mut self, to: HostId, number: u64, happening: Happening) {
        let place = self.ids.iter().position(|id| *id == to).unwrap_or(usize::MAX);
        let second = self.now.0 / 1000 + place as u64;
        let freezes = place < self.faults.freezing && !second.is_multiple_of(6);
        let Some(host) = self.hosts.get_mut(&to).filter(|host| host.alive) else { return };
        let thaws = if freezes { Moment((self.now.0 / 1000 + 1) * 1000) } else { host.frozen };
        if self.now < thaws {
            self.happenings.insert(number, (to, happening));
            self.queue.push(Reverse((thaws, number)));
            return;
        }
        let start = host.machine.began;
        let event = match happening {
            Happening::Look(of) if of != start => return,
            Happening::Look(_) => return self.look(to),
            Happening::Pulse(from) => return self.hear(to, from, true),
            Happening::Acknowledged(from) => return self.hear(to, from, false),
            Happening::Time if host.timer.is_some_and(|timer| timer > self.now) => return,
            Happening::Time => Event::Time,
            Happening::Come(from, beat) => Event::Beat(from, beat),
            Happening::Word(from, signed) => Event::Word(from, signed),
        };
        self.happen(to, event);
    }

    /// Pulses on the connections that this host dialled once a second, and tells its machine of whom something came.
    fn look(&mut self, at: HostId) {
        let host = self.hosts.get_mut(&at).unwrap();
        let (heard, start) = (std::mem::take(&mut host.heard), host.machine.began);
        let dialled = host.machine.connected.range(at..).copied().collect::<Vec<_>>();
        let pulses = (self.now.0 / LOOK_MS).is_multiple_of(1_000 / LOOK_MS);
        for to in dialled.into_iter().filter(|_| pulses) {
            self.send(at, to, 0, |()| Happening::Pulse(at));
        }
        if !heard.is_empty() {
            self.happen(at, Event::Heard(heard));
        }
        self.queue(at, self.now.plus_ms(LOOK_MS), Happening::Look(start));
    }

    fn hear(&mut self, at: HostId, from: HostId, acknowledges: bool) {
        self.hosts.get_mut(&at).unwrap().heard.insert(from);
        if acknowledges {
            self.send(at, from, 0, |()| Happening::Acknowledged(at));
        }
    }

    fn happen(&mut self, at: HostId, event: Event) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&at) else { return };
        let effects = host.machine.on(event, now);
        let next = host.machine.next();
        if let Some(due) = next.filter(|_| next != host.timer) {
            host.timer = next;
            self.queue(at, due.max(now.plus_ms(1)), Happening::Time);
        }
        for effect in effects {
            match effect {
                Effect::Send(to, beat) => self.send(at, to, 72, |_| Happening::Come(at, beat)),
                Effect::Testify(testimony, to) => {
                    let signed = Signed { testimony, bytes: Vec::new() };
                    for to in to {
                        let signed = signed.clone();
                        self.send(at, to, 240, |_| Happening::Word(at, signed));
                    }
                }
                Effect::Pass(signed, to) => {
                    for to in to {
                        let signed = signed.clone();
                        self.send(at, to, 240, |_| Happening::Word(at, signed));
                    }
                }
                Effect::Turn(of, presence) => self.turns.push((now, at, of, presence)),
                Effect::Twice(_) | Effect::StandDown | Effect::Raise(_) | Effect::Single => {
                    unreachable!("no host runs twice here")
                }
            }
        }
    }

    fn send(&mut self, from: HostId, to: HostId, bytes: u64, happening: impl FnOnce(()) -> Happening) {
        // What a connection says in any case is not counted.
        (self.packets, self.bytes) = (self.packets + u64::from(bytes > 0), self.bytes + bytes);
        let way = [from.0[0], from.0[1], to.0[0], to.0[1]]
            .iter()
            .fold(7u64, |sum, byte| sum * 31 + u64::from(*byte));
        let cut = self.faults.one_way.is_some_and(|each| way.is_multiple_of(each));
        if cut || self.random.chance(self.faults.loss) {
            return;
        }
        let at = self.now.plus_ms(DELAY_MS + self.random.between(0, DELAY_MS));
        self.queue(to, at, happening(()));
    }

    fn queue(&mut self, to: HostId, at: Moment, happening: Happening) {
        self.count += 1;
        self.happenings.insert(self.count, (to, happening));
        self.queue.push(Reverse((at, self.count)));
    }

    /// Lists who was called gone although it lives and does not stand still.
    pub(super) fn wrong(&self) -> Vec<(Moment, HostId, HostId, Presence)> {
        let steady = &self.ids[self.faults.freezing..];
        let turns = self.turns.iter().filter(|(at, by, of, presence)| {
            *presence == Presence::Down
                && steady.contains(of)
                && steady.contains(by)
                && self.hosts[of].alive
                && at.0 > 1_009_000
        });
        turns.copied().collect()
    }
}
