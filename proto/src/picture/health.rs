//! What is wrong elsewhere in the mesh, and what people should be warned of, as far as the picture tells.

use std::collections::BTreeSet;

use super::Picture;
use crate::wire::api::{HostRow, MemberState, Warning};

/// Tells what keeps hosts of these names from storing anything, by their own word: each in one line.
pub fn troubles(picture: &Picture, hosts: &BTreeSet<&str>) -> Vec<String> {
    let told = troubled(picture).filter(|(name, _)| hosts.contains(name));
    told.map(|(name, trouble)| format!("{name}: {trouble}")).collect()
}

/// Lists the warnings for `status` that follow from the members and what they say.
pub fn warnings(picture: &Picture, hosts: &[HostRow]) -> Vec<Warning> {
    let in_trouble = troubled(picture).map(|(name, trouble)| Warning {
        what: format!("{name}: {trouble}"),
        next: Some(format!("on {name}: agent doctor")),
    });
    in_trouble.chain(absent(picture, hosts)).collect()
}

/// Warns while a mesh of some size can be extended by one host alone.
pub fn single_issuer(hosts: &[HostRow]) -> Option<Warning> {
    let here: Vec<&HostRow> = hosts.iter().filter(|host| !is_out(host)).collect();
    let issuers: Vec<&&HostRow> = here.iter().filter(|host| host.issuer).collect();
    let [issuer] = issuers[..] else { return None };
    let alone = format!("{} alone may admit new hosts", issuer.name);
    let (what, next) = match issuer.state {
        MemberState::Down => (
            format!("{alone}, and it is down"),
            "agent init --restore    with the recovery phrase, if it is gone for good".to_owned(),
        ),
        _ => (
            format!("{alone}; keep its recovery phrase safe"),
            format!("on {}: agent host promote NAME", issuer.name),
        ),
    };
    (here.len() >= 3).then_some(Warning { what, next: Some(next) })
}

/// Lists the other hosts that say that they cannot store anything, with what they say.
fn troubled(picture: &Picture) -> impl Iterator<Item = (&str, &str)> {
    let others = picture.records.keys().map(|(host, _)| *host).collect::<BTreeSet<_>>();
    others.into_iter().filter(|host| *host != picture.me).filter_map(|host| {
        let record = picture.host_record(host)?;
        Some((record.name.as_str(), record.trouble.as_deref()?))
    })
}

/// Tells whether a host is listed only because it was a member once.
fn is_out(host: &HostRow) -> bool {
    matches!(host.state, MemberState::Left | MemberState::Evicted)
}

/// One warning for all hosts that are away: a mesh of many would fill the screen.
fn absent(picture: &Picture, hosts: &[HostRow]) -> Option<Warning> {
    let down = hosts.iter().filter(|host| host.state == MemberState::Down);
    let names: Vec<&str> = down.map(|host| host.name.as_str()).collect();
    let (last, others) = names.split_last()?;
    let what = match others {
        [] => format!("{last} is down: not heard for too long"),
        _ => format!("{} and {last} are down: not heard for too long", others.join(", ")),
    };
    let gone =
        if others.is_empty() { format!("agent host remove {last}") } else { "agent host remove NAME".into() };
    let cure = format!("on {}: agent run; if gone for good: {gone}", names.join(", "));
    // Whoever hears nobody at all cannot tell whose fault it is.
    let is_heard = |host: &HostRow| host.state != MemberState::Down && host.id != picture.me && !is_out(host);
    let (what, next) = match hosts.iter().any(is_heard) {
        true => (what, cure),
        false => (
            format!("{what}. Nobody else is heard either: it may be this host's own network"),
            format!("agent net check    and if this host is well, {cure}"),
        ),
    };
    Some(Warning { what, next: Some(next) })
}
