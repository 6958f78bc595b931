//! The relays this host uses: all that members offer, pinned before they are dialled. And the
//! watchdog: iroh takes some 45 s to leave a dead home relay, this takes two.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::{Endpoint, RelayConfig, RelayUrl, Watcher};
use iroh_relay::RelayQuicConfig;
use proto::wire::record::RelayOffer;

use crate::reach::pins::Pins;

/// A home relay that is silent for so long is left, if there is another.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long a left relay is not used. iroh goes on knocking at it for about a minute anyway.
const BANISHED: Duration = Duration::from_secs(60);
/// Relays in use: address discovery asks five at most, and each costs idle traffic.
const MAX_RELAYS: usize = 8;

/// What is inserted into the endpoint.
pub(crate) struct Relays {
    endpoint: Endpoint,
    pins: Pins,
    offers: BTreeSet<Offer>,
    inserted: BTreeMap<RelayUrl, Offer>,
    banished: BTreeMap<RelayUrl, Instant>,
    silent_since: Option<Instant>,
}

type Offer = (String, u16, [u8; 32]);

impl Relays {
    pub(crate) fn new(endpoint: Endpoint, pins: Pins) -> Relays {
        Relays {
            endpoint,
            pins,
            offers: BTreeSet::new(),
            inserted: BTreeMap::new(),
            banished: BTreeMap::new(),
            silent_since: None,
        }
    }

    /// Uses exactly what is offered now.
    pub(crate) async fn set(&mut self, offers: impl Iterator<Item = RelayOffer>) {
        let offers = offers.map(|offer| (offer.url, offer.qad_port, offer.certificate.0));
        self.offers = offers.take(MAX_RELAYS).collect();
        self.bring_about().await;
    }

    /// Looks at the home relay; to be called several times a second. Gives the relays that it left.
    pub(crate) async fn watch(&mut self) -> Vec<RelayUrl> {
        let now = Instant::now();
        let before = self.banished.len();
        self.banished.retain(|_, since| now - *since < BANISHED);
        if self.banished.len() != before {
            self.bring_about().await;
        }
        let homes = self.endpoint.home_relay_status().get();
        if homes.is_empty() || homes.iter().any(|home| home.is_connected()) {
            self.silent_since = None;
            return Vec::new();
        }
        let since = *self.silent_since.get_or_insert(now);
        // Leaving the only relay gains nothing: iroh tries it again by itself.
        if now - since < SILENCE || self.inserted.len() < 2 {
            return Vec::new();
        }
        self.silent_since = None;
        let left: Vec<RelayUrl> = homes.iter().map(|home| home.url().clone()).collect();
        for url in &left {
            tracing::info!(relay = %url, "the home relay is silent; leaving it");
            self.banished.insert(url.clone(), now);
        }
        self.bring_about().await;
        self.endpoint.network_change().await;
        left
    }

    /// Pins first: a relay that is inserted before its hash is known gets no address discovery.
    async fn bring_about(&mut self) {
        self.pins.set(self.offers.iter().map(|offer| proto::id::Digest(offer.2)));
        let mut wanted: BTreeMap<RelayUrl, Offer> = BTreeMap::new();
        for offer in &self.offers {
            match offer.0.parse::<RelayUrl>() {
                Ok(url) if !self.banished.contains_key(&url) => drop(wanted.insert(url, offer.clone())),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a relay URL of a member is malformed"),
            }
        }
        let gone: Vec<RelayUrl> =
            self.inserted.keys().filter(|url| !wanted.contains_key(*url)).cloned().collect();
        for url in gone {
            self.endpoint.remove_relay(&url).await;
            self.inserted.remove(&url);
        }
        for (url, offer) in wanted {
            if self.inserted.get(&url) != Some(&offer) {
                let config = RelayConfig::new(url.clone(), Some(RelayQuicConfig::new(offer.1)));
                // Also when it is there already: only an insertion makes iroh ask a new hash.
                self.endpoint.insert_relay(url.clone(), Arc::new(config)).await;
                self.inserted.insert(url, offer);
            }
        }
    }
}
