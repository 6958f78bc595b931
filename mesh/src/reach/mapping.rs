//! Ports that this host's router maps to it: asked by PCP, NAT-PMP and UPnP, whichever the router speaks. A mapping is a
//! claim of the router's; `proto::reachability::proof` says what is made of it.

use std::{
    net::{SocketAddr, SocketAddrV4},
    num::NonZeroU16,
};

use portmapper::{Client, Config, Protocol};
use proto::{backoff::BackOff, time::Moment};
use tokio::sync::watch;

/// Between tries as long as no router answers: most never will.
const RETRY: BackOff = BackOff::new(10_000, 600_000);

/// One port, and what the router makes of it.
pub(crate) struct Mapping {
    port: NonZeroU16,
    client: Client,
    external: watch::Receiver<Option<SocketAddrV4>>,
    tries: u32,
    next: Moment,
}

impl Mapping {
    /// Asks from now on.
    pub(crate) fn new(port: NonZeroU16, protocol: Protocol, now: Moment) -> Mapping {
        let client = Client::new(Config { protocol, ..Config::default() });
        Mapping { port, external: client.watch_external_address(), client, tries: 0, next: now }
    }

    /// Gives where the router says that the port is.
    pub(crate) fn external(&self) -> Option<SocketAddr> {
        self.external.borrow().map(SocketAddr::V4)
    }

    /// Asks again when it is time to. Renewals are the client's.
    pub(crate) fn look(&mut self, now: Moment) {
        if self.external().is_some() {
            self.tries = 0;
            return;
        }
        if now < self.next {
            return;
        }
        self.tries = self.tries.saturating_add(1);
        self.next = now.plus_ms(RETRY.after_ms(self.tries));
        let (client, port) = (self.client.clone(), self.port);
        // It ends within the client's time-outs, two seconds.
        tokio::spawn(async move {
            // Without it the client tries UPnP alone. Its answer is the client's to remember.
            client.probe().await.ok();
            client.update_local_port(port);
            client.procure_mapping();
        });
    }

    /// Forgets the mapping and asks anew: the network is another one, or the router has forgotten it.
    pub(crate) fn anew(&mut self, now: Moment) {
        self.client.deactivate();
        (self.tries, self.next) = (0, now.plus_ms(RETRY.after_ms(1) / 10));
    }
}
