//! Claims about signed gossip records and strict decoding.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    id::{Digest, SessionId},
    time::Timestamp,
    wire::record::{ImageRecord, SessionRecord},
};

const SEED: Seed = Seed([3; 32]);
const MESH: MeshId = MeshId([5; 32]);

fn record(key: RecordKey, body: Option<Body>) -> SignedRecord {
    SignedRecord { mesh: MESH, host: HostId(SEED.public()), generation: 4, seq: 9, key, body }
}

fn session() -> SignedRecord {
    let body = Body::Session(SessionRecord { version: 3, machines: vec![] });
    record(RecordKey::Session(SessionId([1; 16])), Some(body))
}

fn open(text: &str) -> Result<SignedRecord, SealError> {
    SignedRecord::open(text, MESH, HostId(SEED.public()), &session().key)
}

#[test]
fn a_record_counts_under_its_own_key_host_and_mesh_only() {
    let text = session().seal(&SEED).unwrap();
    assert_eq!(open(&text), Ok(session()));
    let host = HostId(SEED.public());
    let key = session().key;
    let misplaced = Err(SealError::Misplaced);
    assert_eq!(SignedRecord::open(&text, MeshId([0; 32]), host, &key), misplaced);
    assert_eq!(SignedRecord::open(&text, MESH, host, &RecordKey::Host), misplaced);
    let other = HostId(Seed([4; 32]).public());
    assert_eq!(SignedRecord::open(&text, MESH, other, &key), Err(SealError::Signature));
    assert_eq!(open(&session().seal(&Seed([4; 32])).unwrap()), Err(SealError::Signature));
}

#[test]
fn a_body_of_another_kind_is_refused_and_no_body_withdraws() {
    let wrong = record(session().key, Some(Body::Image(image(0))));
    assert_eq!(open(&wrong.seal(&SEED).unwrap()), Err(SealError::Kind));
    let withdrawn = record(session().key, None);
    assert_eq!(open(&withdrawn.seal(&SEED).unwrap()), Ok(withdrawn));
}

#[test]
fn a_record_too_large_for_gossip_is_refused_by_its_writer() {
    let large = record(RecordKey::Image(Digest([0; 32])), Some(Body::Image(image(300))));
    assert!(matches!(large.seal(&SEED), Err(SealError::TooLarge { .. })));
}

fn image(names: usize) -> ImageRecord {
    let names: BTreeMap<String, Timestamp> =
        (0..names).map(|at| (format!("image-{at:08}"), Timestamp(0))).collect();
    ImageRecord { names, size: 1, allocated: 1, arch: "x86_64".into(), complete: true }
}

#[test]
fn record_keys_have_one_spelling() {
    let keys = [
        RecordKey::Host,
        RecordKey::Image(Digest([0xab; 32])),
        RecordKey::Session(SessionId([1; 16])),
        RecordKey::Head(SessionId([2; 16])),
    ];
    for key in keys {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    let upper = format!("image/{}", "AB".repeat(32));
    let prefixed = format!("image/blake3:{}", "ab".repeat(32));
    for bad in ["", "hosts", "host/", "head", "head/12", "other/00", &upper, &prefixed] {
        assert!(bad.parse::<RecordKey>().is_err(), "{bad}");
    }
}

#[test]
fn what_a_later_version_keeps_records_about_is_no_mistake() {
    let long = format!("volume/{}", "0f".repeat(32));
    for later in ["role", "host-load", "volume/00", "head/12", &long] {
        assert_eq!(later.parse::<RecordKey>(), Err(SealError::Later), "{later}");
    }
    let words = "a".repeat(32);
    let beyond = format!("{long}0");
    for bad in ["", "-a", "Role", "a/", "a/G", "a/0/0", "a b", "a/0x", &words, &beyond] {
        assert_eq!(bad.parse::<RecordKey>(), Err(SealError::Encoding("record key")), "{bad}");
    }
}

/// A record as a later version writes it: the body is of a kind that nobody knows here.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Tomorrow {
    #[n(0)]
    mesh: MeshId,
    #[n(1)]
    host: HostId,
    #[n(2)]
    generation: u64,
    #[n(3)]
    seq: u64,
    #[n(4)]
    key: RecordKey,
    #[n(5)]
    body: Volumes,
}

#[derive(Encode, Decode)]
#[cbor(map)]
enum Volumes {
    #[n(9)]
    Some(#[n(0)] u64),
}

impl Message for Tomorrow {
    const KIND: Kind = Kind::Record;
}

#[test]
fn a_body_of_tomorrow_and_a_form_of_tomorrow_are_said_to_be_later_once_their_signature_is_right() {
    let SignedRecord { mesh, host, generation, seq, key, .. } = session();
    let body = wire::encode(&Tomorrow { mesh, host, generation, seq, key, body: Volumes::Some(3) });
    let mut form = wire::encode(&session());
    assert_eq!(form[..5], [0xa3, 0, 10, 1, 1], "an envelope: its kind, its form");
    form[4] = 2;
    for bytes in [body, form] {
        let sealed = |sig: Sig| BASE64.encode(&[&sig.0[..], &bytes].concat());
        assert_eq!(open(&sealed(SEED.sign(Domain::Record, &[&bytes]))), Err(SealError::Later));
        assert_eq!(open(&sealed(Sig([0; 64]))), Err(SealError::Signature));
    }
}

#[test]
fn signatures_name_their_purpose_and_the_borders_of_their_parts() {
    let sig = SEED.sign(Domain::Record, &[b"ab", b"c"]);
    let key = SEED.public();
    assert!(verify(&key, Domain::Record, &[b"ab", b"c"], &sig));
    assert!(!verify(&key, Domain::Record, &[b"a", b"bc"], &sig));
    assert!(!verify(&key, Domain::Statement, &[b"ab", b"c"], &sig));
    // A key of small order would verify anything under a loose check.
    assert!(!verify(&[0; 32], Domain::Record, &[], &Sig([0; 64])));
}

proptest! {
    #[test]
    fn hostile_records_never_panic_and_never_pass(text in ".{0,200}", at in 0..200usize, with in any::<u8>()) {
        prop_assert!(open(&text).is_err());
        let mut text = session().seal(&SEED).unwrap().into_bytes();
        let place = at % text.len();
        if text[place] != with {
            text[place] = with;
            prop_assert!(open(&String::from_utf8_lossy(&text)).is_err());
        }
        // The host itself may say anything, with a signature that is right: its words reach the decoder.
        let mut bytes = wire::encode(&session());
        let place = at % bytes.len();
        let is_changed = bytes[place] != with;
        bytes[place] = with;
        let sealed = [&SEED.sign(Domain::Record, &[&bytes]).0[..], &bytes].concat();
        match open(&BASE64.encode(&sealed)) {
            Ok(record) => prop_assert!(!is_changed || record != session(), "two spellings of one record"),
            Err(error) => prop_assert_ne!(error, SealError::Signature),
        }
    }
}
