//! Finds the ports on which the endpoint and the relay both come up.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use iroh::{Endpoint, address_lookup::memory::MemoryLookup};

use super::Config;
use crate::{
    identity::Identity,
    members::roster::Roster,
    reach::{
        describe as reach,
        dialback::Word,
        interfaces::interfaces,
        pins::Pins,
        relay::{Relay, Serve},
    },
    transport::{
        endpoint::{self, BindError, Ports},
        gate::Gate,
    },
};

pub(super) struct Bound {
    pub(super) endpoint: Endpoint,
    pub(super) relay: Option<Relay>,
}

/// Finds a pair of ports on which the endpoint and the relay both come up, and remembers it.
pub(super) async fn bind(
    config: &Config,
    identity: &Identity,
    gate: &Gate,
    (roster, word): (&Arc<Roster>, &Word),
    pins: &Pins,
    lookup: &MemoryLookup,
) -> Result<Bound, BindError> {
    let address = relay_address(config).await;
    let first = match config.ports {
        Ports::Fixed(first) => first,
        Ports::Loopback => 0,
    };
    let mut last = BindError::NoPorts(first);
    for pair in endpoint::pairs(&identity.data, config.ports) {
        let at = (config.ports, pair);
        let endpoint = match endpoint::bind(identity, at, gate.clone(), pins, lookup).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::debug!(port = pair.0, %error, "ports not free");
                last = error;
                continue;
            }
        };
        let relay = match address {
            None => Ok(None),
            Some(address) => Relay::serve(&identity.data, at, address, (gate, roster, word)).await.map(Some),
        };
        match relay {
            Ok(relay) => {
                if let Err(error) = endpoint::remember(&identity.data, &endpoint) {
                    tracing::warn!(%error, "cannot remember the ports");
                }
                return Ok(Bound { endpoint, relay });
            }
            Err(error) => {
                tracing::debug!(port = pair.0, %error, "relay not served");
                last = BindError::Iroh(error.to_string());
                endpoint.close().await;
            }
        }
    }
    Err(last)
}

/// Chooses the address under which a relay is offered; `None` = serve none.
async fn relay_address(config: &Config) -> Option<IpAddr> {
    match (config.serve, config.ports) {
        (Serve::Off, _) | (Serve::Auto, Ports::Loopback) => None,
        (Serve::On, Ports::Loopback) => Some(Ipv4Addr::LOCALHOST.into()),
        (serve, Ports::Fixed(_)) => {
            let addresses: Vec<IpAddr> = interfaces().await.addresses().collect();
            let any = addresses.first().copied().filter(|_| serve == Serve::On);
            // Routers of homes let nobody in at addresses of IPv6: that takes a proof, see `outside`.
            let public = reach::relay_address(&addresses);
            public.filter(|address| address.is_ipv4() || serve == Serve::On).or(any)
        }
    }
}
