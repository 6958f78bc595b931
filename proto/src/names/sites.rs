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
};

/// The domain that browsers resolve to loopback.
pub const DOMAIN: &str = "localhost";
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
    let port = match service {
        None => usual(group).and_then(|service| group.services.get(service)),
        Some(service) => {
            group.services.iter().find(|(name, _)| name.as_str() == service).map(|(_, port)| port)
        }
    };
    let port = port.copied().ok_or_else(|| NoSite::Service {
        session: session.to_owned(),
        label: label.to_owned(),
        wanted: service.unwrap_or(USUAL).to_owned(),
        has: group.services.keys().map(Name::to_string).collect(),
    })?;
    Ok(Site::Service { session: share.session, label: label.to_owned(), port })
}

/// Gives the service that a browser means by a group's own name: `http`, else the only one that is checked over
/// HTTP, else the only one.
fn usual(group: &GroupEntry) -> Option<&Name> {
    let http = group.services.keys().find(|name| name.as_str() == USUAL);
    http.or_else(|| only(group.http.iter())).or_else(|| only(group.services.keys()))
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
    let speaks = entry.http.contains(service) || service.as_str() == USUAL;
    let label = labels(sessions).into_iter().find(|(_, id)| *id == session && speaks)?.0;
    let before = if usual(entry) == Some(service) { String::new() } else { format!("{service}.") };
    Some(format!("{before}{group}.{label}.{DOMAIN}"))
}

/// Tells whether a page of the origin host `from` may ask the site `to`: it is the same session's. Everything else
/// that a browser shows is a stranger to what runs in the mesh.
pub fn is_friend(from: &str, to: &str) -> bool {
    let of = |name: &str| {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let inner = name.strip_suffix(DOMAIN)?.strip_suffix('.')?.to_owned();
        Some(inner.rsplit('.').next()?.to_owned())
    };
    from == to || of(from).is_some_and(|session| of(to).as_ref() == Some(&session))
}
