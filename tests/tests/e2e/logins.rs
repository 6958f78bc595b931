//! Each machine is entered by a key of its own, which only its host has: others ask that host, and it tells who came.

use std::time::Duration;

use tests::{Host, Place, eventually, tiny_topology};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn no_key_opens_two_machines_and_a_host_tells_who_entered_its_own() {
    let nas = Host::first("nas", Place::Here);
    let desk = Host::joined("desk", Place::Here, &nas.token(&[]));
    nas.import_tiny();
    eventually(SOON, "both may run machines", || {
        let list = nas.json(&["host", "list"]);
        let rows = list["hosts"].as_array().cloned().unwrap_or_default();
        let ready = rows.iter().filter(|row| row["state"] == "up" && row["accelerator"].is_string());
        if ready.count() == 2 { Ok(()) } else { Err(list.to_string()) }
    });
    nas.agent(&["session", "up", &nas.topology(&tiny_topology("shop", 2))]).expect(0);
    let machines = nas.json(&["machine", "list"])["machines"].clone();
    let name = |host: &str| {
        let mut rows = machines.as_array().expect("rows").iter();
        let row = rows.find(|row| row["host"] == host);
        row.unwrap_or_else(|| panic!("none on {host}: {machines}"))["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    let (here, there) = (name("nas"), name("desk"));

    let keys = |from: &Host, machine: &str| from.ssh(machine, "cat /root/.ssh/authorized_keys");
    let (own, other) = (keys(&nas, &here), keys(&nas, &there));
    assert!(own.lines().count() == 1 && other.lines().count() == 1, "{own}{other}");
    assert_ne!(own, other, "one key would open both");
    assert_eq!(keys(&desk, &there), other, "the same from its own host");

    let told = desk.agent(&["events", "--json"]).expect(0).stdout;
    for by in ["nas", "desk"] {
        let entered = format!(r#""by":"{by}""#);
        let line = told.lines().find(|line| line.contains("machine-entered") && line.contains(&entered));
        assert!(line.is_some_and(|line| line.contains(&there)), "{told}");
    }
}
