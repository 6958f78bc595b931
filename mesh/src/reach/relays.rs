//! Makes the endpoint use the relays that `proto::reachability` chose: pinned before they are dialled.
//!
//! iroh asks every relay that it is given for this host's address, each 20 to 26 s and by a handshake of some 6 kB
//! (github.com/n0-computer/iroh/issues/4523). Once the home relay has settled, it alone is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use iroh::{Endpoint, RelayConfig, RelayUrl, Watcher};
use iroh_relay::RelayQuicConfig;
use proto::{reachability::relays::Home, time::Moment, wire::record::RelayOffer};

use crate::{
    clock::Clock,
    reach::{pins::Pins, relay::Serving},
};

/// So long after the last change all relays are asked for this host's address: a router that gives each of them another
/// one is found by that, and whoever waits for a way is served first.
const SETTLES_MS: u64 = 20_000;

/// A home relay by whose word alone this host lost an address is not asked alone for so long: its address discovery may
/// be filtered where its relay is not.
const DISTRUST_MS: u64 = 30 * 60_000;

/// What is inserted into the endpoint.
pub(crate) struct Relays {
    endpoint: Endpoint,
    pins: Pins,
    inserted: BTreeMap<RelayUrl, RelayOffer>,
    /// When that changed.
    changed: Moment,
    /// The one that alone is asked for this host's address; none = all are.
    asked: Option<RelayUrl>,
    /// The addresses that this host had then.
    seen: BTreeSet<SocketAddr>,
    /// When it lost one by that.
    distrusted: Option<Moment>,
    /// This host's own relay: its URL, and the one on loopback that leads there.
    own: Option<(String, RelayUrl)>,
}

impl Relays {
    pub(crate) fn new(endpoint: Endpoint, pins: Pins) -> Relays {
        let (inserted, changed) = (BTreeMap::new(), Clock.moment());
        let (seen, distrusted) = (BTreeSet::new(), None);
        Relays { endpoint, pins, inserted, changed, asked: None, seen, distrusted, own: None }
    }

    /// Takes the relay that this host serves now. It goes there by loopback: many routers do not lead a home back into
    /// itself.
    pub(crate) fn serve(&mut self, serving: Option<&Serving>) {
        self.own = serving.and_then(|serving| {
            let inside = format!("http://127.0.0.1:{}", serving.inside?).parse().ok()?;
            Some((spelled(serving.offer.clone())?.url, inside))
        });
    }

    /// Gives a relay's URL as others know it.
    pub(crate) fn told(&self, url: &RelayUrl) -> String {
        match &self.own {
            Some((own, inside)) if inside == url => own.clone(),
            _ => url.to_string(),
        }
    }

    /// Does the same with a text.
    pub(crate) fn told_text(&self, url: String) -> String {
        url.parse().map_or(url, |parsed| self.told(&parsed))
    }

    fn dialled(&self, offer: &RelayOffer) -> Option<(RelayUrl, RelayConfig)> {
        if let Some((_, inside)) = self.own.as_ref().filter(|(own, _)| *own == offer.url) {
            // Its address discovery would see loopback.
            return Some((inside.clone(), RelayConfig::new(inside.clone(), None)));
        }
        let url: RelayUrl = offer.url.parse().ok()?;
        let is_asked = self.asked.as_ref().is_none_or(|asked| *asked == url);
        let discovery = is_asked.then(|| RelayQuicConfig::new(offer.qad_port));
        Some((url.clone(), RelayConfig::new(url, discovery)))
    }

    /// Gives the home relays as they are now.
    pub(crate) fn homes(&self) -> Vec<Home> {
        let homes = self.endpoint.home_relay_status().get();
        let home = |home: &iroh::endpoint::RelayStatus| Home {
            url: self.told(home.url()),
            is_connected: home.is_connected(),
        };
        homes.iter().map(home).collect()
    }

    /// Lets the home relay alone be asked for this host's address, once nothing has changed for a while, and all of them
    /// again when it is the home no more, or by what it alone says this host has lost an address.
    pub(crate) async fn rest(&mut self) {
        let now = Clock.moment();
        let homes = self.endpoint.home_relay_status().get();
        let mut connected = homes.iter().filter(|home| home.is_connected()).map(|home| home.url().clone());
        // The own one sees loopback.
        let own = self.own.as_ref().map(|(_, inside)| inside);
        let home = connected.find(|home| self.inserted.contains_key(home) && Some(home) != own);
        if home.is_none() {
            self.changed = now;
        }
        let seen = self.addresses();
        let lost = self.asked.is_some() && !self.seen.is_subset(&seen);
        if lost {
            (self.distrusted, self.changed) = (Some(now), now);
        }
        let trusted = self.distrusted.is_none_or(|at| now.since_ms(at) >= DISTRUST_MS);
        let settled = trusted && now.since_ms(self.changed) >= SETTLES_MS;
        let asked = home.filter(|_| settled);
        if asked == self.asked {
            return;
        }
        self.seen = seen;
        let before = std::mem::replace(&mut self.asked, asked);
        for (url, offer) in self.inserted.clone() {
            let is_asked = |asked: &Option<RelayUrl>| asked.as_ref().is_none_or(|asked| *asked == url);
            if is_asked(&before) != is_asked(&self.asked)
                && let Some((url, config)) = self.dialled(&offer)
            {
                self.endpoint.insert_relay(url, Arc::new(config)).await;
            }
        }
    }

    /// Asks all relays again for this host's address: its network is another one.
    pub(crate) fn moved(&mut self) {
        self.changed = Clock.moment();
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.endpoint.addr().ip_addrs().copied().collect()
    }

    /// Uses exactly these. Pins first: a relay that is inserted before its hash is known gets no address discovery.
    pub(crate) async fn bring_about(&mut self, used: Vec<RelayOffer>, offered: &[RelayOffer]) {
        self.pins.set(offered.iter().map(|offer| offer.certificate));
        let dialled = |offer: RelayOffer| {
            let (url, config) = self.dialled(&offer)?;
            Some((url, (offer, config)))
        };
        let used: BTreeMap<RelayUrl, (RelayOffer, RelayConfig)> =
            used.into_iter().filter_map(dialled).collect();
        let gone: Vec<RelayUrl> =
            self.inserted.keys().filter(|url| !used.contains_key(*url)).cloned().collect();
        for url in gone {
            self.endpoint.remove_relay(&url).await;
            self.inserted.remove(&url);
            self.changed = Clock.moment();
        }
        for (url, (offer, config)) in used {
            if self.inserted.get(&url) != Some(&offer) {
                // Also when it is there already: only an insertion makes iroh ask a new hash.
                self.endpoint.insert_relay(url.clone(), Arc::new(config)).await;
                self.inserted.insert(url, offer);
                self.changed = Clock.moment();
            }
        }
    }

    /// Looks for another home.
    pub(crate) async fn leave(&self) {
        self.endpoint.network_change().await;
    }
}

/// Spells a member's offer as the endpoint spells it; none when its URL is malformed.
pub(crate) fn spelled(offer: RelayOffer) -> Option<RelayOffer> {
    match offer.url.parse::<RelayUrl>() {
        Ok(url) => Some(RelayOffer { url: url.to_string(), ..offer }),
        Err(error) => {
            tracing::debug!(%error, "a relay URL of a member is malformed");
            None
        }
    }
}
