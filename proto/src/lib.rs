//! The words of the product and the rules on them. Nothing here does IO: no clock, no files, no
//! sockets, no randomness. `now` and seeds are arguments, so every rule replays from its inputs.
//!
//! ```text
//! topology.toml -> Topology -> Intent -> (Raft) State -> Plan -> Share -> Action -> Observed
//!                                                                    -> Zone (DNS) and Facts (people)
//! ```
//!
//! - *mesh*: the hosts that trust one root key; [`id::MeshId`] is the hash of that key.
//! - *host*: a computer that runs the agent; [`id::HostId`] is its ed25519 public key.
//! - *member*: a host whose certificate the others accept.
//! - *issuer*: a member that may admit others.
//! - *statement*: a signed fact about membership ([`trust`]).
//! - *topology*: the user's file ([`topology`]); a *session* is a running one ([`session`]).
//! - *group*, *machine*: the topology names groups; machines are always `GROUP-N` from 1.
//! - *image*: disk content, addressed by the BLAKE3 hash of its raw bytes.
//! - *service*: a named port of a group.
//! - *plan*: an immutable assignment of machines to hosts, with a generation and a parent.
//! - *share*: the part of a plan that one host must make true, always whole.
//! - *coordinator*: the host that writes a session's plan now; *voter*: one that stores it and votes.
//! - *shim*: the process that is the parent of one QEMU and outlives the agent.
//! - *epoch*: counts the incarnations of one machine; the higher wins everywhere.
//! - *guard*: what an incarnation is guarded by: `hold` or a *lease*.
//! - *path*: how two hosts reach each other now.
//! - *level*: what all participants of a mesh or session understand ([`level`]).
//! - *reason*: why something is or is not so, as a value ([`reasons`]).
//! - *zone*: the names and the addresses they stand for; *fact*: something that happened.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod addresses;
pub mod backoff;
pub mod facts;
pub mod firewall;
pub mod id;
pub mod level;
pub mod limits;
pub mod liveness;
pub mod membership;
pub mod names;
pub mod picture;
pub mod random;
pub mod reachability;
pub mod reasons;
pub mod run;
pub mod seal;
pub mod session;
pub mod size;
pub mod spelling;
pub mod time;
pub mod topology;
pub mod trust;
pub mod wire;
