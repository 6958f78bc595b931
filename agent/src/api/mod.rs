//! The local API: HTTP on a unix socket in the data directory, readable by its owner alone.
//! Whoever can open the socket may do everything; nothing here authenticates, decides or prints.

mod resolve;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

pub use resolve::{find_machine, find_session};
pub use routes::router;
pub use socket::{connect, listen};

/// The protocol name of an upgraded connection: raw bytes both ways.
pub const RAW: &str = "agent-raw";
