//! Services that topologies have this host publish in its own network: it listens on its LAN addresses and leads whoever
//! comes to ready machines, wherever they run, as long as session and service are there. Only where its owner allows it
//! (`policy.publish`), and never on a public address.
//!
//! Owns these listeners. Who is asked for what is `proto::picture::lan`'s; what stands in the way is told.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mesh::Interfaces;
use proto::{
    addresses::is_public,
    facts::Fact,
    id::{Name, SessionId},
    picture::{
        Change,
        lan::{self, Asked},
    },
};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{forward::Forwards, places::Place};
use crate::{
    host::{holder::holder, listen},
    picture::Pictures,
};

/// Services that one host publishes, of all sessions: each takes descriptors.
const MOST: usize = 64;
/// Between two tries of a port that somebody else has.
const AGAIN: Duration = Duration::from_secs(10);
/// Pause after a look. In a large mesh some session changes all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// A service: session, group, name.
pub type Key = (SessionId, Name, Name);
/// What became of each service that this host is asked to publish.
pub type Doors = BTreeMap<Key, LanDoor>;

/// What became of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanDoor {
    /// Where this host listens for it.
    pub addresses: Vec<SocketAddr>,
    /// What stands in the way of more.
    pub because: Option<String>,
}

/// Everything that is published.
#[derive(Clone)]
pub struct Lan {
    /// Who asks.
    pub pictures: Pictures,
    /// This host's addresses.
    pub interfaces: watch::Receiver<Arc<Interfaces>>,
    /// What leads to machines.
    pub forwards: Forwards,
    /// Where facts go.
    pub facts: broadcast::Sender<Fact>,
    /// What became of it.
    pub doors: watch::Sender<Arc<Doors>>,
}

/// The listeners, and where each leads.
type Open = BTreeMap<SocketAddr, (Place, u16, AbortOnDropHandle<()>)>;

impl Lan {
    /// Publishes under this host's `name` what it is asked for, if it is `allowed`, until `stop`.
    pub async fn run(mut self, name: Name, allowed: bool, stop: CancellationToken) {
        let wakes = self.pictures.wakes(|change| matches!(change, Change::Session(_)));
        let mut open = Open::new();
        loop {
            let asked = lan::asked(&self.pictures.now(), &name);
            let addresses = addresses(&self.interfaces.borrow_and_update());
            let doors = self.listen(&mut open, &asked, allowed, &addresses);
            self.tell(&asked, doors);
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
            // Every arm only wakes the loop.
            tokio::select! {
                () = stop.cancelled() => return,
                () = wakes.changed() => {}
                changed = self.interfaces.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if !asked.is_empty() => {}
            }
        }
    }

    /// Makes the listeners what they are to be.
    fn listen(&self, open: &mut Open, asked: &[Asked], allowed: bool, addresses: &[IpAddr]) -> Doors {
        let mut wanted = BTreeMap::new();
        let mut doors = Doors::new();
        for (at, asked) in asked.iter().enumerate() {
            let because = refused(at, asked, allowed, addresses);
            if because.is_none() {
                let place: Place = (asked.session, asked.group.as_str()).into();
                let here = addresses.iter().map(|address| SocketAddr::new(*address, asked.lan));
                wanted.extend(here.map(|here| (here, (key(asked), place.clone(), asked.port))));
            }
            doors.insert(key(asked), LanDoor { addresses: Vec::new(), because });
        }
        // Before anything new is bound, which may be at the same place.
        open.retain(|here, (place, port, _)| {
            wanted.get(here).is_some_and(|(_, of, to)| (of, to) == (&*place, &*port))
        });
        for (here, (key, place, port)) in wanted {
            let door = doors.entry(key).or_default();
            if let Entry::Vacant(free) = open.entry(here) {
                match listen::tcp(here) {
                    Ok(listener) => {
                        let task = self.forwards.lead(listener, place.clone(), port);
                        free.insert((place, port, task));
                    }
                    Err(error) => {
                        door.because = Some(unbound(here, &error));
                        continue;
                    }
                }
            }
            door.addresses.push(here);
        }
        doors
    }

    /// Tells what has become different.
    fn tell(&self, asked: &[Asked], doors: Doors) {
        let before = self.doors.borrow().clone();
        for asked in asked {
            let (Some(now), was) = (doors.get(&key(asked)), before.get(&key(asked))) else { continue };
            if was == Some(now) {
                continue;
            }
            let (session, service) = (asked.label.clone(), format!("{}.{}", asked.service, asked.group));
            let addresses: Vec<String> = now.addresses.iter().map(SocketAddr::to_string).collect();
            let published =
                Fact::LanPublished { session: session.clone(), service: service.clone(), addresses };
            let refused = now.because.clone().map(|because| {
                tracing::warn!(%session, service, port = asked.lan, because, "a service is not published");
                Fact::LanRefused { session, service, port: asked.lan, because }
            });
            for fact in refused.into_iter().chain((!now.addresses.is_empty()).then_some(published)) {
                // Nobody listening is no error.
                self.facts.send(fact).ok();
            }
        }
        if *before != doors {
            self.doors.send_replace(Arc::new(doors));
        }
    }
}

fn key(asked: &Asked) -> Key {
    (asked.session, asked.group.clone(), asked.service.clone())
}

/// Says why a service is not even tried to be published.
fn refused(at: usize, asked: &Asked, allowed: bool, addresses: &[IpAddr]) -> Option<String> {
    if !allowed {
        return Some(
            "this host's owner does not let it: write `publish = true` under [policy] in its config.toml, \
             and start its agent again"
                .to_owned(),
        );
    }
    if let Some(other) = &asked.taken_by {
        return Some(format!("{other} has port {} here", asked.lan));
    }
    if at >= MOST {
        return Some(format!("this host publishes {MOST} services already, the most that one may"));
    }
    addresses.is_empty().then(|| "this host has no private address in a network with others".to_owned())
}

/// Says why a port is not listened on.
fn unbound(here: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder(here.port()) {
            Some(who) => format!("{who} has port {}", here.port()),
            None => format!("another program has port {}", here.port()),
        },
        io::ErrorKind::PermissionDenied => {
            format!(
                "its agent may not listen on port {}, which is the system's: choose one from 1024 on",
                here.port()
            )
        }
        _ => format!("{here}: {error}"),
    }
}

/// Lists where others in this host's networks find it: private addresses on real networks.
fn addresses(interfaces: &Interfaces) -> Vec<IpAddr> {
    let here = interfaces.here();
    let lans = here.lans.iter().map(|net| net.address);
    let private = lans.filter(|address| proto::addresses::is_somewhere(address) && !is_public(address));
    private.collect::<BTreeSet<IpAddr>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::access::fixture;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn asked(service: &str, lan: u16, taken_by: Option<&str>) -> Asked {
        Asked {
            session: fixture::SESSION,
            label: "shop".parse().unwrap(),
            group: "web".parse().unwrap(),
            service: service.parse().unwrap(),
            port: 80,
            lan,
            taken_by: taken_by.map(str::to_owned),
        }
    }

    fn lan(dir: &tempfile::TempDir) -> (Lan, broadcast::Receiver<Fact>) {
        let (facts, heard) = broadcast::channel(16);
        let forwards = fixture::forwards(dir, &["web-1"], async |machine, port, mut stream| {
            stream.write_all(format!("{machine}:{port}").as_bytes()).await.ok();
        });
        let (_, interfaces) = watch::channel(Arc::default());
        let doors = watch::Sender::default();
        (Lan { pictures: fixture::pictures(), interfaces, forwards, facts, doors }, heard)
    }

    /// A port that is free now.
    fn free() -> u16 {
        std::net::TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn what_is_allowed_and_asked_for_leads_to_a_machine_until_nobody_asks_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let ((lan, mut heard), port, mut open) = (lan(&dir), free(), Open::new());
        let wanted = [asked("http", port, None)];
        let doors = lan.listen(&mut open, &wanted, true, &[HERE]);
        lan.tell(&wanted, doors);
        let here = SocketAddr::new(HERE, port);
        let mut heard_there = String::new();
        TcpStream::connect(here).await.unwrap().read_to_string(&mut heard_there).await.unwrap();
        assert_eq!(heard_there, "web-1:80");
        assert_eq!(heard.try_recv().unwrap().to_string(), format!("shop: http.web is published at {here}"));
        let again = lan.listen(&mut open, &wanted, true, &[HERE]);
        lan.tell(&wanted, again);
        assert!(heard.try_recv().is_err(), "nothing is new");
        lan.listen(&mut open, &[], true, &[HERE]);
        tokio::task::yield_now().await;
        TcpStream::connect(here).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_told_and_nothing_listens() {
        let dir = tempfile::tempdir().unwrap();
        let ((lan, mut heard), port, mut open) = (lan(&dir), free(), Open::new());
        let mut because = |asked: Asked, allowed: bool, addresses: &[IpAddr]| {
            let doors = lan.listen(&mut open, std::slice::from_ref(&asked), allowed, addresses);
            assert!(open.is_empty());
            lan.tell(&[asked], doors);
            heard.try_recv().unwrap().to_string()
        };
        let forbidden = because(asked("http", port, None), false, &[HERE]);
        assert!(forbidden.contains("write `publish = true` under [policy]"), "{forbidden}");
        let twice = because(asked("http", port, Some("http.web.blog")), true, &[HERE]);
        assert!(twice.ends_with(&format!("http.web.blog has port {port} here")), "{twice}");
        let nowhere = because(asked("http", port, None), true, &[]);
        assert!(nowhere.ends_with("no private address in a network with others"), "{nowhere}");
        let _other = std::net::TcpListener::bind((HERE, port)).unwrap();
        let taken = because(asked("http", port, None), true, &[HERE]);
        assert!(taken.ends_with(&format!("(process {}) has port {port}", std::process::id())), "{taken}");
    }
}
