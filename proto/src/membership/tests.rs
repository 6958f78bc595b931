//! Worlds of nothing but these machines: hosts that learn statements and compare their sets over a network
//! that delays, loses and parts.

use std::collections::{BTreeMap, BTreeSet};

use super::spread::{Effect, Event, Mutant, Spread};
use crate::{
    id::{Digest, HostId},
    liveness::Circle,
    random::Random,
    time::Moment,
};

/// Bytes of one sealed certificate on the wire, of a digest over a set, and of the short name of a statement.
const STATEMENT: usize = 330;
const SUMMARY: usize = 40;
const SHORT: usize = 8;
/// Lives in each test.
const SEEDS: u64 = 60;
/// How long a comparison waits for its answer.
const PATIENCE_MS: u64 = 5_000;

/// Statements by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set(u128);

impl Set {
    fn of(digests: &[Digest]) -> Set {
        // The digest of a statement of these worlds is its number.
        Set(digests.iter().fold(0, |set, digest| set | 1 << digest.0[0]))
    }

    fn digests(self) -> Vec<Digest> {
        (0..128).filter(|number| self.0 >> number & 1 == 1).map(statement).collect()
    }

    fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Compare { news: Set, set: Set },
    Same,
    Differs { have: Set },
    Give { given: Set, wanted: Set },
    Given(Set),
}

impl Message {
    fn bytes(&self) -> usize {
        match self {
            Message::Compare { news, .. } => SUMMARY + news.len() * STATEMENT,
            Message::Same => SUMMARY,
            Message::Differs { have } => SUMMARY + have.len() * SHORT,
            Message::Give { given, wanted } => SUMMARY + given.len() * STATEMENT + wanted.len() * SHORT,
            Message::Given(statements) => statements.len() * STATEMENT,
        }
    }
}

struct Host {
    machine: Spread,
    set: Set,
    /// When its machine wants to be asked again.
    next: Moment,
}

struct World {
    random: Random,
    now: Moment,
    hosts: BTreeMap<HostId, Host>,
    /// What arrives when: by whom, for whom.
    under_way: BTreeMap<(Moment, u64), (HostId, HostId, Message)>,
    /// When a comparison is given up.
    asked: BTreeMap<(HostId, HostId), Moment>,
    /// Of a hundred messages, so many are lost.
    lost: u64,
    /// Hosts of different halves do not hear each other.
    parted: bool,
    /// Who keeps a connection to whom; else everybody to everybody.
    circle: Option<Circle>,
    count: u64,
    messages: usize,
    bytes: usize,
}

fn host(number: u64) -> HostId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    HostId(id)
}

fn statement(number: u8) -> Digest {
    Digest([number; 32])
}

impl World {
    fn new(hosts: u64, seed: u64, broken: Option<Mutant>) -> World {
        let start = Moment(1_000_000);
        let hosts = (0..hosts).map(|number| {
            let machine = Spread::new(host(number), seed ^ (number << 20), start).without(broken);
            (host(number), Host { machine, set: Set::default(), next: start })
        });
        World {
            random: Random::new(seed),
            now: start,
            hosts: hosts.collect(),
            under_way: BTreeMap::new(),
            asked: BTreeMap::new(),
            lost: 0,
            parted: false,
            circle: None,
            count: 0,
            messages: 0,
            bytes: 0,
        }
    }

    /// One as large meshes are: each host is connected with its neighbours on the circle.
    fn apart(hosts: u64, seed: u64, broken: Option<Mutant>) -> World {
        let world = World::new(hosts, seed, broken);
        let circle = Circle::of(&world.hosts.keys().copied().collect());
        World { circle: Some(circle), ..world }
    }

    fn are_connected(&self, one: HostId, other: HostId) -> bool {
        let neighbours = self.circle.as_ref().map(|circle| circle.neighbours(&one));
        self.hear_each_other(one, other) && neighbours.is_none_or(|all| all.contains(&other))
    }

    fn hear_each_other(&self, one: HostId, other: HostId) -> bool {
        !self.parted || one.0[7] % 2 == other.0[7] % 2
    }

    fn connect(&mut self) {
        let all: Vec<HostId> = self.hosts.keys().copied().collect();
        for one in &all {
            let connected = all.iter().filter(|other| *other != one && self.are_connected(*one, **other));
            let (connected, is_apart) = (connected.copied().collect(), self.circle.is_some());
            if is_apart {
                self.happen(*one, Event::Members(all.len()));
            }
            self.happen(*one, Event::Connected(connected));
        }
    }

    fn part(&mut self, parted: bool) {
        self.parted = parted;
        self.connect();
    }

    fn learn(&mut self, at: HostId, statements: Set, from: Option<HostId>) {
        let host = self.hosts.get_mut(&at).unwrap();
        let new = statements.without(host.set);
        host.set.0 |= new.0;
        if new.len() > 0 {
            self.happen(at, Event::Learned { statements: new.digests(), from });
        }
    }

    fn happen(&mut self, at: HostId, event: Event) {
        let host = self.hosts.get_mut(&at).unwrap();
        let (effects, set) = (host.machine.on(event, self.now), host.set);
        host.next = host.machine.next();
        for effect in effects {
            if let Effect::Compare { with, news } = effect {
                self.asked.insert((at, with), self.now.plus_ms(PATIENCE_MS));
                self.send(at, with, Message::Compare { news: Set::of(&news), set });
            }
        }
    }

    fn send(&mut self, from: HostId, to: HostId, message: Message) {
        self.messages += 1;
        self.bytes += message.bytes();
        let is_lost = self.random.below(100).unwrap() < self.lost;
        if !is_lost && self.hear_each_other(from, to) {
            let at = self.now.plus_ms(self.random.between(1, 60));
            self.count += 1;
            self.under_way.insert((at, self.count), (from, to, message));
        }
    }

    fn arrive(&mut self, from: HostId, to: HostId, message: Message) {
        match message {
            Message::Compare { news, set } => {
                self.learn(to, news, Some(from));
                let own = self.hosts[&to].set;
                let answer = if own == set { Message::Same } else { Message::Differs { have: own } };
                self.send(to, from, answer);
            }
            Message::Same => self.end(to, from),
            Message::Differs { have } => {
                let own = self.hosts[&to].set;
                let (given, wanted) = (own.without(have), have.without(own));
                match given == wanted {
                    true => self.end(to, from),
                    false => self.send(to, from, Message::Give { given, wanted }),
                }
            }
            Message::Give { given, wanted } => {
                self.learn(to, given, Some(from));
                self.send(to, from, Message::Given(wanted));
            }
            Message::Given(statements) => {
                self.learn(to, statements, Some(from));
                self.end(to, from);
            }
        }
    }

    fn end(&mut self, at: HostId, with: HostId) {
        self.asked.remove(&(at, with));
        self.happen(at, Event::Compared(with));
    }

    /// Lets time pass until `end`.
    fn run_until(&mut self, end: Moment) {
        while self.now < end {
            let message = self.under_way.keys().next().map(|(at, _)| *at);
            let given_up = self.asked.values().min().copied();
            let due = self.hosts.values().map(|host| host.next).min();
            let next = [message, given_up, due].into_iter().flatten().min().unwrap().max(self.now);
            self.now = next.min(end);
            while self.under_way.keys().next().is_some_and(|(at, _)| *at <= self.now) {
                let (_, (from, to, message)) = self.under_way.pop_first().unwrap();
                self.arrive(from, to, message);
            }
            let now = self.now;
            let late: Vec<_> =
                self.asked.iter().filter(|(_, at)| **at <= now).map(|(pair, _)| *pair).collect();
            for (at, with) in late {
                self.asked.remove(&(at, with));
                self.happen(at, Event::Failed(with));
            }
            let due = self.hosts.iter().filter(|(_, host)| host.next <= now);
            for at in due.map(|(host, _)| *host).collect::<Vec<_>>() {
                self.happen(at, Event::Time);
            }
        }
    }

    fn run_ms(&mut self, millis: u64) {
        self.run_until(self.now.plus_ms(millis));
    }

    fn are_equal(&self) -> bool {
        let mut sets = self.hosts.values().map(|host| host.set);
        let first = sets.next().unwrap();
        sets.all(|set| set == first)
    }

    /// Runs until all sets are equal; gives how long that took, none when it took longer than a minute.
    fn settle(&mut self) -> Option<u64> {
        let begun = self.now;
        while !self.are_equal() {
            if self.now.since_ms(begun) > 60_000 {
                return None;
            }
            self.run_ms(50);
        }
        Some(self.now.since_ms(begun))
    }
}

/// A life with faults; then a minute without any.
fn converges(seed: u64, broken: Option<Mutant>) -> bool {
    let mut draw = Random::new(seed);
    let hosts = draw.between(3, 40);
    let mut world = World::new(hosts, seed, broken);
    world.lost = draw.between(0, 30);
    world.connect();
    for number in 0..draw.between(1, 60) {
        match draw.below(8).unwrap() {
            0 => world.part(true),
            1 => world.part(false),
            _ => {
                let at = host(draw.below(hosts).unwrap());
                world.learn(at, Set(1 << number), None);
            }
        }
        let pause = draw.between(0, 2_000);
        world.run_ms(pause);
    }
    world.lost = 0;
    world.part(false);
    world.settle().is_some()
}

#[test]
fn all_sets_are_equal_within_a_minute_of_the_last_fault() {
    for seed in 0..SEEDS {
        assert!(converges(seed, None), "seed {seed}");
    }
}

/// A lossy life without an end of faults: what is not told at once comes by the rounds.
fn heals_without_a_new_connection(seed: u64, broken: Option<Mutant>) -> bool {
    let mut world = World::new(12, seed, broken);
    world.connect();
    world.run_ms(2_000);
    world.lost = 100;
    world.learn(host(3), Set(1), None);
    world.run_ms(60_000);
    world.lost = 0;
    world.settle().is_some()
}

#[test]
fn what_everybody_missed_is_made_up_for() {
    for seed in 0..100 {
        assert!(heals_without_a_new_connection(seed, None), "seed {seed}");
    }
}

/// Hosts that start together, each with a certificate that the others do not have yet; gives messages and bytes.
fn start_together(hosts: u64, seed: u64, broken: Option<Mutant>) -> (usize, usize, Option<u64>) {
    let mut world = World::new(hosts, seed, broken);
    for number in 0..hosts {
        world.learn(host(number), Set(1 << number), None);
    }
    world.connect();
    let took = world.settle();
    world.run_ms(2_000);
    (world.messages, world.bytes, took)
}

/// What the rule before cost: at each change everybody sends everybody all it has, and gets what it lacks.
fn everything_to_everybody(hosts: usize) -> (usize, usize) {
    // Every host learns of each other one by itself at worst; pauses merge what arrives together. Counted is the best
    // case: a host speaks to all once at its start with what it has, and once more when it has heard of all.
    let pairs = hosts * (hosts - 1);
    let (first, second) = (pairs * (STATEMENT + STATEMENT), pairs * (hosts * STATEMENT + SUMMARY));
    (4 * pairs, first + second)
}

#[test]
fn forty_that_start_together_say_little() {
    let (before_messages, before_bytes) = everything_to_everybody(40);
    for seed in 0..20 {
        let (messages, bytes, took) = start_together(40, seed, None);
        let took = took.expect("all sets are equal");
        if seed == 0 {
            println!(
                "40 hosts: {messages} messages, {bytes} bytes, equal after {took} ms; before at best \
                {before_messages} messages, {before_bytes} bytes"
            );
        }
        assert!(took < 5_000, "{took} ms");
        assert!(messages < before_messages && bytes * 4 < before_bytes, "{messages} messages, {bytes} bytes");
    }
}

/// One change in a mesh at rest; gives messages and bytes until everybody knows.
fn one_change(hosts: u64, broken: Option<Mutant>) -> (usize, usize) {
    let mut world = World::new(hosts, hosts, broken);
    world.connect();
    world.run_ms(30_000);
    let (messages, bytes) = (world.messages, world.bytes);
    world.learn(host(0), Set(1), None);
    world.run_ms(1_500);
    assert!(world.are_equal());
    (world.messages - messages, world.bytes - bytes)
}

#[test]
fn one_change_in_a_mesh_at_rest_costs_each_host_a_few_messages() {
    for hosts in [3, 10, 40] {
        let (messages, bytes) = one_change(hosts, None);
        println!("one change, {hosts} hosts: {messages} messages, {bytes} bytes");
        let hosts = usize::try_from(hosts).unwrap();
        assert!(messages <= 12 * hosts, "{messages} messages of {hosts} hosts");
        assert!(bytes <= 5 * hosts * (STATEMENT + 2 * SUMMARY + 4 * SHORT), "{bytes} bytes of {hosts} hosts");
    }
}

/// One change in a mesh whose hosts are connected with few others each; gives messages, and whether all know soon.
fn one_change_apart(hosts: u64, seed: u64, broken: Option<Mutant>) -> (usize, bool) {
    let mut world = World::apart(hosts, seed, broken);
    world.connect();
    world.run_ms(30_000);
    let messages = world.messages;
    world.learn(host(seed % hosts), Set(1), None);
    world.run_ms(2_000);
    (world.messages - messages, world.are_equal())
}

#[test]
fn one_change_is_known_to_all_within_two_seconds_where_each_is_connected_with_few() {
    for hosts in [17, 20, 40, 100] {
        for seed in 0..50 {
            let (messages, known) = one_change_apart(hosts, seed, None);
            assert!(known, "{hosts} hosts, seed {seed}");
            if seed == 0 {
                println!("one change, {hosts} hosts apart: {messages} messages");
            }
            let hosts = usize::try_from(hosts).unwrap();
            assert!(messages <= 26 * hosts, "{messages} messages of {hosts} hosts");
        }
    }
}

/// Gives what the machine wants compared with the only other host.
fn compared(machine: &mut Spread, event: Event, now: u64) -> Option<Vec<Digest>> {
    machine.on(event, Moment(now)).into_iter().find_map(|effect| match effect {
        Effect::Compare { with, news } if with == host(1) => Some(news),
        _ => None,
    })
}

#[test]
fn news_that_joins_a_round_is_tried_again_when_it_fails() {
    let mut machine = Spread::new(host(0), 1, Moment(0));
    machine.on(Event::Connected(BTreeSet::from([host(1)])), Moment(0));
    assert_eq!(compared(&mut machine, Event::Time, 1_000), Some(vec![]));
    // It is slow: the round and the news wait for its end.
    assert_eq!(compared(&mut machine, Event::Time, 13_000), None);
    let news = vec![statement(7)];
    let learned = Event::Learned { statements: news.clone(), from: None };
    assert_eq!(compared(&mut machine, learned, 13_001), None);
    assert_eq!(compared(&mut machine, Event::Compared(host(1)), 14_000), Some(news.clone()));
    assert_eq!(compared(&mut machine, Event::Failed(host(1)), 14_001), None);
    assert_eq!(compared(&mut machine, Event::Time, 15_500), Some(news));
}

#[test]
fn a_mesh_at_rest_says_a_digest_now_and_then() {
    let mut world = World::new(40, 1, None);
    world.connect();
    world.run_ms(60_000);
    let (messages, bytes) = (world.messages, world.bytes);
    world.run_ms(100_000);
    let (messages, bytes) = (world.messages - messages, world.bytes - bytes);
    assert!((600..=1_100).contains(&messages), "{messages} messages");
    assert_eq!(bytes, messages * SUMMARY);
}

#[test]
fn each_broken_rule_is_noticed() {
    let unhealed = |broken| (0..100).any(|seed| !heals_without_a_new_connection(seed, Some(broken)));
    assert!(is_told_late(Some(Mutant::TellsNobody)) && !is_told_late(None), "nobody is told");
    assert!(unhealed(Mutant::SkipsRounds), "there are no rounds");
    assert!(meets_late(Some(Mutant::IgnoresConnections)) && !meets_late(None), "connections are ignored");
    let messages = |broken| one_change(40, broken).0;
    assert!(messages(Some(Mutant::TellsEverybody)) > 3 * messages(None), "everybody is told");
    let missed = |broken| (0..20).any(|seed| !one_change_apart(100, seed, broken).1);
    assert!(missed(Some(Mutant::TellsFewApart)), "few are told where few are connected");
    assert!(forgets(Some(Mutant::ForgetsFailed)) && !forgets(None), "failures are forgotten");
}

/// Tells whether a change takes longer than two seconds to be known to all.
fn is_told_late(broken: Option<Mutant>) -> bool {
    let mut world = World::new(40, 9, broken);
    world.connect();
    world.run_ms(5_000);
    world.learn(host(0), Set(1), None);
    world.run_ms(2_000);
    !world.are_equal()
}

/// Tells whether halves that meet again take longer than two seconds to know what the other learned.
fn meets_late(broken: Option<Mutant>) -> bool {
    let mut world = World::new(20, 3, broken);
    world.part(true);
    world.learn(host(0), Set(1), None);
    world.learn(host(1), Set(2), None);
    world.run_ms(5_000);
    world.part(false);
    world.run_ms(2_000);
    !world.are_equal()
}

/// Tells whether a host that did not hear the first time hears only much later.
fn forgets(broken: Option<Mutant>) -> bool {
    let mut world = World::new(2, 5, broken);
    world.connect();
    world.run_ms(1_000);
    world.lost = 100;
    world.learn(host(0), Set(1), None);
    world.run_ms(1_000);
    world.lost = 0;
    world.run_ms(PATIENCE_MS + 1_500);
    !world.are_equal()
}
