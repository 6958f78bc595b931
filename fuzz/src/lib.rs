//! What strangers write, into all that reads it: one function for each of the readers, fed by libFuzzer (`make fuzz`) or
//! by the corpus (`tests/replay.rs`). A function panics where a promise is broken; otherwise it says nothing.
//!
//! libFuzzer, because its mutations follow what the code does, and a stable compiler instruments for it.

mod gateway;
mod scenes;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by their names, which are those of their corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("frames", scenes::frames),
    ("dhcp", scenes::dhcp),
    ("names", agent::fuzz::names),
    ("gateway", gateway::gateway),
    ("datagrams", scenes::datagrams),
    ("handshakes", scenes::handshakes),
    ("front", agent::fuzz::front),
    ("gossip", scenes::gossip),
];

/// Finds a target.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|&(_, target)| target)
}
