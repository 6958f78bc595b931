//! The running sessions of this host, as tasks around the rules of `proto::session`:
//!
//! ```text
//! CLI -> App -> Hub -> coordinator (leader only): plan -> Raft -> shares -> every member
//!                       host: share -> run::host -> orders -> reports -> gossip
//! ```
//!
//! - `store`: shares on disk, written before anything acts on them;
//! - `hub`: what this host knows of every session, and the one door for shares;
//! - `birth`: the shell of how a session begins here;
//! - `coordinator`: the shell of what the leader of a session's Raft group does;
//! - `requests`: what other members ask; `contents`: the bytes that shares name;
//! - `host`: the shell of `proto::run::host`, which makes this host's share true.

pub mod actions;
pub mod birth;
mod contents;
pub mod coordinator;
pub mod host;
pub mod hub;
pub mod nic;
pub mod requests;
pub mod store;

#[cfg(test)]
mod tests;
