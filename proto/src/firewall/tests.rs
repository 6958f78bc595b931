//! Hand-made frames: what chitchat itself would send passes, and of each attack that worked against it nothing is left.

use proptest::prelude::*;

use super::*;
use crate::{
    limits::MAX_RECORDS_PER_HOST,
    seal::{Seed, SignedRecord},
    wire::record::{Body, RecordKey, SessionRecord},
};

const MESH: MeshId = MeshId([0x11; 32]);

fn host(seed: u8) -> HostId {
    HostId(Seed([seed; 32]).public())
}

const ME: u8 = 1;
const ATTIC: u8 = 2;
const CELLAR: u8 = 3;

/// Builds chitchat's bytes.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn message(kind: u8) -> Bytes {
        Bytes(vec![0x53, 0xb0, 0, kind])
    }

    fn text(mut self, text: &str) -> Bytes {
        self.0.extend((text.len() as u16).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Bytes {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u8(mut self, number: u8) -> Bytes {
        self.0.push(number);
        self
    }

    fn id(mut self, id: &GossipId) -> Bytes {
        self = self.text(&id.node).u64(id.generation);
        let IpAddr::V6(ip) = id.address.ip() else { panic!("gossip addresses are IPv6") };
        self.0.push(6);
        self.0.extend(ip.octets());
        self.0.extend(id.address.port().to_le_bytes());
        self
    }

    fn digest(mut self, entries: &[(&GossipId, u64)]) -> Bytes {
        self.0.extend((entries.len() as u16).to_le_bytes());
        for (id, heartbeat) in entries {
            self = self.id(id).u64(*heartbeat).u64(0).u64(3);
        }
        self
    }

    /// A delta in one block that is not packed.
    fn delta(mut self, parts: &[(&GossipId, Vec<Change>)]) -> Bytes {
        let mut ops = Bytes::default();
        for (id, changes) in parts {
            ops = ops.u8(0).id(id).u64(0).u64(0);
            for change in changes {
                ops = match change {
                    Change::Key(key, value, version) => ops.u8(1).text(key).text(value).u64(*version).u8(0),
                    Change::Gone(key, version) => ops.u8(1).text(key).text("").u64(*version).u8(1),
                    Change::Version(version) => ops.u8(2).u64(*version),
                };
            }
        }
        for block in ops.0.chunks(16_384) {
            self.0.push(2);
            self.0.extend((block.len() as u16).to_le_bytes());
            self.0.extend(block);
        }
        self.u8(0)
    }
}

#[derive(Clone)]
enum Change {
    Key(String, String, u64),
    Gone(String, u64),
    Version(u64),
}
use Change::{Gone, Version};

/// What a host signs of its `number`th session, in a start and under a number.
fn sealed(seed: u8, generation: u64, seq: u64, number: u8) -> (String, String) {
    let key = RecordKey::Session(crate::id::SessionId([number; 16]));
    let body = Some(Body::Session(SessionRecord { version: seq, machines: vec![] }));
    let record = SignedRecord { mesh: MESH, host: host(seed), generation, seq, key: key.clone(), body };
    (key.to_string(), record.seal(&Seed([seed; 32])).unwrap())
}

/// What a host says of its `number`th session, as it says it.
fn says(seed: u8, generation: u64, version: u64, number: u8) -> Change {
    let (key, text) = sealed(seed, generation, version, number);
    Change::Key(key, text, version)
}

fn key(key: &str, value: &str, version: u64) -> Change {
    Change::Key(key.to_owned(), value.to_owned(), version)
}

fn id(seed: u8, generation: u64) -> GossipId {
    GossipId::new(MESH, host(seed), generation)
}

fn syn(entries: &[(&GossipId, u64)]) -> Vec<u8> {
    Bytes::message(0).digest(entries).text(&cluster(MESH)).0
}

fn ack(parts: &[(&GossipId, Vec<Change>)]) -> Vec<u8> {
    Bytes::message(2).delta(parts).0
}

fn syn_ack(entries: &[(&GossipId, u64)], parts: &[(&GossipId, Vec<Change>)]) -> Vec<u8> {
    Bytes::message(1).digest(entries).delta(parts).0
}

struct Gate {
    firewall: Firewall,
    members: BTreeMap<String, HostId>,
    now_ms: u64,
}

impl Gate {
    fn new() -> Gate {
        let members = [ME, ATTIC, CELLAR].map(|seed| (node_name(host(seed)), host(seed))).into();
        Gate { firewall: Firewall::new(MESH, id(ME, 5)), members, now_ms: 1_000_000 }
    }

    fn check(&mut self, from: u8, frame: &[u8]) -> Result<Cleaned, DropBecause> {
        let unpack = |block: &[u8], most: usize| Some(vec![block.len() as u8; most.min(9)]);
        let known = Known { members: &self.members, from: host(from), unpack: &unpack, now_ms: self.now_ms };
        self.firewall.check(frame, &known)
    }

    /// Gives what is left of a frame, and what is told of the rest.
    fn left(&mut self, from: u8, frame: &[u8]) -> (Vec<u8>, Option<DropBecause>) {
        let cleaned = self.check(from, frame).unwrap();
        (cleaned.frame, cleaned.cut)
    }

    /// A start of the cellar is known, with something said in it.
    fn knowing(start: u64) -> Gate {
        let mut gate = Gate::new();
        let all =
            syn_ack(&[(&id(CELLAR, start), 1)], &[(&id(CELLAR, start), vec![says(CELLAR, start, 1, 1)])]);
        assert_eq!(gate.left(ATTIC, &all), (all, None));
        gate
    }
}

fn lie(of: fn(String) -> DropBecause) -> Option<DropBecause> {
    Some(of(node_name(host(CELLAR))))
}

#[test]
fn what_chitchat_sends_passes() {
    let (me, attic, cellar) = (id(ME, 5), id(ATTIC, 1), id(CELLAR, 9));
    let mut gate = Gate::new();
    let news = vec![says(CELLAR, 9, 3, 1), says(CELLAR, 9, 4, 2)];
    let frames = [
        syn(&[]),
        syn(&[(&attic, 0), (&me, 77)]),
        syn_ack(&[(&attic, 20), (&cellar, 1_000_050)], &[(&cellar, news.clone())]),
        ack(&[(&attic, vec![says(ATTIC, 1, 1, 1)]), (&cellar, vec![says(CELLAR, 9, 5, 1)])]),
        ack(&[(&cellar, news)]),
        ack(&[(&attic, vec![])]),
        Bytes::message(3).0,
    ];
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(gate.left(ATTIC, frame), (frame.clone(), None), "frame {at}");
    }
    let mine = ack(&[(&id(ME, 4), vec![says(ME, 4, 4, 1)])]);
    assert_eq!(gate.left(ATTIC, &mine), (mine, None), "my word of yesterday");
}

#[test]
fn a_start_is_new_by_a_signed_word_or_by_the_host_itself() {
    let start = id(CELLAR, 9);
    let mut gate = Gate::new();
    let named = syn(&[(&start, 3)]);
    assert_eq!(gate.left(ATTIC, &named), (syn(&[]), None), "to name it proves nothing, and is no lie");
    let unproved = ack(&[(&start, vec![])]);
    assert_eq!(gate.left(ATTIC, &unproved), (ack(&[]), None));
    let word = ack(&[(&start, vec![says(CELLAR, 9, 1, 1)])]);
    let cleaned = gate.check(ATTIC, &word).unwrap();
    let before = Bytes::message(0).0;
    let mut entry = Bytes(before).digest(&[(&start, 1)]).text(&cluster(MESH)).0;
    // The introduction says of no version.
    let at = entry.len() - cluster(MESH).len() - 2 - 8;
    entry[at..at + 8].fill(0);
    assert_eq!(cleaned.before, Some(entry));
    assert!(cleaned.is_news);
    assert_eq!((cleaned.frame, cleaned.cut), (word.clone(), None));
    let again = gate.check(ATTIC, &word).unwrap();
    assert!(again.before.is_none() && !again.is_news);
    assert_eq!(gate.left(ATTIC, &named), (named.clone(), None));
    assert_eq!(Gate::new().left(CELLAR, &named), (named, None), "it says itself that it started");
}

#[test]
fn the_past_of_a_host_is_told_by_itself_only() {
    let mut gate = Gate::knowing(9);
    let past = ack(&[(&id(CELLAR, 8), vec![says(CELLAR, 8, 1, 1)])]);
    assert_eq!(gate.left(ATTIC, &past), (ack(&[]), None));
    assert_eq!(gate.left(CELLAR, &past), (past, None));
}

#[test]
fn nobody_speaks_in_our_name_or_of_strangers_and_the_rest_passes() {
    let mut gate = Gate::knowing(1);
    let good = || (id(CELLAR, 1), vec![says(CELLAR, 1, 2, 2)]);
    let (cellar, news) = good();
    let forged = ack(&[(&id(ME, 5), vec![says(ME, 5, 50, 1)]), (&cellar, news.clone())]);
    assert_eq!(gate.left(ATTIC, &forged), (ack(&[(&cellar, news.clone())]), Some(DropBecause::AboutMe)));
    let ghost = id(9, 1);
    let ghosts = ack(&[(&ghost, vec![says(9, 1, 1, 1)]), (&cellar, news.clone())]);
    assert_eq!(
        gate.left(ATTIC, &ghosts),
        (ack(&[(&cellar, news)]), None),
        "its certificate may be under way"
    );
    let moved = GossipId { address: ghost.address, ..id(CELLAR, 1) };
    assert_eq!(
        gate.left(ATTIC, &syn(&[(&moved, 1), (&cellar, 2)])),
        (syn(&[(&cellar, 2)]), lie(DropBecause::Stranger))
    );
    let elsewhere = Bytes::message(0).digest(&[]).text("another").0;
    assert_eq!(gate.check(ATTIC, &elsewhere), Err(DropBecause::Cluster));
}

/// What is said of the cellar's first start after what is known, what remains of it, and what is told.
#[track_caller]
fn remains(changes: Vec<Change>, kept: usize, cut: Option<DropBecause>) {
    let cellar = id(CELLAR, 1);
    let left = ack(&[(&cellar, changes[..kept].to_vec())]);
    assert_eq!(Gate::knowing(1).left(ATTIC, &ack(&[(&cellar, changes)])), (left, cut));
}

#[test]
fn a_version_goes_as_far_as_its_host_signed_and_no_further() {
    let at = |version, seq| {
        let (key, text) = sealed(CELLAR, 1, seq, 2);
        Change::Key(key, text, version)
    };
    remains(vec![at(7, 7)], 1, None);
    // A host that could not publish one record counted it all the same.
    remains(vec![at(7, 9)], 1, None);
    remains(vec![at(8, 7)], 0, lie(DropBecause::Versions));
    remains(vec![at(u64::MAX, 7)], 0, lie(DropBecause::Versions));
    remains(vec![at(0, 7)], 0, lie(DropBecause::Versions));
    remains(vec![says(CELLAR, 1, 2, 2), says(CELLAR, 1, 2, 3)], 1, lie(DropBecause::Versions));
    remains(vec![Version(2)], 0, lie(DropBecause::Versions));
    remains(vec![Version(u64::MAX - 1)], 0, lie(DropBecause::Versions));
    remains(vec![says(CELLAR, 1, 2, 2), Version(1)], 1, lie(DropBecause::Versions));
}

#[test]
fn a_state_is_never_thrown_away_for_others() {
    let cellar = id(CELLAR, 1);
    let mut part = Bytes::default().u8(0).id(&cellar).u64(99).u64(0).0;
    let mut frame = Bytes::message(2).u8(2).0;
    frame.extend((part.len() as u16).to_le_bytes());
    frame.append(&mut part);
    frame.push(0);
    assert_eq!(Gate::knowing(1).left(ATTIC, &frame), (ack(&[]), lie(DropBecause::Versions)));
}

#[test]
fn values_are_what_their_host_signed_for_their_place_and_nothing_after_a_lie_passes() {
    let good = |version, number| says(CELLAR, 1, version, number);
    let (place, text) = sealed(CELLAR, 1, 3, 2);
    let unsigned = lie(DropBecause::Unsigned);
    remains(vec![good(2, 2), key(&place, "EVIL", 3), good(4, 3)], 1, unsigned.clone());
    remains(vec![key(&sealed(CELLAR, 1, 3, 4).0, &text, 3)], 0, unsigned.clone());
    remains(vec![says(CELLAR, 2, 3, 2)], 0, unsigned.clone());
    remains(vec![says(ATTIC, 1, 3, 2)], 0, unsigned.clone());
    remains(vec![key("volume/00ff", "of a later version", 3)], 0, unsigned);
}

#[test]
fn a_record_of_a_later_version_passes_if_its_host_signed_it() {
    let later = |envelope: u16| {
        // The body and the key are of kinds that this version does not know.
        let stamp = [
            &[0xa6, 0, 0x58, 32][..],
            &MESH.0,
            &[1, 0x58, 32],
            &host(CELLAR).0,
            &[2, 1, 3, 3, 4, 0x6b],
            b"volume/00ff",
            &[5, 0x82, 0x18, 77, 0xa0],
        ]
        .concat();
        let envelope = [&[0xa3, 0, 10, 1, envelope as u8, 2, 0x58, stamp.len() as u8][..], &stamp].concat();
        let sig = Seed([CELLAR; 32]).sign(crate::seal::Domain::Record, &[&envelope]);
        data_encoding::BASE64URL_NOPAD.encode(&[&sig.0[..], &envelope].concat())
    };
    remains(vec![key("volume/00ff", &later(1), 3)], 1, None);
    remains(vec![key("volume/00ff", &later(1), 4)], 0, lie(DropBecause::Versions));
    // Of another form only the signature can be checked.
    remains(vec![key("volume/00ff", &later(2), 4)], 1, None);
    remains(vec![key("volume/00ff", &later(2), 2 << 20)], 0, lie(DropBecause::Versions));
}

#[test]
fn keys_are_ours_or_of_a_later_version_values_are_small_and_deletions_nobodys() {
    let refused = lie(DropBecause::Record);
    for word in ["", "Role", "role of a host", "../host", "image/blake3:00", "volume/0/1"] {
        remains(vec![key(word, "x", 2)], 0, refused.clone());
    }
    remains(vec![key("host", &"x".repeat(MAX_RECORD_BYTES + 1), 2)], 0, refused.clone());
    remains(vec![Gone(sealed(CELLAR, 1, 1, 1).0, 2)], 0, refused);
}

#[test]
fn a_host_has_so_many_keys_and_no_more() {
    let (mut gate, attic) = (Gate::new(), id(ATTIC, 1));
    let at = |number: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let (key, seq) = (RecordKey::Head(crate::id::SessionId(id)), number as u64);
        let record =
            SignedRecord { mesh: MESH, host: host(ATTIC), generation: 1, seq, key: key.clone(), body: None };
        Change::Key(key.to_string(), record.seal(&Seed([ATTIC; 32])).unwrap(), seq)
    };
    let all: Vec<Change> = (1..=MAX_RECORDS_PER_HOST + 1).map(at).collect();
    let half = MAX_RECORDS_PER_HOST / 2;
    let first = ack(&[(&attic, all[..half].to_vec())]);
    assert_eq!(gate.left(ATTIC, &first), (first, None));
    let more = ack(&[(&attic, all[half..].to_vec())]);
    let most = ack(&[(&attic, all[half..MAX_RECORDS_PER_HOST].to_vec())]);
    let record = Some(DropBecause::Record(attic.node.clone()));
    assert_eq!(gate.left(ATTIC, &more), (most, record));
}

#[test]
fn a_heartbeat_grows_no_faster_than_time_and_the_host_itself_knows_best() {
    let cellar = id(CELLAR, 1);
    let ahead = lie(DropBecause::Heartbeat);
    let beat = |beat| syn(&[(&cellar, beat)]);
    let mut gate = Gate::new();
    assert_eq!(gate.left(CELLAR, &beat(u64::MAX)), (beat(1), ahead.clone()), "not even of oneself");
    let mut gate2 = Gate::knowing(1);
    let most = 1 + BEATS_IN_HAND;
    assert_eq!(gate2.left(ATTIC, &beat(u64::MAX)), (beat(most), ahead));
    gate2.now_ms += 1000;
    assert_eq!(gate2.left(ATTIC, &beat(10)), (beat(10), None));
    // From its own word on, others are believed as far as time allows.
    assert_eq!(gate2.left(CELLAR, &beat(50)), (beat(50), None));
    assert_eq!(gate2.left(ATTIC, &beat(9_000)), (beat(50 + BEATS_PER_S), None));
    gate2.now_ms += 1000;
    assert_eq!(gate2.left(ATTIC, &beat(9_000)), (beat(50 + 2 * BEATS_PER_S), None));
    gate.now_ms += 1000;
    assert_eq!(gate.left(CELLAR, &beat(70)), (beat(70), None));
}

/// Lets the cellar say that it started as often as is known at a time, 1000 the first.
fn filled() -> Gate {
    let mut gate = Gate::new();
    for generation in 0..MAX_GENERATIONS as u64 {
        let frame = syn(&[(&id(CELLAR, 1000 + generation), 1)]);
        assert_eq!(gate.left(CELLAR, &frame), (frame, None));
    }
    gate
}

fn starts(gate: &Gate) -> usize {
    gate.firewall.seen.keys().filter(|id| id.node == node_name(host(CELLAR))).count()
}

#[test]
fn starts_that_are_too_many_are_cut_and_no_host_fills_others_with_its_own() {
    let mut gate = filled();
    let word = |start| ack(&[(&id(CELLAR, start), vec![says(CELLAR, start, 1, 1)])]);
    assert_eq!(gate.left(ATTIC, &word(2000)), (ack(&[]), None), "friends bring no more of them");
    let start = |generation| syn(&[(&id(CELLAR, generation), 1)]);
    assert_eq!(gate.left(CELLAR, &start(2000)), (start(2000), None), "its newest takes the oldest's place");
    assert_eq!(gate.left(CELLAR, &start(2001)), (syn(&[]), None), "not one after the other");
    gate.now_ms += NEWEST_EVERY_MS;
    assert_eq!(gate.left(CELLAR, &start(1999)), (syn(&[]), None), "nor an older one");
    assert_eq!(gate.left(CELLAR, &start(2002)), (start(2002), None));
    assert_eq!(starts(&gate), MAX_GENERATIONS);
    gate.now_ms += FORGET_MS + 1;
    assert_eq!(gate.left(CELLAR, &start(3000)), (start(3000), None));
    assert_eq!(starts(&gate), 1);
}

#[test]
fn all_ids_together_are_bounded_and_a_host_that_is_new_comes_in() {
    let mut gate = Gate::new();
    gate.members.extend((10..50).map(|seed| (node_name(host(seed)), host(seed))));
    for seed in 11..50 {
        let all: Vec<GossipId> = (0..MAX_GENERATIONS as u64).map(|start| id(seed, start)).collect();
        let all: Vec<(&GossipId, u64)> = all.iter().map(|id| (id, 1)).collect();
        gate.check(seed, &syn(&all)).unwrap();
    }
    assert!((MAX_IDS..MAX_IDS + 40).contains(&gate.firewall.seen.len()));
    let new = syn(&[(&id(10, 1), 1)]);
    assert_eq!(gate.left(10, &new), (new, None));
}

#[test]
fn what_a_copy_of_this_host_signed_passes_and_what_nobody_signed_does_not() {
    let mut gate = Gate::knowing(1);
    let (cellar, copy) = (id(CELLAR, 1), id(ME, 6));
    let digest = [(&cellar, 2), (&copy, 1)];
    let invented = gate.check(ATTIC, &syn_ack(&digest, &[])).unwrap();
    assert_eq!(invented.frame, syn_ack(&digest[..1], &[]));
    let both = syn_ack(&digest, &[(&copy, vec![says(ME, 6, 1, 1)])]);
    let cleaned = gate.check(ATTIC, &both).unwrap();
    assert_eq!((cleaned.cut, cleaned.frame), (None, both));
}

#[test]
fn one_member_pays_for_what_it_sends_and_another_does_not() {
    let mut gate = Gate::new();
    let sent = (0..10_000).take_while(|_| gate.check(ATTIC, &syn(&[])).is_ok()).count();
    assert!((100..2_000).contains(&sent), "{sent}");
    assert_eq!(gate.check(ATTIC, &syn(&[])), Err(DropBecause::Flood));
    assert_eq!(gate.left(CELLAR, &syn(&[])), (syn(&[]), None));
    gate.now_ms += 1000;
    assert_eq!(gate.left(ATTIC, &syn(&[])), (syn(&[]), None));
}

#[test]
fn what_a_member_holds_is_no_business_of_chitchat_and_costs_it_a_frame() {
    let (mut gate, summary) = (Gate::new(), Summary::of(7, [("attic", 7, 1)]));
    let cleaned = gate.check(ATTIC, &summary.encode()).unwrap();
    let nothing = Cleaned::default();
    assert_eq!(cleaned, Cleaned { summary: Some(summary), spoken: Some(7), ..nothing });
    let sent = (0..10_000).take_while(|_| gate.check(ATTIC, &summary.encode()).is_ok()).count();
    assert!((100..2_000).contains(&sent), "{sent}");
}

#[test]
fn a_host_that_says_too_much_of_itself_is_heard_again_later() {
    let (mut gate, attic) = (Gate::new(), id(ATTIC, 1));
    let reports = |seq: u64| {
        let names =
            (0..70).map(|at| (format!("image-{seq:08}-{at:08}"), crate::time::Timestamp(seq))).collect();
        let body = Body::Image(crate::wire::record::ImageRecord {
            names,
            size: 1,
            allocated: 1,
            arch: String::new(),
            complete: true,
        });
        let key = RecordKey::Image(crate::id::Digest([1; 32]));
        let record = SignedRecord {
            mesh: MESH,
            host: host(ATTIC),
            generation: 1,
            seq,
            key: key.clone(),
            body: Some(body),
        };
        ack(&[(&attic, vec![Change::Key(key.to_string(), record.seal(&Seed([ATTIC; 32])).unwrap(), seq)])])
    };
    let mut heard = 0;
    let flood = loop {
        gate.now_ms += 10;
        heard += 1;
        if let (_, Some(because)) = gate.left(ATTIC, &reports(heard)) {
            break because;
        }
        assert!(heard < 5_000);
    };
    assert!(heard > 500, "{heard}");
    assert_eq!(flood, DropBecause::Flood);
    gate.now_ms += 10_000;
    let later = reports(heard + 1);
    assert_eq!(gate.left(ATTIC, &later), (later, None));
}

#[test]
fn a_bomb_is_given_up_early() {
    let mut gate = Gate::new();
    let mut frame = Bytes::message(2).0;
    for _ in 0..200 {
        frame.extend([1, 1, 0, 7]);
    }
    frame.push(0);
    let bomb = |_: &[u8], most: usize| Some(vec![0; most]);
    let known = Known { members: &gate.members, from: host(ATTIC), unpack: &bomb, now_ms: 1 };
    assert_eq!(gate.firewall.check(&frame, &known), Err(DropBecause::TooLarge));
    let none = |_: &[u8], _: usize| None;
    let known = Known { members: &gate.members, from: host(ATTIC), unpack: &none, now_ms: 1 };
    assert_eq!(gate.firewall.check(&frame, &known), Err(DropBecause::Malformed("block")));
}

#[test]
fn every_cut_and_every_extra_byte_is_malformed() {
    let attic = id(ATTIC, 1);
    let whole = syn_ack(&[(&attic, 1)], &[(&attic, vec![key("host", "v", 1), key("host", "w", 2)])]);
    for length in 0..whole.len() {
        let cut = Gate::new().check(ATTIC, &whole[..length]);
        assert!(matches!(cut, Err(DropBecause::Malformed(_))), "{length}: {cut:?}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(Gate::new().check(ATTIC, &longer), Err(DropBecause::Malformed(_))));
    assert_eq!(Gate::new().check(ATTIC, &vec![0; MAX_GOSSIP_BYTES + 1]), Err(DropBecause::TooLarge));
}

proptest! {
    #[test]
    fn hostile_frames_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5u8) {
        let mut gate = Gate::new();
        let mut frame = Bytes::message(kind).0;
        frame.extend(tail);
        drop(gate.check(ATTIC, &frame));
    }

    #[test]
    fn flipped_bytes_never_panic_and_never_become_news(at in 0..5000usize, with in 1..=255u8) {
        let attic = id(ATTIC, 1);
        let mut frame = syn_ack(&[(&attic, 1)], &[(&attic, vec![says(ATTIC, 1, 1, 1), says(ATTIC, 1, 2, 2)])]);
        let at = at % frame.len();
        frame[at] ^= with;
        let mut gate = Gate::new();
        if let Ok(cleaned) = gate.check(CELLAR, &frame) {
            // What is left is clean.
            let again = gate.check(CELLAR, &cleaned.frame).unwrap();
            assert_eq!((again.frame, again.cut), (cleaned.frame, None));
        }
    }
}
