//! The golden bytes of what agents and shims write down and say to each other, in `golden.txt`, and what it may lack,
//! in `golden.fields`. After `UPDATE_GOLDEN=1 cargo test` both have what is new; see `bytes` for what is asked of them.

#[path = "../../../../proto/src/wire/tests/golden/mod.rs"]
mod bytes;

use std::collections::BTreeSet;

use proto::{
    id::{Epoch, SessionId},
    reasons::NoKvm,
    seal::Seed,
    session::{Accelerator, Guard, reconcile::Setup},
    time::{BootMoment, Moment, Timestamp},
    topology::{Failover, Probe, Ready, Restart, Service},
    wire,
};

use super::sample;
use crate::machine::{
    keys::Keys,
    process::Process,
    record::{Ending, Launch, ShimStatus},
    wire::{Counts, ShimAnswer, Wish},
};
use bytes::{Files, Sample};

const FILES: Files = Files(concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine/golden.txt"));

fn samples() -> Vec<Sample> {
    let mut samples = vec![
        Sample::message("keys.one", Keys { login: Seed([4; 32]), host: Seed([5; 32]) }),
        Sample::message("counts.one", Counts { dials: 1, callers: 2, tasks: 3, ..Counts::default() }),
        Sample::message("counts.outside", counts()),
        Sample::message("counts.inside", carried()),
    ];
    samples.extend(launches().into_iter().map(|(name, launch)| Sample::message(name, launch)));
    samples.extend(statuses().into_iter().map(|(name, status)| Sample::message(name, status)));
    samples.extend(wishes().into_iter().map(|(name, wish)| Sample::message(name, wish)));
    samples.extend(answers().into_iter().map(|(name, answer)| Sample::message(name, answer)));
    samples
}

fn launches() -> [(&'static str, Launch); 3] {
    let ready = |probe| Some(Ready { probe, interval_ms: 2000, grace_ms: 60_000 });
    let service = |name: &str, port, ready| (name.parse().unwrap(), Service { ready, ..Service::at(port) });
    let mut full = sample();
    full.qemu.accelerator = Accelerator::Kvm;
    full.qemu.refused = Some("there is no /dev/kvm".into());
    full.qemu.no_kvm = Some(NoKvm::Absent);
    full.spec.disk_mib = Some(4096);
    full.spec.needs = BTreeSet::from(["db".parse().unwrap()]);
    full.spec.user = Some("debian".parse().unwrap());
    full.spec.services = [
        service("http", 80, ready(Probe::Http("/health".into()))),
        service("tcp", 8080, ready(Probe::Tcp)),
        service("plain", 9000, None),
    ]
    .into();
    (full.spec.guard, full.spec.restart, full.spec.failover) =
        (Guard::Lease, Restart::Always, Failover::Restart);
    let mut other = sample();
    other.spec.restart = Restart::OnFailure;
    [("launch.plain", sample()), ("launch.full", full), ("launch.other", other)]
}

fn statuses() -> [(&'static str, ShimStatus); 4] {
    let process = |pid| Process { pid, start: 70_000, boot: "b".into() };
    let ended =
        Ending { reason: "QEMU got signal 9".into(), clean: false, asked: true, accelerator_doubted: true };
    let first = ShimStatus {
        session: SessionId([3; 16]),
        machine: "web-1".parse().unwrap(),
        epoch: Epoch(1),
        shim: process(5001),
        qemu: None,
        since: None,
        began: None,
        booted: false,
        setup: Setup::Pending,
        paused: None,
        ended: None,
        v6: false,
    };
    let runs = ShimStatus {
        qemu: Some(process(5002)),
        since: Some(Timestamp(1_790_000_000_000)),
        began: Some(BootMoment::of("b", Moment(90_000))),
        booted: true,
        setup: Setup::Done,
        paused: Some("its disk is full".into()),
        ..first.clone()
    };
    let setup = Setup::Failed("setup command 2 ended with exit code 1".into());
    let over = ShimStatus { setup, ended: Some(ended), ..runs.clone() };
    let v6 = ShimStatus { v6: true, ..runs.clone() };
    [("status.first", first), ("status.runs", runs), ("status.over", over), ("status.v6", v6)]
}

fn wishes() -> [(&'static str, Wish); 7] {
    [
        ("wish.status", Wish::Status),
        ("wish.launched", Wish::Launched),
        ("wish.stop", Wish::Stop { within_ms: 10_000 }),
        ("wish.dial", Wish::Dial { port: 80 }),
        ("wish.console", Wish::Console),
        ("wish.network", Wish::Network),
        ("wish.counts", Wish::Counts),
    ]
}

fn answers() -> [(&'static str, ShimAnswer); 5] {
    [
        ("answer.granted", ShimAnswer::Granted),
        ("answer.refused", ShimAnswer::Refused),
        ("answer.late", ShimAnswer::Late),
        ("answer.failed", ShimAnswer::Failed("its disk is full".into())),
        ("answer.unknown", ShimAnswer::Unknown),
    ]
}

#[test]
fn every_message_that_was_ever_written_is_read_as_what_it_was() {
    bytes::written(&FILES, &samples());
}

#[test]
fn what_only_a_later_version_has_is_skipped_or_said_and_never_read_as_something_else() {
    bytes::tomorrow(&samples());
}

#[test]
fn a_message_of_an_earlier_version_lacks_fields_and_is_read() {
    bytes::yesterday(&samples());
}

#[test]
fn what_may_be_absent_or_unknown_is_as_recorded() {
    bytes::fields(&FILES, &samples());
}

#[test]
fn every_variant_that_is_known_has_golden_bytes() {
    bytes::complete(&samples());
}

#[test]
fn damaged_messages_end_nobody() {
    bytes::damaged(&samples());
}

fn counts() -> Counts {
    Counts {
        dials: 1,
        callers: 2,
        tasks: 3,
        connections: 4,
        sockets: 5,
        waiting: 6,
        denied: 7,
        full: 8,
        uncarried: 9,
        spoofed: 10,
        malformed: 11,
        ..Counts::default()
    }
}

fn carried() -> Counts {
    Counts {
        sent: 12,
        sent_bytes: 1300,
        received: 14,
        received_bytes: 1500,
        refused: 16,
        misrouted: 17,
        ignored: 18,
        ..counts()
    }
}
