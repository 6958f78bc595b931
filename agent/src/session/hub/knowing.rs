//! The task around `proto::run::knowledge`, one for all sessions of this host: it gathers what the machine
//! looks at, carries out what it says, and publishes what is believed now. Others put questions into its
//! mailbox or read what it published; nothing here decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use mesh::Clock;
use proto::{
    id::{HostId, SessionId},
    picture::{Change, heads},
    run::knowledge::{Effect, Event, Knowledge, View, Wants, route},
    session::Share,
    time::Moment,
    wire::{
        record::HeadRecord,
        rpc::{Answer, Refusal, Request},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{Hub, lock};
use crate::session::{contents, requests};

/// One question of this host to another about a share or about who is believed.
const ASK: std::time::Duration = std::time::Duration::from_secs(5);

/// What is believed of sessions now.
#[derive(Clone, Debug, Default)]
pub struct Believed {
    /// Whose word counts, by session.
    voices: BTreeMap<SessionId, BTreeSet<HostId>>,
    /// The newest head of each session that is spoken of, with the host that says so.
    heads: BTreeMap<SessionId, (HostId, HeadRecord)>,
}

impl Believed {
    pub(super) fn heads(&self) -> impl Iterator<Item = (SessionId, &HeadRecord)> {
        self.heads.iter().map(|(session, (_, head))| (*session, head))
    }
}

/// What is put into the mailbox.
pub(super) enum Letter {
    /// A member wants something that only a voice may.
    Asked(HostId, Wants, oneshot::Sender<Result<(), Refusal>>),
    /// Everything of a session was removed.
    Forgotten(SessionId, oneshot::Sender<()>),
    /// A log names other hosts now.
    Look,
}

struct Knowing {
    hub: Hub,
    knowledge: Knowledge,
    mailbox: mpsc::Receiver<Letter>,
    tickets: u64,
    answers: BTreeMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    /// What was begun, and what the machine is told of it when it ended.
    work: JoinSet<Option<Event>>,
    wake: Option<Moment>,
}

/// Runs until the daemon ends.
pub(super) async fn run(hub: Hub, knowledge: Knowledge, mailbox: mpsc::Receiver<Letter>) {
    let (answers, work) = (BTreeMap::new(), JoinSet::new());
    let mut this = Knowing { hub, knowledge, mailbox, tickets: 0, answers, work, wake: None };
    this.run().await;
}

impl Knowing {
    async fn run(&mut self) {
        let wakes = self.hub.deps().pictures.wakes(|change| !matches!(change, Change::Image(_)));
        let mut roll = self.hub.deps().mesh.roll();
        let stop = self.hub.deps().stop.clone();
        loop {
            self.on(Event::Look(Box::new(self.view())));
            self.publish();
            let wake = self.wake;
            let until = async move {
                match wake {
                    Some(at) => Clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // No arm loses anything when it is dropped: a token, watches, a queue, a join set, a timer.
            let event = tokio::select! {
                () = stop.cancelled() => return,
                () = wakes.changed() => None,
                changed = roll.changed() => if changed.is_err() { return } else { None },
                letter = self.mailbox.recv() => match letter {
                    Some(letter) => self.open(letter),
                    None => return,
                },
                Some(ended) = self.work.join_next() => ended.ok().flatten(),
                () = until => None,
            };
            if let Some(event) = event {
                // What the question is about may be newer than the last look.
                self.on(Event::Look(Box::new(self.view())));
                self.on(event);
            }
        }
    }

    fn open(&mut self, letter: Letter) -> Option<Event> {
        match letter {
            Letter::Look => None,
            Letter::Forgotten(session, done) => {
                self.on(Event::Forgotten(session));
                self.publish();
                // Whoever asked may be gone.
                done.send(()).ok();
                None
            }
            Letter::Asked(from, wants, answer) => {
                self.tickets += 1;
                self.answers.insert(self.tickets, answer);
                Some(Event::Asked { ticket: self.tickets, from, wants })
            }
        }
    }

    fn view(&self) -> View {
        let (picture, roll) = (self.hub.picture(), self.hub.deps().mesh.roll().borrow().clone());
        let mut said: BTreeMap<SessionId, BTreeMap<HostId, HeadRecord>> = BTreeMap::new();
        for (host, session) in heads::speakers(&picture) {
            let head = heads::said(&picture, host, session).cloned();
            said.entry(session).or_default().extend(head.map(|head| (host, head)));
        }
        let groups = lock(&self.hub.inner.groups);
        let named = groups.iter().map(|(session, group)| (*session, group.lead().borrow().named.clone()));
        let named: BTreeMap<SessionId, BTreeSet<HostId>> = named.collect();
        drop(groups);
        let shares = self.hub.inner.deps.own.shares.borrow().clone();
        let sessions: BTreeSet<SessionId> =
            said.keys().chain(named.keys()).chain(shares.keys()).copied().collect();
        let born = |session: &SessionId| Some((*session, roll.set.genesis(*session)?.voters.clone()));
        View {
            births: sessions.iter().filter_map(born).chain(self.asked_births(&roll)).collect(),
            buried: roll.set.tombstones().map(|tombstone| tombstone.session).collect(),
            heads: said,
            named,
            members: picture.members.keys().copied().collect(),
            up: picture.up().map(|(host, _)| host).collect(),
        }
    }

    /// Gives the births of sessions that somebody asks about before anything else of them is here.
    fn asked_births(&self, roll: &mesh::Roll) -> Vec<(SessionId, Vec<HostId>)> {
        let asked = self.knowledge.waited_for();
        let born = |session: SessionId| Some((session, roll.set.genesis(session)?.voters.clone()));
        asked.into_iter().filter_map(born).collect()
    }

    fn on(&mut self, event: Event) {
        self.wake = None;
        for effect in self.knowledge.on(event, Clock.moment()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(ticket, result) => self.answer(ticket, result),
            // Whoever asked opens it.
            Effect::OpenLog(ticket, _) => self.answer(ticket, Ok(())),
            Effect::Store(share, voices) => {
                let (session, hub) = (share.session, self.hub.clone());
                let work = async move { Event::Stored(session, store(&hub, share, voices).await) };
                self.begin(work, Event::Stored(session, Err("the agent failed: see its log".into())));
            }
            Effect::Show(share) => self.hub.show(share),
            Effect::Fetch(session, from, content) => {
                let hub = self.hub.clone();
                let work = async move {
                    let ended = match contents::fetch(&hub, session, from, content).await {
                        Ok(bytes) => put_content(&hub, session, bytes).await,
                        Err(because) => Err(because),
                    };
                    Event::Fetched(session, content, ended)
                };
                let failed = Err("the agent failed: see its log".into());
                self.begin(work, Event::Fetched(session, content, failed));
            }
            Effect::Lacks(share, because) => {
                self.work.spawn(contents::lacks(self.hub.clone(), share, because).map(|()| None));
            }
            Effect::Pull(session, from) => {
                let hub = self.hub.clone();
                let work = async move { Event::Pulled(session, from, pull(&hub, session, from).await) };
                self.begin(work, Event::Pulled(session, from, None));
            }
            Effect::AskVoices(session, host) => {
                let mesh = self.hub.deps().mesh.clone();
                let work = async move {
                    let said = match mesh.call(host, Request::Voices(session), ASK).await {
                        Ok(Answer::Voices(said)) => Some(said),
                        _ => None,
                    };
                    Event::Said(session, host, said)
                };
                self.begin(work, Event::Said(session, host, None));
            }
            Effect::KeepVoices(session, voices) => {
                self.work.spawn(keep_voices(self.hub.clone(), session, voices).map(|()| None));
            }
            Effect::Wake(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
        }
    }

    fn answer(&mut self, ticket: u64, result: Result<(), Refusal>) {
        // Whoever asked may be gone.
        self.answers.remove(&ticket).map(|answer| answer.send(result).ok());
    }

    /// Begins work that ends with an event; one that panics ends with `failed`.
    fn begin(&mut self, work: impl Future<Output = Event> + Send + 'static, failed: Event) {
        let work = AssertUnwindSafe(work).catch_unwind();
        self.work.spawn(async move { Some(work.await.unwrap_or(failed)) });
    }

    fn publish(&self) {
        let shares = self.hub.inner.deps.own.shares.borrow().clone();
        let groups: Vec<SessionId> = lock(&self.hub.inner.groups).keys().copied().collect();
        let spoken: BTreeSet<SessionId> = self.knowledge.spoken_of().collect();
        let all: BTreeSet<SessionId> = shares.keys().copied().chain(groups).chain(spoken).collect();
        let head = |session: &SessionId| {
            let (host, head) = self.knowledge.head(*session)?;
            Some((*session, (host, head.clone())))
        };
        self.hub.inner.believed.send_replace(Arc::new(Believed {
            voices: all.iter().map(|session| (*session, self.knowledge.voices(*session))).collect(),
            heads: all.iter().filter_map(head).collect(),
        }));
    }
}

/// Writes a share down, and with a session's first who is believed. What comes and goes does so one at a time.
async fn store(hub: &Hub, share: Arc<Share>, voices: Option<BTreeSet<HostId>>) -> Result<(), String> {
    let _one = hub.inner.door.lock().await;
    // Its burial may have waited at this door, too.
    if hub.buried(share.session) {
        return Err("the session has ended".into());
    }
    let store = hub.deps().store.clone();
    let written = tokio::task::spawn_blocking(move || {
        store.put(&share)?;
        voices.map_or(Ok(()), |voices| store.put_voices(share.session, &voices))
    });
    written.await.map_err(io::Error::other).and_then(|written| written).map_err(|error| error.to_string())
}

/// Writes bytes down that a share names. After the session's burial nothing of it comes back.
async fn put_content(hub: &Hub, session: SessionId, bytes: Arc<[u8]>) -> Result<(), String> {
    let _one = hub.inner.door.lock().await;
    if hub.buried(session) {
        return Err("the session has ended".into());
    }
    let store = hub.deps().store.clone();
    let written = tokio::task::spawn_blocking(move || store.put_content(session, &bytes)).await;
    let written = written.map_err(io::Error::other).and_then(|written| written);
    written.map_err(|error| format!("it cannot be written: {error}"))
}

/// Writes down who is believed. The door lets one in after the other, so that the newest is written last.
async fn keep_voices(hub: Hub, session: SessionId, voices: BTreeSet<HostId>) {
    let _one = hub.inner.door.lock().await;
    if hub.share(session).is_none() {
        return;
    }
    let store = hub.deps().store.clone();
    let written = tokio::task::spawn_blocking(move || store.put_voices(session, &voices)).await;
    if let Err(error) = written.map_err(io::Error::other).and_then(|written| written) {
        tracing::warn!(%session, %error, "who is believed is not remembered");
    }
}

async fn pull(hub: &Hub, session: SessionId, from: HostId) -> Option<Box<Share>> {
    match hub.deps().mesh.call(from, Request::GetShare(session), ASK).await {
        Ok(Answer::Share(share)) => Some(share),
        Ok(answer) => {
            tracing::debug!(%session, ?answer, "no share");
            None
        }
        Err(error) => {
            tracing::debug!(%session, %error, "no share");
            None
        }
    }
}

impl Hub {
    async fn want(&self, from: HostId, wants: Wants) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let ends = || Refusal::Failed("its agent is ending".into());
        self.inner.mailbox.send(Letter::Asked(from, wants, answer)).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())?
    }

    /// Takes a share that the coordinator sent.
    pub async fn accept(&self, from: HostId, share: Share) -> Result<(), Refusal> {
        self.want(from, Wants::Share(Box::new(share))).await
    }

    /// Tells whether a host may have a log opened here, after a moment of patience when the session's birth
    /// is not known yet.
    pub async fn hears(&self, session: SessionId, host: HostId) -> bool {
        self.want(host, Wants::Log(session)).await.is_ok()
    }

    /// Takes note that nothing of a session is here any more.
    pub(super) async fn forgotten(&self, session: SessionId) {
        let (done, noted) = oneshot::channel();
        if self.inner.mailbox.send(Letter::Forgotten(session, done)).await.is_ok() {
            // Err only when the daemon ends.
            noted.await.ok();
        }
    }

    /// Lets what is believed follow what this host's logs say now.
    pub fn look(&self) {
        // When the mailbox is full, it looks with the next letter anyway.
        self.inner.mailbox.try_send(Letter::Look).ok();
    }

    /// Tells whose word on a session counts here; nobody's while its birth is not known.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        self.inner.believed.borrow().voices.get(&session).cloned().unwrap_or_default()
    }

    /// Tells whether a host's word on a session counts here.
    pub fn has_voice(&self, session: SessionId, host: HostId) -> bool {
        let believed = self.inner.believed.borrow();
        host == self.me() || believed.voices.get(&session).is_some_and(|voices| voices.contains(&host))
    }

    /// Gives the newest head of a session that gossip knows, with the host that says so.
    pub fn head(&self, session: SessionId) -> Option<(HostId, HeadRecord)> {
        self.inner.believed.borrow().heads.get(&session).cloned()
    }

    /// Asks the coordinator of a session, following its hints, for a bounded time.
    pub async fn ask(&self, session: SessionId, request: Request) -> Result<Answer, Refusal> {
        let route = route::Route::new(Clock.moment());
        let until = route.until();
        tokio::select! {
            answer = self.ask_along(route, session, request) => answer,
            () = Clock.sleep_until(until) => Err(Refusal::NoQuorum),
        }
    }

    async fn ask_along(
        &self,
        mut route: route::Route,
        session: SessionId,
        request: Request,
    ) -> Result<Answer, Refusal> {
        loop {
            let known = self.share(session).is_some() || self.group(session).is_some();
            match route.next(self.coordinator(session), known, Clock.moment()) {
                route::Step::GiveUp(refusal) => return Err(refusal),
                route::Step::Pause(at) => Clock.sleep_until(at).await,
                route::Step::Ask(host) => {
                    let answer = if host == self.me() {
                        Some(requests::answer(self, host, request.clone()).await)
                    } else {
                        let called = self.deps().mesh.call(host, request.clone(), ASK).await;
                        called.inspect_err(|error| tracing::debug!(%host, %error, "no answer")).ok()
                    };
                    if let Some(result) = route.answered(host, answer) {
                        return result;
                    }
                }
            }
        }
    }
}
