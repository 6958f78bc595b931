//! With whom gossip is exchanged, and when: what is new at once with some, and with few now and then for what was missed.
//! An exchange tells both sides what they lack, and names every member. So whoever may well have it already is told first
//! what this host holds, in a few bytes, and begins an exchange if it holds something else. Only those who are connected
//! come into question.
//!
//! ```text
//! said (here)            an exchange with every neighbour, eight in a push
//! heard (news of others) compared with three neighbours, where all members are neighbours; with every one where they are
//!                        not. Whoever has it already tells nobody
//! told (a summary)       an exchange with whoever told it, if that is not what this host holds by then
//! nothing new            compared with two neighbours in each round; and an exchange with one now and then, for the
//!                        heartbeats, without which chitchat forgets a host
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, random::Random, time::Moment, wire::Summary};

/// Neighbours in one push.
const PUSHED: usize = 8;
/// Neighbours who are told what was heard where everybody is everybody's: the first speaker tells all.
const TOLD: usize = 3;
/// Neighbours in one round of a mesh at rest.
const ROUND: usize = 2;
/// News of one moment go together.
const MERGED_MS: u64 = 20;
/// Twenty pushes in a second.
const PAUSE_MS: u64 = 50;
/// Between two exchanges with those who hold something else: most of them lack, or have, the same.
const ASKED_MS: u64 = 100;
/// Between two rounds.
const ROUND_MS: u64 = 10_000;
/// Between two exchanges at rest, each with one neighbour.
const EXCHANGE_MS: u64 = 30_000;

/// How this host begins with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opening {
    /// It says what it holds, in a few bytes.
    Compare,
    /// It begins an exchange.
    Exchange,
}

/// Says when this host begins exchanges, and with whom.
#[derive(Clone, Debug)]
pub struct Pushes {
    random: Random,
    /// The neighbour who was asked last: everybody in turn.
    last: Option<HostId>,
    /// Neighbours who are still to be told, and how.
    owed: usize,
    how: Opening,
    /// Whether something was heard that others are to be told.
    heard: bool,
    /// No push is before this.
    not_before: Moment,
    round: Moment,
    exchange: Moment,
    /// Who was met, and not yet exchanged with.
    met: BTreeSet<HostId>,
    /// Who told what it holds; and when that is looked at.
    told: BTreeMap<HostId, Summary>,
    ask: Moment,
}

impl Pushes {
    /// Starts with a round that is due at once.
    pub fn new(seed: u64, now: Moment) -> Pushes {
        Pushes {
            random: Random::new(seed),
            last: None,
            owed: 0,
            how: Opening::Compare,
            heard: false,
            not_before: now,
            round: now,
            exchange: now,
            met: BTreeSet::new(),
            told: BTreeMap::new(),
            ask: now,
        }
    }

    /// This host has something new that others may wait for.
    pub fn said(&mut self, now: Moment) {
        self.merge(now);
        (self.owed, self.how) = (usize::MAX, Opening::Exchange);
    }

    /// Somebody told this host something new.
    pub fn heard(&mut self, now: Moment) {
        self.merge(now);
        self.heard = true;
    }

    /// A neighbour came: an exchange with it does not wait for its round.
    pub fn meets(&mut self, host: HostId) {
        self.met.insert(host);
    }

    /// A neighbour told what it holds.
    pub fn told(&mut self, host: HostId, theirs: Summary, now: Moment) {
        if self.told.is_empty() {
            self.ask = self.ask.max(now.plus_ms(MERGED_MS));
        }
        self.told.insert(host, theirs);
    }

    fn merge(&mut self, now: Moment) {
        if !self.owes() {
            self.not_before = self.not_before.max(now.plus_ms(MERGED_MS));
        }
    }

    fn owes(&self) -> bool {
        self.owed > 0 || self.heard
    }

    /// Gives with whom this host begins now, and how. `present` = how many members are there, this host included;
    /// `ours` = what it holds.
    pub fn due(
        &mut self,
        neighbours: &BTreeSet<HostId>,
        present: usize,
        ours: Summary,
        now: Moment,
    ) -> BTreeMap<HostId, Opening> {
        let met = std::mem::take(&mut self.met).into_iter().filter(|host| neighbours.contains(host));
        let mut chosen: BTreeMap<HostId, Opening> = met.map(|host| (host, Opening::Exchange)).collect();
        if self.owes() && now >= self.not_before {
            self.not_before = now.plus_ms(PAUSE_MS);
            if std::mem::take(&mut self.heard) {
                let all_are_neighbours = neighbours.len() + 1 >= present;
                self.owed = self.owed.max(if all_are_neighbours { TOLD } else { usize::MAX });
            }
            self.owed = self.owed.min(neighbours.len());
            let count = self.owed.min(PUSHED);
            self.owed -= count;
            self.choose(neighbours, count, self.how, &mut chosen);
            if self.owed == 0 {
                self.how = Opening::Compare;
            }
        }
        if now >= self.ask {
            self.ask(neighbours, ours, now, &mut chosen);
        }
        if now >= self.round {
            self.round = now.plus_ms(self.pause(ROUND_MS));
            self.choose(neighbours, ROUND, Opening::Compare, &mut chosen);
        }
        if now >= self.exchange {
            self.exchange = now.plus_ms(self.pause(EXCHANGE_MS));
            self.choose(neighbours, 1, Opening::Exchange, &mut chosen);
        }
        chosen
    }

    /// Begins an exchange with one of those who hold something else. What that brings may be all that the others have.
    fn ask(
        &mut self,
        neighbours: &BTreeSet<HostId>,
        ours: Summary,
        now: Moment,
        chosen: &mut BTreeMap<HostId, Opening>,
    ) {
        self.told.retain(|host, theirs| !theirs.is_of_the_same(&ours) && neighbours.contains(host));
        let others: Vec<HostId> = self.told.keys().copied().collect();
        if let Some(host) = self.random.pick(&others) {
            self.told.remove(&host);
            self.ask = now.plus_ms(ASKED_MS);
            chosen.insert(host, Opening::Exchange);
        }
    }

    /// Gives when to ask again at the latest.
    pub fn wake(&self) -> Moment {
        let push = self.owes().then_some(self.not_before);
        let ask = (!self.told.is_empty()).then_some(self.ask);
        [push, ask].into_iter().flatten().fold(self.round.min(self.exchange), Moment::min)
    }

    fn pause(&mut self, usual: u64) -> u64 {
        // Those who started together do not speak together for ever.
        usual - usual / 5 + self.random.below(usual * 2 / 5 + 1).unwrap_or(0)
    }

    /// Chooses neighbours in turn, beginning after the last one. The first turn begins anywhere, or all would ask the
    /// same host.
    fn choose(
        &mut self,
        neighbours: &BTreeSet<HostId>,
        count: usize,
        how: Opening,
        chosen: &mut BTreeMap<HostId, Opening>,
    ) {
        if self.last.is_none() {
            let all: Vec<HostId> = neighbours.iter().copied().collect();
            self.last = self.random.pick(&all);
        }
        let last = self.last;
        let after = neighbours.iter().filter(|host| Some(**host) > last);
        let turn = after.chain(neighbours).copied().take(count.min(neighbours.len()));
        for host in turn {
            let known = chosen.entry(host).or_insert(how);
            *known = (*known).max(how);
            self.last = Some(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Opening::*, *};

    fn hosts(count: u8) -> BTreeSet<HostId> {
        (1..=count).map(|number| HostId([number; 32])).collect()
    }

    /// What a host holds that knows so much.
    fn held(version: u64) -> Summary {
        Summary::of(1, [("attic", 1, version)])
    }

    type Begun = Vec<(u64, BTreeMap<HostId, Opening>)>;

    /// Asks a host whenever it wants to be asked until `end`; gives what it began, by their moments.
    fn run(pushes: &mut Pushes, neighbours: &BTreeSet<HostId>, from: u64, end: u64) -> Begun {
        let (mut begun, mut now) = (Vec::new(), from);
        while now < end {
            let due = pushes.due(neighbours, neighbours.len() + 1, held(1), Moment(now));
            if !due.is_empty() {
                begun.push((now, due));
            }
            now = pushes.wake().0.max(now + 1);
        }
        begun
    }

    fn count(begun: &Begun, how: Opening) -> usize {
        begun.iter().flat_map(|(_, hosts)| hosts.values()).filter(|opening| **opening == how).count()
    }

    #[test]
    fn a_mesh_at_rest_compares_and_hardly_exchanges_and_forgets_nobody() {
        let neighbours = hosts(8);
        let mut pushes = Pushes::new(1, Moment(0));
        pushes.due(&BTreeSet::new(), 1, held(1), Moment(0));
        let begun = run(&mut pushes, &neighbours, 0, 60_000);
        assert!((10..=16).contains(&count(&begun, Compare)), "{begun:?}");
        assert!((1..=2).contains(&count(&begun, Exchange)), "{begun:?}");
        let asked: BTreeSet<HostId> = begun.into_iter().flat_map(|(_, hosts)| hosts.into_keys()).collect();
        assert_eq!(asked, neighbours);
        let begun = run(&mut pushes, &neighbours, 60_000, 400_000);
        let exchanged = begun.iter().flat_map(|(_, hosts)| hosts).filter(|(_, how)| **how == Exchange);
        let exchanged: BTreeSet<HostId> = exchanged.map(|(host, _)| *host).collect();
        assert!(exchanged.len() > neighbours.len() / 2, "{exchanged:?}: not always with the same ones");
    }

    #[test]
    fn what_this_host_says_reaches_every_neighbour_at_once_eight_in_a_push() {
        let neighbours = hosts(20);
        let mut pushes = Pushes::new(2, Moment(0));
        pushes.due(&neighbours, 21, held(1), Moment(0));
        pushes.said(Moment(100));
        pushes.said(Moment(110));
        let begun = run(&mut pushes, &neighbours, 100, 400);
        let shape: Vec<(u64, usize)> = begun.iter().map(|(at, hosts)| (*at, hosts.len())).collect();
        assert_eq!(shape, [(120, 8), (170, 8), (220, 4)]);
        assert_eq!(count(&begun, Compare), 0, "nobody has it yet");
        assert_eq!(
            begun.into_iter().flat_map(|(_, hosts)| hosts.into_keys()).collect::<BTreeSet<_>>(),
            neighbours
        );
        pushes.heard(Moment(1_000));
        assert_eq!(count(&run(&mut pushes, &neighbours, 1_000, 1_400), Exchange), 0, "others may have it");
    }

    #[test]
    fn whoever_holds_something_else_is_asked_unless_another_has_told_it_meanwhile() {
        let mut pushes = Pushes::new(3, Moment(0));
        pushes.due(&hosts(4), 5, held(1), Moment(0));
        for host in hosts(3) {
            pushes.told(host, held(2), Moment(100));
        }
        pushes.told(HostId([4; 32]), held(1), Moment(100));
        pushes.told(HostId([9; 32]), held(2), Moment(100));
        assert!(pushes.due(&hosts(4), 5, held(1), Moment(119)).is_empty(), "news of one moment go together");
        let asked = pushes.due(&hosts(4), 5, held(1), Moment(120));
        assert!(
            asked.len() == 1 && asked.iter().all(|(host, how)| hosts(3).contains(host) && *how == Exchange)
        );
        assert_eq!(pushes.wake(), Moment(120 + ASKED_MS));
        let again = pushes.clone().due(&hosts(4), 5, held(1), pushes.wake());
        assert_eq!(again.len(), 1, "the exchange brought nothing, and another has it");
        assert!(
            pushes.due(&hosts(4), 5, held(2), pushes.wake()).is_empty(),
            "it brought what the others have"
        );
        assert!(pushes.wake() > Moment(1_000), "nobody is left");
    }

    #[test]
    fn a_flood_of_news_is_twenty_pushes_a_second() {
        let neighbours = hosts(20);
        let mut pushes = Pushes::new(3, Moment(0));
        let mut begun = 0;
        for now in 0..1000 {
            pushes.heard(Moment(now));
            begun += usize::from(!pushes.due(&neighbours, 21, held(1), Moment(now)).is_empty());
        }
        assert!((15..=22).contains(&begun), "{begun}");
    }

    #[test]
    fn a_neighbour_that_came_is_asked_at_once_and_one_that_went_is_not() {
        let mut pushes = Pushes::new(4, Moment(0));
        pushes.due(&hosts(3), 4, held(1), Moment(0));
        pushes.meets(HostId([2; 32]));
        pushes.meets(HostId([9; 32]));
        let met = pushes.due(&hosts(3), 4, held(1), Moment(1));
        assert_eq!(met, BTreeMap::from([(HostId([2; 32]), Exchange)]));
        assert!(pushes.due(&hosts(3), 4, held(1), Moment(2)).is_empty());
        pushes.said(Moment(3));
        assert!(
            pushes.due(&BTreeSet::new(), 1, held(1), Moment(100)).is_empty(),
            "nobody is there, and nothing is owed"
        );
        assert!(pushes.due(&hosts(3), 4, held(1), Moment(200)).is_empty());
    }

    /// What goes from one host to another.
    enum Word {
        Summary(u8, bool),
        Exchange(u8),
    }

    /// What an exchange takes, and the word before it.
    const EXCHANGE: u64 = 75;
    const WORD: u64 = 25;

    /// One of `count` hosts says something; whoever hears it tells others as the rule says. Gives when all know, and how
    /// many exchanges and summaries it took.
    fn spread(count: u8, neighbours: impl Fn(u8) -> BTreeSet<HostId>) -> (u64, usize, usize) {
        let holds = |knows: bool| held(u64::from(knows));
        let mut hosts: Vec<Pushes> = (0..=count).map(|seed| Pushes::new(seed.into(), Moment(0))).collect();
        for host in 1..=count {
            hosts[host as usize].due(&neighbours(host), count.into(), holds(false), Moment(0));
        }
        let (mut knows, mut exchanges, mut summaries) = (BTreeSet::from([1]), 0, 0);
        let mut words: BTreeMap<u64, Vec<(u8, Word)>> = BTreeMap::new();
        hosts[1].said(Moment(0));
        for now in 0..5_000 {
            for (to, word) in words.remove(&now).unwrap_or_default() {
                match word {
                    Word::Summary(from, knew) => {
                        if knew != knows.contains(&to) {
                            hosts[to as usize].told(HostId([from; 32]), holds(knew), Moment(now));
                        }
                    }
                    Word::Exchange(from) if knows.contains(&from) || knows.contains(&to) => {
                        for host in [from, to] {
                            if knows.insert(host) {
                                hosts[host as usize].heard(Moment(now));
                            }
                        }
                    }
                    Word::Exchange(_) => {}
                }
            }
            for host in 1..=count {
                let knew = knows.contains(&host);
                let due = hosts[host as usize].due(&neighbours(host), count.into(), holds(knew), Moment(now));
                for (told, opening) in due {
                    let (takes, word) = match opening {
                        Compare => (WORD, Word::Summary(host, knew)),
                        Exchange => (EXCHANGE, Word::Exchange(host)),
                    };
                    summaries += usize::from(opening == Compare);
                    exchanges += usize::from(opening == Exchange);
                    words.entry(now + takes).or_default().push((told.0[0], word));
                }
            }
            if knows.len() == count as usize {
                return (now, exchanges, summaries);
            }
        }
        (u64::MAX, exchanges, summaries)
    }

    #[test]
    fn a_change_is_everywhere_within_a_second_in_full_meshes_and_in_sparse_ones() {
        let (full, ..) =
            spread(16, |me| (1..=16).filter(|other| *other != me).map(|n| HostId([n; 32])).collect());
        assert!(full < 300, "{full} ms");
        // A ring with chords, twelve neighbours each.
        let sparse = |me: u8| {
            let at = |step: u8| (me - 1 + step) % 100 + 1;
            let steps = [1, 2, 3, 11, 23, 37, 99, 98, 97, 89, 77, 63];
            steps.iter().map(|step| HostId([at(*step); 32])).collect()
        };
        let (sparse, exchanges, summaries) = spread(100, sparse);
        assert!(sparse < 1000, "{sparse} ms");
        // As many as there are neighbours of everybody, were each told by an exchange.
        assert!(exchanges <= 300 && summaries <= 1_200, "{exchanges} exchanges, {summaries} summaries");
    }
}
