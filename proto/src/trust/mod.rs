//! Who belongs to the mesh, and how a stranger becomes a member. Everything rests on one root key,
//! whose hash is the mesh's id, and on signed statements that any member may carry to any other.
//!
//! - `token`: the text that is handed to a new host;
//! - `statement`: what can be said, and its sealed form;
//! - `members`: the set of statements and who is a member by it;
//! - `may`: what a member may do beside being one;
//! - `clocks`: what time it is for all this;
//! - `join`: what a joiner and a member exchange and sign; `knocks`: who may try, and how often.
//!
//! Nothing here reads a clock or makes a key.

pub mod clocks;
pub mod join;
pub mod knocks;
pub mod may;
pub mod members;
pub mod statement;
pub mod token;

pub use clocks::{ClockError, clock_error, mesh_time};
pub use join::{Admission, JoinAnswer, JoinHello, JoinOffer, JoinProof, JoinRefusal, Transcript};
pub use may::{Capability, May, NoCapability};
pub use members::{GrantState, Member, MemberSet, Out, RefusedBecause, Short};
pub use statement::{
    Capabilities, Certificate, Charter, Eviction, Genesis, Grant, OutBecause, Possession, Rename, Revocation,
    Sealed, Statement, Statements, Tombstone,
};
pub use token::{Bootstrap, Token, TokenError};

use crate::{id::MeshId, seal::PublicKey};

/// Gives the id of the mesh that this root key makes.
pub fn mesh_id(root: &PublicKey) -> MeshId {
    MeshId(*blake3::hash(root).as_bytes())
}

#[cfg(test)]
mod tests;
