//! What this host keeps of every session, in one place: its shares, its reports, its Raft groups.
//! The one door for shares: older ones are refused, newer ones are on disk before anyone sees them.
//! Starts the tasks of each session; decides nothing about machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use images::Images;
use mesh::{Mesh, net::Net};
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

use super::{
    birth::{self, Born},
    host,
    knowing::{self, Known},
    ports::{ForMembers, ForPeople, OFFER_WAIT},
    store::{Loaded, Store},
    table::{self, Table},
};
use crate::{
    dns::Resolve,
    machine::Qemu,
    picture::{Own, Pictures},
};

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
pub struct Sessions {
    deps: Arc<Deps>,
    /// What is believed of sessions.
    pub(super) known: Known,
    /// What is here of sessions: shares on disk, logs.
    pub(super) table: Table,
    births: mpsc::Sender<birth::Letter>,
    tasks: TaskTracker,
}

impl Sessions {
    /// Reads what is on disk and starts a task for every session. Shares that cannot be read are
    /// left where they are and told.
    pub async fn open(deps: Deps) -> io::Result<Sessions> {
        let Loaded { shares, broken } = deps.store.load()?;
        for (path, reason) in broken {
            tracing::error!(path = %path.display(), reason, "a share cannot be read; it is left as it is");
        }
        let shares: Vec<Arc<Share>> = shares.into_values().map(Arc::new).collect();
        let by_id: BTreeMap<_, _> = shares.iter().map(|share| (share.session, share.clone())).collect();
        let voices = by_id.keys().map(|session| (*session, deps.store.voices(*session))).collect();
        let contents = shares.iter().map(|share| (share.session, deps.store.contents(share))).collect();
        let kept = Kept { shares: by_id.clone(), voices, contents };
        let knowledge = Knowledge::new(deps.mesh.me(), Rules::default(), kept);
        deps.own.shares.send_replace(Arc::new(by_id));
        let (known, knowing) = knowing::build(deps.mesh.me());
        let (table, keeping) = table::build();
        let (births, wanted) = mpsc::channel(LETTERS);
        let sessions = Sessions { deps: Arc::new(deps), known, table, births, tasks: TaskTracker::new() };
        let (stop, knowing) = (sessions.deps.stop.clone(), knowing.run(sessions.clone(), knowledge));
        sessions.tasks.spawn(async move {
            if AssertUnwindSafe(knowing).catch_unwind().await.is_err() {
                tracing::error!("the task that knows of sessions failed; the agent ends, to be started anew");
                stop.cancel();
            }
        });
        // Not one of those that are waited for: it ends after them.
        tokio::spawn(keeping.run(sessions.clone()));
        sessions.tasks.spawn(birth::run(sessions.clone(), wanted));
        sessions.open_logs().await?;
        for share in shares {
            sessions.start(share.session);
        }
        Ok(sessions)
    }

    /// Gives what people may ask.
    pub fn for_people(&self) -> ForPeople {
        ForPeople(self.clone())
    }

    /// Gives what other members may ask.
    pub fn for_members(&self) -> ForMembers {
        ForMembers(self.clone())
    }

    /// Gives what the tasks share.
    pub fn deps(&self) -> &Deps {
        &self.deps
    }

    /// Gives this host.
    pub fn me(&self) -> HostId {
        self.deps.mesh.me()
    }

    /// Gives what this host knows now. It follows what is kept here in a moment.
    pub fn picture(&self) -> Arc<Picture> {
        self.deps.pictures.now()
    }

    /// Watches all shares.
    pub fn shares(&self) -> watch::Receiver<Arc<Shares>> {
        self.deps.own.shares.subscribe()
    }

    /// Finds a share.
    pub fn share(&self, session: SessionId) -> Option<Arc<Share>> {
        self.deps.own.shares.borrow().get(&session).cloned()
    }

    /// Replaces this host's reports of a session, and gossips them when they changed.
    pub async fn report(&self, session: SessionId, version: u64, machines: Vec<MachineReport>) {
        let acted = Acted { version, machines };
        let (mut said, mut had) = (false, 0);
        self.deps.own.reports.send_if_modified(|all| {
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
                self.deps.mesh.publish(key, body).await;
            }
        }
    }

    /// Waits until this host knows what it offers itself: right after the start its QEMU is still
    /// being proved, and a plan would call it unfit. The proof is bounded, and so is this.
    pub async fn offers_known(&self) {
        let mut offered = self.deps.offered.clone();
        let known = offered.wait_for(|offered| *offered);
        if tokio::time::timeout(OFFER_WAIT, known).await.is_err() {
            tracing::warn!("planning without knowing what this host offers: its QEMU is not proved yet");
        }
    }

    /// Finds the session that is called so here; `Err` = several are.
    pub fn called(&self, name: &Name) -> Result<Option<SessionId>, BTreeSet<SessionId>> {
        let believed = self.known.all();
        proto::run::birth::called(name, &self.picture().shares, believed.heads())
    }

    /// Begins a session here, unless there is one of this name. It goes on also when whoever asked goes away.
    pub async fn begin(&self, parcel: Parcel, index: Option<u64>) -> Born {
        let (answer, answered) = oneshot::channel();
        let ends = || Born::Failed(Failure::Failed("its agent is ending".into()));
        match self.births.send(birth::Letter { parcel, index, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| ends()),
            Err(_) => ends(),
        }
    }

    /// Shows a share that is written down, and begins with its session if it is the first.
    pub(super) fn show(&self, share: Arc<Share>) {
        let (session, first) = (share.session, self.share(share.session).is_none());
        self.deps.own.shares.send_modify(|all| {
            Arc::make_mut(all).insert(session, share);
        });
        if first {
            self.start(session);
        }
    }

    fn start(&self, session: SessionId) {
        let sessions = self.clone();
        self.supervise("host", session, move || host::run(sessions.clone(), session));
    }

    /// Tells whether a statement says that the session has ended and nothing of it is left.
    pub fn buried(&self, session: SessionId) -> bool {
        self.deps.mesh.roll().borrow().set.is_buried(session)
    }

    /// Names the coordinator of a session as far as this host can tell.
    pub fn coordinator(&self, session: SessionId) -> Option<HostId> {
        let led = self.table.log(session).and_then(|group| group.lead().borrow().leader);
        route::coordinator(led, self.known.head(session).map(|(host, _)| host))
    }

    /// Waits until every task has ended. Call after `deps.stop` was cancelled.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Closes the logs. Call after [`Sessions::drained`], or after the time for that is over.
    pub async fn close_logs(&self) {
        self.table.close().await;
    }

    /// Gives where the tasks of sessions are counted.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Starts a task of a session. One that panics is told and started again: the other sessions go on meanwhile.
    pub(super) fn supervise<F: Future<Output = ()> + Send + 'static>(
        &self,
        what: &'static str,
        session: SessionId,
        run: impl Fn() -> F + Send + 'static,
    ) {
        let stop = self.deps.stop.clone();
        self.tasks.spawn(async move {
            while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
                tracing::error!(%session, "the session's {what} task failed; it starts again");
                if stop.run_until_cancelled(tokio::time::sleep(TASK_AGAIN)).await.is_none() {
                    return;
                }
            }
        });
    }
}
