//! What the local API can ask of the daemon, as one cheap handle. Routes call these methods and
//! nothing else, so that this list is all the power a user of the socket has. Each method gathers
//! from the picture and the subsystems and puts an answer together; nothing here keeps state.
//!
//! - `members`: the mesh, its hosts and its tokens; `rights`: who goes, what they are called, who may admit others;
//! - `paths`: the ways to other hosts;
//! - `around`: how this host itself stands in the network;
//! - `sessions`: plan, up, down, status;
//! - `machines`: machines from the inside;
//! - `services`: what they serve, as this host reaches it;
//! - `published`: what hosts publish themselves;
//! - `images`: import, pull, list, remove;
//! - `health`: what keeps this agent from doing its work.

mod around;
mod health;
mod images;
mod machines;
mod members;
mod paths;
mod published;
mod rights;
pub mod services;
mod sessions;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use ::images::Images;
use mesh::{Mesh, net::Net};
use proto::{
    id::HostId,
    picture::{Member, Picture},
    spelling,
    trust::Capability,
    wire::{
        api::{Error, Kind},
        rpc::Refusal,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{forward::Forwards, interface::Shown, lan::Doors, published::Publisher},
    facts,
    host::data::DataDir,
    machine::Qemu,
    picture::Pictures,
    session::ports::ForPeople,
};

/// Bytes both ways: a console, or a connection into a machine.
pub type Pipe = Box<dyn mesh::net::End>;

/// Where a long request tells how far it is. Bounded; a full channel means the reader is slow, so
/// senders use `try_send`.
pub type Telling = mpsc::Sender<proto::wire::api::Progress>;

/// What every method answers.
type ApiResult<T> = Result<T, Error>;

/// The daemon as its API sees it.
#[derive(Clone)]
pub struct App {
    inner: Arc<Parts>,
}

/// What the handle is made of.
pub struct Parts {
    /// Where everything is kept.
    pub data: DataDir,
    /// The recorded facts.
    pub facts: facts::Log,
    /// Where sockets go.
    pub run: std::path::PathBuf,
    /// The zone's name.
    pub zone: String,
    /// The mesh.
    pub mesh: Mesh,
    /// What this host knows now.
    pub pictures: Pictures,
    /// The image store.
    pub images: Images,
    /// The session network.
    pub net: Net,
    /// The local QEMU.
    pub qemu: watch::Receiver<Qemu>,
    /// What may be asked of sessions.
    pub sessions: ForPeople,
    /// How this host's programs reach groups.
    pub forwards: Forwards,
    /// What this host publishes.
    pub publisher: Publisher,
    /// What it publishes in its own network.
    pub lan: watch::Receiver<Arc<Doors>>,
    /// What this agent serves to programs of its host.
    pub served: Served,
    /// This host's own place on session networks.
    pub interface: watch::Receiver<Shown>,
    /// When the agent started.
    pub started: Instant,
    /// Ends the agent.
    pub end: CancellationToken,
}

/// Where this agent serves programs of its host; `None`: it does not, and the log says why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// The DNS server.
    pub dns: Option<SocketAddr>,
    /// The one port that it may have, if only one.
    pub dns_wanted: Option<u16>,
    /// The front door's port, on loopback.
    pub browser: Option<u16>,
    /// The SOCKS proxy.
    pub socks: Option<SocketAddr>,
}

impl App {
    /// Refuses what this host's own certificate does not let it do: others would refuse it as well, or pass it over.
    fn must(&self, capability: Capability, what: &str) -> ApiResult<()> {
        match self.inner.mesh.roll().borrow().may(self.inner.mesh.me(), capability) {
            true => Ok(()),
            false => Err(refused(what, Refusal::MayNot(capability))),
        }
    }

    /// Makes the handle.
    pub fn new(parts: Parts) -> App {
        App { inner: Arc::new(parts) }
    }

    /// Gives the facts of this host.
    pub fn facts(&self) -> &facts::Log {
        &self.inner.facts
    }

    /// Gives the zone's name.
    pub fn zone(&self) -> &str {
        &self.inner.zone
    }

    fn picture(&self) -> Arc<Picture> {
        self.inner.pictures.now()
    }

    /// Finds a member by its name, or says what may have been meant. Of two with one name the lower id keeps it.
    fn member(&self, name: &str) -> Result<(HostId, Member), Option<String>> {
        let picture = self.picture();
        let found = picture.members.iter().find(|(_, member)| member.name.as_str() == name);
        found.map(|(id, member)| (*id, member.clone())).ok_or_else(|| {
            let known = picture.members.values().map(|member| member.name.as_str());
            spelling::suggestion(name, "the hosts are", known)
        })
    }

    /// Names a host for people.
    fn name(&self, host: HostId) -> String {
        self.picture().name(host)
    }
}

/// Puts a member's refusal into words with the next thing to type.
fn refused(what: impl Into<String>, refusal: Refusal) -> Error {
    let (kind, next) = match refusal {
        Refusal::UnknownSession => (Kind::NotFound, "agent session list"),
        Refusal::NoQuorum => (Kind::Unreachable, "agent status, to see which hosts are away"),
        Refusal::NotCoordinator { .. } => (Kind::Unreachable, "agent status, then try again"),
        Refusal::State(_) => (Kind::Refused, "agent session status, then try again"),
        Refusal::NoVoice => (Kind::Refused, "agent status"),
        Refusal::Older | Refusal::Gathering => (Kind::Refused, "try again"),
        Refusal::Unsigned(_) => (Kind::Refused, "try again"),
        Refusal::MayNot(_) => (Kind::Refused, "agent host list -v    shows which hosts may"),
        Refusal::NoContent => (Kind::Failed, "agent session up FILE"),
        Refusal::Other(_) => (Kind::Refused, "agent status, to see which versions run"),
        Refusal::Failed(_) => (Kind::Failed, "agent doctor, then agent events"),
        Refusal::Invalid(_) => (Kind::Invalid, "agent session plan FILE"),
        Refusal::Unknown => (Kind::Refused, "agent status, to see which versions run; update the older one"),
    };
    Error::new(kind, what).refused(&refusal).next(next)
}
