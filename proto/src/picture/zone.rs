//! What names are answered from: members, sessions and readiness out of the picture, with what this host alone
//! knows of its networks and forwards. [`crate::names`] answers from it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Picture, readiness};
use crate::{
    id::{HostId, MachineName, Name, SessionId},
    names::{self, HostEntry, Zone, published::HOSTS},
    session::{GroupEntry, Share},
};

/// Fills a zone: its name, forwards and networks are the caller's, all else is the picture's.
pub fn zone(picture: &Picture, own: Zone) -> Zone {
    let shares = || picture.shares.values();
    let ready = shares().flat_map(|share| {
        readiness::ready(picture, share).into_iter().map(|machine| (share.session, machine))
    });
    let hosts = picture.present().filter_map(|(id, _)| Some((id, host(picture, id, &own)?)));
    let (hosts, ready, nearest) = (hosts.collect(), ready.collect(), nearest(picture));
    let v6 = shares().flat_map(|share| {
        let known = readiness::known(picture, share).into_iter().filter(|(_, report)| report.v6);
        known.map(|(machine, _)| (share.session, machine))
    });
    let (v6, sessions) = (v6.collect(), (*picture.shares).clone());
    Zone { hosts, ready, v6, nearest, labels: names::labels(&sessions), sessions, ..own }
}

/// Of each group the machine that connections from here would go to first.
fn nearest(picture: &Picture) -> BTreeMap<(SessionId, Name), MachineName> {
    let of = |share: &Arc<Share>| {
        let share = share.clone();
        let groups: Vec<Name> = share.directory.groups.keys().cloned().collect();
        groups.into_iter().filter_map(move |group| {
            let machine = readiness::behind(picture, &share, group.as_str()).into_iter().next()?;
            Some(((share.session, group), machine))
        })
    };
    picture.shares.values().flat_map(of).collect()
}

fn host(picture: &Picture, id: HostId, own: &Zone) -> Option<HostEntry> {
    let member = picture.members.get(&id)?;
    let record = picture.host_record(id);
    let told = record.map(|record| &record.reach.addresses[..]).unwrap_or_default();
    let addresses: Vec<IpAddr> = told.iter().map(SocketAddr::ip).collect();
    // Packets to an agent on this computer go to an address of this computer.
    let via = member.way.as_ref().map(|way| way.via.parse::<SocketAddr>().ok().map(|via| via.ip()));
    let same_computer = id == picture.me || via.flatten().is_some_and(|via| own.here.has(&via));
    // Where packets go says more than addresses do: many homes have the same ones.
    let near = match via {
        Some(via) => via.is_some_and(|via| own.here.shares(&via)),
        None => addresses.iter().any(|address| own.here.shares(address)),
    };
    let near = same_computer || near;
    let published = record.into_iter().flat_map(|record| record.published());
    let published = published.map(|(name, port)| (name.clone(), port)).collect();
    Some(HostEntry { name: member.name.clone(), addresses, same_computer, near, published })
}

/// Lists the labels of a session that have an address on this host: each group's own and those of its machines.
pub fn forwarded(share: &Share) -> Vec<String> {
    let of = |(name, group): (&Name, &GroupEntry)| {
        let machines = group.machines.iter().map(|entry| entry.machine.to_string());
        std::iter::once(name.to_string()).chain(machines.collect::<Vec<_>>())
    };
    share.directory.groups.iter().flat_map(of).collect()
}

/// Finds the group that a label stands for: its own, or that of one of its machines.
pub fn group<'a>(share: &'a Share, label: &str) -> Option<&'a GroupEntry> {
    let named = |(name, group): &(&Name, &GroupEntry)| {
        name.as_str() == label || group.machines.iter().any(|entry| entry.machine.to_string() == label)
    };
    share.directory.groups.iter().find(named).map(|(_, group)| group)
}

/// Finds the host of `SERVICE.HOST.host`, without the zone behind it, if it publishes that on `port`.
pub fn publisher(picture: &Picture, name: &str, port: u16) -> Option<HostId> {
    let (service, host) = name.strip_suffix(HOSTS)?.strip_suffix('.')?.split_once('.')?;
    let (id, _) = picture.present().find(|(_, member)| member.name.as_str() == host)?;
    let record = picture.host_record(id)?;
    record.published().any(|(name, of)| name.as_str() == service && of == port).then_some(id)
}
