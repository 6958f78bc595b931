//! What the mesh is put together from, and why it may not run.

use iroh::protocol::DynProtocolHandler;
use proto::{reachability::fallback::Foreign, time::Timestamp, trust::OutBecause, wire::record::HostRecord};
use tokio::sync::mpsc;

use crate::{
    identity::IdentityError,
    reach::{outside::Outward, relay::Serve},
    transport::{
        answer::{Incoming, RaftInbound},
        endpoint::{BindError, Ports},
    },
};

/// How the mesh runs on this host.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to bind.
    pub ports: Ports,
    /// Whether to serve a relay.
    pub serve: Serve,
    /// What the owner says of the way in.
    pub outward: Outward,
    /// Relays of strangers that it may fall back on.
    pub foreign: Foreign,
    /// What this host says about itself; name, tags, reach and issuer are filled in here.
    pub about: HostRecord,
}

/// Who handles what comes in.
pub struct Handlers {
    /// Further protocols on the endpoint, for members only.
    pub extra: Vec<(Vec<u8>, Box<dyn DynProtocolHandler>)>,
    /// Requests that the mesh does not answer itself.
    pub requests: mpsc::Sender<Incoming>,
    /// Raft messages.
    pub raft: mpsc::Sender<RaftInbound>,
}

/// Why the mesh does not run.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The stored identity or statements cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// This host is a member no more.
    #[error("this host is out of the mesh {mesh}: it {} {since}", .because.in_words())]
    Out {
        /// The mesh's label.
        mesh: String,
        /// Why.
        because: OutBecause,
        /// Since when.
        since: Timestamp,
    },
    /// This host's own certificate is missing.
    #[error("the stored statements do not say that this host is a member")]
    NotMember,
    /// Another computer runs as this host, and did so before it.
    #[error("another computer runs as this host: one of the two data directories is a copy of the other")]
    Twice,
    /// A part ended by itself.
    #[error("the {0} ended")]
    Ended(&'static str),
}
