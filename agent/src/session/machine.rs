//! What the host's loop keeps of one machine: its shim while one answers, what is known of the last end,
//! what failed. Nothing here acts, and nothing decides what comes next.

use std::collections::BTreeSet;

use proto::{
    id::{Epoch, Name},
    session::{
        Phase,
        reconcile::{self, Failed, Image, Seen, Settings, Shim as ShimState},
    },
    time::Moment,
};
use tokio::task::AbortHandle;

use crate::machine::{Paths, Shim, ShimStatus, process::Process};

/// Something that may run and does not answer.
#[derive(Clone)]
pub struct Unseen {
    since: Moment,
    tried: Moment,
    because: String,
}

/// What the loop keeps of one machine.
#[derive(Default)]
pub struct Machine {
    /// The shim, while it answers.
    pub shim: Option<Shim>,
    /// Stands above everything else: nobody knows whether it runs.
    pub unseen: Option<Unseen>,
    /// When this loop first saw the shim.
    pub started: Moment,
    /// Tasks that live as long as the shim: status follower, readiness checks, network.
    pub tasks: Vec<AbortHandle>,
    /// QEMU's last end, already counted.
    pub ended: Option<ShimState>,
    /// The shim of that end.
    pub counted: Option<Process>,
    /// What it was launched with, as far as anybody knows.
    pub launched: Option<Settings>,
    /// How often a person had asked for its start.
    pub starts: Option<u64>,
    /// Services whose checks pass.
    pub ready: BTreeSet<Name>,
    /// Whether an action for it is being carried out.
    pub busy: bool,
    /// How often in a row QEMU ended unasked.
    pub ends: u32,
    /// The incarnation that the coordinator allowed to start.
    pub granted: Option<Epoch>,
    /// The action that failed last.
    pub failed: Option<Failed>,
    /// What was said of it last.
    pub phase: Option<Phase>,
    /// Whether it was told that it cannot be removed.
    pub told_left: bool,
}

impl Machine {
    /// Ends the tasks that belong to the shim, not the shim.
    pub fn release(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.ready.clear();
    }

    /// Takes note of QEMU's end, once.
    pub fn note_end(&mut self, status: &ShimStatus, now: Moment) {
        let Some(ending) = &status.ended else { return };
        self.release();
        (self.shim, self.unseen) = (None, None);
        if self.counted.replace(status.shim.clone()).as_ref() == Some(&status.shim) {
            return;
        }
        let ran_ms = status.since.map_or(0, |_| now.since_ms(self.began(status)));
        if !ending.asked {
            self.ends = reconcile::ends(self.ends, ran_ms);
        }
        let (asked, clean, because) = (ending.asked, ending.clean, ending.reason.clone());
        self.ended = Some(ShimState::Ended { at: now, asked, clean, because });
    }

    /// Since when it runs, as far as it can be told in this boot.
    fn began(&self, status: &ShimStatus) -> Moment {
        let boot = &status.shim.boot;
        status.began.as_ref().and_then(|began| began.within(boot)).unwrap_or(self.started)
    }

    fn unseen_state(&self) -> ShimState {
        let unseen = self.unseen.clone();
        unseen.map_or(ShimState::None, |Unseen { since, tried, because }| ShimState::Unseen {
            since,
            tried,
            because,
        })
    }

    /// It may run: it is looked for until it answers or is known to be dead.
    pub fn lose_sight(&mut self, because: String, now: Moment) {
        self.release();
        self.shim = None;
        let since = self.unseen.take().map_or(now, |unseen| unseen.since);
        self.unseen = Some(Unseen { since, tried: now, because });
    }

    /// A person asks for its start: whatever failed before is forgotten.
    pub fn start_anew(&mut self, starts: u64, now: Moment) {
        if self.starts.replace(starts).is_none_or(|before| before == starts) {
            return;
        }
        (self.failed, self.ends) = (None, 0);
        if let Some(ended @ ShimState::Ended { .. }) = self.ended.take() {
            self.ended = Some(asked_for(Some(ended), now));
        }
    }

    pub fn seen(&self, image: Image) -> Seen {
        let shim = match (&self.shim, &self.ended) {
            _ if self.unseen.is_some() => self.unseen_state(),
            (Some(shim), _) => {
                let status = shim.status().borrow().clone();
                match status.since {
                    Some(_) => {
                        let since = self.began(&status);
                        let ShimStatus { booted, setup, paused, .. } = status;
                        ShimState::Running { since, booted, setup, ready: self.ready.clone(), paused }
                    }
                    None => ShimState::Starting { since: self.started },
                }
            }
            (None, Some(ended)) => ended.clone(),
            (None, None) => ShimState::None,
        };
        Seen {
            busy: self.busy,
            image,
            launched: self.launched,
            shim,
            ends: self.ends,
            granted: self.granted,
            failed: self.failed.clone(),
        }
    }

    /// Notes that an action failed.
    pub fn fail(&mut self, because: String, now: Moment) {
        let times = self.failed.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
        self.failed = Some(Failed { at: now, times, because });
    }
}

/// Marks an end that has happened as asked for.
pub fn asked_for(ended: Option<ShimState>, now: Moment) -> ShimState {
    match ended {
        Some(ShimState::Ended { at, clean, because, .. }) => {
            ShimState::Ended { at, asked: true, clean, because }
        }
        _ => ShimState::Ended { at: now, asked: true, clean: true, because: "stopped".into() },
    }
}

/// Tells that an intent cannot be read; once, because it is looked at after every action.
pub fn lost(paths: &Paths, because: &str, known: Option<Settings>) {
    if known.is_none() {
        tracing::error!(path = %paths.launch().display(), because, "the intent of a start cannot be read");
    }
}

#[cfg(test)]
mod tests {
    use proto::session::reconcile::Setup;

    use super::*;
    use crate::machine::record::Ending;

    fn ended(pid: i32, asked: bool) -> ShimStatus {
        let ending = Ending { reason: "crash".into(), clean: false, asked, accelerator_doubted: false };
        ShimStatus {
            session: proto::id::SessionId([1; 16]),
            machine: "web-1".parse().unwrap(),
            epoch: Epoch(1),
            shim: Process { pid, start: 1, boot: "b".into() },
            qemu: None,
            since: None,
            began: None,
            booted: false,
            setup: Setup::Done,
            paused: None,
            ended: Some(ending),
        }
    }

    fn shim(machine: &Machine) -> ShimState {
        machine.seen(Image::Complete).shim
    }

    #[test]
    fn what_is_out_of_sight_is_neither_dead_nor_forgotten() {
        let mut machine = Machine::default();
        machine.note_end(&ended(7, true), Moment(1));
        machine.lose_sight("silent".into(), Moment(5));
        machine.lose_sight("still silent".into(), Moment(9));
        let (since, tried) = (Moment(5), Moment(9));
        assert_eq!(shim(&machine), ShimState::Unseen { since, tried, because: "still silent".into() });
        machine.note_end(&ended(8, false), Moment(20));
        assert!(matches!(shim(&machine), ShimState::Ended { asked: false, .. }));
    }

    #[test]
    fn an_end_is_counted_once_however_often_it_is_found() {
        let mut machine = Machine::default();
        for _ in 0..3 {
            machine.note_end(&ended(7, false), Moment(1));
        }
        assert_eq!(machine.ends, 1);
        machine.note_end(&ended(8, false), Moment(1));
        assert_eq!(machine.ends, 2);
    }

    #[test]
    fn a_persons_start_waits_out_no_back_off() {
        let mut machine = Machine::default();
        machine.start_anew(4, Moment(1));
        for pid in 0..6 {
            machine.note_end(&ended(pid, false), Moment(2));
            machine.fail("no space".into(), Moment(2));
        }
        machine.start_anew(4, Moment(3));
        assert_eq!((machine.ends, machine.failed.is_some()), (6, true), "nobody asked again");
        machine.start_anew(5, Moment(3));
        assert_eq!((machine.ends, machine.failed.is_some()), (0, false));
        assert!(
            matches!(shim(&machine), ShimState::Ended { asked: true, .. }),
            "whatever its restart policy"
        );
    }
}
