//! When what was said of sessions that ended is dropped, so that it cannot come back.
//!
//! A session's id says nothing of its age, and whoever started it may be gone. So each member says now and then, in its
//! own name, of which sessions it has anything ([`Possession`]). From these words, which all have, every host concludes the
//! same:
//! - of a session that has ended nothing is kept 30 days after its end, once every member has said since that it has
//!   nothing of it, became a member later, or is out;
//! - of a session whose end nobody stated nothing is kept 10 days after its birth, once every member has said since that
//!   it has nothing of it: nobody ever had a share;
//! - what would be dropped is not taken either, so that a set that was away for long brings nothing back.
//!
//! A member that is away, or runs an older program, says nothing: until it does, or is out, everything is kept that it
//! may need. Times are those that signers took for the mesh's. One that is too late keeps a session's statements longer;
//! one that is too early loses nothing that is in use, because who has a share lists it.
//! Of many ended sessions the newest [`KEPT_ENDED`] are kept so long, the others a day.

use std::collections::BTreeSet;

use super::{DAY_MS, Kept, MAX_ENDED, MemberSet, Slot};
use crate::{
    id::{HostId, SessionId},
    time::Timestamp,
    trust::statement::{Possession, Statement, Tombstone},
};

/// How long a session's statements outlive its end.
const ENDED_KEPT_MS: u64 = 30 * DAY_MS;
/// The same of a session that nobody ever had a share of, from its birth.
const UNSHARED_KEPT_MS: u64 = 10 * DAY_MS;
/// The shortest time, where many sessions end: longer than anything that is under way.
const LEAST_KEPT_MS: u64 = DAY_MS;
/// Ended sessions that are kept for the full time.
const KEPT_ENDED: usize = MAX_ENDED / 5;
/// Sessions that a member lists: as many as shares and logs that a host can have.
const MAX_HELD: usize = 2 * crate::limits::MAX_SESSIONS;

/// What the members' words come to.
struct Conclusion {
    /// Every member has spoken since, or became one.
    since_ends: Timestamp,
    /// Every member has spoken since.
    since_births: Timestamp,
    /// What some member has.
    held: BTreeSet<SessionId>,
    /// Ends up to this one have newer ones beside them, as many as are kept for the full time.
    crowded: Option<Timestamp>,
}

impl Conclusion {
    /// Tells whether nothing of a session is to be kept.
    fn forget(&self, session: SessionId, times: Times, now: Timestamp) -> bool {
        let heard = match times.ended {
            Some(ended) => ended <= self.since_ends,
            None => times.born.is_some_and(|born| born <= self.since_births),
        };
        heard && !self.held.contains(&session) && times.are_old(self.crowded, now)
    }
}

/// When a session began and ended, as far as that is stated.
#[derive(Clone, Copy)]
struct Times {
    born: Option<Timestamp>,
    ended: Option<Timestamp>,
}

impl Times {
    fn last(self) -> Timestamp {
        self.ended.or(self.born).unwrap_or_default()
    }

    fn are_old(self, crowded: Option<Timestamp>, now: Timestamp) -> bool {
        let kept_ms = match self.ended {
            Some(ended) if crowded.is_some_and(|crowded| ended <= crowded) => LEAST_KEPT_MS,
            Some(_) => ENDED_KEPT_MS,
            None => UNSHARED_KEPT_MS,
        };
        now.since_ms(self.last()) >= kept_ms
    }
}

impl MemberSet {
    /// Gives what a member said last of the sessions that it has something of.
    fn possession(&self, host: HostId) -> Option<&Possession> {
        match &self.slots.get(&Slot::Possession(host))?.first()?.statement {
            Statement::Possession(possession) => Some(possession),
            _ => None,
        }
    }

    /// Gives what `me`, which has something of these sessions, must say now, so that others can drop what is over and
    /// keep what is not. At most once a day, unless it got something that it was believed not to have.
    pub fn possession_due(
        &self,
        me: HostId,
        held: &BTreeSet<SessionId>,
        now: Timestamp,
    ) -> Option<Possession> {
        let last = self.possession(me);
        let (said, none) = (last.map(|last| last.made).unwrap_or_default(), BTreeSet::new());
        let listed = last.map_or(&none, |last| &last.sessions);
        let born = |session: &SessionId| self.genesis(*session).map(|genesis| genesis.stamp);
        let unlisted =
            |session: &SessionId| !listed.contains(session) && born(session).is_some_and(|born| born <= said);
        let due = held.iter().any(unlisted) || (self.is_rested(said, now) && self.waits_for(me, held, now));
        (due && held.len() <= MAX_HELD).then(|| Possession { made: now, sessions: held.clone() })
    }

    fn is_rested(&self, said: Timestamp, now: Timestamp) -> bool {
        now.since_ms(said) >= DAY_MS
    }

    /// Tells whether a session is old enough to be dropped, or to be kept by this member's word, and that lacks.
    fn waits_for(&self, me: HostId, held: &BTreeSet<SessionId>, now: Timestamp) -> bool {
        let crowded = self.crowded();
        let (last, since) = (self.possession(me), self.joined(me));
        self.spoken_of().into_iter().any(|session| {
            let times = self.times(session);
            let said = last.map(|last| last.made).unwrap_or_default();
            let said = if times.ended.is_some() { said.max(since) } else { said };
            let listed = last.is_some_and(|last| last.sessions.contains(&session));
            times.are_old(crowded, now) && (times.last() > said || listed != held.contains(&session))
        })
    }

    /// Drops what is over.
    pub(super) fn forget_sessions(&mut self, now: Timestamp) {
        let words = self.words();
        let over = |session: &SessionId| words.forget(*session, self.times(*session), now);
        let over: BTreeSet<SessionId> = self.spoken_of().into_iter().filter(over).collect();
        self.slots.retain(|slot, _| match slot {
            Slot::Genesis(session) | Slot::Tombstone(session) => !over.contains(session),
            _ => true,
        });
    }

    /// Tells whether a statement is of a session that is over, and would be dropped at once.
    pub(super) fn is_over(&self, statement: &Statement, now: Timestamp) -> bool {
        let (session, times) = match statement {
            Statement::Genesis(genesis) => {
                let known = self.times(genesis.session);
                (genesis.session, Times { born: Some(genesis.stamp), ..known })
            }
            Statement::Tombstone(end) => {
                (end.session, Times { ended: Some(end.made), ..self.times(end.session) })
            }
            _ => return false,
        };
        // Cheap before dear: most of what is said is young.
        let may = times.are_old(Some(Timestamp(u64::MAX)), now);
        may && self.words().forget(session, times, now)
    }

    /// Tells whether a slot is of a session that has ended: such ones count apart.
    pub(super) fn is_of_ended(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Genesis(session) => self.slots.contains_key(&Slot::Tombstone(*session)),
            Slot::Tombstone(session) => self.slots.contains_key(&Slot::Genesis(*session)),
            _ => false,
        }
    }

    fn times(&self, session: SessionId) -> Times {
        let ended = self.slots.get(&Slot::Tombstone(session)).and_then(|kept| kept.first());
        Times {
            born: self.genesis(session).map(|genesis| genesis.stamp),
            ended: ended.and_then(end).map(|it| it.made),
        }
    }

    fn spoken_of(&self) -> BTreeSet<SessionId> {
        let of = |slot: &Slot| match slot {
            Slot::Genesis(session) | Slot::Tombstone(session) => Some(*session),
            _ => None,
        };
        self.slots.keys().filter_map(of).collect()
    }

    fn words(&self) -> Conclusion {
        let (mut since_ends, mut since_births) = (Timestamp(u64::MAX), Timestamp(u64::MAX));
        let mut held = BTreeSet::new();
        for host in self.slots.keys().filter_map(|slot| match slot {
            Slot::Host(host) if self.contains(*host) => Some(*host),
            _ => None,
        }) {
            let said = self.possession(host);
            let made = said.map(|said| said.made).unwrap_or_default();
            since_ends = since_ends.min(made.max(self.joined(host)));
            since_births = since_births.min(made);
            held.extend(said.into_iter().flat_map(|said| &said.sessions));
        }
        Conclusion { since_ends, since_births, held, crowded: self.crowded() }
    }

    /// Gives since when a host is a member, as far as that counts for ends of sessions: clocks differ by a day at most.
    fn joined(&self, host: HostId) -> Timestamp {
        let since = self.certificate(host).map(|certificate| certificate.since).unwrap_or_default();
        Timestamp(since.0.saturating_sub(super::CLOCK_TOLERANCE_MS))
    }

    fn crowded(&self) -> Option<Timestamp> {
        let mut ends: Vec<Timestamp> = self.tombstones().map(|end| end.made).collect();
        ends.sort_unstable_by_key(|end| std::cmp::Reverse(*end));
        ends.get(KEPT_ENDED).copied()
    }
}

fn end(kept: &Kept) -> Option<&Tombstone> {
    match &kept.statement {
        Statement::Tombstone(end) => Some(end),
        _ => None,
    }
}

/// Orders what is said of one session: its end before its birth, so that whoever takes both never counts it as one that
/// lives.
pub(super) fn order(kept: &Kept) -> Option<(SessionId, u8)> {
    match &kept.statement {
        Statement::Tombstone(end) => Some((end.session, 0)),
        Statement::Genesis(genesis) => Some((genesis.session, 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
