//! What hosts publish themselves: a program that listens on a host's loopback has a name, and every other host has an
//! address of its own that leads there through the mesh, whatever is between.
//! Pure: who publishes what comes from signed records.
//!
//! ```text
//! SERVICE.HOST.host         on HOST itself loopback, on other hosts HOST's forward address
//! _SERVICE._tcp.HOST.host   SRV: the port that really listens there
//! HOST.host                 HOST's forward address, where nothing else of it is near
//! ```
//! Guests reach no host, and are told so by no data.

use std::net::{IpAddr, Ipv4Addr};

use super::{Forward, HostEntry, Kind, Resolution, Target, View, Zone, of_kind, within};
use crate::id::HostId;

/// The label under which hosts are found.
pub const HOSTS: &str = "host";

/// Answers for a host's own name, if the way to what it publishes is a better answer than its addresses: to those who
/// share no network with it, those lead nowhere, or to somebody else.
pub(super) fn host(zone: &Zone, view: View, label: &str, kind: Kind) -> Option<Resolution> {
    let (id, host) = find(zone, label).filter(|_| view == View::Host)?;
    let forward = zone.host_forwards.get(&id)?;
    (!host.near && !host.published.is_empty()).then(|| at(forward, kind))
}

/// Answers for the labels below a host's name, outermost first.
pub(super) fn service(zone: &Zone, view: View, host: &str, labels: &[&str], kind: Kind) -> Resolution {
    let Some((id, host)) = find(zone, host) else { return Resolution::NoName };
    let forward = zone.host_forwards.get(&id).filter(|_| !host.same_computer);
    let published = |label: &str| host.published.iter().find(|(name, _)| name.as_str() == label);
    match labels {
        ["_tcp"] if !host.published.is_empty() => Resolution::NoData,
        [label] if published(label).is_some() => match forward {
            _ if view != View::Host => Resolution::NoData,
            None if host.same_computer => of_kind([IpAddr::V4(Ipv4Addr::LOCALHOST)], kind),
            None => Resolution::NoData,
            Some(forward) => at(forward, kind),
        },
        ["_tcp", label] => {
            let Some((name, port)) = label.strip_prefix('_').and_then(published) else {
                return Resolution::NoName;
            };
            let port = match forward {
                Some(forward) => forward.ports.get(name),
                None => Some(port).filter(|_| host.same_computer),
            };
            match port.filter(|_| view == View::Host && kind == Kind::Srv) {
                Some(port) => {
                    let name = format!("{name}.{}.{HOSTS}.{}", host.name, zone.zone);
                    Resolution::Services(vec![Target { name, port: *port }])
                }
                None => Resolution::NoData,
            }
        }
        _ => Resolution::NoName,
    }
}

/// Gives the host whose forward the answer to this host's programs leads to: its ports must listen by then.
pub fn forward_for(zone: &Zone, name: &str, kind: Kind) -> Option<HostId> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = within(zone, &name)?.split('.').rev().collect();
    let host = match (labels.as_slice(), kind) {
        ([HOSTS, host], Kind::A) => self::host(zone, View::Host, host, kind).map(|_| host)?,
        ([HOSTS, host, _], Kind::A) | ([HOSTS, host, "_tcp", _], Kind::Srv) => host,
        _ => return None,
    };
    let (id, _) = find(zone, host)?;
    zone.host_forwards.contains_key(&id).then_some(id)
}

/// Gives the name of the host whose forward address this is.
pub(super) fn pointer(zone: &Zone, address: Ipv4Addr) -> Option<String> {
    let (id, _) = zone.host_forwards.iter().find(|(_, forward)| forward.address == address)?;
    Some(format!("{}.{HOSTS}", zone.hosts.get(id)?.name))
}

fn at(forward: &Forward, kind: Kind) -> Resolution {
    of_kind([IpAddr::V4(forward.address)], kind)
}

/// Of two hosts with one name the lower id keeps it, as for their addresses.
fn find<'a>(zone: &'a Zone, label: &str) -> Option<(HostId, &'a HostEntry)> {
    zone.hosts.iter().find(|(_, host)| host.name.as_str() == label).map(|(id, host)| (*id, host))
}
