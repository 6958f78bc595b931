//! Puts the subsystems of an agent together, in order, and ends them in reverse. Nothing outside the process is
//! touched but the data directory and the mesh's own ports: signals, the local API, names and the proof of QEMU are
//! the daemon's. Tests build their hosts with it, too. Nothing is decided here.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use images::Images;
use mesh::{Handlers, Incoming, Mesh, MeshError, RaftInbound};
use proto::{facts::Fact, run::host::Owner, topology::Protocol, wire::api::Error};
use tokio::{
    sync::{Semaphore, broadcast, mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{ApiResult, about, failed, follow, no_mesh};
use crate::{
    access::{
        balance::{Dial, Reach, Ways},
        forward::Forwards,
        interface,
        lan::Lan,
        published::Publisher,
    },
    app::{self, App, Served},
    dns::zone::{self, Zones},
    facts,
    host::{data::DataDir, limits},
    machine::Qemu,
    picture::{self, Pictures},
    session::{
        ground::Ground,
        ports::ForMembers,
        sessions::{self, Sessions},
        store::Store,
    },
};

/// Requests of members that wait for a free hand; the mesh holds further ones back.
const INBOX: usize = 64;
/// Requests that are answered at once.
const HANDS: usize = 64;
/// Facts that a slow recorder may lag behind.
const FACTS: usize = 1024;
/// What each of the six stages of an orderly end may take: 15 s in all. A stage that does not end in
/// time is left behind; what is on disk is whole at every moment.
const STAGE: Duration = Duration::from_millis(2500);
/// How long the mesh's goodbye may take, when it ends by itself.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long the first picture may take: one turn of a task.
const SHOWN: Duration = Duration::from_secs(5);

/// What an agent is put together from.
pub(crate) struct Parts {
    /// Where everything is kept.
    pub data: DataDir,
    /// What the mesh is told.
    pub mesh: mesh::Config,
    /// The zone's name.
    pub zone: String,
    /// Where sockets go.
    pub run: PathBuf,
    /// What this host's owner allows machines.
    pub owner: Owner,
    /// The local QEMU.
    pub qemu: watch::Receiver<Qemu>,
    /// Whether gossip knows by now what this host offers.
    pub offered: watch::Receiver<bool>,
    /// Ends every task; machines run on.
    pub stop: CancellationToken,
}

/// An agent that runs.
pub(crate) struct Built {
    /// The mesh.
    pub mesh: Mesh,
    /// Everything that this host keeps of sessions.
    pub sessions: Sessions,
    /// What this host knows now.
    pub pictures: Pictures,
    /// How this host's programs reach groups.
    pub forwards: Forwards,
    /// What this host publishes.
    pub publisher: Publisher,
    /// What it publishes in its own network.
    pub lan: Lan,
    /// What names are answered from.
    pub zones: Zones,
    /// Where facts go.
    pub facts: broadcast::Sender<Fact>,
    /// What this host's own interface leads to.
    pub interface: watch::Sender<interface::Shown>,
    /// Parts without which the agent is half an agent.
    pub tasks: JoinSet<&'static str>,
    /// Whether it ended because another computer runs as this host.
    pub stood_down: bool,
    /// Ends every task; machines run on.
    pub stop: CancellationToken,
    data: DataDir,
    images: Images,
    qemu: watch::Receiver<Qemu>,
    run: PathBuf,
    zone: String,
    log: facts::Log,
    recorder: Recording,
    running: JoinHandle<Result<(), MeshError>>,
}

/// Puts the subsystems together and starts their tasks.
pub(crate) async fn build(parts: Parts) -> ApiResult<Built> {
    let Parts { data, mesh, zone, run, owner, qemu, offered, stop } = parts;
    let identity = mesh::identity::load(data.path()).map_err(|error| failed(&error))?;
    let (facts, heard) = broadcast::channel(FACTS);
    let images = Images::open(&data.path().join("images"), facts.clone()).await;
    let images = images.map_err(|error| failed(&error))?;
    let ((requests, inbox), (raft, raft_inbox)) = (mpsc::channel(INBOX), mpsc::channel(INBOX));
    let extra = vec![(images::ALPN.to_vec(), Box::new(images.protocol()) as _)];
    let handlers = Handlers { extra, requests, raft };
    let (mesh, running) =
        mesh::build(mesh, identity, handlers, facts.clone()).await.map_err(|error| no_mesh(&error))?;
    let (log, recorder) = facts::open(&data.facts(), &mesh.name()).map_err(|error| failed(&error))?;
    let (recorder, net, running) = (Recording::begin(recorder, heard), mesh.net(), tokio::spawn(running));

    let mut tasks = JoinSet::new();
    let (pictures, own, run_picture) = picture::build(&mesh, images.watch(), stop.clone());
    tasks.spawn(core("picture", run_picture));
    tasks.spawn(core("what was seen", picture::tell::run(mesh.clone(), pictures.clone(), stop.clone())));
    let (forwards, zones) = names(&data, &mesh, &pictures, &zone);
    let (publisher, lan) = (publisher(&data, &net), lan(&mesh, &pictures, &forwards, &facts));
    let sessions = sessions::Parts {
        ground: ground(&mesh, (&pictures, own), &facts, &stop),
        images: images.clone(),
        net: net.clone(),
        qemu: qemu.clone(),
        offered,
        store: Store::open(data.sessions()).map_err(|error| failed(&error))?,
        run: run.clone(),
        zone: zone.clone(),
        resolve: zones.resolve(),
        owner,
    };
    let sessions = open(sessions, &pictures).await?;
    answer(&mut tasks, &sessions, (inbox, raft_inbox), &stop);
    tasks.spawn(core("zone", zones.clone().run(stop.clone())));
    tasks.spawn(core("images", follow::images(mesh.clone(), images.clone(), stop.clone())));
    Ok(Built {
        mesh,
        sessions,
        pictures,
        forwards,
        publisher,
        lan,
        zones,
        facts,
        interface: watch::Sender::default(),
        tasks,
        stood_down: false,
        stop,
        data,
        images,
        qemu,
        run,
        zone,
        log,
        recorder,
        running,
    })
}

/// Makes what names are answered from, and how programs of this host reach what they stand for.
fn names(data: &DataDir, mesh: &Mesh, pictures: &Pictures, zone: &str) -> (Forwards, Zones) {
    let ways =
        Ways { dial: dialer(&mesh.net()), targets: zone::targets(pictures), reach: reacher(&mesh.net()) };
    let kept = data.path().join("forward.json");
    let forwards = Forwards::new(mesh.me(), kept, ways, limits::shares());
    let zones = Zones::new(zone.to_owned(), pictures.clone(), mesh.interfaces(), forwards.clone());
    (forwards, zones)
}

/// Opens the sessions of this host, and waits until the picture shows them: whoever asks the local API first sees
/// every one.
async fn open(parts: sessions::Parts, pictures: &Pictures) -> ApiResult<Sessions> {
    let sessions = Sessions::open(parts).await.map_err(|error| failed(&error))?;
    let kept = sessions.shares().borrow().clone();
    pictures.until(|_| true, SHOWN, |picture| picture.shares == kept).await;
    Ok(sessions)
}

impl Built {
    /// Gives what the local API can ask, with what is served beside it.
    pub(crate) fn app(&self, served: Served) -> App {
        App::new(app::Parts {
            data: self.data.clone(),
            facts: self.log.clone(),
            run: self.run.clone(),
            zone: self.zone.clone(),
            mesh: self.mesh.clone(),
            pictures: self.pictures.clone(),
            images: self.images.clone(),
            net: self.mesh.net(),
            qemu: self.qemu.clone(),
            sessions: self.sessions.for_people(),
            forwards: self.forwards.clone(),
            publisher: self.publisher.clone(),
            lan: self.lan.doors.subscribe(),
            served,
            interface: self.interface.subscribe(),
            started: Instant::now(),
            end: self.stop.clone(),
        })
    }

    /// Gives what the host record is made from.
    pub(crate) fn around(&self) -> about::Around {
        about::Around {
            mesh: self.mesh.clone(),
            pictures: self.pictures.clone(),
            shares: self.sessions.shares(),
            published: self.publisher.watch(),
            facts: self.facts.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Waits until the agent is told to end, or a part of it ended although nobody asked it to.
    pub(crate) async fn ended(&mut self) -> Option<Error> {
        // Cancel-safe: a token, a handle that is not polled again once it is ready, a join set. The token comes first:
        // once it is cancelled, parts that end do so because they were told to.
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            ended = &mut self.running => return Some(self.mesh_ended(ended)),
            Some(ended) = self.tasks.join_next() => ended,
        };
        // What stands on the mesh ends before it, which says goodbye first; then it knows why.
        if let Ok(ended) = tokio::time::timeout(GOODBYE, &mut self.running).await {
            return Some(self.mesh_ended(ended));
        }
        Some(match ended {
            Ok(part) => Ended(part).into(),
            Err(error) => failed(&error),
        })
    }

    fn mesh_ended(&mut self, ended: Result<Result<(), mesh::MeshError>, tokio::task::JoinError>) -> Error {
        self.stood_down = matches!(ended, Ok(Err(mesh::MeshError::Twice)));
        match ended {
            Ok(Ok(())) => Ended("mesh").into(),
            Ok(Err(error)) => no_mesh(&error),
            Err(error) => failed(&error),
        }
    }

    /// Ends everything in order. Names the parts that did not end in time, or not well.
    pub(crate) async fn end(mut self) -> Vec<&'static str> {
        let mut late = Vec::new();
        self.stop.cancel();
        let tasks = &mut self.tasks;
        stage("tasks", &mut late, async { while tasks.join_next().await.is_some() {} }).await;
        self.tasks.abort_all();
        stage("sessions", &mut late, self.sessions.drained()).await;
        stage("logs", &mut late, self.sessions.close_logs()).await;
        self.mesh.net().shutdown();
        let (mut mesh_well, mut well) = (true, true);
        if !self.running.is_finished() {
            let ended = async {
                self.mesh.shutdown().await;
                mesh_well = matches!((&mut self.running).await, Ok(Ok(())));
            };
            stage("mesh", &mut late, ended).await;
        }
        late.extend((!mesh_well).then_some("mesh"));
        stage("images", &mut late, async {
            if let Err(error) = self.images.shutdown().await {
                tracing::warn!(%error, "the image store did not close");
                well = false;
            }
        })
        .await;
        late.extend((!well).then_some("images"));
        stage("facts", &mut late, self.recorder.end()).await;
        late
    }
}

/// The task that writes facts down, also those of the end.
struct Recording {
    task: JoinHandle<()>,
    enough: CancellationToken,
}

impl Recording {
    fn begin(recorder: facts::Recorder, heard: broadcast::Receiver<Fact>) -> Recording {
        let enough = CancellationToken::new();
        let task = tokio::spawn(recorder.run(heard, || mesh::Clock.timestamp(), enough.clone()));
        Recording { task, enough }
    }

    async fn end(self) {
        self.enough.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "facts of the end may be missing");
        }
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
pub(super) async fn core(name: &'static str, run: impl Future<Output = ()>) -> &'static str {
    run.await;
    name
}

/// Ends one part, within its time.
async fn stage(what: &'static str, late: &mut Vec<&'static str>, end: impl Future<Output = ()>) {
    if tokio::time::timeout(STAGE, end).await.is_err() {
        late.push(what);
    }
}

/// What sessions stand on.
fn ground(
    mesh: &Mesh,
    (pictures, own): (&Pictures, picture::Own),
    facts: &broadcast::Sender<Fact>,
    stop: &CancellationToken,
) -> Ground {
    let (mesh, pictures, facts) = (mesh.clone(), pictures.clone(), facts.clone());
    Ground { mesh, pictures, own, facts, stop: stop.clone(), leaving: watch::Sender::new(false) }
}

/// Answers what others ask and what voters say to each other.
fn answer(
    tasks: &mut JoinSet<&'static str>,
    sessions: &Sessions,
    (requests, raft): (mpsc::Receiver<Incoming>, mpsc::Receiver<RaftInbound>),
    stop: &CancellationToken,
) {
    tasks.spawn(core("requests", answer_requests(sessions.for_members(), requests, stop.clone())));
    tasks.spawn(core("raft messages", answer_raft(sessions.for_members(), raft, stop.clone())));
}

async fn answer_requests(sessions: ForMembers, mut inbox: mpsc::Receiver<Incoming>, stop: CancellationToken) {
    let hands = Arc::new(Semaphore::new(HANDS));
    while let Some(Some(Incoming { from, request, answer })) = stop.run_until_cancelled(inbox.recv()).await {
        let Ok(hand) = hands.clone().acquire_owned().await else { return };
        let sessions = sessions.clone();
        tokio::spawn(async move {
            // The asker may be gone.
            answer.send(sessions.answer(from, request).await).ok();
            drop(hand);
        });
    }
}

async fn answer_raft(sessions: ForMembers, mut inbox: mpsc::Receiver<RaftInbound>, stop: CancellationToken) {
    let hands = Arc::new(Semaphore::new(HANDS));
    while let Some(Some(inbound)) = stop.run_until_cancelled(inbox.recv()).await {
        let RaftInbound { from, session, frame, answer } = inbound;
        // A session that this host does not store: silence, as if it were away.
        let Some(group) = sessions.log(from, session) else { continue };
        let Ok(hand) = hands.clone().acquire_owned().await else { return };
        tokio::spawn(async move {
            answer.send(group.handle(from, &frame).await).ok();
            drop(hand);
        });
    }
}

/// Opens streams into machines for the forwards of this host.
fn dialer(net: &mesh::net::Net) -> Dial {
    let net = net.clone();
    Arc::new(move |session, machine, port| {
        let net = net.clone();
        Box::pin(async move {
            let number = port.number;
            let stream = match port.protocol {
                Protocol::Udp => net.dial_datagrams(session, &machine, number).await,
                Protocol::Tcp => {
                    let dialled = net.dial(session, &machine, number).await;
                    dialled.map(|stream| Box::new(stream) as Box<dyn mesh::net::End>)
                }
            };
            stream.map_err(std::io::Error::other)
        })
    })
}

/// Reads what this host publishes, and lets members reach it.
fn publisher(data: &DataDir, net: &mesh::net::Net) -> Publisher {
    let net = net.clone();
    Publisher::new(data.path().join("published"), Box::new(move |ports| net.publish(ports)))
}

/// Makes what this host publishes in its own network.
fn lan(mesh: &Mesh, pictures: &Pictures, forwards: &Forwards, facts: &broadcast::Sender<Fact>) -> Lan {
    let (pictures, forwards, facts) = (pictures.clone(), forwards.clone(), facts.clone());
    Lan { pictures, interfaces: mesh.interfaces(), forwards, facts, doors: watch::Sender::default() }
}

/// Opens streams to what other hosts publish.
fn reacher(net: &mesh::net::Net) -> Reach {
    let net = net.clone();
    Arc::new(move |host, port| {
        let net = net.clone();
        Box::pin(async move {
            let stream = net.dial_host(host, port).await.map_err(std::io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn mesh::net::End>)
        })
    })
}
