//! When a host that was away serves again.

use super::*;

const START: Moment = Moment(1_000_000);
const ME: HostId = host(1);
const ISSUER: HostId = host(9);

const fn host(number: u8) -> HostId {
    HostId([number; 32])
}

fn hosts(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<HostId> {
    numbers.into_iter().map(host).collect()
}

/// A host that starts among others, of which number 9 is the issuer.
fn among(others: &[u8]) -> Returning {
    let all = hosts(others.iter().copied().chain([1]));
    Returning::new(ME, (all, [ISSUER].into()), START)
}

fn connected(numbers: impl IntoIterator<Item = u8>) -> Event {
    Event::Connected(hosts(numbers))
}

fn compared(number: u8, begun: Moment) -> Event {
    Event::Compared { with: host(number), begun }
}

fn at(ms: u64) -> Moment {
    START.plus_ms(ms)
}

/// Lets time pass as its shell does.
fn pass(machine: &mut Returning, from_ms: u64, to_ms: u64) -> Vec<Effect> {
    let looks = (from_ms..=to_ms).step_by(250);
    looks.flat_map(|ms| machine.on(Event::Time, at(ms))).collect()
}

/// One that serves, connected with the issuer and a plain member, 1 s after its start.
fn serving() -> Returning {
    let mut machine = among(&[2, 3, 9]);
    machine.on(connected([2, 9]), at(500));
    machine.on(compared(9, at(500)), at(1_000));
    assert!(machine.serves(at(1_000)));
    machine
}

#[test]
fn a_host_that_starts_serves_once_it_has_compared_with_an_issuer() {
    let mut machine = among(&[2, 3, 9]);
    assert!(!machine.serves(START));
    let asked = machine.on(connected([2, 9]), at(100));
    assert_eq!(asked, [Effect::Compare(ISSUER), Effect::Compare(host(2))], "the issuer first");
    assert!(machine.on(compared(2, at(100)), at(200)).is_empty() && !machine.serves(at(200)));
    assert_eq!(machine.on(connected([2, 3, 9]), at(210)), [Effect::Compare(host(3))], "only who is new");
    assert_eq!(machine.on(compared(9, at(100)), at(220)), [Effect::Serve]);
    assert!(machine.serves(at(220)));
    assert!(machine.on(connected([2, 3, 9, 4]), at(300)).is_empty(), "whoever serves asks nobody");
}

#[test]
fn most_members_are_as_good_as_an_issuer_and_half_of_them_are_not() {
    for others in [&[2, 9][..], &[2, 3, 9], &[2, 3, 4, 9], &[2, 3, 4, 5, 9]] {
        let mut machine = among(others);
        let enough = others.len() / 2 + 1;
        for (count, number) in others.iter().filter(|number| **number != 9).enumerate() {
            // Who is no member says nothing, and nobody counts twice.
            machine.on(compared(77, at(100)), at(100));
            machine.on(compared(*number, at(100)), at(100));
            machine.on(compared(*number, at(100)), at(100));
            assert_eq!(machine.serves(at(100)), count + 1 >= enough, "{} of {others:?}", count + 1);
        }
    }
}

#[test]
fn ten_seconds_after_its_start_a_host_serves_whomever_it_has_heard_from() {
    for met in [&[][..], &[2]] {
        let mut machine = among(&[2, 3, 9]);
        machine.on(connected(met.iter().copied()), at(4_000));
        assert!(pass(&mut machine, 4_000, WAIT_MS - 250).is_empty() && !machine.serves(at(WAIT_MS - 1)));
        assert_eq!(machine.on(Event::Time, at(WAIT_MS)), [Effect::Serve]);
        assert!(machine.serves(at(WAIT_MS)));
    }
}

#[test]
fn whoever_is_alone_or_the_only_issuer_serves_at_once_and_always() {
    let alone = Returning::new(ME, (hosts([1]), hosts([1])), START);
    let stranger = Returning::new(ME, (hosts([1]), hosts([])), START);
    let founder = Returning::new(ME, (hosts([1, 2, 3]), hosts([1])), START);
    for mut machine in [alone, stranger, founder] {
        assert!(machine.serves(START) && machine.serves(at(3_600_000)));
        assert!(machine.on(Event::Time, at(3_600_000)).is_empty());
        assert!(machine.serves(at(3_600_000)));
    }
    let second = Returning::new(ME, (hosts([1, 2, 9]), hosts([1, 9])), START);
    assert!(!second.serves(START), "another issuer may have put somebody out");
    // What comes of it that nobody else was here when it starts: who joins has been away from nothing.
    let mut machine = Returning::new(ME, (hosts([1]), hosts([1])), START);
    machine.on(Event::Members { all: hosts([1, 9]), issuers: hosts([1, 9]) }, at(1_000));
    assert!(machine.serves(at(1_000)));
}

#[test]
fn after_a_minute_without_any_member_it_waits_from_the_first_that_it_meets() {
    let mut machine = serving();
    machine.on(connected([]), at(2_000));
    assert!(pass(&mut machine, 2_000, 2_000 + LONELY_MS).is_empty() && machine.serves(at(62_000)));
    assert!(!machine.serves(at(62_001)), "before anybody has told it");
    assert_eq!(pass(&mut machine, 62_250, 200_000), [Effect::Wait], "however long that takes");
    assert_eq!(machine.on(connected([2]), at(200_000)), [Effect::Compare(host(2))]);
    machine.on(compared(2, at(200_000)), at(200_500));
    assert!(pass(&mut machine, 200_500, 209_750).is_empty() && !machine.serves(at(209_999)));
    assert_eq!(machine.on(Event::Time, at(210_000)), [Effect::Serve]);
    assert!(pass(&mut machine, 210_000, 300_000).is_empty() && machine.serves(at(300_000)));
}

#[test]
fn whoever_only_knocks_is_met_as_well() {
    let mut machine = serving();
    machine.on(connected([]), at(2_000));
    assert_eq!(pass(&mut machine, 2_000, 70_000), [Effect::Wait]);
    // It may come by this host's relay alone, which is closed to it until then.
    machine.knocked(at(70_000));
    machine.knocked(at(75_000));
    assert!(pass(&mut machine, 70_000, 79_750).is_empty());
    assert_eq!(machine.on(Event::Time, at(80_000)), [Effect::Serve]);
}

#[test]
fn the_first_that_it_meets_is_not_served_although_nobody_had_noticed_the_minute() {
    let mut machine = serving();
    machine.on(connected([]), at(2_000));
    pass(&mut machine, 2_000, 60_000);
    let met = machine.on(connected([2]), at(64_000));
    assert_eq!(met, [Effect::Wait, Effect::Compare(host(2))]);
    assert!(!machine.serves(at(64_000)));
}

#[test]
fn less_than_a_minute_without_anybody_is_no_absence() {
    let mut machine = serving();
    machine.on(connected([]), at(2_000));
    assert!(pass(&mut machine, 2_000, 61_000).is_empty());
    assert!(machine.on(connected([2]), at(61_500)).is_empty() && machine.serves(at(61_500)));
    machine.on(connected([]), at(62_000));
    assert!(pass(&mut machine, 62_000, 120_000).is_empty(), "each time is one of its own");
}

#[test]
fn a_host_that_wakes_waits_until_it_has_compared_anew() {
    let mut machine = serving();
    pass(&mut machine, 1_000, 2_000);
    let woke = 2_000 + ASLEEP_MS + 1;
    assert!(machine.serves(at(woke - 1)) && !machine.serves(at(woke)), "before anybody has told it");
    // The comparison was begun before.
    let told = machine.on(compared(9, at(1_900)), at(woke));
    assert_eq!(told, [Effect::Wait, Effect::Compare(ISSUER), Effect::Compare(host(2))]);
    assert!(!machine.serves(at(woke)));
    assert_eq!(machine.on(compared(9, at(woke)), at(woke + 50)), [Effect::Serve]);
    assert!(machine.serves(at(woke + 50)));
}

#[test]
fn a_host_that_wakes_among_the_silent_waits_ten_seconds() {
    let mut machine = serving();
    machine.on(Event::Time, at(1_000_000));
    machine.on(connected([]), at(1_008_000));
    assert!(pass(&mut machine, 1_008_000, 1_009_750).is_empty() && !machine.serves(at(1_009_999)));
    assert_eq!(machine.on(Event::Time, at(1_010_000)), [Effect::Serve]);
    // What it slept while it waited counts as well.
    let mut machine = among(&[2, 3, 9]);
    machine.on(compared(2, at(100)), at(100));
    machine.on(Event::Time, at(100_000));
    machine.on(compared(3, at(100_000)), at(100_100));
    assert!(!machine.serves(at(100_100)), "one of before the sleep, and one of after it");
}

#[test]
fn an_issuer_that_was_put_out_meanwhile_counts_no_more() {
    let mut machine = among(&[2, 3, 4, 9]);
    machine.on(connected([9]), at(100));
    // The comparison brings the word against it.
    machine.on(Event::Members { all: hosts([1, 2, 3, 4]), issuers: hosts([]) }, at(200));
    assert!(machine.on(compared(9, at(100)), at(210)).is_empty() && !machine.serves(at(210)));
}
