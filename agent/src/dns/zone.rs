//! Keeps the zone that `proto::names` answers from: out of the picture, this host's networks and its
//! forwards, whenever one of them changes, a few times a second at most. Before a host is told a forward
//! address, its ports listen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::Interfaces;
use proto::{
    id::Name,
    names::{self, Forward, Kind, View, Zone},
    picture::{Change, readiness, zone},
    session::Share,
    topology::Port,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{balance::Targets, forward::Forwards, places::Place},
    dns::{Found, Resolve},
    picture::Pictures,
};

/// Pause after a gathering. In a large mesh some session changes all the time, and each gathering looks
/// at all of them; a name may be this much behind.
const PAUSE: Duration = Duration::from_millis(100);

/// Handle to the zone of this host.
#[derive(Clone)]
pub struct Zones {
    /// The zone's name.
    zone: String,
    pictures: Pictures,
    interfaces: watch::Receiver<Arc<Interfaces>>,
    forwards: Forwards,
    now: watch::Sender<Arc<Zone>>,
    /// How often it became another one.
    changes: Arc<AtomicU64>,
}

impl Zones {
    /// Makes the handle with a first zone.
    pub fn new(
        zone: String,
        pictures: Pictures,
        interfaces: watch::Receiver<Arc<Interfaces>>,
        forwards: Forwards,
    ) -> Zones {
        let (now, changes) = (watch::Sender::default(), Arc::default());
        let zones = Zones { zone, pictures, interfaces, forwards, now, changes };
        zones.refresh();
        zones
    }

    /// Follows every input until the daemon ends.
    pub async fn run(mut self, stop: CancellationToken) {
        let wakes = self.pictures.wakes(|change| matches!(change, Change::Host(_) | Change::Session(_)));
        loop {
            let zones = self.clone();
            // Gives new groups their addresses, and writes those down.
            let gathered = tokio::task::spawn_blocking(move || {
                let picture = zones.pictures.now();
                zones.forwards.keep(|place| match place {
                    Place::Label(session, _) => picture.shares.contains_key(session),
                    Place::Host(host) => picture.members.contains_key(host),
                });
                zones.refresh();
            });
            if let Err(error) = gathered.await {
                tracing::error!(%error, "the zone was not gathered");
            }
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
            // Every arm only wakes the loop.
            tokio::select! {
                () = stop.cancelled() => return,
                () = wakes.changed() => {}
                changed = self.interfaces.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Gathers the zone again.
    fn refresh(&self) {
        let picture = self.pictures.now();
        let here = self.interfaces.borrow().here();
        let mut own = Zone { zone: self.zone.clone(), here, ..Zone::default() };
        for share in picture.shares.values() {
            let labels = zone::forwarded(share);
            let places = labels.iter().map(|label| (share.session, label.as_str()).into());
            self.forwards.assign(&places.collect::<Vec<Place>>());
            for label in labels {
                if let Some(forward) = forward(&self.forwards, share, &label) {
                    own.forwards.insert((share.session, label), forward);
                }
            }
        }
        let others = picture.members.keys().filter(|host| **host != picture.me);
        for (host, record) in others.filter_map(|host| Some((*host, picture.host_record(*host)?))) {
            let ports = record
                .published()
                .map(|(service, port)| (service.clone(), self.forwards.port_here(host, port)));
            let ports: BTreeMap<Name, u16> = ports.collect();
            if let Some(address) = (!ports.is_empty()).then(|| self.forwards.address(host)).flatten() {
                own.host_forwards.insert(host, Forward { address, ports });
            }
        }
        let zone = Arc::new(zone::zone(&picture, own));
        self.now.send_if_modified(|now| {
            let changed = *now != zone;
            if changed {
                *now = zone;
                // Before anybody can see it.
                self.changes.fetch_add(1, Ordering::Release);
            }
            changed
        });
    }

    /// Gives what answers questions.
    pub fn resolve(&self) -> Resolve {
        let (zones, editions) = (Arc::new(self.clone()), self.clone());
        Resolve {
            find: Arc::new(move |view, name, kind| {
                let zones = zones.clone();
                Box::pin(async move { zones.find(view, &name, kind).await })
            }),
            edition: Arc::new(move || editions.edition()),
        }
    }

    /// Each of the two only grows, so the sum is the same only as long as both are.
    fn edition(&self) -> u64 {
        self.changes.load(Ordering::Acquire).wrapping_add(self.forwards.edition())
    }

    async fn find(&self, view: View, name: &str, kind: Kind) -> Found {
        // One zone for both steps: what becomes ready between them is not answered yet, because
        // nothing listens for it yet.
        let mut zone = self.now.borrow().clone();
        let listens = match view {
            View::Host => self.listen_for(&zone, name, kind).await,
            View::Guest(..) => Listens::AsTold,
        };
        if listens == Listens::Elsewhere {
            zone = self.now.borrow().clone();
        }
        let origin = names::origin(&zone, view, name);
        let resolution = names::answer(&zone, view, name, kind);
        Found { resolution, origin, lasting: listens == Listens::AsTold }
    }

    /// Makes the ports of a name listen before it is answered.
    async fn listen_for(&self, zone: &Zone, name: &str, kind: Kind) -> Listens {
        let Some((place, ports, told)) = behind(zone, name, kind) else { return Listens::AsTold };
        match self.forwards.open(place.clone(), ports).await {
            Ok(open) if open.values().all(|here| told.ports.values().any(|port| *port == here.port())) => {
                Listens::AsTold
            }
            Ok(_) => {
                self.refresh();
                Listens::Elsewhere
            }
            Err(error) => {
                tracing::warn!(?place, %error, "no forward listens");
                Listens::Not
            }
        }
    }
}

/// How the ports behind a name listen.
#[derive(PartialEq)]
enum Listens {
    /// Almost always: where the zone says already.
    AsTold,
    /// Where the zone says since.
    Elsewhere,
    /// Not all of them do.
    Not,
}

/// Finds what the answer to a name leads to, the ports that are to listen there, and what is told of them.
fn behind<'a>(zone: &'a Zone, name: &str, kind: Kind) -> Option<(Place, Vec<Port>, &'a Forward)> {
    if let Some((session, label)) = names::forward_for(zone, name, kind) {
        let group = zone.sessions.get(&session).and_then(|share| zone::group(share, &label));
        let ports = group.map(|group| group.ports().map(|(_, port)| port).collect()).unwrap_or_default();
        let place = (session, label.as_str()).into();
        return Some((place, ports, zone.forwards.get(&(session, label))?));
    }
    let host = names::published::forward_for(zone, name, kind)?;
    let ports = zone.hosts.get(&host)?.published.values().map(|port| (*port).into()).collect();
    Some((Place::Host(host), ports, zone.host_forwards.get(&host)?))
}

/// Gives the function that finds the machines behind a forward: ready ones, nearest first.
pub fn targets(pictures: &Pictures) -> Targets {
    let pictures = pictures.clone();
    Arc::new(move |session, label| {
        let picture = pictures.now();
        picture.share(session).map(|share| readiness::behind(&picture, share, label)).unwrap_or_default()
    })
}

fn forward(forwards: &Forwards, share: &Share, label: &str) -> Option<Forward> {
    let place = (share.session, label);
    let address = forwards.address(place)?;
    let port = |(service, port): (&Name, Port)| (service.clone(), forwards.port_here(place, port));
    Some(Forward { address, ports: zone::group(share, label)?.ports().map(port).collect() })
}

#[cfg(test)]
mod tests;
