//! The running sessions of this host, as tasks around the rules of `proto::session`:
//!
//! ```text
//! CLI -> App -> Sessions -> coordinator (leader only): plan -> Raft -> shares -> every member
//!                       host: share -> run::host -> orders -> reports -> gossip
//! ```
//!
//! - `sessions`: puts all of it together, each task with the parts that it uses; `ports`: what the rest of the agent
//!   may ask of it; `ground`: what every task stands on; `tasks`: where they are counted;
//! - `table`: what is here of sessions, with one task that writes: shares, logs, whole sessions; `opening`: what lies
//!   there when the agent starts; `store`: the files;
//! - `knowing`: what is believed of sessions, with the shell of `proto::run::knowledge`;
//! - `birth`: the shell of how a session begins here;
//! - `coordinator`: the shell of what the leader of a session's Raft group does; `asking` finds it;
//! - `requests`: what other members ask; `contents`: the bytes that shares name; `login`: how machines are entered;
//! - `host`: the shell of `proto::run::host`, which makes this host's share true; `actions`: what it does for one
//!   machine; `nic`: its network; `possession`: what this host says of what it has.

pub mod actions;
mod asking;
pub mod birth;
mod contents;
pub mod coordinator;
pub mod ground;
pub mod host;
mod knowing;
mod known;
mod login;
pub mod nic;
mod opening;
pub mod ports;
mod possession;
pub mod requests;
pub mod sessions;
pub mod store;
mod table;
mod tasks;

#[cfg(test)]
mod tests;
