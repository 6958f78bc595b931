//! Which relays this host uses: all that members offer, within bounds. And the watchdog over the home relay: left to
//! itself, the endpoint takes some 45 s to leave a dead one, this takes two.

use std::collections::{BTreeMap, BTreeSet};

use crate::{time::Moment, wire::record::RelayOffer};

/// A home relay that is silent for so long is left, if there is another.
const SILENCE_MS: u64 = 1_500;
/// How long a left relay is not used. The endpoint goes on knocking at it for about a minute anyway.
const BANISHED_MS: u64 = 60_000;
/// Relays in use: address discovery asks five at most, and each costs idle traffic.
const MAX_USED: usize = 8;

/// A home relay as it is now. All URLs here are spelled as the endpoint spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its URL.
    pub url: String,
    /// Whether the endpoint is connected to it.
    pub is_connected: bool,
}

/// The relays.
#[derive(Clone, Debug, Default)]
pub struct Relays {
    offers: BTreeMap<String, RelayOffer>,
    banished: BTreeMap<String, Moment>,
    silent_since: Option<Moment>,
}

impl Relays {
    /// Takes what is offered now, this host's own first. Tells whether that is something else than before.
    pub fn offer(&mut self, offers: impl IntoIterator<Item = RelayOffer>) -> bool {
        let mut new = BTreeMap::new();
        for offer in offers {
            if new.len() < MAX_USED {
                new.entry(offer.url.clone()).or_insert(offer);
            }
        }
        let changed = new != self.offers;
        self.offers = new;
        changed
    }

    /// Gives all that is offered: their certificates are known before they are used, and after.
    pub fn offered(&self) -> impl Iterator<Item = &RelayOffer> {
        self.offers.values()
    }

    /// Gives the relays to use.
    pub fn used(&self) -> Vec<RelayOffer> {
        let used = self.offers.values().filter(|offer| !self.banished.contains_key(&offer.url));
        used.cloned().collect()
    }

    /// Tells whether a relay was left.
    pub fn is_left(&self, url: &str) -> bool {
        self.banished.contains_key(url)
    }

    /// Lets those back that were left long enough ago. Tells whether there are any.
    pub fn forgive(&mut self, now: Moment) -> bool {
        let before = self.banished.len();
        self.banished.retain(|_, since| now.since_ms(*since) < BANISHED_MS);
        self.banished.len() != before
    }

    /// Looks at the home relays, and takes which relays died without a word, of so many that are used. Gives those that
    /// are left now.
    pub fn watch(
        &mut self,
        homes: &[Home],
        dead: &BTreeSet<String>,
        used: usize,
        now: Moment,
    ) -> BTreeSet<String> {
        let mut left: BTreeSet<String> =
            self.used().into_iter().map(|offer| offer.url).filter(|url| dead.contains(url)).collect();
        if homes.is_empty() || homes.iter().any(|home| home.is_connected) {
            self.silent_since = None;
        } else if now.since_ms(*self.silent_since.get_or_insert(now)) >= SILENCE_MS {
            left.extend(homes.iter().map(|home| home.url.clone()));
        }
        // Leaving the only relay gains nothing: the endpoint tries it again by itself.
        if left.is_empty() || used < 2 || left.len() >= used {
            return BTreeSet::new();
        }
        self.silent_since = None;
        self.banished.extend(left.iter().map(|url| (url.clone(), now)));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    fn offer(url: &str) -> RelayOffer {
        RelayOffer { url: url.to_owned(), qad_port: 7441, certificate: Digest([1; 32]) }
    }

    fn home(is_connected: bool) -> [Home; 1] {
        [Home { url: "http://a/".to_owned(), is_connected }]
    }

    fn urls(relays: &Relays) -> Vec<String> {
        relays.used().into_iter().map(|offer| offer.url).collect()
    }

    #[test]
    fn a_silent_home_relay_is_left_for_a_minute_when_there_is_another() {
        let mut relays = Relays::default();
        assert!(relays.offer([offer("http://a/"), offer("http://b/")]));
        assert!(!relays.offer([offer("http://b/"), offer("http://a/")]));
        assert!(relays.watch(&home(false), &BTreeSet::new(), 2, Moment(0)).is_empty());
        assert!(relays.watch(&home(true), &BTreeSet::new(), 2, Moment(1_000)).is_empty());
        assert!(
            relays.watch(&home(false), &BTreeSet::new(), 2, Moment(2_000)).is_empty(),
            "it spoke in between"
        );
        assert!(relays.watch(&home(false), &BTreeSet::new(), 2, Moment(3_499)).is_empty());
        assert_eq!(
            relays.watch(&home(false), &BTreeSet::new(), 2, Moment(3_500)),
            BTreeSet::from(["http://a/".to_owned()])
        );
        assert_eq!(urls(&relays), ["http://b/"]);
        assert_eq!(relays.offered().count(), 2);
        assert!(!relays.forgive(Moment(63_499)) && relays.forgive(Moment(63_500)));
        assert_eq!(urls(&relays), ["http://a/", "http://b/"]);
    }

    #[test]
    fn a_relay_that_died_without_a_word_is_left_at_once_unless_it_is_the_only_one() {
        let mut relays = Relays::default();
        let dead = BTreeSet::from(["http://a/".to_owned()]);
        relays.offer([offer("http://a/")]);
        assert!(relays.watch(&home(true), &dead, 1, Moment(0)).is_empty());
        relays.offer([offer("http://a/"), offer("http://b/")]);
        assert_eq!(relays.watch(&home(true), &dead, 2, Moment(250)), dead);
        assert_eq!(urls(&relays), ["http://b/"]);
        assert!(relays.watch(&home(true), &dead, 1, Moment(500)).is_empty(), "it is left already");
    }

    #[test]
    fn the_only_relay_is_not_left() {
        let mut relays = Relays::default();
        relays.offer([offer("http://a/")]);
        for second in 0..600 {
            assert!(relays.watch(&home(false), &BTreeSet::new(), 1, Moment(second * 1000)).is_empty());
        }
    }

    #[test]
    fn of_many_relays_the_own_one_and_a_few_more_are_used() {
        let mut relays = Relays::default();
        let many = (0..100).map(|number| offer(&format!("http://{number}/")));
        relays.offer([offer("http://own/")].into_iter().chain(many));
        assert_eq!(relays.used().len(), MAX_USED);
        assert!(urls(&relays).contains(&"http://own/".to_owned()));
    }
}
