//! What a host knows of sessions: which shares it takes, whom it believes, which heads are the newest, what
//! it asks for itself. One machine a host, for all its sessions. It says what is to be written down, and
//! shows a share only when that is done; it never looks into one. Whatever was missed comes again: a share
//! that is older than its head is asked for, whoever speaks and is not believed is asked about.
//!
//! - `voices`: whose word counts; `route`: whom to ask as coordinator; `contents`: the bytes that shares name.

mod contents;
pub mod route;
#[cfg(test)]
mod tests;
mod voices;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::contents::{Source, piece, source};
use self::{
    contents::{Contents, Fetched, Gather, Step},
    voices::Voices,
};
use crate::{
    id::{HostId, SessionId},
    limits::MAX_SESSIONS,
    run::{Mutant, Rules},
    session::{Share, Unsigned, mandate, slice},
    time::Moment,
    topology::Content,
    wire::{record::HeadRecord, rpc::Refusal},
};

/// How long a session's birth may be behind its first share: statements travel on their own.
const BIRTH_MS: u64 = 2_000;
/// Between two facts about shares that one member brings and no operator signed.
const UNSIGNED_NEWS_MS: u64 = 60_000;
/// A coordinator pushes new shares at once; only what did not arrive in this time is asked for.
const PATIENCE_MS: u64 = 700;
/// Longest pause between two questions for one share.
const LAST_PAUSE_MS: u64 = 10_000;
/// A question for a share that has no end after this time never will have one.
const PULL_MS: u64 = 15_000;
/// What may wait for a birth or a write at once: as many as members' requests that are answered at once.
const MAX_HELD: usize = 64;

/// What the mesh says of sessions now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The heads that members publish, by session.
    pub heads: BTreeMap<SessionId, BTreeMap<HostId, HeadRecord>>,
    /// The hosts that the births of sessions name.
    pub births: BTreeMap<SessionId, Vec<HostId>>,
    /// Sessions that have ended, nothing being left of them.
    pub buried: BTreeSet<SessionId>,
    /// The hosts that this host's own logs name.
    pub named: BTreeMap<SessionId, BTreeSet<HostId>>,
    /// The members.
    pub members: BTreeSet<HostId>,
    /// The hosts that are out of the mesh for good.
    pub out: BTreeSet<HostId>,
    /// Those of them that are heard.
    pub up: BTreeSet<HostId>,
    /// Members whose certificates do not let them vote: their word on sessions counts for nothing.
    pub mute: BTreeSet<HostId>,
    /// Whose certificates let them operate, also of those that left or were lost: what they signed of sessions counts.
    pub operators: BTreeSet<HostId>,
    /// Sessions whose births say that operators sign what becomes of them.
    pub bound: BTreeSet<SessionId>,
}

/// What a member wants that only a voice may.
#[derive(Clone, Debug, PartialEq)]
pub enum Wants {
    /// That this host takes a share.
    Share(Box<Share>),
    /// That this host opens a log of a session.
    Log(SessionId),
}

impl Wants {
    /// Gives the session that it is about.
    pub fn session(&self) -> SessionId {
        match self {
            Wants::Share(share) => share.session,
            Wants::Log(session) => *session,
        }
    }
}

/// What happens to what a host knows.
#[derive(Clone, Debug)]
pub enum Event {
    /// What the mesh says changed, or a moment has come.
    Look(Box<View>),
    /// A member wants something; the answer carries its ticket.
    Asked {
        /// What the answer is found by.
        ticket: u64,
        /// Who asks.
        from: HostId,
        /// For what.
        wants: Wants,
    },
    /// A share was written down, or could not be.
    Stored(SessionId, Result<(), String>),
    /// A question for a share ended: what came, if anything did.
    Pulled(SessionId, HostId, Option<Box<Share>>),
    /// A member said who is believed, or did not answer.
    Said(SessionId, HostId, Option<BTreeSet<HostId>>),
    /// A question for bytes that a share names ended: they are on the disk, or not.
    Fetched(SessionId, Content, Result<(), String>),
    /// Everything of a session was removed from this host.
    Forgotten(SessionId),
}

/// What is to be done for what a host knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer what was asked with this ticket.
    Answer(u64, Result<(), Refusal>),
    /// Open a log of this session for whoever holds this ticket.
    OpenLog(u64, SessionId),
    /// Fetch these bytes from a host, which may be this one's own log, and write them down.
    Fetch(SessionId, HostId, Content),
    /// A share of this host asks for what no operator signed: people are to know who brought it.
    Unsigned(Arc<Share>, HostId, Unsigned),
    /// A share cannot count, because bytes that it names are nowhere to be had: people are to know.
    Lacks(Arc<Share>, String),
    /// Write a share down, remove bytes that it does not name, and with a session's first share write down
    /// who is believed.
    Store(Arc<Share>, Option<BTreeSet<HostId>>),
    /// The share is written down: show it, and begin with its session if it is the first.
    Show(Arc<Share>),
    /// Ask a host for this host's share.
    Pull(SessionId, HostId),
    /// Ask a host who is believed.
    AskVoices(SessionId, HostId),
    /// Write down who is believed.
    KeepVoices(SessionId, BTreeSet<HostId>),
    /// Look again at this moment.
    Wake(Moment),
}

/// Something that waits: for a birth, or for the write of another share.
#[derive(Clone, Debug)]
struct Held {
    /// `None` = this host asked for it itself.
    ticket: Option<u64>,
    from: HostId,
    wants: Wants,
    until: Moment,
}

#[derive(Clone, Debug)]
struct Pull {
    at: Moment,
    pause_ms: u64,
}

/// What a host has written down.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The shares.
    pub shares: BTreeMap<SessionId, Arc<Share>>,
    /// Who was believed.
    pub voices: BTreeMap<SessionId, BTreeSet<HostId>>,
    /// The bytes that shares name.
    pub contents: BTreeMap<SessionId, BTreeSet<Content>>,
}

/// The machine of what a host knows.
#[derive(Clone, Debug)]
pub struct Knowledge {
    me: HostId,
    rules: Rules,
    view: View,
    voices: Voices,
    contents: Contents,
    shares: BTreeMap<SessionId, Arc<Share>>,
    writing: BTreeMap<SessionId, (Option<u64>, Arc<Share>)>,
    held: Vec<Held>,
    pulls: BTreeMap<SessionId, Pull>,
    /// What people were told of last, by who brought it: the session, and which share of it.
    told: BTreeMap<HostId, (Moment, SessionId, u64, u64)>,
}

impl Knowledge {
    /// Begins with what is written down. Bytes that were lost are fetched again.
    pub fn new(me: HostId, rules: Rules, kept: Kept) -> Knowledge {
        let (view, writing, pulls) = (View::default(), BTreeMap::new(), BTreeMap::new());
        let (voices, mut contents) = (Voices::new(rules, kept.voices), Contents::new(rules, kept.contents));
        for share in kept.shares.values() {
            if contents.lacks(share).is_some() {
                contents.begin(me, None, Box::new(Share::clone(share)));
            }
        }
        let (shares, held) = (kept.shares, Vec::new());
        let told = BTreeMap::new();
        Knowledge { me, rules, view, voices, contents, shares, writing, held, pulls, told }
    }

    /// Takes an event and says what to do. Events may come late and in any order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Look(view) => self.view = *view,
            Event::Asked { ticket, from, wants } => {
                let until = now.plus_ms(BIRTH_MS);
                self.consider(Held { ticket: Some(ticket), from, wants, until }, now, &mut effects);
            }
            Event::Stored(session, stored) => self.stored(session, stored, &mut effects),
            Event::Pulled(session, from, share) => self.pulled(session, from, share, now, &mut effects),
            Event::Said(session, host, said) => self.voices.said(session, host, said),
            Event::Fetched(session, content, ended) => {
                let fetched = self.contents.fetched(session, content, ended, now);
                self.fetched(fetched, now, &mut effects);
            }
            Event::Forgotten(session) => {
                self.shares.remove(&session);
                self.pulls.remove(&session);
                self.told.retain(|_, (_, told, ..)| *told != session);
                self.voices.forget(session);
                turn_away(self.contents.forget(session), &Refusal::UnknownSession, &mut effects);
            }
        }
        for held in std::mem::take(&mut self.held) {
            self.consider(held, now, &mut effects);
        }
        self.listen(now, &mut effects);
        self.pull(now, &mut effects);
        let gathers = self.gather(now, &mut effects);
        let held = self.held.iter().map(|held| held.until).filter(|until| *until > now);
        let next = held.chain(self.next_pull(now)).chain(self.voices.next(&self.view)).chain(gathers).min();
        effects.extend(next.map(|at| Effect::Wake(at.max(now))));
        effects
    }

    /// Tells whose word on a session counts.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        self.voices.of(&self.view, session)
    }

    /// Tells whether a host's word on a session counts.
    pub fn believes(&self, session: SessionId, host: HostId) -> bool {
        host == self.me || self.voices.believes(&self.view, session, host)
    }

    /// Gives the newest head of a session, with the host that says so.
    pub fn head(&self, session: SessionId) -> Option<(HostId, &HeadRecord)> {
        self.voices.head(&self.view, session)
    }

    /// Lists the sessions of which there are heads.
    pub fn spoken_of(&self) -> impl Iterator<Item = SessionId> {
        self.view.heads.keys().copied()
    }

    /// Lists the sessions that a host speaks for whose word does not count.
    #[cfg(test)]
    pub(super) fn doubted(&self) -> BTreeSet<SessionId> {
        self.voices.doubted(&self.view)
    }

    /// Lists the sessions that something waits for: their births are worth to be looked up.
    pub fn waited_for(&self) -> BTreeSet<SessionId> {
        self.held.iter().map(|held| held.wants.session()).collect()
    }

    /// Gives a session's share.
    #[cfg(test)]
    pub(super) fn share(&self, session: SessionId) -> Option<&Arc<Share>> {
        self.shares.get(&session)
    }

    /// Answers, begins a write, or holds what must wait.
    fn consider(&mut self, held: Held, now: Moment, effects: &mut Vec<Effect>) {
        let session = held.wants.session();
        if !self.believes(session, held.from) {
            // The birth may be on its way; a voice that is not believed is asked about apart.
            let unborn = self.voices(session).is_empty() && now < held.until;
            return if unborn { self.hold(held, effects) } else { refuse(&held, Refusal::NoVoice, effects) };
        }
        let share = match held.wants {
            Wants::Share(share) => share,
            Wants::Log(session) => {
                return effects.extend(held.ticket.map(|ticket| Effect::OpenLog(ticket, session)));
            }
        };
        if self.writing.contains_key(&session) {
            return self.hold(Held { wants: Wants::Share(share), ..held }, effects);
        }
        let answer = |answer: Result<(), Refusal>| held.ticket.map(|ticket| Effect::Answer(ticket, answer));
        match self.shares.get(&session) {
            _ if self.view.buried.contains(&session) && !self.rules.broken(Mutant::TakesBuried) => {
                return effects.extend(answer(Err(Refusal::UnknownSession)));
            }
            Some(known) if slice::supersedes(known, &share) && !self.rules.broken(Mutant::TakesOldShares) => {
                return effects.extend(answer(Err(Refusal::Older)));
            }
            Some(known) if !slice::supersedes(&share, known) && !slice::supersedes(known, &share) => {
                return effects.extend(answer(Ok(())));
            }
            None if self.is_full(session) => {
                let because = format!("it has {MAX_SESSIONS} sessions already");
                return effects.extend(answer(Err(Refusal::Failed(because))));
            }
            _ => {}
        }
        if let Err(unsigned) = self.judge(&share) {
            effects.extend(answer(Err(Refusal::Unsigned(unsigned.to_string()))));
            return self.tell_unsigned(held.from, *share, unsigned, (now, effects));
        }
        if let Some(waits) = self.contents.waits(session) {
            if slice::supersedes(waits, &share) {
                return effects.extend(answer(Err(Refusal::Older)));
            }
            if !slice::supersedes(&share, waits) {
                let joined = self.contents.join(session, held.from, held.ticket);
                return effects.extend(answer(Err(Refusal::Gathering)).filter(|_| !joined));
            }
            if self.contents.is_asking(session) {
                return self.hold(Held { wants: Wants::Share(share), ..held }, effects);
            }
            turn_away(self.contents.give_up(session), &Refusal::Older, effects);
        }
        if self.contents.lacks(&share).is_some() && !self.rules.broken(Mutant::ShowsUnfetched) {
            return self.contents.begin(held.from, held.ticket, share);
        }
        let first = !self.shares.contains_key(&session);
        let (share, voices) = (Arc::new(*share), first.then(|| self.voices(session)));
        self.writing.insert(session, (held.ticket, share.clone()));
        effects.push(Effect::Store(share, voices));
    }

    /// Tells people of a share that no operator signed. Its coordinator tries again and again: once is enough. One that
    /// brings another each time is told of once a minute.
    fn tell_unsigned(
        &mut self,
        from: HostId,
        share: Share,
        unsigned: Unsigned,
        (now, effects): (Moment, &mut Vec<Effect>),
    ) {
        let what = (share.session, share.recovery, share.version);
        let last = self.told.get(&from).copied();
        let is_new = last.is_none_or(|(at, session, recovery, version)| {
            (session, recovery, version) != what && now.since_ms(at) >= UNSIGNED_NEWS_MS
        });
        if is_new {
            self.told.retain(|host, _| self.view.members.contains(host));
            self.told.insert(from, (now, what.0, what.1, what.2));
            effects.push(Effect::Unsigned(Arc::new(share), from, unsigned));
        }
    }

    /// Tells whether operators signed what a share asks of this host.
    fn judge(&self, share: &Share) -> Result<(), Unsigned> {
        let (session, operators) = (share.session, &self.view.operators);
        let known = self.shares.get(&session).map(|known| &**known);
        mandate::judge(share, known, self.view.bound.contains(&session), |host| operators.contains(&host))
    }

    /// Tells whether another session has no place here.
    fn is_full(&self, session: SessionId) -> bool {
        let gathers = self.contents.waiting().into_iter();
        let new = gathers.filter(|of| *of != session && !self.shares.contains_key(of));
        self.shares.len() + self.writing.len() + new.count() >= MAX_SESSIONS
    }

    fn fetched(&mut self, fetched: Fetched, now: Moment, effects: &mut Vec<Effect>) {
        match fetched {
            Fetched::Whole(gather) => {
                for (from, ticket) in gather.brought {
                    let wants = Wants::Share(gather.share.clone());
                    self.consider(Held { ticket, from, wants, until: now }, now, effects);
                }
            }
            Fetched::Tell(share, because) => effects.push(Effect::Lacks(share, because)),
            Fetched::More => {}
        }
    }

    /// Asks for bytes that shares wait for. Gives the next moment at which that goes on.
    fn gather(&mut self, now: Moment, effects: &mut Vec<Effect>) -> Option<Moment> {
        let mut next = None;
        for session in self.contents.waiting() {
            if self.view.buried.contains(&session) {
                turn_away(self.contents.give_up(session), &Refusal::UnknownSession, effects);
                continue;
            }
            let voices = self.voices(session);
            match self.contents.step(session, (self.me, &self.view, &voices), now) {
                Some(Step::Ask(host, content)) => effects.push(Effect::Fetch(session, host, content)),
                Some(Step::Rest(at)) => next = Some(next.map_or(at, |next: Moment| next.min(at))),
                None => {}
            }
        }
        next
    }

    fn hold(&mut self, held: Held, effects: &mut Vec<Effect>) {
        if self.held.len() < MAX_HELD {
            return self.held.push(held);
        }
        refuse(&held, Refusal::Failed("it is asked too much at once".into()), effects);
    }

    fn stored(&mut self, session: SessionId, stored: Result<(), String>, effects: &mut Vec<Effect>) {
        let Some((ticket, share)) = self.writing.remove(&session) else { return };
        let answer = match stored {
            Ok(()) if self.view.buried.contains(&session) => Err(Refusal::UnknownSession),
            Ok(()) => {
                self.contents.shown(&share);
                self.shares.insert(session, share.clone());
                effects.push(Effect::Show(share));
                Ok(())
            }
            Err(because) => Err(Refusal::Failed(format!("the share cannot be written: {because}"))),
        };
        effects.extend(ticket.map(|ticket| Effect::Answer(ticket, answer)));
    }

    fn pulled(
        &mut self,
        session: SessionId,
        from: HostId,
        share: Option<Box<Share>>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(pull) = self.pulls.get_mut(&session) {
            let pause_ms = (pull.pause_ms * 2).min(LAST_PAUSE_MS);
            *pull = Pull { at: now.plus_ms(pull.pause_ms), pause_ms };
        }
        if let Some(share) = share.filter(|share| share.session == session) {
            let wants = Wants::Share(share);
            self.consider(Held { ticket: None, from, wants, until: now }, now, effects);
        }
    }

    /// Asks about those that speak and are not believed, and writes down who is.
    fn listen(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let shared: BTreeSet<SessionId> = self.shares.keys().copied().collect();
        for session in self.voices.conclude(&self.view, &shared, now) {
            if shared.contains(&session) {
                effects.push(Effect::KeepVoices(session, self.voices(session)));
            }
        }
        let questions = self.voices.doubt(self.me, &self.view, now);
        effects.extend(questions.into_iter().map(|(session, host)| Effect::AskVoices(session, host)));
    }

    /// Asks for every share that is older than its session's head for a while.
    fn pull(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let behind = self.behind();
        self.pulls.retain(|session, _| behind.contains_key(session));
        for (session, from) in behind {
            let first = Pull { at: now.plus_ms(PATIENCE_MS), pause_ms: PATIENCE_MS };
            let pull = self.pulls.entry(session).or_insert(first);
            if now < pull.at || self.rules.broken(Mutant::NeverPulls) {
                continue;
            }
            // One that has no end is begun again.
            pull.at = now.plus_ms(PULL_MS);
            effects.push(Effect::Pull(session, from));
        }
    }

    fn next_pull(&self, now: Moment) -> Option<Moment> {
        self.pulls.values().map(|pull| pull.at).filter(|at| *at > now).min()
    }

    /// Lists the sessions of which a newer share than this host's is known, with the host that has it.
    fn behind(&self) -> BTreeMap<SessionId, HostId> {
        let newer = |session: &SessionId| {
            let (host, head) = self.head(*session).filter(|(host, _)| *host != self.me)?;
            let mine = self.shares.get(session).map(|share| (share.recovery, share.version));
            let waits = self.contents.waits(*session).map(|share| (share.recovery, share.version));
            let older = mine.max(waits).is_none_or(|mine| mine < (head.recovery, head.version));
            (older && !self.view.buried.contains(session)).then_some((*session, host))
        };
        self.view.heads.keys().filter_map(newer).collect()
    }
}

/// Answers all that waited for a share that comes no more.
fn turn_away(gather: Option<Gather>, refusal: &Refusal, effects: &mut Vec<Effect>) {
    let waiting = gather.into_iter().flat_map(|gather| gather.brought);
    let tickets = waiting.filter_map(|(_, ticket)| ticket);
    effects.extend(tickets.map(|ticket| Effect::Answer(ticket, Err(refusal.clone()))));
}

fn refuse(held: &Held, refusal: Refusal, effects: &mut Vec<Effect>) {
    effects.extend(held.ticket.map(|ticket| Effect::Answer(ticket, Err(refusal))));
}
