//! What a session is made of, everything in it, as it travels and is stored.

use std::collections::{BTreeMap, BTreeSet};

use super::golden::Sample;
use crate::{
    id::{Digest, Epoch, Generation, HostId, MachineName, Name, SessionId},
    level::Level,
    reasons::{Because, Cause, Hindrance, Unchosen},
    seal::Seed,
    session::{
        Change, ChangeAction, Charge, Command, Decision, Directory, Drop, GroupEntry, Guard, How,
        MachineEntry, MachineFile, MachineReport, MachineSpec, Made, Mandate, Obstacle, Phase, Placement,
        Plan, Prefix, Proposal, Rejection, Replace, Share, SignedMandate, State, Voices,
    },
    time::Timestamp,
    topology::{
        Content, Contents, Egress, Failover, FileSpec, Group, ImageRef, Intent, Place, Probe, Protocol,
        Publish, Ready, Restart, Service, Topology,
    },
    wire::codec::{Form, from_bytes, to_bytes},
};

pub(super) const SESSION: SessionId = SessionId([7; 16]);

pub(super) fn samples() -> Vec<Sample> {
    let hosts = [host(1), host(2)].into();
    vec![
        Sample::message("share.whole", share()),
        Sample::message("share.egress", share_with_egress()),
        Sample::message("share.publish", share_with_publish()),
        Sample::message("share.udp", share_with_udp()),
        Sample::message("share.signed", Share { mandate: Some(signed()), ..share() }),
        Sample::bare("mandate.two", to_bytes(&mandate()), |bytes| {
            let mandate: Mandate = from_bytes(bytes, usize::MAX, Form::Canonical)?;
            Ok(to_bytes(&mandate))
        }),
        Sample::message("voices.two", Voices { hosts }),
        Sample::message("voices.none", Voices::default()),
        made(),
    ]
    .into_iter()
    .chain(commands())
    .collect()
}

/// What stands in the log of voters, which has a form of its own around it.
fn commands() -> impl Iterator<Item = Sample> {
    let (machine, host, epoch) = (|| machine("web-1"), host(1), Epoch(3));
    let commands = [
        (
            "create",
            Command::Create { id: SESSION, name: name("shop"), stamp: Timestamp(1), ssh_seed: [9; 32] },
        ),
        ("apply", Command::Apply { intent: intent(), plan: plan(), replace: replace() }),
        ("apply-egress", Command::Apply { intent: intent_with_egress(), plan: plan(), replace: replace() }),
        ("apply-udp", Command::Apply { intent: intent_with_udp(), plan: plan(), replace: replace() }),
        ("apply-publish", Command::Apply { intent: intent_with_publish(), plan: plan(), replace: replace() }),
        ("grant", Command::Grant { machine: machine(), host, epoch }),
        ("wish", Command::Wish { machine: machine(), run: true }),
        ("dropped", Command::Dropped { machine: machine(), host, epoch }),
        ("end", Command::End),
        ("keep", Command::Keep(contents())),
        ("raise", Command::Raise { level: Level::from(2) }),
        ("out", Command::Out { host }),
        ("signed-end", Command::Signed { mandate: signed(), decision: Decision::End }),
        (
            "signed-wish",
            Command::Signed { mandate: signed(), decision: Decision::Wish { machine: machine(), run: true } },
        ),
        (
            "signed-apply",
            Command::Signed {
                mandate: signed(),
                decision: Decision::Apply { intent: intent(), plan: plan(), replace: replace() },
            },
        ),
    ];
    commands.into_iter().map(|(name, command)| {
        Sample::bare(format!("command.{name}"), to_bytes(&command), |bytes| {
            let command: Command = from_bytes(bytes, usize::MAX, Form::Sound)?;
            Ok(to_bytes(&command))
        })
    })
}

/// Digests of what a guest was told: with another one, a disk would be taken for one that was made otherwise.
fn made() -> Sample {
    let written = |intent: &Intent| {
        let groups = intent.topology.groups.iter();
        to_bytes(&groups.map(|(name, group)| Made::of(intent, name, group)).collect::<Vec<_>>())
    };
    Sample::closed("made.of", written(&intent()), move |bytes| {
        let made: Vec<Made> = from_bytes(bytes, usize::MAX, Form::Sound)?;
        Ok(to_bytes(&made))
    })
}

pub(super) fn host(number: u8) -> HostId {
    HostId([number; 32])
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn machine(text: &str) -> MachineName {
    text.parse().unwrap()
}

pub(super) fn contents() -> Contents {
    let mut contents = Contents::default();
    contents.add(b"port = 80\n");
    contents.add(b"key = \"secret\"\n");
    contents
}

fn content() -> Content {
    Content::of(b"port = 80\n")
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn services() -> BTreeMap<Name, Service> {
    let ready = |probe| Some(Ready { probe, interval_ms: 2000, grace_ms: 60_000 });
    [
        (name("http"), Service { ready: ready(Probe::Http("/health".into())), ..Service::at(80) }),
        (name("tcp"), Service { ready: ready(Probe::Tcp), ..Service::at(8080) }),
        (name("plain"), Service::at(9000)),
    ]
    .into()
}

fn group() -> Group {
    let file = |owner: Option<&str>| FileSpec {
        source: "app.toml".into(),
        mode: 0o644,
        owner: owner.map(str::to_owned),
    };
    Group {
        image: ImageRef::Named("debian:12".into()),
        cpus: 2,
        memory_mib: 512,
        disk_mib: Some(4096),
        count: 2,
        role: Some("front".into()),
        needs: [name("db")].into(),
        failover: Failover::Restart,
        restart: Restart::Always,
        place: Place {
            spread_host: true,
            tags: texts(&[("room", "attic")]),
            hosts: [name("nas")].into(),
            near: [name("db")].into(),
            apart: [name("log")].into(),
        },
        setup: vec!["apt-get update".into()],
        files: [("/etc/app.toml".into(), file(Some("app:app"))), ("/etc/plain".into(), file(None))].into(),
        env: texts(&[("MODE", "live")]),
        ssh_keys: vec!["~/.ssh/id_ed25519.pub".into()],
        user: Some(name("debian")),
        services: services(),
        egress: Egress::None,
    }
}

pub(super) fn intent() -> Intent {
    let plain = |restart| Group {
        image: ImageRef::Pinned(Digest([4; 32])),
        disk_mib: None,
        role: None,
        needs: BTreeSet::new(),
        failover: Failover::Hold,
        restart,
        place: Place::default(),
        user: None,
        ..group()
    };
    let groups = [
        (name("web"), group()),
        (name("db"), plain(Restart::OnFailure)),
        (name("log"), plain(Restart::Never)),
    ];
    Intent {
        topology: Topology { session: name("shop"), groups: groups.into() },
        files: [("app.toml".into(), content())].into(),
        ssh_keys: [(name("web"), vec!["ssh-ed25519 AAAA me".into()])].into(),
    }
}

pub(super) fn plan() -> Plan {
    let intent = intent();
    let made = Made::of(&intent, &name("web"), &intent.topology.groups[&name("web")]);
    let placement = |number: u8, image_name, guard, disk_mib| Placement {
        machine: machine(&format!("web-{number}")),
        host: host(number),
        epoch: Epoch(3),
        address: [10, 64, 0, 10 + number].into(),
        mac: [2, 0, 0, 0, 0, number],
        image: Digest([4; 32]),
        image_size: 64 << 20,
        image_name,
        guard,
        because: "most free memory (4096 MiB)".into(),
        disk_mib,
        made: made.clone(),
    };
    Plan {
        generation: Generation(5),
        parent: Generation(4),
        subnet: subnet(),
        placements: vec![
            placement(1, ImageRef::Named("debian:12".into()), Guard::Hold, Some(4096)),
            placement(2, ImageRef::Pinned(Digest([4; 32])), Guard::Lease, None),
        ],
        level: Level::from(2),
    }
}

pub(super) fn subnet() -> Prefix {
    Prefix { base: [10, 64, 0, 0].into(), len: 24 }
}

pub(super) fn replace() -> Replace {
    Replace { all: false, machines: [machine("web-1")].into() }
}

pub(super) fn state() -> State {
    State {
        id: SESSION,
        name: name("shop"),
        stamp: Timestamp(1_790_000_000_000),
        version: 300,
        recovery: 1,
        intent: Some(intent()),
        plan: Some(plan()),
        epochs: [(machine("web-1"), Epoch(3))].into(),
        granted: [(machine("web-1"), Epoch(3))].into(),
        addresses: [(machine("web-1"), [10, 64, 0, 11].into())].into(),
        stopped: [machine("web-2")].into(),
        starts: [(machine("web-1"), 2)].into(),
        drops: [(machine("old-1"), vec![Drop { host: host(1), epoch: Epoch(2) }])].into(),
        ended: false,
        ssh_seed: [9; 32],
        contents: contents(),
        level: Level::from(2),
        out: BTreeSet::new(),
        mandate: None,
    }
}

/// One of whose hosts is out for good.
pub(super) fn state_without_a_host() -> State {
    State { out: [host(2)].into(), ..state() }
}

/// What an operator signed: a group of two, one of which does not run and one of which was made anew.
pub(super) fn mandate() -> Mandate {
    let charge = Charge {
        definition: Digest([1; 32]),
        count: 2,
        images: vec![Digest([2; 32]), Digest([4; 32])],
        disk_mib: Some(1024),
    };
    Mandate {
        session: SESSION,
        number: 2,
        parent: Some(Digest([3; 32])),
        groups: [(name("web"), charge)].into(),
        stopped: [machine("web-2")].into(),
        replaced: [(machine("web-1"), Epoch(2))].into(),
        ended: false,
    }
}

pub(super) fn signed() -> SignedMandate {
    mandate().sign(&Seed([1; 32]))
}

pub(super) fn share() -> Share {
    let entry = |number: u8, guard, user: Option<&str>| MachineEntry {
        machine: machine(&format!("web-{number}")),
        host: host(number),
        epoch: Epoch(3),
        address: [10, 64, 0, 10 + number].into(),
        guard,
        user: user.map(name),
        run: true,
    };
    let group = GroupEntry {
        services: [(name("http"), 80)].into(),
        http: [name("http")].into(),
        needs: [name("db")].into(),
        machines: vec![entry(1, Guard::Hold, Some("debian")), entry(2, Guard::Lease, None)],
        publish: BTreeMap::new(),
        udp: BTreeSet::new(),
    };
    Share {
        session: SESSION,
        name: name("shop"),
        stamp: Timestamp(1_790_000_000_000),
        recovery: 1,
        version: 300,
        generation: Generation(5),
        ended: false,
        directory: Directory { subnet: subnet(), groups: [(name("web"), group)].into() },
        machines: vec![
            spec("web-1", Guard::Hold, Restart::Always, Failover::Restart),
            spec("web-2", Guard::Lease, Restart::OnFailure, Failover::Hold),
            spec("web-3", Guard::Hold, Restart::Never, Failover::Hold),
        ],
        drops: vec![(machine("old-1"), Epoch(2))],
        ssh_seed: [9; 32],
        level: Level::from(2),
        mandate: None,
    }
}

/// Each machine may go somewhere else.
pub(super) fn share_with_egress() -> Share {
    let mut share = share();
    for (spec, egress) in share.machines.iter_mut().zip([Egress::None, Egress::Internet, Egress::Lan]) {
        spec.egress = egress;
    }
    share
}

/// Each group may go somewhere else.
fn publish() -> Publish {
    Publish { lan: 8080, on: [name("attic"), name("nas")].into() }
}

fn share_with_publish() -> Share {
    let mut share = share();
    share.directory.groups.values_mut().for_each(|group| group.publish = [(name("http"), publish())].into());
    share
}

fn share_with_udp() -> Share {
    let mut share = share();
    share.directory.groups.values_mut().for_each(|group| group.udp = [name("http")].into());
    for spec in &mut share.machines {
        spec.services = [(name("dns"), dns())].into();
    }
    share
}

fn dns() -> Service {
    Service { protocol: Protocol::Udp, ..Service::at(53) }
}

fn intent_with_udp() -> Intent {
    let mut intent = intent();
    intent.topology.groups.values_mut().for_each(|group| group.services = [(name("dns"), dns())].into());
    intent
}

fn intent_with_publish() -> Intent {
    let mut intent = intent();
    for group in intent.topology.groups.values_mut() {
        group.services.values_mut().for_each(|service| service.publish = Some(publish()));
    }
    intent
}

pub(super) fn intent_with_egress() -> Intent {
    let mut intent = intent();
    let all = [Egress::Internet, Egress::Lan, Egress::None];
    for (group, egress) in intent.topology.groups.values_mut().zip(all) {
        group.egress = egress;
    }
    intent
}

fn spec(text: &str, guard: Guard, restart: Restart, failover: Failover) -> MachineSpec {
    let file = |owner: Option<&str>| MachineFile {
        path: "/etc/app.toml".into(),
        mode: 0o644,
        owner: owner.map(str::to_owned),
        content: content(),
    };
    MachineSpec {
        machine: machine(text),
        epoch: Epoch(3),
        run: true,
        starts: 2,
        image: Digest([4; 32]),
        image_size: 64 << 20,
        cpus: 2,
        memory_mib: 512,
        disk_mib: Some(4096),
        address: [10, 64, 0, 11].into(),
        mac: [2, 0, 0, 0, 0, 1],
        needs: [name("db")].into(),
        guard,
        restart,
        failover,
        services: services(),
        setup: vec!["apt-get update".into()],
        files: vec![file(Some("app:app")), file(None)],
        env: texts(&[("MODE", "live")]),
        ssh_keys: vec!["ssh-ed25519 AAAA me".into()],
        user: Some(name("debian")),
        host_key_seed: [8; 32],
        egress: Egress::None,
    }
}

pub(super) fn proposal() -> Proposal {
    let change = |action, how| Change {
        machine: machine("web-1"),
        action,
        how,
        host: host(1),
        because: "web wants 1 now".into(),
        why: Some(Cause::FewerWanted { count: 1 }),
    };
    Proposal {
        plan: Some(plan()),
        changes: vec![
            change(ChangeAction::Create, None),
            change(ChangeAction::Change, Some(How::InPlace)),
            change(ChangeAction::Change, Some(How::Replace)),
            change(ChangeAction::Remove, None),
            change(ChangeAction::Keep, None),
        ],
        rejected: vec![Rejection::new(machine("web-1"), host(2), Unchosen::Down)],
        obstacles: vec![Obstacle::new(machine("web-2"), Hindrance::NoHosts)],
        unasked: vec![
            change(ChangeAction::Create, None),
            change(ChangeAction::Change, Some(How::InPlace)),
            change(ChangeAction::Change, Some(How::Replace)),
            change(ChangeAction::Remove, None),
            change(ChangeAction::Keep, None),
        ],
        fetch: vec![(host(1), Digest([4; 32]), 64 << 20)],
        notes: vec!["guests run slowly".into()],
    }
}

/// A report of each phase.
pub(super) fn reports() -> Vec<MachineReport> {
    let phases = [
        Phase::Waiting,
        Phase::Fetching,
        Phase::Starting,
        Phase::Running,
        Phase::Booted,
        Phase::Ready,
        Phase::Paused,
        Phase::Failed,
        Phase::Stopped,
    ];
    let report = |phase| MachineReport::new(machine("web-1"), Epoch(3), (phase, Some(Because::Silent)));
    phases.into_iter().map(report).collect()
}
