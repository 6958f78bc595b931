//! The running sessions of this host, as tasks around the rules of `proto::session`:
//!
//! ```text
//! CLI -> App -> Hub -> coordinator (leader only): plan -> Raft -> shares -> every member
//!                       host loop: share -> reconcile -> actions -> reports -> gossip
//! ```
//!
//! - `store`: shares on disk, written before anything acts on them;
//! - `hub`: what this host knows of every session, and the one door for shares;
//! - `coordinator`: what the leader of a session's Raft group does;
//! - `deliveries`: to whom it sends a share now;
//! - `requests`: what other members ask;
//! - `host`: makes this host's share true;
//! - `machine`: what that keeps of one machine;

pub mod actions;
pub mod coordinator;
pub mod deliveries;
pub mod host;
pub mod hub;
pub mod machine;
pub mod nic;
pub mod requests;
pub mod store;

#[cfg(test)]
mod tests;
