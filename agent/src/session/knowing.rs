//! The task around `proto::run::knowledge`, one for all sessions of this host: it gathers what the machine
//! looks at, carries out what it says, and publishes what is believed now. Others put questions into its
//! mailbox or read what it published; nothing here decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use mesh::{Clock, Mesh};
use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    picture::{Change, heads},
    run::knowledge::{Effect, Event, Knowledge, View},
    session::Share,
    time::Moment,
    trust::Capability,
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
    ground::Ground,
    known::{Believed, Knower, Letter},
    table::{self, Table},
};

/// One question of this host to another about a share or about who is believed.
const ASK: std::time::Duration = std::time::Duration::from_secs(5);

/// What the task needs of others.
pub(super) struct Parts {
    /// What every task stands on.
    pub(super) ground: Ground,
    /// What is here of sessions.
    pub(super) table: Table,
    /// Starts what makes a session's shares true.
    pub(super) start: Box<dyn Fn(SessionId) + Send + Sync>,
}

struct Knowing {
    parts: Parts,
    knowledge: Knowledge,
    believed: watch::Sender<Arc<Believed>>,
    mailbox: mpsc::Receiver<Letter>,
    tickets: u64,
    answers: BTreeMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    /// What was begun, and what the machine is told of it when it ended.
    work: JoinSet<Option<Event>>,
    wake: Option<Moment>,
}

/// Runs until the daemon ends.
pub(super) async fn run(knower: Knower, parts: Parts, knowledge: Knowledge) {
    let Knower { believed, mailbox } = knower;
    let (answers, work) = (BTreeMap::new(), JoinSet::new());
    let mut this = Knowing { parts, knowledge, believed, mailbox, tickets: 0, answers, work, wake: None };
    this.run().await;
}

impl Knowing {
    async fn run(&mut self) {
        let wakes = self.parts.ground.pictures.wakes(|change| !matches!(change, Change::Image(_)));
        let mut roll = self.parts.ground.mesh.roll();
        let stop = self.parts.ground.stop.clone();
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
        let (picture, roll) = (self.parts.ground.picture(), self.parts.ground.mesh.roll().borrow().clone());
        let mut said: BTreeMap<SessionId, BTreeMap<HostId, HeadRecord>> = BTreeMap::new();
        for (host, session) in heads::speakers(&picture) {
            let head = heads::said(&picture, host, session).cloned();
            said.entry(session).or_default().extend(head.map(|head| (host, head)));
        }
        let logs = self.parts.table.logs();
        let named = logs.iter().map(|(session, log)| (*session, log.lead().borrow().named.clone()));
        let named: BTreeMap<SessionId, BTreeSet<HostId>> = named.collect();
        let shares = self.parts.ground.shares();
        let sessions: BTreeSet<SessionId> =
            said.keys().chain(named.keys()).chain(shares.keys()).copied().collect();
        let born = |session: &SessionId| Some((*session, roll.set.genesis(*session)?.voters.clone()));
        let births: Vec<_> = sessions.iter().filter_map(born).chain(self.asked_births(&roll)).collect();
        let is_bound = |of: &SessionId| roll.set.genesis(*of).is_some_and(|genesis| genesis.bound);
        let bound = births.iter().map(|(of, _)| *of).filter(is_bound).collect();
        View {
            births: births.into_iter().collect(),
            buried: roll.set.tombstones().map(|tombstone| tombstone.session).collect(),
            heads: said,
            named,
            members: picture.present().map(|(host, _)| host).collect(),
            out: picture.out.keys().copied().collect(),
            up: picture.up().map(|(host, _)| host).collect(),
            mute: mute(&roll),
            operators: operators(&roll),
            bound,
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
                let (session, table) = (share.session, self.parts.table.clone());
                let work = async move {
                    let letter = |done| table::Letter::Store(share, voices, done);
                    Event::Stored(session, table.write_down(letter).await)
                };
                self.begin(work, Event::Stored(session, Err("the agent failed: see its log".into())));
            }
            Effect::Show(share) => self.show(share),
            Effect::Fetch(session, from, content) => {
                let (ground, table) = (self.parts.ground.clone(), self.parts.table.clone());
                let work = async move {
                    let ended = match contents::fetch(&ground, &table, (session, content), from).await {
                        Ok(bytes) => {
                            let letter = |done| table::Letter::Content(session, bytes, done);
                            table.write_down(letter).await
                        }
                        Err(because) => Err(because),
                    };
                    Event::Fetched(session, content, ended)
                };
                let failed = Err("the agent failed: see its log".into());
                self.begin(work, Event::Fetched(session, content, failed));
            }
            Effect::Unsigned(share, from, unsigned) => self.refused(&share, from, &unsigned),
            Effect::Lacks(share, because) => {
                self.work.spawn(contents::lacks(self.parts.ground.clone(), share, because).map(|()| None));
            }
            Effect::Pull(session, from) => {
                let mesh = self.parts.ground.mesh.clone();
                let work = async move { Event::Pulled(session, from, pull(&mesh, session, from).await) };
                self.begin(work, Event::Pulled(session, from, None));
            }
            Effect::AskVoices(session, host) => {
                let mesh = self.parts.ground.mesh.clone();
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
                let kept = keep_voices(self.parts.table.clone(), session, voices);
                self.work.spawn(kept.map(|()| None));
            }
            Effect::Wake(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
        }
    }

    fn show(&self, share: Arc<Share>) {
        let session = share.session;
        if self.parts.ground.show(share) {
            (self.parts.start)(session);
        }
    }

    /// Tells people of a share that no operator signed.
    fn refused(&self, share: &Share, from: HostId, unsigned: &proto::session::Unsigned) {
        let (session, coordinator) = (share.name.clone(), self.parts.ground.picture().name(from));
        tracing::warn!(%session, coordinator, %unsigned, "a share is refused");
        self.parts.ground.tell(Fact::ShareRefused { session, coordinator, because: unsigned.to_string() });
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
        let shares = self.parts.ground.shares();
        let groups: Vec<SessionId> = self.parts.table.logs().keys().copied().collect();
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

/// Lists the members whose word on sessions counts for nothing.
fn mute(roll: &mesh::Roll) -> BTreeSet<HostId> {
    let members = roll.members.values().filter(|member| !member.may(Capability::Vote));
    members.map(|member| member.host).collect()
}

/// Lists those whose word on what becomes of sessions counts: members who may operate, and those who left or were lost.
fn operators(roll: &mesh::Roll) -> BTreeSet<HostId> {
    let known = roll.members.keys().chain(roll.out.keys());
    known.copied().filter(|host| roll.set.operates(*host)).collect()
}

async fn keep_voices(table: Table, session: SessionId, voices: BTreeSet<HostId>) {
    let letter = |done| table::Letter::Voices(session, voices, done);
    if let Err(error) = table.write_down(letter).await {
        tracing::warn!(%session, %error, "who is believed is not remembered");
    }
}

async fn pull(mesh: &Mesh, session: SessionId, from: HostId) -> Option<Box<Share>> {
    match mesh.call(from, Request::GetShare(session), ASK).await {
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
