//! What hosts make of each other, in worlds of many.

mod world;

use std::collections::BTreeSet;

use super::{Beat, Circle, Effect, Event, Finding, Liveness, Mutant, Presence, Signed, Testimony};
use crate::{
    id::{HostId, MeshId},
    random::Random,
    time::Moment,
};
use world::{Faults, World};

/// A third of what others take.
const SOON_MS: u64 = 2_600;
const TEN_MINUTES_MS: u64 = 600_000;

fn lossy(loss: u64) -> Faults {
    Faults { loss, ..Faults::default() }
}

#[test]
fn in_a_calm_mesh_everybody_is_up_and_little_is_said() {
    for hosts in [2, 3, 5, 20, 50] {
        let mut world = World::new(hosts, Faults::default(), 1, None);
        let (packets, bytes) = (world.packets, world.bytes);
        world.run(60_000);
        for host in world.ids.clone() {
            assert_eq!(world.seen(host, Presence::Up), hosts - 1, "of {hosts}");
        }
        let each = |count: u64| count as f64 / 60.0 / hosts as f64;
        let said = (each(world.packets - packets), each(world.bytes - bytes));
        println!("{hosts} hosts: {:.1} packets, {:.0} bytes a second each", said.0, said.1);
        assert!(said.0 < 0.5 && said.1 < 25.0, "whoever is heard is hardly asked: {said:?}");
        assert!(world.wrong().is_empty());
    }
}

/// Kills one host in each of some worlds; gives how long it took until all others knew, sorted.
fn deaths(hosts: usize, loss: u64, seeds: u64) -> Vec<u64> {
    let one = |seed: u64| {
        let mut world = World::new(hosts, lossy(loss), seed, None);
        world.run(if loss > 0 { 60_000 } else { 5_000 } + seed * 333);
        let dies = world.ids[seed as usize % hosts];
        world.kill(dies);
        let took = world.until(dies, Presence::Down, 30_000).expect("it is gone");
        world.run(30_000);
        assert_eq!(world.seen(dies, Presence::Down), hosts - 1, "it stays gone");
        assert!(world.wrong().is_empty(), "{:?}", world.wrong());
        took
    };
    let mut took: Vec<u64> = (0..seeds).map(one).collect();
    took.sort_unstable();
    println!("{hosts} hosts, {loss} % lost: {took:?} ms");
    took
}

#[test]
fn a_host_that_dies_is_known_to_be_gone_by_all() {
    for (hosts, loss, median, most) in [
        (2, 0, 3_500, 5_000),
        (3, 0, SOON_MS, 4_000),
        (5, 0, SOON_MS, 4_000),
        (20, 0, SOON_MS, 4_000),
        (20, 2, 3_000, 6_000),
        (20, 25, 5_000, 10_000),
    ] {
        let took = deaths(hosts, loss, 8);
        assert!(took[4] <= median && took[7] <= most, "{hosts} hosts, {loss} % lost: {took:?}");
    }
}

#[test]
fn in_a_large_mesh_as_well() {
    for hosts in [200, 500] {
        let took = deaths(hosts, 0, 1);
        assert!(took[0] <= 4_000, "{took:?}");
    }
}

#[test]
fn nobody_who_lives_is_called_gone_whatever_is_lost_or_stands_still() {
    let freezing = Faults { freezing: 5, ..Faults::default() };
    let one_way = Faults { one_way: Some(9), ..Faults::default() };
    for (name, faults) in [("2 %", lossy(2)), ("25 %", lossy(25)), ("one way", one_way), ("frozen", freezing)]
    {
        let mut world = World::new(20, faults, 5, None);
        world.run(TEN_MINUTES_MS);
        assert!(world.wrong().is_empty(), "{name}: {:?}", world.wrong());
        println!("{name}: {} turns, {} packets a second each", world.turns.len(), world.packets / 600 / 20);
    }
}

#[test]
fn who_stood_still_is_there_again_for_everybody_at_once() {
    for hosts in [3, 20] {
        let mut world = World::new(hosts, Faults::default(), 3, None);
        let frozen = world.ids[1];
        world.freeze(frozen, 8_000);
        assert!(world.until(frozen, Presence::Down, 6_000).is_some(), "of {hosts}");
        world.run(8_000);
        assert!(world.until(frozen, Presence::Up, 1_000).is_some(), "of {hosts}");
        assert!(
            world.wrong().iter().all(|(_, _, of, _)| *of == frozen),
            "it did not hold its sleep against others"
        );
        world.freeze(frozen, 3_000);
        world.run(10_000);
        let wrong = world.wrong().into_iter().filter(|(at, ..)| world.now.since_ms(*at) < 10_000);
        assert_eq!(wrong.count(), 0, "it came back from longer");
    }
}

#[test]
fn a_stop_in_order_is_told_and_a_start_as_well() {
    let mut late = 0;
    for (hosts, seed) in [3, 20, 50].into_iter().flat_map(|hosts| (0..20).map(move |seed| (hosts, seed))) {
        let mut world = World::new(hosts, lossy(10), seed, None);
        let stops = world.ids[2];
        world.stop(stops);
        let took = world.until(stops, Presence::Down, SOON_MS);
        assert!(took.is_some(), "of {hosts}, seed {seed}");
        late += usize::from(took > Some(1_000));
        world.run(20_000);
        assert_eq!(world.seen(stops, Presence::Down), hosts - 1);
        world.start(stops, None);
        assert!(world.until(stops, Presence::Up, 3_000).is_some(), "of {hosts}, seed {seed}");
    }
    // Where both goodbyes are lost, it is missed.
    assert!(late <= 1, "{late} of 60");
}

/// What a host said of others comes back to it; nobody is taken for two by that.
#[test]
fn who_meets_again_or_begins_anew_while_another_is_gone_is_no_copy() {
    for hosts in [3, 6, 20] {
        let mut world = World::new(hosts, Faults::default(), 7, None);
        let gone = world.ids[0];
        world.kill(gone);
        world.run(20_000);
        let ids = world.ids.clone();
        for pair in ids[1..].windows(2) {
            world.reconnect([pair[0], pair[1]]);
            world.run(200);
        }
        for host in &ids[1..] {
            world.kill(*host);
            world.run(100);
            world.start(*host, None);
            world.run(500);
        }
        world.run(10_000);
        assert_eq!(world.seen(gone, Presence::Down), hosts - 1);
    }
}

#[test]
fn a_world_is_the_same_for_the_same_seed() {
    let life = |seed| {
        let mut world = World::new(10, lossy(25), seed, None);
        world.run(120_000);
        (world.packets, world.turns)
    };
    assert_eq!(life(1), life(1));
    assert_ne!(life(1).0, life(2).0);
}

#[test]
fn each_broken_rule_is_noticed() {
    let doubts = |mutant| {
        let one = |seed| {
            let mut world = World::new(5, lossy(40), seed, mutant);
            world.run(TEN_MINUTES_MS);
            world.turns.len()
        };
        (0..8).map(one).sum::<usize>()
    };
    let (naive, wise) = (doubts(Some(Mutant::LearnsNothing)), doubts(None));
    println!("{naive} turns of those that take every way for a clean one, {wise} of the others");
    assert!(naive > wise + wise / 4);
    assert!(Reader::new(Some(Mutant::BelievesOne)).hear(0, Finding::Down) == Presence::Down);
    let mut world = World::new(20, Faults::default(), 5, Some(Mutant::SaysNothing));
    world.kill(world.ids[0]);
    assert_eq!(world.until(world.ids[0], Presence::Down, 20_000), None);
}

const MESH: MeshId = MeshId([7; 32]);

#[test]
fn who_is_met_is_asked_soon() {
    let (hosts, now) = ([1, 2].map(|number| HostId([number; 32])), Moment(1_000_000));
    for seed in 0..20 {
        let mut machine = Liveness::new((MESH, hosts[0]), 1, seed, now);
        machine.on(Event::Members(hosts.into()), now);
        machine.on(Event::Connected([hosts[1]].into()), now);
        assert!(machine.next().is_some_and(|next| next <= now.plus_ms(2_000)), "{:?}", machine.next());
    }
}

/// A host that neither observes another one nor is connected with it, and hears what is said of it.
struct Reader {
    machine: Liveness,
    of: HostId,
    observers: Vec<HostId>,
    now: Moment,
    seq: u64,
    presence: Presence,
}

impl Reader {
    fn new(broken: Option<Mutant>) -> Reader {
        let members: BTreeSet<HostId> = (0..30).map(|number| HostId([number; 32])).collect();
        let (circle, me, now) = (Circle::of(&members), HostId([0; 32]), Moment(1_000_000));
        let near = circle.neighbours(&me);
        let of = members.iter().find(|host| **host != me && !near.contains(*host));
        let of = *of.expect("not all of thirty are neighbours");
        let mut machine = Liveness::new((MESH, me), 1, 1, now).without(broken);
        machine.on(Event::Members(members.clone()), now);
        machine.on(Event::Connected(near), now);
        let mut reader =
            Reader { machine, of, observers: circle.observers(&of), now, seq: 0, presence: Presence::Down };
        reader.happen(Event::Told(members));
        assert_eq!(reader.presence, Presence::Up, "nobody has accused it");
        reader
    }

    fn happen(&mut self, event: Event) {
        for effect in self.machine.on(event, self.now) {
            match effect {
                Effect::Turn(host, presence) if host == self.of => self.presence = presence,
                _ => {}
            }
        }
    }

    fn testimony(&mut self, observer: HostId, finding: Finding) -> Testimony {
        self.seq += 1;
        let (about, seq) = (self.of, self.seq);
        Testimony { mesh: MESH, observer, about, generation: 1, seq, finding, evidence: 900 }
    }

    fn say(&mut self, testimony: Testimony) -> Presence {
        let from = self.machine.neighbours().into_iter().next().unwrap();
        self.happen(Event::Word(from, Signed { testimony, bytes: Vec::new() }));
        self.presence
    }

    fn hear(&mut self, observer: usize, finding: Finding) -> Presence {
        let testimony = self.testimony(self.observers[observer], finding);
        self.say(testimony)
    }

    fn hear_itself(&mut self, finding: Finding) -> Presence {
        let testimony = self.testimony(self.of, finding);
        self.say(testimony)
    }
}

#[test]
fn two_observers_are_believed_and_nobody_else_until_the_host_speaks_for_itself() {
    let mut reader = Reader::new(None);
    for stranger in (0..30).map(|number| HostId([number; 32])) {
        if !reader.observers.contains(&stranger) && stranger != reader.of {
            let testimony = reader.testimony(stranger, Finding::Down);
            assert!(!reader.machine.wants(&testimony.observer, &testimony, reader.now));
            assert_eq!(reader.say(testimony), Presence::Up);
        }
    }
    assert_eq!(reader.hear(0, Finding::Down), Presence::Up, "one may lie or be cut off");
    assert_eq!(reader.hear(1, Finding::Suspect), Presence::Suspect);
    assert_eq!(reader.hear(1, Finding::Down), Presence::Down);
    assert_eq!(reader.hear_itself(Finding::Here), Presence::Up);
}

#[test]
fn an_old_word_says_nothing_and_who_was_wrong_is_not_believed_at_once_again() {
    let mut reader = Reader::new(None);
    let old = reader.testimony(reader.observers[0], Finding::Down);
    reader.hear(0, Finding::Down);
    reader.hear(1, Finding::Down);
    let here = reader.testimony(reader.of, Finding::Here);
    assert_eq!(reader.say(here.clone()), Presence::Up);
    assert_eq!(reader.say(old), Presence::Up);
    assert_eq!((reader.hear(0, Finding::Down), reader.hear(1, Finding::Down)), (Presence::Up, Presence::Up));
    assert_eq!(
        (reader.hear(2, Finding::Down), reader.hear(3, Finding::Down)),
        (Presence::Up, Presence::Down)
    );
    assert_eq!(reader.say(here), Presence::Down, "it was said before that");
    reader.now = reader.now.plus_ms(60_000);
    reader.hear_itself(Finding::Here);
    assert_eq!(
        (reader.hear(0, Finding::Down), reader.hear(1, Finding::Down)),
        (Presence::Up, Presence::Down)
    );
}

#[test]
fn who_left_is_gone_until_it_says_otherwise_and_words_that_nobody_repeats_end() {
    let mut reader = Reader::new(None);
    assert_eq!(reader.hear_itself(Finding::Leaving), Presence::Down);
    assert_eq!(reader.hear(0, Finding::Clear), Presence::Down);
    assert_eq!(reader.hear_itself(Finding::Here), Presence::Up);
    reader.hear(0, Finding::Down);
    assert_eq!(reader.hear(1, Finding::Down), Presence::Down);
    for _ in 0..40 {
        reader.now = reader.now.plus_ms(5_000);
        reader.happen(Event::Time);
    }
    assert_eq!(reader.presence, Presence::Up, "its observers are gone or were wrong");
}

/// Anything that a member could send, and anything that could happen to a host, with numbers at their ends.
fn anything(random: &mut Random, hosts: &[HostId]) -> Event {
    let mut one = || random.pick(hosts).unwrap();
    let (from, observer, about) = (one(), one(), one());
    let some: BTreeSet<HostId> = (0..7).map(|_| one()).collect();
    let mut number = || random.pick(&[0, 1, 2, u64::MAX - 1, u64::MAX]).unwrap();
    let (generation, seq) = (number(), number());
    let findings =
        [Finding::Here, Finding::Leaving, Finding::Clear, Finding::Alarm, Finding::Suspect, Finding::Down];
    let finding = random.pick(&findings).unwrap();
    let evidence = random.pick(&[0, 900, u16::MAX]).unwrap();
    let testimony = Testimony { mesh: MESH, observer, about, generation, seq, finding, evidence };
    let number = random.draw() as u32;
    match random.between(0, 8) {
        0 => Event::Members(some),
        1 => Event::Connected(some),
        2 => Event::Told(some),
        3 => Event::Stop,
        4 => Event::Beat(from, Beat::Probe { number, accused: number.is_multiple_of(2) }),
        5 => Event::Beat(from, Beat::Answer { number: number % 16 }),
        6 => Event::Word(from, Signed { testimony, bytes: Vec::new() }),
        _ => Event::Time,
    }
}

#[test]
fn whatever_comes_in_whatever_order_ends_nobody_and_what_is_said_of_it_is_bounded() {
    let hosts: Vec<HostId> = (0..20).map(|number| HostId([number; 32])).collect();
    for seed in 0..40 {
        let (mut random, mut now) = (Random::new(seed), Moment(1_000_000));
        let mut machine = Liveness::new((MESH, hosts[0]), 1, seed, now);
        machine.on(Event::Members(hosts.iter().copied().collect()), now);
        for _ in 0..1_000 {
            now = now.plus_ms(random.pick(&[0, 0, 1, 10, 250, 4_000]).unwrap());
            let effects = machine.on(anything(&mut random, &hosts), now);
            assert!(effects.len() <= 4 * hosts.len() + 64, "{} effects", effects.len());
            assert!(machine.next().is_none_or(|next| next.0 < now.0 + 100_000), "it sleeps for ever");
        }
        let accounts: usize = machine.others.values().map(|other| other.accounts.len()).sum();
        assert!(accounts <= 4 * hosts.len(), "{accounts} accounts");
    }
}

#[test]
fn a_host_that_stops_tells_nobody_any_more_that_it_is_here() {
    let (me, other) = (HostId([1; 32]), HostId([2; 32]));
    let now = Moment(1_000_000);
    let mut host = Liveness::new((MeshId([7; 32]), me), 1, 7, now);
    host.on(Event::Members([me, other].into()), now);
    let testifies = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Testify(..)));
    assert!(testifies(&host.on(Event::Connected([other].into()), now)));
    assert!(testifies(&host.on(Event::Stop, now)));
    host.on(Event::Connected(BTreeSet::new()), now.plus_ms(10));
    assert!(!testifies(&host.on(Event::Connected([other].into()), now.plus_ms(20))));
}

/// A word of `observer` about another host, or of itself.
fn word(observer: HostId, about: HostId, seq: u64, finding: Finding) -> Signed {
    let testimony = Testimony { mesh: MESH, observer, about, generation: 1, seq, finding, evidence: 0 };
    Signed { testimony, bytes: Vec::new() }
}

fn told(effects: &[Effect], about: HostId, finding: Finding) -> Vec<Vec<HostId>> {
    let to = |effect: &Effect| match effect {
        Effect::Testify(said, to) if said.about == about && said.finding == finding => Some(to.clone()),
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}

/// The first of these hosts, in this start; it knows the others.
fn among<const N: usize>(hosts: [HostId; N], start: u64, now: Moment) -> Liveness {
    let mut host = Liveness::new((MESH, hosts[0]), start, 7, now);
    host.on(Event::Members(hosts.into()), now);
    host
}

#[test]
fn an_accused_host_answers_all_whoever_asks_it_all_the_time_and_no_word_twice() {
    let [me, attic, cellar] = [1, 2, 3].map(|byte| HostId([byte; 32]));
    let mut now = Moment(1_000_000);
    let mut host = among([me, attic, cellar], 1, now);
    host.on(Event::Connected([attic, cellar].into()), now);
    let broadcast = |effects: &[Effect]| told(effects, me, Finding::Here).iter().any(|to| to.len() == 2);
    for seq in 1..4 {
        now = now.plus_ms(150);
        host.on(Event::Beat(cellar, Beat::Probe { number: 1, accused: true }), now.plus_ms(149));
        let accused = word(attic, me, seq, Finding::Down);
        assert!(broadcast(&host.on(Event::Word(attic, accused.clone()), now.plus_ms(149))), "word {seq}");
        assert!(!host.wants(&attic, &accused.testimony, now), "it was heard");
        assert!(!broadcast(&host.on(Event::Word(cellar, accused), now.plus_ms(149 + 120))));
    }
}

#[test]
fn who_begins_to_doubt_one_that_is_gone_is_told_so_at_once() {
    let [me, gone, new] = [1, 2, 3].map(|byte| HostId([byte; 32]));
    let mut now = Moment(1_000_000);
    let mut host = among([me, gone, new], 1, now);
    host.on(Event::Connected([gone, new].into()), now);
    host.on(Event::Connected([new].into()), now.plus_ms(10));
    // The one answers; the other is silent, and the one does not hear it either.
    for seq in 1..400 {
        now = now.plus_ms(50);
        for effect in host.on(Event::Time, now) {
            if let Effect::Send(to, Beat::Probe { number, .. }) = effect
                && to == new
            {
                host.on(Event::Beat(new, Beat::Answer { number }), now);
            }
        }
        if seq % 5 == 0 {
            let seen = Testimony { evidence: 700, ..word(new, gone, seq, Finding::Suspect).testimony };
            host.on(Event::Word(new, Signed { testimony: seen, bytes: Vec::new() }), now);
        }
    }
    assert_eq!(host.others[&gone].presence, Presence::Down);
    // It starts anew, and begins to doubt.
    let begins = Testimony { generation: 2, ..word(new, gone, 1, Finding::Alarm).testimony };
    let effects = host.on(Event::Word(new, Signed { testimony: begins, bytes: Vec::new() }), now);
    assert_eq!(told(&effects, gone, Finding::Down), [vec![new]]);
}

fn says(effects: &[Effect]) -> Vec<Signed> {
    let said = |effect: &Effect| match effect {
        Effect::Testify(testimony, _) => Some(Signed { testimony: testimony.clone(), bytes: Vec::new() }),
        Effect::Pass(signed, _) => Some(signed.clone()),
        _ => None,
    };
    effects.iter().filter_map(said).collect()
}

/// Brings all of these words to a host; gives what it does.
fn bring(host: &mut Liveness, from: HostId, words: Vec<Signed>, now: Moment) -> Vec<Effect> {
    words.into_iter().flat_map(|word| host.on(Event::Word(from, word), now)).collect()
}

#[test]
fn of_two_computers_that_run_as_one_host_the_later_one_stands_down_and_all_hear_of_it() {
    let (nas, vps, now) = (HostId([1; 32]), HostId([2; 32]), Moment(1_000_000));
    let mut first = among([nas, vps], 10, now);
    let mut copy = among([nas, vps], 20, now);
    let mut other = among([vps, nas], 30, now);
    other.on(Event::Connected([nas].into()), now);
    bring(&mut other, nas, says(&first.on(Event::Connected([vps].into()), now)), now);
    // Of a start after the copy nobody knows anything yet, and what is older than this start is over.
    let told_of_the_copy = bring(&mut other, nas, says(&copy.on(Event::Connected([vps].into()), now)), now);
    let back: Vec<Signed> = told_of_the_copy
        .iter()
        .filter_map(|effect| match effect {
            Effect::Pass(word, to) if *to == [nas] => Some(word.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(back.len(), 1, "both hear of the new start: {told_of_the_copy:?}");
    assert!(copy.on(Event::Word(vps, back[0].clone()), now).is_empty(), "it is its own");
    let noticed = first.on(Event::Word(vps, back[0].clone()), now);
    assert!(noticed.contains(&Effect::Twice(nas)) && !noticed.contains(&Effect::StandDown), "{noticed:?}");
    let heard = bring(&mut other, nas, says(&noticed), now);
    assert!(heard.contains(&Effect::Twice(nas)), "{heard:?}");
    let stands_down = bring(&mut copy, vps, says(&heard), now);
    assert_eq!(stands_down, [Effect::StandDown]);
    assert!(copy.on(Event::Connected(BTreeSet::new()), now).is_empty());
    assert!(says(&copy.on(Event::Connected([vps].into()), now)).is_empty(), "it says nothing more");
    // It is said again, as datagrams are lost, and not for ever; and the next start is not meant.
    let mut said = Vec::new();
    for later in 1..200 {
        said.extend(says(&first.on(Event::Time, now.plus_ms(100 * later))));
    }
    let again = said.iter().filter(|said| said.testimony.finding == Finding::Twice).count();
    assert!((1..8).contains(&again), "{again} times");
    // From then on what it says of itself counts again.
    let here = said.iter().find(|said| said.testimony.finding == Finding::Here).expect("it is here");
    assert!(other.wants(&nas, &here.testimony, now) && here.testimony.generation == 21, "{here:?}");
    let mut third = among([nas, vps], 21, now);
    assert!(bring(&mut third, vps, says(&heard), now).is_empty());
}

#[test]
fn a_host_that_speaks_in_an_old_start_is_told_of_the_new_one_and_nobody_else_can_say_it() {
    let (nas, vps, now) = (HostId([1; 32]), HostId([2; 32]), Moment(1_000_000));
    let mut other = among([vps, nas], 30, now);
    other.on(Event::Connected([nas].into()), now);
    let here = |generation, seq| {
        let testimony = Testimony { generation, ..word(nas, nas, seq, Finding::Here).testimony };
        Signed { testimony, bytes: Vec::new() }
    };
    let new = here(20, 1);
    other.on(Event::Word(nas, new.clone()), now);
    let back = |effects: &[Effect]| effects.contains(&Effect::Pass(new.clone(), vec![nas]));
    assert!(back(&other.on(Event::Word(nas, here(10, 5)), now)));
    assert!(!back(&other.on(Event::Word(nas, here(10, 6)), now.plus_ms(100))), "once a second");
    assert!(
        !back(&other.on(Event::Word(HostId([3; 32]), here(10, 7)), now.plus_ms(5_000))),
        "carried by another"
    );
    assert!(back(&other.on(Event::Word(nas, here(10, 8)), now.plus_ms(5_000))));
    // What a host said of a copy before it began anew is over.
    let twice = |seq| {
        let testimony = Testimony { generation: 5, ..word(nas, nas, seq, Finding::Twice).testimony };
        Signed { testimony, bytes: Vec::new() }
    };
    assert!(other.on(Event::Word(nas, twice(19)), now).is_empty());
    assert!(other.on(Event::Word(nas, twice(20)), now).contains(&Effect::Twice(nas)));
}

#[test]
fn a_host_that_asks_is_the_only_one_some_time_after_it_met_somebody_or_long_after_it_met_nobody() {
    let (nas, vps, now) = (HostId([1; 32]), HostId([2; 32]), Moment(1_000_000));
    // Gives after how many seconds it takes itself for the only one, if it meets somebody at `meets`.
    let single = |meets: u64, is_told: bool| {
        let mut host = among([nas, vps], 20, now).asking(now);
        (0..30).find(|second| {
            let at = now.plus_ms(second * 1_000);
            let mut effects = host.on(Event::Time, at);
            if *second == meets {
                effects.extend(host.on(Event::Connected([vps].into()), at));
            }
            if *second == meets && is_told {
                let testimony = Testimony { generation: 5, ..word(nas, nas, 20, Finding::Twice).testimony };
                effects.extend(host.on(Event::Word(vps, Signed { testimony, bytes: Vec::new() }), at));
            }
            effects.contains(&Effect::Single)
        })
    };
    assert_eq!((single(1, false), single(100, false)), (Some(5), Some(15)));
    assert_eq!(single(14, false), Some(15));
    assert_eq!((single(1, true), single(14, true)), (None, None), "it is told and stands down");
    assert_eq!(among([nas, vps], 20, now).single, None, "who does not ask has nothing to wait for");
}

#[test]
fn that_there_are_two_is_named_once_a_minute_whatever_is_brought() {
    let (nas, vps, now) = (HostId([1; 32]), HostId([2; 32]), Moment(1_000_000));
    let mut other = among([vps, nas], 30, now);
    let mut named = 0;
    for tenth in 0..1_300 {
        let testimony = Testimony { generation: 5, ..word(nas, nas, 20 + tenth, Finding::Twice).testimony };
        let at = now.plus_ms(100 * tenth);
        let effects = other.on(Event::Word(nas, Signed { testimony, bytes: Vec::new() }), at);
        named += effects.iter().filter(|effect| **effect == Effect::Twice(nas)).count();
    }
    assert_eq!(named, 3, "in 130 s");
}
