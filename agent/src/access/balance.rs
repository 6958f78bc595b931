//! Who a connection of this host goes to: of the ready machines behind a label the one with the fewest connections from
//! here, among equals the nearest, and the next one where connecting fails; or the host that publishes something. Many
//! that come at once wait for their turn at a machine, because a guest that is asked everything at once answers nobody.
//!
//! Owns the counts. Knows neither listeners nor names.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use mesh::net::End;
use proto::{
    id::{HostId, MachineName, SessionId},
    topology::{Port, Protocol},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::places::{Place, lock};

/// Connections from this host to one machine at once. Its network card takes 128: some are left for readiness
/// checks and other hosts.
pub const MOST_EACH: usize = 96;
/// How long a connection waits for its turn. Whoever is asked something waits about as long for an answer.
const TURN: Duration = Duration::from_secs(60);

/// Opens a stream to a port of a machine, wherever it runs: of bytes, or of datagrams.
pub type Dial =
    Arc<dyn Fn(SessionId, MachineName, Port) -> BoxFuture<'static, io::Result<Box<dyn End>>> + Send + Sync>;

/// Gives the ready machines behind a label, nearest first.
pub type Targets = Arc<dyn Fn(SessionId, &str) -> Vec<MachineName> + Send + Sync>;

/// Opens a stream to a port that another host publishes.
pub type Reach = Arc<dyn Fn(HostId, u16) -> BoxFuture<'static, io::Result<Box<dyn End>>> + Send + Sync>;

/// The ways out of this host.
pub struct Ways {
    /// Into machines.
    pub dial: Dial,
    /// To which of them.
    pub targets: Targets,
    /// To other hosts.
    pub reach: Reach,
}

/// Where a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// In a machine.
    Machine(SessionId, MachineName, Protocol),
    /// In a program of a host.
    Host(HostId),
}

/// All connections from this host.
pub struct Balance {
    ways: Ways,
    gates: Arc<Mutex<BTreeMap<Behind, Gate>>>,
    /// Connections whose turn did not come, since the start.
    refused: Mutex<BTreeMap<Place, u64>>,
}

/// Those to one end, and those that wait for their turn there.
struct Gate {
    count: usize,
    places: Arc<Semaphore>,
}

/// A connection, counted until it is dropped.
pub struct Carried {
    /// Its bytes.
    pub stream: Box<dyn End>,
    /// What counts it as long as it lives.
    pub counted: Counted,
}

/// One connection, or attempt, in the count of its end.
pub struct Counted {
    gates: Arc<Mutex<BTreeMap<Behind, Gate>>>,
    /// Where it ends.
    pub behind: Behind,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut gates = lock(&self.gates);
        // Before the gate may go: whoever comes next must find the same one or none.
        self.place.take();
        if let Some(gate) = gates.get_mut(&self.behind) {
            gate.count -= 1;
            if gate.count == 0 {
                gates.remove(&self.behind);
            }
        }
    }
}

impl Balance {
    /// Nothing is connected yet.
    pub fn new(ways: Ways) -> Balance {
        Balance { ways, gates: Arc::default(), refused: Mutex::default() }
    }

    /// Connects to what stands behind an address.
    pub async fn connect(&self, place: &Place, port: Port) -> io::Result<Carried> {
        match place {
            Place::Label(session, label) => {
                let connected = self.to_a_machine(*session, label, port).await;
                let refused =
                    connected.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::QuotaExceeded);
                if refused {
                    *lock(&self.refused).entry(place.clone()).or_default() += 1;
                }
                connected
            }
            Place::Host(_) if port.protocol == Protocol::Udp => Err(io::ErrorKind::Unsupported.into()),
            Place::Host(host) => {
                let counted = self.count(Behind::Host(*host));
                let stream = (self.ways.reach)(*host, port.number).await?;
                Ok(Carried { stream, counted })
            }
        }
    }

    /// Tells how many connections to a place were refused because their turn did not come.
    pub fn refused(&self, place: &Place) -> u64 {
        lock(&self.refused).get(place).copied().unwrap_or(0)
    }

    /// Counts all connections and attempts.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        lock(&self.gates).values().map(|gate| gate.count).sum()
    }

    async fn to_a_machine(&self, session: SessionId, label: &str, port: Port) -> io::Result<Carried> {
        let behind = (self.ways.targets)(session, label).into_iter();
        let behind = behind.map(|machine| Behind::Machine(session, machine, port.protocol));
        let mut last = io::Error::new(io::ErrorKind::NotConnected, "no machine behind it is ready");
        for behind in self.in_order(behind.collect()) {
            let Behind::Machine(_, machine, _) = &behind else { continue };
            let machine = machine.clone();
            // Counted from the attempt on: of many that come at once, each sees those before it.
            let mut counted = self.count(behind);
            // Flows of datagrams take no place: those that are silent are many, and give way to others.
            if port.protocol == Protocol::Tcp {
                let Some(place) = self.turn(&counted.behind).await else {
                    let full =
                        format!("{machine} has {MOST_EACH} connections from here, and none of them ended");
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, full));
                };
                counted.place = Some(place);
            }
            match (self.ways.dial)(session, machine, port).await {
                Ok(stream) => return Ok(Carried { stream, counted }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Orders machines by their connections. Stable: among equally busy ones the nearest stays first.
    fn in_order(&self, mut machines: Vec<Behind>) -> Vec<Behind> {
        let gates = lock(&self.gates);
        machines.sort_by_key(|machine| gates.get(machine).map_or(0, |gate| gate.count));
        machines
    }

    fn count(&self, behind: Behind) -> Counted {
        let mut gates = lock(&self.gates);
        let new = || Gate { count: 0, places: Arc::new(Semaphore::new(MOST_EACH)) };
        gates.entry(behind.clone()).or_insert_with(new).count += 1;
        Counted { gates: self.gates.clone(), behind, place: None }
    }

    /// Waits for a place at a machine, in the order of coming. `None`: it takes too long.
    async fn turn(&self, behind: &Behind) -> Option<OwnedSemaphorePermit> {
        let places = lock(&self.gates).get(behind)?.places.clone();
        timeout(TURN, places.acquire_owned()).await.ok()?.ok()
    }
}
