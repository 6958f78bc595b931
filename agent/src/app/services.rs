//! Services as people use them: lists, ports that listen on this host, and single connections.

use std::{collections::BTreeMap, net::SocketAddr};

use proto::{
    addresses::is_public,
    id::{Name, SessionId},
    names::{published::HOSTS, sites},
    picture::{Picture, readiness, zone},
    session::{MachineEntry, Share},
    spelling,
    topology::{Port, Protocol},
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, App, Pipe};
use crate::{
    access::{balance::Carried, places::Place},
    host::words::words,
};

/// A service that somebody named, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What stands for it on this host.
    place: Place,
    /// Its port in the machines, or on the loopback of the host that publishes it.
    port: Port,
    /// Whether it is known to speak HTTP.
    http: bool,
    /// Its name, without the zone.
    name: String,
}

impl App {
    /// Tells every service of every session.
    pub async fn services(&self) -> ApiResult<api::Services> {
        let shares = self.picture().shares.clone();
        for share in shares.values() {
            self.listen_for(share).await;
        }
        let services = shares.values().flat_map(|share| self.service_rows(share)).collect();
        Ok(api::Services { services, published: self.published_rows().await })
    }

    /// Listens for every service of a session: what is shown to a person as an address must answer.
    pub(super) async fn listen_for(&self, share: &Share) {
        for (group, entry) in &share.directory.groups {
            let ports: Vec<Port> = entry.ports().map(|(_, port)| port).collect();
            if let Err(error) = self.inner.forwards.open((share.session, group.as_str()), ports).await {
                tracing::warn!(%group, %error, "nothing listens here for its services");
            }
        }
    }

    pub(super) fn service_rows(&self, share: &Share) -> Vec<api::ServiceRow> {
        let mut rows = Vec::new();
        let picture = self.picture();
        let url = |group: &Name, service: &Name| {
            let port = self.inner.served.browser?;
            let name = sites::name(&picture.shares, share.session, group, service)?;
            Some(format!("http://{name}:{port}/"))
        };
        for (group, entry) in &share.directory.groups {
            let behind = |is: fn(&Picture, SessionId, &MachineEntry) -> bool| {
                entry.machines.iter().filter(|entry| is(&picture, share.session, entry)).count() as u64
            };
            for (service, port) in entry.ports() {
                let here = self.inner.forwards.listening((share.session, group.as_str()), port);
                rows.push(api::ServiceRow {
                    name: service.to_string(),
                    group: group.to_string(),
                    session: share.name.to_string(),
                    port: port.number,
                    protocol: port.protocol,
                    fqdn: format!("{group}.{}.{}", share.name, self.inner.zone),
                    address_here: here.map(|here| here.ip().to_string()),
                    port_here: here.map(|here| here.port()),
                    url: url(group, service),
                    machines: entry.machines.len() as u64,
                    ready: behind(readiness::is_ready),
                    draining: behind(readiness::drains),
                    refused: self.inner.forwards.refused((share.session, group.as_str())),
                    lan: self.lan_rows(&picture, share, group, service),
                });
            }
        }
        rows
    }

    /// Tells which hosts are asked to publish a service in their own networks, and what is known here of it.
    fn lan_rows(&self, picture: &Picture, share: &Share, group: &Name, service: &Name) -> Vec<api::LanRow> {
        let Some(entry) = share.directory.groups.get(group) else { return Vec::new() };
        let Some(publish) = entry.publish.get(service) else { return Vec::new() };
        let scheme = if entry.http.contains(service) { "http" } else { "tcp" };
        let row = |name: &Name| {
            let (address, because) = match picture.members.iter().find(|(_, member)| member.name == *name) {
                None => (None, Some("no member has this name".to_owned())),
                Some((id, _)) if *id == picture.me => {
                    let doors = self.inner.lan.borrow().clone();
                    let door = doors.get(&(share.session, group.clone(), service.clone()));
                    let door = door.cloned().unwrap_or_default();
                    (door.addresses.first().map(SocketAddr::ip), door.because)
                }
                Some((_, member)) if !member.is_up() => (None, Some("it is away".to_owned())),
                Some((id, _)) => match picture.host_record(*id) {
                    Some(record) if record.publishes => {
                        let told = record.reach.addresses.iter().map(SocketAddr::ip);
                        (told.into_iter().find(|address| !is_public(address)), None)
                    }
                    _ => (None, Some("its owner does not let it".to_owned())),
                },
            };
            let url = address.map(|address| format!("{scheme}://{}", SocketAddr::new(address, publish.lan)));
            api::LanRow { host: name.to_string(), port: publish.lan, url, because }
        };
        publish.on.iter().map(row).collect()
    }

    /// Listens for a service on this host from now on, until it is closed.
    pub async fn service_open(&self, service: Service) -> ApiResult<api::ServiceOpened> {
        let opened = self.inner.forwards.hold(service.place, service.port).await;
        let here = opened.map_err(|error| {
            Error::new(Kind::Failed, format!("{} was not opened", service.name)).because(error)
        })?;
        let scheme = match service.port.protocol {
            Protocol::Udp => "udp",
            Protocol::Tcp if service.http => "http",
            Protocol::Tcp => "tcp",
        };
        let url = format!("{scheme}://{here}");
        Ok(api::ServiceOpened { url, address: here.ip().to_string(), port: here.port() })
    }

    /// Listens for a service on this host no longer.
    pub fn service_close(&self, service: Service) -> api::ServiceClosed {
        api::ServiceClosed { closed: self.inner.forwards.close(service.place, service.port) }
    }

    /// Tells what is known of a service that takes connections.
    pub fn service_found(&self, service: Service) -> ApiResult<api::ServiceFound> {
        let service = by_tcp(service)?;
        Ok(api::ServiceFound { name: service.name, port: service.port.number, http: service.http })
    }

    /// Connects to a service, as its address on this host does, with what counts the connection as long as it is held.
    pub async fn service_connect(&self, service: Service) -> ApiResult<(Pipe, impl Send + 'static)> {
        let service = by_tcp(service)?;
        let connected = self.inner.forwards.connect(service.place, service.port).await;
        let Carried { stream, counted } = connected.map_err(|error| {
            Error::new(Kind::Failed, format!("{} was not reached", service.name))
                .because(words(&error))
                .next("agent service list")
        })?;
        Ok((stream, counted))
    }

    /// Finds the service of a group or machine; without a name it is the only one.
    pub fn service_of(&self, session: SessionId, label: &str, service: Option<&Name>) -> ApiResult<Service> {
        let share = self.share(session)?;
        let name = format!("{label}.{}", share.name);
        let group = zone::group(&share, label).ok_or_else(|| {
            let labels = zone::forwarded(&share);
            missing(&name, spelling::suggestion(label, "there are", labels.iter().map(String::as_str)))
        })?;
        let only = group.services.first_key_value().filter(|_| group.services.len() == 1);
        let wanted = service.or(only.map(|(name, _)| name));
        let named = group.ports().find(|(name, _)| Some(*name) == wanted);
        let (service, port) = named.ok_or_else(|| {
            let has = || group.services.keys().map(Name::as_str);
            match service {
                Some(service) => missing(
                    &format!("{service}.{name}"),
                    spelling::suggestion(service.as_str(), "its services are", has()),
                ),
                None => missing(&name, None).because(match group.services.first_key_value() {
                    Some((first, _)) => {
                        format!("its services are: {}; write {first}.{name}", spelling::list(has()))
                    }
                    None => "its group has no services".to_owned(),
                }),
            }
        })?;
        Ok(Service {
            place: (session, label).into(),
            port,
            http: group.http.contains(service),
            name: format!("{service}.{name}"),
        })
    }

    /// Finds what a host publishes.
    pub fn service_of_host(&self, host: &str, service: &Name) -> ApiResult<Service> {
        let picture = self.picture();
        let name = format!("{service}.{host}.{HOSTS}");
        let (id, _) = self.member(host).map_err(|meant| missing(&name, meant).next("agent host list"))?;
        let record = picture.host_record(id);
        let published: BTreeMap<&Name, u16> =
            record.into_iter().flat_map(|record| record.published()).collect();
        let port = *published.get(service).ok_or_else(|| {
            let known = published.keys().map(|name| name.as_str());
            let has = spelling::suggestion(service.as_str(), "it publishes", known);
            missing(&name, has.or(Some(format!("{host} publishes nothing"))))
        })?;
        Ok(Service { place: Place::Host(id), port: port.into(), http: false, name })
    }
}

/// Refuses a service that takes no connections.
fn by_tcp(service: Service) -> ApiResult<Service> {
    match service.port.protocol {
        Protocol::Tcp => Ok(service),
        Protocol::Udp => Err(Error::new(Kind::Refused, format!("{} takes no connections", service.name))
            .because("it is reached by UDP, at its own address on this host")
            .next(format!("agent service open {}", service.name))),
    }
}

fn missing(name: &str, because: Option<String>) -> Error {
    let error = Error::new(Kind::NotFound, format!("there is no service {name}")).next("agent service list");
    match because {
        Some(because) => error.because(because),
        None => error,
    }
}
