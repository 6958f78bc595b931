//! The names under which a browser of this host reaches services without any set-up: browsers resolve
//! `*.localhost` to loopback themselves (RFC 6761), and the front door tells by name what is wanted.
//! Pure: who exists comes from shares, and a name is a session's label as [`super::labels`] gives it.
//!
//! ```text
//! localhost                           the index of everything there is
//! GROUP.SESSION.localhost             the group's web service
//! MACHINE.SESSION.localhost           the same of one machine
//! SERVICE.GROUP.SESSION.localhost     another service of the group
//! ```

use std::{collections::BTreeMap, sync::Arc};

use super::labels;
use crate::{
    id::{Name, SessionId},
    picture::zone,
    session::{GroupEntry, Share},
    topology::Protocol,
};

/// The domain that browsers resolve to loopback.
pub const DOMAIN: &str = "localhost";
/// Loopback as addresses: a browser that was given one of them is shown the index.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "[::1]"];
/// The port of an address without one.
const HTTP: u16 = 80;
/// The service that a browser means where several speak HTTP.
const USUAL: &str = "http";

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// The index.
    Index,
    /// A port of a group or of one of its machines.
    Service {
        /// The session.
        session: SessionId,
        /// The group or machine.
        label: String,
        /// The port in the machines.
        port: u16,
    },
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSite {
    /// It is not below `localhost`.
    #[error("{0:?} is no name of this front door; its names end in .{DOMAIN}")]
    Foreign(String),
    /// It has too few or too many parts.
    #[error("{0:?} is not GROUP.SESSION.{DOMAIN}")]
    Form(String),
    /// The mesh has no such session.
    #[error("there is no session {0:?}")]
    Session(String),
    /// The session has no such group or machine.
    #[error("{session} has no group or machine {label:?}")]
    Label {
        /// The session's label.
        session: String,
        /// What was asked for.
        label: String,
    },
    /// The group serves nothing of that name, or nothing that a browser could mean.
    #[error("{label} in {session} has no service {wanted:?}; it has: {}", .has.join(", "))]
    Service {
        /// The session's label.
        session: String,
        /// The group or machine.
        label: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: Vec<String>,
    },
}

/// Finds what a host name without its port stands for, in any case, with or without a final dot.
pub fn site(sessions: &BTreeMap<SessionId, Arc<Share>>, name: &str) -> Result<Site, NoSite> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == DOMAIN {
        return Ok(Site::Index);
    }
    let inner = name.strip_suffix(DOMAIN).and_then(|name| name.strip_suffix('.'));
    let Some(inner) = inner else { return Err(NoSite::Foreign(name)) };
    let labels: Vec<&str> = inner.rsplit('.').collect();
    let (session, label, service) = match labels[..] {
        [session, label] => (session, label, None),
        [session, label, service] => (session, label, Some(service)),
        _ => return Err(NoSite::Form(name)),
    };
    let share = super::labels(sessions).get(session).and_then(|id| sessions.get(id));
    let share = share.ok_or_else(|| NoSite::Session(session.to_owned()))?;
    let group = zone::group(share, label)
        .ok_or_else(|| NoSite::Label { session: session.to_owned(), label: label.to_owned() })?;
    let wanted = service.or(usual(group).map(Name::as_str));
    let port = wanted.and_then(|service| group.port(service)).filter(|port| port.protocol == Protocol::Tcp);
    let port = port.map(|port| port.number).ok_or_else(|| NoSite::Service {
        session: session.to_owned(),
        label: label.to_owned(),
        wanted: service.unwrap_or(USUAL).to_owned(),
        has: by_tcp(group).map(Name::to_string).collect(),
    })?;
    Ok(Site::Service { session: share.session, label: label.to_owned(), port })
}

/// Gives the service that a browser means by a group's own name: `http`, else the only one that is checked over
/// HTTP, else the only one.
fn usual(group: &GroupEntry) -> Option<&Name> {
    let http = by_tcp(group).find(|name| name.as_str() == USUAL);
    http.or_else(|| only(group.http.iter())).or_else(|| only(by_tcp(group)))
}

fn by_tcp(group: &GroupEntry) -> impl Iterator<Item = &Name> {
    group.services.keys().filter(|name| !group.udp.contains(*name))
}

fn only<'a>(mut names: impl Iterator<Item = &'a Name>) -> Option<&'a Name> {
    names.next().filter(|_| names.next().is_none())
}

/// Gives the name of a service that a browser may be sent to; `None`: it is not known to speak HTTP, or its session
/// is not found by name.
pub fn name(
    sessions: &BTreeMap<SessionId, Arc<Share>>,
    session: SessionId,
    group: &Name,
    service: &Name,
) -> Option<String> {
    let entry = sessions.get(&session)?.directory.groups.get(group)?;
    let speaks = entry.http.contains(service) || service.as_str() == USUAL && !entry.udp.contains(service);
    let label = labels(sessions).into_iter().find(|(_, id)| *id == session && speaks)?.0;
    let before = if usual(entry) == Some(service) { String::new() } else { format!("{service}.") };
    Some(format!("{before}{group}.{label}.{DOMAIN}"))
}

/// Takes apart whom a request names (RFC 3986, section 3.2): the name in lower case, where loopback's own addresses
/// are the index, and the port, which is 80 where none is written and `None` where it is no port.
pub fn authority(text: &str) -> (String, Option<u16>) {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match text.rsplit_once(':').filter(|(_, port)| is_port(port)) {
        Some((host, "")) => (host, Some(HTTP)),
        Some((host, port)) => (host, port.parse().ok()),
        None => (text, Some(HTTP)),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (if LOOPBACK.contains(&host.as_str()) { DOMAIN.to_owned() } else { host }, port)
}

/// Tells whether a page of `origin` (RFC 6454, section 6.2) may ask the site `to` of the front door on `port`: it came
/// through that door itself, and is the same session's. Everything else that a browser shows is a stranger to what
/// runs in the mesh, also what other programs of this host serve on loopback.
pub fn is_friend(origin: &str, port: u16, to: &str) -> bool {
    let Some(from) = origin.strip_prefix("http://") else { return false };
    let (from, of_port) = authority(from);
    let session = |name: &str| {
        let inner = name.strip_suffix(DOMAIN)?.strip_suffix('.')?.to_owned();
        Some(inner.rsplit('.').next()?.to_owned())
    };
    of_port == Some(port)
        && (from == to || session(&from).is_some_and(|of| session(to).as_ref() == Some(&of)))
}
