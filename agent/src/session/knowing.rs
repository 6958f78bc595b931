//! The task around `proto::run::knowledge`, one for all sessions of this host: it gathers what the machine
//! looks at, carries out what it says, and publishes what is believed now. Others put questions into its
//! mailbox or read what it published; nothing here decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use mesh::Clock;
use proto::{
    id::{HostId, SessionId},
    picture::{Change, heads},
    run::knowledge::{Effect, Event, Knowledge, View, Wants},
    session::Share,
    time::Moment,
    wire::{
        record::HeadRecord,
        rpc::{Answer, Refusal, Request},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    contents,
    sessions::Sessions,
    table::{self, Table},
};

/// One question of this host to another about a share or about who is believed.
const ASK: std::time::Duration = std::time::Duration::from_secs(5);

/// Questions that wait; as many as members' requests that are answered at once.
const LETTERS: usize = 64;

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

/// Handle to what is believed of sessions.
#[derive(Clone)]
pub struct Known {
    me: HostId,
    believed: watch::Receiver<Arc<Believed>>,
    mailbox: mpsc::Sender<Letter>,
}

/// The task that is not yet running.
pub(super) struct Knower {
    believed: watch::Sender<Arc<Believed>>,
    mailbox: mpsc::Receiver<Letter>,
}

/// Makes the handle and its task.
pub(super) fn build(me: HostId) -> (Known, Knower) {
    let (sender, mailbox) = mpsc::channel(LETTERS);
    let (believed, shown) = watch::channel(Arc::default());
    (Known { me, believed: shown, mailbox: sender }, Knower { believed, mailbox })
}

struct Knowing {
    sessions: Sessions,
    knowledge: Knowledge,
    believed: watch::Sender<Arc<Believed>>,
    mailbox: mpsc::Receiver<Letter>,
    tickets: u64,
    answers: BTreeMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    /// What was begun, and what the machine is told of it when it ended.
    work: JoinSet<Option<Event>>,
    wake: Option<Moment>,
}

impl Knower {
    /// Runs until the daemon ends.
    pub(super) async fn run(self, sessions: Sessions, knowledge: Knowledge) {
        let Knower { believed, mailbox } = self;
        let (answers, work) = (BTreeMap::new(), JoinSet::new());
        let mut this =
            Knowing { sessions, knowledge, believed, mailbox, tickets: 0, answers, work, wake: None };
        this.run().await;
    }
}

impl Knowing {
    async fn run(&mut self) {
        let wakes = self.sessions.deps().pictures.wakes(|change| !matches!(change, Change::Image(_)));
        let mut roll = self.sessions.deps().mesh.roll();
        let stop = self.sessions.deps().stop.clone();
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
        let (picture, roll) = (self.sessions.picture(), self.sessions.deps().mesh.roll().borrow().clone());
        let mut said: BTreeMap<SessionId, BTreeMap<HostId, HeadRecord>> = BTreeMap::new();
        for (host, session) in heads::speakers(&picture) {
            let head = heads::said(&picture, host, session).cloned();
            said.entry(session).or_default().extend(head.map(|head| (host, head)));
        }
        let logs = self.sessions.table.logs();
        let named = logs.iter().map(|(session, log)| (*session, log.lead().borrow().named.clone()));
        let named: BTreeMap<SessionId, BTreeSet<HostId>> = named.collect();
        let shares = self.sessions.deps().own.shares.borrow().clone();
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
                let (session, sessions) = (share.session, self.sessions.clone());
                let work = async move {
                    let letter = |done| table::Letter::Store(share, voices, done);
                    Event::Stored(session, sessions.table.write_down(letter).await)
                };
                self.begin(work, Event::Stored(session, Err("the agent failed: see its log".into())));
            }
            Effect::Show(share) => self.sessions.show(share),
            Effect::Fetch(session, from, content) => {
                let sessions = self.sessions.clone();
                let work = async move {
                    let ended = match contents::fetch(&sessions, session, from, content).await {
                        Ok(bytes) => {
                            let letter = |done| table::Letter::Content(session, bytes, done);
                            sessions.table.write_down(letter).await
                        }
                        Err(because) => Err(because),
                    };
                    Event::Fetched(session, content, ended)
                };
                let failed = Err("the agent failed: see its log".into());
                self.begin(work, Event::Fetched(session, content, failed));
            }
            Effect::Lacks(share, because) => {
                self.work.spawn(contents::lacks(self.sessions.clone(), share, because).map(|()| None));
            }
            Effect::Pull(session, from) => {
                let sessions = self.sessions.clone();
                let work = async move { Event::Pulled(session, from, pull(&sessions, session, from).await) };
                self.begin(work, Event::Pulled(session, from, None));
            }
            Effect::AskVoices(session, host) => {
                let mesh = self.sessions.deps().mesh.clone();
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
                let kept = keep_voices(self.sessions.table.clone(), session, voices);
                self.work.spawn(kept.map(|()| None));
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
        let shares = self.sessions.deps().own.shares.borrow().clone();
        let groups: Vec<SessionId> = self.sessions.table.logs().keys().copied().collect();
        let spoken: BTreeSet<SessionId> = self.knowledge.spoken_of().collect();
        let all: BTreeSet<SessionId> = shares.keys().copied().chain(groups).chain(spoken).collect();
        let head = |session: &SessionId| {
            let (host, head) = self.knowledge.head(*session)?;
            Some((*session, (host, head.clone())))
        };
        self.believed.send_replace(Arc::new(Believed {
            voices: all.iter().map(|session| (*session, self.knowledge.voices(*session))).collect(),
            heads: all.iter().filter_map(head).collect(),
        }));
    }
}

async fn keep_voices(table: Table, session: SessionId, voices: BTreeSet<HostId>) {
    let letter = |done| table::Letter::Voices(session, voices, done);
    if let Err(error) = table.write_down(letter).await {
        tracing::warn!(%session, %error, "who is believed is not remembered");
    }
}

async fn pull(sessions: &Sessions, session: SessionId, from: HostId) -> Option<Box<Share>> {
    match sessions.deps().mesh.call(from, Request::GetShare(session), ASK).await {
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

impl Known {
    async fn want(&self, from: HostId, wants: Wants) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let ends = || Refusal::Failed("its agent is ending".into());
        self.mailbox.send(Letter::Asked(from, wants, answer)).await.map_err(|_| ends())?;
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
        if self.mailbox.send(Letter::Forgotten(session, done)).await.is_ok() {
            // Err only when the daemon ends.
            noted.await.ok();
        }
    }

    /// Lets what is believed follow what this host's logs say now.
    pub fn look(&self) {
        // When the mailbox is full, it looks with the next letter anyway.
        self.mailbox.try_send(Letter::Look).ok();
    }

    /// Gives everything that is believed.
    pub fn all(&self) -> Arc<Believed> {
        self.believed.borrow().clone()
    }

    /// Tells whose word on a session counts here; nobody's while its birth is not known.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        self.believed.borrow().voices.get(&session).cloned().unwrap_or_default()
    }

    /// Tells whether a host's word on a session counts here.
    pub fn has_voice(&self, session: SessionId, host: HostId) -> bool {
        let believed = self.believed.borrow();
        host == self.me || believed.voices.get(&session).is_some_and(|voices| voices.contains(&host))
    }

    /// Gives the newest head of a session that gossip knows, with the host that says so.
    pub fn head(&self, session: SessionId) -> Option<(HostId, HeadRecord)> {
        self.believed.borrow().heads.get(&session).cloned()
    }
}
