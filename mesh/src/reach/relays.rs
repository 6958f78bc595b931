//! Makes the endpoint use the relays that `proto::reachability` chose: pinned before they are dialled, and asked for this
//! host's address as it says.

use std::{collections::BTreeMap, sync::Arc};

use iroh::{Endpoint, RelayConfig, RelayUrl, Watcher};
use iroh_relay::RelayQuicConfig;
use proto::{
    reachability::{discovery::Discovery, relays::Home},
    wire::record::RelayOffer,
};

use crate::{
    clock::Clock,
    reach::{pins::Pins, relay::Serving},
};

/// What is inserted into the endpoint.
pub(crate) struct Relays {
    endpoint: Endpoint,
    pins: Pins,
    inserted: BTreeMap<RelayUrl, RelayOffer>,
    /// Which of them are asked for this host's address.
    discovery: Discovery<RelayUrl>,
    /// This host's own relay: its URL, and the one on loopback that leads there.
    own: Option<(String, RelayUrl)>,
}

impl Relays {
    pub(crate) fn new(endpoint: Endpoint, pins: Pins) -> Relays {
        let discovery = Discovery::new(Clock.moment());
        Relays { endpoint, pins, inserted: BTreeMap::new(), discovery, own: None }
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
        let discovery = self.discovery.asks(&url).then(|| RelayQuicConfig::new(offer.qad_port));
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

    /// Has the relays asked for this host's address that are to be asked now.
    pub(crate) async fn look(&mut self) {
        let homes = self.endpoint.home_relay_status().get();
        let mut connected = homes.iter().filter(|home| home.is_connected()).map(|home| home.url().clone());
        // The own one sees loopback.
        let own = self.own.as_ref().map(|(_, inside)| inside);
        let home = connected.find(|home| self.inserted.contains_key(home) && Some(home) != own);
        let seen = self.endpoint.addr().ip_addrs().copied().collect();
        let before = self.discovery.clone();
        if !self.discovery.look(home, seen, Clock.moment()) {
            return;
        }
        for (url, offer) in &self.inserted {
            if before.asks(url) != self.discovery.asks(url)
                && let Some((url, config)) = self.dialled(offer)
            {
                self.endpoint.insert_relay(url, Arc::new(config)).await;
            }
        }
    }

    /// Notes that this host's network is another one.
    pub(crate) fn moved(&mut self) {
        self.discovery.changed(Clock.moment());
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
            self.discovery.changed(Clock.moment());
        }
        for (url, (offer, config)) in used {
            if self.inserted.get(&url) != Some(&offer) {
                // Also when it is there already: only an insertion makes iroh ask a new hash.
                self.endpoint.insert_relay(url.clone(), Arc::new(config)).await;
                self.inserted.insert(url, offer);
                self.discovery.changed(Clock.moment());
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
