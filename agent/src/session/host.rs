//! Makes this host's share of one session true: gathers what is, asks `reconcile` what to do, does
//! it, says how it went, and again. One task a session; each action is a task of its own, one at a
//! time per machine, and may be repeated after a crash.
//! Nothing here decides: not what to start, not when to give up.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use proto::{
    facts::Fact,
    id::{Digest, Epoch, MachineName, Name, SessionId},
    session::{
        MachineReport, MachineSpec, Phase, Share, order,
        reconcile::{self, Action, Image, Observed, Settings},
    },
    time::Moment,
    wire::rpc::{Answer, Refusal, Request},
};
use tokio::sync::mpsc;

use super::{
    actions::{self, Outcome},
    hub::Hub,
    machine::{Machine, asked_for, lost},
    nic,
};
use crate::machine::{
    self, Launch, Paths, Shim, ShimStatus, Who,
    process::Process,
    record::{self, Record},
};

/// The longest sleep between two looks. Changes wake the loop at once; this only bounds what a
/// missed wake could cost.
const LONGEST: Duration = Duration::from_secs(2);
/// News from action and probe tasks that wait for the loop. Each machine has a handful at most.
const NEWS: usize = 256;

/// What a task tells the loop.
pub enum News {
    /// An action has ended.
    Done(MachineName, Outcome),
    /// The shim's status changed.
    Shim,
    /// This shim does not answer.
    Silent(MachineName, Process),
    /// A readiness check answered.
    Probed(MachineName, Name, bool),
    /// A fetch has ended.
    Fetched(Digest, Result<(), String>),
}

struct HostLoop {
    hub: Hub,
    session: SessionId,
    host: machine::Host,
    machines: BTreeMap<MachineName, Machine>,
    /// The share whose routes the network has.
    routed: Option<(u64, u64)>,
    /// Fetches that this session asked for.
    fetches: BTreeSet<Digest>,
    news: mpsc::Sender<News>,
    heard: mpsc::Receiver<News>,
}

/// Runs until the session is buried or the daemon ends; machines run on in the second case.
pub async fn run(hub: Hub, session: SessionId) {
    let host = machine::Host::new(hub.deps().run.clone());
    let (news, heard) = mpsc::channel(NEWS);
    let mut this = HostLoop {
        hub,
        session,
        host,
        machines: BTreeMap::new(),
        routed: None,
        fetches: BTreeSet::new(),
        news,
        heard,
    };
    this.adopt_all().await;
    this.run().await;
    this.machines.values_mut().for_each(Machine::release);
}

impl HostLoop {
    /// Finds the machines that an earlier agent left running, and what lies on the disk. The share names
    /// machines as well: a directory may be lost while its machine runs.
    async fn adopt_all(&mut self) {
        let mut names: BTreeSet<_> = self.hub.deps().store.machines(self.session).into_iter().collect();
        if let Some(share) = self.hub.share(self.session) {
            names.extend(share.machines.iter().map(|spec| spec.machine.clone()));
            names.extend(share.drops.iter().map(|(machine, _)| machine.clone()));
        }
        let looks = names.into_iter().map(|name| {
            let (host, dir) = (self.host.clone(), self.dir(&name));
            let launched = self.launched(&name, None);
            let wanted = || reconcile::presumed(&*self.hub.share(self.session)?, &name);
            let epoch = launched.or_else(wanted).map(|settings| settings.epoch).unwrap_or_default();
            let who = Who { session: self.session, machine: name.clone(), epoch };
            async move {
                let adopted = machine::adopt(&host, &dir, &who).await;
                (name, launched, adopted)
            }
        });
        for (name, launched, adopted) in futures::future::join_all(looks).await {
            let now = self.now();
            let mut machine = Machine { launched, ..Machine::default() };
            match adopted {
                Ok(Some(shim)) => self.adopted(&name, &mut machine, shim),
                Ok(None) => self.found_dead(&name, &mut machine),
                Err(error) => {
                    tracing::error!(machine = %name, error = actions::words(&error), "it does not answer");
                    machine.lose_sight(actions::words(&error), now);
                }
            }
            self.machines.insert(name, machine);
        }
    }

    fn adopted(&self, name: &MachineName, machine: &mut Machine, shim: Shim) {
        let session = self.hub.share(self.session).map(|share| share.name.clone());
        self.follow(name, machine, shim);
        if let Some(session) = session {
            self.tell(Fact::MachineAdopted { session, machine: name.clone() });
        }
    }

    /// Nothing of it runs: what is written down tells how it ended.
    fn found_dead(&self, name: &MachineName, machine: &mut Machine) {
        machine.release();
        (machine.shim, machine.unseen) = (None, None);
        self.hub.deps().net.detach(self.session, name);
        if let Some(status) = machine::last(&self.host, &self.dir(name)) {
            machine.note_end(&status, self.now());
        }
    }

    fn dir(&self, machine: &MachineName) -> PathBuf {
        self.hub.deps().store.machine(self.session, machine)
    }

    /// Tells what a machine was launched with; `None` = nothing of it is on the disk. An intent that cannot
    /// be read was one, and a disk was made for one: of which incarnation, is `known` before, or the
    /// directory's other file tells, or the share.
    fn launched(&self, name: &MachineName, known: Option<Settings>) -> Option<Settings> {
        let paths = Paths::new(&self.dir(name), &self.host.run);
        match record::read::<Launch>(&paths.launch()) {
            Ok(Record::Whole(launch)) => return Some(Settings::of(&launch.spec)),
            Ok(Record::Absent) if matches!(paths.disk().try_exists(), Ok(false)) => return None,
            Ok(Record::Absent) => {}
            Ok(Record::Damaged(because)) => lost(&paths, &because, known),
            Err(error) => lost(&paths, &error.to_string(), known),
        }
        let last = || {
            let last: ShimStatus = record::known(&paths.status())?;
            Some(Settings { epoch: last.epoch, cpus: 0, memory_mib: 0, disk_mib: None })
        };
        known.or_else(last).or_else(|| reconcile::presumed(&*self.hub.share(self.session)?, name))
    }

    fn now(&self) -> Moment {
        mesh::Clock.moment()
    }

    fn tell(&self, fact: Fact) {
        // Nobody listening is no error.
        let _heard = self.hub.deps().facts.send(fact);
    }

    async fn run(&mut self) {
        let stop = self.hub.deps().stop.clone();
        let mut shares = self.hub.shares();
        let mut records = self.hub.deps().mesh.records();
        let mut members = self.hub.deps().mesh.members();
        let mut images = self.hub.deps().images.watch();
        let mut transfers = self.hub.deps().images.transfers();
        let mut roll = self.hub.deps().mesh.roll();
        loop {
            let Some(share) = self.hub.share(self.session) else { return };
            let sleep = if self.hub.buried(self.session) {
                if self.clear_away().await {
                    self.hub.forget(self.session).await;
                    return;
                }
                LONGEST
            } else {
                self.route(&share);
                self.step(&share).await
            };
            // Every arm only wakes the loop; what changed is read again above.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = shares.changed() => if changed.is_err() { return },
                changed = records.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
                changed = images.changed() => if changed.is_err() { return },
                changed = transfers.changed() => if changed.is_err() { return },
                changed = roll.changed() => if changed.is_err() { return },
                Some(news) = self.heard.recv() => self.hear(news),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn route(&mut self, share: &Share) {
        let version = Some((share.recovery, share.version));
        if self.routed != version {
            self.hub.deps().net.set_routes(self.session, &share.directory, self.hub.me());
            self.routed = version;
        }
    }

    /// Looks, acts, reports, and says how long nothing can change by time alone.
    async fn step(&mut self, share: &Arc<Share>) -> Duration {
        let now = self.now();
        while let Ok(news) = self.heard.try_recv() {
            self.hear(news);
        }
        for (name, machine) in &mut self.machines {
            let status = machine.shim.as_ref().map(|shim| shim.status().borrow().clone());
            if let Some(status) = status.filter(|status| status.ended.is_some()) {
                machine.note_end(&status, now);
                self.hub.deps().net.detach(self.session, name);
            }
        }
        for spec in &share.machines {
            self.machines.entry(spec.machine.clone()).or_default().start_anew(spec.starts, now);
        }
        let observed = self.observe(share);
        let mut sleep = LONGEST;
        for (name, action) in reconcile::reconcile(share, &observed, now) {
            match action {
                Action::Wait { until } => {
                    let left = until.map(|until| Duration::from_millis(until.since_ms(now)));
                    sleep = sleep.min(left.unwrap_or(LONGEST)).max(Duration::from_millis(10));
                }
                action => self.act(share, name, action),
            }
        }
        let observed = self.observe(share);
        self.report(share, &observed, now).await;
        sleep
    }

    fn observe(&self, share: &Share) -> Observed {
        let known = self.hub.known(share);
        let ready =
            known.into_iter().filter(|(_, report)| report.phase == Phase::Ready).map(|(name, _)| name);
        let image = |name: &MachineName| {
            let spec = share.machines.iter().find(|spec| spec.machine == *name);
            spec.map(|spec| self.image(spec)).unwrap_or_default()
        };
        let nothing = Machine::default();
        let mut machines = BTreeMap::new();
        for spec in &share.machines {
            let machine = self.machines.get(&spec.machine).unwrap_or(&nothing);
            machines.insert(spec.machine.clone(), machine.seen(image(&spec.machine)));
        }
        for (name, machine) in &self.machines {
            machines.entry(name.clone()).or_insert_with(|| machine.seen(Image::Absent));
        }
        Observed { machines, ready: ready.collect() }
    }

    /// Tells how much of a machine's image is here.
    fn image(&self, spec: &MachineSpec) -> Image {
        let images = &self.hub.deps().images;
        if images.path(spec.image).is_some() {
            return Image::Complete;
        }
        if !self.fetches.contains(&spec.image) {
            return Image::Absent;
        }
        let done = images.transfers().borrow().get(&spec.image).map_or(0, |progress| progress.done);
        let percent = done.saturating_mul(100) / spec.image_size.max(1);
        Image::Fetching { percent: u8::try_from(percent).unwrap_or(99).min(99) }
    }

    fn hear(&mut self, news: News) {
        let now = self.now();
        match news {
            News::Shim => {}
            News::Silent(name, process) => {
                let machine = self.machines.entry(name).or_default();
                let shim = machine.shim.as_ref().map(|shim| shim.status().borrow().shim.clone());
                if shim.as_ref() == Some(&process) {
                    machine.lose_sight(format!("its shim does not answer (process {})", process.pid), now);
                }
            }
            News::Probed(name, service, passed) => {
                if let Some(machine) = self.machines.get_mut(&name) {
                    if passed {
                        machine.ready.insert(service);
                    } else {
                        machine.ready.remove(&service);
                    }
                }
            }
            News::Fetched(digest, ended) => {
                self.fetches.remove(&digest);
                self.fetched(digest, ended, now);
            }
            News::Done(name, outcome) => self.done(&name, outcome, now),
        }
    }

    fn fetched(&mut self, digest: Digest, ended: Result<(), String>, now: Moment) {
        let Some(share) = self.hub.share(self.session) else { return };
        for spec in share.machines.iter().filter(|spec| spec.image == digest) {
            let machine = self.machines.entry(spec.machine.clone()).or_default();
            match &ended {
                Ok(()) => machine.failed = None,
                Err(because) => machine.fail(because.clone(), now),
            }
        }
    }

    fn done(&mut self, name: &MachineName, outcome: Outcome, now: Moment) {
        let mut machine = self.machines.remove(name).unwrap_or_default();
        machine.busy = false;
        machine.launched = self.launched(name, machine.launched);
        match outcome {
            Outcome::Failed(because) => machine.fail(because, now),
            Outcome::Granted(epoch) => {
                machine.failed = None;
                machine.granted = Some(epoch);
            }
            Outcome::Launched(shim) => {
                (machine.failed, machine.granted) = (None, None);
                self.follow(name, &mut machine, shim);
            }
            Outcome::Adopted(shim) => {
                (machine.failed, machine.granted) = (None, None);
                self.adopted(name, &mut machine, shim);
            }
            Outcome::Unseen(because) => {
                machine.failed = None;
                machine.lose_sight(because, now);
            }
            Outcome::Gone => self.found_dead(name, &mut machine),
            Outcome::Stopped(status) => {
                if let Some(status) = &status {
                    machine.note_end(status, now);
                }
                self.hub.deps().net.detach(self.session, name);
                machine.release();
                (machine.failed, machine.ends) = (None, 0);
                (machine.shim, machine.unseen) = (None, None);
                machine.ended = Some(asked_for(machine.ended.take(), now));
            }
            Outcome::Removed => {
                machine.release();
                machine = Machine::default();
            }
            Outcome::Reported => {
                if machine.launched.is_none() && machine.shim.is_none() {
                    return;
                }
            }
        }
        self.machines.insert(name.clone(), machine);
    }

    /// Starts the tasks that live as long as a shim.
    fn follow(&self, name: &MachineName, machine: &mut Machine, shim: Shim) {
        machine.release();
        machine.tasks.push(tokio::spawn(actions::follow(shim.clone(), self.news.clone())).abort_handle());
        let listen = actions::listen(shim.clone(), name.clone(), self.news.clone());
        machine.tasks.push(tokio::spawn(listen).abort_handle());
        let spec = &shim.launch().spec;
        for (service, proto::topology::Service { port, ready }) in spec.services.clone() {
            let Some(ready) = ready else { continue };
            let check = actions::check(shim.clone(), name.clone(), service, port, ready, self.news.clone());
            machine.tasks.push(tokio::spawn(check).abort_handle());
        }
        nic::attach(&self.hub, self.session, spec, &shim);
        machine.launched = Some(Settings::of(spec));
        machine.started = self.now();
        (machine.shim, machine.unseen, machine.ended) = (Some(shim), None, None);
    }

    fn act(&mut self, share: &Arc<Share>, name: MachineName, action: Action) {
        let spec = share.machines.iter().find(|spec| spec.machine == name).cloned();
        if let (Action::Fetch, Some(spec)) = (&action, &spec) {
            return self.fetch(spec);
        }
        if let Action::Launch { after: Some(because), .. } = &action {
            let (session, because) = (share.name.clone(), because.clone());
            self.tell(Fact::MachineRestarted { session, machine: name.clone(), because });
        }
        let machine = self.machines.entry(name.clone()).or_default();
        machine.busy = true;
        let order = actions::Order {
            hub: self.hub.clone(),
            host: self.host.clone(),
            share: share.clone(),
            spec,
            shim: machine.shim.clone(),
            dir: self.hub.deps().store.machine(self.session, &name),
            machine: name.clone(),
            epoch: machine.launched.map(|settings| settings.epoch),
        };
        let news = self.news.clone();
        // Not bound to the shim's life: an action that was begun is carried to its end.
        tokio::spawn(async move {
            // A panic must not leave the machine busy for ever.
            let carried = AssertUnwindSafe(actions::carry_out(order, action)).catch_unwind().await;
            let outcome = carried.unwrap_or_else(|_| Outcome::Failed("the agent failed: see its log".into()));
            // The loop has ended with the daemon; the next one looks for itself.
            let _heard = news.send(News::Done(name, outcome)).await;
        });
    }

    fn fetch(&mut self, spec: &MachineSpec) {
        if self.fetches.insert(spec.image) {
            tokio::spawn(actions::fetch(self.hub.clone(), spec.image, spec.image_size, self.news.clone()));
        }
    }

    async fn report(&mut self, share: &Share, observed: &Observed, now: Moment) {
        let mut reports = Vec::new();
        for spec in &share.machines {
            let Some(seen) = observed.machines.get(&spec.machine) else { continue };
            let waits = order::waits_for(&share.directory, &spec.machine, |m| observed.ready.contains(m));
            let (phase, reason) = reconcile::phase(spec, seen, &waits, now);
            let machine = self.machines.entry(spec.machine.clone()).or_default();
            if machine.phase.replace(phase) != Some(phase) {
                let fact = Fact::MachinePhase {
                    session: share.name.clone(),
                    machine: spec.machine.clone(),
                    epoch: spec.epoch,
                    phase,
                    because: reason.clone(),
                };
                let _heard = self.hub.deps().facts.send(fact);
            }
            reports.push(MachineReport { machine: spec.machine.clone(), epoch: spec.epoch, phase, reason });
        }
        self.hub.report(share.session, share.version, reports).await;
    }

    /// The session is buried: whatever is still here goes. Tells whether nothing is left; an action
    /// that is under way ends first, or it would start what was just removed.
    async fn clear_away(&mut self) -> bool {
        while let Ok(news) = self.heard.try_recv() {
            self.hear(news);
        }
        if self.machines.values().any(|machine| machine.busy) {
            return false;
        }
        let mut gone = true;
        for (name, machine) in &mut self.machines {
            machine.release();
            let dir = self.hub.deps().store.machine(self.session, name);
            // Of a buried session every incarnation goes.
            let who = Who { session: self.session, machine: name.clone(), epoch: Epoch(u64::MAX) };
            if let Err(error) = machine::remove(&self.host, &dir, &who).await {
                // It is tried at every look; once is enough to be told.
                if !std::mem::replace(&mut machine.told_left, true) {
                    tracing::error!(machine = %name, error = actions::words(&error), "it cannot be removed");
                }
                gone = false;
            }
        }
        gone
    }
}

/// Says in words why a coordinator did not do what a host asked.
pub fn in_words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoQuorum => "the session has no quorum of voters now".into(),
        refusal => refusal.to_string(),
    }
}

/// Asks the coordinator whether this incarnation may start for the first time.
pub async fn may_start(
    hub: &Hub,
    session: SessionId,
    machine: &MachineName,
    epoch: Epoch,
) -> Result<bool, String> {
    let request = Request::MayStart { session, machine: machine.clone(), epoch };
    match hub.ask(session, request).await {
        Ok(Answer::MayStart(may)) => Ok(may),
        Ok(answer) => Err(format!("the coordinator answered something else: {answer:?}")),
        Err(refusal) => Err(in_words(&refusal)),
    }
}
