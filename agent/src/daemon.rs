//! The daemon: builds every subsystem in order, runs their tasks, and ends them in reverse when it is
//! told to. Machines run on; the next daemon finds them. Nothing is decided here.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use images::Images;
use mesh::{Handlers, Inbound, Joined, Joining, Ports, RaftInbound};
use proto::{
    facts::Fact,
    id::Name,
    reasons::Code,
    trust::JoinRefusal,
    wire::api::{self, Error, Kind},
};
use rustix::fs::Mode;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::forward::{self, Forwards},
    app::{App, Parts},
    config::Config,
    dns::{
        self,
        zone::{self, Zones},
    },
    facts,
    host::{data::DataDir, disk, limits, log, runtime},
    machine::Qemu,
    picture,
    session::{
        actions::words,
        hub::{Deps, Hub},
        requests,
        store::Store,
    },
};

mod about;
pub(crate) mod follow;

/// Requests of members that wait for a free hand; the mesh holds further ones back.
const INBOX: usize = 64;
/// Requests that are answered at once.
const HANDS: usize = 64;
/// Facts that a slow recorder may lag behind.
const FACTS: usize = 1024;
/// Between two tries of a join that found no issuer.
const JOIN_AGAIN: Duration = Duration::from_secs(5);
/// What each of the six stages of an orderly end may take: 15 s in all. A stage that does not end in
/// time is left behind; what is on disk is whole at every moment.
const STAGE: Duration = Duration::from_millis(2500);
/// How long the first picture may take: one turn of a task.
const SHOWN: Duration = Duration::from_secs(5);
/// How often idle forwards are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// What `agent run` was asked for.
#[derive(Debug)]
pub struct Run {
    /// Where everything is kept.
    pub data: DataDir,
    /// The settings.
    pub config: Config,
    /// A token to join with first, and the name to take.
    pub join: Option<api::JoinRequest>,
}

type Answer<T> = Result<T, Error>;

fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Failed, "the agent cannot run").because(words(error)).next("agent doctor")
}

/// Takes the data directory for this process, or says who has it.
fn take(data: &DataDir) -> Answer<disk::Lock> {
    let taken = disk::open(data).and_then(|()| disk::Lock::take(data));
    taken.map_err(|error| {
        let what = "the data directory cannot be used";
        Error::new(Kind::Failed, what).because(words(&error)).next(error.next())
    })
}

/// Makes a mesh of one host in `data`, without a daemon. It is told before it is made: when that fails,
/// there is none.
pub fn init(
    data: &DataDir,
    name: Name,
    mesh: Name,
    tags: BTreeMap<String, String>,
    tell: impl FnOnce(&api::Initialised) -> Answer<()>,
) -> Answer<api::Initialised> {
    let what = "no mesh was made";
    if mesh::identity::exists(data.path()) {
        return Err(Error::new(Kind::Refused, what)
            .because(format!("{} belongs to a mesh already", data.path().display()))
            .next("agent status, or use another --data-dir"));
    }
    let _lock = take(data)?;
    let founding = mesh::Founding { name: name.clone(), mesh_name: mesh.clone(), tags, recovery: None };
    let failed = |error: mesh::IdentityError| {
        Error::new(Kind::Failed, what).because(words(&error)).next("agent doctor")
    };
    let prepared = mesh::identity::prepare(data.path(), founding, mesh::Clock.timestamp()).map_err(failed)?;
    let identity = prepared.identity();
    let made = api::Initialised {
        mesh: api::MeshRef { id: identity.mesh, name: mesh.to_string() },
        host: api::HostRef { id: identity.host(), name: name.to_string() },
        recovery: prepared.recovery(),
    };
    tell(&made)?;
    prepared.commit().map_err(failed)?;
    Ok(made)
}

/// Joins a mesh without a daemon.
pub async fn join(data: &DataDir, request: api::JoinRequest) -> Answer<api::Joined> {
    let _lock = take(data)?;
    if mesh::identity::exists(data.path()) {
        return join_again(data, &request);
    }
    join_locked(data, &request).await
}

/// Writes down what a token of this host's own mesh tells of members, for the next start.
fn join_again(data: &DataDir, request: &api::JoinRequest) -> Answer<api::Joined> {
    let token = request.token.parse().map_err(mesh::MeetError::from);
    let noted = token.and_then(|token| mesh::note(data.path(), &token)).map_err(|error| {
        Error::new(Kind::Refused, "this host did not join").because(words(&error)).next("agent status")
    })?;
    let silent = noted.members.iter().map(Name::to_string).collect();
    Ok(api::Joined {
        mesh: api::MeshRef {
            id: noted.identity.mesh,
            name: noted.mesh_name.map_or_else(String::new, |name| name.to_string()),
        },
        host: api::HostRef { id: noted.identity.host(), name: noted.name.to_string() },
        by: None,
        again: Some(api::Again { tried: false, reached: Vec::new(), silent }),
    })
}

async fn join_locked(data: &DataDir, request: &api::JoinRequest) -> Answer<api::Joined> {
    let what = "this host did not join";
    let name = request.name.clone().or_else(crate::cli::hostname).ok_or_else(|| {
        Error::new(Kind::Usage, "this host needs a name")
            .because(crate::cli::no_name())
            .next("agent join TOKEN --name NAME")
    })?;
    let joining = Joining {
        data: data.path().to_owned(),
        token: request.token.clone(),
        name: name.clone(),
        // Any pair will do for one join; the first start of the agent chooses for good.
        ports: Ports::Fixed(mesh::FIRST_PORT),
    };
    match mesh::join(joining).await {
        Ok(Joined::Member { identity, mesh_name }) => Ok(api::Joined {
            mesh: api::MeshRef {
                id: identity.mesh,
                name: mesh_name.map_or_else(String::new, |name| name.to_string()),
            },
            host: api::HostRef { id: identity.host(), name: name.to_string() },
            by: None,
            again: None,
        }),
        Ok(Joined::Pending { issuers }) => {
            let names: Vec<&str> = issuers.iter().map(Name::as_str).collect();
            Err(Error::new(Kind::TimedOut, "the join is pending")
                .because(format!("members answer, but no issuer can be reached: {}", names.join(", ")))
                .next("agent run, which tries again until one of them is back"))
        }
        Err(error) => {
            let (kind, next) = match &error {
                mesh::JoinError::Unreachable(_) | mesh::JoinError::Bind(_) => {
                    (Kind::Failed, "check that the host that made the token runs and can be reached")
                }
                mesh::JoinError::Identity(mesh::IdentityError::Exists) => (Kind::Refused, "agent status"),
                mesh::JoinError::Refused(JoinRefusal::NameTaken(_)) => {
                    (Kind::Refused, "agent join TOKEN --name OTHER")
                }
                _ => (Kind::Refused, "ask for a new one: agent token create"),
            };
            let why = match &error {
                mesh::JoinError::Refused(refusal) => Some(Box::new(Code::of(refusal))),
                _ => None,
            };
            Err(Error { why, ..Error::new(kind, what).because(words(&error)).next(next) })
        }
    }
}

/// Runs the daemon until it is told to stop; machines go on running.
pub async fn run(run: Run) -> Answer<()> {
    // Whatever is written below the data directory is the owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let data = run.data.clone();
    let _lock = take(&data)?;
    run_locked(run).await.map_err(|error| with_disk(&data, error))
}

/// Adds to a failure what is wrong with the disk, if something is: most likely it is the reason.
fn with_disk(data: &DataDir, error: Error) -> Error {
    let Some(trouble) = disk::look(data) else { return error };
    let because = error.because.iter().cloned().chain([disk::line(&trouble)]).collect::<Vec<_>>().join("; ");
    let told = Error::new(error.kind, &error.what).because(because);
    trouble.next.into_iter().fold(told, |told, next| told.next(next))
}

async fn run_locked(run: Run) -> Answer<()> {
    let Run { data, config, join } = run;
    let stop = stop_signal().map_err(|error| failed(&error))?;
    let shares = limits::shares();
    if let Some(request) = member(&data, join)? {
        tokio::select! {
            joined = join_until_member(&data, request) => joined?,
            () = stop.cancelled() => return Ok(()),
        }
    }
    let identity = mesh::identity::load(data.path()).map_err(|error| failed(&error))?;
    let (facts, heard) = broadcast::channel(FACTS);
    let images =
        Images::open(&data.path().join("images"), facts.clone()).await.map_err(|error| failed(&error))?;
    let (requests, inbox) = mpsc::channel(INBOX);
    let (raft, raft_inbox) = mpsc::channel(INBOX);
    let handlers = Handlers { extra: vec![(iroh_blobs_alpn(), Box::new(images.protocol()))], requests, raft };
    let (offer, offered) = watch::channel(false);
    let (qemu_found, qemu) = watch::channel(Qemu::default());
    let about = about::gather(&config, &data, None, &BTreeMap::new()).await;
    let mesh_config = mesh::Config { ports: Ports::Fixed(config.listen_port), serve: serve(&config), about };
    let (mesh, run_mesh) =
        mesh::build(mesh_config, identity, handlers, facts.clone()).await.map_err(|error| failed(&error))?;
    let (log, recorder) = facts::open(&data.facts(), &mesh.name()).map_err(|error| failed(&error))?;
    let recorded = CancellationToken::new();
    let recorder = tokio::spawn(recorder.run(heard, || mesh::Clock.timestamp(), recorded.clone()));
    let net = mesh.net();
    let mut mesh_task = tokio::spawn(run_mesh);

    let run_dir = data.run().map_err(|error| failed(&error))?;
    keep_runtime(&run_dir, &data);
    let mut tasks = JoinSet::new();
    let (pictures, own, run_picture) = picture::build(&mesh, images.watch(), stop.clone());
    tasks.spawn(core("picture", run_picture));
    let (dial, targets) = (dialer(&net), zone::targets(&pictures));
    let forwards = Forwards::new(mesh.me(), data.path().join("forward.json"), dial, targets, shares);
    let zone_name = config.dns.zone.clone();
    let zones = Zones::new(zone_name.clone(), pictures.clone(), mesh.interfaces(), forwards.clone());
    let deps = Deps {
        mesh: mesh.clone(),
        pictures: pictures.clone(),
        own,
        images: images.clone(),
        net: net.clone(),
        facts: facts.clone(),
        qemu,
        offered,
        store: Store::open(data.path().join("sessions")).map_err(|error| failed(&error))?,
        run: run_dir.clone(),
        zone: zone_name.clone(),
        resolve: zones.resolve(),
        stop: stop.clone(),
    };
    let hub = Hub::open(deps).await.map_err(|error| failed(&error))?;
    // Whoever asks the local API first sees every session of this host.
    let kept = hub.shares().borrow().clone();
    pictures.until(|_| true, SHOWN, |picture| picture.shares == kept).await;
    let bound = dns::bind(&data.path().join("dns.port"), config.dns.port).await;
    let bound = bound.inspect_err(|error| tracing::error!(%error, "names are not served on this host")).ok();
    let app = App::new(Parts {
        data: data.clone(),
        facts: log,
        hub: hub.clone(),
        forwards: forwards.clone(),
        dns: bound.as_ref().map(|bound| bound.address),
        started: Instant::now(),
    });
    let listener = crate::api::listen(&data.socket()).map_err(|error| failed(&error))?;

    let mesh_name = mesh.mesh_name().map_or_else(|| "?".to_owned(), |name| name.to_string());
    let name = mesh.name();
    log::say(&format!("{name} runs in the mesh {mesh_name}; Ctrl-C ends the agent, machines run on"));
    let kind = |fact: Fact| facts.send(fact).ok();
    kind(Fact::AgentStarted { version: env!("CARGO_PKG_VERSION").to_owned() });
    tasks.spawn(core("requests", answer_requests(hub.clone(), inbox)));
    tasks.spawn(core("raft messages", answer_raft(hub.clone(), raft_inbox)));
    tasks.spawn(core("zone", zones.clone().run(stop.clone())));
    tasks.spawn(core("images", follow::images(hub.clone())));
    let found = about::Found { qemu: qemu_found, offered: offer };
    tasks.spawn(core("host record", about::keep(hub.clone(), config.clone(), data.clone(), found)));
    tasks.spawn(core("forwards", sweep(forwards, stop.clone())));
    if let Some(bound) = bound {
        let serve = dns::serve(bound, zone_name, zones.resolve(), shares.names, stop.clone());
        tasks.spawn(core("names", serve));
    }
    let routes = crate::api::router(app);
    let served = crate::api::serve(listener, shares.api, routes, stop.clone().cancelled_owned());
    tasks.spawn(core(
        "local API",
        served.map(|served| served.unwrap_or_else(|error| tracing::error!(%error, "the local API ended"))),
    ));

    // Cancel-safe: a token, a handle that is not polled again once it is ready, a join set. The token comes first:
    // once it is cancelled, parts that end do so because they were told to.
    let early = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        ended = &mut mesh_task => Some(match ended {
            Ok(Ok(())) => Ended("mesh").into(),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }),
        Some(ended) = tasks.join_next() => Some(match ended {
            Ok(part) => Ended(part).into(),
            Err(error) => failed(&error),
        }),
    };
    stop.cancel();
    kind(Fact::AgentStopped);
    stage("tasks", async { while tasks.join_next().await.is_some() {} }).await;
    tasks.abort_all();
    stage("sessions", hub.drained()).await;
    stage("logs", hub.close_groups()).await;
    net.shutdown();
    if !mesh_task.is_finished() {
        stage("mesh", mesh.shutdown()).await;
    }
    stage("images", async {
        if let Err(error) = images.shutdown().await {
            tracing::warn!(%error, "the image store did not close");
        }
    })
    .await;
    recorded.cancel();
    stage("facts", recorder.map(drop)).await;
    std::fs::remove_file(data.socket()).ok();
    // Unless machines run on, nothing of this host stays outside its data directory.
    runtime::leave(&run_dir);
    early.map_or(Ok(()), Err)
}

/// Says whose the runtime directory is, and removes those that are nobody's any more.
fn keep_runtime(run: &Path, data: &DataDir) {
    if let Err(error) = runtime::claim(run, data.path()) {
        tracing::warn!(path = %run.display(), %error, "it does not say whose it is");
    }
    for gone in runtime::sweep(run) {
        tracing::info!(path = %gone.display(), "removed: its data directory is gone");
    }
}

/// A part without which the agent is half an agent ended, although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("its {0} ended by itself")]
struct Ended(&'static str);

impl From<Ended> for Error {
    fn from(ended: Ended) -> Error {
        failed(&ended)
    }
}

/// Names a task of the core. One that ends, or panics, before the agent is told to stop ends the agent:
/// whoever supervises it starts it again whole.
async fn core(name: &'static str, run: impl Future<Output = ()>) -> &'static str {
    run.await;
    name
}

/// Ends one part, within its time.
async fn stage(what: &str, end: impl Future<Output = ()>) {
    if tokio::time::timeout(STAGE, end).await.is_err() {
        tracing::warn!("{what} did not end in time");
    }
}

/// Gives the join that must come first, if any; without identity and token there is nothing to run.
fn member(data: &DataDir, join: Option<api::JoinRequest>) -> Answer<Option<api::JoinRequest>> {
    if mesh::identity::exists(data.path()) {
        // The command line of a service stays when its token ends: it never keeps a member from running.
        match join.map(|request| join_again(data, &request)) {
            Some(Ok(joined)) => log::say(&crate::cli::joined_again(&joined)),
            Some(Err(error)) => {
                log::say(&format!("--join is passed over: {}", error.because.unwrap_or(error.what)));
            }
            None => {}
        }
        return Ok(None);
    }
    let kept = || mesh::identity::pending(data.path());
    let pending = || kept().map(|(token, name)| api::JoinRequest { token, name: Some(name) });
    join.or_else(pending).map(Some).ok_or_else(|| {
        Error::new(Kind::Failed, "the agent cannot run")
            .because(format!("{} belongs to no mesh yet", data.path().display()))
            .next("agent init --name NAME    or agent join TOKEN")
    })
}

/// Tries again while members answer and no issuer does; every other failure ends it.
async fn join_until_member(data: &DataDir, request: api::JoinRequest) -> Answer<()> {
    loop {
        match join_locked(data, &request).await {
            Ok(joined) => {
                log::say(&format!("joined the mesh {} as {}", joined.mesh.name, joined.host.name));
                return Ok(());
            }
            Err(error) if error.kind == Kind::TimedOut => {
                log::say(&format!("{error}: {}", error.because.as_deref().unwrap_or_default()));
                tokio::time::sleep(JOIN_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Turns SIGINT and SIGTERM into a token.
fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

fn serve(config: &Config) -> mesh::Serve {
    match config.relay.serve {
        None => mesh::Serve::Auto,
        Some(true) => mesh::Serve::On,
        Some(false) => mesh::Serve::Off,
    }
}

fn iroh_blobs_alpn() -> Vec<u8> {
    images::ALPN.to_vec()
}

/// Opens streams into machines for the forwards of this host.
fn dialer(net: &mesh::net::Net) -> forward::Dial {
    let net = net.clone();
    Arc::new(move |session, machine, port| {
        let net = net.clone();
        Box::pin(async move {
            let stream = net.dial(session, &machine, port).await.map_err(std::io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn mesh::net::End>)
        })
    })
}

pub(crate) async fn answer_requests(hub: Hub, mut inbox: mpsc::Receiver<Inbound>) {
    let hands = Arc::new(Semaphore::new(HANDS));
    let stop = hub.deps().stop.clone();
    while let Some(Some(Inbound { from, request, answer })) = stop.run_until_cancelled(inbox.recv()).await {
        let Ok(hand) = hands.clone().acquire_owned().await else { return };
        let hub = hub.clone();
        tokio::spawn(async move {
            // The asker may be gone.
            answer.send(requests::answer(&hub, from, request).await).ok();
            drop(hand);
        });
    }
}

pub(crate) async fn answer_raft(hub: Hub, mut inbox: mpsc::Receiver<RaftInbound>) {
    let hands = Arc::new(Semaphore::new(HANDS));
    let stop = hub.deps().stop.clone();
    while let Some(Some(inbound)) = stop.run_until_cancelled(inbox.recv()).await {
        let RaftInbound { from, session, frame, answer } = inbound;
        // A session that this host does not store: silence, as if it were away.
        let Some(group) = hub.group(session).filter(|_| hub.has_voice(session, from)) else { continue };
        let Ok(hand) = hands.clone().acquire_owned().await else { return };
        tokio::spawn(async move {
            answer.send(group.handle(from, &frame).await).ok();
            drop(hand);
        });
    }
}

async fn sweep(forwards: Forwards, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
        forwards.sweep(Instant::now());
    }
}

/// Reads how much is free below a path, in MiB.
pub fn free_mib(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20)
}
