//! What one agent does around the machines of `proto::run`: it listens, tells what it sees, carries out what
//! they say, and says how that went. The real `agent::session::host` is the same shell with real disks,
//! processes and time; nothing is decided here.

use std::{collections::BTreeSet, sync::Arc};

use proto::{
    id::{Epoch, HostId, SessionId},
    names::{self, Kind, View},
    picture::{Acted, Change, Input, Picture, readiness},
    run::host as rules,
    session::{
        Share,
        reconcile::{Action, Settings},
    },
    time::Moment,
    topology::Egress,
    wire::rpc::{Answer, Refusal, Request},
};

use super::{
    Event, Key, Message, Work, World,
    calls::Asker,
    host::{Agent, Host},
    invariants::Violation,
    picture::image,
};

/// Time between two turns of an agent's loop.
const TICK_MS: u64 = 800;
/// How long an agent that ends waits for what is under way.
const STAGE_MS: u64 = 2_500;

impl World {
    /// Starts a member's agent, if it has power and none runs.
    pub(super) fn start_agent(&mut self, id: HostId) {
        let (run, now, member) = (self.number(), self.now, self.names.contains_key(&id));
        let starts = |host: &&mut Host| member && host.on && host.agent.is_none();
        let Some(host) = self.hosts.get_mut(&id).filter(starts) else {
            return;
        };
        host.disk.generation += 1;
        let picture = Picture { rules: self.rules, ..Picture::new(id) };
        host.agent = Some(Agent::new(run, now, World::knowledge_of(host, self.rules), picture));
        self.say(id);
        let Some(host) = self.hosts.get(&id) else { return };
        let logs: Vec<SessionId> = host.disk.logs.keys().copied().collect();
        for session in logs {
            self.open_log(id, session);
        }
        for session in self.sessions() {
            self.open(id, session);
        }
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
            self.look_after(id, session, false);
        }
        self.look_out(id, false);
        self.notice(id);
        self.look_around(id)?;
        self.clear_away(id);
        self.publish(id);
        let pause = TICK_MS + self.random.between(0, 50);
        self.after(pause, Event::Tick(id, run));
        Ok(())
    }

    pub(super) fn receive(&mut self, from: HostId, to: HostId, message: Message) {
        match message {
            Message::Gossip(records) => records.into_iter().for_each(|record| self.hear(to, record)),
            Message::Request(number, request) => self.requested(to, from, number, *request),
            Message::Answer(number, answer) => self.replied(to, number, Some(*answer)),
        }
    }

    /// The coordinator answered what was asked for a machine, or nobody did.
    pub(super) fn machine_answered(&mut self, id: HostId, machine: Key, result: Result<Answer, Refusal>) {
        let asked = self.agent_mut(id).and_then(|agent| agent.asked.remove(&machine));
        if let Some((number, asked)) = asked {
            self.done(id, machine, number, rules::Outcome::answered(&asked, result));
        }
    }

    /// A share is written down: the machine of its session goes on with it, or begins.
    pub(super) fn show(&mut self, id: HostId, share: Arc<Share>) {
        let session = share.session;
        self.look(id);
        let Some(agent) = self.agent_mut(id) else { return };
        if !agent.machines.contains_key(&session) {
            return self.open(id, session);
        }
        let ready = readiness::ready(&agent.picture, &share);
        agent.ready.insert(session, ready.clone());
        self.happen(id, session, rules::Event::Share(share, ready));
    }

    /// Tells people which hosts a coordinator stopped hearing, or hears again.
    fn notice(&mut self, id: HostId) {
        let Some(agent) = self.agent_mut(id).filter(|agent| !agent.leading.is_empty()) else { return };
        let lost: BTreeSet<HostId> =
            agent.heard.keys().copied().filter(|other| !agent.picture.is_up(*other)).collect();
        let before = agent.lost.clone();
        for gone in lost.difference(&before) {
            let name = self.name(*gone);
            self.tell(Some(id), || format!("does not hear {name} any more"));
        }
        for back in before.difference(&lost) {
            let name = self.name(*back);
            self.tell(Some(id), || format!("hears {name} again"));
        }
        if let Some(agent) = self.agent_mut(id) {
            agent.lost = lost;
        }
    }

    /// Tells the machines of buried sessions so, once.
    fn clear_away(&mut self, id: HostId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(agent) = &mut host.agent else { return };
        let buried: Vec<SessionId> =
            host.disk.buried.intersection(&agent.machines.keys().copied().collect()).copied().collect();
        for session in buried {
            if self.agent_mut(id).is_some_and(|agent| agent.told_buried.insert(session)) {
                self.happen(id, session, rules::Event::Buried);
            }
        }
    }

    /// Begins the work of an agent for one session: what lies on its disk, and the share.
    fn open(&mut self, id: HostId, session: SessionId) {
        let rules = self.rules;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(share) = host.disk.shares.get(&session).cloned() else { return };
        let launched = host.disk.launched.iter().filter(|((of, _), _)| *of == session);
        let lies = launched.map(|((_, name), settings)| (name.clone(), rules::Lies::Launched(*settings)));
        let (lies, images) = (lies.collect(), host.images());
        let Some(agent) = &mut host.agent else { return };
        agent.machines.insert(session, rules::Host::new(rules, rules::Owner::default()));
        agent.ready.insert(session, BTreeSet::new());
        agent.changes.insert(Change::Session(session));
        self.happen(id, session, rules::Event::Images(images));
        self.happen(id, session, rules::Event::Share(share, BTreeSet::new()));
        self.happen(id, session, rules::Event::Begun(lies));
    }

    /// Hands an event to the machine of a session and carries out what it says.
    pub(super) fn happen(&mut self, id: HostId, session: SessionId, event: rules::Event) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let now = host.moment(self.now);
        let machine = host.agent.as_mut().and_then(|agent| agent.machines.get_mut(&session));
        let effects = machine.map(|machine| machine.on(event, now)).unwrap_or_default();
        for effect in effects {
            self.carry_out(id, session, effect);
        }
    }

    fn carry_out(&mut self, id: HostId, session: SessionId, effect: rules::Effect) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (booted, Some(agent)) = (host.booted, &mut host.agent) else { return };
        let run = agent.run;
        match effect {
            rules::Effect::Order(order) => self.perform(id, session, order),
            rules::Effect::Fetch { .. } => {
                let takes = self.random.between(300, 2500);
                self.after(takes, Event::Fetched(id, run, session));
            }
            rules::Effect::Watch(name) => {
                agent.watched.insert((session, name.clone()));
                self.after(0, Event::ShimProcess(id, (session, name)));
            }
            rules::Effect::Release(name) => {
                agent.watched.remove(&(session, name));
            }
            rules::Effect::Report(version, reports) => {
                let mut all = (*agent.picture.reports).clone();
                all.insert(session, Acted { version, machines: reports.clone() });
                agent.take_in(Input::Reports(Arc::new(all)));
                self.history.said(host, session, &reports);
                self.history.reported(id, session, &reports);
            }
            rules::Effect::Wake(at) => {
                agent.wake.remove(&session);
                if let Some(at) = at {
                    agent.wake.insert(session, at);
                    let wait = booted.plus_ms(at.0).since_ms(self.now);
                    self.after(wait, Event::Wake(id, run, session, at));
                }
            }
            rules::Effect::Rest | rules::Effect::Forget => {
                let forget = effect == rules::Effect::Forget;
                agent.machines.remove(&session);
                agent.told_buried.remove(&session);
                if forget && !agent.ending {
                    return self.forget(id, session);
                }
                if agent.ending && agent.machines.is_empty() {
                    host.agent = None;
                }
            }
            // A network that guests use, and people, are not of this world.
            rules::Effect::Attach(_)
            | rules::Effect::Detach(_)
            | rules::Effect::Route(_)
            | rules::Effect::Tell(_) => {}
        }
    }

    /// The moment came that a machine wanted to be woken at, if it still wants that.
    pub(super) fn wake(&mut self, id: HostId, run: u64, session: SessionId, at: Moment) {
        let agent = self.agent_mut(id).filter(|agent| agent.run == run);
        if agent.is_some_and(|agent| agent.wake.get(&session) == Some(&at)) {
            self.happen(id, session, rules::Event::Woken);
        }
    }

    fn perform(&mut self, id: HostId, session: SessionId, order: rules::Order) {
        let rules::Order { machine: name, number, action, share, .. } = order;
        let machine = (session, name.clone());
        match action {
            Action::Wait { .. } | Action::Fetch => {}
            Action::Ask(epoch) => {
                self.ask(id, (number, action), machine, Request::MayStart { session, machine: name, epoch });
            }
            Action::ReportDropped(epoch) => {
                self.ask(id, (number, action), machine, Request::Dropped { session, machine: name, epoch });
            }
            Action::Launch { after, .. } => {
                let spec = share.machines.iter().find(|spec| spec.machine == name);
                let Some(settings) = spec.map(Settings::of) else { return };
                self.tell(Some(id), || match after {
                    Some(because) => format!("{name} starts again: {because}"),
                    None => format!("{name} starts (epoch {})", settings.epoch),
                });
                self.note_start(id, &machine, settings.epoch);
                // The intent is on the disk before the process exists.
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.disk.launched.insert(machine.clone(), settings);
                }
                self.work(id, machine, number, ((50, 600), Work::Launch(settings)));
            }
            Action::Find { patient } => {
                self.work(id, machine, number, ((10, 3000), Work::Find { patient }));
            }
            Action::Stop { because } => {
                self.tell(Some(id), || format!("{name} is stopped: {because}"));
                self.work(id, machine, number, ((200, 2000), Work::Stop));
            }
            Action::Remove(epoch) => {
                self.tell(Some(id), || format!("{name} is removed (epoch {epoch})"));
                self.work(id, machine, number, ((100, 1500), Work::Remove(epoch)));
            }
        }
    }

    fn note_start(&mut self, id: HostId, machine: &Key, epoch: Epoch) {
        let here = self.hosts.get(&id).and_then(|host| host.disk.launched.get(machine)).copied();
        self.history.started(machine, epoch, here.map(|settings| settings.epoch));
        let share = self.hosts.get(&id).and_then(|host| host.disk.shares.get(&machine.0).cloned());
        let Some(directory) = share.as_ref().map(|share| &share.directory) else { return };
        let Some(group) = directory.groups.get(&machine.1.group) else { return };
        let needed = group.needs.iter().filter_map(|name| directory.groups.get(name));
        let needed: Vec<_> = needed.flat_map(|group| &group.machines).filter(|entry| entry.run).collect();
        if here.is_none() {
            self.history.first_start(machine, &needed);
        }
        // What is on this very host, its agent knows: it cannot be an old word.
        let beside: Vec<_> = needed.into_iter().filter(|entry| entry.host == id).collect();
        self.history.start(machine, &beside);
    }

    /// Asks the coordinator; the answer, or its absence, ends the order.
    fn ask(&mut self, id: HostId, order: (u64, Action), machine: Key, request: Request) {
        let Some(agent) = self.agent_mut(id) else { return };
        let number = order.0;
        agent.asked.insert(machine.clone(), order);
        self.ask_coordinator(id, machine.0, request, Asker::Machine(machine, number));
    }

    fn work(&mut self, host: HostId, machine: Key, number: u64, ((least, most), work): ((u64, u64), Work)) {
        let Some(run) = self.agent_mut(host).map(|agent| agent.run) else { return };
        let takes = self.random.between(least, most);
        self.after(takes, Event::Finish { host, run, machine, number, work });
    }

    pub(super) fn finish(&mut self, id: HostId, run: u64, machine: Key, number: u64, work: Work) {
        if !self.runs(id, run) {
            return;
        }
        let outcome = match work {
            Work::Launch(settings) => self.launched(id, &machine, settings),
            Work::Stop => rules::Outcome::Stopped(self.stopped(id, &machine)),
            Work::Find { patient } => self.found(id, &machine, patient),
            Work::Remove(epoch) => {
                let Some(host) = self.hosts.get_mut(&id) else { return };
                if host.disk.launched.get(&machine).is_some_and(|settings| settings.epoch <= epoch) {
                    host.disk.launched.remove(&machine);
                    host.shims.remove(&machine);
                }
                rules::Outcome::Removed
            }
        };
        self.done(id, machine, number, outcome);
    }

    fn done(&mut self, id: HostId, (session, machine): Key, number: u64, outcome: rules::Outcome) {
        let Some(host) = self.hosts.get(&id) else { return };
        let lies = host.disk.launched.get(&(session, machine.clone())).copied();
        let lies = lies.map_or(rules::Lies::Nothing, rules::Lies::Launched);
        self.happen(id, session, rules::Event::Done { machine, number, lies, outcome });
    }

    /// A fetch ended; with success, if a host that has the image was reached.
    pub(super) fn fetched(&mut self, id: HostId, run: u64, session: SessionId) {
        if self.agent_mut(id).is_none_or(|agent| agent.run != run) {
            return;
        }
        let holder = |other: &HostId| self.hosts.get(other).is_some_and(|host| host.disk.image);
        let well = self.reached(id).iter().any(holder);
        if well
            && let Some(host) = self.hosts.get_mut(&id)
            && !std::mem::replace(&mut host.disk.image, true)
        {
            self.tell(Some(id), || "the image is here".into());
        }
        let ended = if well { Ok(()) } else { Err("no host with the image can be reached".to_owned()) };
        self.happen(id, session, rules::Event::Fetched(image().digest, ended));
        for session in self.sessions() {
            let images = self.hosts.get(&id).map(Host::images).unwrap_or_default();
            self.happen(id, session, rules::Event::Images(images));
        }
    }

    pub(super) fn check_names(&mut self, id: HostId) -> Result<(), Violation> {
        let Some(host) = self.hosts.get(&id) else { return Ok(()) };
        let zone = host.zone();
        for share in host.disk.shares.values() {
            for (group, entry) in &share.directory.groups {
                let name = format!("{group}.{}.{}", share.name, zone.zone);
                let view = View::Guest(share.session, Egress::Internet);
                let answer = names::answer(&zone, view, &name, Kind::A);
                self.history.check_answer(&host.name, share.session, entry, &answer)?;
            }
        }
        Ok(())
    }

    pub(super) fn agent_mut(&mut self, id: HostId) -> Option<&mut Agent> {
        self.hosts.get_mut(&id)?.agent.as_mut()
    }

    /// Ends an agent in order: it waits for what would be left half made, but not for ever.
    pub(super) fn end_agent(&mut self, id: HostId) {
        let Some(agent) = self.agent_mut(id) else { return };
        agent.ending = true;
        let (run, sessions) = (agent.run, agent.machines.keys().copied().collect::<Vec<_>>());
        for session in &sessions {
            self.happen(id, *session, rules::Event::Ending);
        }
        if sessions.is_empty() {
            self.cut_off(id, run);
        }
        self.after(STAGE_MS, Event::CutOff(id, run));
    }

    /// An agent that was told to end has no time left.
    pub(super) fn cut_off(&mut self, id: HostId, run: u64) {
        if let Some(host) = self.hosts.get_mut(&id).filter(|h| h.agent.as_ref().is_some_and(|a| a.run == run))
        {
            host.agent = None;
        }
    }
}
