//! Where members wait that ask something of a host that was away, until it has heard what was said meanwhile. When that
//! is, `proto::membership::Returning` says; here it is asked by those that serve, and told by the keeper what happens.
//! What comes before a host serves does not come here: statements, gossip, beats, and joins that are handed on.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::{
    endpoint::{Accepting, Connection},
    protocol::{AcceptError, DynProtocolHandler, ProtocolHandler},
};
use proto::{
    id::HostId,
    membership::returning::{Effect, Event, Returning, WAIT_MS},
};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    identity,
    members::roster::{Roll, Roster},
};

/// The longest that anybody waits here: as long as the host does, and until the keeper looks again.
const WAIT: Duration = Duration::from_millis(WAIT_MS + 2_500);
/// What a host reads whose connection comes to nothing here.
const NOT_SERVED: (u32, &[u8]) = (503, b"not served: this host was away, or you are no member any more");

/// The threshold; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Threshold {
    me: HostId,
    roster: Arc<Roster>,
    machine: Arc<Mutex<Returning>>,
    opened: watch::Sender<()>,
}

impl Threshold {
    /// Begins with the start of this host.
    pub(crate) fn new(me: HostId, roster: Arc<Roster>) -> Threshold {
        let machine = Returning::new(me, members(&roster.roll()), Clock.moment());
        Threshold { me, roster, machine: Arc::new(Mutex::new(machine)), opened: watch::Sender::default() }
    }

    /// Asks the machine what is to be done; those who wait hear at once that they need not any more.
    pub(crate) fn on(&self, event: Event) -> Vec<Effect> {
        let effects = self.machine.lock().unwrap_or_else(PoisonError::into_inner).on(event, Clock.moment());
        if effects.contains(&Effect::Serve) {
            self.opened.send_replace(());
        }
        effects
    }

    /// Waits until this host serves, and tells whether it then serves this one: it may have heard meanwhile that this is
    /// a member no more. `false` as well when it comes to nothing.
    pub(crate) async fn lets_in(&self, host: &HostId) -> bool {
        *host == self.me || self.opens().await && self.roster.roll().members.contains_key(host)
    }

    /// Waits until this host serves. `false` when that comes to nothing in time.
    pub(crate) async fn opens(&self) -> bool {
        if self.serves() {
            return true;
        }
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).knocked(Clock.moment());
        let mut opened = self.opened.subscribe();
        let open = async {
            // The sender is in our hands, so there is no other end.
            while !self.serves() && opened.changed().await.is_ok() {}
        };
        tokio::time::timeout(WAIT, open).await.is_ok()
    }

    fn serves(&self) -> bool {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).serves(Clock.moment())
    }
}

/// Gives the members, and those of them that are issuers.
pub(crate) fn members(roll: &Roll) -> (BTreeSet<HostId>, BTreeSet<HostId>) {
    let issuers = roll.members.values().filter(|member| member.is_issuer()).map(|member| member.host);
    (roll.members.keys().copied().collect(), issuers.collect())
}

/// A protocol whose connections wait at the threshold.
#[derive(Debug)]
pub(crate) struct Behind {
    threshold: Threshold,
    protocol: Box<dyn DynProtocolHandler>,
}

impl Behind {
    pub(crate) fn new(threshold: Threshold, protocol: Box<dyn DynProtocolHandler>) -> Behind {
        Behind { threshold, protocol }
    }
}

impl ProtocolHandler for Behind {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        self.protocol.on_accepting(accepting).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let host = identity::host_of_endpoint(&connection.remote_id());
        if !self.threshold.lets_in(&host).await {
            connection.close(NOT_SERVED.0.into(), NOT_SERVED.1);
            return Ok(());
        }
        self.protocol.accept(connection).await
    }

    async fn shutdown(&self) {
        self.protocol.shutdown().await;
    }
}
