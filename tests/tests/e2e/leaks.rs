//! The look at the end of each story sees what it is there for: an agent that holds on to what nobody uses.

use std::{os::unix::net::UnixStream, time::Duration};

use tests::{Host, Place, eventually};

#[test]
fn what_an_agent_holds_too_much_is_seen_and_gone_when_its_clients_are() {
    let host = Host::first("nas", Place::Here);
    let quiet = || eventually(Duration::from_secs(20), "nothing is held", || host.held_too_much());
    quiet();
    // A few are enough to be seen.
    let socket = host.data().join("api.sock");
    let clients: Vec<UnixStream> = (0..15).map(|_| UnixStream::connect(&socket).expect("a client")).collect();
    let seen = eventually(Duration::from_secs(20), "they are seen", || {
        host.held_too_much().err().ok_or_else(|| format!("{:?}", host.held()))
    });
    assert!(seen.contains("the agent of nas holds"), "{seen}");
    let held = host.held().expect("an answer");
    let count = clients.len();
    drop(clients);
    eventually(Duration::from_secs(20), "what was held for them is gone", || {
        let after = host.held()?;
        let gone = after.descriptors + count <= held.descriptors && after.tasks + count <= held.tasks;
        if gone { Ok(()) } else { Err(format!("{held:?}, then {after:?}")) }
    });
    quiet();
}
