//! Sessions come and go for months, and little is left of them.

use super::*;
use crate::{
    id::{MeshId, Name},
    seal::Seed,
    trust::{Capabilities, Certificate, Eviction, Genesis, May, OutBecause, Sealed, mesh_id},
};

const ROOT: Seed = Seed([1; 32]);
const NAS: Seed = Seed([2; 32]);
const ATTIC: Seed = Seed([3; 32]);
const CELLAR: Seed = Seed([4; 32]);
const BEGIN: Timestamp = Timestamp(1_790_000_000_000);

fn day(number: u64) -> Timestamp {
    BEGIN.plus_ms(number * DAY_MS)
}

fn mesh() -> MeshId {
    mesh_id(&ROOT.public())
}

fn host(seed: &Seed) -> HostId {
    HostId(seed.public())
}

fn member(seed: &Seed, label: &str, since: Timestamp) -> Sealed {
    let certificate = Certificate {
        host: host(seed),
        name: label.parse::<Name>().unwrap(),
        tags: Default::default(),
        capabilities: Capabilities::NONE,
        serial: 1,
        grant: None,
        since,
        not_before: since,
        not_after: Some(since.plus_ms(super::super::CERTIFICATE_MS)),
        may: May::ALL,
    };
    Statement::Certificate(certificate).seal(mesh(), &ROOT)
}

/// A mesh of three since its first day.
fn set() -> MemberSet {
    let mut set = MemberSet::new(mesh());
    for (seed, label) in [(&NAS, "nas"), (&ATTIC, "attic"), (&CELLAR, "cellar")] {
        set.apply(member(seed, label, BEGIN), BEGIN).unwrap();
    }
    set
}

fn born(by: &Seed, number: u32, at: Timestamp) -> (SessionId, Sealed) {
    let mut salt = [0; 16];
    salt[..4].copy_from_slice(&number.to_be_bytes());
    let session = SessionId::born(host(by), &salt);
    let name = "shop".parse().unwrap();
    let genesis = Genesis { session, salt, name, stamp: at, voters: vec![host(by)], bound: false };
    (session, Statement::Genesis(genesis).seal(mesh(), by))
}

fn ended(by: &Seed, session: SessionId, at: Timestamp) -> Sealed {
    Statement::Tombstone(Tombstone { session, made: at, mandate: None }).seal(mesh(), by)
}

/// Says for a member what it owes, if it owes anything. Gives whether it did.
fn says(set: &mut MemberSet, seed: &Seed, held: &[SessionId], now: Timestamp) -> bool {
    let due = set.possession_due(host(seed), &held.iter().copied().collect(), now);
    due.is_some_and(|due| set.apply(Statement::Possession(due).seal(mesh(), seed), now) == Ok(true))
}

/// A day on which every one of these looks whether it owes a word.
fn passes(set: &mut MemberSet, seeds: &[&Seed], now: Timestamp) {
    for seed in seeds {
        says(set, seed, &[], now);
    }
    set.prune(now);
}

const ALL: [&Seed; 3] = [&NAS, &ATTIC, &CELLAR];

#[test]
fn ten_thousand_sessions_leave_nothing_behind_that_a_month_does_not_remove() {
    let (mut set, before) = (set(), set().summary());
    let (mut number, mut most, mut words) = (0, 0, 0);
    for today in 0..100 {
        for part in 0..100 {
            let now = day(today).plus_ms(part * 1_000);
            let (session, birth) = born(ALL[part as usize % 3], number, now);
            set.apply(birth, now).unwrap();
            set.apply(ended(&NAS, session, now.plus_ms(500)), now.plus_ms(500)).unwrap();
            number += 1;
        }
        let evening = day(today).plus_ms(DAY_MS / 2);
        words += ALL.iter().filter(|seed| says(&mut set, seed, &[], evening)).count();
        set.prune(evening);
        most = most.max(set.all().len());
    }
    assert_eq!(number, 10_000);
    assert!(most <= 2 * (KEPT_ENDED + 300), "{most}");
    assert!(words <= 300, "a word a day each: {words}");
    (100..131).for_each(|today| passes(&mut set, &ALL, day(today)));
    set.slots.retain(|slot, _| !matches!(slot, Slot::Possession(_)));
    set.known = set.kept().map(|kept| kept.digest).collect();
    assert_eq!(set.summary(), before, "nothing is left but who belongs to the mesh");
}

#[test]
fn what_is_dropped_does_not_come_back() {
    let mut set = set();
    let (session, birth) = born(&NAS, 1, day(0));
    let end = ended(&NAS, session, day(1));
    let all = vec![end, birth];
    assert_eq!(set.apply_all(all.clone(), day(1)), (2, vec![]));
    passes(&mut set, &ALL, day(30));
    assert!(set.is_buried(session) && set.genesis(session).is_some(), "a month is not over");
    passes(&mut set, &ALL, day(31));
    assert!(!set.is_buried(session) && set.genesis(session).is_none());
    assert_eq!(set.apply_all(all.clone(), day(31)), (0, vec![]));
    let [end, birth] = &all[..] else { panic!() };
    assert_eq!(set.apply(birth.clone(), day(90)), Ok(false));
    assert_eq!(set.apply(end.clone(), day(90)), Ok(false));
    let (_, young) = born(&NAS, 2, day(90));
    assert_eq!(set.apply(young, day(90)), Ok(true), "new ones are born");
}

#[test]
fn a_member_that_is_away_is_waited_for_until_it_is_back_or_out() {
    let mut set = set();
    let (session, birth) = born(&NAS, 1, day(0));
    set.apply_all(vec![birth, ended(&NAS, session, day(1))], day(1));
    passes(&mut set, &[&NAS, &ATTIC], day(300));
    assert!(set.is_buried(session), "the cellar may have a share, and does not know of the end");
    let mut back = set.clone();
    // It is back and still has a share: it says so, and the end stays until that is cleared away.
    assert!(says(&mut back, &CELLAR, &[session], day(301)));
    back.prune(day(301));
    assert!(back.is_buried(session));
    assert!(!says(&mut back, &CELLAR, &[], day(301)), "a word a day");
    passes(&mut back, &[&CELLAR], day(302));
    assert!(!back.is_buried(session));
    let gone = Eviction { host: host(&CELLAR), made: day(301), reason: OutBecause::Removed };
    set.apply(Statement::Eviction(gone).seal(mesh(), &ROOT), day(301)).unwrap();
    set.prune(day(301));
    assert!(!set.is_buried(session), "nobody waits for who is out");
}

#[test]
fn a_member_that_joined_later_has_nothing_to_say() {
    let mut set = set();
    let (session, birth) = born(&NAS, 1, day(0));
    set.apply_all(vec![birth, ended(&NAS, session, day(1))], day(1));
    let late = Seed([5; 32]);
    set.apply(member(&late, "late", day(20)), day(20)).unwrap();
    assert!(!says(&mut set, &late, &[], day(31)));
    passes(&mut set, &ALL, day(31));
    assert!(!set.is_buried(session));
}

#[test]
fn a_session_that_lives_is_kept_for_ever_and_one_that_nobody_has_for_ten_days() {
    let mut set = set();
    let (lives, one) = born(&NAS, 1, day(0));
    let (nobodys, other) = born(&NAS, 2, day(0));
    set.apply_all(vec![one, other], day(0));
    assert!(!says(&mut set, &ATTIC, &[lives], day(9)), "no word is needed yet");
    for seed in [&NAS, &ATTIC] {
        assert!(says(&mut set, seed, &[lives], day(10)));
    }
    set.prune(day(10));
    assert!(set.genesis(nobodys).is_some(), "the cellar may have a share");
    assert!(says(&mut set, &CELLAR, &[], day(10)));
    set.prune(day(10));
    assert!(set.genesis(nobodys).is_none() && set.genesis(lives).is_some());
    let mut words = 0;
    for today in 11..400 {
        words += [&NAS, &ATTIC].iter().filter(|seed| says(&mut set, seed, &[lives], day(today))).count();
        set.prune(day(today));
    }
    assert!(set.genesis(lives).is_some());
    assert_eq!(words, 0, "nothing new, nothing said");
}

#[test]
fn who_gets_a_share_of_a_session_that_looks_old_says_so_at_once() {
    let mut set = set();
    let (old, birth) = born(&NAS, 1, day(0));
    set.apply(birth, day(0)).unwrap();
    assert!(says(&mut set, &ATTIC, &[], day(10)));
    assert!(says(&mut set, &ATTIC, &[old], day(10)), "it got one a moment later");
    assert!(set.possession(host(&ATTIC)).unwrap().sessions.contains(&old));
}

#[test]
fn two_sets_that_met_in_any_order_come_to_the_same() {
    let (mut ours, mut theirs) = (set(), set());
    for number in 0..50 {
        let (session, birth) = born(&NAS, number, day(0));
        ours.apply(birth, day(0)).unwrap();
        if number % 2 == 0 {
            ours.apply(ended(&ATTIC, session, day(1)), day(1)).unwrap();
        }
    }
    let copy = ours.all();
    passes(&mut ours, &ALL, day(40));
    theirs.apply_all(copy, day(40));
    theirs.prune(day(40));
    assert_ne!(ours.summary(), theirs.summary(), "one of them has not heard all words");
    for _ in 0..2 {
        let names = |set: &MemberSet| set.names().into_iter().collect();
        let (given, _) = ours.differences(&names(&theirs));
        let (back, _) = theirs.differences(&names(&ours));
        ours.apply_all(back, day(40));
        theirs.apply_all(given, day(40));
        ours.prune(day(40));
        theirs.prune(day(40));
    }
    assert_eq!(ours.summary(), theirs.summary());
    assert_eq!(ours.spoken_of().len(), 0);
}

#[test]
fn many_ended_sessions_of_one_member_keep_it_from_no_new_one() {
    let mut set = set();
    for number in 0..600 {
        let (session, birth) = born(&CELLAR, number, day(0));
        assert_eq!(set.apply(birth, day(0)), Ok(true), "session {number}");
        assert_eq!(set.apply(ended(&CELLAR, session, day(0)), day(0)), Ok(true));
    }
    let copy = set.all();
    let mut other = self::set();
    let (_, refused) = other.apply_all(copy, day(0));
    assert_eq!((refused, other.summary()), (vec![], set.summary()), "nor do they lack where they arrive");
}
