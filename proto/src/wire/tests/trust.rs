//! What is signed: statements, records, tokens, and what a stranger and a member say to each other.

use std::collections::BTreeMap;

use super::{
    golden::Sample,
    sessions::{SESSION, host, name, reports, signed, subnet},
};
use crate::{
    id::{Digest, Epoch, Generation, MeshId},
    level::Level,
    reasons::{self, Because},
    seal::{Domain, Seed, SignedRecord, verify},
    session::{Accelerator, MachineReport, Phase},
    time::Timestamp,
    trust::{
        Bootstrap, Capabilities, Capability, Certificate, Charter, Eviction, Genesis, Grant, JoinAnswer,
        JoinHello, JoinOffer, JoinProof, May, OutBecause, Possession, Rename, Revocation, Sealed, Statement,
        Statements, Token, Tombstone, Transcript,
    },
    wire::{
        WireError,
        codec::{Form, from_bytes, to_bytes},
        record::{
            Body, HeadRecord, HostRecord, ImageRecord, Published, Reach, RecordKey, RelayOffer, SeenRecord,
            SessionRecord,
        },
    },
};

const MESH: MeshId = MeshId([6; 32]);
const SEED: Seed = Seed([11; 32]);
const TOKEN: Seed = Seed([12; 32]);
const NOW: Timestamp = Timestamp(1_790_000_000_000);

pub(super) fn samples() -> Vec<Sample> {
    let mut samples = vec![
        Sample::message("hello.one", JoinHello { version: 1, nonce: [1; 32] }),
        Sample::message(
            "offer.one",
            JoinOffer { version: 1, nonce: [2; 32], chain: vec![sealed()], time: NOW },
        ),
        Sample::message("proof.one", proof()),
        Sample::message("proof.by-root", proof_by_root()),
        Sample::message("statements.one", Statements { sealed: vec![sealed().encode()] }),
        Sample::message("published.two", published()),
        Sample::bare("token-fields.whole", to_bytes(&token()), |bytes| {
            let token: Token = from_bytes(bytes, usize::MAX, Form::Canonical)?;
            Ok(to_bytes(&token))
        }),
        Sample::closed("token.whole", token().to_string().into_bytes(), |bytes| {
            let text = std::str::from_utf8(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
            let token: Token = text.parse().map_err(malformed)?;
            Ok(token.to_string().into_bytes())
        }),
        admission(),
    ];
    for (name, answer) in join_answers() {
        samples.push(Sample::message(format!("join.{name}"), answer));
    }
    for (name, record) in records() {
        let text = record.seal(&SEED).unwrap();
        samples.push(Sample::signed(format!("record.{name}"), record.clone()));
        samples.push(Sample::closed(format!("record-sealed.{name}"), text.into_bytes(), move |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let read = SignedRecord::open(&text, MESH, record.host, &record.key).map_err(malformed)?;
            Ok(read.seal(&SEED).map_err(malformed)?.into_bytes())
        }));
    }
    let all = statements().into_iter().chain(limited());
    samples.extend(all.flat_map(|(name, statement)| said(name, statement)));
    samples
}

fn malformed(error: impl std::fmt::Display) -> WireError {
    WireError::Malformed(error.to_string())
}

/// A statement by itself and as it is sealed. Of several of one kind each says which one it is.
fn said(name: &str, statement: Statement) -> [Sample; 2] {
    let (kind_name, which) = name.split_once('.').unwrap_or((name, "one"));
    let as_sealed = if which == "one" { kind_name.to_owned() } else { format!("{kind_name}-{which}") };
    let sealed = statement.seal(MESH, &SEED);
    let (kind, content) = (sealed.kind, sealed.bytes.clone());
    let open = Sample::bare(format!("{kind_name}.{which}"), content, move |bytes| {
        // What was changed is signed as well: a later version does that.
        let changed = Statement::Unknown { kind, bytes: bytes.to_vec() }.seal(MESH, &SEED);
        let read = changed.open(MESH).map_err(|error| match error {
            crate::seal::SealError::Later => WireError::Unknown,
            error => malformed(error),
        })?;
        Ok(read.seal(MESH, &SEED).bytes)
    });
    let closed = Sample::closed(format!("sealed.{as_sealed}"), sealed.encode(), |bytes| {
        let read = Sealed::decode(bytes).map_err(malformed)?;
        Ok(read.open(MESH).map_err(malformed)?.seal(MESH, &SEED).encode())
    });
    [open, closed]
}

/// A stranger's word to a relay is a signature over the same bytes for ever.
fn admission() -> Sample {
    let parts: [&[u8]; 2] = [&MESH.0, &[1, 2, 3]];
    let sig = TOKEN.sign(Domain::RelayAdmission, &parts);
    Sample::closed("admission.one", sig.0.to_vec(), |bytes| {
        let sig = crate::seal::Sig(bytes.try_into().map_err(malformed)?);
        let parts: [&[u8]; 2] = [&MESH.0, &[1, 2, 3]];
        let holds = verify(&TOKEN.public(), Domain::RelayAdmission, &parts, &sig);
        holds.then(|| sig.0.to_vec()).ok_or_else(|| malformed("it does not hold"))
    })
}

fn statements() -> Vec<(&'static str, Statement)> {
    let tags: BTreeMap<String, String> = [("room".to_owned(), "attic".to_owned())].into();
    let host = crate::id::HostId(SEED.public());
    vec![
        ("charter", Statement::Charter(Charter { name: name("home"), made: NOW })),
        (
            "certificate",
            Statement::Certificate(Certificate {
                host,
                name: name("nas"),
                tags: tags.clone(),
                capabilities: Capabilities::ISSUE,
                serial: 2,
                grant: Some(TOKEN.public()),
                since: NOW,
                not_before: NOW,
                not_after: Some(NOW.plus_ms(1000)),
                may: May::ALL,
            }),
        ),
        (
            "grant",
            Statement::Grant(Grant {
                token: TOKEN.public(),
                made: NOW,
                expires: NOW.plus_ms(1000),
                max_uses: 5,
                capabilities: Capabilities::NONE,
                tags: tags.clone(),
                may: May::ALL,
            }),
        ),
        ("revocation", Statement::Revocation(Revocation { token: TOKEN.public(), made: NOW })),
        (
            "genesis",
            Statement::Genesis(Genesis {
                session: SESSION,
                salt: [3; 16],
                name: name("shop"),
                stamp: NOW,
                voters: vec![host],
                bound: false,
            }),
        ),
        ("tombstone", Statement::Tombstone(Tombstone { session: SESSION, made: NOW, mandate: None })),
        ("eviction.one", Statement::Eviction(Eviction { host, made: NOW, reason: OutBecause::Evicted })),
        ("eviction.removed", Statement::Eviction(Eviction { host, made: NOW, reason: OutBecause::Removed })),
        ("eviction.left", Statement::Eviction(Eviction { host, made: NOW, reason: OutBecause::Left })),
        ("rename", Statement::Rename(Rename { host, name: name("cellar"), made: NOW })),
        ("possession", Statement::Possession(Possession { made: NOW, sessions: [SESSION].into() })),
        ("possession.none", Statement::Possession(Possession { made: NOW, sessions: Default::default() })),
    ]
}

/// Those of a member that may not do everything, and of a session that is bound by mandates.
fn limited() -> Vec<(&'static str, Statement)> {
    let may = May::only([Capability::Run, Capability::Store]);
    let limit = |(_, statement): (&str, Statement)| match statement {
        Statement::Certificate(c) => {
            Some(("certificate-limited", Statement::Certificate(Certificate { may, ..c })))
        }
        Statement::Grant(grant) => Some(("grant-limited", Statement::Grant(Grant { may, ..grant }))),
        Statement::Genesis(genesis) => {
            Some(("genesis-bound", Statement::Genesis(Genesis { bound: true, ..genesis })))
        }
        Statement::Tombstone(end) => {
            Some(("tombstone-signed", Statement::Tombstone(Tombstone { mandate: Some(signed()), ..end })))
        }
        _ => None,
    };
    statements().into_iter().filter_map(limit).collect()
}

pub(super) fn sealed() -> Sealed {
    statements().swap_remove(0).1.seal(MESH, &SEED)
}

pub(super) fn transcript() -> Transcript {
    let joiner = crate::id::HostId(SEED.public());
    Transcript { mesh: MESH, joiner, member: host(2), hello: [1; 32], offer: [2; 32], channel: [3; 32] }
}

pub(super) fn proof() -> JoinProof {
    transcript().prove(name("nas"), &TOKEN, &SEED)
}

pub(super) fn proof_by_root() -> JoinProof {
    JoinProof { certificate: Some(sealed()), ..proof() }
}

pub(super) fn join_answers() -> Vec<(String, JoinAnswer)> {
    let mut answers = vec![
        ("admitted".to_owned(), JoinAnswer::Admitted(vec![sealed()])),
        ("pending".to_owned(), JoinAnswer::Pending { issuers: vec![name("nas")] }),
    ];
    for (number, refusal) in reasons::tests::join_refusals().into_iter().enumerate() {
        answers.push((format!("refused-{number}"), JoinAnswer::Refused(refusal)));
    }
    answers
}

fn offer() -> RelayOffer {
    RelayOffer { url: "http://192.0.2.7:7440".into(), qad_port: 7441, certificate: Digest([5; 32]) }
}

pub(super) fn reach() -> Reach {
    Reach {
        addresses: vec!["192.0.2.7:7440".parse().unwrap(), "[2001:db8::7]:7440".parse().unwrap()],
        relays: vec!["http://192.0.2.7:7440".into()],
        serves: Some(offer()),
    }
}

fn token() -> Token {
    let entry = Bootstrap { host: host(1), addresses: reach().addresses, relay: Some(offer()) };
    Token::new(MESH, TOKEN, vec![entry.clone(), Bootstrap { relay: None, ..entry }]).unwrap()
}

fn about_host(accelerator: Option<Accelerator>) -> HostRecord {
    HostRecord {
        name: name("nas"),
        version: "0.1.0".into(),
        reach: reach(),
        arch: "x86_64".into(),
        accelerator,
        cpus: 4,
        memory_mib: 4096,
        disk_mib: 100_000,
        disk_kept_mib: 2048,
        trouble: Some("its disk is full".into()),
        runs_machines: true,
        memory_used_mib: [(SESSION, 512)].into(),
        tags: [("room".to_owned(), "attic".to_owned())].into(),
        prefixes: vec![subnet()],
        steady: true,
        issuer: true,
        tells_seen: true,
        level: Level::from(2),
        published: BTreeMap::new(),
        lan: false,
        publishes: false,
    }
}

fn published() -> Published {
    Published { services: [(name("files"), 8080), (name("photos"), 2342)].into() }
}

fn records() -> Vec<(&'static str, SignedRecord)> {
    let digest = Digest([4; 32]);
    let image = ImageRecord {
        names: [("debian:12".to_owned(), NOW)].into(),
        size: 64 << 20,
        allocated: 60 << 20,
        arch: "x86_64".into(),
        complete: true,
    };
    let head = HeadRecord {
        name: name("shop"),
        stamp: NOW,
        term: 4,
        recovery: 1,
        version: 300,
        generation: Generation(5),
        voters: vec![host(1), host(2)],
        ended: false,
    };
    let seen = SeenRecord { sessions: [(SESSION, 70_000)].into(), names: vec![80_000], ended: vec![90_000] };
    let session = SessionRecord { version: 300, machines: reports() };
    let report = MachineReport {
        machine: "web-33".parse().unwrap(),
        epoch: Epoch(3),
        phase: Phase::Failed,
        reason: None,
        why: Some(Because::Untold),
        v6: false,
    };
    let v6 = MachineReport { v6: true, ..report.clone() };
    let untold = SessionRecord { version: 300, machines: vec![report] };
    let v6 = SessionRecord { version: 300, machines: vec![v6] };
    let about = |accelerator| Some(Body::Host(about_host(accelerator)));
    let publishes = HostRecord { published: published().services, ..about_host(None) };
    let lets = HostRecord { lan: true, ..about_host(None) };
    let listens = HostRecord { publishes: true, ..about_host(None) };
    let record = |key, body| SignedRecord {
        mesh: MESH,
        host: crate::id::HostId(SEED.public()),
        generation: 2,
        seq: 300,
        key,
        body,
    };
    vec![
        ("host-kvm", record(RecordKey::Host, about(Some(Accelerator::Kvm)))),
        ("host-tcg", record(RecordKey::Host, about(Some(Accelerator::Tcg)))),
        ("host-none", record(RecordKey::Host, about(None))),
        ("host-publishes", record(RecordKey::Host, Some(Body::Host(publishes)))),
        ("host-lan", record(RecordKey::Host, Some(Body::Host(lets)))),
        ("host-listens", record(RecordKey::Host, Some(Body::Host(listens)))),
        ("image", record(RecordKey::Image(digest), Some(Body::Image(image)))),
        ("session", record(RecordKey::Session(SESSION), Some(Body::Session(session)))),
        ("session-more", record(RecordKey::More(SESSION, 1), Some(Body::Session(untold)))),
        ("session-v6", record(RecordKey::Session(SESSION), Some(Body::Session(v6)))),
        ("head", record(RecordKey::Head(SESSION), Some(Body::Head(head)))),
        ("seen", record(RecordKey::Seen, Some(Body::Seen(seen)))),
        ("withdrawn", record(RecordKey::Head(SESSION), None)),
    ]
}

#[test]
fn every_kind_of_statement_that_is_known_has_golden_bytes() {
    let known = |kind: &u16| {
        let bytes = vec![0xa0];
        let opened = Statement::Unknown { kind: *kind, bytes: bytes.clone() }.seal(MESH, &SEED).open(MESH);
        opened != Ok(Statement::Unknown { kind: *kind, bytes })
    };
    let known: Vec<u16> = (0..1000).filter(known).collect();
    let mut sampled: Vec<u16> = statements().iter().map(|(_, statement)| statement.kind()).collect();
    sampled.dedup();
    assert_eq!(known, sampled);
}

#[test]
fn a_statement_of_another_kind_is_kept_as_it_was_signed_and_nothing_is_made_of_it() {
    for (name, statement) in statements() {
        let bytes = statement.seal(MESH, &SEED).bytes;
        let later = Statement::Unknown { kind: 4711, bytes }.seal(MESH, &SEED);
        let read = Sealed::decode(&later.encode()).unwrap();
        assert!(matches!(read.open(MESH), Ok(Statement::Unknown { kind: 4711, .. })), "{name}");
        assert_eq!(read.encode(), later.encode(), "{name}");
    }
}

#[test]
fn a_record_under_another_key_than_its_body_is_not_read_as_either() {
    // What finds no room under one key goes on under others.
    let first = |key: &RecordKey| match key {
        RecordKey::More(session, _) => RecordKey::Session(*session),
        key => key.clone(),
    };
    for (name, record) in records() {
        for (other, stranger) in records() {
            let moved = SignedRecord { key: stranger.key.clone(), ..record.clone() };
            let text = moved.seal(&SEED).unwrap();
            let read = SignedRecord::open(&text, MESH, moved.host, &moved.key);
            let fits = record.body.is_none()
                || std::mem::discriminant(&first(&record.key))
                    == std::mem::discriminant(&first(&stranger.key));
            assert_eq!(read.is_ok(), fits, "{name} under the key of {other}: {read:?}");
        }
    }
}
