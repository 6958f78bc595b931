//! Puts the tasks of sessions together, each with the parts that it uses and no other, and ends them. Reads first what
//! is on disk. The rest of the agent gets what it may ask by `ports`.

use std::{collections::BTreeMap, io, panic::AssertUnwindSafe, path::PathBuf, sync::Arc};

use futures::FutureExt;
use images::Images;
use mesh::{net::Net, quorum::Group};
use proto::{
    id::SessionId,
    picture::Shares,
    run::{
        Rules,
        host::Owner,
        knowledge::{Kept, Knowledge},
    },
    session::Share,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    actions::Means,
    asking::Asking,
    birth::{self, Births},
    coordinator,
    ground::Ground,
    host, knowing, known,
    nic::Edges,
    opening,
    ports::{ForMembers, ForPeople},
    possession,
    requests::Requests,
    store::{Loaded, Store},
    table::{self, Table},
    tasks::Tasks,
};
use crate::{dns::Resolve, machine::Qemu};

/// What all of it is put together from.
pub struct Parts {
    /// What every task stands on.
    pub ground: Ground,
    /// The image store.
    pub images: Images,
    /// The session network.
    pub net: Net,
    /// The local QEMU.
    pub qemu: watch::Receiver<Qemu>,
    /// Whether gossip knows by now what this host offers.
    pub offered: watch::Receiver<bool>,
    /// Shares and machines on disk.
    pub store: Store,
    /// Where sockets go.
    pub run: PathBuf,
    /// The zone's name.
    pub zone: String,
    /// Answers names.
    pub resolve: Resolve,
    /// What this host's owner allows machines.
    pub owner: Owner,
}

/// Handle to everything that this host keeps of sessions.
#[derive(Clone)]
pub struct Sessions {
    pub(super) ground: Ground,
    /// What is here of sessions: shares on disk, logs.
    pub(super) table: Table,
    pub(super) asking: Asking,
    pub(super) requests: Requests,
    pub(super) births: Births,
    tasks: Tasks,
}

impl Sessions {
    /// Reads what is on disk and starts a task for every session. Shares that cannot be read are
    /// left where they are and told.
    pub async fn open(parts: Parts) -> io::Result<Sessions> {
        let Parts { ground, images, net, qemu, offered, store, run, zone, resolve, owner } = parts;
        let (knowledge, shares) = read(&ground, &store)?;
        let tasks = Tasks::new(ground.stop.clone());
        let (known, knower) = known::build(ground.me());
        let (table, keeping) = table::build();
        let requests = Requests {
            ground: ground.clone(),
            known: known.clone(),
            table: table.clone(),
            store: store.clone(),
            offered,
        };
        let asking = Asking::new(requests.clone());
        let (births, beginning) = birth::build();

        let edges = Edges { me: ground.me(), net: net.clone(), resolve };
        let (asks, mesh, kept) = (asking.clone(), ground.mesh.clone(), store.clone());
        let means = Means { asking: asks, images, qemu, zone, store: kept, mesh };
        let hosting = host::Parts { ground: ground.clone(), table: table.clone(), edges, means, run, owner };
        let of = tasks.clone();
        let start = move |session: SessionId| {
            let hosting = hosting.clone();
            of.supervise("host", session, move || host::run(hosting.clone(), session));
        };
        let lookout =
            knowing::Parts { ground: ground.clone(), table: table.clone(), start: Box::new(start.clone()) };
        know(&tasks, ground.stop.clone(), knowing::run(knower, lookout, knowledge));
        let lead = Box::new(leading(tasks.clone(), requests.clone()));
        let keeper = table::Parts { ground: ground.clone(), net, store: store.clone(), known, lead };
        // Not one of those that are waited for: it ends after them.
        tokio::spawn(keeping.run(keeper));
        tasks.spawn(beginning.run(requests.clone()));
        tasks.spawn_until_stop(possession::run(ground.clone(), table.clone(), store.clone()));
        opening::open_logs(&ground, &table, &store, &tasks).await?;
        shares.into_iter().for_each(start);
        Ok(Sessions { ground, table, asking, requests, births, tasks })
    }

    /// Gives what people may ask.
    pub fn for_people(&self) -> ForPeople {
        let Sessions { asking, requests, births, .. } = self.clone();
        ForPeople { asking, requests, births }
    }

    /// Gives what other members may ask.
    pub fn for_members(&self) -> ForMembers {
        ForMembers { requests: self.requests.clone() }
    }

    /// Watches all shares.
    pub fn shares(&self) -> watch::Receiver<Arc<Shares>> {
        self.ground.watch_shares()
    }

    /// Waits until every task has ended. Call after the agent was told to stop.
    pub async fn drained(&self) {
        self.tasks.drained().await;
    }

    /// Closes the logs. Call after [`Sessions::drained`], or after the time for that is over.
    pub async fn close_logs(&self) {
        self.table.close().await;
    }
}

/// Starts the task that knows of sessions. Without it nothing here is right any more.
fn know(tasks: &Tasks, stop: CancellationToken, knowing: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        if AssertUnwindSafe(knowing).catch_unwind().await.is_err() {
            tracing::error!("the task that knows of sessions failed; the agent ends, to be started anew");
            stop.cancel();
        }
    });
}

/// Gives what starts the task beside a log.
fn leading(tasks: Tasks, here: Requests) -> impl Fn(SessionId, Group) + Send + Sync {
    move |session, group| {
        let here = here.clone();
        let run = move || coordinator::run(here.clone(), session, group.clone());
        tasks.supervise("coordinator", session, run);
    }
}

/// Reads what is on disk, and shows it. Gives what is known by it, and the sessions that are there.
fn read(ground: &Ground, store: &Store) -> io::Result<(Knowledge, Vec<SessionId>)> {
    let Loaded { shares, broken } = store.load()?;
    for (path, reason) in broken {
        tracing::error!(path = %path.display(), reason, "a share cannot be read; it is left as it is");
    }
    let shares: Vec<Arc<Share>> = shares.into_values().map(Arc::new).collect();
    let by_id: BTreeMap<_, _> = shares.iter().map(|share| (share.session, share.clone())).collect();
    let voices = by_id.keys().map(|session| (*session, store.voices(*session))).collect();
    let contents = shares.iter().map(|share| (share.session, store.contents(share))).collect();
    let kept = Kept { shares: by_id, voices, contents };
    let knowledge = Knowledge::new(ground.me(), Rules::default(), kept);
    let ids = shares.iter().map(|share| share.session).collect();
    for share in shares {
        ground.show(share);
    }
    Ok((knowledge, ids))
}
