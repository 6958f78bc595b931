//! What one agent does: it listens, tells what it sees, and carries out what `reconcile` says. The
//! real `agent::session::host` has the same loop around the same rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use proto::{
    id::{Epoch, HostId, MachineName, SessionId},
    names::{self, Kind, View, Zone},
    run::Mutant,
    session::{
        MachineSpec, Share,
        reconcile::{self, Action, Failed, Settings, Setup, Shim},
        slice,
    },
    time::Moment,
};

use super::{
    Event, Key, Message, Step, Work, World,
    host::{Agent, Process, Record, Word},
    invariants::Violation,
};

/// Time between two turns of an agent's loop.
const TICK_MS: u64 = 800;
/// How long an agent waits for an answer.
const ANSWER_MS: u64 = 1_000;

impl World {
    /// Starts a host's agent, if it has power and none runs.
    pub(super) fn start_agent(&mut self, id: HostId) {
        let (run, now) = (self.number(), self.now);
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.on && host.agent.is_none()) else {
            return;
        };
        host.disk.generation += 1;
        let mut agent = Agent { run, since: now, ..Agent::default() };
        for (session, quorum) in self.quorums.iter().filter(|_| now == Moment(0)) {
            if quorum.leader == Some(id) && quorum.term == 1 {
                agent.leading.insert(*session, 1);
                host.disk.replicas.extend(quorum.committed.clone().map(|state| (*session, state)));
            }
        }
        host.agent = Some(agent);
        let delay = self.random.between(1, TICK_MS);
        self.after(delay, Event::Tick(id, run));
    }

    /// One turn of an agent's loop.
    pub(super) fn tick(&mut self, id: HostId, run: u64) -> Result<(), Violation> {
        if self.agent_mut(id).is_none_or(|agent| agent.run != run) {
            return Ok(());
        }
        for session in self.sessions() {
            self.vote(id, session);
            self.coordinate(id, session);
            self.pull_share(id, session);
        }
        let zone = self.hosts.get(&id).map(|host| host.zone(&self.names, self.now)).unwrap_or_default();
        self.act(id, &zone);
        self.publish(id, &zone);
        self.check_names(id, zone)?;
        let pause = TICK_MS + self.random.between(0, 50);
        self.after(pause, Event::Tick(id, run));
        Ok(())
    }

    pub(super) fn receive(&mut self, from: HostId, to: HostId, message: Message) {
        match message {
            Message::Gossip(records) => records.into_iter().for_each(|record| self.hear(to, record)),
            Message::PutShare(share) => self.take_share(to, share),
            Message::GetShare(session) => self.give_share(to, from, session),
            Message::MayStart(machine, epoch) => self.may_start(to, from, machine, epoch),
            Message::Dropped(machine, epoch) => self.dropped(to, from, machine, epoch),
            Message::MayStartAnswer(machine, epoch, may) => {
                let Some(agent) = self.agent_mut(to) else { return };
                agent.busy.remove(&machine);
                if may {
                    agent.failed.remove(&machine);
                    agent.granted.insert(machine, epoch);
                } else {
                    self.failed(to, &machine, "the coordinator says not now");
                }
            }
            Message::DroppedAnswer(machine) => {
                let Some(agent) = self.agent_mut(to) else { return };
                agent.busy.remove(&machine);
                agent.failed.remove(&machine);
            }
        }
    }

    fn hear(&mut self, id: HostId, record: Rc<Record>) {
        let now = self.now;
        let Some(agent) = self.agent_mut(id) else { return };
        if record.host == id || agent.view.get(&record.host).is_some_and(|known| known.at >= record.at) {
            return;
        }
        agent.heard.insert(record.host, now);
        agent.view.insert(record.host, record);
    }

    pub(super) fn take_share(&mut self, id: HostId, share: Rc<Share>) {
        let any = self.rules.broken(Mutant::TakesOldShares);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if any || host.disk.shares.get(&share.session).is_none_or(|old| slice::supersedes(&share, old)) {
            host.disk.shares.insert(share.session, share);
        }
    }

    fn pull_share(&mut self, id: HostId, session: SessionId) {
        let Some(host) = self.hosts.get(&id) else { return };
        match host.coordinator(session) {
            Some((leader, version)) if leader != id && version > host.version(session) => {
                self.send(id, leader, Message::GetShare(session));
            }
            _ => {}
        }
    }

    fn act(&mut self, id: HostId, zone: &Zone) {
        for session in self.sessions() {
            self.act_in(id, session, zone);
        }
    }

    fn act_in(&mut self, id: HostId, session: SessionId, zone: &Zone) {
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(mut share) = host.disk.shares.get(&session).cloned() else { return };
        if self.rules.broken(Mutant::IgnoresNeeds) {
            let share = Rc::make_mut(&mut share);
            share.directory.groups.values_mut().for_each(|group| group.needs.clear());
        }
        if self.rules.broken(Mutant::IgnoresNeedsLater) {
            let share = Rc::make_mut(&mut share);
            let later: BTreeSet<_> = host
                .disk
                .launched
                .keys()
                .filter(|(of, _)| *of == session)
                .map(|(_, machine)| machine.group.clone())
                .collect();
            let groups = share.directory.groups.iter_mut().filter(|(name, _)| later.contains(*name));
            groups.for_each(|(_, group)| group.needs.clear());
        }
        if self.rules.broken(Mutant::IgnoresDrops) {
            Rc::make_mut(&mut share).drops.clear();
        }
        let mut observed = host.observed(&share, ready(zone, &share), self.now);
        if self.rules.broken(Mutant::TakesSilenceForDeath) {
            let unseen =
                observed.machines.values_mut().filter(|seen| matches!(seen.shim, Shim::Unseen { .. }));
            unseen.for_each(|seen| seen.shim = Shim::None);
        }
        let actions = reconcile::reconcile(&share, &observed, self.now);
        for (machine, action) in actions {
            let spec = share.machines.iter().find(|spec| spec.machine == machine);
            self.perform(id, (session, machine), spec, action);
        }
    }

    fn perform(&mut self, id: HostId, machine: Key, spec: Option<&MachineSpec>, action: Action) {
        let name = machine.1.clone();
        match action {
            Action::Wait { .. } => {}
            Action::Fetch => self.work(id, machine, (300, 2500), Work::Fetch),
            Action::Ask(epoch) => self.ask(id, machine.clone(), Message::MayStart(machine, epoch)),
            Action::ReportDropped(epoch) => self.ask(id, machine.clone(), Message::Dropped(machine, epoch)),
            Action::Launch { after, .. } => {
                let Some(settings) = spec.map(Settings::of) else { return };
                self.tell(Some(id), || match after {
                    Some(because) => format!("{name} starts again: {because}"),
                    None => format!("{name} starts (epoch {})", settings.epoch),
                });
                self.note_start(id, &machine);
                // The intent is on the disk before the process exists.
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.disk.launched.insert(machine.clone(), settings);
                }
                self.work(id, machine, (50, 600), Work::Launch(settings));
            }
            Action::Find { patient } => self.work(id, machine, (100, 3000), Work::Find { patient }),
            Action::Stop { because } => {
                self.tell(Some(id), || format!("{name} is stopped: {because}"));
                self.work(id, machine, (200, 2000), Work::Stop);
            }
            Action::Remove(epoch) => {
                self.tell(Some(id), || format!("{name} is removed (epoch {epoch})"));
                if self.rules.broken(Mutant::ReportsDropsEarly) {
                    return self.ask(id, machine.clone(), Message::Dropped(machine, epoch));
                }
                self.work(id, machine, (100, 1500), Work::Remove(epoch));
            }
        }
    }

    fn note_start(&mut self, id: HostId, machine: &Key) {
        let first = self.hosts.get(&id).is_some_and(|host| !host.disk.launched.contains_key(machine));
        let share = self.hosts.get(&id).and_then(|host| host.disk.shares.get(&machine.0).cloned());
        let Some(directory) = share.as_ref().map(|share| &share.directory) else { return };
        let Some(group) = directory.groups.get(&machine.1.group) else { return };
        let needed = group.needs.iter().filter_map(|name| directory.groups.get(name));
        let needed: Vec<_> = needed.flat_map(|group| &group.machines).filter(|entry| entry.run).collect();
        if first {
            self.history.first_start(machine, &needed);
        }
        // What is on this very host, its agent knows: it cannot be an old word.
        let beside: Vec<_> = needed.into_iter().filter(|entry| entry.host == id).collect();
        self.history.start(machine, &beside);
    }

    /// Asks the coordinator; the answer, or its absence, ends the work.
    fn ask(&mut self, id: HostId, machine: Key, message: Message) {
        self.work(id, machine.clone(), (ANSWER_MS, ANSWER_MS), Work::Answer);
        match self.hosts.get(&id).and_then(|host| host.coordinator(machine.0)) {
            Some((leader, _)) => self.send(id, leader, message),
            None => self.failed(id, &machine, "no coordinator is known"),
        }
    }

    fn work(&mut self, id: HostId, machine: Key, (least, most): (u64, u64), work: Work) {
        let number = self.number();
        let Some(agent) = self.agent_mut(id) else { return };
        agent.busy.insert(machine.clone(), number);
        let (host, run) = (id, agent.run);
        let takes = self.random.between(least, most);
        self.after(takes, Event::Finish { host, run, machine, number, work });
    }

    pub(super) fn finish(&mut self, id: HostId, run: u64, machine: Key, number: u64, work: Work) {
        let Some(agent) = self.agent_mut(id).filter(|agent| agent.run == run) else { return };
        if agent.busy.get(&machine) != Some(&number) {
            return;
        }
        agent.busy.remove(&machine);
        if !matches!(work, Work::Answer | Work::Fetch) {
            agent.failed.remove(&machine);
        }
        match work {
            Work::Answer => self.failed(id, &machine, "the coordinator does not answer"),
            Work::Fetch => self.fetched(id, &machine),
            Work::Launch(settings) => self.launched(id, machine, settings),
            Work::Stop => self.stopped(id, &machine),
            Work::Find { patient: true } => {}
            Work::Find { patient: false } => {
                let now = self.now;
                let process = self.hosts.get(&id).and_then(|host| host.shims.get(&machine));
                if process.is_some_and(|process| matches!(process.seen(now), Shim::Unseen { .. })) {
                    self.stopped(id, &machine);
                }
            }
            Work::Remove(epoch) => {
                let Some(host) = self.hosts.get_mut(&id) else { return };
                if host.disk.launched.get(&machine).is_some_and(|settings| settings.epoch <= epoch) {
                    host.disk.launched.remove(&machine);
                    host.shims.remove(&machine);
                }
            }
        }
    }

    fn stopped(&mut self, id: HostId, machine: &Key) {
        let at = self.now;
        let ended = Shim::Ended { at, asked: true, clean: true, because: "stopped".into() };
        if let Some(process) = self.hosts.get_mut(&id).and_then(|host| host.shims.get_mut(machine)) {
            process.shim = ended;
        }
    }

    fn fetched(&mut self, id: HostId, machine: &Key) {
        let holder = |other: &HostId| self.hosts.get(other).is_some_and(|host| host.disk.image);
        if self.reached(id).iter().any(holder) {
            let Some(host) = self.hosts.get_mut(&id) else { return };
            if !std::mem::replace(&mut host.disk.image, true) {
                self.tell(Some(id), || "the image is here".into());
            }
            if let Some(agent) = self.agent_mut(id) {
                agent.failed.remove(machine);
            }
        } else {
            self.failed(id, machine, "no host with the image can be reached");
        }
    }

    fn launched(&mut self, id: HostId, machine: Key, settings: Settings) {
        let (pid, since) = (self.number(), self.now);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if let Some(agent) = &mut host.agent {
            agent.granted.remove(&machine);
        }
        let process = Process { pid, settings, shim: Shim::Starting { since }, silent: None };
        if host.shims.insert(machine.clone(), process).is_some_and(|old| old.alive()) {
            self.history.twice_here(&machine, host.name.as_str());
        }
        let wait = self.random.between(100, 800);
        self.after(wait, Event::Process(id, machine, pid, Step::Run));
    }

    /// The shim and the guest get on without the agent.
    pub(super) fn progress(&mut self, id: HostId, machine: &Key, pid: u64, step: Step) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(process) = host.shims.get_mut(machine).filter(|p| p.pid == pid && p.alive()) else { return };
        let (next, wait) = match (&mut process.shim, step) {
            (shim @ Shim::Starting { .. }, Step::Run) => {
                let setup = Setup::Done;
                *shim =
                    Shim::Running { since: now, booted: false, setup, ready: BTreeSet::new(), paused: None };
                (Some(Step::Boot), (500, 3000))
            }
            (Shim::Running { booted, .. }, Step::Boot) => {
                *booted = true;
                (Some(Step::Ready), (100, 1000))
            }
            (Shim::Running { ready, .. }, Step::Ready) => {
                ready.insert("main".parse().expect("a valid name"));
                self.tell(Some(id), || format!("{} is ready", machine.1));
                (None, (0, 0))
            }
            _ => (None, (0, 0)),
        };
        if let Some(next) = next {
            let takes = self.random.between(wait.0, wait.1);
            self.after(takes, Event::Process(id, machine.clone(), pid, next));
        }
    }

    /// Says what this host sees, and passes on what it heard, to three others.
    fn publish(&mut self, id: HostId, zone: &Zone) {
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(agent) = &host.agent else { return };
        let mut sessions: BTreeMap<SessionId, Word> = BTreeMap::new();
        for (session, share) in &host.disk.shares {
            let observed = host.observed(share, ready(zone, share), self.now);
            let reports = host.reports(share, &observed, self.now);
            let memory_mib = share.machines.iter().map(|spec| spec.memory_mib).sum();
            sessions.insert(*session, Word { reports, version: share.version, memory_mib, head: None });
        }
        for (session, term) in &agent.leading {
            let replica = host.disk.replicas.get(session).map_or(0, |state| state.version);
            sessions.entry(*session).or_default().head = Some((*term, replica));
        }
        let at = (host.disk.generation, agent.seq + 1);
        let record = Rc::new(Record { host: id, at, sessions, image: host.disk.image });
        for (session, word) in &record.sessions {
            self.history.reported(id, *session, &word.reports);
        }
        let Some(agent) = self.agent_mut(id) else { return };
        agent.seq += 1;
        agent.view.insert(id, record);
        let all: Vec<Rc<Record>> = agent.view.values().cloned().collect();
        let others: Vec<HostId> = self.names.keys().copied().filter(|other| *other != id).collect();
        for _ in 0..3 {
            if let Some(to) = self.random.pick(&others) {
                self.send(id, to, Message::Gossip(all.clone()));
            }
        }
    }

    fn check_names(&mut self, id: HostId, mut zone: Zone) -> Result<(), Violation> {
        let Some(host) = self.hosts.get(&id) else { return Ok(()) };
        for share in host.disk.shares.values() {
            if self.rules.broken(Mutant::AnswersOldEpochs) {
                let current = |m: &MachineName| share.directory.find(m).map(|entry| entry.epoch);
                let own = zone.reports.iter_mut().filter(|((_, session), _)| *session == share.session);
                for report in own.flat_map(|(_, reports)| reports) {
                    report.epoch = current(&report.machine).unwrap_or(report.epoch);
                }
            }
            for entry in share.directory.machines() {
                let name = format!("{}.{}.{}", entry.machine, share.name, zone.zone);
                let answer = names::answer(&zone, View::Guest(share.session), &name, Kind::A);
                self.history.check_answer(&host.name, share.session, entry, &answer)?;
            }
        }
        Ok(())
    }

    pub(super) fn failed(&mut self, id: HostId, machine: &Key, because: &str) {
        let at = self.now;
        let Some(agent) = self.agent_mut(id) else { return };
        agent.busy.remove(machine);
        let times = agent.failed.get(machine).map_or(0, |failed| failed.times) + 1;
        agent.failed.insert(machine.clone(), Failed { at, times, because: because.to_owned() });
    }

    pub(super) fn agent_mut(&mut self, id: HostId) -> Option<&mut Agent> {
        self.hosts.get_mut(&id)?.agent.as_mut()
    }

    /// QEMU dies by itself.
    pub(super) fn crash(&mut self, id: HostId, machine: &Key) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(process) = host.shims.get_mut(machine).filter(|process| process.alive()) else { return };
        let ran = match &process.shim {
            Shim::Running { since, .. } => now.since_ms(*since),
            _ => 0,
        };
        let because = "QEMU got signal 9".to_owned();
        process.shim = Shim::Ended { at: now, asked: false, clean: false, because };
        if let Some(agent) = &mut host.agent {
            let before = agent.ends.get(machine).copied().unwrap_or(0);
            agent.ends.insert(machine.clone(), reconcile::ends(before, ran));
        }
        self.tell(Some(id), || format!("QEMU of {} dies", machine.1));
    }

    /// The shim of a machine answers nobody for a while.
    pub(super) fn falls_silent(&mut self, id: HostId, machine: &Key, millis: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(process) = host.shims.get_mut(machine).filter(|process| process.alive()) else { return };
        process.silent = Some((now, now.plus_ms(millis)));
        let name = &machine.1;
        self.tell(Some(id), || format!("the shim of {name} answers nobody for {} s", millis / 1000));
    }

    /// Gives the incarnation of a machine that lies on a host's disk.
    pub fn incarnation(&self, id: HostId, machine: &Key) -> Option<Epoch> {
        Some(self.hosts.get(&id)?.disk.launched.get(machine)?.epoch)
    }
}

fn ready(zone: &Zone, share: &Share) -> BTreeSet<MachineName> {
    let ready = share.directory.machines().filter(|entry| names::ready(zone, share.session, entry));
    ready.map(|entry| entry.machine.clone()).collect()
}
