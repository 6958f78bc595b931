//! The bytes that shares name: which lack here, whom to ask for them and when again, and who may have them. A
//! share counts only once all its bytes are on this host's disk; they are fetched one after the other, from
//! whoever is likely to have them, in turns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::View;
use crate::{
    backoff::BackOff,
    id::{HostId, SessionId},
    limits::MAX_PIECE_BYTES,
    run::{Mutant, Rules},
    session::{Share, State, slice},
    time::Moment,
    topology::Content,
    wire::rpc::Refusal,
};

/// Pauses after hosts in a row that did not give what was asked for: the next one may have it at once.
const PAUSES: BackOff = BackOff::new(100, 10_000);
/// Failures in a row after which people are told: every voter was asked by then.
const TOLD_AFTER: u32 = 6;
/// Who may wait for one share at once: its coordinator, the one after it, and whoever began the session.
const MAX_WAITING: usize = 8;
/// A question for bytes that has no end after this time never will have one.
const FETCH_MS: u64 = 120_000;

/// A share that waits for its bytes.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    /// Who brought it, each with the ticket of an answer that is waited for, if any.
    pub brought: Vec<(HostId, Option<u64>)>,
    /// The share.
    pub share: Box<Share>,
    /// What was asked for, and is not here yet.
    asked: Option<Content>,
    turn: usize,
    failures: u32,
    again: Moment,
}

/// What is to be done for one share's bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Ask this host.
    Ask(HostId, Content),
    /// Nothing before this moment.
    Rest(Moment),
}

/// How a question for bytes ended.
#[derive(Clone, Debug)]
pub(super) enum Fetched {
    /// All that the share names is here.
    Whole(Box<Gather>),
    /// It goes on; people are to be told of this share, and why it waits.
    Tell(Arc<Share>, String),
    /// It goes on, or nobody waits any more.
    More,
}

/// The bytes of all sessions on one host.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    rules: Rules,
    here: BTreeMap<SessionId, BTreeSet<Content>>,
    gathers: BTreeMap<SessionId, Gather>,
}

impl Contents {
    /// Begins with what is on the disk.
    pub fn new(rules: Rules, here: BTreeMap<SessionId, BTreeSet<Content>>) -> Contents {
        Contents { rules, here, gathers: BTreeMap::new() }
    }

    /// Gives the first of a share's bytes that is not here.
    pub fn lacks(&self, share: &Share) -> Option<Content> {
        let here = self.here.get(&share.session);
        share.named().into_iter().find(|content| here.is_none_or(|here| !here.contains(content)))
    }

    /// Begins to gather for a share.
    pub fn begin(&mut self, from: HostId, ticket: Option<u64>, share: Box<Share>) {
        let (session, again) = (share.session, Moment::default());
        let gather =
            Gather { brought: vec![(from, ticket)], share, asked: None, turn: 0, failures: 0, again };
        self.gathers.insert(session, gather);
    }

    /// Finds the share of a session that waits.
    pub fn waits(&self, session: SessionId) -> Option<&Share> {
        self.gathers.get(&session).map(|gather| &*gather.share)
    }

    /// Lets one more wait for the share that waits. Tells whether there is room.
    pub fn join(&mut self, session: SessionId, from: HostId, ticket: Option<u64>) -> bool {
        let gather = self.gathers.get_mut(&session).filter(|gather| gather.brought.len() < MAX_WAITING);
        gather.map(|gather| gather.brought.push((from, ticket))).is_some()
    }

    /// Lists the sessions whose shares wait.
    pub fn waiting(&self) -> Vec<SessionId> {
        self.gathers.keys().copied().collect()
    }

    /// Tells whether bytes are on their way.
    pub fn is_asking(&self, session: SessionId) -> bool {
        self.gathers.get(&session).is_some_and(|gather| gather.asked.is_some())
    }

    /// Gives up gathering for a session.
    pub fn give_up(&mut self, session: SessionId) -> Option<Gather> {
        self.gathers.remove(&session)
    }

    /// Notes that a share is on the disk: bytes that it does not name went with the one before.
    pub fn shown(&mut self, share: &Share) {
        let named = share.named();
        self.here.entry(share.session).or_default().retain(|content| named.contains(content));
    }

    /// Notes that nothing of a session is here any more.
    pub fn forget(&mut self, session: SessionId) -> Option<Gather> {
        self.here.remove(&session);
        self.gathers.remove(&session)
    }

    /// Takes note of how a question ended.
    pub fn fetched(
        &mut self,
        session: SessionId,
        content: Content,
        ended: Result<(), String>,
        now: Moment,
    ) -> Fetched {
        if ended.is_ok() {
            self.here.entry(session).or_default().insert(content);
        }
        let Some(gather) = self.gathers.get_mut(&session).filter(|gather| gather.asked == Some(content))
        else {
            return Fetched::More;
        };
        gather.asked = None;
        let Err(because) = ended else {
            (gather.failures, gather.again) = (0, now);
            let whole = self.waits(session).is_some_and(|share| self.lacks(share).is_none());
            let gather = whole.then(|| self.give_up(session)).flatten();
            return gather.map_or(Fetched::More, |gather| Fetched::Whole(Box::new(gather)));
        };
        gather.failures = gather.failures.saturating_add(1);
        gather.turn = gather.turn.wrapping_add(usize::from(!self.rules.broken(Mutant::AsksOneHolder)));
        gather.again = now.plus_ms(PAUSES.after_ms(gather.failures));
        match gather.failures {
            TOLD_AFTER => Fetched::Tell(Arc::new(Share::clone(&gather.share)), because),
            _ => Fetched::More,
        }
    }

    /// Says what comes next for a session's share; `voices` are those whose word counts in it.
    pub fn step(
        &mut self,
        session: SessionId,
        (me, view, voices): (HostId, &View, &BTreeSet<HostId>),
        now: Moment,
    ) -> Option<Step> {
        let content = self.lacks(self.waits(session)?)?;
        let gather = self.gathers.get_mut(&session)?;
        if now < gather.again {
            return Some(Step::Rest(gather.again));
        }
        // One that has no end is begun again, elsewhere.
        gather.turn = gather.turn.wrapping_add(usize::from(gather.asked.take().is_some()));
        let whom = candidates(gather, (me, view, voices), &content);
        let Some(host) = gather.turn.checked_rem(whom.len()).and_then(|at| whom.get(at)) else {
            gather.again = now.plus_ms(PAUSES.after_ms(u32::MAX));
            return Some(Step::Rest(gather.again));
        };
        (gather.asked, gather.again) = (Some(content), now.plus_ms(FETCH_MS));
        Some(Step::Ask(*host, content))
    }
}

/// Lists whom to ask, the likeliest first: this host's own log, who brought the share, who votes, who runs
/// machines with the same bytes.
fn candidates(
    gather: &Gather,
    (me, view, voices): (HostId, &View, &BTreeSet<HostId>),
    content: &Content,
) -> Vec<HostId> {
    let share = &gather.share;
    let own = view.named.contains_key(&share.session).then_some(me);
    let groups: BTreeSet<_> = slice::groups_with(share, content).collect();
    let holders = share.directory.machines().filter(|entry| groups.contains(&entry.machine.group));
    let brought = gather.brought.iter().map(|(from, _)| *from);
    let others = brought.chain(voices.iter().copied()).chain(holders.map(|entry| entry.host));
    let mut whom: Vec<HostId> = own.into_iter().collect();
    for host in others.filter(|host| *host != me && view.up.contains(host)) {
        if !whom.contains(&host) {
            whom.push(host);
        }
    }
    whom
}

/// Where bytes are that a member asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the session's log.
    Log(Arc<[u8]>),
    /// On this host's disk, beside its share.
    Disk,
}

/// Finds bytes for a member: only a voter, and a host with a machine that needs them, may have them.
pub fn source(
    state: Option<&State>,
    share: Option<&Share>,
    (from, votes): (HostId, bool),
    content: &Content,
) -> Result<Source, Refusal> {
    let by_state = state.filter(|state| votes || slice::needs_content(state, from, content));
    if let Some(bytes) = by_state.and_then(|state| state.contents.get(content)) {
        return Ok(Source::Log(bytes.clone()));
    }
    let beside = |share: &&Share| {
        slice::groups_with(share, content).any(|group| {
            let machines = share.directory.groups.get(group).into_iter().flat_map(|group| &group.machines);
            votes || machines.into_iter().any(|entry| entry.host == from)
        })
    };
    match share.filter(beside) {
        Some(_) => Ok(Source::Disk),
        None if by_state.is_some() || votes => Err(Refusal::NoContent),
        None => Err(Refusal::NoVoice),
    }
}

/// Cuts the piece out of bytes that one answer holds.
pub fn piece(bytes: &[u8], offset: u64) -> &[u8] {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[from..bytes.len().min(from + MAX_PIECE_BYTES)]
}
