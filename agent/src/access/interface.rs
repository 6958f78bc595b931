//! This host on the networks of its sessions, by an interface of its own, where its owner wants that
//! (`net.host_interface`): machines answer it at their own addresses, whatever it speaks. One task: it follows the
//! sessions and the host's routes, and carries packets between the interface and the session network, which judges them.

use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};

use mesh::net::Net;
use proto::{
    id::{HostId, SessionId},
    limits::GUEST_MTU,
    picture::{Change, Picture},
    session::{Prefix, overlay},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{
        network,
        tun::{self, Tun},
        words::words,
    },
    picture::Pictures,
};

/// `%d`: another agent of this computer may have one.
const NAME: &str = "mesh%d";
/// Packets of machines that wait for the kernel.
const QUEUE: usize = 256;
/// How often the host's routes are looked at: a VPN may come and go.
const LOOK: Duration = Duration::from_secs(10);
/// What lets the service have an interface.
const GRANT: &str = "printf '[Service]\\nCapabilityBoundingSet=CAP_NET_ADMIN\\nDeviceAllow=/dev/net/tun rw\\n' | \
                     sudo install -D -m 644 /dev/stdin /etc/systemd/system/agent.service.d/interface.conf; \
                     sudo systemctl daemon-reload; sudo systemctl restart agent";

/// What the interface leads to, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its name; `None` = there is none.
    pub name: Option<String>,
    /// What it does not do and why, with what helps.
    pub notes: Vec<(String, Option<String>)>,
}

/// What the task needs of others.
pub struct Parts {
    /// This host.
    pub me: HostId,
    /// The session network.
    pub net: Net,
    /// What this host knows.
    pub pictures: Pictures,
    /// What is told of it.
    pub shown: watch::Sender<Shown>,
}

/// Carries the interface until the agent ends; then it is gone.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let ended = match begin(parts.me).await {
        Ok(tun) => stop.run_until_cancelled(carry(&parts, tun)).await.map(|Err(error)| error),
        Err(error) => Some(error),
    };
    parts.net.close_interface();
    if let Some(error) = ended {
        let because = words(&error);
        tracing::warn!(because, "this host has no interface on session networks");
        let denied = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound);
        let next = denied.then(|| GRANT.to_owned());
        let note = format!("this host has no interface on session networks (net.host_interface): {because}");
        parts.shown.send_replace(Shown { name: None, notes: vec![(note, next)] });
        // Nothing mends it but another start.
        stop.cancelled().await;
    }
}

async fn begin(me: HostId) -> io::Result<Tun> {
    let tun = Tun::open(NAME)?;
    let (own, mtu) = (format!("{}/32", overlay::host_v4(me)), GUEST_MTU.to_string());
    tun::ip(&["addr", "add", &own, "dev", tun.name()]).await?;
    tun::ip(&["link", "set", tun.name(), "mtu", &mtu, "up"]).await?;
    Ok(tun)
}

async fn carry(parts: &Parts, tun: Tun) -> Result<std::convert::Infallible, io::Error> {
    let (to_host, mut packets) = mpsc::channel(QUEUE);
    parts.net.open_interface(to_host);
    let wakes = parts.pictures.wakes(|change| matches!(change, Change::Session(_)));
    let mut routed = BTreeMap::new();
    loop {
        follow(parts, &tun, &mut routed).await;
        parts.net.set_interface(routed.keys().copied().collect());
        let again = tokio::time::sleep(LOOK);
        tokio::pin!(again);
        loop {
            // Every arm is cancel-safe: what is not taken stays where it is.
            tokio::select! {
                packet = tun.read() => parts.net.from_this_host(packet?.into()),
                Some(packet) = packets.recv() => tun.write(&packet),
                () = wakes.changed() => break,
                () = &mut again => break,
            }
        }
    }
}

/// Sets the routes that are to be, and tells what is not.
async fn follow(parts: &Parts, tun: &Tun, routed: &mut BTreeMap<SessionId, Prefix>) {
    let mut notes = Vec::new();
    let wanted = match network::read() {
        Ok(host) => {
            let others: Vec<_> = host.nearer.into_iter().filter(|prefix| !is_ours(prefix, routed)).collect();
            let (wanted, taken) = choose(&networks(&parts.pictures.now()), &others);
            notes.extend(taken.into_iter().map(|(name, prefix)| (overlap(&name, prefix), None)));
            wanted
        }
        Err(error) => {
            let because = words(&error);
            notes.push((format!("what this host's routes are cannot be read: {because}"), None));
            routed.clone()
        }
    };
    for (session, prefix) in routed.clone() {
        if wanted.get(&session) != Some(&prefix) {
            // What is not there any more is as it should be.
            unroute(tun, parts.me, session, prefix).await.ok();
            routed.remove(&session);
        }
    }
    for (session, prefix) in wanted {
        if routed.contains_key(&session) {
            continue;
        }
        match route(tun, parts.me, session, prefix).await {
            Ok(()) => drop(routed.insert(session, prefix)),
            Err(error) => notes.push((format!("no route leads to {prefix}: {}", words(&error)), None)),
        }
    }
    let shown = Shown { name: Some(tun.name().to_owned()), notes };
    parts.shown.send_if_modified(|now| {
        let changed = *now != shown;
        *now = shown;
        changed
    });
}

/// One session's network: its name for people, and its prefix.
type Networks = BTreeMap<SessionId, (String, Prefix)>;

fn networks(picture: &Picture) -> Networks {
    let living =
        picture.shares.values().filter(|share| !share.ended && share.directory.subnet != Prefix::NONE);
    living.map(|share| (share.session, (share.name.to_string(), share.directory.subnet))).collect()
}

/// Chooses which sessions get routes: those whose network meets no route of the host's, and no other session's that
/// comes before it. Gives the others as well.
fn choose(
    networks: &Networks,
    host: &[(IpAddr, u8)],
) -> (BTreeMap<SessionId, Prefix>, Vec<(String, Prefix)>) {
    let v4 = |&(base, len): &(IpAddr, u8)| match base {
        IpAddr::V4(base) => Some(Prefix { base, len }),
        IpAddr::V6(_) => None,
    };
    let mut taken: Vec<Prefix> = host.iter().filter_map(v4).collect();
    let (mut routed, mut left) = (BTreeMap::new(), Vec::new());
    for (session, (name, prefix)) in networks {
        if taken.iter().any(|other| other.overlaps(prefix)) {
            left.push((name.clone(), *prefix));
        } else {
            taken.push(*prefix);
            routed.insert(*session, *prefix);
        }
    }
    (routed, left)
}

fn overlap(name: &str, prefix: Prefix) -> String {
    format!("this host does not reach {name} at its own addresses: {prefix} is routed elsewhere here already")
}

/// Says whether a route is one that was set here.
fn is_ours(&(base, len): &(IpAddr, u8), routed: &BTreeMap<SessionId, Prefix>) -> bool {
    routed.values().any(|prefix| IpAddr::V4(prefix.base) == base && prefix.len == len)
}

async fn route(tun: &Tun, me: HostId, session: SessionId, prefix: Prefix) -> io::Result<()> {
    let (subnet, source) = (prefix.to_string(), overlay::host_v4(me).to_string());
    tun::ip(&["route", "replace", &subnet, "dev", tun.name(), "src", &source]).await?;
    // A host whose IPv6 is turned off has the other one.
    let (own, subnet) = v6(me, session);
    let both = async {
        tun::ip(&["-6", "addr", "replace", &own, "dev", tun.name(), "nodad"]).await?;
        tun::ip(&["-6", "route", "replace", &subnet, "dev", tun.name()]).await
    };
    if let Err(error) = both.await {
        tracing::debug!(%error, "no IPv6 to a session");
    }
    Ok(())
}

async fn unroute(tun: &Tun, me: HostId, session: SessionId, prefix: Prefix) -> io::Result<()> {
    let (own, subnet) = v6(me, session);
    // A host without IPv6 has none of it.
    tun::ip(&["-6", "route", "del", &subnet, "dev", tun.name()]).await.ok();
    tun::ip(&["-6", "addr", "del", &own, "dev", tun.name()]).await.ok();
    tun::ip(&["route", "del", &prefix.to_string(), "dev", tun.name()]).await
}

/// Gives this host's address on a session's IPv6 network, and that network.
fn v6(me: HostId, session: SessionId) -> (String, String) {
    (format!("{}/128", overlay::host_v6(session, me)), format!("{}/64", overlay::subnet_v6(session)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (base, len) = text.split_once('/').unwrap();
        Prefix { base: base.parse().unwrap(), len: len.parse().unwrap() }
    }

    fn chosen(sessions: &[&str], host: &[&str]) -> (Vec<String>, Vec<String>) {
        let networks = sessions
            .iter()
            .enumerate()
            .map(|(number, text)| (SessionId([number as u8; 16]), (format!("s{number}"), prefix(text))));
        let host: Vec<_> =
            host.iter().map(|text| (IpAddr::V4(prefix(text).base), prefix(text).len)).collect();
        let (routed, left) = choose(&networks.collect(), &host);
        (routed.values().map(Prefix::to_string).collect(), left.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn a_network_that_the_host_routes_already_is_left_to_it() {
        let sessions = ["10.64.3.0/24", "10.80.0.0/22", "172.16.9.0/24"];
        let none: Vec<String> = Vec::new();
        assert_eq!(chosen(&sessions, &["192.168.1.0/24"]), (sessions.map(String::from).to_vec(), none));
        let (routed, left) = chosen(&sessions, &["10.80.2.0/24", "172.16.0.0/12"]);
        assert_eq!((routed, left), (vec!["10.64.3.0/24".into()], vec!["s1".into(), "s2".into()]));
    }

    #[test]
    fn of_two_sessions_with_one_network_one_is_routed() {
        let (routed, left) = chosen(&["10.64.3.0/24", "10.64.0.0/22"], &[]);
        assert_eq!((routed, left), (vec!["10.64.3.0/24".into()], vec!["s1".into()]));
    }

    #[test]
    fn routes_that_were_set_here_are_no_reason_against_themselves() {
        let routed = BTreeMap::from([(SessionId([1; 16]), prefix("10.64.3.0/24"))]);
        assert!(is_ours(&("10.64.3.0".parse().unwrap(), 24), &routed));
        assert!(!is_ours(&("10.64.3.0".parse().unwrap(), 25), &routed));
    }
}
