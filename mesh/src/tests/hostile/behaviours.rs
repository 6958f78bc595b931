//! What a hostile member does: one list, by name.

use futures::FutureExt;
use proto::{
    id::{Digest, Generation, HostId, MeshId, SessionId},
    seal::SignedRecord,
    time::Timestamp,
    trust::{Genesis, Sealed, Short, Statement, Tombstone},
    wire::{
        self,
        record::{Body, HeadRecord, ImageRecord, Reach, RecordKey, RelayOffer, SessionRecord},
        rpc::Request,
    },
};

use super::{
    Behaviour, Bot, beats,
    frames::{self, Change, Part, ack, part, start, syn, syn_ack},
};
use crate::{tests::harness::*, transport::protocols};

/// All of them.
pub(super) const ALL: &[(&str, Behaviour)] = &[
    ("a start of another host, invented", |bot| named_starts(bot, 1).boxed()),
    ("a thousand starts of another host, invented", |bot| named_starts(bot, 1000).boxed()),
    ("an invented start with a forged record", |bot| {
        tells(bot, bot.victim_start + 1, vec![Change::Key("host", "EVIL", 1)]).boxed()
    }),
    ("an invented start with an own record in it", |bot| {
        own_word_elsewhere(bot, bot.victim_start + 1).boxed()
    }),
    ("an own record in another's name", |bot| own_word_elsewhere(bot, bot.victim_start).boxed()),
    ("a version of another that jumps to the end", |bot| {
        tells(bot, bot.victim_start, vec![Change::Key("host", "EVIL", u64::MAX)]).boxed()
    }),
    ("a bare version of another", |bot| {
        tells(bot, bot.victim_start, vec![Change::Version(u64::MAX - 1)]).boxed()
    }),
    ("the packet that panics chitchat", |bot| {
        let changes = vec![Change::Key("host", "EVIL", 100), Change::Version(60)];
        tells(bot, bot.victim_start, changes).boxed()
    }),
    ("deletions of what another said", |bot| {
        tells(bot, bot.victim_start, vec![Change::Gone("host", 1000), Change::Gone("seen", 1001)]).boxed()
    }),
    ("a state of another that is to be thrown away", |bot| reset(bot).boxed()),
    ("the last heartbeat of another", |bot| heartbeats(bot, vec![u64::MAX, u64::MAX - 1, 1 << 32]).boxed()),
    ("heartbeats of another without end", |bot| {
        heartbeats(bot, (1..300).map(|at| at * 1000).collect()).boxed()
    }),
    ("a host that is no member", |bot| foreign(bot).boxed()),
    ("a member under a false address", |bot| moved(bot).boxed()),
    ("words in the receiver's own name", |bot| in_its_name(bot).boxed()),
    ("a later start of the receiver", |bot| copy(bot).boxed()),
    ("garbage in the place of records", |bot| garbage(bot).boxed()),
    ("a key that no version has", |bot| {
        tells(bot, bot.victim_start, vec![Change::Key("../../etc", "x", 2)]).boxed()
    }),
    ("an id twice", |bot| twice(bot).boxed()),
    ("a digest with all ids that fit", |bot| full_digest(bot).boxed()),
    ("frames of another mesh", |bot| {
        bot.gossip((0..100).map(|_| syn(MeshId([9; 32]), &[])).collect()).boxed()
    }),
    ("blocks that unpack to a thousand times their size", |bot| {
        bot.gossip((0..200).map(|_| frames::bomb()).collect()).boxed()
    }),
    ("frames that are no frames", |bot| {
        bot.gossip((0..2000).map(|at: u32| vec![at as u8; 100]).collect()).boxed()
    }),
    ("a flood of frames", |bot| bot.gossip((0..5000).map(|_| syn(bot.mesh, &[])).collect()).boxed()),
    ("a thousand own records", |bot| own_records(bot, 1000).boxed()),
    ("two thousand own starts", |bot| own_starts(bot).boxed()),
    ("a relay offer in another's name", |bot| {
        own_word(bot, RecordKey::Host, |bot| {
            let mut about = record_of(bot);
            about.reach = Reach {
                addresses: vec!["192.0.2.1:9".parse().unwrap(); 6],
                relays: vec![],
                serves: Some(RelayOffer {
                    url: "http://192.0.2.1:9".into(),
                    qad_port: 9,
                    certificate: Digest([1; 32]),
                }),
            };
            Body::Host(about)
        })
        .boxed()
    }),
    ("image names of the future", |bot| {
        own_word(bot, RecordKey::Image(Digest([0xee; 32])), |_| {
            let names = [("debian:12".to_owned(), Timestamp(u64::MAX))].into();
            Body::Image(ImageRecord {
                names,
                size: u64::MAX,
                allocated: u64::MAX,
                arch: "z".into(),
                complete: true,
            })
        })
        .boxed()
    }),
    ("a false head of another's session", |bot| {
        own_word(bot, RecordKey::Head(session()), |bot| {
            Body::Head(HeadRecord {
                name: name("shop"),
                stamp: Timestamp(0),
                term: u64::MAX,
                recovery: u64::MAX,
                version: u64::MAX,
                generation: Generation(u64::MAX),
                voters: vec![bot.host.id()],
                ended: true,
            })
        })
        .boxed()
    }),
    ("a session record of another's session", |bot| {
        own_word(bot, RecordKey::Session(session()), |_| {
            Body::Session(SessionRecord { version: u64::MAX, machines: vec![] })
        })
        .boxed()
    }),
    ("a session of a taken name with the lowest stamp", |bot| {
        states(bot, vec![genesis(bot, 0, Timestamp(0)).seal(bot.mesh, &bot.seed)]).boxed()
    }),
    ("sessions by the hundred", |bot| {
        let all = (0..500).map(|at| genesis(bot, at, Timestamp(at.into())).seal(bot.mesh, &bot.seed));
        states(bot, all.collect()).boxed()
    }),
    ("the end of another's session", |bot| {
        let ends = Statement::Tombstone(Tombstone { session: session(), made: Timestamp(1), mandate: None });
        states(bot, vec![ends.seal(bot.mesh, &bot.seed)]).boxed()
    }),
    ("statements of unknown kinds by the hundred", |bot| {
        let of = |at: u16| Statement::Unknown { kind: 60_000 + at, bytes: vec![at as u8; 900] };
        states(bot, (0..500).map(|at| of(at).seal(bot.mesh, &bot.seed)).collect()).boxed()
    }),
    ("statements that nobody signed by the thousand", |bot| unsigned(bot).boxed()),
    ("a wish for all statements", |bot| wishes(bot).boxed()),
    ("a clock a day ahead", |bot| clock(bot).boxed()),
    ("requests that are no requests", |bot| {
        bot.leave(protocols::RPC, 100, &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]).map(drop).boxed()
    }),
    ("shares that are no shares", |bot| shares(bot).boxed()),
    ("a flood of requests", |bot| flood(bot).boxed()),
    ("answers that are never read", |bot| unread(bot).boxed()),
    ("half-open streams of gossip", |bot| held(bot, protocols::GOSSIP, vec![]).boxed()),
    ("half a frame of gossip", |bot| held(bot, protocols::GOSSIP, vec![0, 0, 0xff, 0, 1, 2, 3]).boxed()),
    ("half-open requests", |bot| held(bot, protocols::RPC, vec![]).boxed()),
    ("half of requests of eight MiB", |bot| held(bot, protocols::RPC, half(8)).boxed()),
    ("half of messages of sixteen MiB between voters", |bot| held(bot, protocols::RAFT, half(16)).boxed()),
    ("a length beyond every limit", |bot| held(bot, protocols::RPC, vec![0xff; 4]).boxed()),
    ("datagrams that say nothing, and too long ones", |bot| beats::no_beats(bot).boxed()),
    ("probes without end, and answers to none", |bot| beats::probes(bot).boxed()),
    ("a host that is there called gone, with all evidence", |bot| beats::calls_gone(bot).boxed()),
    ("words about others in another's name", |bot| beats::in_another_name(bot).boxed()),
    ("leaving and being there in turn, in the last start", |bot| beats::comes_and_goes(bot).boxed()),
];

async fn named_starts(bot: &Bot, count: u64) {
    let all: Vec<_> =
        (1..=count).map(|at| (start(bot.mesh, bot.victim, bot.victim_start + at), [1, 0, 1])).collect();
    for some in all.chunks(500) {
        bot.gossip(vec![syn(bot.mesh, some), syn_ack(some, &[])]).await;
    }
}

/// Tells of changes to the victim's state.
async fn tells(bot: &Bot, generation: u64, changes: Vec<Change<'_>>) {
    let id = start(bot.mesh, bot.victim, generation);
    bot.gossip(vec![syn_ack(&[(id.clone(), [5, 0, 0])], &[part(id, changes)])]).await;
}

fn sealed(bot: &Bot, host: HostId, generation: u64, seq: u64, key: RecordKey, body: Body) -> String {
    let record = SignedRecord { mesh: bot.mesh, host, generation, seq, key, body: Some(body) };
    record.seal(&bot.seed).unwrap()
}

fn empty() -> Body {
    Body::Session(SessionRecord { version: 1, machines: vec![] })
}

async fn own_word_elsewhere(bot: &Bot, generation: u64) {
    let key = RecordKey::Session(session());
    let text = sealed(bot, bot.victim, generation, 900, key.clone(), empty());
    tells(bot, generation, vec![Change::Key(&key.to_string(), &text, 900)]).await;
}

async fn reset(bot: &Bot) {
    let id = start(bot.mesh, bot.victim, bot.victim_start);
    bot.gossip(vec![ack(&[Part { id, deleted: 1 << 40, from: 0, changes: vec![] }])]).await;
}

async fn heartbeats(bot: &Bot, beats: Vec<u64>) {
    let id = start(bot.mesh, bot.victim, bot.victim_start);
    let frames = beats.iter().map(|beat| syn(bot.mesh, &[(id.clone(), [*beat, 0, 1])]));
    let frames: Vec<Vec<u8>> = frames.collect();
    bot.gossip(frames).await;
}

async fn foreign(bot: &Bot) {
    let id = start(bot.mesh, HostId([7; 32]), 1);
    bot.gossip(vec![syn_ack(&[(id.clone(), [1, 0, 1])], &[part(id, vec![Change::Key("host", "x", 1)])])])
        .await;
}

async fn moved(bot: &Bot) {
    let mut id = start(bot.mesh, bot.victim, bot.victim_start);
    id.address = "[fd00::1]:7".parse().unwrap();
    bot.gossip(vec![syn(bot.mesh, &[(id, [1, 0, 1])])]).await;
}

async fn in_its_name(bot: &Bot) {
    let id = start(bot.mesh, bot.target, bot.target_start);
    let changes = vec![Change::Key("host", "EVIL", 1 << 39)];
    bot.gossip(vec![ack(&[part(id, changes)])]).await;
}

async fn copy(bot: &Bot) {
    let id = start(bot.mesh, bot.target, bot.target_start + 1);
    let changes = vec![Change::Key("host", "EVIL", 1)];
    bot.gossip(vec![syn_ack(&[(id.clone(), [9, 0, 9])], &[part(id, changes)])]).await;
}

async fn garbage(bot: &Bot) {
    let text = "QUFB".repeat(500);
    let changes = (1..200).map(|at| Change::Key("host", &text, at)).collect();
    tells(bot, bot.victim_start, changes).await;
}

async fn twice(bot: &Bot) {
    let id = || start(bot.mesh, bot.victim, bot.victim_start);
    let parts = [part(id(), vec![]), part(id(), vec![])];
    bot.gossip(vec![syn(bot.mesh, &[(id(), [1, 0, 1]), (id(), [2, 0, 1])]), ack(&parts)]).await;
}

async fn full_digest(bot: &Bot) {
    let all: Vec<_> = (0..1_000).map(|at| (start(bot.mesh, bot.host.id(), at), [1, 0, 1])).collect();
    bot.gossip(vec![syn(bot.mesh, &all)]).await;
}

/// Sends own records in an own later start.
async fn own_records(bot: &Bot, count: u16) {
    let frames: Vec<Vec<u8>> = (0..count).step_by(100).map(|first| hundred_records(bot, first)).collect();
    bot.gossip(frames).await;
}

fn hundred_records(bot: &Bot, first: u16) -> Vec<u8> {
    let id = start(bot.mesh, bot.host.id(), u64::MAX - 1);
    let mut texts = Vec::new();
    for at in first + 1..=first + 100 {
        let mut number = [1; 16];
        number[..2].copy_from_slice(&at.to_be_bytes());
        let key = RecordKey::Session(SessionId(number));
        texts.push((
            key.to_string(),
            sealed(bot, bot.host.id(), id.generation, at.into(), key, empty()),
            at.into(),
        ));
    }
    let changes = texts.iter().map(|(key, text, at)| Change::Key(key, text, *at)).collect();
    syn_ack(&[(id.clone(), [1, 0, 0])], &[part(id, changes)])
}

async fn own_starts(bot: &Bot) {
    let all: Vec<_> =
        (0..2_000).map(|at| (start(bot.mesh, bot.host.id(), 1 << 50 | at), [1, 0, 1])).collect();
    let frames: Vec<Vec<u8>> = all.chunks(10).map(|some| syn(bot.mesh, some)).collect();
    bot.gossip(frames).await;
}

fn record_of(bot: &Bot) -> proto::wire::record::HostRecord {
    let records = bot.host.mesh.records().borrow().clone();
    match records.get(&(bot.victim, RecordKey::Host)) {
        Some(Body::Host(record)) => record.clone(),
        other => panic!("the victim says nothing of itself: {other:?}"),
    }
}

/// Says something of others in the own name, which is allowed, and once more in the victim's, which is not.
async fn own_word(bot: &Bot, key: RecordKey, body: fn(&Bot) -> Body) {
    let (word, text) = (key.to_string(), body(bot));
    for (host, generation) in [(bot.host.id(), u64::MAX - 2), (bot.victim, bot.victim_start)] {
        let id = start(bot.mesh, host, generation);
        let text = sealed(bot, host, generation, 700, key.clone(), text.clone());
        let changes = vec![Change::Key(&word, &text, 700)];
        bot.gossip(vec![syn_ack(&[(id.clone(), [1, 0, 0])], &[part(id, changes)])]).await;
    }
}

fn genesis(bot: &Bot, number: u16, stamp: Timestamp) -> Statement {
    let mut salt = [3; 16];
    salt[..2].copy_from_slice(&number.to_be_bytes());
    let (session, voters) = (SessionId::born(bot.host.id(), &salt), vec![bot.host.id()]);
    Statement::Genesis(Genesis { session, salt, name: name("shop"), stamp, voters, bound: false })
}

async fn states(bot: &Bot, statements: Vec<Sealed>) {
    for some in statements.chunks(100) {
        let given = some.iter().map(|sealed| sealed.encode()).collect();
        bot.ask(Request::Statements { given, wanted: vec![] }).await;
    }
}

async fn unsigned(bot: &Bot) {
    let given = (0..3_000_u32).map(|at| at.to_be_bytes().repeat(20)).collect();
    bot.ask(Request::Statements { given, wanted: vec![] }).await;
    let mut sealed = genesis(bot, 9_000, Timestamp(1)).seal(bot.mesh, &bot.seed);
    sealed.sig.0[5] ^= 1;
    states(bot, vec![sealed; 1000]).await;
}

async fn wishes(bot: &Bot) {
    let wanted: Vec<Short> = (0..20_000_u32).map(|at| Short::of(&Digest::of(&at.to_be_bytes()))).collect();
    for _ in 0..5 {
        bot.ask(Request::Statements { given: vec![], wanted: wanted.clone() }).await;
    }
}

async fn clock(bot: &Bot) {
    for days in [1, 30, 36_500] {
        let time = Timestamp(now().0 + days * 86_400_000);
        bot.ask(Request::Compare { summary: Digest([0; 32]), news: vec![], time }).await;
    }
}

async fn shares(bot: &Bot) {
    let mut bytes = wire::encode(&Request::GetShare(session()));
    for at in 0..bytes.len() {
        bytes[at] ^= 0x55;
        let frame = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        bot.leave(protocols::RPC, 1, &frame).await;
        bytes[at] ^= 0x55;
    }
}

async fn flood(bot: &Bot) {
    let pings = (0..1_000).map(|_| bot.ask(Request::Ping));
    let answers = futures::future::join_all(pings).await;
    assert!(answers.iter().any(Option::is_some), "the flood does not reach anybody");
}

async fn unread(bot: &Bot) {
    let ask = wire::encode(&Request::Compare { summary: Digest([0; 32]), news: vec![], time: now() });
    held(bot, protocols::RPC, [&(ask.len() as u32).to_be_bytes()[..], &ask].concat()).await;
}

/// The first half MiB of a frame of so many.
fn half(mib: u32) -> Vec<u8> {
    [&(mib << 20).to_be_bytes()[..], &vec![7; 512 << 10]].concat()
}

/// Leaves streams open while the others are looked at.
async fn held(bot: &Bot, protocol: libp2p::StreamProtocol, bytes: Vec<u8>) {
    let mut left = bot.left.lock().await;
    left.clear();
    *left = bot.leave(protocol.clone(), 60, &bytes).await;
    assert!(left.len() >= 4, "{} streams of {protocol} are held", left.len());
}
