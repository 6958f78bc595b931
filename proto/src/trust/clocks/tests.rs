//! Claims about wrong clocks: a mesh of a root, an issuer and a member, whose issuer signed when its clock showed this.

use std::collections::BTreeMap;

use super::*;
use crate::{
    id::HostId,
    seal::Seed,
    trust::{
        Capabilities, Certificate, Charter, Grant, GrantState, JoinRefusal, May, Statement, Transcript, join,
        members::CERTIFICATE_MS, mesh_id,
    },
};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;
const YEARS: u64 = 5 * 365 * DAY;
/// What a right clock shows.
const NOW: Timestamp = Timestamp(EARLIEST.0 + 200 * DAY);

const ROOT: Seed = Seed([1; 32]);
const ATTIC: Seed = Seed([2; 32]);
const CELLAR: Seed = Seed([3; 32]);
const TOKEN: Seed = Seed([9; 32]);

fn host(seed: &Seed) -> HostId {
    HostId(seed.public())
}

fn certificate(seed: &Seed, label: &str, made: Timestamp, issues: bool) -> Certificate {
    Certificate {
        host: host(seed),
        name: label.parse().unwrap(),
        tags: BTreeMap::new(),
        capabilities: if issues { Capabilities::ISSUE } else { Capabilities::NONE },
        serial: 1,
        grant: None,
        since: made,
        not_before: made,
        not_after: (!issues).then(|| made.plus_ms(CERTIFICATE_MS)),
        may: May::ALL,
    }
}

/// A mesh that was made, with a token of seven days, when the clock of its first host showed `made`.
fn founded(made: Timestamp) -> MemberSet {
    let mesh = mesh_id(&ROOT.public());
    let mut set = MemberSet::new(mesh);
    let charter = Charter { name: "home".parse().unwrap(), made };
    let grant = Grant {
        token: TOKEN.public(),
        made,
        expires: made.plus_ms(7 * DAY),
        max_uses: 9,
        capabilities: Capabilities::NONE,
        tags: BTreeMap::new(),
        may: May::ALL,
    };
    let said = [
        (Statement::Charter(charter), &ROOT),
        (Statement::Certificate(certificate(&ATTIC, "attic", made, true)), &ROOT),
        (Statement::Certificate(certificate(&CELLAR, "cellar", made, false)), &ATTIC),
        (Statement::Grant(grant), &ATTIC),
    ];
    for (statement, seed) in said {
        set.apply(statement.seal(mesh, seed), made).unwrap();
    }
    set
}

fn ago(millis: u64) -> Timestamp {
    Timestamp(NOW.0 - millis)
}

fn token(set: &MemberSet, now: Timestamp) -> GrantState {
    set.grant_state(&TOKEN.public(), now)
}

#[test]
fn an_issuer_an_hour_ahead_changes_nothing() {
    let set = founded(NOW.plus_ms(HOUR));
    for own in [NOW, NOW.plus_ms(HOUR)] {
        let now = mesh_time(own, &[NOW, NOW], &set);
        assert!(now >= NOW && now <= NOW.plus_ms(HOUR), "{now}");
        assert!(matches!(token(&set, now), GrantState::Live { .. }));
    }
}

#[test]
fn a_mesh_made_five_years_ahead_is_in_the_present_once_the_clock_is_right() {
    let ahead = NOW.plus_ms(YEARS);
    let set = founded(ahead);
    // While the clock is wrong and nobody else is there, the mesh lives in its time, and a token works in it.
    assert_eq!(mesh_time(ahead, &[], &set), ahead);
    assert!(matches!(token(&set, ahead), GrantState::Live { .. }));
    for heard in [&[][..], &[NOW], &[NOW, NOW]] {
        let now = mesh_time(NOW, heard, &set);
        assert_eq!(now, NOW, "what was signed ahead moves nobody");
        assert_eq!(
            token(&set, now),
            GrantState::NotYet,
            "and its token of seven days does not live for years"
        );
        assert_eq!(clock_error(NOW, heard, &set), None, "nor is the right clock called wrong");
    }
    // The certificate from then is replaced by one of now.
    let renewed = set.renewal(host(&CELLAR), NOW).unwrap();
    assert_eq!((renewed.serial, renewed.not_before), (2, NOW));
    // In a mesh of others who are right, the one whose clock is ahead follows them.
    assert_eq!(mesh_time(ahead, &[NOW, NOW], &set), NOW);
}

#[test]
fn a_token_from_a_clock_that_was_ahead_lets_nobody_in() {
    let set = founded(NOW.plus_ms(YEARS));
    let stranger = Seed([7; 32]);
    let transcript = Transcript {
        mesh: set.mesh(),
        joiner: host(&stranger),
        member: host(&ATTIC),
        hello: [1; 32],
        offer: [2; 32],
        channel: [3; 32],
    };
    let proof = transcript.prove("shed".parse().unwrap(), &TOKEN, &stranger);
    let refused = join::admit(&set, host(&stranger), &proof, false, NOW).unwrap_err();
    assert!(matches!(&refused, JoinRefusal::Failed(why) if why.contains("clock")), "{refused}");
    let then = NOW.plus_ms(YEARS + DAY);
    assert!(join::admit(&set, host(&stranger), &proof, false, then).is_ok());
}

#[test]
fn a_host_that_boots_in_1970_follows_whom_it_hears() {
    let set = founded(ago(3 * DAY));
    let boot = Timestamp(5_000);
    assert_eq!(mesh_time(boot, &[], &set), ago(3 * DAY), "alone: when something was signed last");
    for heard in [&[NOW][..], &[NOW, NOW], &[NOW, Timestamp(9), Timestamp(7)]] {
        let now = mesh_time(boot, heard, &set);
        assert_eq!(now, NOW, "{heard:?}");
        assert!(matches!(token(&set, now), GrantState::Live { .. }));
        assert!(set.renewal(host(&CELLAR), now).is_some());
    }
    assert!(matches!(clock_error(boot, &[], &set), Some(ClockError::Behind(_))));
    // The others are not moved by it.
    assert_eq!(mesh_time(NOW, &[boot], &set), NOW);
    // A mesh that was made in 1970 lives, and is in the present later.
    let early = founded(boot);
    assert_eq!(mesh_time(boot.plus_ms(HOUR), &[], &early), boot.plus_ms(HOUR));
    assert_eq!(mesh_time(NOW, &[], &early), NOW);
    assert!(early.renewal(host(&CELLAR), NOW).is_some());
}

#[test]
fn a_clock_that_steps_back_or_stands_still_does_not_take_the_mesh_along() {
    let set = founded(ago(HOUR));
    // A step of two hours: what was signed an hour ago holds alone, others' clocks hold more.
    assert_eq!(mesh_time(ago(2 * HOUR), &[], &set), ago(HOUR));
    assert_eq!(mesh_time(ago(2 * HOUR), &[NOW, NOW], &set), NOW);
    let stood = |days| mesh_time(ago(HOUR), &[NOW.plus_ms(days * DAY), NOW.plus_ms(days * DAY + 5)], &set);
    for days in 0..100 {
        assert_eq!(stood(days), NOW.plus_ms(days * DAY));
    }
}

#[test]
fn one_wrong_clock_of_three_changes_nothing() {
    let set = founded(ago(DAY));
    for wrong in [Timestamp(0), ago(100 * DAY), NOW.plus_ms(YEARS), Timestamp(u64::MAX)] {
        assert_eq!(mesh_time(wrong, &[NOW, NOW], &set), NOW);
        assert_eq!(mesh_time(NOW, &[wrong, NOW.plus_ms(1)], &set).0 / 1000, NOW.0 / 1000);
    }
}

#[test]
fn no_statement_moves_time_by_more_than_the_tolerance() {
    for ahead in [0, 1, HOUR, DAY - 1, DAY, DAY + 1, 2 * DAY, YEARS, u64::MAX - NOW.0 - 8 * DAY] {
        let now = mesh_time(NOW, &[], &founded(NOW.plus_ms(ahead)));
        assert!(now >= NOW && now.since_ms(NOW) <= CLOCK_TOLERANCE_MS, "{ahead}: {now}");
    }
}

#[test]
fn a_clock_is_told_that_most_others_contradict() {
    let (early, late, soon) = (ago(HOUR), NOW.plus_ms(HOUR), NOW.plus_ms(9 * 60 * 1000));
    let (ahead, behind) = (Some(ClockError::Ahead(HOUR)), Some(ClockError::Behind(HOUR)));
    let cases = [
        (&[][..], NOW, None),
        (&[], late, behind),
        (&[soon], NOW, None),
        // Two hosts: each learns that the other differs.
        (&[early], NOW, ahead),
        (&[late], NOW, behind),
        // Three: the one that is off learns it, the others do not, whatever it has signed.
        (&[early, early], NOW, ahead),
        (&[late, NOW], NOW, None),
        (&[late, NOW], late, None),
        (&[early, NOW], NOW, None),
        (&[late, late], NOW, behind),
        (&[early, early, late], NOW, ahead),
        // Everybody says something else: what an issuer signed counts.
        (&[early, late], NOW, None),
        (&[early, late], late, behind),
        (&[Timestamp(0), Timestamp(0)], NOW, Some(ClockError::Ahead(NOW.0))),
        (&[Timestamp(u64::MAX), Timestamp(u64::MAX)], NOW, Some(ClockError::Behind(u64::MAX - NOW.0))),
    ];
    for (heard, signed, told) in cases {
        assert_eq!(clock_error(NOW, heard, &founded(signed)), told, "{heard:?} {signed:?}");
    }
}
