//! Two kinds of time: what decides stands on `Moment`, which counts through sleep and can be tested; wall time decides
//! nothing. The monotonic clock of the standard library remains where only a call or a person waits with it.

use super::{none, sources};

/// Where `Instant` may stand, and why it decides nothing there that a computer's sleep could make wrong.
const INSTANTS: &[(&str, &str)] = &[
    ("mesh/src/link/", "the edge of a guest's network, with smoltcp's time: it sleeps with the guest"),
    ("mesh/src/net/", "parts of a packet that wait for each other, and streams of which one end has gone"),
    (
        "mesh/src/quorum/",
        "time-outs of calls; and what a voter could not hear asleep is no silence of its leader",
    ),
    ("mesh/src/transport/rpc.rs", "the time-out of one call"),
    ("agent/src/access/", "ports that nobody uses"),
    ("agent/src/app/", "how long the agent has run"),
    ("agent/src/cli/", "how long a person waits"),
    ("agent/src/daemon.rs", "the look for ports that nobody uses"),
    ("agent/src/daemon/build.rs", "when the agent began"),
    ("agent/src/host/log.rs", "how often one line is written"),
    ("agent/src/machine/", "what QEMU and its shim get for one step: they sleep with the computer"),
    ("images/src/", "time-outs and speeds of one transfer"),
];

#[test]
fn what_decides_stands_on_no_clock_of_the_standard_library() {
    let mut needed = std::collections::BTreeSet::new();
    let mut complaints = Vec::new();
    let ours = ["proto/", "mesh/", "images/", "agent/"];
    for source in sources().iter().filter(|source| !source.is_test()) {
        if !ours.iter().any(|krate| source.path.starts_with(&format!("{krate}src/"))) {
            continue;
        }
        let code = source.code();
        let names = |word: &str| {
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
            code.split(|letter| !is_part(letter)).any(|found| found == word)
        };
        if !names("Instant") {
            continue;
        }
        match INSTANTS.iter().find(|(place, _)| source.path.starts_with(place)) {
            Some((place, _)) => drop(needed.insert(*place)),
            None => complaints.push(format!("{} names Instant", source.path)),
        }
    }
    let stale = INSTANTS.iter().filter(|(place, _)| !needed.contains(place));
    complaints.extend(stale.map(|(place, _)| format!("nothing in {place} names Instant any more")));
    none(complaints);
}
