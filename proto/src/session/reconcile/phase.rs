//! What a host says of one machine: a phase of its life and, when that is not enough, why.

use std::collections::BTreeSet;

use super::{Failed, Forbidden, Image, Seen, Settings, Setup, ShimProcess, back_off_ms, failing};
use crate::{
    id::Name,
    limits::UNSEEN_WITHIN_MS,
    reasons::Because,
    session::{MachineSpec, Phase},
    time::Moment,
    topology::{Restart, Service},
};

/// A guest that is silent for so long is told: slow ones exist, but so do those that panicked.
const SILENT_MS: u64 = 60_000;

/// Gives the phase of a machine. `waits` is what `order::waits_for` says, `now` only matters for the
/// grace of a service's check.
pub fn phase(spec: &MachineSpec, seen: &Seen, waits: &[Name], now: Moment) -> (Phase, Option<Because>) {
    let stale = seen.launched.is_some_and(|launched| launched.epoch < spec.epoch);
    if stale {
        return (Phase::Waiting, Some(Because::OlderRemoved));
    }
    let forbidden = seen.forbidden.filter(|_| spec.run);
    let changed = forbidden.is_none() && seen.launched.is_some_and(|launched| launched != Settings::of(spec));
    match &seen.shim {
        ShimProcess::Running { .. } if forbidden == Some(Forbidden::Lan) => {
            (Phase::Running, Some(Because::LanForbidden))
        }
        ShimProcess::Running { .. } if changed && spec.run => (Phase::Running, Some(Because::Restarting)),
        ShimProcess::Running { paused: Some(seen), .. } if spec.run => {
            (Phase::Paused, Some(Because::Paused { seen: seen.clone() }))
        }
        ShimProcess::Running { since, booted, setup, ready, .. } => {
            let ran_ms = now.since_ms(*since);
            if !spec.run {
                (Phase::Running, Some(Because::Stopping))
            } else if *booted {
                booted_guest(spec, ran_ms, setup, ready)
            } else {
                (Phase::Running, (ran_ms >= SILENT_MS).then_some(Because::Silent))
            }
        }
        ShimProcess::Starting { .. } => (Phase::Starting, None),
        ShimProcess::Unseen { because, .. } => (Phase::Running, Some(unseen(spec, seen, because))),
        _ if forbidden.is_some() => (Phase::Waiting, forbidden.map(Forbidden::because)),
        _ if !spec.run => (Phase::Stopped, Some(Because::StoppedByUser)),
        ShimProcess::Ended { asked: false, clean, because, .. } => ended(spec, seen, waits, *clean, because),
        ShimProcess::None if seen.launched.is_none() && seen.image == Image::Complete => {
            first(spec, seen, waits)
        }
        _ if seen.image == Image::Complete && !waits.is_empty() => (Phase::Waiting, Some(needs(waits))),
        _ if seen.failed.is_some() || seen.image != Image::Complete => unstarted(seen),
        _ => (Phase::Starting, None),
    }
}

/// Gives the moment at which time alone changes what [`phase`] says.
pub fn phase_due(spec: &MachineSpec, seen: &Seen) -> Option<Moment> {
    match &seen.shim {
        ShimProcess::Running { since, booted: false, .. } => Some(since.plus_ms(SILENT_MS)),
        ShimProcess::Running { since, ready, .. } => {
            let (_, service) = missing(spec, ready)?;
            Some(since.plus_ms(service.ready.as_ref().map_or(0, |check| check.grace_ms)))
        }
        _ => None,
    }
}

/// Finds the first service that is checked and not ready. One without a check is ready with its machine.
fn missing<'a>(spec: &'a MachineSpec, ready: &BTreeSet<Name>) -> Option<(&'a Name, &'a Service)> {
    spec.services.iter().find(|(name, service)| service.ready.is_some() && !ready.contains(*name))
}

/// It may run: nobody may take it for stopped.
fn unseen(spec: &MachineSpec, seen: &Seen, because: &str) -> Because {
    match &seen.failed {
        Some(failed) if !spec.run => {
            let (attempt, after_s) = next(failed.times);
            Because::StopFailed { seen: failed.because.clone(), attempt, after_s }
        }
        None if !spec.run => Because::StoppingUnseen { seen: because.to_owned() },
        _ => Because::Unseen { seen: because.to_owned(), within_min: UNSEEN_WITHIN_MS / 60_000 },
    }
}

fn needs(waits: &[Name]) -> Because {
    Because::Needs { groups: waits.to_vec() }
}

/// The image is here, the first start is not done: order, then the coordinator's word, then work.
fn first(spec: &MachineSpec, seen: &Seen, waits: &[Name]) -> (Phase, Option<Because>) {
    if !waits.is_empty() {
        return (Phase::Waiting, Some(needs(waits)));
    }
    if seen.granted != Some(spec.epoch) {
        let failed = seen.failed.as_ref().map(|failed| failed.because.clone());
        return (Phase::Waiting, Some(Because::AsksForStart { failed }));
    }
    if seen.failed.is_some() { unstarted(seen) } else { (Phase::Starting, None) }
}

/// Setup first: a server that the image starts by itself is not yet the one that the topology wants.
fn booted_guest(
    spec: &MachineSpec,
    ran_ms: u64,
    setup: &Setup,
    ready: &BTreeSet<Name>,
) -> (Phase, Option<Because>) {
    match setup {
        Setup::Pending => return (Phase::Booted, Some(Because::SetupPending)),
        Setup::Failed(seen) => return (Phase::Failed, Some(Because::SetupFailed { seen: seen.clone() })),
        Setup::Done => {}
    }
    let Some((name, Service { port, ready: check, .. })) = missing(spec, ready) else {
        return (Phase::Ready, None);
    };
    let grace_ms = check.as_ref().map_or(0, |check| check.grace_ms);
    let service = name.clone();
    let why = if ran_ms >= grace_ms {
        Because::NoAnswer { service, port: *port, after_s: grace_ms / 1000 }
    } else {
        Because::NotReady { service }
    };
    (Phase::Booted, Some(why))
}

fn ended(
    spec: &MachineSpec,
    seen: &Seen,
    waits: &[Name],
    clean: bool,
    because: &str,
) -> (Phase, Option<Because>) {
    let how = because.to_owned();
    match (spec.restart, clean) {
        (Restart::Never | Restart::OnFailure, true) => {
            (Phase::Stopped, Some(Because::EndedForGood { seen: how }))
        }
        (Restart::Never, false) => (Phase::Failed, Some(Because::EndedForGood { seen: how })),
        _ if seen.image == Image::Complete && !waits.is_empty() => {
            (Phase::Waiting, Some(Because::EndedNeeds { seen: how, groups: waits.to_vec() }))
        }
        _ if seen.failed.is_some() => unstarted(seen),
        _ => {
            let (attempt, after_s) = next(seen.ends);
            (again(seen.ends), Some(Because::Ended { seen: how, attempt, after_s }))
        }
    }
}

/// An action failed, or the image is not here.
fn unstarted(seen: &Seen) -> (Phase, Option<Because>) {
    let reason = seen.failed.as_ref().map(|Failed { times, because, .. }| {
        let (attempt, after_s) = next(*times);
        Because::Unstarted { seen: because.clone(), attempt, after_s }
    });
    let phase = match (&seen.failed, seen.image) {
        (Some(failed), _) if failing(failed.times) => Phase::Failed,
        (_, Image::Complete) => Phase::Starting,
        _ => Phase::Fetching,
    };
    // Tens are enough for people, and each change is a gossip record.
    let progress = match seen.image {
        Image::Fetching { percent } => Some(Because::Fetching { percent: percent / 10 * 10 }),
        _ => None,
    };
    (phase, reason.or(progress))
}

fn again(times: u32) -> Phase {
    if failing(times) { Phase::Failed } else { Phase::Starting }
}

/// Gives the number of the next try, and the seconds before it.
fn next(times: u32) -> (u32, u64) {
    (times.saturating_add(1), back_off_ms(times) / 1000)
}
