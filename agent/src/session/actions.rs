//! What a host does for one machine, one function an action. Each may be repeated after a crash and
//! says how it went; none decides what comes next.

use std::{panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use proto::{
    id::{Digest, Epoch, MachineName, Name},
    session::{MachineSpec, Share, reconcile::Action},
    topology::Ready,
    wire::rpc::{Answer, Request},
};
use tokio::sync::{mpsc, watch};

use super::{
    host::{self, News},
    hub::Hub,
    inventory,
};
use crate::machine::{self, Launch, LaunchError, Scope, Shim, ShimStatus, Who};

/// What a guest gets to shut down before QEMU is ended.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Between two questions to a shim whether it answers, and how many in a row may go unanswered.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
const SILENCES: u32 = 2;

/// One action with everything it needs.
pub struct Order {
    /// Everything that tasks share.
    pub hub: Hub,
    /// Where shims live.
    pub host: machine::Host,
    /// The share that asks for it.
    pub share: Arc<Share>,
    /// The machine as the share wants it; `None` = only drops speak of it.
    pub spec: Option<MachineSpec>,
    /// Its shim, if one lives.
    pub shim: Option<Shim>,
    /// Its directory.
    pub dir: PathBuf,
    /// The machine.
    pub machine: MachineName,
    /// The incarnation that its directory is of, as far as anybody knows.
    pub epoch: Option<Epoch>,
}

impl Order {
    fn who(&self, epoch: Epoch) -> Who {
        Who { session: self.share.session, machine: self.machine.clone(), epoch }
    }

    /// The incarnation of the directory, else the one that the share wants.
    fn here(&self) -> Who {
        let wanted = self.spec.as_ref().map(|spec| spec.epoch);
        self.who(self.epoch.or(wanted).unwrap_or_default())
    }
}

/// How an action went.
pub enum Outcome {
    /// It did not work; why.
    Failed(String),
    /// The coordinator allows the first start.
    Granted(Epoch),
    /// QEMU is being started by this shim.
    Launched(Shim),
    /// It runs already: this shim answers.
    Adopted(Shim),
    /// It may run, and nobody answers for it; what was seen.
    Unseen(String),
    /// It was looked for, and nothing of it runs.
    Gone,
    /// QEMU is gone; its last status, if there was a shim.
    Stopped(Option<Box<ShimStatus>>),
    /// Nothing of it is left on the disk.
    Removed,
    /// The coordinator knows that it is gone.
    Reported,
}

/// Carries out one action.
pub async fn carry_out(order: Order, action: Action) -> Outcome {
    let done = match action {
        Action::Ask(epoch) => ask(&order, epoch).await,
        Action::Launch { epoch, .. } => launch(&order, epoch).await,
        Action::Find { patient } => find(&order, patient).await,
        Action::Stop { because } => stop(&order, &because).await,
        Action::Remove(epoch) => remove(&order, epoch).await,
        Action::ReportDropped(epoch) => report_dropped(&order, epoch).await,
        Action::Fetch | Action::Wait { .. } => Err("this is not an action of a machine".into()),
    };
    done.unwrap_or_else(|because| {
        tracing::info!(session = %order.share.name, machine = %order.machine, because, "an action failed");
        Outcome::Failed(because)
    })
}

async fn ask(order: &Order, epoch: Epoch) -> Result<Outcome, String> {
    let granted = host::may_start(&order.hub, order.share.session, &order.machine, epoch).await?;
    if granted {
        Ok(Outcome::Granted(epoch))
    } else {
        Err("the coordinator does not list this incarnation".into())
    }
}

async fn launch(order: &Order, epoch: Epoch) -> Result<Outcome, String> {
    let deps = order.hub.deps();
    let spec = order.spec.clone().filter(|spec| spec.epoch == epoch).ok_or("the share changed meanwhile")?;
    let qemu = deps.qemu.borrow().usable();
    let qemu = qemu.ok_or("this host has no usable QEMU: agent doctor tells what is missing")?;
    let base = deps.images.path(spec.image).ok_or("the image is not here any more")?;
    let launch = Launch {
        session: order.share.session,
        session_name: order.share.name.clone(),
        zone: deps.zone.clone(),
        subnet: order.share.directory.subnet,
        spec,
        base,
        qemu: (*qemu).clone(),
        boot: machine::process::boot().map_err(|error| format!("the boot id cannot be read: {error}"))?,
    };
    match machine::launch(&order.host, &order.dir, &launch).await {
        Ok(shim) => Ok(Outcome::Launched(shim)),
        Err(error) if error.may_run() => Ok(Outcome::Unseen(words(&error))),
        Err(error) => Err(words(&error)),
    }
}

/// Looks for what may run. Silence that lasted too long is ended, unless it is another directory's, whose
/// agent may live.
async fn find(order: &Order, patient: bool) -> Result<Outcome, String> {
    let who = order.here();
    let error = match machine::adopt(&order.host, &order.dir, &who).await {
        Ok(Some(shim)) => return Ok(Outcome::Adopted(shim)),
        Ok(None) => return Ok(Outcome::Gone),
        Err(error) => error,
    };
    if patient || matches!(error, LaunchError::Elsewhere { .. }) {
        return Ok(Outcome::Unseen(words(&error)));
    }
    match machine::end(&order.host, &order.dir, &who, Scope::Any, true).await {
        Ok(()) => Ok(Outcome::Stopped(None)),
        Err(error) => Ok(Outcome::Unseen(words(&error))),
    }
}

async fn stop(order: &Order, because: &str) -> Result<Outcome, String> {
    tracing::info!(machine = %order.machine, because, "stopping");
    let who = order.here();
    let found = match &order.shim {
        Some(shim) => Ok(Some(shim.clone())),
        None => machine::adopt(&order.host, &order.dir, &who).await,
    };
    match found {
        Ok(Some(shim)) => {
            shim.stop(STOP_WITHIN).await.map_err(|error| format!("QEMU does not end: {error}"))?;
            let status = shim.status().borrow().clone();
            Ok(Outcome::Stopped(Some(Box::new(status))))
        }
        Ok(None) => Ok(Outcome::Stopped(None)),
        Err(error) => {
            tracing::warn!(machine = %order.machine, error = words(&error), "it is ended by its processes");
            let ended = machine::end(&order.host, &order.dir, &who, Scope::Any, true).await;
            ended.map(|()| Outcome::Stopped(None)).map_err(|error| words(&error))
        }
    }
}

async fn remove(order: &Order, epoch: Epoch) -> Result<Outcome, String> {
    if let Some(shim) = &order.shim {
        shim.kill().await.map_err(|error| format!("QEMU does not end: {error}"))?;
    }
    let removed = machine::remove(&order.host, &order.dir, &order.who(epoch)).await;
    removed.map_err(|error| words(&error))?;
    Ok(Outcome::Removed)
}

async fn report_dropped(order: &Order, epoch: Epoch) -> Result<Outcome, String> {
    let session = order.share.session;
    // Its files are gone. Whether its processes are, only the computer knows.
    let ended = machine::end(&order.host, &order.dir, &order.who(epoch), Scope::UpTo, false).await;
    ended.map_err(|error| words(&error))?;
    let request = Request::Dropped { session, machine: order.machine.clone(), epoch };
    match order.hub.ask(session, request).await {
        Ok(Answer::Done) => Ok(Outcome::Reported),
        Ok(answer) => Err(format!("the coordinator answered something else: {answer:?}")),
        Err(refusal) => Err(host::in_words(&refusal)),
    }
}

/// Fetches an image from the members that hold it, and tells how it ended. Goes on for as long as it
/// takes: holders come and go.
pub async fn fetch(hub: Hub, digest: Digest, size: u64, news: mpsc::Sender<News>) {
    let known = inventory::images(&hub).into_iter().find(|image| image.facts.digest == digest);
    let arch = known.map_or_else(|| std::env::consts::ARCH.to_owned(), |image| image.facts.arch);
    let wanted = images::Wanted { digest, size, arch, names: inventory::names(&hub, digest) };
    let (holders, watched) = watch::channel(inventory::holders(&hub, digest));
    let endpoint = hub.deps().mesh.endpoint();
    let fetching = AssertUnwindSafe(hub.deps().images.ensure(&wanted, watched, &endpoint)).catch_unwind();
    let ended = tokio::select! {
        ended = fetching => match ended {
            Ok(ended) => ended.map(|_| ()).map_err(|error| words(&error)),
            Err(_) => Err("the agent failed: see its log".to_owned()),
        },
        () = keep_holders(&hub, digest, holders) => Err("the mesh ended".to_owned()),
        // Dropping the fetch keeps what came; the next agent goes on.
        () = hub.deps().stop.cancelled() => return,
    };
    // The loop has ended with the session.
    let _heard = news.send(News::Fetched(digest, ended)).await;
}

/// Tells a fetch who has the image, whenever that changes.
async fn keep_holders(hub: &Hub, digest: Digest, holders: watch::Sender<Vec<images::Holder>>) {
    let (mut records, mut members) = (hub.deps().mesh.records(), hub.deps().mesh.members());
    loop {
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = members.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = inventory::holders(hub, digest);
        holders.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

/// Wakes the loop whenever the shim says something new.
pub async fn follow(shim: Shim, news: mpsc::Sender<News>) {
    let mut status = shim.status();
    while status.changed().await.is_ok() {
        if news.send(News::Shim).await.is_err() || status.borrow().ended.is_some() {
            return;
        }
    }
}

/// Asks the shim again and again whether it answers; tells when it does not, twice in a row.
pub async fn listen(shim: Shim, machine: MachineName, news: mpsc::Sender<News>) {
    let mut silences = 0;
    while silences < SILENCES {
        tokio::time::sleep(LISTEN_AGAIN).await;
        silences = if shim.answers().await { 0 } else { silences + 1 };
    }
    let process = shim.status().borrow().shim.clone();
    // The loop has ended with the session.
    let _heard = news.send(News::Silent(machine, process)).await;
}

/// Asks one service of a machine again and again whether it is ready.
pub async fn check(
    shim: Shim,
    machine: MachineName,
    service: Name,
    port: u16,
    ready: Ready,
    news: mpsc::Sender<News>,
) {
    let mut status = shim.status();
    if status.wait_for(|status| status.booted).await.is_err() {
        return;
    }
    let mut last = None;
    // A machine that is not ready is asked more often: people wait for it.
    let soon = Duration::from_millis(ready.interval_ms.min(500));
    let later = Duration::from_millis(ready.interval_ms);
    loop {
        let passed = machine::probe::ready(&shim, port, &ready.probe).await;
        if last.replace(passed) != Some(passed)
            && news.send(News::Probed(machine.clone(), service.clone(), passed)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(if passed { later } else { soon }).await;
    }
}

/// Writes an error with its causes in one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
