//! Claims about hosts that are out of the mesh, and about names that changed.

use super::*;
use crate::random::Random;

fn eviction(seed: &Seed, reason: OutBecause) -> Statement {
    Statement::Eviction(Eviction { host: host(seed), made: NOW.plus_ms(1), reason })
}

fn evicted(seed: &Seed) -> Statement {
    eviction(seed, OutBecause::Evicted)
}

fn rename(seed: &Seed, label: &str, after_ms: u64) -> Statement {
    Statement::Rename(Rename { host: host(seed), name: name(label), made: NOW.plus_ms(after_ms) })
}

fn say(set: &mut MemberSet, statement: Statement, signer: &Seed) -> Result<bool, RefusedBecause> {
    set.apply(seal(statement, signer), NOW)
}

/// The same with shed as a second issuer, and van let in by it.
fn with_two_issuers() -> MemberSet {
    let mut set = set();
    say(&mut set, Statement::Certificate(issuer(&SHED, "shed", 1)), &ROOT).unwrap();
    say(&mut set, Statement::Certificate(certificate(&VAN, "van", 1)), &SHED).unwrap();
    set
}

const VAN: Seed = Seed([5; 32]);

#[test]
fn an_eviction_wins_over_every_certificate_and_stays() {
    let mut set = set();
    assert_eq!(say(&mut set, evicted(&CELLAR), &ATTIC), Ok(true));
    assert!(set.is_out(&host(&CELLAR)) && !set.contains(host(&CELLAR)));
    assert_eq!(set.out().collect::<Vec<_>>(), [(host(&CELLAR), OutBecause::Evicted)]);
    assert_eq!(set.departed(&host(&CELLAR)).unwrap().name, Some(name("cellar")));
    for signer in [&ATTIC, &ROOT] {
        let again = Statement::Certificate(certificate(&CELLAR, "cellar", u64::MAX));
        assert_eq!(say(&mut set, again, signer), Ok(true));
        assert!(!set.contains(host(&CELLAR)) && set.member(host(&CELLAR)).is_none());
    }
    assert_eq!(set.renewal(host(&CELLAR), NOW.plus_ms(9 * DAY)), None);
    set.prune(NOW.plus_ms(4_000 * DAY));
    assert!(set.is_out(&host(&CELLAR)));
    check_members(
        &set,
        expect![[r#"
            8139770ea8 attic issuer
        "#]],
    );
}

#[test]
fn who_may_put_whom_out() {
    let removed = |seed| eviction(seed, OutBecause::Removed);
    let left = |seed| eviction(seed, OutBecause::Left);
    let cases = [
        (evicted(&CELLAR), &ATTIC, Ok(true)),
        (evicted(&CELLAR), &ROOT, Ok(true)),
        (evicted(&SHED), &ROOT, Ok(true)),
        (removed(&SHED), &ROOT, Ok(true)),
        (evicted(&SHED), &ATTIC, Err(RefusedBecause::OnlyRoot)),
        (evicted(&VAN), &CELLAR, Err(RefusedBecause::NotIssuer)),
        (left(&CELLAR), &CELLAR, Ok(true)),
        (left(&ATTIC), &ATTIC, Ok(true)),
        (left(&VAN), &CELLAR, Err(RefusedBecause::NotIssuer)),
        (evicted(&CELLAR), &CELLAR, Err(RefusedBecause::NotIssuer)),
        (removed(&ATTIC), &ATTIC, Err(RefusedBecause::NotIssuer)),
        (left(&Seed([77; 32])), &Seed([77; 32]), Err(RefusedBecause::UnknownSigner)),
    ];
    for (statement, signer, expected) in cases {
        let mut set = with_two_issuers();
        assert_eq!(say(&mut set, statement.clone(), signer), expected, "{statement:?}");
    }
}

#[test]
fn the_hardest_word_about_a_host_counts() {
    let mut set = set();
    say(&mut set, eviction(&CELLAR, OutBecause::Left), &CELLAR).unwrap();
    assert_eq!(say(&mut set, evicted(&CELLAR), &ATTIC), Ok(true));
    let later = Eviction { host: host(&CELLAR), made: NOW.plus_ms(9), reason: OutBecause::Left };
    assert_eq!(say(&mut set, Statement::Eviction(later), &CELLAR), Ok(false));
    assert_eq!(set.departed(&host(&CELLAR)).unwrap().because, OutBecause::Evicted);
    assert_eq!(set.proof_of_eviction(&host(&CELLAR)).unwrap().signer, ATTIC.public());
}

#[test]
fn the_tokens_of_a_host_that_is_cut_off_die_and_those_of_one_that_left_live() {
    let token = TOKEN.public();
    for (reason, is_dead) in
        [(OutBecause::Evicted, true), (OutBecause::Left, false), (OutBecause::Removed, false)]
    {
        let mut set = set();
        let joined = Certificate { grant: Some(token), ..certificate(&VAN, "van", 1) };
        say(&mut set, Statement::Certificate(joined), &ATTIC).unwrap();
        assert_eq!(set.tokens_of(host(&VAN), NOW), [token]);
        assert_eq!(set.tokens_of(host(&ATTIC), NOW), [token], "it made it");
        say(&mut set, eviction(&VAN, reason), &ROOT).unwrap();
        assert_eq!(set.grant_state(&token, NOW) == GrantState::Revoked, is_dead, "{reason:?}");
    }
}

#[test]
fn a_host_that_is_out_is_not_let_in_again_and_its_label_is_free() {
    let mut set = set();
    say(&mut set, eviction(&CELLAR, OutBecause::Removed), &ATTIC).unwrap();
    let ask = |seed: &Seed| {
        let transcript = Transcript { joiner: host(seed), ..transcript() };
        admit(&set, host(seed), &transcript.prove(name("cellar"), &TOKEN, seed), false, NOW)
    };
    assert_eq!(ask(&CELLAR), Err(JoinRefusal::Out(OutBecause::Removed)));
    assert!(matches!(ask(&VAN), Ok(Admission::ByHost(certificate)) if certificate.name == name("cellar")));
}

#[test]
fn an_issuer_that_is_evicted_takes_with_it_what_nobody_took_over() {
    let mut set = with_two_issuers();
    let before = set.clone();
    let kept = set.taken_over(host(&SHED), NOW.plus_ms(2));
    assert_eq!(kept.len(), 1, "{kept:?}");
    for statement in kept {
        assert_eq!(say(&mut set, statement, &ATTIC), Ok(true));
    }
    say(&mut set, evicted(&SHED), &ROOT).unwrap();
    assert!(set.contains(host(&VAN)), "attic stands for it now");
    let forged = || Statement::Certificate(certificate(&Seed([66; 32]), "spy", 1));
    assert_eq!(say(&mut set, forged(), &SHED), Err(RefusedBecause::NotIssuer));

    let mut other = before;
    assert_eq!(say(&mut other, forged(), &SHED), Ok(true));
    say(&mut other, evicted(&SHED), &ROOT).unwrap();
    assert!(!other.contains(host(&VAN)) && !other.contains(host(&Seed([66; 32]))));
    other.apply_all(set.all(), NOW);
    assert_eq!(show(&other), show(&set));
    assert_eq!(other.summary(), set.summary());
}

#[test]
fn what_an_issuer_said_stays_when_it_leaves_or_is_lost() {
    for (reason, signer) in [(OutBecause::Left, &SHED), (OutBecause::Removed, &ROOT)] {
        let mut set = with_two_issuers();
        say(&mut set, eviction(&SHED, reason), signer).unwrap();
        assert!(!set.contains(host(&SHED)) && set.contains(host(&VAN)));
        let mut read = MemberSet::new(mesh());
        assert_eq!(read.apply_all(set.all(), NOW).1, vec![]);
        assert_eq!(read.summary(), set.summary());
    }
}

#[test]
fn a_demoted_issuers_members_stay_when_another_takes_them_over() {
    let mut set = with_two_issuers();
    for statement in set.taken_over(host(&SHED), NOW.plus_ms(2)) {
        say(&mut set, statement, &ATTIC).unwrap();
    }
    say(&mut set, Statement::Certificate(certificate(&SHED, "shed", 2)), &ROOT).unwrap();
    assert!(set.contains(host(&SHED)) && set.contains(host(&VAN)));
    let mut read = MemberSet::new(mesh());
    assert_eq!(read.apply_all(set.all(), NOW).1, vec![], "all of it can be read again");
    assert_eq!(show(&read), show(&set));
}

#[test]
fn an_issuers_word_against_a_host_is_nothing_once_the_root_makes_that_host_an_issuer() {
    let promoted = || Statement::Certificate(issuer(&CELLAR, "cellar", 2));
    let (mut one, mut other) = (set(), set());
    say(&mut one, evicted(&CELLAR), &ATTIC).unwrap();
    say(&mut one, promoted(), &ROOT).unwrap();
    say(&mut other, promoted(), &ROOT).unwrap();
    assert_eq!(say(&mut other, evicted(&CELLAR), &ATTIC), Err(RefusedBecause::OnlyRoot));
    assert_eq!(one.summary(), other.summary());
    assert!(one.is_issuer(host(&CELLAR)));
}

#[test]
fn evictions_can_always_be_said() {
    let mut set = set();
    let mut next = 0;
    for signer in [&ATTIC, &CELLAR] {
        while say(&mut set, tombstone(next), signer) == Ok(true) {
            next += 1;
        }
        let full = say(&mut set, tombstone(1_000_000 + next), signer);
        assert_eq!(full, Err(RefusedBecause::Full));
    }
    let mut left = set.clone();
    assert_eq!(say(&mut left, eviction(&CELLAR, OutBecause::Left), &CELLAR), Ok(true));
    assert_eq!(say(&mut set, evicted(&CELLAR), &ATTIC), Ok(true));
    // Of hosts that were never members no more than anything else.
    let strange =
        |at| Statement::Eviction(Eviction { host: HostId([at; 32]), made: NOW, reason: OutBecause::Left });
    assert_eq!(say(&mut set, strange(200), &ATTIC), Err(RefusedBecause::Full));
}

#[test]
fn the_newest_label_counts_and_the_roots_above_all() {
    let mut set = set();
    say(&mut set, rename(&CELLAR, "vault", 5), &CELLAR).unwrap();
    assert_eq!(set.member(host(&CELLAR)).unwrap().name, name("vault"));
    assert_eq!(say(&mut set, rename(&CELLAR, "older", 4), &ATTIC), Ok(false));
    say(&mut set, rename(&CELLAR, "den", 6), &ATTIC).unwrap();
    assert_eq!(set.renewal(host(&CELLAR), NOW.plus_ms(2 * DAY)).unwrap().name, name("den"));
    assert_eq!(say(&mut set, rename(&ATTIC, "roof", 7), &CELLAR), Err(RefusedBecause::NotIssuer));
    let ahead = rename(&CELLAR, "never", 2 * DAY);
    assert_eq!(say(&mut set, ahead, &CELLAR), Err(RefusedBecause::Early));
    say(&mut set, rename(&CELLAR, "cave", 1), &ROOT).unwrap();
    assert_eq!(say(&mut set, rename(&CELLAR, "late", 90), &ATTIC), Ok(false));
    assert_eq!(set.member(host(&CELLAR)).unwrap().name, name("cave"));
}

#[test]
fn nobody_takes_a_label_from_its_owner_by_being_the_older_host() {
    let mut set = set();
    let late = Certificate { since: NOW.plus_ms(5), ..certificate(&SHED, "shed", 1) };
    say(&mut set, Statement::Certificate(late), &ATTIC).unwrap();
    say(&mut set, rename(&CELLAR, "shed", 9), &CELLAR).unwrap();
    let names: Vec<String> = set.members().into_values().map(|member| member.name.to_string()).collect();
    assert_eq!(names, ["attic", "shed", "shed-ed49"]);
}

/// Everything that can change rights, said in this mesh.
fn turmoil() -> Vec<Sealed> {
    let mut all = with_two_issuers().all();
    let more = [
        (evicted(&CELLAR), &ATTIC),
        (eviction(&CELLAR, OutBecause::Left), &CELLAR),
        (rename(&CELLAR, "vault", 5), &CELLAR),
        (rename(&VAN, "bus", 6), &SHED),
        (Statement::Certificate(certificate(&VAN, "van", 2)), &ATTIC),
        (Statement::Certificate(issuer(&SHED, "shed", 2)), &ROOT),
        (eviction(&SHED, OutBecause::Removed), &ROOT),
        (evicted(&SHED), &ROOT),
    ];
    all.extend(more.into_iter().map(|(statement, signer)| seal(statement, signer)));
    all
}

#[test]
fn hosts_agree_in_whatever_order_the_words_came() {
    let mut expected = None;
    for round in 0..200 {
        let (mut all, mut random) = (turmoil(), Random::new(round));
        let mut set = MemberSet::new(mesh());
        // What is refused because its signer is not known yet comes again, as it does between members.
        for _ in 0..4 {
            for at in (1..all.len()).rev() {
                let with = usize::try_from(random.between(0, at as u64)).unwrap();
                all.swap(at, with);
            }
            for sealed in &all {
                set.apply(sealed.clone(), NOW).ok();
            }
        }
        let seen = (show(&set), set.summary());
        assert_eq!(*expected.get_or_insert(seen.clone()), seen, "round {round}");
    }
    assert_eq!(expected.unwrap().0, "6e7a1cdd29 van member\n8139770ea8 attic issuer\n");
}

#[test]
fn a_host_that_renames_itself_takes_no_label_of_another_whatever_date_it_says() {
    let mut set = set();
    say(&mut set, Statement::Certificate(certificate(&SHED, "shed", 1)), &ATTIC).unwrap();
    let long_ago = Statement::Rename(Rename { host: host(&SHED), name: name("cellar"), made: Timestamp(1) });
    say(&mut set, long_ago, &SHED).unwrap();
    let members = set.members();
    assert_eq!(members[&host(&CELLAR)].name, name("cellar"));
    assert!(members[&host(&SHED)].name.as_str().starts_with("cellar-"), "{:?}", members[&host(&SHED)].name);
}
