//! The coordinator's cable is pulled: it lives, but alone. It changes nothing, its machine runs on,
//! the others go on without it, and once the cable is back everyone tells the same again.

use std::time::Duration;

use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip, tiny_topology};

const ALL: [&str; 3] = ["vps", "nas", "laptop"];
/// An election, and the news of it; measured about 3 s.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_coordinator_that_is_cut_off_changes_nothing_and_its_machine_runs_on() {
    if !lab_or_skip("a_coordinator_that_is_cut_off_changes_nothing_and_its_machine_runs_on") {
        return;
    }
    let lab = Lab::joined();
    lab.vps.import_tiny();
    let copies = lab.copies();
    let topology = lab.nas.topology(&tiny_topology("shop", 3));
    lab.nas.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&ALL, "shop", "healthy");
    eventually(Duration::from_secs(60), "nas leads three voters", || {
        let status = lab.nas.session("shop");
        let three = status["voters"].as_array().map(Vec::len) == Some(3);
        if three && status["coordinator"] == "nas" { Ok(()) } else { Err(status.to_string()) }
    });
    let placed = lab.running();
    let alone = machine_on(&lab.nas, "nas");
    let other = machine_on(&lab.nas, "laptop");

    lab.cut("nas");
    for host in [&lab.vps, &lab.laptop] {
        lab.sees(host, "nas", "down");
        eventually(TAKEN_OVER_WITHIN, &format!("{} knows another coordinator", host.name), || {
            let leader = host.session("shop")["coordinator"].clone();
            if leader == "vps" || leader == "laptop" { Ok(()) } else { Err(leader.to_string()) }
        });
    }
    // Whoever is alone can commit nothing, and says why.
    let refused = lab.nas.agent(&["machine", "stop", &alone]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("quorum"), "{refused:?}");
    // The others can.
    lab.laptop.agent(&["machine", "stop", &other]).expect(0);
    is_in(&lab.vps, &other, "stopped");
    let mut left = placed.clone();
    left.remove(&other);
    assert_eq!(lab.running(), left, "the one that was cut off runs on, nothing starts elsewhere");

    lab.mend("nas");
    lab.settled();
    eventually(TAKEN_OVER_WITHIN, "nas hears what happened", || {
        let seen = ALL.map(|name| lab.host(name).session("shop"));
        let same = seen.iter().all(|status| {
            status["coordinator"] == seen[0]["coordinator"] && status["machines"] == seen[0]["machines"]
        });
        if same && seen[0]["coordinator"] != "nas" { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    is_in(&lab.nas, &other, "stopped");
    is_in(&lab.laptop, &alone, "ready");
    lab.nas.agent(&["machine", "start", &other]).expect(0);
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(lab.running(), placed);
    lab.nas.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert!(lab.running().is_empty(), "{:?}", lab.running());
    copies.never_two();
}

fn machine_on(asked: &Host, host: &str) -> String {
    let status = asked.session("shop");
    let rows = status["machines"].as_array().expect("machines");
    let row = rows.iter().find(|row| row["host"] == host).expect("a machine on each host");
    row["name"].as_str().expect("a name").to_owned()
}

#[track_caller]
fn is_in(host: &Host, name: &str, state: &str) {
    eventually(Duration::from_secs(90), &format!("{} sees {name} {state}", host.name), || {
        let status = host.session("shop");
        let row = status["machines"].as_array().into_iter().flatten().find(|row| row["name"] == name);
        match row {
            Some(row) if row["state"] == state => Ok(()),
            row => Err(row.map_or_else(|| status.to_string(), Value::to_string)),
        }
    });
}
