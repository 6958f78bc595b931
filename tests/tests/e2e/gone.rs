//! A host is gone for good: once that is said, its machine runs elsewhere, its session ends, and nobody waits for it.

use std::time::Duration;

use tests::{Lab, eventually, lab_or_skip, tiny_topology};

#[test]
fn the_machine_of_a_host_that_is_gone_for_good_runs_elsewhere_and_its_session_ends() {
    if !lab_or_skip("the_machine_of_a_host_that_is_gone_for_good_runs_elsewhere_and_its_session_ends") {
        return;
    }
    let mut lab = Lab::joined();
    lab.vps.import_tiny();
    let topology = lab.vps.topology(&tiny_topology("shop", 3));
    lab.vps.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&["vps", "nas", "laptop"], "shop", "healthy");
    let lost = lab.running().into_iter().find(|(_, host)| host == "nas").map(|(machine, _)| machine);
    let lost = lost.expect("one machine a host");

    lab.nas.power_off();
    lab.sees(&lab.vps, "nas", "down");
    // Nothing that runs there is taken for dead because nobody hears it.
    lab.vps.agent(&["session", "up", &topology, "--wait", "none"]).expect(0);
    let status = lab.vps.session("shop");
    let rows = status["machines"].as_array().expect("machines");
    assert!(rows.iter().any(|row| row["name"] == lost.as_str() && row["host"] == "nas"), "{status}");

    lab.vps.agent(&["host", "remove", "nas", "--yes"]).expect(0);
    eventually(Duration::from_secs(20), "laptop hears that nas is out", || {
        let status = lab.laptop.session("shop");
        let row = status["machines"].as_array().and_then(|rows| rows.iter().find(|row| row["host"] == "nas"));
        match row.and_then(|row| row["reason"].as_str()) {
            Some(reason) if reason.contains("out of the mesh") => Ok(()),
            _ => Err(status.to_string()),
        }
    });
    let moved = lab.laptop.agent(&["session", "up", &topology]).expect(0);
    assert!(format!("{}{}", moved.stdout, moved.stderr).contains("its disk with it"), "{moved:?}");
    let running = lab.running();
    assert!(running.len() == 3 && running[&lost] != "nas", "{running:?}");
    lab.session_is(&["vps", "laptop"], "shop", "healthy");
    let status = lab.laptop.json(&["status"]);
    assert!(!status["warnings"].to_string().contains("nas"), "{status}");

    lab.laptop.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert!(lab.running().is_empty());
    for host in [&lab.vps, &lab.laptop] {
        assert_eq!(host.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(0));
    }
}
