//! The shell of `proto::run::host` for one session: gathers what happens on this host, hands it to the machine
//! there, and carries out what it says. One task a session; each order is a task of its own and may be
//! repeated after a crash. Nothing here decides: not what to start, not when to give up, not when to look again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
};

use futures::FutureExt;
use mesh::Clock;
use proto::{
    id::{Digest, MachineName, SessionId},
    picture::{Change, readiness},
    run::{
        Rules,
        host::{self as rules, Effect, Event, Lies, Order, Outcome},
    },
    session::{Share, reconcile::Settings},
    time::Moment,
    trust::Capability,
};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    actions::{self, Ended, Means, News, Work},
    ground::Ground,
    nic::{self, Edges},
    table::Table,
};
use crate::machine::{
    self, Launch, Paths, Shim, ShimStatus,
    record::{self, Record},
};

/// News from action and probe tasks that wait for the loop. Each machine has a handful at most.
const NEWS: usize = 256;

/// What the loop of a session needs of others.
#[derive(Clone)]
pub struct Parts {
    /// What every task stands on.
    pub ground: Ground,
    /// What is here of sessions: it forgets this one.
    pub table: Table,
    /// The network and names of machines.
    pub edges: Edges,
    /// What machines are made with.
    pub means: Means,
    /// Where sockets go.
    pub run: PathBuf,
    /// What this host's owner allows.
    pub owner: rules::Owner,
}

/// A shim that is listened to, with the tasks that do so.
struct Held {
    shim: Shim,
    tasks: Vec<AbortHandle>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What the machine was told last of what is watched here.
#[derive(Default)]
struct Shown {
    share: Option<Arc<Share>>,
    ready: BTreeSet<MachineName>,
    images: BTreeSet<Digest>,
    arrived: BTreeMap<Digest, u64>,
    buried: bool,
    barred: bool,
    out: bool,
}

struct Shell {
    parts: Parts,
    session: SessionId,
    files: machine::Host,
    rules: rules::Host,
    held: BTreeMap<MachineName, Held>,
    shown: Shown,
    /// Machines whose lost intent was told.
    lost: BTreeSet<MachineName>,
    wake: Option<Moment>,
    news: mpsc::Sender<News>,
    heard: mpsc::Receiver<News>,
}

/// Runs until the session is buried or the daemon ends; machines run on in the second case.
pub async fn run(parts: Parts, session: SessionId) {
    let (files, owner) = (machine::Host::new(parts.run.clone()), parts.owner);
    let (news, heard) = mpsc::channel(NEWS);
    let mut this = Shell {
        parts,
        session,
        files,
        rules: rules::Host::new(Rules::default(), owner),
        held: BTreeMap::new(),
        shown: Shown::default(),
        lost: BTreeSet::new(),
        wake: None,
        news,
        heard,
    };
    this.run().await;
}

impl Shell {
    async fn run(&mut self) {
        let stop = self.parts.ground.stop.clone();
        let session = self.session;
        let wakes = self.parts.ground.pictures.wakes(move |change| *change == Change::Session(session));
        let mut images = self.parts.means.images.watch();
        let mut transfers = self.parts.means.images.transfers();
        let mut roll = self.parts.ground.mesh.roll();
        let mut leaving = self.parts.ground.leaving.subscribe();
        let names = self.parts.means.store.machines(self.session);
        let mut event =
            Some(Event::Begun(names.into_iter().map(|name| (name.clone(), self.lies(&name))).collect()));
        let mut ending = false;
        loop {
            let mut events = VecDeque::from(self.gather());
            if self.shown.share.is_none() {
                return;
            }
            events.extend(event.take());
            for event in events {
                if self.tell(event, None).await {
                    return;
                }
            }
            // Every arm may be dropped: a watch only wakes the loop, what changed is gathered above; a queue loses
            // nothing; a moment is waited for again.
            tokio::select! {
                () = stop.cancelled(), if !ending => {
                    ending = true;
                    event = Some(Event::Ending);
                }
                () = wakes.changed() => {}
                changed = images.changed() => if changed.is_err() { return },
                changed = transfers.changed() => if changed.is_err() { return },
                changed = roll.changed() => if changed.is_err() { return },
                // Its sender lives as long as this host's part of the ground.
                Ok(()) = leaving.changed() => leaving.mark_unchanged(),
                Some(news) = self.heard.recv() => if self.hear(news).await { return },
                () = woken(self.wake) => {
                    self.wake = None;
                    event = Some(Event::Woken);
                }
            }
        }
    }

    /// Says what has changed of what is watched.
    fn gather(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(share) = self.parts.ground.share(self.session) else {
            self.shown.share = None;
            return events;
        };
        let images = &self.parts.means.images;
        let wanted = share.machines.iter().map(|spec| spec.image);
        let complete: BTreeSet<Digest> = wanted.filter(|image| images.path(*image).is_some()).collect();
        let transfers = images.transfers();
        let bytes = |image: Digest| transfers.borrow().get(&image).map(|progress| (image, progress.done));
        let arrived: BTreeMap<Digest, u64> =
            share.machines.iter().filter_map(|spec| bytes(spec.image)).collect();
        let picture = self.parts.ground.picture();
        let ready = readiness::ready(&picture, &share);
        let out = picture.out.contains_key(&picture.me);
        let ground = &self.parts.ground;
        let barred = !ground.may(ground.me()).has(Capability::Run) || *ground.leaving.borrow();
        let shown = &mut self.shown;
        if shown.barred != barred {
            events.push(Event::Barred(barred));
        }
        if shown.images != complete {
            events.push(Event::Images(complete.clone()));
        }
        if shown.arrived != arrived {
            events.push(Event::Arrived(arrived.clone()));
        }
        if out && !shown.out {
            events.push(Event::Out);
        }
        let same = shown.share.as_ref().is_some_and(|known| Arc::ptr_eq(known, &share));
        match same {
            false => events.push(Event::Share(share.clone(), ready.clone())),
            true if shown.ready != ready => events.push(Event::Ready(ready.clone())),
            true => {}
        }
        let buried = self.parts.ground.buried(self.session);
        if buried && !shown.buried {
            events.push(Event::Buried);
        }
        *shown = Shown { share: Some(share), ready, images: complete, arrived, buried, barred, out };
        events
    }

    async fn hear(&mut self, news: News) -> bool {
        match news {
            News::Done(machine, number, Ended(outcome, shim)) => {
                let lies = self.lies(&machine);
                self.tell(Event::Done { machine, number, lies, outcome }, shim).await
            }
            News::Told(machine, told) => self.tell(Event::Told(machine, told), None).await,
            News::Silent(machine, process) => {
                let because = format!("its shim does not answer (process {})", process.pid);
                self.tell(Event::Silent(machine, process.life(), because), None).await
            }
            News::Probed(machine, life, service, passed) => {
                self.tell(Event::Probed(machine, life, service, passed), None).await
            }
            News::Fetched(image, ended) => self.tell(Event::Fetched(image, ended), None).await,
        }
    }

    /// Hands an event over and carries out what follows. `shim` answers since this event. True = it is over.
    async fn tell(&mut self, event: Event, mut shim: Option<Shim>) -> bool {
        for effect in self.rules.on(event, Clock.moment()) {
            match effect {
                Effect::Order(order) => self.order(order),
                Effect::Fetch { image, size } => {
                    let from = (self.parts.ground.clone(), self.parts.means.images.clone());
                    tokio::spawn(actions::fetch(from, (image, size), self.news.clone()));
                }
                Effect::Watch(machine) => {
                    if let Some(shim) = shim.take() {
                        self.watch(machine, shim);
                    }
                }
                Effect::Release(machine) => drop(self.held.remove(&machine)),
                Effect::Attach(machine) => {
                    if let Some(held) = self.held.get(&machine) {
                        nic::attach(&self.parts.edges, self.session, &held.shim.launch().spec, &held.shim);
                    }
                }
                Effect::Detach(machine) => self.parts.edges.detach(self.session, &machine),
                Effect::Route(share) => {
                    self.parts.edges.route(self.session, &share.directory);
                }
                Effect::Report(version, machines) => {
                    self.parts.ground.report(self.session, version, machines).await
                }
                Effect::Tell(fact) => self.parts.ground.tell(fact),
                Effect::Wake(at) => self.wake = at,
                Effect::Forget => {
                    self.parts.table.forget(self.session).await;
                    return true;
                }
                Effect::Rest => return true,
            }
        }
        false
    }

    fn order(&self, order: Order) {
        let (machine, number) = (order.machine.clone(), order.number);
        let work = Work {
            means: self.parts.means.clone(),
            host: self.files.clone(),
            shim: self.held.get(&machine).map(|held| held.shim.clone()),
            dir: self.dir(&machine),
            order,
        };
        let news = self.news.clone();
        // Not bound to the shim's life: an action that was begun is carried to its end.
        tokio::spawn(async move {
            // A panic must not leave the machine busy for ever.
            let carried = AssertUnwindSafe(actions::carry_out(work)).catch_unwind().await;
            let failed = || Outcome::Failed("the agent failed: see its log".into()).into();
            // The loop has ended with the daemon; the next one looks for itself.
            let _heard = news.send(News::Done(machine, number, carried.unwrap_or_else(|_| failed()))).await;
        });
    }

    /// Starts the tasks that live as long as a shim.
    fn watch(&mut self, machine: MachineName, shim: Shim) {
        let mut tasks = Vec::new();
        let follow = actions::follow(shim.clone(), machine.clone(), self.news.clone());
        tasks.push(tokio::spawn(follow).abort_handle());
        let listen = actions::listen(shim.clone(), machine.clone(), self.news.clone());
        tasks.push(tokio::spawn(listen).abort_handle());
        for (service, proto::topology::Service { port, ready, .. }) in shim.launch().spec.services.clone() {
            let Some(ready) = ready else { continue };
            let whose = (shim.clone(), machine.clone());
            let check = actions::check(whose, (service, port, ready), self.news.clone());
            tasks.push(tokio::spawn(check).abort_handle());
        }
        self.held.insert(machine, Held { shim, tasks });
    }

    fn dir(&self, machine: &MachineName) -> PathBuf {
        self.parts.means.store.machine(self.session, machine)
    }

    /// Reads what lies in a machine's directory.
    fn lies(&mut self, machine: &MachineName) -> Lies {
        let paths = Paths::new(&self.dir(machine), &self.files.run);
        let because = match record::read::<Launch>(&paths.launch()) {
            Ok(Record::Whole(launch)) => return Lies::Launched(Settings::of(&launch.spec)),
            Ok(Record::Absent) if matches!(paths.disk().try_exists(), Ok(false)) => return Lies::Nothing,
            Ok(Record::Absent) => None,
            Ok(Record::Damaged(because)) => Some(because),
            Err(error) => Some(error.to_string()),
        };
        // Once, because it is looked at after every action.
        if let Some(because) = because
            && self.lost.insert(machine.clone())
        {
            tracing::error!(path = %paths.launch().display(), because, "the intent of a start cannot be read");
        }
        Lies::Unclear(record::known::<ShimStatus>(&paths.status()).map(|last| last.epoch))
    }
}

/// Waits for a moment, or for ever.
async fn woken(at: Option<Moment>) {
    match at {
        Some(at) => Clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
