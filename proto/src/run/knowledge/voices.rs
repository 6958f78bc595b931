//! Whose word on a session counts, by the chain of `session::voices`: those that its birth names, that this
//! host's own log names, that were believed once, and whom any of these names in a head. When somebody speaks
//! who is not believed, others are asked: it may have become a voter while this host was away, or it may lie.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::{
    id::{HostId, SessionId},
    run::{Mutant, Rules},
    session::voices,
    time::Moment,
    wire::record::HeadRecord,
};

/// Between two rounds of questions about hosts that speak for a session and are not believed.
const DOUBT_MS: u64 = 5_000;
/// Members that are asked at once.
const ASKED_AT_ONCE: usize = 16;
/// A round ends after this time, whoever did not answer.
const ROUND_MS: u64 = 15_000;

/// A round of questions about one session.
#[derive(Clone, Debug)]
struct Round {
    until: Moment,
    waiting: Vec<HostId>,
    asked: BTreeSet<HostId>,
    answers: Vec<BTreeSet<HostId>>,
    /// Whether those that are asked are believed themselves.
    believed: bool,
    /// Whether all that are believed are out of the mesh for good, so that no word of theirs will ever come.
    alone: bool,
}

/// Who is believed, by session.
#[derive(Clone, Debug, Default)]
pub(super) struct Voices {
    rules: Rules,
    /// Whose word counted once: the hosts that a session began with may be gone when this one comes back.
    kept: BTreeMap<SessionId, BTreeSet<HostId>>,
    rounds: BTreeMap<SessionId, Round>,
    doubt_at: Moment,
}

impl Voices {
    pub fn new(rules: Rules, kept: BTreeMap<SessionId, BTreeSet<HostId>>) -> Voices {
        Voices { rules, kept, ..Voices::default() }
    }

    /// Tells whose word counts; nobody's while the session's birth is not known. Who may not vote has none, and
    /// names nobody.
    pub fn of(&self, view: &View, session: SessionId) -> BTreeSet<HostId> {
        let speaks = |host: &HostId| !view.mute.contains(host);
        let kept = self.kept.get(&session).into_iter().flatten();
        let born = view.births.get(&session).into_iter().flatten();
        let named = view.named.get(&session).into_iter().flatten();
        let heads = view.heads.get(&session);
        let begun = kept.chain(born).chain(named).copied().filter(speaks);
        let mut voices = voices::voices(begun, |host| {
            let head = heads.and_then(|heads| heads.get(&host)).filter(|_| speaks(&host));
            head.map(|head| &head.voters[..])
        });
        voices.retain(speaks);
        voices
    }

    pub fn believes(&self, view: &View, session: SessionId, host: HostId) -> bool {
        (self.kept.get(&session).is_some_and(|kept| kept.contains(&host)) && !view.mute.contains(&host))
            || self.of(view, session).contains(&host)
            || self.rules.broken(Mutant::BelievesAnybody)
    }

    /// Gives the newest head of a session, with the host that says so.
    pub fn head<'a>(&self, view: &'a View, session: SessionId) -> Option<(HostId, &'a HeadRecord)> {
        let heads = view.heads.get(&session)?;
        let voices = self.of(view, session);
        let believed = heads.iter().filter(|(host, _)| voices.contains(*host));
        let newest = believed.max_by_key(|(_, head)| (head.recovery, head.term, head.version));
        newest.map(|(host, head)| (*host, head))
    }

    /// Lists the sessions that a host speaks for whose word does not count.
    pub fn doubted(&self, view: &View) -> BTreeSet<SessionId> {
        let doubted = |(session, heads): &(&SessionId, &BTreeMap<HostId, HeadRecord>)| {
            let voices = self.of(view, **session);
            let doubted = |host: &HostId| !voices.contains(host) && !view.mute.contains(host);
            !view.buried.contains(*session) && heads.keys().any(doubted)
        };
        view.heads.iter().filter(doubted).map(|(session, _)| *session).collect()
    }

    /// Begins rounds that are due and goes on with those under way. Gives the questions to ask now.
    pub fn doubt(&mut self, me: HostId, view: &View, now: Moment) -> Vec<(SessionId, HostId)> {
        if now >= self.doubt_at && !self.rules.broken(Mutant::NeverAsksForVoices) {
            let fresh = |session: &SessionId| !self.rounds.contains_key(session);
            let doubted: Vec<SessionId> = self.doubted(view).into_iter().filter(fresh).collect();
            if !doubted.is_empty() {
                self.doubt_at = now.plus_ms(DOUBT_MS);
            }
            for session in doubted {
                let others: BTreeSet<HostId> = view.up.iter().copied().filter(|host| *host != me).collect();
                let voices: Vec<HostId> = others.intersection(&self.of(view, session)).copied().collect();
                let believed = !voices.is_empty();
                let all = self.of(view, session);
                let alone = !all.is_empty() && all.is_subset(&view.out);
                let waiting = if believed { voices } else { others.into_iter().collect() };
                let (until, asked, answers) = (now.plus_ms(ROUND_MS), BTreeSet::new(), Vec::new());
                self.rounds.insert(session, Round { until, waiting, asked, answers, believed, alone });
            }
        }
        let mut questions = Vec::new();
        for (session, round) in &mut self.rounds {
            while round.asked.len() < ASKED_AT_ONCE {
                let Some(host) = round.waiting.pop() else { break };
                round.asked.insert(host);
                questions.push((*session, host));
            }
        }
        questions
    }

    /// Takes what one host says of who is believed.
    pub fn said(&mut self, session: SessionId, host: HostId, said: Option<BTreeSet<HostId>>) {
        if let Some(round) = self.rounds.get_mut(&session)
            && round.asked.remove(&host)
        {
            round.answers.extend(said);
        }
    }

    /// Ends the rounds that are over, and gives the sessions whose believed hosts grew.
    pub fn conclude(
        &mut self,
        view: &View,
        shared: &BTreeSet<SessionId>,
        now: Moment,
    ) -> BTreeSet<SessionId> {
        let over = |round: &Round| now >= round.until || (round.waiting.is_empty() && round.asked.is_empty());
        let ended: Vec<SessionId> =
            self.rounds.iter().filter(|(_, round)| over(round)).map(|(session, _)| *session).collect();
        let mut grown = BTreeSet::new();
        for session in ended {
            let Some(round) = self.rounds.remove(&session) else { continue };
            let more = if round.believed {
                round.answers.into_iter().flatten().collect()
            } else {
                voices::majority(&round.answers, round.alone)
            };
            let members = more.into_iter().filter(|host| view.members.contains(host));
            grown.extend(self.believe(session, members));
        }
        // Sessions that nobody speaks of and nothing is here of are forgotten.
        self.kept.retain(|session, _| shared.contains(session) || view.heads.contains_key(session));
        for session in shared {
            let voices = self.of(view, *session);
            grown.extend(self.believe(*session, voices.into_iter()));
        }
        grown
    }

    fn believe(&mut self, session: SessionId, more: impl Iterator<Item = HostId>) -> Option<SessionId> {
        let kept = self.kept.entry(session).or_default();
        let before = kept.len();
        kept.extend(more);
        (kept.len() > before).then_some(session)
    }

    pub fn forget(&mut self, session: SessionId) {
        self.kept.remove(&session);
        self.rounds.remove(&session);
    }

    /// Gives the next moment at which time alone lets something happen.
    pub fn next(&self, view: &View) -> Option<Moment> {
        let rounds = self.rounds.values().map(|round| round.until);
        let asks = !self.rules.broken(Mutant::NeverAsksForVoices);
        let doubted =
            asks && self.doubted(view).into_iter().any(|session| !self.rounds.contains_key(&session));
        rounds.chain(doubted.then_some(self.doubt_at)).min()
    }
}
