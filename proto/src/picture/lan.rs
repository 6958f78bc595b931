//! Which services a host is asked to publish in its own network. Whether it may and can is its own affair.

use std::collections::BTreeMap;

use super::Picture;
use crate::{
    id::{Name, SessionId},
    session::Share,
};

/// A service that a host is asked to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its session.
    pub session: SessionId,
    /// Its session's label.
    pub label: Name,
    /// Its group.
    pub group: Name,
    /// Its name.
    pub service: Name,
    /// Its port in the machines.
    pub port: u16,
    /// The port on the host's addresses.
    pub lan: u16,
    /// Who was there before and has that port: `SERVICE.GROUP.SESSION`.
    pub taken_by: Option<String>,
}

/// Lists what the host of this name is asked to publish, by all sessions that go on. Of two that ask for one port, that
/// of the older session has it, as with names.
pub fn asked(picture: &Picture, host: &Name) -> Vec<Asked> {
    let mut shares: Vec<&Share> = picture.shares.values().map(AsRef::as_ref).filter(|s| !s.ended).collect();
    shares.sort_by_key(|share| (share.stamp, share.session));
    let mut has = BTreeMap::new();
    let mut all = Vec::new();
    for share in shares {
        for (group, entry) in &share.directory.groups {
            for (service, publish) in entry.publish.iter().filter(|(_, publish)| publish.on.contains(host)) {
                let Some(port) = entry.services.get(service) else { continue };
                let taken_by = has.get(&publish.lan).cloned();
                has.entry(publish.lan).or_insert_with(|| format!("{service}.{group}.{}", share.name));
                all.push(Asked {
                    session: share.session,
                    label: share.name.clone(),
                    group: group.clone(),
                    service: service.clone(),
                    port: *port,
                    lan: publish.lan,
                    taken_by,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        id::HostId,
        picture::Input,
        session::{fixture, slice},
    };

    fn share(id: u8, name: &str, topology: &str, ended: bool) -> Share {
        let state = fixture::up(fixture::created(), topology, "nas 9000 image");
        let share = slice::share(&state, HostId([1; 32]));
        Share { session: SessionId([id; 16]), name: name.parse().unwrap(), ended, ..share }
    }

    #[test]
    fn a_host_is_asked_by_name_and_the_older_session_keeps_a_port() {
        let web = "web 1 256 service=http:80 publish=nas,attic";
        let shares = [
            share(3, "later", web, false),
            share(2, "shop", web, false),
            share(1, "gone", web, true),
            share(4, "other", "web 1 256 service=http:81 publish=attic", false),
        ];
        let mut picture = Picture::new(HostId([1; 32]));
        let shares = shares.into_iter().map(|share| (share.session, Arc::new(share))).collect();
        picture.apply(Input::Shares(Arc::new(shares)));
        let told = |host: &str| -> Vec<String> {
            let told = |asked: Asked| {
                let Asked { label, group, service, port, lan, taken_by, .. } = asked;
                format!("{lan} {service}.{group}.{label}:{port} {}", taken_by.unwrap_or_default())
            };
            asked(&picture, &host.parse().unwrap()).into_iter().map(told).collect()
        };
        assert_eq!(told("nas"), ["8080 http.web.shop:80 ", "8080 http.web.later:80 http.web.shop"]);
        assert_eq!(
            told("attic"),
            [
                "8080 http.web.shop:80 ",
                "8080 http.web.later:80 http.web.shop",
                "8080 http.web.other:81 http.web.shop"
            ]
        );
        assert!(told("den").is_empty());
    }
}
