//! Makes the endpoint use the relays that `proto::reachability` chose: pinned before they are dialled.

use std::{collections::BTreeMap, sync::Arc};

use iroh::{Endpoint, RelayConfig, RelayUrl, Watcher};
use iroh_relay::RelayQuicConfig;
use proto::{reachability::relays::Home, wire::record::RelayOffer};

use crate::reach::pins::Pins;

/// What is inserted into the endpoint.
pub(crate) struct Relays {
    endpoint: Endpoint,
    pins: Pins,
    inserted: BTreeMap<RelayUrl, RelayOffer>,
}

impl Relays {
    pub(crate) fn new(endpoint: Endpoint, pins: Pins) -> Relays {
        Relays { endpoint, pins, inserted: BTreeMap::new() }
    }

    /// Gives the home relays as they are now.
    pub(crate) fn homes(&self) -> Vec<Home> {
        let homes = self.endpoint.home_relay_status().get();
        let home = |home: &iroh::endpoint::RelayStatus| Home {
            url: home.url().to_string(),
            is_connected: home.is_connected(),
        };
        homes.iter().map(home).collect()
    }

    /// Uses exactly these. Pins first: a relay that is inserted before its hash is known gets no address discovery.
    pub(crate) async fn bring_about(&mut self, used: Vec<RelayOffer>, offered: &[RelayOffer]) {
        self.pins.set(offered.iter().map(|offer| offer.certificate));
        let url = |offer: RelayOffer| Some((offer.url.parse().ok()?, offer));
        let used: BTreeMap<RelayUrl, RelayOffer> = used.into_iter().filter_map(url).collect();
        let gone: Vec<RelayUrl> =
            self.inserted.keys().filter(|url| !used.contains_key(*url)).cloned().collect();
        for url in gone {
            self.endpoint.remove_relay(&url).await;
            self.inserted.remove(&url);
        }
        for (url, offer) in used {
            if self.inserted.get(&url) != Some(&offer) {
                let config = RelayConfig::new(url.clone(), Some(RelayQuicConfig::new(offer.qad_port)));
                // Also when it is there already: only an insertion makes iroh ask a new hash.
                self.endpoint.insert_relay(url.clone(), Arc::new(config)).await;
                self.inserted.insert(url, offer);
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
