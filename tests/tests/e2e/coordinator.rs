//! The coordinator dies, and then a whole host: the others go on, and no machine is ever started
//! a second time, here or elsewhere.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip, tiny_topology};

const ALL: [&str; 3] = ["vps", "nas", "laptop"];
/// How long another may take to coordinate: an election, and the news of it. Measured about 3 s.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);
/// How long guests may be sent to a host that is dead.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn another_coordinates_when_the_coordinator_dies_and_no_machine_runs_twice() {
    if !lab_or_skip("another_coordinates_when_the_coordinator_dies_and_no_machine_runs_twice") {
        return;
    }
    let mut lab = Lab::joined();
    lab.vps.import_tiny();
    let copies = lab.copies();
    let topology = lab.nas.topology(&tiny_topology("shop", 3));
    lab.nas.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&ALL, "shop", "healthy");
    three_voters(&lab, &lab.vps);

    let old = coordinator(&lab.vps);
    lab.host_mut(&old).kill();
    let others: Vec<&str> = ALL.into_iter().filter(|name| *name != old).collect();
    let new = taken_over(&lab, &others, &old);
    commands_work(&lab, &others, &old);
    lab.host_mut(&old).start();
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    let follows = || match coordinator(lab.host(&old)) {
        leader if leader == new => Ok(()),
        leader => Err(format!("{old} says that {leader} coordinates, not {new}")),
    };
    eventually(TAKEN_OVER_WITHIN, "the old coordinator follows the new one", follows);
    assert_eq!(machines(&lab.vps).len(), 3);

    a_host_dies_and_returns(&mut lab);

    lab.vps.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert!(lab.running().is_empty(), "{:?}", lab.running());
    copies.never_two();
}

fn taken_over(lab: &Lab, others: &[&str], old: &str) -> String {
    let start = Instant::now();
    let mut leaders = Vec::new();
    for name in others {
        leaders.push(eventually(TAKEN_OVER_WITHIN, &format!("{name} knows another coordinator"), || {
            match coordinator(lab.host(name)) {
                leader if leader != old && !leader.is_empty() => Ok(leader),
                leader => Err(format!("{leader:?} coordinates")),
            }
        }));
    }
    eprintln!("taken over from {old} after {:?}", start.elapsed());
    eventually(TAKEN_OVER_WITHIN, "the others agree on the coordinator", || {
        let named: Vec<String> = others.iter().map(|name| coordinator(lab.host(name))).collect();
        if named[0] == named[1] && named[0] != old { Ok(named[0].clone()) } else { Err(format!("{named:?}")) }
    })
}

/// Plan, change, stop and start, from each host that is left.
fn commands_work(lab: &Lab, others: &[&str], old: &str) {
    for name in others {
        let host = lab.host(name);
        let topology = host.topology(&tiny_topology("shop", 3));
        let plan = host.json(&["session", "plan", &topology]);
        let keep = plan["changes"].as_array().is_some_and(|all| all.iter().all(|c| c["action"] == "keep"));
        assert!(keep, "{plan}");
    }
    let here = machine_on(lab.host(others[0]), others[0]);
    lab.host(others[1]).agent(&["machine", "stop", &here]).expect(0);
    is_in(lab.host(others[0]), &here, "stopped");
    assert!(!lab.running().contains_key(&here), "{:?}", lab.running());
    lab.host(others[0]).agent(&["machine", "start", &here]).expect(0);
    is_in(lab.host(others[1]), &here, "ready");

    // One machine more, which must not go to the host that is away; and away with it again.
    let host = lab.host(others[0]);
    let more = host.topology(&tiny_topology("shop", 4));
    host.agent(&["session", "up", &more, "--wait", "none"]).expect(0);
    is_in(host, "web-4", "ready");
    let placed = lab.running();
    assert_ne!(placed.get("web-4").map(String::as_str), Some(old), "{placed:?}");
    let host = lab.host(others[1]);
    let fewer = host.topology(&tiny_topology("shop", 3));
    host.agent(&["session", "up", &fewer, "--wait", "none"]).expect(0);
    eventually(Duration::from_secs(60), "web-4 is gone", || match lab.running() {
        running if running.contains_key("web-4") => Err(format!("{running:?}")),
        _ => Ok(()),
    });
}

/// Agent and QEMUs of a host die at once; guests are soon not sent there any more, its machine
/// waits for it, and comes back with it.
fn a_host_dies_and_returns(lab: &mut Lab) {
    let before = lab.running();
    let dead = machine_on(&lab.vps, "nas");
    let witness = machine_on(&lab.vps, "laptop");
    let address = address_of(&lab.vps, &dead);
    // The guest itself watches, so that ssh's own time does not count.
    let watch = format!("while nslookup web | grep -q {address}; do sleep 0.1; done; echo gone; cat");
    assert!(lab.vps.ssh(&witness, "nslookup web").contains(&address), "it is there first");
    let mut asking = lab.vps.cli(&["machine", "ssh", &witness, "--", &format!("echo watching; {watch}")]);
    let mut asking = asking.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the agent starts");
    let mut lines = BufReader::new(asking.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "watching");
    lab.nas.power_off();
    let died = Instant::now();
    assert_eq!(next(), "gone");
    let took = died.elapsed();
    eprintln!("a guest did not get the address any more after {took:?}");
    assert!(took < FORGOTTEN_WITHIN, "{took:?}");
    drop(asking.stdin.take());
    asking.wait().expect("ssh ends");

    lab.sees(&lab.vps, "nas", "down");
    eventually(Duration::from_secs(30), "the session says what it waits for", || {
        let row = machine(&lab.laptop, &dead);
        let told = row["reason"].as_str().is_some_and(|reason| reason.contains("nas"));
        if row["state"] != "ready" && row["host"] == "nas" && told { Ok(()) } else { Err(row.to_string()) }
    });
    let left = lab.running();
    assert_eq!(left.len(), before.len() - 1, "nothing is started elsewhere: {left:?}");
    lab.nas.start();
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(lab.running(), before, "each where it was");
    assert!(lab.laptop.ssh(&witness, "nslookup web").contains(&address), "its name is back");
}

#[track_caller]
fn three_voters(lab: &Lab, host: &Host) {
    eventually(Duration::from_secs(60), "three voters", || {
        let status = host.session("shop");
        let voters = status["voters"].as_array().map_or(0, Vec::len);
        if voters == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    lab.session_is(&ALL, "shop", "healthy");
}

fn coordinator(host: &Host) -> String {
    host.session("shop")["coordinator"].as_str().unwrap_or_default().to_owned()
}

fn machines(host: &Host) -> Vec<Value> {
    host.session("shop")["machines"].as_array().expect("machines").clone()
}

#[track_caller]
fn machine(host: &Host, name: &str) -> Value {
    machines(host).into_iter().find(|row| row["name"] == name).unwrap_or_default()
}

fn machine_on(asked: &Host, host: &str) -> String {
    let row = machines(asked).into_iter().find(|row| row["host"] == host).expect("a machine on each host");
    row["name"].as_str().expect("a name").to_owned()
}

fn address_of(host: &Host, name: &str) -> String {
    machine(host, name)["address"].as_str().expect("an address").to_owned()
}

#[track_caller]
fn is_in(host: &Host, name: &str, state: &str) {
    eventually(Duration::from_secs(90), &format!("{name} is {state}"), || {
        let row = machine(host, name);
        if row["state"] == state { Ok(()) } else { Err(row.to_string()) }
    });
}
