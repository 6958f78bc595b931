//! What one look leads to.

use super::*;
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
        direct: !relayed,
        relayed,
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
