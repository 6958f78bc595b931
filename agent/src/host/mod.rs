//! The computer this agent runs on, as the rest of the agent sees it: its data and runtime
//! directories, its disk and its troubles, files that survive a crash, private directories, users and groups,
//! descriptors, ports on loopback, its name servers, the log, and what is held.

pub mod data;
pub mod disk;
pub mod durable;
pub mod holder;
pub mod internals;
pub mod limits;
pub mod listen;
pub mod log;
pub mod network;
pub mod notify;
pub mod private;
pub mod resolv;
pub mod runtime;
pub mod tun;
pub mod users;
pub mod words;
