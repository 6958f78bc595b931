//! With whom gossip is exchanged, and when: what is new at once with some, and with few now and then for what was missed.
//! An exchange tells both sides what they lack. Only those who are connected come into question.
//!
//! ```text
//! said (here)            to every neighbour, eight in a push
//! heard (news of others) to three neighbours, where all members are neighbours; to every one where they are not.
//!                        Whoever has it already tells nobody
//! nothing new            to two neighbours in each round
//! ```

use std::collections::BTreeSet;

use crate::{id::HostId, random::Random, time::Moment};

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
/// Between two rounds.
const ROUND_MS: u64 = 10_000;
/// The same with more than [`MANY`] members: an exchange grows with them.
const LONG_ROUND_MS: u64 = 30_000;
const MANY: usize = 50;

/// Says when this host begins exchanges, and with whom.
#[derive(Clone, Debug)]
pub struct Pushes {
    random: Random,
    /// The neighbour who was asked last: everybody in turn.
    last: Option<HostId>,
    /// Neighbours who are still to be told.
    owed: usize,
    /// Whether something was heard that others are to be told.
    heard: bool,
    /// No push is before this.
    not_before: Moment,
    round: Moment,
    /// Who was met, and not yet exchanged with.
    met: BTreeSet<HostId>,
}

impl Pushes {
    /// Starts with a round that is due at once.
    pub fn new(seed: u64, now: Moment) -> Pushes {
        Pushes {
            random: Random::new(seed),
            last: None,
            owed: 0,
            heard: false,
            not_before: now,
            round: now,
            met: BTreeSet::new(),
        }
    }

    /// This host has something new that others may wait for.
    pub fn said(&mut self, now: Moment) {
        self.merge(now);
        self.owed = usize::MAX;
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

    fn merge(&mut self, now: Moment) {
        if !self.owes() {
            self.not_before = self.not_before.max(now.plus_ms(MERGED_MS));
        }
    }

    fn owes(&self) -> bool {
        self.owed > 0 || self.heard
    }

    /// Gives with whom an exchange begins now. `present` = how many members are there, this host included.
    pub fn due(&mut self, neighbours: &BTreeSet<HostId>, present: usize, now: Moment) -> BTreeSet<HostId> {
        let mut chosen: BTreeSet<HostId> =
            std::mem::take(&mut self.met).into_iter().filter(|host| neighbours.contains(host)).collect();
        if self.owes() && now >= self.not_before {
            self.not_before = now.plus_ms(PAUSE_MS);
            if std::mem::take(&mut self.heard) {
                let all_are_neighbours = neighbours.len() + 1 >= present;
                self.owed = self.owed.max(if all_are_neighbours { TOLD } else { usize::MAX });
            }
            self.owed = self.owed.min(neighbours.len());
            let count = self.owed.min(PUSHED);
            self.owed -= count;
            self.choose(neighbours, count, &mut chosen);
        }
        if now >= self.round {
            self.round = now.plus_ms(self.pause(present));
            self.choose(neighbours, ROUND, &mut chosen);
        }
        chosen
    }

    /// Gives when to ask again at the latest.
    pub fn wake(&self) -> Moment {
        if self.owes() { self.not_before.min(self.round) } else { self.round }
    }

    fn pause(&mut self, present: usize) -> u64 {
        let usual = if present > MANY { LONG_ROUND_MS } else { ROUND_MS };
        // Those who started together do not speak together for ever.
        usual - usual / 5 + self.random.below(usual * 2 / 5 + 1).unwrap_or(0)
    }

    /// Chooses neighbours in turn, beginning after the last one. The first turn begins anywhere, or all would ask the
    /// same host.
    fn choose(&mut self, neighbours: &BTreeSet<HostId>, count: usize, chosen: &mut BTreeSet<HostId>) {
        if self.last.is_none() {
            let all: Vec<HostId> = neighbours.iter().copied().collect();
            self.last = self.random.pick(&all);
        }
        let last = self.last;
        let after = neighbours.iter().filter(|host| Some(**host) > last);
        let turn = after.chain(neighbours).copied().take(count.min(neighbours.len()));
        for host in turn {
            chosen.insert(host);
            self.last = Some(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hosts(count: u8) -> BTreeSet<HostId> {
        (1..=count).map(|number| HostId([number; 32])).collect()
    }

    /// Asks a host whenever it wants to be asked until `end`; gives the exchanges that it began, by their moments.
    fn run(
        pushes: &mut Pushes,
        neighbours: &BTreeSet<HostId>,
        from: u64,
        end: u64,
    ) -> Vec<(u64, BTreeSet<HostId>)> {
        let (mut begun, mut now) = (Vec::new(), from);
        while now < end {
            let due = pushes.due(neighbours, neighbours.len() + 1, Moment(now));
            if !due.is_empty() {
                begun.push((now, due));
            }
            now = pushes.wake().0.max(now + 1);
        }
        begun
    }

    #[test]
    fn a_mesh_at_rest_says_little_and_forgets_nobody() {
        let neighbours = hosts(8);
        let mut pushes = Pushes::new(1, Moment(0));
        let begun = run(&mut pushes, &neighbours, 0, 60_000);
        assert!((6..=9).contains(&begun.len()), "{begun:?}");
        assert!(begun.iter().all(|(_, hosts)| hosts.len() == ROUND));
        let asked: BTreeSet<HostId> = begun.into_iter().flat_map(|(_, hosts)| hosts).collect();
        assert_eq!(asked, neighbours);
        let many = run(&mut Pushes::new(1, Moment(0)), &hosts(60), 0, 60_000);
        assert!((2..=4).contains(&many.len()), "{many:?}");
    }

    #[test]
    fn what_this_host_says_reaches_every_neighbour_at_once_eight_in_a_push() {
        let neighbours = hosts(20);
        let mut pushes = Pushes::new(2, Moment(0));
        pushes.due(&neighbours, 21, Moment(0));
        pushes.said(Moment(100));
        pushes.said(Moment(110));
        let begun = run(&mut pushes, &neighbours, 100, 400);
        let shape: Vec<(u64, usize)> = begun.iter().map(|(at, hosts)| (*at, hosts.len())).collect();
        assert_eq!(shape, [(120, 8), (170, 8), (220, 4)]);
        assert_eq!(begun.into_iter().flat_map(|(_, hosts)| hosts).collect::<BTreeSet<_>>(), neighbours);
    }

    #[test]
    fn a_flood_of_news_is_twenty_pushes_a_second() {
        let neighbours = hosts(20);
        let mut pushes = Pushes::new(3, Moment(0));
        let mut begun = 0;
        for now in 0..1000 {
            pushes.heard(Moment(now));
            begun += usize::from(!pushes.due(&neighbours, 21, Moment(now)).is_empty());
        }
        assert!((15..=22).contains(&begun), "{begun}");
    }

    #[test]
    fn a_neighbour_that_came_is_asked_at_once_and_one_that_went_is_not() {
        let mut pushes = Pushes::new(4, Moment(0));
        pushes.due(&hosts(3), 4, Moment(0));
        pushes.meets(HostId([2; 32]));
        pushes.meets(HostId([9; 32]));
        assert_eq!(pushes.due(&hosts(3), 4, Moment(1)), BTreeSet::from([HostId([2; 32])]));
        assert!(pushes.due(&hosts(3), 4, Moment(2)).is_empty());
        pushes.said(Moment(3));
        assert!(
            pushes.due(&BTreeSet::new(), 1, Moment(100)).is_empty(),
            "nobody is there, and nothing is owed"
        );
        assert!(pushes.due(&hosts(3), 4, Moment(200)).is_empty());
    }

    /// One of `count` hosts says something; whoever hears it tells others as the rule says, each word a `delay` later.
    fn spread(count: u8, neighbours: impl Fn(u8) -> BTreeSet<HostId>) -> (u64, usize) {
        let mut hosts: Vec<Pushes> = (0..=count).map(|seed| Pushes::new(seed.into(), Moment(0))).collect();
        (1..=count)
            .for_each(|host| drop(hosts[host as usize].due(&neighbours(host), count.into(), Moment(0))));
        let (mut knows, mut exchanges) = (BTreeSet::from([1]), 0);
        let mut words: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        hosts[1].said(Moment(0));
        for now in 0..5_000 {
            for host in words.remove(&now).unwrap_or_default() {
                if knows.insert(host) {
                    hosts[host as usize].heard(Moment(now));
                }
            }
            for host in 1..=count {
                for told in hosts[host as usize].due(&neighbours(host), count.into(), Moment(now)) {
                    exchanges += usize::from(knows.contains(&host));
                    if knows.contains(&host) {
                        words.entry(now + 75).or_default().push(told.0[0]);
                    }
                }
            }
            if knows.len() == count as usize {
                return (now, exchanges);
            }
        }
        (u64::MAX, exchanges)
    }

    #[test]
    fn a_change_is_everywhere_within_a_second_in_full_meshes_and_in_sparse_ones() {
        let (full, _) =
            spread(16, |me| (1..=16).filter(|other| *other != me).map(|n| HostId([n; 32])).collect());
        assert!(full < 300, "{full} ms");
        // A ring with chords, twelve neighbours each.
        let sparse = |me: u8| {
            let at = |step: u8| (me - 1 + step) % 100 + 1;
            let steps = [1, 2, 3, 11, 23, 37, 99, 98, 97, 89, 77, 63];
            steps.iter().map(|step| HostId([at(*step); 32])).collect()
        };
        let (sparse, exchanges) = spread(100, sparse);
        assert!(sparse < 1000 && exchanges <= 100 * 14, "{sparse} ms, {exchanges} exchanges");
    }
}
