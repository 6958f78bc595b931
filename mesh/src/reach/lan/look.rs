//! Looks whether a member is where somebody on the LAN says: the handshake of a stranger with that one place proves
//! who has the key.
//!
//! The host's own endpoint must not try a place that anybody can name. iroh dials all ways of a host at once, the first
//! answer is the only one that counts, a wrong key there ends the dial, and the place is kept for the next dials.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use iroh::{EndpointAddr, SecretKey, TransportAddr, address_lookup::memory::MemoryLookup};
use proto::id::HostId;
use tokio::sync::mpsc;

use crate::{
    identity,
    reach::{book::Hint, pins::Pins},
    transport::{
        endpoint::{self, Ports},
        protocols,
    },
};

/// Looks at once.
const LOOKS: usize = 4;
/// A host on the same LAN answers much sooner, also when it is busy.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the goodbye may take; the socket is gone afterwards anyhow.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Somebody says that this member is there.
pub(crate) type Claim = (HostId, SocketAddr);

/// What the looks are made with.
pub(crate) struct Looks {
    pub(crate) ports: Ports,
    pub(crate) pins: Pins,
    pub(crate) claims: mpsc::Receiver<Claim>,
    pub(crate) hints: mpsc::Sender<Hint>,
}

impl Looks {
    /// Runs until the mesh ends.
    pub(crate) async fn run(self) {
        let Looks { ports, pins, claims, hints } = self;
        let claims = futures::stream::unfold(claims, |mut claims| async {
            let claim = claims.recv().await?;
            Some((claim, claims))
        });
        let looks = claims.for_each_concurrent(LOOKS, |claim| look(claim, ports, &pins, &hints));
        looks.await;
        // Nobody listens on this host's LANs, and none of it is missed.
        std::future::pending().await
    }
}

/// Looks with a socket and a key of its own: nothing that is met there is known to the host's endpoint.
async fn look((host, place): Claim, ports: Ports, pins: &Pins, hints: &mpsc::Sender<Hint>) {
    let Some(id) = identity::endpoint_id(&host) else { return };
    let bound = endpoint::bind_stranger(SecretKey::generate(), ports, pins, &MemoryLookup::new()).await;
    let endpoint = match bound {
        Ok(endpoint) => endpoint,
        Err(error) => return tracing::debug!(%error, %place, "cannot look who is there"),
    };
    let at = EndpointAddr::from_parts(id, [TransportAddr::Ip(place)]);
    match tokio::time::timeout(LOOK_TIMEOUT, endpoint.connect(at, protocols::LIBP2P)).await {
        // It fails only when the mesh has ended.
        Ok(Ok(_)) => drop(hints.send(Hint::Seen(host, place)).await),
        Ok(Err(error)) => tracing::debug!(host = %host.short(), %place, %error, "it is not there"),
        Err(_) => tracing::debug!(host = %host.short(), %place, "nobody answers there"),
    }
    tokio::time::timeout(CLOSE_TIMEOUT, endpoint.close()).await.ok();
}
