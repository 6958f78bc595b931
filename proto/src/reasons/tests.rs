//! Every reason once: its code stands in the table, its words are one line, it comes through every encoding, and
//! what only a later version says is shown by the words that came with it.

use std::{collections::BTreeSet, fmt};

use minicbor::{Decode, Encode};
use serde::de::DeserializeOwned;

use super::*;
use crate::{
    firewall::DropBecause,
    id::{Digest, Epoch, Generation, HostId, Name},
    level::Level,
    seal::SealError,
    session::{MachineReport, Obstacle, Phase, Prefix, Refused},
    topology::Egress,
    trust::{Capability, JoinRefusal, OutBecause},
    wire::{
        WireError,
        codec::{Form, from_bytes, to_bytes},
        rpc::Refusal,
    },
};

const TABLE: &str = include_str!("../../../docs/REASONS.md");
const SOURCES: [&str; 6] = [
    include_str!("host.rs"),
    include_str!("machine.rs"),
    include_str!("path.rs"),
    include_str!("place.rs"),
    include_str!("plan.rs"),
    include_str!("resized.rs"),
];

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn unchosen() -> Vec<Unchosen> {
    let best = || name("nas");
    vec![
        Unchosen::NotNamed,
        Unchosen::OtherTag { key: "room".into(), has: "attic".into(), wanted: "cellar".into() },
        Unchosen::NoTag { key: "room".into(), wanted: "cellar".into() },
        Unchosen::Down,
        Unchosen::OwnerForbids,
        Unchosen::NoQemu { package: "qemu-system-x86".into() },
        Unchosen::OtherCpu { has: "aarch64".into(), wanted: "x86_64".into() },
        Unchosen::FewCpus { has: 1, wanted: 2 },
        Unchosen::LittleMemory { free_mib: 100, wanted_mib: 1024 },
        Unchosen::LittleDisk { more_mib: 4096, taken_mib: 512, free_mib: 1024 },
        Unchosen::NoRoomForImage { free_mib: 1, wanted_mib: 64, kept_mib: 2048 },
        Unchosen::Crowded,
        Unchosen::LessNear { near: vec![name("db"), name("web")], best: best() },
        Unchosen::Slow { best: best() },
        Unchosen::MoreSiblings { group: name("web"), best: best() },
        Unchosen::LessMemory { free_mib: 100, best: best() },
        Unchosen::NoImage { best: best() },
        Unchosen::Farther { best: best() },
        Unchosen::LaterByName { best: best() },
        Unchosen::OlderVersion { has: Level::FIRST, wanted: Level::from(2) },
        Unchosen::Other,
        Unchosen::LanForbidden,
        Unchosen::MayNotRun,
    ]
}

pub(crate) fn chosen() -> Vec<Chosen> {
    vec![
        Chosen::OnlyOne,
        Chosen::Apart,
        Chosen::Near { near: vec![name("db")] },
        Chosen::FullSpeed,
        Chosen::FewestSiblings { group: name("web") },
        Chosen::MostMemory { free_mib: 4096 },
        Chosen::HasImage,
        Chosen::Nearest { rtt_ms: 3 },
        Chosen::FirstByName,
        Chosen::OlderThere,
        Chosen::Other,
    ]
}

fn settings() -> Vec<Resized> {
    vec![
        Resized::Cpus { was: 1, is: 2 },
        Resized::Memory { was_mib: 256, is_mib: 512 },
        Resized::Disk { was_mib: 64, is_mib: 900 },
        Resized::Other,
    ]
}

/// What a machine is restarted for that may go elsewhere now.
pub(crate) fn other_reach() -> Cause {
    Cause::InPlace { settings: reaches(), away: None, later: Vec::new() }
}

fn reaches() -> Vec<Resized> {
    let egress = |was, is| Resized::Egress { was, is };
    vec![
        egress(Egress::Internet, Egress::None),
        egress(Egress::None, Egress::Lan),
        egress(Egress::Lan, Egress::Internet),
    ]
}

fn losses() -> Vec<Loss> {
    vec![
        Loss::OtherContent { image: "tiny".into(), was: Digest([1; 32]), is: Digest([2; 32]) },
        Loss::OtherImage { image: "tiny".into() },
        Loss::OtherPinned { is: Digest([2; 32]) },
        Loss::Shrinks { was_mib: 900, is_mib: 500 },
        Loss::FirstBoot { keys: vec!["setup".into(), "env".into()] },
        Loss::Other,
    ]
}

pub(crate) fn causes() -> Vec<Cause> {
    let later = || vec!["setup".to_owned()];
    vec![
        Cause::Placed { chosen: Chosen::Near { near: vec![name("db")] }, waits: true },
        Cause::Kept { later: Vec::new() },
        Cause::KeptDown { host: "nas".into(), later: later() },
        Cause::KeptStranger { later: later() },
        Cause::InPlace { settings: settings(), away: Some("nas".into()), later: later() },
        Cause::Replaced { losses: losses(), started: true, away: None },
        Cause::GroupGone { group: name("old") },
        Cause::FewerWanted { count: 2 },
        Cause::Lost { chosen: Chosen::OnlyOne, waits: false, started: true },
        Cause::Other,
    ]
}

pub(crate) fn hindrances() -> Vec<Hindrance> {
    let (host, machine) = (|| "nas".to_owned(), || "web-1".parse().unwrap());
    let unchosen = || Unchosen::FewCpus { has: 1, wanted: 2 };
    let stranger = Stranger { name: name("nsa"), nearest: Some("nas".into()), known: "attic, nas".into() };
    vec![
        Hindrance::UnknownImage { image: "tini".into(), nearest: Some("tiny".into()) },
        Hindrance::UnknownContent { digest: Digest([1; 32]) },
        Hindrance::SmallDisk { wanted_mib: 1, least_mib: 64 },
        Hindrance::WrongHost { host: host(), machine: machine(), unchosen: Box::new(Unchosen::NotNamed) },
        Hindrance::CannotGrow { host: host(), machine: machine(), unchosen: Box::new(unchosen()) },
        Hindrance::CannotRun { host: host(), unchosen: Box::new(unchosen()) },
        Hindrance::OlderAway { host: host() },
        Hindrance::OlderUnfit { host: host(), unchosen: Box::new(Unchosen::Down) },
        Hindrance::NetworkFull { subnet: Prefix { base: [10, 64, 0, 0].into(), len: 24 } },
        Hindrance::NoHosts,
        Hindrance::NoHostFits {
            hosts: vec![NotChosen { host: host(), unchosen: unchosen() }],
            strangers: vec![stranger],
        },
        Hindrance::Other,
    ]
}

pub(crate) fn because() -> Vec<Because> {
    let seen = || "QEMU got signal 9".to_owned();
    vec![
        Because::OlderRemoved,
        Because::Restarting,
        Because::Paused { seen: "its disk is full".into() },
        Because::Stopping,
        Because::StopFailed { seen: seen(), attempt: 2, after_s: 1 },
        Because::StoppingUnseen { seen: seen() },
        Because::Unseen { seen: seen(), within_min: 5 },
        Because::Silent,
        Because::StoppedByUser,
        Because::Needs { groups: vec![name("db"), name("web")] },
        Because::AsksForStart { failed: Some("no quorum".into()) },
        Because::SetupPending,
        Because::SetupFailed { seen: "setup command 2 ended with exit code 1".into() },
        Because::NotReady { service: name("http") },
        Because::NoAnswer { service: name("http"), port: 80, after_s: 60 },
        Because::EndedForGood { seen: seen() },
        Because::EndedNeeds { seen: seen(), groups: vec![name("db")] },
        Because::Ended { seen: seen(), attempt: 2, after_s: 1 },
        Because::Unstarted { seen: seen(), attempt: 2, after_s: 1 },
        Because::Fetching { percent: 40 },
        Because::Unreported,
        Because::HostAway { host: "nas".into() },
        Because::ContentLacks { seen: "no answer".into() },
        Because::Untold,
        Because::LanForbidden,
        Because::OwnerForbids,
        Because::MayNotRun,
        Because::HostOut { host: "nas".into(), session: name("shop") },
        Because::Other,
    ]
}

pub(crate) fn no_kvm() -> Vec<NoKvm> {
    let seen = || "Permission denied (os error 13)".to_owned();
    vec![
        NoKvm::NotBuilt,
        NoKvm::Absent,
        NoKvm::Denied { seen: seen() },
        NoKvm::NotOpened { seen: seen() },
        NoKvm::Emulates { turns_10k_s: 175 },
        NoKvm::Ended { seen: seen() },
        NoKvm::Hangs,
        NoKvm::MachineSilent,
        NoKvm::Other,
    ]
}

fn turned() -> Vec<Turned> {
    vec![
        Turned::FirstMet,
        Turned::DirectFound,
        Turned::DirectSilent,
        Turned::DirectNarrow,
        Turned::RelaySilent,
        Turned::OtherRelay,
        Turned::MetAgain,
        Turned::NothingHeard,
        Turned::Other,
    ]
}

pub(crate) fn plights() -> Vec<Plight> {
    let dir = || "/var/lib/agent".to_owned();
    let seen = || "Read-only file system (os error 30)".to_owned();
    let session = || "shop".to_owned();
    vec![
        Plight::NearlyFull { dir: dir(), free_bytes: 5 << 20 },
        Plight::ReadOnly { dir: dir(), seen: seen() },
        Plight::NoInodes { dir: dir(), files: 77, free_bytes: 9 << 20 },
        Plight::Full { dir: dir(), seen: seen(), free_bytes: 0 },
        Plight::Quota { dir: dir(), seen: seen() },
        Plight::MayNotGrow { dir: dir(), seen: seen() },
        Plight::NoDescriptors { seen: seen() },
        Plight::NotOurs { dir: dir(), seen: seen() },
        Plight::NotWritable { dir: dir(), seen: seen() },
        Plight::DiskSilent { within_s: 3 },
        Plight::LogClosed { session: session(), seen: seen() },
        Plight::LogUnusable { session: session(), seen: seen() },
        Plight::Other,
    ]
}

/// What every kind of reason keeps.
fn check<R>(kind: &str, all: Vec<R>)
where
    R: Default + Clone + PartialEq + fmt::Debug + fmt::Display + Serialize + DeserializeOwned,
    R: Encode<()> + for<'b> Decode<'b, ()>,
{
    let mut codes = BTreeSet::new();
    for reason in &all {
        let words = reason.to_string();
        assert!(!words.is_empty() && !words.contains('\n') && !words.ends_with('.'), "{kind}: {words:?}");
        let shown = toml::Value::try_from(Why::new(reason.clone())).unwrap();
        assert_eq!(shown["text"].as_str(), Some(&*words));
        codes.insert(shown["code"].as_str().unwrap().to_owned());
        assert_eq!(shown.try_into::<Why<R>>().unwrap(), Why::new(reason.clone()));
        assert_eq!(from_bytes::<R>(&to_bytes(reason), 10_000, Form::Canonical).as_ref(), Ok(reason));
    }
    assert_eq!(codes, declared(kind), "a reason of {kind} lacks here");
    assert_eq!(codes, listed(kind), "docs/REASONS.md lists the reasons of {kind}");
    let later =
        toml::from_str::<Why<R>>("code = \"of-tomorrow\"\nhosts = 3\ntext = \"a new thing\"").unwrap();
    assert_eq!(later, Why::told(None, "a new thing"));
}

/// The codes of an enum of these files.
fn declared(kind: &str) -> BTreeSet<String> {
    let source = SOURCES.iter().find(|source| source.contains(&format!("pub enum {kind} {{")));
    declared_in(source.unwrap(), kind)
}

/// The codes of an enum as its source has them.
fn declared_in(source: &str, kind: &str) -> BTreeSet<String> {
    let (_, body) = source.split_once(&format!("pub enum {kind} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let variants = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = variants.filter(|line| line.starts_with(char::is_uppercase));
    let kebab = |line: &str| {
        let word = line.chars().take_while(|c| c.is_alphanumeric());
        let kebab: String = word
            .flat_map(|c| [c.is_uppercase().then_some('-'), Some(c.to_ascii_lowercase())])
            .flatten()
            .collect();
        kebab.trim_start_matches('-').to_owned()
    };
    variants.map(kebab).collect()
}

/// The codes that the table has under the heading of a kind.
fn listed(kind: &str) -> BTreeSet<String> {
    let (_, section) = TABLE.split_once(&format!("(`{kind}`)\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let code = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(code).collect()
}

#[test]
fn every_reason_has_a_listed_code_one_line_of_words_and_comes_through_every_encoding() {
    check("Unchosen", unchosen());
    check("Chosen", chosen());
    check("Resized", [settings(), reaches()].concat());
    check("Loss", losses());
    check("Cause", [causes(), vec![other_reach()]].concat());
    check("Hindrance", hindrances());
    check("Because", because());
    check("NoKvm", no_kvm());
    check("Turned", turned());
    check("Plight", plights());
}

#[derive(Encode)]
#[cbor(map)]
enum Tomorrow {
    #[n(4711)]
    Tired {
        #[n(0)]
        since_s: u64,
    },
}

#[derive(Encode)]
#[cbor(map)]
struct ReportOfTomorrow {
    #[n(0)]
    machine: crate::id::MachineName,
    #[n(1)]
    epoch: Epoch,
    #[n(2)]
    phase: Phase,
    #[n(3)]
    reason: Option<String>,
    #[cbor(n(4), with = "crate::wire::fields::reason", has_nil)]
    why: Option<Tomorrow>,
}

fn of_tomorrow() -> ReportOfTomorrow {
    let (machine, epoch, phase) = ("web-1".parse().unwrap(), Epoch(2), Phase::Waiting);
    let why = Some(Tomorrow::Tired { since_s: 7 });
    ReportOfTomorrow { machine, epoch, phase, reason: Some("it is tired".into()), why }
}

fn read(report: &impl Encode<()>) -> Result<MachineReport, WireError> {
    from_bytes(&to_bytes(report), 10_000, Form::Canonical)
}

#[test]
fn a_reason_of_tomorrow_is_shown_by_the_words_that_came_with_it() {
    let report = read(&of_tomorrow()).unwrap();
    assert_eq!((report.why.as_ref(), report.reason.as_deref()), (None, Some("it is tired")));
    let shown = Why::told(report.why.as_ref(), "it is tired");
    assert_eq!(shown, Why { reason: Because::Other, text: "it is tired".into() });
}

#[test]
fn a_report_of_yesterday_has_its_words_only() {
    let report = read(&ReportOfTomorrow { why: None, ..of_tomorrow() }).unwrap();
    assert_eq!((report.why, report.reason.as_deref()), (None, Some("it is tired")));
}

#[test]
fn damaged_bytes_of_a_reason_are_no_reason_of_tomorrow() {
    let known =
        MachineReport::new("web-1".parse().unwrap(), Epoch(2), (Phase::Waiting, Some(Because::Unreported)));
    let mut bytes = to_bytes(&known);
    assert_eq!(from_bytes::<MachineReport>(&bytes, 10_000, Form::Canonical).as_ref(), Ok(&known));
    *bytes.last_mut().unwrap() = 0xff;
    let read = from_bytes::<MachineReport>(&bytes, 10_000, Form::Canonical);
    assert!(matches!(read, Err(WireError::Malformed(_))), "{read:?}");
}

#[test]
fn a_reason_that_is_too_large_is_told_by_its_words_alone() {
    let against = |n| NotChosen { host: format!("host-{n}"), unchosen: Unchosen::Down };
    let obstacle = |hosts| {
        let why = Hindrance::NoHostFits { hosts: (0..hosts).map(against).collect(), strangers: Vec::new() };
        Obstacle::new("web-1".parse().unwrap(), why)
    };
    for (hosts, whole) in [(100, true), (5000, false)] {
        let obstacle = obstacle(hosts);
        let read = from_bytes::<Obstacle>(&to_bytes(&obstacle), 1 << 20, Form::Canonical).unwrap();
        assert_eq!(read.why, obstacle.why.filter(|_| whole));
        assert_eq!(read.because, obstacle.because);
    }
}

/// Every refusal of a member.
pub(crate) fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NotCoordinator { leader: Some(HostId([3; 32])) },
        Refusal::UnknownSession,
        Refusal::State(Refused::Existence),
        Refusal::State(Refused::Ended),
        Refusal::State(Refused::NotCurrent { current: Generation(3), parent: Generation(2) }),
        Refusal::State(Refused::Unsafe("web-1 has no host".into())),
        Refusal::State(Refused::Started("web-1".parse().unwrap())),
        Refusal::State(Refused::NoMachine("web-9".parse().unwrap())),
        Refusal::State(Refused::NoStart("web-1".parse().unwrap())),
        Refusal::State(Refused::Lacks("app.toml".into())),
        Refusal::State(Refused::Full),
        Refusal::State(Refused::Raised),
        Refusal::State(Refused::Out(crate::id::HostId([2; 32]))),
        Refusal::State(Refused::Mandate { current: 3 }),
        Refusal::NoQuorum,
        Refusal::Older,
        Refusal::NoVoice,
        Refusal::Failed("its disk is full".into()),
        Refusal::Unknown,
        Refusal::Invalid("web: no image".into()),
        Refusal::Gathering,
        Refusal::NoContent,
        Refusal::Unsigned("no operator wants web-4".into()),
        Refusal::MayNot(Capability::Run),
        Refusal::MayNot(Capability::Store),
        Refusal::MayNot(Capability::Relay),
        Refusal::MayNot(Capability::Vote),
        Refusal::MayNot(Capability::Operate),
        Refusal::Other("the moon is full".into()),
    ]
}

fn gossip_refusals() -> Vec<GossipRefusal> {
    let member = || "0123abcd".to_owned();
    vec![
        DropBecause::Malformed("its end").into(),
        DropBecause::TooLarge.into(),
        DropBecause::Cluster.into(),
        DropBecause::Stranger(member()).into(),
        DropBecause::AboutMe.into(),
        DropBecause::Versions(member()).into(),
        DropBecause::Heartbeat(member()).into(),
        DropBecause::Record(member()).into(),
        DropBecause::Unsigned(member()).into(),
        DropBecause::Flood.into(),
        GossipRefusal::Unreadable("its end".into()),
        GossipRefusal::Forged(SealError::Signature),
        GossipRefusal::OtherStart,
        GossipRefusal::TooMany,
    ]
}

pub(crate) fn join_refusals() -> Vec<JoinRefusal> {
    vec![
        JoinRefusal::Version(2),
        JoinRefusal::NotMember,
        JoinRefusal::Proof,
        JoinRefusal::UnknownToken,
        JoinRefusal::Expired,
        JoinRefusal::Revoked,
        JoinRefusal::UsedUp,
        JoinRefusal::NameTaken(name("nas")),
        JoinRefusal::Busy,
        JoinRefusal::Failed("its disk is full".into()),
        JoinRefusal::Other("the moon is full".into()),
        JoinRefusal::Out(OutBecause::Removed),
        JoinRefusal::Out(OutBecause::Left),
        JoinRefusal::Out(OutBecause::Evicted),
    ]
}

#[test]
fn what_keeps_an_agent_from_its_work_says_what_is_wrong_and_what_helps() {
    for plight in plights() {
        let (what, next) = (plight.what(), plight.next());
        assert!(!what.is_empty() && !what.contains('\n'), "{what:?}");
        assert_eq!(next.is_none(), plight == Plight::Other, "{what}: {next:?}");
    }
}

#[test]
fn every_refusal_has_a_listed_code_and_one_line_of_words() {
    let check = |kind: &str, refusals: Vec<&dyn Coded>| {
        let codes: BTreeSet<String> = refusals.iter().map(|refusal| refusal.code().to_owned()).collect();
        assert_eq!(codes, listed(kind), "docs/REASONS.md lists the reasons of {kind}");
        for words in refusals.iter().map(|refusal| refusal.to_string()) {
            assert!(!words.is_empty() && !words.contains('\n') && !words.ends_with('.'), "{words:?}");
        }
    };
    check("Refusal", refusals().iter().map(|refusal| refusal as &dyn Coded).collect());
    check("JoinRefusal", join_refusals().iter().map(|refusal| refusal as &dyn Coded).collect());
    check("GossipRefusal", gossip_refusals().iter().map(|refusal| refusal as &dyn Coded).collect());
    let mut expected = declared_in(include_str!("gossip.rs"), "GossipRefusal");
    // A frame stands under what the firewall has against it.
    assert!(expected.remove("frame"));
    expected.extend(declared_in(include_str!("../firewall.rs"), "DropBecause"));
    assert_eq!(expected, listed("GossipRefusal"));
    let mut expected = declared_in(include_str!("../wire/rpc.rs"), "Refusal");
    // What the hard state refuses stands under its own codes.
    assert!(expected.remove("state"));
    expected.extend(declared_in(include_str!("../session/refused.rs"), "Refused"));
    assert_eq!(expected, listed("Refusal"));
    assert_eq!(declared_in(include_str!("../trust/join.rs"), "JoinRefusal"), listed("JoinRefusal"));
}
