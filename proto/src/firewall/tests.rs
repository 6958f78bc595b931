//! Hand-made frames: what chitchat itself would send passes, and each attack that worked against it
//! is dropped.

use proptest::prelude::*;

use super::*;

const MESH: MeshId = MeshId([0x11; 32]);
const ME: HostId = HostId([0xaa; 32]);
const ATTIC: HostId = HostId([0xbb; 32]);
const CELLAR: HostId = HostId([0xcc; 32]);

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
    fn delta(mut self, parts: &[(&GossipId, &[Change])]) -> Bytes {
        let mut ops = Bytes::default();
        for (id, changes) in parts {
            ops = ops.u8(0).id(id).u64(0).u64(0);
            for change in *changes {
                ops = match change {
                    Change::Key(key, value, version) => ops.u8(1).text(key).text(value).u64(*version).u8(0),
                    Change::Version(version) => ops.u8(2).u64(*version),
                };
            }
        }
        self.0.push(2);
        self.0.extend((ops.0.len() as u16).to_le_bytes());
        self.0.extend(ops.0);
        self.u8(0)
    }
}

enum Change {
    Key(&'static str, &'static str, u64),
    Version(u64),
}
use Change::{Key, Version};

fn id(host: HostId, generation: u64) -> GossipId {
    GossipId::new(MESH, host, generation)
}

fn syn(entries: &[(&GossipId, u64)]) -> Vec<u8> {
    Bytes::message(0).digest(entries).text(&cluster(MESH)).0
}

fn ack(parts: &[(&GossipId, &[Change])]) -> Vec<u8> {
    Bytes::message(2).delta(parts).0
}

struct Gate {
    firewall: Firewall,
    members: BTreeMap<String, HostId>,
    now_ms: u64,
}

impl Gate {
    fn new() -> Gate {
        let members = [ME, ATTIC, CELLAR].map(|host| (node_name(host), host)).into();
        Gate { firewall: Firewall::new(MESH, id(ME, 5), 500), members, now_ms: 1_000_000 }
    }

    fn check(&mut self, from: HostId, frame: &[u8]) -> Result<(), DropBecause> {
        self.notice(from, frame).map(drop)
    }

    fn notice(&mut self, from: HostId, frame: &[u8]) -> Result<Notice, DropBecause> {
        let unpack = |block: &[u8], most: usize| Some(vec![block.len() as u8; most.min(9)]);
        let known = Known { members: &self.members, from, unpack: &unpack, now_ms: self.now_ms };
        self.firewall.check(frame, &known)
    }
}

fn versions(host: HostId) -> Result<(), DropBecause> {
    Err(DropBecause::Versions(node_name(host)))
}

#[test]
fn what_chitchat_sends_passes() {
    let (me, attic, cellar) = (id(ME, 5), id(ATTIC, 1), id(CELLAR, 9));
    let mut gate = Gate::new();
    let frames = [
        syn(&[]),
        syn(&[(&attic, 0), (&me, 77), (&cellar, 1_000_000)]),
        Bytes::message(1)
            .digest(&[(&attic, 20), (&cellar, 1_000_050)])
            .delta(&[(&cellar, &[Key("host", "a", 8_000_000), Key("host", "b", 8_000_004)])])
            .0,
        ack(&[(&attic, &[Version(7)]), (&cellar, &[Key("host", "c", 8_000_005)])]),
        ack(&[(&attic, &[])]),
        ack(&[(&id(ME, 4), &[Key("host", "mine of yesterday", 4)])]),
        Bytes::message(3).0,
    ];
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(gate.check(ATTIC, frame), Ok(()), "frame {at}");
    }
}

#[test]
fn nobody_speaks_in_our_name_or_of_strangers() {
    let mut gate = Gate::new();
    let forged = ack(&[(&id(ME, 5), &[Key("host", "EVIL", 50)])]);
    assert_eq!(gate.check(ATTIC, &forged), Err(DropBecause::AboutMe));
    let ghost = id(HostId([0xdd; 32]), 1);
    assert_eq!(gate.check(ATTIC, &syn(&[(&ghost, 1)])), Err(DropBecause::Stranger(ghost.node.clone())));
    let moved = GossipId { address: ghost.address, ..id(CELLAR, 1) };
    assert_eq!(gate.check(ATTIC, &syn(&[(&moved, 1)])), Err(DropBecause::Stranger(moved.node.clone())));
    let elsewhere = Bytes::message(0).digest(&[]).text("another").0;
    assert_eq!(gate.check(ATTIC, &elsewhere), Err(DropBecause::Cluster));
}

#[test]
fn versions_that_panic_or_freeze_are_dropped() {
    let cellar = id(CELLAR, 1);
    let mut gate = Gate::new();
    let bad: [&[Change]; 5] = [
        &[Key("host", "v", 100), Version(60)],
        &[Version(u64::MAX - 1)],
        &[Key("host", "v", u64::MAX)],
        &[Key("host", "v", 2), Key("host", "w", 2)],
        &[Key("host", "v", 0)],
    ];
    for (at, changes) in bad.iter().enumerate() {
        assert_eq!(gate.check(ATTIC, &ack(&[(&cellar, changes)])), versions(CELLAR), "case {at}");
    }
    assert_eq!(gate.check(ATTIC, &ack(&[(&cellar, &[Version(1000)])])), Ok(()));
    let jump = ack(&[(&cellar, &[Version(1000 + (1 << 20) + 1)])]);
    assert_eq!(gate.check(ATTIC, &jump), versions(CELLAR));
}

#[test]
fn a_heartbeat_grows_no_faster_than_time() {
    let cellar = id(CELLAR, 1);
    let ahead = Err(DropBecause::Heartbeat(cellar.node.clone()));
    let mut gate = Gate::new();
    assert_eq!(gate.check(ATTIC, &syn(&[(&cellar, u64::MAX)])), ahead);
    assert_eq!(gate.check(ATTIC, &syn(&[(&cellar, 10)])), Ok(()));
    assert_eq!(gate.check(ATTIC, &syn(&[(&cellar, 100_000)])), ahead);
    gate.now_ms += 60 * 60 * 1000;
    assert_eq!(gate.check(ATTIC, &syn(&[(&cellar, 100_000)])), Ok(()));
    assert_eq!(gate.check(ATTIC, &syn(&[(&cellar, 3_000_000)])), ahead);
}

#[test]
fn keys_are_ours_or_of_a_later_version_and_values_are_small() {
    let cellar = id(CELLAR, 1);
    let refused = Err(DropBecause::Record(cellar.node.clone()));
    let mut gate = Gate::new();
    for key in ["", "Role", "role of a host", "../host", "image/blake3:00", "volume/0/1"] {
        assert_eq!(gate.check(ATTIC, &ack(&[(&cellar, &[Key(key, "x", 1)])])), refused, "{key}");
    }
    let later =
        ack(&[(&id(CELLAR, 2), &[Key("host", "x", 1), Key("volume/00ff", "x", 2), Key("role", "x", 3)])]);
    assert_eq!(gate.check(ATTIC, &later), Ok(()), "one new record keeps nothing else out");
    let long: &'static str = Box::leak("x".repeat(MAX_RECORD_BYTES + 1).into_boxed_str());
    assert_eq!(gate.check(ATTIC, &ack(&[(&cellar, &[Key("host", long, 1)])])), refused);
}

/// Lets `from` say of as many starts of the cellar as are known at a time, 1000 the oldest.
fn filled(from: HostId) -> Gate {
    let mut gate = Gate::new();
    for generation in 0..MAX_GENERATIONS as u64 {
        assert_eq!(gate.notice(from, &syn(&[(&id(CELLAR, 1000 + generation), 1)])), Ok(Notice::default()));
    }
    gate
}

fn instead(frame: Vec<u8>) -> Result<Notice, DropBecause> {
    Ok(Notice { double: None, instead: Some(frame) })
}

fn starts(gate: &Gate) -> usize {
    gate.firewall.seen.keys().filter(|id| id.node == node_name(CELLAR)).count()
}

#[test]
fn starts_that_are_too_many_are_left_out_and_the_rest_of_the_frame_goes_on() {
    let mut gate = filled(ATTIC);
    let (attic, known, more) = (id(ATTIC, 1), id(CELLAR, 1000), id(CELLAR, 2000));
    let both = syn(&[(&attic, 1), (&more, 1), (&known, 2)]);
    assert_eq!(gate.notice(ATTIC, &both), instead(syn(&[(&attic, 1), (&known, 2)])));
    let news: &[Change] = &[Key("host", "v", 1), Key("seen", "w", 2)];
    let all = ack(&[(&more, news), (&attic, news), (&known, &[Version(3)])]);
    assert_eq!(gate.notice(ATTIC, &all), instead(ack(&[(&attic, news), (&known, &[Version(3)])])));
    let answer = |entries: &[(&GossipId, u64)], parts: &[(&GossipId, &[Change])]| {
        Bytes::message(1).digest(entries).delta(parts).0
    };
    assert_eq!(
        gate.notice(ATTIC, &answer(&[(&more, 2), (&attic, 2)], &[(&attic, &[Version(4)]), (&more, news)])),
        instead(answer(&[(&attic, 2)], &[(&attic, &[Version(4)])]))
    );
    let none = Bytes::message(2).u8(0).0;
    assert_eq!(gate.notice(ATTIC, &ack(&[(&more, news)])), instead(none), "nothing is left of it");
    assert_eq!(starts(&gate), MAX_GENERATIONS);
}

#[test]
fn nobody_locks_a_host_out_with_invented_starts_and_no_host_fills_others_with_its_own() {
    let mut gate = filled(ATTIC);
    let start = |generation| syn(&[(&id(CELLAR, generation), 1)]);
    assert_eq!(
        gate.notice(CELLAR, &start(2000)),
        Ok(Notice::default()),
        "its newest takes the oldest's place"
    );
    assert_eq!(gate.notice(CELLAR, &start(2001)), instead(syn(&[])), "not one after the other");
    gate.now_ms += NEWEST_EVERY_MS;
    assert_eq!(gate.notice(CELLAR, &start(1999)), instead(syn(&[])), "nor an older one");
    assert_eq!(gate.notice(CELLAR, &start(2002)), Ok(Notice::default()));
    assert_eq!(starts(&gate), MAX_GENERATIONS);
    gate.now_ms += FORGET_MS + 1;
    assert_eq!(gate.notice(ATTIC, &start(3000)), Ok(Notice::default()));
    assert_eq!(starts(&gate), 1);
}

#[test]
fn all_ids_together_are_bounded_and_a_host_that_is_new_comes_in() {
    let mut gate = Gate::new();
    let hosts: Vec<HostId> = (0..40).map(|number| HostId([number; 32])).collect();
    gate.members.extend(hosts.iter().map(|host| (node_name(*host), *host)));
    for generation in 0..MAX_GENERATIONS as u64 {
        let all: Vec<GossipId> = hosts[1..].iter().map(|host| id(*host, generation)).collect();
        let all: Vec<(&GossipId, u64)> = all.iter().map(|id| (id, 1)).collect();
        gate.check(ATTIC, &syn(&all)).unwrap();
    }
    assert_eq!(gate.firewall.seen.len(), MAX_IDS);
    let new = syn(&[(&id(hosts[0], 1), 1)]);
    assert_eq!(gate.notice(ATTIC, &new), instead(syn(&[])));
    assert_eq!(gate.notice(hosts[0], &new), Ok(Notice::default()));
}

#[test]
fn a_copy_of_this_host_is_noticed_and_keeps_nothing_else_out() {
    let mut gate = Gate::new();
    let (cellar, copy) = (id(CELLAR, 1), id(ME, 6));
    let both = Bytes::message(1).digest(&[(&cellar, 1), (&copy, 1)]).delta(&[(&copy, &[Version(1)])]).0;
    assert_eq!(gate.notice(ATTIC, &both), Ok(Notice { double: Some(6), instead: None }));
    assert!(gate.firewall.seen.contains_key(&cellar));
    assert_eq!(gate.notice(ATTIC, &syn(&[(&cellar, 2), (&id(ME, 4), 1)])), Ok(Notice::default()));
}

#[test]
fn a_dropped_frame_teaches_nothing() {
    let mut gate = Gate::new();
    let cellar = id(CELLAR, 1);
    let mixed = Bytes::message(1).digest(&[(&cellar, 1 << 31)]).delta(&[(&id(ME, 5), &[Version(1)])]).0;
    assert_eq!(gate.check(ATTIC, &mixed), Err(DropBecause::AboutMe));
    assert!(gate.firewall.seen.is_empty());
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
    let known = Known { members: &gate.members, from: ATTIC, unpack: &bomb, now_ms: 1 };
    assert_eq!(gate.firewall.check(&frame, &known), Err(DropBecause::TooLarge));
    let none = |_: &[u8], _: usize| None;
    let known = Known { members: &gate.members, from: ATTIC, unpack: &none, now_ms: 1 };
    assert_eq!(gate.firewall.check(&frame, &known), Err(DropBecause::Malformed("block")));
}

#[test]
fn every_cut_and_every_extra_byte_is_malformed() {
    let attic = id(ATTIC, 1);
    let whole = Bytes::message(1)
        .digest(&[(&attic, 1)])
        .delta(&[(&attic, &[Key("host", "v", 1), Key("host", "w", 2)])])
        .0;
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
    fn flipped_bytes_never_panic(at in 0..500usize, with in any::<u8>()) {
        let attic = id(ATTIC, 1);
        let mut frame = Bytes::message(1)
            .digest(&[(&attic, 1)])
            .delta(&[(&attic, &[Key("host", "v", 1), Key("host", "w", 2)])])
            .0;
        let at = at % frame.len();
        frame[at] = with;
        drop(Gate::new().check(ATTIC, &frame));
    }
}
