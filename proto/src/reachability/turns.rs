//! What is told of the ways to members: that one was found, got worse, is well again, or is gone, each with its reason.
//! Ways that come and go within moments are not told: a change is told once it has held for a while, the longer the
//! more often that way turned lately.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Broke,
    path::{Path, PathKind, differs},
};
use crate::{id::HostId, reasons::Turned, time::Moment};

/// How long a change holds before it is told.
const HOLD_MS: u64 = 2_000;
/// How long there is no way before that is told: a connection that starts over has none for a moment.
const GONE_MS: u64 = 4_000;
/// Turns of one way within [`LATELY_MS`] that are told without more patience.
const FREE: usize = 3;
/// For so long a turn counts.
const LATELY_MS: u64 = 600_000;
/// The longest that a change must hold.
const HOLD_MAX_MS: u64 = 60_000;
/// For so long what was done to a connection explains what becomes of its way.
const EXPLAINS_MS: u64 = 15_000;

/// What became of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A way was found, or a direct one for the first time.
    Fixed,
    /// What was direct is relayed.
    Degraded,
    /// It is as good as it ever was, or there again.
    Restored,
    /// There is none.
    Lost,
}

/// A turn of the way to a member.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The member.
    pub host: HostId,
    /// What became of it.
    pub turn: Turn,
    /// The way before.
    pub from: Option<Path>,
    /// The way now.
    pub to: Option<Path>,
    /// Why.
    pub because: Turned,
}

/// Remembers what was told of each way.
#[derive(Debug, Default)]
pub struct Turns(BTreeMap<HostId, Way>);

#[derive(Debug, Default)]
struct Way {
    told: Option<Path>,
    /// Whether anything was ever told, and whether a direct way was.
    met: bool,
    was_direct: bool,
    /// What is there now, if it is not what was told, and since when.
    pending: Option<(Option<PathKind>, Moment)>,
    broke: Option<(Broke, Moment)>,
    lately: VecDeque<Moment>,
}

impl Turns {
    /// Notes that the connections with a member were closed.
    pub fn broke(&mut self, host: HostId, because: Broke, now: Moment) {
        // The end of a connection that this host closed itself explains nothing.
        if because != Broke::Ended {
            self.0.entry(host).or_default().broke = Some((because, now));
        }
    }

    /// Takes the ways to all members but this host as they are now. Who is no member is forgotten. Gives what is told.
    pub fn note(&mut self, now_there: &BTreeMap<HostId, Option<Path>>, now: Moment) -> Vec<Told> {
        self.0.retain(|host, _| now_there.contains_key(host));
        let note = |(host, path): (&HostId, &Option<Path>)| {
            self.0.entry(*host).or_default().note(*host, path.as_ref(), now)
        };
        now_there.iter().filter_map(note).collect()
    }
}

impl Way {
    fn note(&mut self, host: HostId, path: Option<&Path>, now: Moment) -> Option<Told> {
        if !differs(self.told.as_ref(), path) {
            self.pending = None;
            if path.is_some() {
                // Round trips move all the time; the last one is told beside the next turn.
                self.told = path.cloned();
            }
            return None;
        }
        let kind = path.map(|path| path.kind);
        let since = match self.pending {
            Some((pending, since)) if pending == kind => since,
            _ => now,
        };
        self.pending = Some((kind, since));
        self.lately.retain(|at| now.since_ms(*at) < LATELY_MS);
        if now.since_ms(since) < self.hold_ms(path) {
            return None;
        }
        let told = self.tell(host, path, now);
        self.lately.push_back(now);
        self.pending = None;
        self.told = path.cloned();
        self.met = true;
        self.was_direct |= kind == Some(PathKind::Direct);
        Some(told)
    }

    fn hold_ms(&self, path: Option<&Path>) -> u64 {
        let least = if path.is_some() { HOLD_MS } else { GONE_MS };
        let more = u32::try_from(self.lately.len().saturating_sub(FREE)).unwrap_or(u32::MAX).min(6);
        (least << more).min(HOLD_MAX_MS)
    }

    fn tell(&self, host: HostId, path: Option<&Path>, now: Moment) -> Told {
        let direct = |path: &Path| path.kind == PathKind::Direct;
        let turn = match (&self.told, path) {
            (_, None) => Turn::Lost,
            (Some(from), Some(to)) if direct(from) && !direct(to) => Turn::Degraded,
            (_, Some(to)) if !self.met || (direct(to) && !self.was_direct) => Turn::Fixed,
            _ => Turn::Restored,
        };
        let because = self.because(path, now);
        Told { host, turn, from: self.told.clone(), to: path.cloned(), because }
    }

    fn because(&self, path: Option<&Path>, now: Moment) -> Turned {
        let lately = self.broke.filter(|(_, at)| now.since_ms(*at) < EXPLAINS_MS).map(|(broke, _)| broke);
        match (&self.told, path, lately) {
            (None, Some(_), _) if !self.met => Turned::FirstMet,
            (None, Some(_), _) => Turned::MetAgain,
            (Some(from), Some(to), _) if from.kind != PathKind::Direct && to.kind == PathKind::Direct => {
                Turned::DirectFound
            }
            (_, _, Some(Broke::TooNarrow)) => Turned::DirectNarrow,
            (_, _, Some(Broke::DeadRelay)) => Turned::RelaySilent,
            (_, None, _) => Turned::NothingHeard,
            (Some(from), Some(_), _) if from.kind == PathKind::Direct => Turned::DirectSilent,
            _ => Turned::OtherRelay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAS: HostId = HostId([7; 32]);

    fn way(text: &str) -> Option<Path> {
        let (kind, via) = match text.split_once(' ') {
            Some((_, via)) => (PathKind::Relayed, via),
            None if text == "direct" => (PathKind::Direct, "192.0.2.7:7440"),
            None => return None,
        };
        Some(Path { kind, rtt_ms: 9.0, via: via.to_owned() })
    }

    /// Plays a way a quarter of a second at a time; `for` how long it is like that.
    fn play(turns: &mut Turns, now: &mut Moment, text: &str, for_ms: u64) -> Vec<(Turn, Turned)> {
        let mut told = Vec::new();
        for _ in 0..for_ms / 250 {
            *now = now.plus_ms(250);
            told.extend(turns.note(&BTreeMap::from([(NAS, way(text))]), *now));
        }
        told.into_iter().map(|told| (told.turn, told.because)).collect()
    }

    #[test]
    fn a_way_is_found_gets_worse_is_well_again_and_is_gone_each_for_its_reason() {
        let (mut turns, mut now) = (Turns::default(), Moment(1_000_000));
        let mut see = |text: &str, for_ms| play(&mut turns, &mut now, text, for_ms);
        assert_eq!(see("none", 10_000), [], "nothing was ever there");
        assert_eq!(see("relay http://a", 1_000), [], "it may be a moment's");
        assert_eq!(see("direct", 5_000), [(Turn::Fixed, Turned::FirstMet)]);
        assert_eq!(see("relay http://a", 5_000), [(Turn::Degraded, Turned::DirectSilent)]);
        assert_eq!(see("direct", 5_000), [(Turn::Restored, Turned::DirectFound)]);
        assert_eq!(see("none", 2_000), [], "a connection that starts over");
        assert_eq!(see("direct", 5_000), []);
        assert_eq!(see("none", 10_000), [(Turn::Lost, Turned::NothingHeard)]);
        assert_eq!(see("relay http://b", 15_000), [(Turn::Restored, Turned::MetAgain)]);
    }

    #[test]
    fn what_was_done_to_the_connections_is_the_reason() {
        let (mut turns, mut now) = (Turns::default(), Moment(1_000_000));
        play(&mut turns, &mut now, "direct", 5_000);
        turns.broke(NAS, Broke::TooNarrow, now);
        turns.broke(NAS, Broke::Ended, now);
        play(&mut turns, &mut now, "none", 1_000);
        let told = play(&mut turns, &mut now, "relay http://a", 5_000);
        assert_eq!(told, [(Turn::Degraded, Turned::DirectNarrow)]);
        turns.broke(NAS, Broke::DeadRelay, now);
        let told = play(&mut turns, &mut now, "relay http://b", 5_000);
        assert_eq!(told, [(Turn::Restored, Turned::RelaySilent)]);
        now = now.plus_ms(EXPLAINS_MS);
        let told = play(&mut turns, &mut now, "relay http://c", 5_000);
        assert_eq!(told, [(Turn::Restored, Turned::OtherRelay)]);
    }

    #[test]
    fn a_way_that_turns_all_the_time_is_told_ever_more_seldom() {
        let (mut turns, mut now) = (Turns::default(), Moment(1_000_000));
        let mut told = 0;
        for turn in 0..240 {
            let text = if turn % 2 == 0 { "direct" } else { "relay http://a" };
            told += play(&mut turns, &mut now, text, 2_500).len();
        }
        assert!(told <= 5, "{told} facts in ten minutes");
        let told = play(&mut turns, &mut now, "direct", HOLD_MAX_MS + 1_000);
        assert!(told.len() <= 1, "{told:?}");
    }

    #[test]
    fn who_is_no_member_any_more_is_forgotten() {
        let (mut turns, mut now) = (Turns::default(), Moment(1_000_000));
        play(&mut turns, &mut now, "direct", 5_000);
        assert!(turns.note(&BTreeMap::new(), now).is_empty() && turns.0.is_empty());
    }
}
