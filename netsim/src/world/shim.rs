//! The processes of machines: shims that answer or fall silent, guests that start and crash, and what the agent
//! of their host hears of them. They get on without it.

use proto::{id::HostId, run::host as rules, session::reconcile::Settings};

use super::{Event, Key, Step, World, host::Process};

impl World {
    /// Looks for the process of a machine. One that is silent is ended once nobody has patience any more.
    pub(super) fn found(&mut self, id: HostId, machine: &Key, patient: bool) -> rules::Outcome {
        let (now, hosts) = (self.now, &self.hosts);
        let process = hosts.get(&id).and_then(|host| host.shims.get(machine));
        match process {
            Some(process) if process.is_silent(now) && patient => {
                rules::Outcome::Unseen("its shim does not answer".into())
            }
            Some(process) if process.is_silent(now) => rules::Outcome::Stopped(self.stopped(id, machine)),
            Some(process) if process.alive() => rules::Outcome::Adopted(process.settings, process.told()),
            last => rules::Outcome::Gone(last.map(Process::told)),
        }
    }

    pub(super) fn stopped(&mut self, id: HostId, machine: &Key) -> Option<rules::Told> {
        let process = self.hosts.get_mut(&id).and_then(|host| host.shims.get_mut(machine))?;
        process.ended.get_or_insert(rules::Ending { asked: true, clean: true, because: "stopped".into() });
        Some(process.told())
    }

    pub(super) fn launched(&mut self, id: HostId, machine: &Key, settings: Settings) -> rules::Outcome {
        let pid = self.number();
        let process = Process::new(pid, settings);
        let told = process.told();
        let Some(host) = self.hosts.get_mut(&id) else { return rules::Outcome::Gone(None) };
        if host.shims.insert(machine.clone(), process).is_some_and(|old| old.alive()) {
            self.history.twice_here(machine, host.name.as_str());
        }
        let wait = self.random.between(100, 800);
        self.after(wait, Event::Process(id, machine.clone(), pid, Step::Run));
        rules::Outcome::Launched(settings, told)
    }

    /// What a shim says reaches the agent that listens to it, unless it answers nobody.
    pub(super) fn hear_shim(&mut self, id: HostId, machine: &Key) {
        let now = self.now;
        let Some(host) = self.hosts.get(&id) else { return };
        let watched = host.agent.as_ref().is_some_and(|agent| agent.watched.contains(machine));
        let Some(process) = host.shims.get(machine).filter(|p| watched && !p.is_silent(now)) else { return };
        let (told, ready) = (process.told(), process.ready);
        let (session, name) = machine.clone();
        let life = told.life;
        self.happen(id, session, rules::Event::Told(name.clone(), told));
        if ready {
            let service = "main".parse().expect("a valid name");
            self.happen(id, session, rules::Event::Probed(name, life, service, true));
        }
    }

    /// A shim was asked and did not answer, more than once.
    pub(super) fn miss_shim(&mut self, id: HostId, machine: &Key, pid: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get(&id) else { return };
        let silent = |process: &&Process| process.pid == pid && process.is_silent(now);
        let watched = host.agent.as_ref().is_some_and(|agent| agent.watched.contains(machine));
        if watched && host.shims.get(machine).filter(silent).is_some() {
            let (session, name) = machine.clone();
            let because = "its shim does not answer".to_owned();
            self.happen(id, session, rules::Event::Silent(name, rules::Life(pid), because));
        }
    }

    /// The shim and the guest get on without the agent.
    pub(super) fn progress(&mut self, id: HostId, machine: &Key, pid: u64, step: Step) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let began = host.moment(now);
        let Some(process) = host.shims.get_mut(machine).filter(|p| p.pid == pid && p.alive()) else { return };
        let next = match step {
            Step::Run => {
                process.began = Some(began);
                Some((Step::Boot, (500, 3000)))
            }
            Step::Boot => {
                process.booted = true;
                Some((Step::Ready, (100, 1000)))
            }
            Step::Ready => {
                process.ready = true;
                self.tell(Some(id), || format!("{} is ready", machine.1));
                None
            }
        };
        self.shim_speaks(id, machine);
        if let Some((next, (least, most))) = next {
            let takes = self.random.between(least, most);
            self.after(takes, Event::Process(id, machine.clone(), pid, next));
        }
    }

    /// Lets the agent hear, a moment later, what its shim has to say.
    fn shim_speaks(&mut self, id: HostId, machine: &Key) {
        let delay = self.random.between(1, 20);
        self.after(delay, Event::ShimProcess(id, machine.clone()));
    }

    /// QEMU dies by itself.
    pub(super) fn crash(&mut self, id: HostId, machine: &Key) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(process) = host.shims.get_mut(machine).filter(|process| process.alive()) else { return };
        let because = "QEMU got signal 9".to_owned();
        process.ended = Some(rules::Ending { asked: false, clean: false, because });
        self.tell(Some(id), || format!("QEMU of {} dies", machine.1));
        self.shim_speaks(id, machine);
    }

    /// The shim of a machine answers nobody for a while.
    pub(super) fn falls_silent(&mut self, id: HostId, machine: &Key, millis: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(process) = host.shims.get_mut(machine).filter(|process| process.alive()) else { return };
        process.silent = Some((now, now.plus_ms(millis)));
        let (pid, name) = (process.pid, &machine.1);
        self.tell(Some(id), || format!("the shim of {name} answers nobody for {} s", millis / 1000));
        let noticed = self.random.between(5_000, 15_000);
        self.after(noticed, Event::Silence(id, machine.clone(), pid));
        self.after(millis, Event::ShimProcess(id, machine.clone()));
    }
}
