//! What the local API can ask of the daemon, as one cheap handle. Routes call these methods and
//! nothing else, so that this list is all the power a user of the socket has.

use std::collections::BTreeMap;

use proto::{
    id::{MachineName, Name, SessionId},
    topology::{Diagnostic, Intent, Topology},
    wire::api::{self, Error, Kind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{config::Config, data::DataDir, doctor, facts};

/// Bytes both ways: a console, or a connection into a machine.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A boxed [`Duplex`].
pub type Pipe = Box<dyn Duplex>;

/// Where a long request tells how far it is. Bounded; a full channel means the reader is slow, so
/// senders use `try_send`.
pub type Telling = mpsc::Sender<api::Progress>;

/// The daemon as its API sees it.
#[derive(Clone)]
pub struct App {
    facts: facts::Log,
}

type Answer<T> = Result<T, Error>;

fn not_built<T>() -> Answer<T> {
    Err(Error::new(Kind::Failed, "this is not built yet"))
}

impl App {
    /// Makes the handle.
    pub fn new(facts: facts::Log) -> App {
        App { facts }
    }

    /// Gives the facts of this host.
    pub fn facts(&self) -> &facts::Log {
        &self.facts
    }

    /// Tells who this host is, who else is there, and which sessions it knows.
    pub async fn status(&self) -> Answer<api::Status> {
        not_built()
    }

    /// Joins the mesh of a token, or refuses because this host is in one.
    pub async fn join(&self, _request: api::JoinRequest) -> Answer<api::Joined> {
        not_built()
    }

    /// Tells every member with what it offers.
    pub async fn hosts(&self) -> Answer<api::Hosts> {
        not_built()
    }

    /// Tells every session this host knows.
    pub async fn sessions(&self) -> Answer<api::Sessions> {
        not_built()
    }

    /// Tells what `up` would do. Obstacles are part of an `Ok` report.
    pub async fn plan(&self, _intent: Intent) -> Answer<api::PlanReport> {
        not_built()
    }

    /// Commits a topology. With obstacles nothing is committed and `id` is `None`.
    pub async fn up(&self, _intent: Intent, _index: Option<u64>) -> Answer<api::UpAnswer> {
        not_built()
    }

    /// Tells how a session is, as this host sees it.
    pub async fn session_status(&self, _session: SessionId) -> Answer<api::SessionStatus> {
        not_built()
    }

    /// Tells how a session is and whether every up host says the same.
    pub async fn up_progress(&self, _session: SessionId) -> Answer<api::UpProgress> {
        not_built()
    }

    /// Commits the end of a session.
    pub async fn down(&self, _session: SessionId) -> Answer<api::DownProgress> {
        not_built()
    }

    /// Tells what is left of an ended session. A session that nobody knows any more is gone.
    pub async fn down_progress(&self, _session: SessionId) -> Answer<api::DownProgress> {
        not_built()
    }

    /// Tells every machine of every session.
    pub async fn machines(&self) -> Answer<api::Machines> {
        not_built()
    }

    /// Commits whether a machine shall run: `machine start` and `machine stop`.
    pub async fn wish(
        &self,
        _session: SessionId,
        _machine: MachineName,
        _run: bool,
    ) -> Answer<api::MachineRow> {
        not_built()
    }

    /// Gives what ssh needs to enter a machine.
    pub async fn ssh_access(&self, _session: SessionId, _machine: MachineName) -> Answer<api::SshAccess> {
        not_built()
    }

    /// Connects to a TCP port of a machine, wherever it runs.
    pub async fn dial(&self, _session: SessionId, _machine: MachineName, _port: u16) -> Answer<Pipe> {
        not_built()
    }

    /// Opens a machine's serial console: what it said, then live.
    pub async fn console(&self, _session: SessionId, _machine: MachineName) -> Answer<Pipe> {
        not_built()
    }

    /// Tells every service of every session.
    pub async fn services(&self) -> Answer<api::Services> {
        not_built()
    }

    /// Listens for a service on this host now.
    pub async fn service_open(
        &self,
        _session: SessionId,
        _open: api::ServiceOpen,
    ) -> Answer<api::ServiceOpened> {
        not_built()
    }

    /// Tells every image the mesh knows.
    pub async fn images(&self) -> Answer<api::Images> {
        not_built()
    }

    /// Takes a file of this host as an image; done when every up member knows its name.
    pub async fn image_import(&self, _import: api::ImageImport, _telling: Telling) -> Answer<api::ImageRow> {
        not_built()
    }

    /// Downloads an image; done when every up member knows its name.
    pub async fn image_pull(&self, _pull: api::ImagePull, _telling: Telling) -> Answer<api::ImageRow> {
        not_built()
    }

    /// Removes an image from this host; refused while a machine uses it.
    pub async fn image_remove(&self, _image: api::Named) -> Answer<api::Named> {
        not_built()
    }

    /// Tells every grant.
    pub async fn tokens(&self) -> Answer<api::Tokens> {
        not_built()
    }

    /// Makes a token; refused on a host that is no issuer, naming the issuers.
    pub async fn token_create(&self, _create: api::TokenCreate) -> Answer<api::TokenCreated> {
        not_built()
    }

    /// Revokes a grant, by id or a unique beginning of it.
    pub async fn token_revoke(&self, _token: api::Named) -> Answer<api::Named> {
        not_built()
    }

    /// Tells what only the daemon can see: the proved accelerator, relays, bound ports.
    pub async fn doctor(&self) -> Answer<api::Checks> {
        Ok(api::Checks { checks: doctor::judge(&doctor::Inside::default()) })
    }
}

/// Makes a mesh of one host in `data`, without a daemon.
pub fn init(
    _data: &DataDir,
    _name: Name,
    _mesh: Name,
    _tags: BTreeMap<String, String>,
) -> Answer<api::Initialised> {
    not_built()
}

/// Joins a mesh without a daemon.
pub async fn join(_data: &DataDir, _request: api::JoinRequest) -> Answer<api::Joined> {
    not_built()
}

/// Reads a topology, with every mistake it has.
pub fn parse_topology(_text: &str) -> (Option<Topology>, Vec<Diagnostic>) {
    (None, Vec::new())
}

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

/// Runs the daemon until it is told to stop; machines go on running.
pub async fn run(run: Run) -> Answer<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Failed, "the agent cannot run").because(error).next("agent doctor")
    };
    tracing::debug!(config = ?run.config, joins = run.join.is_some(), "starting");
    let host = cli_name();
    let (log, recorder) = facts::open(&run.data.facts(), &host).map_err(|error| failed(&error))?;
    let (_facts, heard) = tokio::sync::broadcast::channel(1024);
    tokio::spawn(recorder.run(heard, || proto::time::Timestamp(0)));
    let listener = crate::api::listen(&run.data.socket()).map_err(|error| failed(&error))?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    crate::api::serve(listener, App::new(log), stop).await.map_err(|error| failed(&error))
}

fn cli_name() -> Name {
    "this".parse().expect("it is a name")
}
