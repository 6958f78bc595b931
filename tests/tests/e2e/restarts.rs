//! Hosts that stop and start again: one of them, all of them, with their machines and without.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tests::{Host, Lab, eventually, lab_or_skip, tiny_topology};

const ALL: [&str; 3] = ["vps", "nas", "laptop"];

#[test]
fn hosts_that_were_stopped_come_back_with_their_session() {
    if !lab_or_skip("hosts_that_were_stopped_come_back_with_their_session") {
        return;
    }
    let mut lab = Lab::joined();
    lab.vps.import_tiny();
    let copies = lab.copies();
    let topology = lab.nas.topology(&tiny_topology("shop", 3));
    lab.nas.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&ALL, "shop", "healthy");
    let placed = lab.running();
    assert_eq!(placed.len(), 3, "{placed:?}");

    one_agent_stops_and_starts(&mut lab, &placed);
    all_agents_stop_and_start(&mut lab, &placed);
    all_hosts_lose_power(&mut lab, &placed);

    lab.vps.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert!(lab.running().is_empty(), "{:?}", lab.running());
    copies.never_two();
}

/// Only the agent of `nas` goes: its machine runs on and is found again.
fn one_agent_stops_and_starts(lab: &mut Lab, placed: &BTreeMap<String, String>) {
    let machine = on(placed, "nas");
    let before = qemu(&lab.nas);
    lab.nas.stop();
    lab.sees(&lab.vps, "nas", "down");
    lab.sees(&lab.laptop, "nas", "down");
    assert_eq!(qemu(&lab.nas), before, "the machine runs on");
    lab.nas.start();
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(qemu(&lab.nas), before, "the same process");
    let events = lab.nas.agent(&["events", "--json-lines"]).expect(0).stdout;
    assert!(
        events.lines().any(|line| line.contains("machine-adopted") && line.contains(&machine)),
        "{events}"
    );
    assert_eq!(lab.laptop.ssh(&machine, "hostname").trim(), machine);

    // A crash is heard as silence.
    lab.laptop.kill();
    lab.sees(&lab.vps, "laptop", "down");
    lab.laptop.start();
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(&lab.running(), placed);
}

/// Nobody is left who could be asked for the way; everyone remembers.
fn all_agents_stop_and_start(lab: &mut Lab, placed: &BTreeMap<String, String>) {
    let before = lab.hosts().map(qemu);
    for host in lab.hosts_mut() {
        host.stop();
    }
    // The homes first: the relay they remember is not there yet.
    for name in ["laptop", "nas", "vps"] {
        lab.host_mut(name).start();
    }
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(lab.hosts().map(qemu), before, "the same processes");
    assert_eq!(&lab.running(), placed);
    commands_work(lab);
}

fn all_hosts_lose_power(lab: &mut Lab, placed: &BTreeMap<String, String>) {
    for host in lab.hosts_mut() {
        host.power_off();
    }
    assert!(lab.running().is_empty());
    for host in lab.hosts_mut() {
        host.start();
    }
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(&lab.running(), placed, "each machine is back where it was");
    let start = Instant::now();
    for host in lab.hosts() {
        eventually(Duration::from_secs(10), &format!("names answer on {}", host.name), || {
            match host.addresses("web.shop.mesh.internal").len() {
                1 => Ok(()),
                count => Err(format!("{count} addresses")),
            }
        });
    }
    eprintln!("names answered everywhere after {:?}", start.elapsed());
    let machine = on(placed, "laptop");
    let guests = lab.nas.ssh(&machine, "nslookup web");
    let status = lab.nas.session("shop");
    for row in status["machines"].as_array().expect("machines") {
        assert!(guests.contains(row["address"].as_str().expect("an address")), "{row} in {guests}");
    }
    commands_work(lab);
}

fn commands_work(lab: &Lab) {
    let topology = lab.laptop.topology(&tiny_topology("shop", 3));
    let plan = lab.laptop.json(&["session", "plan", &topology]);
    let keeps = |change: &serde_json::Value| change["action"] == "keep";
    assert!(plan["changes"].as_array().is_some_and(|changes| changes.iter().all(keeps)), "{plan}");
}

fn on(placed: &BTreeMap<String, String>, host: &str) -> String {
    placed.iter().find(|(_, place)| *place == host).expect("a machine on each host").0.clone()
}

fn qemu(host: &Host) -> Vec<u32> {
    let mut found: Vec<u32> = host
        .processes("qemu-system-")
        .into_iter()
        .filter(|(_, line)| {
            line.split_whitespace().next().is_some_and(|program| program.contains("qemu-system-"))
        })
        .map(|(pid, _)| pid)
        .collect();
    found.sort_unstable();
    found
}
