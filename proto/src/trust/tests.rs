//! Claims about membership, as data: three keys, a clock that stands at `NOW`, no network.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use proptest::prelude::*;

mod forged;
mod out;

use super::{
    join::{admit, restore},
    members::CERTIFICATE_MS,
    *,
};
use crate::{
    id::{Digest, HostId, MeshId, Name, SessionId},
    limits::MAX_JOIN_BYTES,
    seal::{Seed, Sig},
    time::Timestamp,
    wire::record::RelayOffer,
};

const DAY: u64 = 24 * 60 * 60 * 1000;
const NOW: Timestamp = Timestamp(20_600 * DAY);

const ROOT: Seed = Seed([1; 32]);
const ATTIC: Seed = Seed([2; 32]);
const CELLAR: Seed = Seed([3; 32]);
const SHED: Seed = Seed([4; 32]);
const TOKEN: Seed = Seed([9; 32]);

fn host(seed: &Seed) -> HostId {
    HostId(seed.public())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn mesh() -> MeshId {
    mesh_id(&ROOT.public())
}

fn certificate(seed: &Seed, label: &str, serial: u64) -> Certificate {
    Certificate {
        host: host(seed),
        name: name(label),
        tags: BTreeMap::new(),
        capabilities: Capabilities::NONE,
        serial,
        grant: None,
        since: NOW,
        not_before: NOW,
        not_after: Some(NOW.plus_ms(CERTIFICATE_MS)),
        may: May::ALL,
    }
}

fn issuer(seed: &Seed, label: &str, serial: u64) -> Certificate {
    let plain = certificate(seed, label, serial);
    Certificate { capabilities: Capabilities::ISSUE, not_after: None, ..plain }
}

fn grant(max_uses: u32) -> Grant {
    Grant {
        token: TOKEN.public(),
        made: NOW,
        expires: NOW.plus_ms(7 * DAY),
        max_uses,
        capabilities: Capabilities::NONE,
        tags: BTreeMap::from([("room".to_owned(), "attic".to_owned())]),
        may: May::ALL,
    }
}

fn seal(statement: Statement, signer: &Seed) -> Sealed {
    statement.seal(mesh(), signer)
}

/// A mesh with a charter, attic as issuer, cellar as member, and a token for two hosts.
fn sealed() -> Vec<Sealed> {
    vec![
        seal(Statement::Charter(Charter { name: name("home"), made: NOW }), &ROOT),
        seal(Statement::Certificate(issuer(&ATTIC, "attic", 1)), &ROOT),
        seal(Statement::Certificate(certificate(&CELLAR, "cellar", 1)), &ATTIC),
        seal(Statement::Grant(grant(2)), &ATTIC),
    ]
}

fn set() -> MemberSet {
    let mut set = MemberSet::new(mesh());
    let (changed, refused) = set.apply_all(sealed(), NOW);
    assert_eq!((changed, refused), (4, vec![]));
    set
}

fn show(set: &MemberSet) -> String {
    let line = |member: Member| {
        let role = if member.is_issuer() { "issuer" } else { "member" };
        format!("{} {} {role}\n", member.host.short(), member.name)
    };
    set.members().into_values().map(line).collect()
}

fn check_members(set: &MemberSet, expected: Expect) {
    expected.assert_eq(&show(set));
}

/// The certificate of a member that may do only this.
fn only(serial: u64, these: &[Capability]) -> Certificate {
    Certificate { may: May::only(these.iter().copied()), ..certificate(&SHED, "shed", serial) }
}

#[test]
fn certificates_of_one_serial_only_narrow_what_a_member_may_do_and_a_later_one_replaces_it() {
    use Capability::{Operate, Run, Store, Vote};
    let mut set = set();
    let say = |set: &mut MemberSet, certificate| {
        set.apply(seal(Statement::Certificate(certificate), &ATTIC), NOW).unwrap();
    };
    say(&mut set, certificate(&SHED, "shed", 1));
    assert!(Capability::ALL.iter().all(|what| set.member(host(&SHED)).unwrap().may(*what)));
    say(&mut set, only(2, &[Run, Store, Operate]));
    say(&mut set, only(2, &[Run, Vote]));
    let member = set.member(host(&SHED)).unwrap();
    assert_eq!(member.may.list(), [Run]);
    assert!(!member.may(Operate) && !member.is_issuer());
    let renewed = set.renewal(host(&SHED), NOW.plus_ms(2 * DAY)).unwrap();
    assert_eq!((renewed.serial, renewed.may.list()), (3, vec![Run]), "a renewal gives nothing back");
    assert_eq!(set.promotion(host(&SHED), NOW).unwrap().may.list(), [Run]);
    say(&mut set, only(4, &[Store]));
    assert_eq!(set.member(host(&SHED)).unwrap().may.list(), [Store]);
}

#[test]
fn who_joins_may_do_what_its_token_says_also_when_it_joins_again() {
    use Capability::{Run, Store};
    let mut set = set();
    let may = May::only([Run, Store]);
    set.apply(seal(Statement::Grant(Grant { may, made: NOW.plus_ms(1), ..grant(5) }), &ATTIC), NOW).unwrap();
    let proof = Transcript {
        mesh: mesh(),
        joiner: host(&SHED),
        member: host(&ATTIC),
        hello: [1; 32],
        offer: [2; 32],
        channel: [3; 32],
    }
    .prove(name("shed"), &TOKEN, &SHED);
    let Ok(Admission::ByHost(first)) = admit(&set, host(&SHED), &proof, false, NOW) else {
        panic!("not admitted")
    };
    assert_eq!(first.may, may);
    set.apply(seal(Statement::Certificate(first), &ATTIC), NOW).unwrap();
    set.apply(seal(Statement::Grant(Grant { made: NOW.plus_ms(2), ..grant(5) }), &ATTIC), NOW).unwrap();
    let Ok(Admission::ByHost(again)) = admit(&set, host(&SHED), &proof, false, NOW) else {
        panic!("not admitted")
    };
    assert_eq!((again.may, again.serial), (May::ALL, 2));
}

#[test]
fn members_are_those_whose_certificates_chain_to_the_root() {
    check_members(
        &set(),
        expect![[r#"
            8139770ea8 attic issuer
            ed4928c628 cellar member
        "#]],
    );
    assert_eq!(set().name(), Some(&name("home")));
}

#[test]
fn strangers_and_members_beyond_their_rights_are_refused() {
    let mut set = set();
    let cases = [
        (Statement::Certificate(certificate(&SHED, "shed", 1)), &SHED, RefusedBecause::UnknownSigner),
        (Statement::Certificate(certificate(&SHED, "shed", 1)), &CELLAR, RefusedBecause::NotIssuer),
        (Statement::Certificate(issuer(&SHED, "shed", 1)), &ATTIC, RefusedBecause::OnlyRoot),
        (Statement::Certificate(issuer(&CELLAR, "cellar", 2)), &CELLAR, RefusedBecause::NotIssuer),
        (Statement::Grant(grant(9)), &CELLAR, RefusedBecause::NotIssuer),
        (
            Statement::Grant(Grant { capabilities: Capabilities::ISSUE, ..grant(9) }),
            &ATTIC,
            RefusedBecause::OnlyRoot,
        ),
        (
            Statement::Charter(Charter { name: name("mine"), made: NOW.plus_ms(1) }),
            &ATTIC,
            RefusedBecause::OnlyRoot,
        ),
        (
            Statement::Certificate(Certificate { not_after: None, ..certificate(&SHED, "shed", 1) }),
            &ATTIC,
            RefusedBecause::TooLong,
        ),
    ];
    let before = set.summary();
    for (statement, signer, because) in cases {
        assert_eq!(set.apply(seal(statement.clone(), signer), NOW), Err(because), "{statement:?}");
    }
    assert_eq!(set.summary(), before);
}

#[test]
fn a_statement_counts_in_its_own_mesh_and_unchanged_only() {
    let mut set = set();
    let shed = Statement::Certificate(certificate(&SHED, "shed", 1));
    let elsewhere = shed.seal(MeshId([7; 32]), &ATTIC);
    assert!(matches!(set.apply(elsewhere, NOW), Err(RefusedBecause::Invalid(_))));
    let mut other_kind = seal(shed.clone(), &ATTIC);
    other_kind.kind = 99;
    assert!(matches!(set.apply(other_kind, NOW), Err(RefusedBecause::Invalid(_))));
    let good = seal(shed, &ATTIC);
    for at in 0..good.bytes.len() {
        let mut bad = good.clone();
        bad.bytes[at] ^= 1;
        assert!(matches!(set.apply(bad, NOW), Err(RefusedBecause::Invalid(_))), "byte {at}");
    }
    assert_eq!(set.apply(good.clone(), NOW), Ok(true));
    assert_eq!(set.apply(good, NOW), Ok(false));
}

#[test]
fn an_issuer_can_neither_unmake_nor_rename_another_by_a_higher_serial() {
    let mut set = set();
    set.apply(seal(Statement::Certificate(issuer(&SHED, "shed", 1)), &ROOT), NOW).unwrap();
    let demoted = Statement::Certificate(certificate(&SHED, "toolbox", 50));
    assert_eq!(set.apply(seal(demoted.clone(), &ATTIC), NOW), Ok(false));
    assert!(set.is_issuer(host(&SHED)));
    assert_eq!(set.apply(seal(demoted, &ROOT), NOW), Ok(true));
    assert!(!set.is_issuer(host(&SHED)) && set.contains(host(&SHED)));
}

#[test]
fn two_certificates_with_one_serial_give_what_both_give() {
    let mut set = set();
    let one = seal(Statement::Certificate(issuer(&SHED, "shed", 3)), &ROOT);
    let two = Certificate { capabilities: Capabilities(0b10), ..certificate(&SHED, "shed", 3) };
    set.apply(one, NOW).unwrap();
    set.apply(seal(Statement::Certificate(two), &ROOT), NOW).unwrap();
    assert_eq!(set.member(host(&SHED)).unwrap().capabilities, Capabilities::NONE);
}

#[test]
fn of_two_hosts_with_one_label_the_earlier_keeps_it() {
    let mut set = set();
    let late = Certificate { since: NOW.plus_ms(5), ..certificate(&SHED, "cellar", 1) };
    set.apply(seal(Statement::Certificate(late), &ATTIC), NOW).unwrap();
    check_members(
        &set,
        expect![[r#"
            8139770ea8 attic issuer
            ca93ac1705 cellar-ca93 member
            ed4928c628 cellar member
        "#]],
    );
}

#[test]
fn kinds_of_later_versions_are_kept_and_handed_on() {
    let mut set = set();
    let later = seal(Statement::Unknown { kind: 600, bytes: vec![1, 2, 3] }, &CELLAR);
    assert_eq!(set.apply(later.clone(), NOW), Ok(true));
    assert!(set.differences(&BTreeSet::new()).0.contains(&later));
    let mut copy = MemberSet::new(mesh());
    assert_eq!(copy.apply_all(set.all(), NOW), (5, vec![]));
    assert_eq!(copy.summary(), set.summary());
    assert_eq!(copy.differences(&set.names().into_iter().collect()), (vec![], vec![]));
}

#[test]
fn two_sets_are_equal_after_what_lacks_was_exchanged() {
    let mut one = set();
    let mut other = one.clone();
    let kept = |kind| seal(Statement::Unknown { kind, bytes: vec![1] }, &CELLAR);
    for kind in [600, 601, 602] {
        one.apply(kept(kind), NOW).unwrap();
    }
    other.apply(kept(700), NOW).unwrap();
    assert_eq!(one.since(&other).len(), 3);
    let (given, wanted) = one.differences(&other.names().into_iter().collect());
    assert_eq!((given.len(), wanted.len()), (3, 1));
    let named = other.named(&wanted.into_iter().collect());
    assert_eq!(other.some(&named.iter().map(Sealed::digest).collect()), named);
    other.apply_all(given, NOW);
    one.apply_all(named, NOW);
    assert_eq!(one.summary(), other.summary());
}

#[test]
fn a_token_ends_by_time_by_uses_and_by_revocation() {
    let mut set = set();
    let token = TOKEN.public();
    assert_eq!(set.grant_state(&token, NOW), GrantState::Live { left: 2 });
    assert_eq!(set.grant_state(&token, NOW.plus_ms(7 * DAY)), GrantState::Expired);
    assert_eq!(set.grant_state(&[0; 32], NOW), GrantState::Unknown);
    for (seed, label) in [(&SHED, "shed"), (&Seed([5; 32]), "van")] {
        // The same host twice counts once.
        for serial in [1, 2] {
            let joined = Certificate { grant: Some(token), ..certificate(seed, label, serial) };
            set.apply(seal(Statement::Certificate(joined), &ATTIC), NOW).unwrap();
        }
    }
    assert_eq!(set.grant_state(&token, NOW), GrantState::UsedUp);
    set.apply(seal(Statement::Revocation(Revocation { token, made: NOW }), &ATTIC), NOW).unwrap();
    assert_eq!(set.grant_state(&token, NOW), GrantState::Revoked);
    set.prune(NOW.plus_ms(40 * DAY));
    assert!(set.grants().is_empty());
    let again = seal(Statement::Grant(grant(2)), &ATTIC);
    assert_eq!(set.apply(again, NOW.plus_ms(40 * DAY)), Ok(false));
}

#[test]
fn certificates_are_renewed_daily_and_a_stale_member_stays_a_member() {
    let mut set = set();
    let cellar = host(&CELLAR);
    assert_eq!(set.renewal(cellar, NOW.plus_ms(DAY - 1)), None);
    assert_eq!(set.renewal(host(&ATTIC), NOW.plus_ms(90 * DAY)), None);
    let late = NOW.plus_ms(CERTIFICATE_MS + DAY + 1);
    assert_eq!(set.member(cellar).unwrap().not_after, Some(NOW.plus_ms(CERTIFICATE_MS)));
    let renewed = set.renewal(cellar, late).unwrap();
    assert_eq!((renewed.serial, renewed.since), (2, NOW));
    set.apply(seal(Statement::Certificate(renewed), &ATTIC), late).unwrap();
    assert!(set.member(cellar).unwrap().not_after > Some(late));
}

#[test]
fn members_announce_sessions_and_the_earlier_birth_is_the_true_one() {
    let mut set = set();
    let salt = [5; 16];
    let session = SessionId::born(host(&CELLAR), &salt);
    let genesis = |stamp| Genesis {
        session,
        salt,
        name: name("shop"),
        stamp,
        voters: vec![host(&CELLAR)],
        bound: false,
    };
    set.apply(seal(Statement::Genesis(genesis(NOW)), &CELLAR), NOW).unwrap();
    let later = seal(Statement::Genesis(genesis(NOW.plus_ms(1))), &CELLAR);
    assert_eq!(set.apply(later.clone(), NOW), Ok(false));
    set.apply(seal(Statement::Tombstone(Tombstone { session, made: NOW, mandate: None }), &CELLAR), NOW)
        .unwrap();
    assert_eq!(set.all().iter().filter(|sealed| sealed.kind == later.kind).count(), 1);
    assert_eq!(set.genesis(session).unwrap().stamp, NOW);
    assert!(set.is_buried(session) && !set.is_buried(SessionId([1; 16])));
    assert_eq!(set.tombstones().next().unwrap().session, session);
}

#[test]
fn nobody_states_the_birth_of_a_session_that_another_host_started() {
    let mut set = set();
    let salt = [5; 16];
    let session = SessionId::born(host(&CELLAR), &salt);
    let name = name("shop");
    let forged =
        Genesis { session, salt, name, stamp: Timestamp(0), voters: vec![host(&ATTIC)], bound: false };
    assert_eq!(set.apply(seal(Statement::Genesis(forged), &ATTIC), NOW), Err(RefusedBecause::NotItsOwn));
    assert_eq!(set.genesis(session), None);
}

#[test]
fn one_member_cannot_fill_the_set() {
    let mut set = set();
    let mut last = Ok(true);
    for at in 0..2_001_u32 {
        let session = SessionId([&at.to_le_bytes()[..], &[0; 12]].concat().try_into().unwrap());
        let tombstone = Statement::Tombstone(Tombstone { session, made: NOW, mandate: None });
        last = set.apply(seal(tombstone, &CELLAR), NOW);
    }
    assert_eq!(last, Err(RefusedBecause::Full));
    assert_eq!(set.apply(seal(Statement::Certificate(certificate(&SHED, "shed", 1)), &ATTIC), NOW), Ok(true));
}

fn tombstone(at: u32) -> Statement {
    let session = SessionId([&at.to_le_bytes()[..], &[0; 12]].concat().try_into().unwrap());
    Statement::Tombstone(Tombstone { session, made: NOW, mandate: None })
}

fn unknown(at: u32) -> Statement {
    Statement::Unknown { kind: 99, bytes: at.to_le_bytes().to_vec() }
}

/// Applies statements of one signer until one is refused; gives how many were taken.
fn taken(set: &mut MemberSet, signer: &Seed, say: fn(u32) -> Statement) -> u32 {
    let refused = |at: &u32| match set.apply(seal(say(*at), signer), NOW) {
        Ok(new) => !new,
        Err(because) => because == RefusedBecause::Full,
    };
    (0..3_000).find(refused).unwrap_or(3_000)
}

#[test]
fn a_plain_member_may_say_less_than_an_issuer_and_little_that_nobody_understands() {
    let mut set = set();
    assert_eq!(taken(&mut set, &CELLAR, unknown), 64);
    assert_eq!(taken(&mut set, &CELLAR, tombstone), 500 - 64);
    assert_eq!(taken(&mut set, &ATTIC, unknown), 64);
    let own = 2;
    // It goes on with what the member said before, which it can also say.
    let from_a_million = |at| tombstone(1_000_000 + at);
    assert_eq!(taken(&mut set, &ATTIC, from_a_million), 2_000 - 64 - own);
}

#[test]
fn others_never_lock_the_root_out_of_its_own_mesh() {
    let mut set = set();
    let issuers: Vec<Seed> = (20..26).map(|seed| Seed([seed; 32])).collect();
    for (number, seed) in issuers.iter().enumerate() {
        let certificate = issuer(seed, &format!("issuer-a{number}"), 1);
        assert_eq!(set.apply(seal(Statement::Certificate(certificate), &ROOT), NOW), Ok(true));
    }
    let mut next = 0;
    for seed in &issuers {
        while set.apply(seal(tombstone(next), seed), NOW) == Ok(true) {
            next += 1;
        }
    }
    let shed = || Statement::Certificate(certificate(&SHED, "shed", 1));
    assert_eq!(set.apply(seal(shed(), &ATTIC), NOW), Err(RefusedBecause::Full), "{next}");
    assert_eq!(set.apply(seal(shed(), &ROOT), NOW), Ok(true));
    let bytes = crate::wire::encode(&Statements::of(&set.all()));
    let stored: Statements = crate::wire::decode(&bytes, usize::MAX).unwrap();
    assert_eq!(stored.sealed.len(), set.all().len(), "a full set can be read again");
}

fn transcript() -> Transcript {
    let (hello, offer, channel) = ([10; 32], [11; 32], [12; 32]);
    Transcript { mesh: mesh(), joiner: host(&SHED), member: host(&CELLAR), hello, offer, channel }
}

#[test]
fn the_joiner_reveals_nothing_to_a_host_outside_the_tokens_mesh() {
    let offer = |chain| JoinOffer { version: 1, nonce: [11; 32], chain, time: NOW };
    let good = offer(set().chain(host(&CELLAR)));
    assert!(crate::wire::encode(&good).len() < MAX_JOIN_BYTES);
    assert_eq!(good.check(mesh(), host(&CELLAR), NOW).unwrap().name(), Some(&name("home")));
    let not_member = Err(JoinRefusal::NotMember);
    assert_eq!(good.check(mesh(), host(&SHED), NOW).map(|_| ()), not_member);
    assert_eq!(good.check(MeshId([7; 32]), host(&CELLAR), NOW).map(|_| ()), not_member);
    assert_eq!(offer(vec![]).check(mesh(), host(&CELLAR), NOW).map(|_| ()), not_member);
    let later = JoinOffer { version: 2, ..good };
    assert_eq!(later.check(mesh(), host(&CELLAR), NOW).map(|_| ()), Err(JoinRefusal::Version(2)));
}

#[test]
fn a_proof_is_good_for_one_connection_and_one_host() {
    let proof = transcript().prove(name("shed"), &TOKEN, &SHED);
    assert_eq!(transcript().check(&proof), Ok(()));
    let others = [
        Transcript { mesh: MeshId([0; 32]), ..transcript() },
        Transcript { joiner: host(&CELLAR), ..transcript() },
        Transcript { member: host(&ATTIC), ..transcript() },
        Transcript { hello: [0; 32], ..transcript() },
        Transcript { offer: [0; 32], ..transcript() },
        Transcript { channel: [0; 32], ..transcript() },
    ];
    for other in others {
        assert_eq!(other.check(&proof), Err(JoinRefusal::Proof), "{other:?}");
    }
    let renamed = JoinProof { name: name("van"), ..proof.clone() };
    assert_eq!(transcript().check(&renamed), Err(JoinRefusal::Proof));
    let swapped = JoinProof { token_sig: proof.host_sig, host_sig: proof.token_sig, ..proof };
    assert_eq!(transcript().check(&swapped), Err(JoinRefusal::Proof));
}

#[test]
fn an_issuer_admits_by_a_live_token_and_a_free_label() {
    let proof = transcript().prove(name("shed"), &TOKEN, &SHED);
    let mut set = set();
    let Ok(Admission::ByHost(certificate)) = admit(&set, host(&SHED), &proof, false, NOW) else {
        panic!("a live token admits");
    };
    assert_eq!(certificate.tags["room"], "attic");
    set.apply(seal(Statement::Certificate(certificate), &ATTIC), NOW).unwrap();
    assert!(set.contains(host(&SHED)));
    assert_eq!(set.uses(&TOKEN.public()), 1);

    let taken = transcript().prove(name("cellar"), &TOKEN, &SHED);
    let refused = Err(JoinRefusal::NameTaken(name("cellar")));
    assert_eq!(admit(&set, host(&SHED), &taken, false, NOW), refused);
    let late = NOW.plus_ms(8 * DAY);
    assert_eq!(admit(&set, host(&SHED), &proof, false, late), Err(JoinRefusal::Expired));
    let unknown = transcript().prove(name("shed"), &Seed([77; 32]), &SHED);
    assert_eq!(admit(&set, host(&SHED), &unknown, false, NOW), Err(JoinRefusal::UnknownToken));
}

#[test]
fn joining_again_keeps_the_place_and_uses_nothing_up() {
    let mut set = set();
    let once = Statement::Grant(Grant { made: NOW.plus_ms(1), ..grant(1) });
    set.apply(seal(once, &ATTIC), NOW).unwrap();
    let joined = Certificate { grant: Some(TOKEN.public()), ..certificate(&SHED, "shed", 4) };
    set.apply(seal(Statement::Certificate(joined), &ATTIC), NOW).unwrap();
    let proof = transcript().prove(name("shed-2"), &TOKEN, &SHED);
    let again = admit(&set, host(&SHED), &proof, false, NOW.plus_ms(9));
    let Ok(Admission::ByHost(certificate)) = again else { panic!("joining again is free") };
    assert_eq!((certificate.serial, certificate.since), (5, NOW));
    let stranger = admit(&set, host(&Seed([5; 32])), &proof, false, NOW);
    assert_eq!(stranger, Err(JoinRefusal::UsedUp));
}

#[test]
fn a_token_for_issuers_makes_issuers_where_the_root_is() {
    let mut set = set();
    let admin = Grant { capabilities: Capabilities::ISSUE, made: NOW.plus_ms(1), ..grant(5) };
    set.apply(seal(Statement::Grant(admin), &ROOT), NOW).unwrap();
    let proof = transcript().prove(name("shed"), &TOKEN, &SHED);
    let by_root = admit(&set, host(&SHED), &proof, true, NOW);
    assert!(matches!(by_root, Ok(Admission::ByRoot(c)) if c.capabilities.may_issue()));
    let Ok(Admission::ByHost(plain)) = admit(&set, host(&SHED), &proof, false, NOW) else {
        panic!("elsewhere the host joins as a plain member first");
    };
    set.apply(seal(Statement::Certificate(plain), &ATTIC), NOW).unwrap();
    assert_eq!(set.awaiting_promotion(), [host(&SHED)]);
    let promoted = set.promotion(host(&SHED), NOW).unwrap();
    set.apply(seal(Statement::Certificate(promoted), &ROOT), NOW).unwrap();
    assert!(set.is_issuer(host(&SHED)));
    assert_eq!(set.awaiting_promotion(), []);
    assert_eq!(admit(&set, host(&SHED), &proof, false, NOW), Ok(Admission::Known));
}

#[test]
fn who_has_the_root_key_brings_its_own_certificate_and_nobody_else_does() {
    let mut set = set();
    let own = |seed: &Seed, label: &str| seal(Statement::Certificate(issuer(&SHED, label, 1)), seed);
    let proof = |name: &str, certificate| JoinProof {
        certificate,
        ..transcript().prove(name.parse().unwrap(), &ROOT, &SHED)
    };
    let good = proof("shed", Some(own(&ROOT, "shed")));
    assert_eq!(transcript().check(&good), Ok(()));
    assert_eq!(admit(&set, host(&SHED), &good, false, NOW), Err(JoinRefusal::UnknownToken), "it is no token");
    for bad in [
        proof("shed", None),
        proof("shed", Some(own(&ATTIC, "shed"))),
        proof("van", Some(own(&ROOT, "shed"))),
        proof("shed", Some(seal(Statement::Certificate(issuer(&CELLAR, "shed", 9)), &ROOT))),
        proof("shed", Some(Sealed { sig: Sig([0; 64]), ..own(&ROOT, "shed") })),
    ] {
        assert_eq!(restore(&set, host(&SHED), &bad), Err(JoinRefusal::Proof), "{bad:?}");
    }
    let taken = proof("cellar", Some(own(&ROOT, "cellar")));
    assert_eq!(restore(&set, host(&SHED), &taken), Err(JoinRefusal::NameTaken(name("cellar"))));
    let certificate = restore(&set, host(&SHED), &good).unwrap();
    assert_eq!(set.apply(certificate, NOW), Ok(true));
    assert!(set.is_issuer(host(&SHED)));
}

fn token() -> Token {
    let offer =
        RelayOffer { url: "http://198.51.100.7:7440".into(), qad_port: 7441, certificate: Digest([8; 32]) };
    let addresses = vec!["192.168.1.5:7440".parse().unwrap(), "[2001:db8::5]:7440".parse().unwrap()];
    let entry = Bootstrap { host: host(&ATTIC), addresses, relay: Some(offer) };
    Token::new(mesh(), TOKEN, vec![entry.clone(), entry]).unwrap()
}

#[test]
fn a_token_survives_pasting_and_tells_damage() {
    let text = token().to_string();
    for spelling in [text.clone(), format!("  {text}\n"), text.to_uppercase()] {
        assert_eq!(spelling.parse::<Token>().unwrap(), token());
    }
    assert!(text.starts_with("mesh1") && text.bytes().all(|b| b.is_ascii_alphanumeric()));
    let mut wrong = text.clone().into_bytes();
    wrong[40] = if wrong[40] == b'a' { b'b' } else { b'a' };
    for (bad, error) in [
        (String::from_utf8(wrong).unwrap(), TokenError::Damaged),
        (text[..text.len() - 5].to_owned(), TokenError::Damaged),
        (text.replacen("mesh1", "mesh2", 1), TokenError::Version('2')),
        ("hello".to_owned(), TokenError::Prefix),
        ("mesh".to_owned(), TokenError::Prefix),
        ("mesh1".to_owned(), TokenError::Damaged),
        ("mesh1".to_owned() + &"a".repeat(5000), TokenError::TooLarge),
    ] {
        assert_eq!(bad.parse::<Token>(), Err(error), "{bad}");
    }
    assert!(!format!("{:?}", token()).contains("9, 9, 9"), "debug output hides the secret");
    let entry = token().bootstrap[0].clone();
    assert_eq!(Token::new(mesh(), TOKEN, vec![entry; 4]), Err(TokenError::TooLarge));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_bytes_never_panic_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Sealed::decode(&bytes));
        drop(crate::wire::decode::<JoinOffer>(&bytes, MAX_JOIN_BYTES));
        drop(crate::wire::decode::<JoinProof>(&bytes, MAX_JOIN_BYTES));
        drop(crate::wire::decode::<JoinAnswer>(&bytes, MAX_JOIN_BYTES));
        drop(String::from_utf8_lossy(&bytes).parse::<Token>());
        for kind in 0..8 {
            let sealed = seal(Statement::Unknown { kind, bytes: bytes.clone() }, &ROOT);
            let mut set = set();
            drop(set.apply(sealed, NOW));
            set.prune(NOW);
            drop((set.members(), set.grants().len(), set.latest(NOW), set.awaiting_promotion()));
        }
    }

    #[test]
    fn what_decodes_has_one_encoding(at in 0..1000usize, bit in 0..8u8) {
        let good = sealed()[2].encode();
        let mut bytes = good.clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(sealed) = Sealed::decode(&bytes) {
            prop_assert_eq!(sealed.encode(), bytes);
            prop_assert!(sealed.open(mesh()).is_err());
        }
        let mut longer = good;
        longer.push(0);
        prop_assert!(Sealed::decode(&longer).is_err());
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut many = sealed();
        for serial in [1, 2, 3] {
            many.push(seal(Statement::Certificate(certificate(&SHED, "shed", serial)), &ATTIC));
        }
        many.push(seal(Statement::Certificate(certificate(&SHED, "hut", 3)), &ATTIC));
        many.push(seal(Statement::Certificate(issuer(&CELLAR, "cellar", 1)), &ROOT));
        many.push(seal(Statement::Charter(Charter { name: name("house"), made: NOW }), &ROOT));
        many.push(seal(Statement::Grant(grant(7)), &ATTIC));
        many.push(seal(Statement::Revocation(Revocation { token: TOKEN.public(), made: NOW }), &ATTIC));
        let mut expected = MemberSet::new(mesh());
        expected.apply_all(many.clone(), NOW);
        let mut shuffled = MemberSet::new(mesh());
        // Until nothing changes: a statement may come before the one that its signer's word needs.
        while order.iter().any(|at| shuffled.apply(many[*at].clone(), NOW).unwrap_or(false)) {}
        prop_assert_eq!(show(&shuffled), show(&expected));
        prop_assert_eq!(shuffled.summary(), expected.summary());
    }
}

#[test]
fn a_session_that_is_bound_by_mandates_ends_by_what_an_operator_signed_alone() {
    use crate::session::Mandate;
    let mut set = set();
    set.apply(seal(Statement::Certificate(only(1, &[Capability::Vote])), &ATTIC), NOW).unwrap();
    let salt = [7; 16];
    let session = SessionId::born(host(&CELLAR), &salt);
    let end = |mandate| {
        let tombstone = Statement::Tombstone(Tombstone { session, made: NOW, mandate });
        seal(tombstone, &SHED)
    };
    let never = |session, by: &Seed| Some(Mandate::never(session).sign(by));
    let (name, stamp, voters) = (name("shop"), NOW, vec![host(&CELLAR)]);
    let genesis = Statement::Genesis(Genesis { session, salt, name, stamp, voters, bound: true });
    // Nor does what a member without the right signed, if it came before the birth was known.
    let mut early = set.clone();
    assert_eq!(early.apply(end(never(session, &SHED)), NOW), Ok(true));
    early.apply(seal(genesis.clone(), &CELLAR), NOW).unwrap();
    assert!(!early.is_buried(session));
    assert_eq!(early.apply(end(never(session, &CELLAR)), NOW), Ok(true));
    assert!(early.is_buried(session));
    // What came before the birth was known counts no more, and gives way.
    assert_eq!(set.apply(end(None), NOW), Ok(true));
    assert!(set.is_buried(session));
    set.apply(seal(genesis, &CELLAR), NOW).unwrap();
    assert!(!set.is_buried(session) && set.tombstones().next().is_none());
    for wrong in [never(session, &SHED), never(session, &TOKEN), never(SessionId([8; 16]), &CELLAR)] {
        assert_eq!(set.apply(end(wrong), NOW), Err(RefusedBecause::Unsigned));
    }
    assert!(!set.is_buried(session));
    assert_eq!(set.apply(end(never(session, &CELLAR)), NOW), Ok(true));
    assert!(set.is_buried(session));
    assert_eq!(set.tombstones().count(), 1);
    // An operator that left meant what it signed; it counts where it was not heard before, too.
    let (mut before, mut late) = (set.clone(), set);
    for known in [&mut before, &mut late] {
        let left = Eviction { host: host(&CELLAR), made: NOW, reason: OutBecause::Left };
        known.apply(seal(Statement::Eviction(left), &CELLAR), NOW).unwrap();
        assert!(known.is_buried(session) && known.operates(host(&CELLAR)));
    }
    let cut = Eviction { host: host(&CELLAR), made: NOW, reason: OutBecause::Evicted };
    late.apply(seal(Statement::Eviction(cut), &ATTIC), NOW).unwrap();
    assert!(late.is_buried(session) && !late.operates(host(&CELLAR)), "what was taken stays");
}

#[test]
fn who_may_neither_vote_nor_operate_ends_no_session() {
    let mut set = set();
    set.apply(seal(Statement::Certificate(only(1, &[Capability::Run])), &ATTIC), NOW).unwrap();
    let session = SessionId::born(host(&CELLAR), &[7; 16]);
    let end = Statement::Tombstone(Tombstone { session, made: NOW, mandate: None });
    assert_eq!(set.apply(seal(end.clone(), &SHED), NOW), Err(RefusedBecause::Unsigned));
    assert_eq!(set.apply(seal(end, &CELLAR), NOW), Ok(true));
}
