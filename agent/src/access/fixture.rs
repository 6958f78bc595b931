//! For tests of what leads into machines: a session with a web group, and machines that are a small server each.

use std::{collections::BTreeMap, future::Future, io, sync::Arc};

use mesh::net::End;
use proto::{
    id::{Epoch, Generation, HostId, MachineName, Name, SessionId},
    level::LEVEL,
    picture::{Input, Picture},
    session::{Directory, GroupEntry, Guard, MachineEntry, Prefix, Share},
    time::Timestamp,
};
use tempfile::TempDir;
use tokio::io::DuplexStream;

use super::{
    balance::{Dial, Ways},
    forward::Forwards,
};
use crate::{host::limits::Shares, picture::Pictures};

pub const SESSION: SessionId = SessionId([7; 16]);
/// Connections that [`forwards`] carry at once.
pub const FORWARDED: usize = 8;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// `shop` with `web` (http on 80, admin on 9000) of two machines, and `db` (sql on 5432) of one.
pub fn pictures() -> Pictures {
    let entry = |machine: &str| MachineEntry {
        machine: machine.parse().unwrap(),
        host: HostId([1; 32]),
        epoch: Epoch(1),
        address: [10, 64, 0, 10].into(),
        guard: Guard::Hold,
        user: None,
        run: true,
    };
    let group = |services: &[(&str, u16)], http: &[&str], machines: &[&str]| GroupEntry {
        services: services.iter().map(|(service, port)| (name(service), *port)).collect(),
        http: http.iter().map(|service| name(service)).collect(),
        needs: Default::default(),
        machines: machines.iter().map(|machine| entry(machine)).collect(),
        publish: BTreeMap::new(),
        udp: std::collections::BTreeSet::new(),
    };
    let groups = BTreeMap::from([
        (name("web"), group(&[("http", 80), ("admin", 9000)], &["http", "admin"], &["web-1", "web-2"])),
        (name("db"), group(&[("sql", 5432)], &[], &["db-1"])),
    ]);
    let share = Share {
        session: SESSION,
        name: name("shop"),
        stamp: Timestamp(1),
        recovery: 0,
        version: 1,
        generation: Generation(1),
        ended: false,
        directory: Directory { subnet: Prefix::NONE, groups },
        machines: Vec::new(),
        drops: Vec::new(),
        ssh_seed: [0; 32],
        level: LEVEL,
        mandate: None,
    };
    let mut picture = Picture::new(HostId([1; 32]));
    picture.apply(Input::Shares(Arc::new([(SESSION, Arc::new(share))].into())));
    Pictures::fixed(picture)
}

/// Forwards to machines that `serve` serves; those that are `ready` are behind every label.
pub fn forwards<Served>(
    dir: &TempDir,
    ready: &'static [&'static str],
    serve: impl Fn(MachineName, u16, DuplexStream) -> Served + Send + Sync + 'static,
) -> Forwards
where
    Served: Future<Output = ()> + Send + 'static,
{
    let dial: Dial = Arc::new(move |_, machine, port| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(machine, port.number, far));
        Box::pin(async move { Ok::<_, io::Error>(Box::new(near) as Box<dyn End>) })
    });
    let targets = Arc::new(move |_, _: &str| ready.iter().map(|name| name.parse().unwrap()).collect());
    let shares = Shares { api: 1, names: 1, forwarded: FORWARDED, listening: 8, browsing: 8, proxied: 8 };
    let reach = Arc::new(|_, _| -> futures::future::BoxFuture<'static, io::Result<Box<dyn End>>> {
        Box::pin(async { Err(io::ErrorKind::NotConnected.into()) })
    });
    let ways = Ways { dial, targets, reach };
    Forwards::new(HostId([1; 32]), dir.path().join("forward.json"), ways, shares)
}
