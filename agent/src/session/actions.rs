//! What a host does for one machine, one function an action. Each may be repeated after a crash and
//! says how it went; none decides what comes next.

use std::{convert::Infallible, panic::AssertUnwindSafe, path::PathBuf, time::Duration};

use ::images::{Holder, Images, WantedImage};
use futures::FutureExt;
use mesh::Mesh;
use proto::{
    id::{Digest, Epoch, MachineName, Name},
    picture::{Change, Picture, images},
    run::host::{Ending, Life, Order, Outcome, Told},
    session::{
        MachineSpec,
        reconcile::{Action, Settings},
    },
    topology::{Contents, Ready},
    wire::rpc::{Answer, Refusal, Request},
};
use tokio::sync::{mpsc, watch};

use super::{asking::Asking, ground::Ground, store::Store};
use crate::{
    host::words::words,
    machine::{self, Launch, LaunchError, Qemu, Scope, Shim, ShimStatus, Who, process::Process},
};

/// What a guest gets to shut down before QEMU is ended.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How long connections into a machine that a person stops may go on: nobody is led there any more, and what is under
/// way may end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether any is left.
const DRAINED_AGAIN: Duration = Duration::from_millis(250);

/// Between two questions to a shim whether it answers, and how many in a row may go unanswered.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
const SILENCES: u32 = 2;

/// What a task tells the session's loop.
pub enum News {
    /// An order, by its number, was carried out.
    Done(MachineName, u64, Ended),
    /// A shim says something new.
    Told(MachineName, Told),
    /// This shim does not answer.
    Silent(MachineName, Process),
    /// A readiness check answered, under this shim.
    Probed(MachineName, Life, Name, bool),
    /// A fetch has ended.
    Fetched(Digest, Result<(), String>),
}

/// What machines of this host are made with.
#[derive(Clone)]
pub struct Means {
    /// Asks the session's coordinator.
    pub asking: Asking,
    /// The image store.
    pub images: Images,
    /// The local QEMU.
    pub qemu: watch::Receiver<Qemu>,
    /// The zone's name.
    pub zone: String,
    /// The files of machines.
    pub store: Store,
    /// The mesh, which knows whether another computer runs as this host.
    pub mesh: Mesh,
}

/// An order with what is needed to carry it out.
pub struct Work {
    /// What machines are made with.
    pub means: Means,
    /// Where shims live.
    pub host: machine::Host,
    /// The order.
    pub order: Order,
    /// The machine's shim, if one answers.
    pub shim: Option<Shim>,
    /// The machine's directory.
    pub dir: PathBuf,
}

/// How an order went, with the shim that answers now.
pub struct Ended(pub Outcome, pub Option<Shim>);

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Ended {
        Ended(outcome, None)
    }
}

impl Work {
    fn who(&self, epoch: Epoch) -> Who {
        Who { session: self.order.share.session, machine: self.order.machine.clone(), epoch }
    }

    /// The incarnation of the directory.
    fn here(&self) -> Who {
        self.who(self.order.epoch)
    }
}

/// Carries out one order.
pub async fn carry_out(work: Work) -> Ended {
    let done = match work.order.action.clone() {
        Action::Ask(epoch) => ask(&work, epoch).await,
        Action::Launch { epoch, .. } => launch(&work, epoch).await,
        Action::Find { patient } => find(&work, patient).await,
        Action::Stop { because } => stop(&work, &because).await,
        Action::Remove(epoch) => remove(&work, epoch).await,
        Action::ReportDropped(epoch) => report_dropped(&work, epoch).await,
        Action::Fetch | Action::Wait { .. } => Err("this is not an action of a machine".into()),
    };
    done.unwrap_or_else(|because| {
        let Order { share, machine, .. } = &work.order;
        tracing::info!(session = %share.name, %machine, because, "an action failed");
        Outcome::Failed(because).into()
    })
}

/// Asks the coordinator whether this incarnation may start for the first time.
async fn ask(work: &Work, epoch: Epoch) -> Result<Ended, String> {
    let session = work.order.share.session;
    let request = Request::MayStart { session, machine: work.order.machine.clone(), epoch };
    answered(work, work.means.asking.ask(session, request).await)
}

async fn launch(work: &Work, epoch: Epoch) -> Result<Ended, String> {
    let (means, share) = (&work.means, &work.order.share);
    let spec = share.machines.iter().find(|spec| spec.machine == work.order.machine && spec.epoch == epoch);
    let spec = spec.cloned().ok_or("its share does not list it")?;
    if !means.mesh.is_single().await {
        return Err("the agent ends".into());
    }
    let contents = contents(work, &spec).await?;
    let qemu = means.qemu.borrow().usable();
    let qemu = qemu.ok_or("this host has no usable QEMU: agent doctor tells what is missing")?;
    let base = means.images.path(spec.image).ok_or("the image is not here any more")?;
    let launch = Launch {
        session: share.session,
        session_name: share.name.clone(),
        zone: means.zone.clone(),
        subnet: share.directory.subnet,
        spec,
        contents,
        base,
        qemu: (*qemu).clone(),
        boot: machine::process::boot().map_err(|error| format!("the boot id cannot be read: {error}"))?,
    };
    // Not by the level, which its coordinator says: that a session has mandates nobody can take back.
    let own_keys = share.mandate.is_some();
    match machine::launch(&work.host, &work.dir, &launch, own_keys).await {
        Ok(shim) => Ok(answers(shim, Outcome::Launched)),
        Err(error) if error.may_run() => Ok(Outcome::Unseen(words(&error)).into()),
        Err(error) => Err(words(&error)),
    }
}

/// Reads the bytes of a machine's files, all of them: they are on the disk since its share is.
async fn contents(work: &Work, spec: &MachineSpec) -> Result<Contents, String> {
    let (store, session, files) = (work.means.store.clone(), work.order.share.session, spec.files.clone());
    let read = move || {
        let mut contents = Contents::default();
        for file in files {
            let bytes = store.content(session, &file.content);
            let because = |error| format!("the content of {} cannot be read: {error}", file.path);
            contents.add(&bytes.map_err(because)?);
        }
        Ok(contents)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
}

fn answers(shim: Shim, outcome: fn(Settings, Told) -> Outcome) -> Ended {
    let status = shim.status().borrow().clone();
    Ended(outcome(Settings::of(&shim.launch().spec), told(&status)), Some(shim))
}

/// Looks for what may run. Silence that lasted too long is ended, unless it is another directory's, whose
/// agent may live.
async fn find(work: &Work, patient: bool) -> Result<Ended, String> {
    let who = work.here();
    let error = match machine::adopt(&work.host, &work.dir, &who).await {
        Ok(Some(shim)) => return Ok(answers(shim, Outcome::Adopted)),
        Ok(None) => {
            let last = machine::last(&work.host, &work.dir);
            return Ok(Outcome::Gone(last.as_ref().map(told)).into());
        }
        Err(error) => error,
    };
    if patient || matches!(error, LaunchError::Elsewhere { .. }) {
        return Ok(Outcome::Unseen(words(&error)).into());
    }
    match machine::end(&work.host, &work.dir, &who, Scope::Any, true).await {
        Ok(()) => Ok(Outcome::Stopped(None).into()),
        Err(error) => Ok(Outcome::Unseen(words(&error)).into()),
    }
}

async fn stop(work: &Work, because: &str) -> Result<Ended, String> {
    let machine = &work.order.machine;
    tracing::info!(%machine, because, "stopping");
    let who = work.here();
    let found = match &work.shim {
        Some(shim) => Ok(Some(shim.clone())),
        None => machine::adopt(&work.host, &work.dir, &who).await,
    };
    match found {
        Ok(Some(shim)) => {
            if work.order.share.machines.iter().any(|spec| spec.machine == *machine && !spec.run) {
                drained(&shim).await;
            }
            shim.stop(STOP_WITHIN).await.map_err(|error| format!("QEMU does not end: {error}"))?;
            let status = shim.status().borrow().clone();
            Ok(Outcome::Stopped(Some(told(&status))).into())
        }
        Ok(None) => Ok(Outcome::Stopped(None).into()),
        Err(error) => {
            tracing::warn!(%machine, error = words(&error), "it is ended by its processes");
            let ended = machine::end(&work.host, &work.dir, &who, Scope::Any, true).await;
            ended.map(|()| Outcome::Stopped(None).into()).map_err(|error| words(&error))
        }
    }
}

/// Waits until no connection into the guest is left, or long enough.
async fn drained(shim: &Shim) {
    let empty = async {
        while shim.counts().await.is_ok_and(|counts| counts.dials > 0) {
            tokio::time::sleep(DRAINED_AGAIN).await;
        }
    };
    // What is left then ends with the guest.
    tokio::time::timeout(DRAIN_WITHIN, empty).await.ok();
}

async fn remove(work: &Work, epoch: Epoch) -> Result<Ended, String> {
    if let Some(shim) = &work.shim {
        shim.kill().await.map_err(|error| format!("QEMU does not end: {error}"))?;
    }
    let removed = machine::remove(&work.host, &work.dir, &work.who(epoch)).await;
    removed.map_err(|error| {
        tracing::error!(machine = %work.order.machine, error = words(&error), "it cannot be removed");
        words(&error)
    })?;
    Ok(Outcome::Removed.into())
}

async fn report_dropped(work: &Work, epoch: Epoch) -> Result<Ended, String> {
    let session = work.order.share.session;
    // Its files are gone. Whether its processes are, only the computer knows.
    let ended = machine::end(&work.host, &work.dir, &work.who(epoch), Scope::UpTo, false).await;
    ended.map_err(|error| words(&error))?;
    let request = Request::Dropped { session, machine: work.order.machine.clone(), epoch };
    answered(work, work.means.asking.ask(session, request).await)
}

fn answered(work: &Work, answer: Result<Answer, Refusal>) -> Result<Ended, String> {
    match Outcome::answered(&work.order.action, answer) {
        Outcome::Failed(because) => Err(because),
        outcome => Ok(outcome.into()),
    }
}

/// Gives what a shim says as the rules take it: of its times only those of this boot.
pub fn told(status: &ShimStatus) -> Told {
    let boot = machine::process::boot().unwrap_or_default();
    let ended = status.ended.as_ref();
    Told {
        life: status.shim.life(),
        runs: status.since.is_some(),
        began: status.began.as_ref().and_then(|began| began.within(&boot)),
        booted: status.booted,
        v6: status.v6,
        setup: status.setup.clone(),
        paused: status.paused.clone(),
        ended: ended.map(|end| Ending { asked: end.asked, clean: end.clean, because: end.reason.clone() }),
    }
}

/// Fetches an image from the members that hold it, and tells how it ended. Goes on for as long as it
/// takes: holders come and go.
pub async fn fetch(
    (ground, store): (Ground, Images),
    (digest, size): (Digest, u64),
    news: mpsc::Sender<News>,
) {
    let picture = ground.picture();
    let known = images::all(&picture).into_iter().find(|image| image.facts.digest == digest);
    let arch = known.map_or_else(|| std::env::consts::ARCH.to_owned(), |image| image.facts.arch);
    let wanted = WantedImage { digest, size, arch, names: images::names(&picture, digest) };
    let (telling, watched) = watch::channel(holders(&picture, digest));
    let endpoint = ground.mesh.endpoint();
    let fetching = AssertUnwindSafe(store.ensure(&wanted, watched, &endpoint)).catch_unwind();
    let ended = tokio::select! {
        ended = fetching => match ended {
            Ok(ended) => ended.map(|_| ()).map_err(|error| words(&error)),
            Err(_) => Err("the agent failed: see its log".to_owned()),
        },
        never = keep_holders(&ground, digest, telling) => match never {},
        // Dropping the fetch keeps what came; the next agent goes on.
        () = ground.stop.cancelled() => return,
    };
    // The loop has ended with the session.
    let _heard = news.send(News::Fetched(digest, ended)).await;
}

/// Tells a fetch who has the image, whenever that changes.
async fn keep_holders(ground: &Ground, digest: Digest, telling: watch::Sender<Vec<Holder>>) -> Infallible {
    // A host that is heard again or reached another way may be a better holder.
    let of = move |change: &Change| matches!(change, Change::Host(_)) || *change == Change::Image(digest);
    let wakes = ground.pictures.wakes(of);
    loop {
        let now = holders(&ground.picture(), digest);
        telling.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        wakes.changed().await;
    }
}

/// Lists the other members that have an image or part of it, as the image store knows them.
fn holders(picture: &Picture, digest: Digest) -> Vec<Holder> {
    let holder = |holding: images::Holding| {
        Some(Holder {
            id: mesh::identity::endpoint_id(&holding.host)?,
            name: holding.name,
            complete: holding.complete,
            direct: holding.direct,
            rtt_ms: holding.rtt_ms,
        })
    };
    images::holdings(picture, digest).into_iter().filter_map(holder).collect()
}

/// Passes on that the shim says something new, until it has said how QEMU ended.
pub async fn follow(shim: Shim, machine: MachineName, news: mpsc::Sender<News>) {
    let mut status = shim.status();
    loop {
        let told = told(&status.borrow_and_update());
        let ended = told.ended.is_some();
        if news.send(News::Told(machine.clone(), told)).await.is_err() || ended {
            return;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Asks the shim again and again whether it answers; tells when it does not, twice in a row.
pub async fn listen(shim: Shim, machine: MachineName, news: mpsc::Sender<News>) {
    let mut silences = 0;
    while silences < SILENCES {
        pause(LISTEN_AGAIN).await;
        silences = if shim.answers().await { 0 } else { silences + 1 };
    }
    let process = shim.status().borrow().shim.clone();
    // The loop has ended with the session.
    let _heard = news.send(News::Silent(machine, process)).await;
}

/// Asks one service of a machine again and again whether it is ready.
pub async fn check(
    (shim, machine): (Shim, MachineName),
    (service, port, ready): (Name, u16, Ready),
    news: mpsc::Sender<News>,
) {
    let mut status = shim.status();
    if status.wait_for(|status| status.booted).await.is_err() {
        return;
    }
    let life: Life = status.borrow().shim.life();
    let mut last = None;
    // A machine that is not ready is asked more often: people wait for it.
    let soon = Duration::from_millis(ready.interval_ms.min(500));
    let later = Duration::from_millis(ready.interval_ms);
    loop {
        let passed = machine::probe::ready(&shim, port, &ready.probe).await;
        if last.replace(passed) != Some(passed) {
            let news_of = News::Probed(machine.clone(), life, service.clone(), passed);
            if news.send(news_of).await.is_err() {
                return;
            }
        }
        pause(if passed { later } else { soon }).await;
    }
}

async fn pause(pause: Duration) {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    mesh::Clock.sleep_until(mesh::Clock.moment().plus_ms(millis)).await;
}
