//! What a host says of one machine: a phase of its life and, when that is not enough, why. Reasons
//! hold no ticking numbers, so that a report changes only when something happened.

use std::collections::BTreeSet;

use super::{Failed, Image, Seen, Settings, Setup, Shim, back_off_ms, failing};
use crate::{
    id::Name,
    limits::UNSEEN_WITHIN_MS,
    session::{MachineSpec, Phase},
    time::Moment,
    topology::{Restart, Service},
};

/// A guest that is silent for so long is told: slow ones exist, but so do those that panicked.
const SILENT_MS: u64 = 60_000;

/// Gives the phase of a machine. `waits` is what `order::waits_for` says, `now` only matters for the
/// grace of a service's check.
pub fn phase(spec: &MachineSpec, seen: &Seen, waits: &[Name], now: Moment) -> (Phase, Option<String>) {
    let stale = seen.launched.is_some_and(|launched| launched.epoch < spec.epoch);
    if stale {
        return (Phase::Waiting, Some("its older incarnation is being removed".into()));
    }
    let changed = seen.launched.is_some_and(|launched| launched != Settings::of(spec));
    match &seen.shim {
        Shim::Running { .. } if changed && spec.run => {
            (Phase::Running, Some("restarting: its settings changed".into()))
        }
        Shim::Running { paused: Some(because), .. } if spec.run => {
            (Phase::Paused, Some(format!("{because}; it goes on as soon as that is mended")))
        }
        Shim::Running { since, booted, setup, ready, .. } => {
            let ran_ms = now.since_ms(*since);
            if !spec.run {
                (Phase::Running, Some("stopping".into()))
            } else if *booted {
                booted_guest(spec, ran_ms, setup, ready)
            } else {
                let silent = "the guest has not answered, a minute after its start; its console shows why";
                (Phase::Running, (ran_ms >= SILENT_MS).then(|| silent.into()))
            }
        }
        Shim::Starting { .. } => (Phase::Starting, None),
        Shim::Unseen { because, .. } => (Phase::Running, Some(unseen(spec, seen, because))),
        _ if !spec.run => (Phase::Stopped, Some("stopped by the user".into())),
        Shim::Ended { asked: false, clean, because, .. } => ended(spec, seen, waits, *clean, because),
        Shim::None if seen.launched.is_none() && seen.image == Image::Complete => first(spec, seen, waits),
        _ if seen.image == Image::Complete && !waits.is_empty() => (Phase::Waiting, Some(needs(waits))),
        _ if seen.failed.is_some() || seen.image != Image::Complete => unstarted(seen),
        _ => (Phase::Starting, None),
    }
}

/// Gives the moment at which time alone changes what [`phase`] says.
pub fn phase_due(spec: &MachineSpec, seen: &Seen) -> Option<Moment> {
    match &seen.shim {
        Shim::Running { since, booted: false, .. } => Some(since.plus_ms(SILENT_MS)),
        Shim::Running { since, ready, .. } => {
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
fn unseen(spec: &MachineSpec, seen: &Seen, because: &str) -> String {
    match &seen.failed {
        Some(failed) if !spec.run => format!("stopping: {}; {}", failed.because, next(failed.times)),
        None if !spec.run => format!("stopping, although unknown to us: {because}"),
        _ => {
            let minutes = UNSEEN_WITHIN_MS / 60_000;
            format!(
                "unknown to us: {because}; looked for again and again; what is silent is started anew after {minutes} min"
            )
        }
    }
}

fn needs(waits: &[Name]) -> String {
    let names: Vec<&str> = waits.iter().map(Name::as_str).collect();
    format!("needs {}, not ready yet", names.join(", "))
}

/// The image is here, the first start is not done: order, then the coordinator's word, then work.
fn first(spec: &MachineSpec, seen: &Seen, waits: &[Name]) -> (Phase, Option<String>) {
    if !waits.is_empty() {
        return (Phase::Waiting, Some(needs(waits)));
    }
    if seen.granted != Some(spec.epoch) {
        let failed = seen.failed.as_ref().map(|failed| format!(": {}", failed.because));
        let reason = format!("asks the coordinator for its first start{}", failed.unwrap_or_default());
        return (Phase::Waiting, Some(reason));
    }
    if seen.failed.is_some() { unstarted(seen) } else { (Phase::Starting, None) }
}

/// Setup first: a server that the image starts by itself is not yet the one that the topology wants.
fn booted_guest(
    spec: &MachineSpec,
    ran_ms: u64,
    setup: &Setup,
    ready: &BTreeSet<Name>,
) -> (Phase, Option<String>) {
    match setup {
        Setup::Pending => return (Phase::Booted, Some("its setup is not done yet".into())),
        Setup::Failed(because) => return (Phase::Failed, Some(because.clone())),
        Setup::Done => {}
    }
    let Some((name, Service { port, ready: check })) = missing(spec, ready) else {
        return (Phase::Ready, None);
    };
    let grace_ms = check.as_ref().map_or(0, |check| check.grace_ms);
    let late = (ran_ms >= grace_ms)
        .then(|| format!("{name} does not answer on port {port}, {} s after the start", grace_ms / 1000));
    (Phase::Booted, Some(late.unwrap_or(format!("{name} is not ready yet"))))
}

fn ended(
    spec: &MachineSpec,
    seen: &Seen,
    waits: &[Name],
    clean: bool,
    because: &str,
) -> (Phase, Option<String>) {
    match (spec.restart, clean) {
        (Restart::Never | Restart::OnFailure, true) => {
            (Phase::Stopped, Some(format!("{because}; not started again (restart policy)")))
        }
        (Restart::Never, false) => {
            (Phase::Failed, Some(format!("{because}; not started again (restart policy)")))
        }
        _ if seen.image == Image::Complete && !waits.is_empty() => {
            (Phase::Waiting, Some(format!("{because}; {}", needs(waits))))
        }
        _ if seen.failed.is_some() => unstarted(seen),
        _ => (again(seen.ends), Some(format!("{because}; {}", next(seen.ends)))),
    }
}

/// An action failed, or the image is not here.
fn unstarted(seen: &Seen) -> (Phase, Option<String>) {
    let reason =
        seen.failed.as_ref().map(|Failed { times, because, .. }| format!("{because}; {}", next(*times)));
    let phase = match (&seen.failed, seen.image) {
        (Some(failed), _) if failing(failed.times) => Phase::Failed,
        (_, Image::Complete) => Phase::Starting,
        _ => Phase::Fetching,
    };
    // Tens are enough for people, and each change is a gossip record.
    let progress = match seen.image {
        Image::Fetching { percent } => Some(format!("{} % of the image is here", percent / 10 * 10)),
        _ => None,
    };
    (phase, reason.or(progress))
}

fn again(times: u32) -> Phase {
    if failing(times) { Phase::Failed } else { Phase::Starting }
}

fn next(times: u32) -> String {
    format!("try {} follows after {} s", times.saturating_add(1), back_off_ms(times) / 1000)
}
