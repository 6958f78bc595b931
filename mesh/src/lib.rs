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
//! ways      where a member may be         book     that, on disk, for iroh and the swarm
//! interfaces, addresses  which of this host's addresses are told
//! lan       who is on the same LAN
//! keeper    the loop that keeps this host connected and known
//! join      token -> member               tokens   make, list, end
//! ```
// A print that fails panics, and what cannot be said must end nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
#![forbid(unsafe_code)]

mod addresses;
mod answer;
mod assembly;
mod book;
mod cache;
mod deaf;
mod dialer;
mod disk;
mod endpoint;
mod gate;
mod gossip;
pub mod identity;
mod inbound;
mod interfaces;
mod join;
mod keeper;
mod lan;
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
mod ways;
mod wire;

pub use addresses::Interfaces;
pub use answer::{Inbound, RaftInbound};
pub use assembly::{Config, Handlers, Mesh, MeshError, build};
pub use endpoint::{FIRST_PORT, Ports};
pub use gossip::Records;
pub use identity::{Founding, Identity, IdentityError};
pub use interfaces::interfaces;
pub use join::{JoinError, Joined, Joining, MeetError, Met, Noted, join, note};
pub use members::{MemberState, MemberView, Members};
pub use path::{Path, PathKind};
pub use relay::Serve;
pub use roster::{Roll, SayError};
pub use rpc::RpcError;
pub use tokens::{Made, TokenView, TokensError, Wanted};

#[cfg(test)]
mod tests;
