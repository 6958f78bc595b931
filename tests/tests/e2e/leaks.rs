//! The look at the end of each story sees what it is there for: an agent that holds on to what nobody uses.

use std::{os::unix::net::UnixStream, time::Duration};

use tests::{Host, Place, eventually};

#[test]
fn what_an_agent_holds_too_much_is_seen_and_gone_when_its_clients_are() {
    let host = Host::first("nas", Place::Here);
    let quiet = || eventually(Duration::from_secs(20), "nothing is held", || host.held_too_much());
    quiet();
    let before = host.held().expect("an answer");
    // A few are enough to be seen.
    let socket = host.data().join("api.sock");
    let clients: Vec<UnixStream> = (0..15).map(|_| UnixStream::connect(&socket).expect("a client")).collect();
    let seen = eventually(Duration::from_secs(20), "they are seen", || {
        host.held_too_much().err().ok_or_else(|| format!("{:?}", host.held()))
    });
    assert!(seen.contains("the agent of nas holds"), "{seen}");
    drop(clients);
    quiet();
    let after = host.held().expect("an answer");
    assert!(after.descriptors <= before.descriptors && after.tasks <= before.tasks, "{before:?} {after:?}");
}
