//! What one host does for one session: a machine that is told what happens, says what is to be done, and is
//! told how that went. It owns what the host knows of its own machines, of the images that come, and of what
//! it said last. `session::reconcile` is its heart: which action comes next is decided there.
//! Nothing here acts, waits or reads a clock, and nothing here is a handle on anything. Every order of events is
//! legal, late and repeated ones too: what speaks of an order or a life that is over is passed over.
//!
//! ```text
//! Begun -> every machine that lies here or is spoken of is looked for -> reconcile -> orders, reports, Wake
//!                                         Buried -> whatever is here is removed -> Forget
//!                                         Out -> whatever runs is stopped, and its disk stays
//!                                         Ending -> what must not be cut off ends -> Rest
//! ```

mod event;
mod machine;
mod mutants;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use event::{Effect, Ending, Event, Lies, Life, Order, Outcome, Told};
use machine::{Busy, Machine};

use super::{Mutant, Rules};
use crate::{
    facts::Fact,
    id::{Digest, Epoch, MachineName},
    limits::ASK_AGAIN_MS,
    reasons::Why,
    session::{
        MachineReport, MachineSpec, Share, order,
        reconcile::{self, Action, Forbidden, Image, Observed, Seen, Settings},
    },
    time::Moment,
};

/// What this host's owner says of machines, asked whenever something is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Whether they may go into the host's own network (`policy.lan`).
    pub lan: bool,
    /// Whether none may start at all (`policy.machines = false`).
    pub no_machines: bool,
}

/// One host's part in one session.
#[derive(Clone, Debug, Default)]
pub struct Host {
    rules: Rules,
    owner: Owner,
    /// Whether this host's certificate does not let it run machines.
    barred: bool,
    share: Option<Arc<Share>>,
    /// Machines of the session that are ready, whoever has them.
    ready: BTreeSet<MachineName>,
    machines: BTreeMap<MachineName, Machine>,
    /// What lies on the disk, until it was looked for.
    found: Option<BTreeMap<MachineName, Lies>>,
    /// Machines that are still looked for since the agent's start. `None` = it has not started.
    looked_for: Option<BTreeSet<MachineName>>,
    complete: BTreeSet<Digest>,
    arrived: BTreeMap<Digest, u64>,
    /// Fetches that this session asked for.
    fetches: BTreeSet<Digest>,
    /// Removals that the coordinator knows of by now, and since when: its next share is on the way.
    reported: BTreeMap<MachineName, (Epoch, Moment)>,
    /// The share whose routes the network has.
    routed: Option<(u64, u64)>,
    /// What was reported last, and of which version of the share.
    said: Option<(u64, Vec<MachineReport>)>,
    wake: Option<Moment>,
    buried: bool,
    /// Whether this host is out of the mesh: its machines may run elsewhere by now.
    apart: bool,
    ending: bool,
    over: bool,
    orders: u64,
    out: Vec<Effect>,
}

impl Host {
    /// Begins with nothing known.
    pub fn new(rules: Rules, owner: Owner) -> Host {
        Host { rules, owner, ..Host::default() }
    }

    /// Takes note of what happened, and says what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        self.note(event, now);
        self.step(now);
        std::mem::take(&mut self.out)
    }

    fn note(&mut self, event: Event, now: Moment) {
        match event {
            Event::Begun(found) if self.looked_for.is_none() && self.found.is_none() => {
                self.found = Some(found);
            }
            Event::Begun(_) => {}
            Event::Share(share, ready) => {
                let share = if self.apart { at_rest(&share) } else { share };
                (self.share, self.ready) = (Some(share), ready);
            }
            Event::Out => {
                self.apart = true;
                self.share = self.share.take().map(|share| at_rest(&share));
            }
            Event::Ready(ready) => self.ready = ready,
            Event::Barred(barred) => self.barred = barred,
            Event::Images(complete) => self.complete = complete,
            Event::Arrived(arrived) => self.arrived = arrived,
            Event::Buried if !self.buried => {
                self.buried = true;
                // Whatever failed before was something else.
                self.machines.values_mut().for_each(|machine| machine.failed = None);
            }
            Event::Buried => {}
            Event::Told(name, told) => self.told(&name, told, now),
            Event::Silent(name, life, because) => {
                if let Some(machine) = self.machines.get_mut(&name).filter(|machine| machine.lives(life)) {
                    machine.lose_sight(because, now);
                    self.out.push(Effect::Release(name));
                }
            }
            Event::Probed(name, life, service, passed) => {
                if let Some(machine) = self.machines.get_mut(&name).filter(|machine| machine.lives(life)) {
                    machine.note_probe(service, passed);
                }
            }
            Event::Fetched(image, ended) => self.fetched(image, ended, now),
            Event::Done { machine, number, lies, outcome } => {
                if let Some(order) = self.close(&machine, number, lies) {
                    self.done(machine, order, outcome, now);
                }
            }
            Event::Woken => self.wake = None,
            Event::Ending => self.ending = true,
        }
    }

    fn told(&mut self, name: &MachineName, told: Told, now: Moment) {
        let Some(machine) = self.machines.get_mut(name).filter(|machine| machine.lives(told.life)) else {
            return;
        };
        if told.ended.is_none() {
            machine.hear(told);
            return;
        }
        machine.note_end(&told, now);
        self.part(name);
    }

    /// Lets go of a shim that is dead, and of its place in the network.
    fn part(&mut self, name: &MachineName) {
        self.out.push(Effect::Release(name.clone()));
        self.out.push(Effect::Detach(name.clone()));
    }

    fn fetched(&mut self, image: Digest, ended: Result<(), String>, now: Moment) {
        self.fetches.remove(&image);
        if ended.is_ok() {
            self.complete.insert(image);
        }
        let Some(share) = self.share.clone() else { return };
        for spec in share.machines.iter().filter(|spec| spec.image == image) {
            let machine = self.machines.entry(spec.machine.clone()).or_default();
            match &ended {
                Ok(()) => machine.failed = None,
                Err(because) => machine.fail(because.clone(), now),
            }
        }
    }

    /// Ends the order that a machine is busy with, if it is this one.
    fn close(&mut self, name: &MachineName, number: u64, lies: Lies) -> Option<Busy> {
        let presumed = self.presumed(name);
        let machine = self.machines.get_mut(name)?;
        let order = machine.busy.take_if(|busy| busy.number == number)?;
        machine.note_disk(lies, || presumed);
        if let Some(looked_for) = &mut self.looked_for {
            looked_for.remove(name);
        }
        Some(order)
    }

    fn done(&mut self, name: MachineName, order: Busy, outcome: Outcome, now: Moment) {
        let machine = self.machines.entry(name.clone()).or_default();
        match outcome {
            Outcome::Failed(because) => machine.fail(because, now),
            Outcome::Granted(epoch) => (machine.failed, machine.granted) = (None, Some(epoch)),
            Outcome::Launched(settings, told) => self.follow(name, settings, told, now),
            Outcome::Adopted(settings, told) => {
                self.follow(name.clone(), settings, told, now);
                let session = self.share.as_ref().map(|share| share.name.clone());
                self.out.extend(
                    session.map(|s| Effect::Tell(Fact::MachineAdopted { session: s, machine: name })),
                );
            }
            Outcome::Unseen(because) => {
                machine.failed = None;
                machine.lose_sight(because, now);
                self.out.push(Effect::Release(name));
            }
            Outcome::Gone(last) => {
                machine.note_dead(last.as_ref(), now);
                self.part(&name);
            }
            Outcome::Stopped(last) => {
                machine.note_stopped(last.as_ref(), now);
                self.part(&name);
            }
            Outcome::Removed => {
                *machine = Machine::default();
                self.part(&name);
            }
            Outcome::Reported => {
                machine.failed = None;
                self.reported.extend(order.reports.map(|epoch| (name.clone(), (epoch, now))));
                if machine.is_gone() {
                    self.machines.remove(&name);
                }
            }
        }
    }

    fn follow(&mut self, name: MachineName, settings: Settings, told: Told, now: Moment) {
        let machine = self.machines.entry(name.clone()).or_default();
        machine.follow(settings, told.clone(), now);
        if !self.rules.broken(Mutant::KeepsReadiness) {
            machine.ready.clear();
        }
        if told.ended.is_some() {
            machine.note_end(&told, now);
            return self.part(&name);
        }
        self.out.push(Effect::Watch(name.clone()));
        self.out.push(Effect::Attach(name));
    }

    /// Does what is due. Nothing is begun before everything was looked for, because what is not known to run
    /// may run.
    fn step(&mut self, now: Moment) {
        if self.over {
            self.out.clear();
            return;
        }
        if self.ending {
            if !self.machines.values().any(|machine| machine.busy.is_some_and(|busy| busy.awaited)) {
                self.over = true;
                self.out.push(Effect::Rest);
            }
            return;
        }
        let Some(share) = self.share.clone() else { return };
        if let Some(found) = self.found.take() {
            self.look_for(&share, found);
        }
        if self.looked_for.as_ref().is_none_or(|names| !names.is_empty()) {
            return;
        }
        let wake = if self.buried {
            self.clear_away(&share, now)
        } else {
            self.route(&share);
            self.act(&share, now)
        };
        if wake != self.wake && !self.over && !self.rules.broken(Mutant::NeverWakes) {
            self.wake = wake;
            self.out.push(Effect::Wake(wake));
        }
    }

    /// Looks for the machines that an earlier agent left running. The share names machines as well: a
    /// directory may be lost while its machine runs.
    fn look_for(&mut self, share: &Arc<Share>, found: BTreeMap<MachineName, Lies>) {
        let mut names: BTreeSet<MachineName> = found.keys().cloned().collect();
        names.extend(share.machines.iter().map(|spec| spec.machine.clone()));
        names.extend(share.drops.iter().map(|(machine, _)| machine.clone()));
        for name in &names {
            let lies = found.get(name).copied().unwrap_or_default();
            let presumed = self.presumed(name);
            self.machines.entry(name.clone()).or_default().note_disk(lies, || presumed);
        }
        if self.rules.broken(Mutant::ForgetsWhatRuns) {
            names.clear();
        }
        for name in &names {
            self.order(share, name.clone(), Action::Find { patient: true });
        }
        self.looked_for = Some(names);
    }

    fn presumed(&self, name: &MachineName) -> Option<Settings> {
        reconcile::presumed(self.share.as_deref()?, name)
    }

    fn route(&mut self, share: &Arc<Share>) {
        let version = Some((share.recovery, share.version));
        if self.routed != version {
            self.routed = version;
            self.out.push(Effect::Route(share.clone()));
        }
    }

    /// Begins what `reconcile` says, reports, and gives the moment at which time alone may change something.
    fn act(&mut self, share: &Arc<Share>, now: Moment) -> Option<Moment> {
        for spec in &share.machines {
            self.machines.entry(spec.machine.clone()).or_default().start_anew(spec.starts, now);
        }
        self.reported.retain(|name, _| share.drops.iter().any(|(machine, _)| machine == name));
        let mut observed = self.observe(share);
        let bent = mutants::bend(self.rules, share, &mut observed);
        let mut wake = None;
        for (name, action) in reconcile::reconcile(bent.as_ref().unwrap_or(share), &observed, now) {
            match self.held(&name, action, now) {
                Action::Wait { until } => wake = soonest(wake, until),
                Action::Fetch => self.fetch(share, &name),
                action => self.order(share, name, action),
            }
        }
        let observed = self.observe(share);
        soonest(wake, self.report(share, &observed, now))
    }

    /// What the coordinator knows already is not said again before its next share had time to come.
    fn held(&self, name: &MachineName, action: Action, now: Moment) -> Action {
        match (&action, self.reported.get(name)) {
            (Action::ReportDropped(epoch), Some((known, at))) if epoch == known => {
                let due = at.plus_ms(ASK_AGAIN_MS);
                if now < due { Action::Wait { until: Some(due) } } else { action }
            }
            _ => action,
        }
    }

    fn observe(&self, share: &Share) -> Observed {
        let nothing = Machine::default();
        let mut machines = BTreeMap::new();
        for spec in &share.machines {
            let machine = self.machines.get(&spec.machine).unwrap_or(&nothing);
            machines.insert(spec.machine.clone(), machine.seen(self.image(spec), self.forbids(spec)));
        }
        for (name, machine) in &self.machines {
            machines.entry(name.clone()).or_insert_with(|| machine.seen(Image::Absent, None));
        }
        Observed { machines, ready: self.ready.clone() }
    }

    /// Says why a machine is not to run here, whatever its session's coordinator says.
    fn forbids(&self, spec: &MachineSpec) -> Option<Forbidden> {
        let all = [
            (spec.egress.is_forbidden(self.owner.lan), Forbidden::Lan),
            (self.barred, Forbidden::Member),
            (self.owner.no_machines, Forbidden::Owner),
        ];
        all.into_iter().find_map(|(forbids, why)| forbids.then_some(why))
    }

    /// Tells how much of a machine's image is here.
    fn image(&self, spec: &MachineSpec) -> Image {
        if self.complete.contains(&spec.image) {
            return Image::Complete;
        }
        if !self.fetches.contains(&spec.image) {
            return Image::Absent;
        }
        let bytes = self.arrived.get(&spec.image).copied().unwrap_or(0);
        let percent = bytes.saturating_mul(100) / spec.image_size.max(1);
        Image::Fetching { percent: u8::try_from(percent).unwrap_or(99).min(99) }
    }

    fn fetch(&mut self, share: &Share, name: &MachineName) {
        let Some(spec) = share.machines.iter().find(|spec| spec.machine == *name) else { return };
        if self.fetches.insert(spec.image) {
            self.out.push(Effect::Fetch { image: spec.image, size: spec.image_size });
        }
    }

    fn order(&mut self, share: &Arc<Share>, name: MachineName, mut action: Action) {
        if let Action::Launch { after: Some(because), .. } = &action {
            let (session, because) = (share.name.clone(), because.clone());
            self.out.push(Effect::Tell(Fact::MachineRestarted { session, machine: name.clone(), because }));
        }
        if let (Action::Remove(epoch), true) = (&action, self.rules.broken(Mutant::ReportsDropsEarly)) {
            action = Action::ReportDropped(*epoch);
        }
        self.orders += 1;
        let number = self.orders;
        let presumed = self.presumed(&name);
        let machine = self.machines.entry(name.clone()).or_default();
        machine.busy = Some(Busy::with(number, &action));
        let epoch = machine.epoch(presumed);
        self.out.push(Effect::Order(Order { machine: name, number, action, epoch, share: share.clone() }));
    }

    /// Says what each machine of the share is doing. Gives the moment at which time alone changes that.
    fn report(&mut self, share: &Share, observed: &Observed, now: Moment) -> Option<Moment> {
        let (mut reports, mut wake) = (Vec::new(), None);
        let unseen = Seen::default();
        for spec in &share.machines {
            let seen = observed.machines.get(&spec.machine).unwrap_or(&unseen);
            let waits = order::waits_for(&share.directory, &spec.machine, |m| observed.ready.contains(m));
            let (phase, why) = reconcile::phase(spec, seen, &waits, now);
            let v6 = matches!(seen.shim, reconcile::ShimProcess::Running { v6: true, .. });
            let new = MachineReport::new(spec.machine.clone(), spec.epoch, (phase, why));
            let report = MachineReport { v6, ..new };
            wake = soonest(wake, reconcile::phase_due(spec, seen).filter(|due| now < *due));
            let machine = self.machines.entry(spec.machine.clone()).or_default();
            if machine.phase.replace(phase) != Some(phase) {
                self.out.push(Effect::Tell(Fact::MachinePhase {
                    session: share.name.clone(),
                    machine: spec.machine.clone(),
                    epoch: spec.epoch,
                    phase,
                    because: report.reason.clone(),
                    why: report.why.clone().map(Why::new),
                }));
            }
            reports.push(report);
        }
        let said = (share.version, reports);
        if self.said.as_ref() != Some(&said) {
            self.out.push(Effect::Report(said.0, said.1.clone()));
            self.said = Some(said);
        }
        wake
    }

    /// The session is buried: whatever is still here goes, every incarnation of it. An action that is under way
    /// ends first, or it would start what was just removed.
    fn clear_away(&mut self, share: &Arc<Share>, now: Moment) -> Option<Moment> {
        self.machines.retain(|_, machine| !machine.is_gone());
        if self.machines.is_empty() {
            self.over = true;
            self.out.push(Effect::Forget);
            return None;
        }
        let mut wake = None;
        for (name, due) in
            self.machines.iter().filter(|(_, m)| m.busy.is_none()).map(due_again).collect::<Vec<_>>()
        {
            match due.filter(|due| now < *due) {
                Some(due) => wake = soonest(wake, Some(due)),
                None => self.order(share, name, Action::Remove(Epoch(u64::MAX))),
            }
        }
        wake
    }
}

/// Gives the share of a host that is out of the mesh: none of its machines shall run.
fn at_rest(share: &Share) -> Arc<Share> {
    let mut share = share.clone();
    share.machines.iter_mut().for_each(|spec| spec.run = false);
    Arc::new(share)
}

/// Gives the moment before which what failed for a machine is not tried again.
fn due_again((name, machine): (&MachineName, &Machine)) -> (MachineName, Option<Moment>) {
    let due = machine.failed.as_ref().map(|failed| failed.at.plus_ms(reconcile::back_off_ms(failed.times)));
    (name.clone(), due)
}

fn soonest(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
