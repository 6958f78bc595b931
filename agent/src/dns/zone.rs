//! Keeps the zone that `proto::names` answers from: gathered from shares, reports, members and
//! forwards whenever one of them changes, a few times a second at most. Before a host is told a forward
//! address, its ports listen.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use proto::{
    id::{MachineName, Name, SessionId},
    names::{self, Answer, Forward, HostEntry, Kind, SessionEntry, View, Zone},
    session::{GroupEntry, Phase, Share},
    wire::record::{Body, RecordKey},
};
use tokio::sync::watch;

use crate::{
    access::forward::{Forwards, Targets},
    dns::Resolve,
    session::hub::Hub,
};

/// Pause after a gathering. In a large mesh some record changes all the time, and each gathering looks
/// at all of them; a name may be this much behind.
const PAUSE: Duration = Duration::from_millis(100);

/// Handle to the zone of this host.
#[derive(Clone)]
pub struct Zones {
    hub: Hub,
    forwards: Forwards,
    now: watch::Sender<Arc<Zone>>,
}

impl Zones {
    /// Makes the handle with a first zone.
    pub fn new(hub: Hub, forwards: Forwards) -> Zones {
        let zones = Zones { hub, forwards, now: watch::Sender::default() };
        zones.refresh();
        zones
    }

    /// Follows every input until the daemon ends.
    pub async fn run(self) {
        let (mut shares, mut reports) = (self.hub.shares(), self.hub.own_reports());
        let mut records = self.hub.deps().mesh.records();
        let mut members = self.hub.deps().mesh.members();
        let mut interfaces = self.hub.deps().mesh.interfaces();
        let stop = self.hub.deps().stop.clone();
        loop {
            // Every arm only wakes the loop.
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                changed = shares.changed() => changed,
                changed = reports.changed() => changed,
                changed = records.changed() => changed,
                changed = members.changed() => changed,
                changed = interfaces.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let zones = self.clone();
            // Gives new groups their addresses, and writes those down.
            let gathered = tokio::task::spawn_blocking(move || {
                let known = zones.hub.shares().borrow().clone();
                zones.forwards.keep(|session| known.contains_key(&session));
                zones.refresh();
            });
            if let Err(error) = gathered.await {
                tracing::error!(%error, "the zone was not gathered");
            }
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    /// Gathers the zone again.
    fn refresh(&self) {
        let zone = Arc::new(gather(&self.hub, &self.forwards));
        self.now.send_if_modified(|now| {
            let changed = *now != zone;
            *now = zone;
            changed
        });
    }

    /// Gives the function that answers questions.
    pub fn resolve(&self) -> Resolve {
        let zones = self.clone();
        Arc::new(move |view, name, kind| {
            let zones = zones.clone();
            Box::pin(async move {
                // One zone for both steps: what becomes ready between them is not answered yet, because
                // nothing listens for it yet.
                let mut zone = zones.now.borrow().clone();
                if view == View::Host && zones.listen_for(&zone, &name, kind).await {
                    zone = zones.now.borrow().clone();
                }
                names::answer(&zone, view, &name, kind)
            })
        })
    }

    /// Makes the ports of a name listen before it is answered. Tells whether that changed the zone.
    async fn listen_for(&self, zone: &Zone, name: &str, kind: Kind) -> bool {
        let owner = match kind {
            Kind::A => name,
            // `_SERVICE._tcp.` stands before the group's own name.
            Kind::Srv => name.splitn(3, '.').nth(2).unwrap_or(name),
            _ => return false,
        };
        let Answer::Addresses(addresses) = names::answer(zone, View::Host, owner, Kind::A) else {
            return false;
        };
        let of = |(_, forward): &(&(SessionId, String), &Forward)| {
            addresses.contains(&IpAddr::V4(forward.address))
        };
        let Some(((session, label), told)) = zone.forwards.iter().find(of) else { return false };
        let Some(share) = self.hub.share(*session) else { return false };
        let ports = services(&share, label).map(|services| services.values().copied()).into_iter().flatten();
        match self.forwards.open(*session, label, ports).await {
            // Almost always: the zone says already where each port listens.
            Ok(open) if open.values().all(|here| told.ports.values().any(|port| *port == here.port())) => {
                false
            }
            Ok(_) => {
                self.refresh();
                true
            }
            Err(error) => {
                tracing::warn!(label, %error, "no forward listens");
                false
            }
        }
    }
}

/// Gives the function that finds the machines behind a forward: ready ones, nearest first.
pub fn targets(hub: &Hub) -> Targets {
    let hub = hub.clone();
    Arc::new(move |session, label| {
        let Some(share) = hub.share(session) else { return Vec::new() };
        let known = hub.known(&share);
        let members = hub.deps().mesh.members().borrow().clone();
        let mut found: Vec<(bool, u64, MachineName)> = Vec::new();
        for (group, entry) in &share.directory.groups {
            for machine in &entry.machines {
                let named = group.as_str() == label || machine.machine.to_string() == label;
                let ready = known.get(&machine.machine).is_some_and(|report| report.phase == Phase::Ready);
                if named && ready {
                    let rtt = members.get(machine.host).and_then(|member| member.rtt_ms());
                    let micros = rtt.map_or(u64::MAX, |rtt| (rtt * 1000.0) as u64);
                    found.push((machine.host != hub.me(), micros, machine.machine.clone()));
                }
            }
        }
        found.sort();
        found.into_iter().map(|(_, _, machine)| machine).collect()
    })
}

fn gather(hub: &Hub, forwards: &Forwards) -> Zone {
    let mesh = &hub.deps().mesh;
    let members = mesh.members().borrow().clone();
    let records = mesh.records().borrow().clone();
    let here = mesh.interfaces().borrow().here();
    let mut zone = Zone { zone: hub.deps().zone.clone(), ..Zone::default() };
    for member in members.hosts.values() {
        let addresses = match records.get(&(member.id, RecordKey::Host)) {
            Some(Body::Host(record)) => record.reach.addresses.iter().map(|address| address.ip()).collect(),
            _ => Vec::new(),
        };
        // Packets to an agent on this computer go to an address of this computer.
        let via = member.path.as_ref().and_then(|path| path.via.parse::<SocketAddr>().ok());
        let same_computer = member.id == hub.me() || via.is_some_and(|via| here.has(&via.ip()));
        let entry = HostEntry { name: member.name.clone(), up: member.is_up(), addresses, same_computer };
        zone.hosts.insert(member.id, entry);
    }
    zone.here = here;
    for ((host, key), body) in records.iter() {
        if let (RecordKey::Session(session), Body::Session(record)) = (key, body) {
            zone.reports.insert((*host, *session), record.machines.clone());
        }
    }
    for (session, reports) in hub.own_reports().borrow().iter() {
        zone.reports.insert((hub.me(), *session), reports.clone());
    }
    for share in hub.shares().borrow().values() {
        zone.sessions.insert(share.session, SessionEntry::of(share));
        let labels: Vec<String> =
            share.directory.groups.iter().flat_map(|(name, group)| labels(name, group)).collect();
        forwards.assign(share.session, &labels);
        for label in labels {
            if let Some(forward) = forward(forwards, share, &label) {
                zone.forwards.insert((share.session, label), forward);
            }
        }
    }
    zone
}

/// A group's own label and those of its machines.
fn labels(name: &Name, group: &GroupEntry) -> impl Iterator<Item = String> {
    let machines = group.machines.iter().map(|entry| entry.machine.to_string());
    std::iter::once(name.to_string()).chain(machines.collect::<Vec<_>>())
}

fn forward(forwards: &Forwards, share: &Share, label: &str) -> Option<Forward> {
    let address = forwards.address(share.session, label)?;
    let port =
        |(service, port): (&Name, &u16)| (service.clone(), forwards.port_here(share.session, label, *port));
    Some(Forward { address, ports: services(share, label)?.iter().map(port).collect() })
}

fn services<'a>(share: &'a Share, label: &str) -> Option<&'a BTreeMap<Name, u16>> {
    let named = |(name, group): &(&Name, &GroupEntry)| {
        name.as_str() == label || group.machines.iter().any(|entry| entry.machine.to_string() == label)
    };
    share.directory.groups.iter().find(named).map(|(_, group)| &group.services)
}
