//! What this host keeps of every session, in one place: its shares, its reports, its Raft groups.
//! The one door for shares: older ones are refused, newer ones are on disk before anyone sees them.
//! Starts the tasks of each session; decides nothing about machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use images::Images;
use mesh::{Mesh, net::Net, quorum::Group};
use proto::{
    facts::Fact,
    id::{HostId, Name, SessionId},
    picture::{Acted, Picture, Shares, told},
    run::{
        Rules,
        birth::Failure,
        knowledge::{Kept, Knowledge, route},
    },
    session::{MachineReport, Share},
    topology::Parcel,
    wire::record::{Body, RecordKey},
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::knowing::{Believed, Letter};
use super::{
    birth::{self, Born},
    host,
    store::{Loaded, Store},
};
use crate::{
    dns::Resolve,
    machine::Qemu,
    picture::{Own, Pictures},
};

mod groups;
mod knowing;

/// A proof of QEMU takes a second; one that hangs is ended by its own time-outs.
pub const OFFER_WAIT: Duration = Duration::from_secs(5);
/// Questions that wait for the task that knows; as many as members' requests that are answered at once.
const LETTERS: usize = 64;
/// Pause before a session's task is started again after a panic.
const TASK_AGAIN: Duration = Duration::from_secs(5);

/// What the tasks of all sessions share.
#[derive(Clone)]
pub struct Deps {
    /// The mesh.
    pub mesh: Mesh,
    /// What this host knows now.
    pub pictures: Pictures,
    /// Where its shares and reports enter the picture.
    pub own: Own,
    /// The image store.
    pub images: Images,
    /// The session network.
    pub net: Net,
    /// Where facts go.
    pub facts: broadcast::Sender<Fact>,
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
    /// Ends every task; machines run on.
    pub stop: CancellationToken,
}

/// Handle to everything that this host keeps of sessions.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    deps: Deps,
    groups: Mutex<BTreeMap<SessionId, Group>>,
    /// What is believed of sessions; see `knowing`.
    believed: watch::Sender<Arc<Believed>>,
    mailbox: mpsc::Sender<Letter>,
    /// What comes and goes does so one at a time: shares, logs, whole sessions.
    door: tokio::sync::Mutex<()>,
    births: mpsc::Sender<birth::Letter>,
    tasks: TaskTracker,
}

impl Hub {
    /// Reads what is on disk and starts a task for every session. Shares that cannot be read are
    /// left where they are and told.
    pub async fn open(deps: Deps) -> io::Result<Hub> {
        let Loaded { shares, broken } = deps.store.load()?;
        for (path, reason) in broken {
            tracing::error!(path = %path.display(), reason, "a share cannot be read; it is left as it is");
        }
        let sessions: Vec<Arc<Share>> = shares.into_values().map(Arc::new).collect();
        let known: BTreeMap<_, _> = sessions.iter().map(|share| (share.session, share.clone())).collect();
        let voices = known.keys().map(|session| (*session, deps.store.voices(*session))).collect();
        let contents = sessions.iter().map(|share| (share.session, deps.store.contents(share))).collect();
        let kept = Kept { shares: known.clone(), voices, contents };
        let knowledge = Knowledge::new(deps.mesh.me(), Rules::default(), kept);
        let (mailbox, letters) = mpsc::channel(LETTERS);
        let (births, wanted) = mpsc::channel(LETTERS);
        deps.own.shares.send_replace(Arc::new(known));
        let inner = Inner {
            deps,
            groups: Mutex::default(),
            believed: watch::Sender::default(),
            mailbox,
            door: tokio::sync::Mutex::default(),
            births,
            tasks: TaskTracker::new(),
        };
        let hub = Hub { inner: Arc::new(inner) };
        let (stop, knowing) = (hub.deps().stop.clone(), knowing::run(hub.clone(), knowledge, letters));
        hub.inner.tasks.spawn(async move {
            if AssertUnwindSafe(knowing).catch_unwind().await.is_err() {
                tracing::error!("the task that knows of sessions failed; the agent ends, to be started anew");
                stop.cancel();
            }
        });
        hub.inner.tasks.spawn(birth::run(hub.clone(), wanted));
        hub.open_groups().await?;
        for share in sessions {
            hub.start(share.session);
        }
        Ok(hub)
    }

    /// Gives what the tasks share.
    pub fn deps(&self) -> &Deps {
        &self.inner.deps
    }

    /// Gives this host.
    pub fn me(&self) -> HostId {
        self.inner.deps.mesh.me()
    }

    /// Gives what this host knows now. It follows what is kept here in a moment.
    pub fn picture(&self) -> Arc<Picture> {
        self.inner.deps.pictures.now()
    }

    /// Watches all shares.
    pub fn shares(&self) -> watch::Receiver<Arc<Shares>> {
        self.inner.deps.own.shares.subscribe()
    }

    /// Finds a share.
    pub fn share(&self, session: SessionId) -> Option<Arc<Share>> {
        self.inner.deps.own.shares.borrow().get(&session).cloned()
    }

    /// Replaces this host's reports of a session, and gossips them when they changed.
    pub async fn report(&self, session: SessionId, version: u64, machines: Vec<MachineReport>) {
        let acted = Acted { version, machines };
        let (mut said, mut had) = (false, 0);
        self.inner.deps.own.reports.send_if_modified(|all| {
            let before = all.get(&session);
            said = before.map(|before| &before.machines) != Some(&acted.machines);
            had = before.map_or(0, |before| before.machines.len());
            let changed = before != Some(&acted);
            if changed {
                Arc::make_mut(all).insert(session, acted.clone());
            }
            changed
        });
        if said {
            let mut records: BTreeMap<RecordKey, Option<Body>> =
                told::keys(session, had.max(1)).map(|key| (key, None)).collect();
            let now = told::session(session, version, &acted.machines);
            records.extend(now.map(|(key, body)| (key, Some(body))));
            for (key, body) in records {
                self.inner.deps.mesh.publish(key, body).await;
            }
        }
    }

    /// Waits until this host knows what it offers itself: right after the start its QEMU is still
    /// being proved, and a plan would call it unfit. The proof is bounded, and so is this.
    pub async fn offers_known(&self) {
        let mut offered = self.inner.deps.offered.clone();
        let known = offered.wait_for(|offered| *offered);
        if tokio::time::timeout(OFFER_WAIT, known).await.is_err() {
            tracing::warn!("planning without knowing what this host offers: its QEMU is not proved yet");
        }
    }

    /// Finds the session that is called so here; `Err` = several are.
    pub fn called(&self, name: &Name) -> Result<Option<SessionId>, BTreeSet<SessionId>> {
        let believed = self.inner.believed.borrow();
        proto::run::birth::called(name, &self.picture().shares, believed.heads())
    }

    /// Begins a session here, unless there is one of this name. It goes on also when whoever asked goes away.
    pub async fn begin(&self, parcel: Parcel, index: Option<u64>) -> Born {
        let (answer, answered) = oneshot::channel();
        let ends = || Born::Failed(Failure::Failed("its agent is ending".into()));
        match self.inner.births.send(birth::Letter { parcel, index, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| ends()),
            Err(_) => ends(),
        }
    }

    /// Shows a share that is written down, and begins with its session if it is the first.
    fn show(&self, share: Arc<Share>) {
        let (session, first) = (share.session, self.share(share.session).is_none());
        self.inner.deps.own.shares.send_modify(|all| {
            Arc::make_mut(all).insert(session, share);
        });
        if first {
            self.start(session);
        }
    }

    fn start(&self, session: SessionId) {
        let (hub, stop) = (self.clone(), self.inner.deps.stop.clone());
        let run = move || host::run(hub.clone(), session);
        self.inner.tasks.spawn(supervised("host", session, stop, run));
    }

    /// Removes everything of a session from this host. Called once nothing of it runs here.
    pub async fn forget(&self, session: SessionId) {
        let _one = self.inner.door.lock().await;
        let group = lock(&self.inner.groups).remove(&session);
        if let Some(group) = group {
            group.shutdown().await;
        }
        let name = self.share(session).map(|share| share.name.clone());
        let had = self.inner.deps.own.reports.borrow().get(&session).map_or(0, |acted| acted.machines.len());
        for key in told::keys(session, had.max(1)).chain([RecordKey::Head(session)]) {
            self.inner.deps.mesh.publish(key, None).await;
        }
        self.inner.deps.net.forget(session);
        let store = self.inner.deps.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(session)).await;
        if let Err(error) = removed.map_err(io::Error::other).and_then(|result| result) {
            tracing::error!(%session, %error, "the session's directory cannot be removed");
        }
        self.inner.deps.own.shares.send_modify(|all| {
            Arc::make_mut(all).remove(&session);
        });
        self.inner.deps.own.reports.send_modify(|all| {
            Arc::make_mut(all).remove(&session);
        });
        self.forgotten(session).await;
        if let Some(session) = name {
            // Nobody listening is no error.
            let _heard = self.inner.deps.facts.send(Fact::SessionGone { session });
        }
    }

    /// Tells whether a statement says that the session has ended and nothing of it is left.
    pub fn buried(&self, session: SessionId) -> bool {
        self.inner.deps.mesh.roll().borrow().set.is_buried(session)
    }

    /// Names the coordinator of a session as far as this host can tell.
    pub fn coordinator(&self, session: SessionId) -> Option<HostId> {
        let led = self.group(session).and_then(|group| group.lead().borrow().leader);
        route::coordinator(led, self.head(session).map(|(host, _)| host))
    }

    /// Waits until every task has ended. Call after `deps.stop` was cancelled.
    pub async fn drained(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Closes the logs. Call after [`Hub::drained`], or after the time for that is over.
    pub async fn close_groups(&self) {
        let groups = std::mem::take(&mut *lock(&self.inner.groups));
        futures::future::join_all(groups.values().map(Group::shutdown)).await;
    }
}

/// Runs a session's task until it ends in order. One that panics is told and started again: the other
/// sessions of this host go on meanwhile.
async fn supervised<F: Future<Output = ()>>(
    what: &'static str,
    session: SessionId,
    stop: CancellationToken,
    run: impl Fn() -> F,
) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!(%session, "the session's {what} task failed; it starts again");
        if stop.run_until_cancelled(tokio::time::sleep(TASK_AGAIN)).await.is_none() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
