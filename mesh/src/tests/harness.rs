//! A host of a test: a directory and, while it is up, a mesh on loopback.

use std::{collections::BTreeMap, path::Path, time::Duration};

use iroh::{
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use proto::{
    facts::Fact,
    id::{HostId, Name, SessionId},
    reachability::fallback::Foreign,
    time::Timestamp,
    trust::May,
    wire::{
        record::{HostRecord, Reach},
        rpc::{Answer, Refusal},
    },
};
use tempfile::TempDir;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Config, Founding, Handlers, JoinError, Joined, Joining, Members, Mesh, MeshError, Outward, Ports, Serve,
    TokenWish, build, identity, join,
};

/// The longest that anything in these tests may take.
pub(super) const WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Host {
    pub(super) dir: TempDir,
    pub(super) name: Name,
    pub(super) mesh: Mesh,
    pub(super) facts: broadcast::Receiver<Fact>,
    running: JoinHandle<Result<(), MeshError>>,
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn now() -> Timestamp {
    crate::Clock.timestamp()
}

fn about(name: &Name) -> HostRecord {
    HostRecord {
        name: name.clone(),
        version: "0.1.0".to_owned(),
        reach: Reach::default(),
        arch: "x86_64".to_owned(),
        accelerator: None,
        cpus: 2,
        memory_mib: 1024,
        disk_mib: 1024,
        disk_kept_mib: 0,
        trouble: None,
        runs_machines: true,
        memory_used_mib: BTreeMap::new(),
        tags: BTreeMap::new(),
        prefixes: Vec::new(),
        steady: true,
        issuer: false,
        tells_seen: true,
        level: proto::level::LEVEL,
        published: BTreeMap::new(),
        lan: false,
        publishes: false,
    }
}

/// Answers `Down` with its session's state: enough to see who asked what.
async fn answer(mut requests: mpsc::Receiver<crate::Incoming>) {
    while let Some(inbound) = requests.recv().await {
        let text = format!("{} asked {:?}", inbound.from, inbound.request);
        inbound.answer.send(Answer::Refused(Refusal::Failed(text))).ok();
    }
}

/// Answers a Raft message with itself, reversed.
async fn echo(mut raft: mpsc::Receiver<crate::RaftInbound>) {
    while let Some(inbound) = raft.recv().await {
        let reversed = inbound.frame.into_iter().rev().collect();
        inbound.answer.send(reversed).ok();
    }
}

/// A protocol beside the mesh's own, as the images' is one.
pub(super) const GREETED: &[u8] = b"test/greeted/1";

/// Serves a connection with one byte.
#[derive(Debug)]
struct Greeter;

impl ProtocolHandler for Greeter {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let mut stream = connection.open_uni().await?;
        stream.write_all(&[1]).await.map_err(AcceptError::from_err)?;
        connection.closed().await;
        Ok(())
    }
}

impl Host {
    pub(super) async fn founder(label: &str, serve: Serve) -> Host {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
        Host::founder_with_phrase(label, serve).await.0
    }

    pub(super) async fn founder_with_phrase(label: &str, serve: Serve) -> (Host, String) {
        let dir = tempfile::tempdir().unwrap();
        let (_, phrase) = identity::create(dir.path(), founding(label), now()).unwrap();
        (Host::start(dir, label, serve).await, phrase)
    }

    pub(super) async fn start(dir: TempDir, label: &str, serve: Serve) -> Host {
        Host::start_led(dir, label, serve, (Outward::default(), Foreign::default())).await
    }

    /// Starts with what the owner says of the way in, and with relays of strangers.
    pub(super) async fn start_led(
        dir: TempDir,
        label: &str,
        serve: Serve,
        (outward, foreign): (Outward, Foreign),
    ) -> Host {
        let identity = identity::load(dir.path()).unwrap();
        let (facts_tx, facts) = broadcast::channel(1000);
        let (requests, requests_rx) = mpsc::channel(16);
        let (raft, raft_rx) = mpsc::channel(16);
        tokio::spawn(answer(requests_rx));
        tokio::spawn(echo(raft_rx));
        let config = Config { ports: Ports::Loopback, serve, outward, foreign, about: about(&name(label)) };
        let handlers = Handlers { extra: vec![(GREETED.to_vec(), Box::new(Greeter))], requests, raft };
        let (mesh, run) = build(config, identity, handlers, facts_tx).await.unwrap();
        Host { dir, name: name(label), mesh, facts, running: tokio::spawn(run) }
    }

    pub(super) async fn token(&self) -> String {
        let wanted = TokenWish { expires_ms: 3_600_000, uses: 10, admin: false, may: May::ALL };
        let mesh = self.mesh.clone();
        // In a task of its own, as the API's handlers are: the future must be `Send`.
        tokio::spawn(async move { mesh.token_create(wanted).await }).await.unwrap().unwrap().text
    }

    /// Joins by a token and starts.
    pub(super) async fn joiner(label: &str, token: &str) -> Host {
        Host::join_and_start(label, token, Serve::Off).await
    }

    /// Joins and starts with a relay.
    pub(super) async fn joiner_serving(label: &str, token: &str) -> Host {
        Host::join_and_start(label, token, Serve::On).await
    }

    async fn join_and_start(label: &str, token: &str, serve: Serve) -> Host {
        let dir = tempfile::tempdir().unwrap();
        match try_join(dir.path(), label, token).await.unwrap() {
            Joined::Member { .. } => {}
            Joined::Pending { issuers } => panic!("pending on {issuers:?}"),
        }
        Host::start(dir, label, serve).await
    }

    /// Ends without a goodbye, as a killed process does.
    pub(super) async fn kill(self) -> (TempDir, Name) {
        self.running.abort();
        self.running.await.ok();
        // The endpoint must not say goodbye either; dropping it closes nothing by itself.
        drop(self.mesh);
        (self.dir, self.name)
    }

    pub(super) async fn stop(self) -> (TempDir, Name) {
        self.mesh.shutdown().await;
        self.running.await.unwrap().unwrap();
        (self.dir, self.name)
    }

    /// Waits until it ends by itself; tells how.
    pub(super) async fn ended(self) -> (TempDir, Result<(), MeshError>) {
        let ended = tokio::time::timeout(WITHIN, self.running).await.expect("it did not end").unwrap();
        (self.dir, ended)
    }

    pub(super) fn id(&self) -> HostId {
        self.mesh.me()
    }

    /// Waits until the members look as told.
    pub(super) async fn sees(&self, what: &str, is_so: impl FnMut(&std::sync::Arc<Members>) -> bool) {
        eventually(self.mesh.members(), what, is_so).await;
    }
}

pub(super) fn founding(label: &str) -> Founding {
    Founding { name: name(label), mesh_name: name("home"), tags: BTreeMap::new() }
}

pub(super) async fn try_join(dir: &Path, label: &str, token: &str) -> Result<Joined, JoinError> {
    let joining =
        Joining { data: dir.to_owned(), token: token.to_owned(), name: name(label), ports: Ports::Loopback };
    tokio::spawn(join(joining)).await.unwrap()
}

/// Waits for a value of a watch; tells the last one when it does not come.
pub(super) async fn eventually<T: std::fmt::Debug>(
    mut watch: watch::Receiver<T>,
    what: &str,
    is_so: impl FnMut(&T) -> bool,
) {
    if tokio::time::timeout(WITHIN, watch.wait_for(is_so)).await.is_err() {
        panic!("{what} did not happen; last seen: {:#?}", watch.borrow());
    }
}

pub(super) fn session() -> SessionId {
    SessionId([9; 16])
}
