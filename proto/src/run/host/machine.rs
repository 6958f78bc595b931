//! What a host knows of one machine of its own: what its shim said last, how it ended, what failed, and
//! whether something is being done for it. Nothing here decides what comes next.

use std::collections::BTreeSet;

use super::{Lies, Life, Told};
use crate::{
    id::{Epoch, Name},
    session::{
        Phase,
        reconcile::{self, Action, Failed, Forbidden, Image, Seen, Settings, ShimProcess},
    },
    time::Moment,
};

/// A shim that answers.
#[derive(Clone, Debug)]
struct Living {
    told: Told,
    /// When it was first heard here: a shim may not say since when it runs.
    heard: Moment,
}

/// Something that may run and does not answer.
#[derive(Clone, Debug)]
struct Unseen {
    since: Moment,
    tried: Moment,
    because: String,
}

/// What is being done for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy {
    /// The order's number.
    pub number: u64,
    /// Whether an agent that ends waits for it.
    pub awaited: bool,
    /// The removal that it tells the coordinator of.
    pub reports: Option<Epoch>,
}

impl Busy {
    /// Begins an order.
    pub fn with(number: u64, action: &Action) -> Busy {
        // What is cut off here leaves something half made; everything else is asked or looked for again.
        let awaited = matches!(action, Action::Launch { .. } | Action::Remove(_));
        let reports = match action {
            Action::ReportDropped(epoch) => Some(*epoch),
            _ => None,
        };
        Busy { number, awaited, reports }
    }
}

/// What a host knows of one machine of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    living: Option<Living>,
    /// Stands above everything else: nobody knows whether it runs.
    unseen: Option<Unseen>,
    /// Services whose checks pass, while a shim answers.
    pub ready: BTreeSet<Name>,
    /// QEMU's last end, already counted.
    ended: Option<ShimProcess>,
    /// The shim of that end.
    counted: Option<Life>,
    /// What it was launched with, as far as anybody knows.
    pub launched: Option<Settings>,
    /// How often a person had asked for its start.
    starts: Option<u64>,
    /// The order that is being carried out.
    pub busy: Option<Busy>,
    /// How often in a row QEMU ended unasked.
    ends: u32,
    /// The incarnation that the coordinator allowed to start.
    pub granted: Option<Epoch>,
    /// The action that failed last.
    pub failed: Option<Failed>,
    /// What was said of it last.
    pub phase: Option<Phase>,
}

impl Machine {
    /// Tells whether nothing of it is known to be here.
    pub fn is_gone(&self) -> bool {
        self.launched.is_none() && self.living.is_none() && self.unseen.is_none() && self.busy.is_none()
    }

    /// Tells whether this shim is the one that answers.
    pub fn lives(&self, life: Life) -> bool {
        self.living.as_ref().is_some_and(|living| living.told.life == life)
    }

    /// Takes note of what lies on the disk. An intent that cannot be read was one, and a disk was made for
    /// one: of which incarnation, is known from before, or its last process tells, or the share.
    pub fn note_disk(&mut self, lies: Lies, presumed: impl FnOnce() -> Option<Settings>) {
        let last = |epoch: Option<Epoch>| epoch.map(Settings::unknown);
        self.launched = match lies {
            Lies::Nothing => None,
            Lies::Launched(settings) => Some(settings),
            Lies::Unclear(epoch) => self.launched.or_else(|| last(epoch)).or_else(presumed),
        };
    }

    /// A shim answers for it from now on.
    pub fn follow(&mut self, settings: Settings, told: Told, now: Moment) {
        self.launched = Some(settings);
        self.living = Some(Living { told, heard: now });
        (self.unseen, self.ended) = (None, None);
        (self.failed, self.granted) = (None, None);
    }

    /// Its shim says something new.
    pub fn hear(&mut self, told: Told) {
        if let Some(living) = &mut self.living {
            living.told = told;
        }
    }

    /// A check passed or failed.
    pub fn note_probe(&mut self, service: Name, passed: bool) {
        if passed {
            self.ready.insert(service);
        } else {
            self.ready.remove(&service);
        }
    }

    /// Takes note of QEMU's end, once.
    pub fn note_end(&mut self, told: &Told, now: Moment) {
        let Some(ending) = &told.ended else { return };
        let heard = self.living.take().map(|living| living.heard);
        self.unseen = None;
        let counted = self.counted.replace(told.life) == Some(told.life);
        if counted && self.ended.is_some() {
            return;
        }
        let since = told.began.or(heard).filter(|_| told.runs);
        if !ending.asked && !counted {
            self.ends = reconcile::ends(self.ends, since.map_or(0, |since| now.since_ms(since)));
        }
        let (asked, clean, because) = (ending.asked, ending.clean, ending.because.clone());
        self.ended = Some(ShimProcess::Ended { at: now, asked, clean, because });
    }

    /// It is dead, however it died.
    pub fn note_dead(&mut self, last: Option<&Told>, now: Moment) {
        (self.living, self.unseen) = (None, None);
        if let Some(last) = last {
            self.note_end(last, now);
        }
    }

    /// It was stopped: whatever failed before is forgotten, and its end counts as asked for.
    pub fn note_stopped(&mut self, last: Option<&Told>, now: Moment) {
        self.note_dead(last, now);
        (self.failed, self.ends) = (None, 0);
        self.ended = Some(asked_for(self.ended.take(), now));
    }

    /// It may run: it is looked for until it answers or is known to be dead.
    pub fn lose_sight(&mut self, because: String, now: Moment) {
        self.living = None;
        let since = self.unseen.take().map_or(now, |unseen| unseen.since);
        self.unseen = Some(Unseen { since, tried: now, because });
    }

    /// A person asks for its start: whatever failed before is forgotten.
    pub fn start_anew(&mut self, starts: u64, now: Moment) {
        if self.starts.replace(starts).is_none_or(|before| before == starts) {
            return;
        }
        (self.failed, self.ends) = (None, 0);
        self.ended = self.ended.take().map(|ended| asked_for(Some(ended), now));
    }

    /// Notes that an action failed.
    pub fn fail(&mut self, because: String, now: Moment) {
        let times = self.failed.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
        self.failed = Some(Failed { at: now, times, because });
    }

    /// Gives what `reconcile` is to know of it; `forbidden`: why it is not to run here.
    pub fn seen(&self, image: Image, forbidden: Option<Forbidden>) -> Seen {
        Seen {
            busy: self.busy.is_some(),
            image,
            launched: self.launched,
            shim: self.shim(),
            ends: self.ends,
            granted: self.granted,
            failed: self.failed.clone(),
            forbidden,
        }
    }

    fn shim(&self) -> ShimProcess {
        if let Some(Unseen { since, tried, because }) = self.unseen.clone() {
            return ShimProcess::Unseen { since, tried, because };
        }
        match &self.living {
            Some(Living { told, heard }) if told.runs => ShimProcess::Running {
                since: told.began.unwrap_or(*heard),
                booted: told.booted,
                v6: told.v6,
                setup: told.setup.clone(),
                ready: self.ready.clone(),
                paused: told.paused.clone(),
            },
            Some(living) => ShimProcess::Starting { since: living.heard },
            None => self.ended.clone().unwrap_or_default(),
        }
    }

    /// Gives the incarnation that its directory is of, as far as anybody knows.
    pub fn epoch(&self, presumed: Option<Settings>) -> Epoch {
        self.launched.or(presumed).map(|settings| settings.epoch).unwrap_or_default()
    }
}

/// Marks an end that has happened as asked for.
fn asked_for(ended: Option<ShimProcess>, now: Moment) -> ShimProcess {
    match ended {
        Some(ShimProcess::Ended { at, clean, because, .. }) => {
            ShimProcess::Ended { at, asked: true, clean, because }
        }
        _ => ShimProcess::Ended { at: now, asked: true, clean: true, because: "stopped".into() },
    }
}
