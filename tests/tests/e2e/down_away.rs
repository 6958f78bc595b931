//! A session ends while a host is away: the rest goes at once, and the host does its part when it
//! returns.

use std::time::Duration;

use tests::{Lab, eventually, lab_or_skip, tiny_topology};

#[test]
fn a_host_that_was_away_at_the_end_removes_its_machines_when_it_returns() {
    if !lab_or_skip("a_host_that_was_away_at_the_end_removes_its_machines_when_it_returns") {
        return;
    }
    let mut lab = Lab::joined();
    lab.vps.import_tiny();
    let topology = lab.vps.topology(&tiny_topology("shop", 3));
    lab.vps.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&["vps", "nas", "laptop"], "shop", "healthy");
    eventually(Duration::from_secs(60), "three voters", || {
        let status = lab.vps.session("shop");
        if status["voters"].as_array().map(Vec::len) == Some(3) { Ok(()) } else { Err(status.to_string()) }
    });

    // Its agent only: the machine runs on, and nobody can tell it to stop.
    lab.nas.kill();
    lab.sees(&lab.vps, "nas", "down");
    let down = lab.laptop.agent(&["session", "down", "shop", "--yes"]).expect(6);
    assert!(down.stderr.contains("nas"), "{down:?}");
    let left = lab.running();
    assert_eq!(left.values().collect::<Vec<_>>(), ["nas"], "only the one that nobody reaches: {left:?}");

    lab.nas.start();
    eventually(Duration::from_secs(60), "nas removes its machine", || {
        let (running, sessions) = (lab.running(), lab.nas.data().join("sessions"));
        let kept: Vec<_> = std::fs::read_dir(sessions).into_iter().flatten().flatten().collect();
        if running.is_empty() && kept.is_empty() { Ok(()) } else { Err(format!("{running:?} {kept:?}")) }
    });
    // And so everyone forgets the session.
    for host in lab.hosts() {
        eventually(Duration::from_secs(60), &format!("{} forgets the session", host.name), || {
            let list = host.json(&["session", "list"]);
            if list["sessions"].as_array().is_some_and(Vec::is_empty) {
                Ok(())
            } else {
                Err(list.to_string())
            }
        });
        assert!(host.processes(" shim ").is_empty());
    }
}
