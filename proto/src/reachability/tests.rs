//! What one look leads to.

use super::{deaf::Carried, *};
use crate::id::Digest;

mod world;

const ME: HostId = HostId([1; 32]);
const CELLAR: HostId = HostId([2; 32]);
const GARDEN: HostId = HostId([3; 32]);

fn offer(url: &str) -> RelayOffer {
    RelayOffer { url: url.to_owned(), qad_port: 7441, certificate: Digest([1; 32]) }
}

fn home(url: &str, is_connected: bool) -> Vec<Home> {
    vec![Home { url: url.to_owned(), is_connected }]
}

#[test]
fn who_is_known_and_missing_is_dialled() {
    let mut machine = Reachability::new(ME, Moment(0));
    let known = BTreeSet::from([CELLAR, GARDEN]);
    let sight = Sight { known, connected: BTreeSet::from([GARDEN]), ..Sight::default() };
    assert_eq!(machine.on(Event::Look(sight.clone()), Moment(10)), [Effect::Dial(CELLAR)]);
    assert_eq!(machine.on(Event::Look(sight.clone()), Moment(20)), []);
    // Two failures, and then another way becomes known: it is dialled at once.
    assert_eq!(machine.on(Event::Look(sight.clone()), Moment(1_100)), [Effect::Dial(CELLAR)]);
    assert_eq!(machine.on(Event::Ways(vec![CELLAR]), Moment(1_200)), []);
    assert_eq!(machine.on(Event::Look(sight), Moment(1_300)), [Effect::Dial(CELLAR)]);
}

#[test]
fn a_dead_home_relay_is_left_with_those_whom_it_carries() {
    let mut machine = Reachability::new(ME, Moment(0));
    let all = vec![offer("http://a/"), offer("http://b/")];
    let both = Effect::UseRelays { used: all.clone(), offered: all.clone() };
    assert_eq!(machine.on(Event::Offered(all.clone()), Moment(0)), std::slice::from_ref(&both));
    assert_eq!(machine.on(Event::Offered(all.clone()), Moment(0)), []);
    let relayed = BTreeMap::from([(CELLAR, "http://a/".to_owned()), (GARDEN, "http://b/".to_owned())]);
    let connected = BTreeSet::from([CELLAR, GARDEN]);
    let sight = Sight { connected, relayed, homes: home("http://a/", false), ..Sight::default() };
    assert_eq!(machine.on(Event::Look(sight.clone()), Moment(100)), []);
    let left = machine.on(Event::Look(sight), Moment(1_600));
    let expected = [
        Effect::UseRelays { used: vec![offer("http://b/")], offered: all },
        Effect::LeaveRelays(BTreeSet::from(["http://a/".to_owned()])),
        Effect::StartOver(CELLAR, Broke::DeadRelay),
    ];
    assert_eq!(left, expected);
    let sight = Sight { homes: home("http://b/", true), ..Sight::default() };
    assert_eq!(machine.on(Event::Look(sight), Moment(61_600)), [both]);
}

/// A relay whose process stands still: its connections stand, and nothing comes over them.
#[test]
fn a_relay_that_dies_without_a_word_is_left_with_those_whom_it_carries() {
    let (owner, other) = (HostId([8; 32]), HostId([9; 32]));
    let look = |second: u64, owner_silent: bool, carried_silent: bool, other_silent: bool| {
        let sounding = |host, relayed: bool, is_silent: bool| Sounding {
            host,
            connection: usize::from(host == owner),
            received: if is_silent { 7 } else { second },
            sent: 0,
            direct: !relayed,
            relayed,
            carried: Carried::default(),
        };
        Event::Look(Sight {
            connected: BTreeSet::from([CELLAR, owner, other]),
            soundings: vec![
                sounding(CELLAR, true, carried_silent),
                sounding(owner, false, owner_silent),
                sounding(other, false, other_silent),
            ],
            relayed: BTreeMap::from([(CELLAR, "http://a/".to_owned())]),
            homes: home("http://a/", true),
            served: BTreeMap::from([("http://a/".to_owned(), owner), ("http://b/".to_owned(), other)]),
            ..Sight::default()
        })
    };
    let run = |owner_silent, carried_silent, other_silent| {
        let mut machine = Reachability::new(ME, Moment(0));
        machine.on(Event::Offered(vec![offer("http://a/"), offer("http://b/")]), Moment(0));
        let first = |second: &u64| {
            let event = look(*second, owner_silent, carried_silent, other_silent);
            !machine.on(event, Moment(second * 1_000)).is_empty()
        };
        (8..12).find(first)
    };
    assert_eq!(run(true, true, false), Some(11), "three seconds after it was heard last");
    assert_eq!(run(true, false, false), None, "it carries somebody");
    assert_eq!(run(false, true, false), None, "its host lives, so another one died");
    assert_eq!(run(true, true, true), None, "nobody at all is heard: it is this host's own network");
}

#[test]
fn a_way_that_carries_small_packets_alone_is_asked_and_then_started_over() {
    for (answered, expected) in [(false, vec![Effect::StartOver(CELLAR, Broke::TooNarrow)]), (true, vec![])] {
        let mut machine = Reachability::new(ME, Moment(0));
        let look = |quarter: u64| {
            let carried = Carried { sent: quarter * 2_400, lost: 0, acknowledged: 0 };
            let sounding = Sounding {
                host: CELLAR,
                connection: 1,
                received: quarter,
                sent: 0,
                direct: true,
                relayed: false,
                carried,
            };
            let connected = BTreeSet::from([CELLAR]);
            Event::Look(Sight { connected, soundings: vec![sounding], ..Sight::default() })
        };
        for quarter in 0..=4 {
            let asked: &[Effect] = if quarter == 4 { &[Effect::AskLong(CELLAR)] } else { &[] };
            assert_eq!(machine.on(look(quarter), Moment(quarter * 250)), asked, "at {quarter}/4 s");
        }
        assert_eq!(machine.on(Event::Asked { host: CELLAR, answered }, Moment(2_000)), expected);
    }
}

#[test]
fn the_end_of_a_connection_makes_the_endpoint_forget() {
    let mut machine = Reachability::new(ME, Moment(0));
    let ended = machine.on(Event::Lost(vec![CELLAR]), Moment(5));
    assert_eq!(ended, [Effect::StartOver(CELLAR, Broke::Ended)]);
}

#[test]
fn a_member_held_on_a_dead_way_is_started_over() {
    let mut machine = Reachability::new(ME, Moment(0));
    let sounding = |connection, received, relayed: bool| Sounding {
        host: CELLAR,
        connection,
        received,
        sent: 0,
        direct: !relayed,
        relayed,
        carried: Carried::default(),
    };
    for second in 0..=5 {
        let soundings = vec![sounding(1, second, true), sounding(2, 7, false)];
        let connected = BTreeSet::from([CELLAR]);
        let sight = Sight { soundings, connected, ..Sight::default() };
        let over = [Effect::StartOver(CELLAR, Broke::DeadWay)];
        let expected: &[Effect] = if second == 5 { &over } else { &[] };
        assert_eq!(machine.on(Event::Look(sight), Moment(second * 1_000)), expected, "at {second} s");
    }
}
