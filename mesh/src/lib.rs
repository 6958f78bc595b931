//! The mesh: one iroh endpoint, the libp2p swarm on it, chitchat on that; joining and membership;
//! requests between members; the state machines of the session network.
//!
//! ```text
//! identity  who this host is              roster   statements -> member list
//! endpoint  one socket, one key           gate     members only, strangers only to join
//! wire      libp2p over iroh              swarm    who is connected, streams by name
//! relay     the embedded relay            relays   the relays in use, pinned; the watchdog
//! inbound   streams that others open    dialer   whom to dial now
//! gossip    signed records, liveness      rpc      request, answer, deadline
//! keeper    the loop that keeps this host connected and known
//! join      token -> member               tokens   make, list, end
//! ```
// A print that fails panics, and what cannot be said must end nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
#![forbid(unsafe_code)]

mod answer;
mod assembly;
mod cache;
mod deaf;
mod dialer;
mod disk;
mod endpoint;
mod gate;
mod gossip;
pub mod identity;
mod inbound;
mod join;
mod keeper;
pub mod link;
mod members;
pub mod net;
mod path;
mod pins;
pub mod quorum;
mod reach;
mod relay;
mod relays;
mod roster;
mod rpc;
mod swarm;
mod tokens;
mod wire;

pub use answer::{Inbound, RaftInbound};
pub use assembly::{Config, Handlers, Mesh, MeshError, build};
pub use endpoint::{FIRST_PORT, Ports};
pub use gossip::Records;
pub use identity::{Founding, Identity, IdentityError};
pub use join::{JoinError, Joined, Joining, join};
pub use members::{MemberState, MemberView, Members};
pub use path::{Path, PathKind};
pub use reach::{Interfaces, interfaces, is_public};
pub use relay::Serve;
pub use roster::{Roll, SayError};
pub use rpc::RpcError;
pub use tokens::{Made, TokenView, TokensError, Wanted};

#[cfg(test)]
mod tests;
