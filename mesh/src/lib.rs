//! The mesh: one iroh endpoint, the libp2p swarm on it, chitchat on that; joining and membership;
//! requests between members; the state machines of the session network.
//!
//! ```text
//! identity   who this host is            transport  one socket, one key, libp2p over iroh, requests
//! reach      where others are, relays    members    who is in the mesh, and the loop that keeps it
//! join       token -> member             gossip     signed records, liveness
//! quorum     one Raft group a session    link, net  the session network
//! ```
// A print that fails panics, and what cannot be said must end nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
#![forbid(unsafe_code)]

mod assembly;
mod clock;
mod disk;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gossip;
pub mod identity;
mod join;
pub mod link;
mod members;
pub mod net;
pub mod quorum;
mod reach;
mod transport;

pub use assembly::{Config, Handlers, Mesh, MeshError, Surroundings, build};
pub use clock::Clock;
pub use gossip::Records;
pub use identity::{Founding, Identity, IdentityError};
pub use join::{
    JoinError, Joined, Joining, MeetError, Met, Noted, PhraseError, RestoreError, Restored, Restoring, join,
    note, restore,
};
pub use members::rights::{Dead, RightsError};
pub use members::roster::{Roll, SayError};
pub use members::tokens::{Made, TokenView, TokenWish, TokensError};
pub use members::view::{MemberView, Members};
pub use proto::reachability::path::{Path, PathKind};
pub use proto::trust::Out;
pub use proto::wire::api::MemberState;
pub use reach::addresses::{Interfaces, Tier};
pub use reach::interfaces::interfaces;
pub use reach::outside::{Outward, WayIn};
pub use reach::relay::Serve;
pub use transport::answer::{Incoming, RaftInbound};
pub use transport::endpoint::{FIRST_PORT, Ports};
pub use transport::rpc::RpcError;

#[cfg(test)]
mod tests;
