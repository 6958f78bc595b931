//! What the handle can do about tokens.

use std::{sync::atomic::Ordering, time::Duration};

use proto::wire::record::Body;

use super::{Inner, Mesh};
use crate::members::tokens::{self, Made, TokenView, TokenWish, TokensError};

/// How long a token waits for an address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer it waits for a relay, when there is one in the mesh.
const HOME_TIMEOUT: Duration = Duration::from_secs(3);
/// The same where it may be one of a stranger, which is used only once there was no own one for a while.
const FOREIGN_TIMEOUT: Duration = Duration::from_secs(9);

impl Mesh {
    /// Makes a token, waiting for an address that others can reach.
    pub async fn token_create(&self, wanted: TokenWish) -> Result<Made, TokensError> {
        self.inner.awaits.store(true, Ordering::Relaxed);
        let mut reach = self.inner.reach.clone();
        let reachable = reach.wait_for(|reach| !reach.addresses.is_empty() || !reach.relays.is_empty());
        if tokio::time::timeout(ADDRESS_TIMEOUT, reachable).await.is_err() {
            return Err(TokensError::NoAddress);
        }
        let records = self.inner.gossip.records().borrow().clone();
        let offered = |body: &Body| matches!(body, Body::Host(record) if record.reach.serves.is_some());
        let falls_back = !self.inner.foreign.relays().is_empty();
        if falls_back || records.values().any(offered) {
            // A host that has just started finds its home relay in a moment, and behind a router
            // there is no other way in. Without it the token still works on this LAN.
            let homed = reach.wait_for(|reach| !reach.relays.is_empty());
            let longest = if falls_back { FOREIGN_TIMEOUT } else { HOME_TIMEOUT };
            tokio::time::timeout(longest, homed).await.ok();
        }
        let own = self.inner.reach.borrow().clone();
        let Inner { roster, identity, .. } = &*self.inner;
        let bootstrap = tokens::bootstrap(self.me(), &own, (&records, &self.inner.foreign), &roster.roll());
        tokens::create(roster, identity, bootstrap, wanted)
    }

    /// Lists the mesh's tokens.
    pub fn tokens(&self) -> Vec<TokenView> {
        tokens::list(&self.inner.roster)
    }

    /// Ends a token.
    pub fn token_revoke(&self, id: &str) -> Result<(), TokensError> {
        tokens::revoke(&self.inner.roster, &self.inner.identity, id)
    }
}
