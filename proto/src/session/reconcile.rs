//! What one host does next so that its machines match its share of the plan, and what it says of
//! them. Pure: no clock, no disk, no QEMU. `agent::session::host` gathers `observed`, carries out the
//! actions and calls again; every action may be repeated.
//! At most one action per machine per call, so a crash between calls loses nothing but time.
//!
//! ```text
//! (nothing) -Fetch-> image here -Ask-> granted -Launch-> Starting -> Running -> Ended -Launch (back-off)-> ..
//!           in a drop: any of these -Remove-> (nothing) -ReportDropped-> forgotten
//!           what may run and does not answer: Unseen -Find-> Starting, Running or Ended
//! ```

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{
    backoff::BackOff,
    id::{Epoch, MachineName, Name},
    limits::{
        ASK_AGAIN_MS, BACK_OFF_FIRST_MS, BACK_OFF_LAST_MS, FAILING_AFTER, FIND_AGAIN_MS, START_WITHIN_MS,
        STEADY_AFTER_MS, UNSEEN_WITHIN_MS,
    },
    reasons::Because,
    session::{MachineSpec, Share, order},
    time::Moment,
    topology::{Egress, Restart},
};

mod phase;
pub use phase::{phase, phase_due};

/// What a host sees of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its own machines: those of the share and whatever lies on its disk.
    pub machines: BTreeMap<MachineName, Seen>,
    /// Every machine of the session that is ready now, by the word of the host that owns it.
    pub ready: BTreeSet<MachineName>,
}

/// What a host sees of one machine of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether an action for it is being carried out now: nothing else is begun meanwhile.
    pub busy: bool,
    /// Its image.
    pub image: Image,
    /// What its `launch.json` says; `None` = nothing of it is on the disk.
    pub launched: Option<Settings>,
    /// Its shim.
    pub shim: ShimProcess,
    /// How often in a row QEMU ended without being asked; see [`ends`].
    pub ends: u32,
    /// The incarnation that the coordinator allowed to start, until it was launched.
    pub granted: Option<Epoch>,
    /// The action that failed last, until one succeeds.
    pub failed: Option<Failed>,
    /// Why it is not to run here, if so.
    pub forbidden: Option<Forbidden>,
}

/// Why a machine is not to run on this host, whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// It is to go into the host's own network, where the owner lets none: it neither runs nor starts.
    Lan,
    /// The owner gives the host to no machines: what runs goes on, nothing starts.
    Owner,
    /// The host's certificate does not let it run machines: what runs goes on, nothing starts.
    Member,
}

impl Forbidden {
    fn because(self) -> Because {
        match self {
            Forbidden::Lan => Because::LanForbidden,
            Forbidden::Owner => Because::OwnerForbids,
            Forbidden::Member => Because::MayNotRun,
        }
    }
}

/// How much of an image is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// Nothing, and nobody fetches it.
    #[default]
    Absent,
    /// On its way.
    Fetching {
        /// Per cent that are here.
        percent: u8,
    },
    /// All of it.
    Complete,
}

/// What an incarnation was launched with. A difference that a running QEMU cannot adopt is a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The incarnation.
    pub epoch: Epoch,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the disk in MiB; `None` = the image's own size.
    pub disk_mib: Option<u64>,
    /// Where it may go outside of its session: its shim knows it from the start on.
    pub egress: Egress,
}

/// The process that is the parent of QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ShimProcess {
    /// There is none, and no news of an earlier one.
    #[default]
    None,
    /// It prepares QEMU.
    Starting {
        /// Since when.
        since: Moment,
    },
    /// QEMU runs.
    Running {
        /// Since when.
        since: Moment,
        /// Whether the guest answers.
        booted: bool,
        /// Whether it has its IPv6 address.
        v6: bool,
        /// Whether what the topology asked for is done in it.
        setup: Setup,
        /// Services whose checks pass.
        ready: BTreeSet<Name>,
        /// Why QEMU holds the guest, if it does: its disk cannot be written or read now.
        paused: Option<String>,
    },
    /// A process of it lives and does not answer, or nobody can tell now whether one lives. It counts as
    /// running until it is known to be dead.
    Unseen {
        /// Since when.
        since: Moment,
        /// When it was looked for last.
        tried: Moment,
        /// What was seen, in words.
        because: String,
    },
    /// QEMU ended.
    Ended {
        /// When.
        at: Moment,
        /// Whether [`Action::Stop`] asked for it.
        asked: bool,
        /// Whether the guest shut down in order.
        clean: bool,
        /// Why, in words.
        because: String,
    },
}

/// What became of the files and commands that the topology has for a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub enum Setup {
    /// The guest has not told.
    #[default]
    #[n(0)]
    Pending,
    /// All of it is done, or there is nothing to do.
    #[n(1)]
    Done,
    /// It ended early; why, in words. Nobody tries again: the commands may not be repeatable.
    #[n(2)]
    Failed(#[n(0)] String),
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// When.
    pub at: Moment,
    /// How often in a row.
    pub times: u32,
    /// Why, in words.
    pub because: String,
}

/// What a host does for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get the image of `spec.image` here.
    Fetch,
    /// Ask the coordinator for the first start of this incarnation (`MayStart`).
    Ask(Epoch),
    /// Make the disks that are missing and start the shim. With `after`: QEMU ended, and why.
    Launch {
        /// The incarnation.
        epoch: Epoch,
        /// Why the run before it ended.
        after: Option<String>,
    },
    /// Look for what may run of it and take hold of it. What lives and has not answered for so long that
    /// `patient` is over is ended, so that it can start again.
    Find {
        /// Whether silence is still borne.
        patient: bool,
    },
    /// End QEMU in order, keep the disk, and mark the end as asked for (also one that has happened).
    Stop {
        /// Why, in words.
        because: String,
    },
    /// Kill what runs of the incarnations up to this one, and delete their files.
    Remove(Epoch),
    /// Nothing is left of the incarnations up to this one: tell the coordinator (`Dropped`).
    ReportDropped(Epoch),
    /// Nothing to do before something else happens, or this moment comes.
    Wait {
        /// When to look again, if time alone may change the answer.
        until: Option<Moment>,
    },
}

/// Gives the next action of every machine that is not as it should be.
pub fn reconcile(share: &Share, observed: &Observed, now: Moment) -> Vec<(MachineName, Action)> {
    let unseen = Seen::default();
    let mut actions = BTreeMap::new();
    let seen = |machine: &MachineName| observed.machines.get(machine).unwrap_or(&unseen);
    for spec in &share.machines {
        let waits = order::waits_for(&share.directory, &spec.machine, |m| observed.ready.contains(m));
        if let Some(action) = run(spec, seen(&spec.machine), &waits, now) {
            actions.insert(spec.machine.clone(), action);
        }
    }
    // What must go comes before what shall run.
    for (machine, epoch) in &share.drops {
        actions.insert(machine.clone(), remove(*epoch, seen(machine)));
    }
    actions.retain(|machine, _| !seen(machine).busy);
    let held = actions.into_iter().map(|(machine, action)| {
        let action = hold_back(action, seen(&machine), now);
        (machine, action)
    });
    held.collect()
}

/// Counts the ends in a row: one after a long run is the first again.
pub fn ends(before: u32, ran_ms: u64) -> u32 {
    if ran_ms >= STEADY_AFTER_MS { 1 } else { before.saturating_add(1) }
}

/// Gives the pause before the next try: one second after the first failure, then doubling.
pub fn back_off_ms(times: u32) -> u64 {
    BackOff::new(BACK_OFF_FIRST_MS, BACK_OFF_LAST_MS).after_ms(times)
}

impl Settings {
    /// What an incarnation was launched with of which only its number is known.
    pub fn unknown(epoch: Epoch) -> Settings {
        Settings { epoch, cpus: 0, memory_mib: 0, disk_mib: None, egress: Egress::None }
    }

    /// Gives what a machine is to be launched with.
    pub fn of(spec: &MachineSpec) -> Settings {
        Settings {
            epoch: spec.epoch,
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            disk_mib: spec.disk_mib,
            egress: spec.egress,
        }
    }
}

/// Gives what a machine was presumably launched with whose own word on the disk is lost: while an
/// incarnation must go, nothing newer was started, so it is that one; else it is the one that shall run.
pub fn presumed(share: &Share, machine: &MachineName) -> Option<Settings> {
    let dropped = share.drops.iter().find(|(name, _)| name == machine);
    if let Some((_, epoch)) = dropped {
        return Some(Settings::unknown(*epoch));
    }
    share.machines.iter().find(|spec| spec.machine == *machine).map(Settings::of)
}

fn remove(epoch: Epoch, seen: &Seen) -> Action {
    match (seen.launched, &seen.shim) {
        (Some(settings), _) if settings.epoch <= epoch => Action::Remove(epoch),
        // Its files are gone, its processes are not.
        (None, ShimProcess::Starting { .. } | ShimProcess::Running { .. } | ShimProcess::Unseen { .. }) => {
            Action::Remove(epoch)
        }
        _ => Action::ReportDropped(epoch),
    }
}

fn run(spec: &MachineSpec, seen: &Seen, waits: &[Name], now: Moment) -> Option<Action> {
    match seen.launched {
        // A newer incarnation lies here than the share knows: an old share must not touch it.
        Some(settings) if settings.epoch > spec.epoch => return None,
        Some(settings) if settings.epoch < spec.epoch => {
            return Some(Action::Remove(settings.epoch));
        }
        _ => {}
    }
    match &seen.shim {
        ShimProcess::Starting { since } if now.since_ms(*since) >= START_WITHIN_MS => {
            let because = format!("it did not start within {} s", START_WITHIN_MS / 1000);
            Some(Action::Stop { because })
        }
        ShimProcess::Starting { since } if spec.run => {
            Some(Action::Wait { until: Some(since.plus_ms(START_WITHIN_MS)) })
        }
        ShimProcess::Starting { .. } | ShimProcess::Running { .. } => {
            unwanted(spec, seen).map(|because| Action::Stop { because })
        }
        ShimProcess::Unseen { .. } if !spec.run => Some(Action::Stop { because: "stopped".into() }),
        ShimProcess::Unseen { since, tried, .. } => {
            let due = tried.plus_ms(FIND_AGAIN_MS);
            let patient = now.since_ms(*since) < UNSEEN_WITHIN_MS;
            Some(if now < due { Action::Wait { until: Some(due) } } else { Action::Find { patient } })
        }
        // Marks the end as asked for, so that `machine start` starts it again.
        ShimProcess::Ended { asked: false, .. } if !spec.run => {
            Some(Action::Stop { because: "stopped".into() })
        }
        _ if !spec.run => None,
        ShimProcess::Ended { at, asked: false, clean, because } => {
            let due = at.plus_ms(back_off_ms(seen.ends));
            match spec.restart {
                Restart::Never => None,
                Restart::OnFailure if *clean => None,
                _ if now < due => Some(Action::Wait { until: Some(due) }),
                _ => Some(start(spec, seen, waits, Some(because.clone()))),
            }
        }
        ShimProcess::Ended { .. } => Some(start(spec, seen, waits, None)),
        ShimProcess::None if seen.launched.is_some() => Some(start(spec, seen, waits, None)),
        ShimProcess::None => Some(first_start(spec, seen, waits)),
    }
}

/// Says why a running machine must stop, if it must.
fn unwanted(spec: &MachineSpec, seen: &Seen) -> Option<String> {
    if !spec.run {
        return Some("stopped".into());
    }
    if seen.forbidden == Some(Forbidden::Lan) {
        return Some("the owner of this host lets no machine into the host's network".into());
    }
    // Where nothing may start, what runs is kept as it is.
    let may = seen.forbidden.is_none();
    let changed = may && seen.launched.is_some_and(|launched| launched != Settings::of(spec));
    changed.then(|| "its settings changed".into())
}

/// Starts an incarnation that ran before: its disk is here, nobody else may have it, so nobody is
/// asked. What it needs must be ready all the same: after a power cut everything starts again.
fn start(spec: &MachineSpec, seen: &Seen, waits: &[Name], after: Option<String>) -> Action {
    // Nothing of it was ever made here, whatever was thought to run: nobody has allowed its start yet.
    if seen.launched.is_none() {
        return first_start(spec, seen, waits);
    }
    if seen.forbidden.is_some() {
        return Action::Wait { until: None };
    }
    if let Some(fetch) = fetch(seen) {
        return fetch;
    }
    if !waits.is_empty() {
        return Action::Wait { until: None };
    }
    Action::Launch { epoch: spec.epoch, after }
}

/// Starts an incarnation for the first time: image, then order, then the coordinator's word.
fn first_start(spec: &MachineSpec, seen: &Seen, waits: &[Name]) -> Action {
    if seen.forbidden.is_some() {
        return Action::Wait { until: None };
    }
    if let Some(fetch) = fetch(seen) {
        return fetch;
    }
    if !waits.is_empty() {
        return Action::Wait { until: None };
    }
    if seen.granted == Some(spec.epoch) {
        return Action::Launch { epoch: spec.epoch, after: None };
    }
    Action::Ask(spec.epoch)
}

fn fetch(seen: &Seen) -> Option<Action> {
    match seen.image {
        Image::Absent => Some(Action::Fetch),
        Image::Fetching { .. } => Some(Action::Wait { until: None }),
        Image::Complete => None,
    }
}

/// Holds the next try back after a failed one. Questions are repeated sooner than work: a coordinator
/// that is back must not be left waiting for its hosts.
fn hold_back(action: Action, seen: &Seen, now: Moment) -> Action {
    let Some(failed) = &seen.failed else { return action };
    let pause_ms = match &action {
        Action::Wait { .. } => return action,
        Action::Ask(_) | Action::ReportDropped(_) => back_off_ms(failed.times).min(ASK_AGAIN_MS),
        _ => back_off_ms(failed.times),
    };
    let due = failed.at.plus_ms(pause_ms);
    if now < due { Action::Wait { until: Some(due) } } else { action }
}

/// Tells whether so many failures in a row are a failure for people too.
fn failing(times: u32) -> bool {
    times >= FAILING_AFTER
}

#[cfg(test)]
mod tests;
