//! One socket and one key, and the protocols on it: iroh's connections, libp2p over them, streams by
//! protocol name, one request and one answer. Who may speak is asked before a byte is read.
//!
//! ```text
//! endpoint  one socket, one key           gate     members only, strangers only to join
//! carrier   libp2p over iroh              swarm    who is connected, streams by name
//! rpc       request, answer, deadline     answer   what the agent is asked
//! inbound   streams that others open      protocols  their names and framing
//! threshold where members wait for a host that was away
//! ```

pub(crate) mod answer;
pub(crate) mod carrier;
pub(crate) mod endpoint;
pub(crate) mod gate;
pub(crate) mod inbound;
pub(crate) mod protocols;
pub(crate) mod rpc;
pub(crate) mod swarm;
pub(crate) mod threshold;
