//! Two programs in one mesh and one session: the agent of an older commit and this one. Host by host is upgraded
//! under machines that never stop, and what one program says the other understands.

use std::{collections::BTreeMap, time::Duration};

use proto::level::{LEVEL, Level};
use serde_json::Value;
use tests::{Host, Lab, Pids, eventually, lab_or_skip, older_agent_or_skip, tiny_topology};

const ALL: [&str; 3] = ["vps", "nas", "laptop"];

#[test]
fn hosts_are_upgraded_one_by_one_under_machines_that_never_stop() {
    let story = "hosts_are_upgraded_one_by_one_under_machines_that_never_stop";
    if !lab_or_skip(story) {
        return;
    }
    let Some(older) = older_agent_or_skip(story) else { return };
    let mut lab = Lab::joined_by(&older);
    lab.vps.import_tiny();
    let copies = lab.copies();
    let topology = lab.nas.topology(&tiny_topology("shop", 3));
    lab.nas.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&ALL, "shop", "healthy");
    let (placed, before) = (lab.running(), pids(&lab));
    assert_eq!(before.len(), 3, "{before:?}");

    lab.host_mut("laptop").upgrade();
    works(&lab, &placed, &before);
    is_of_the_first_level(&lab.laptop, &["nas", "vps"]);
    a_session_begun_by_the_new_one_spans_both(&lab);
    machines_stop_and_start_by_either(&lab);
    let after = pids(&lab);
    assert!(before.iter().all(|(machine, one)| machine == "web-1" || after[machine] == *one), "{after:?}");
    let before = after;

    lab.host_mut("vps").upgrade();
    works(&lab, &placed, &before);
    is_of_the_first_level(&lab.vps, &["nas"]);
    a_topology_changes_by_the_old_one(&lab);
    works(&lab, &placed, &before);

    lab.host_mut("nas").upgrade();
    for host in lab.hosts() {
        eventually(Duration::from_secs(60), &format!("shop is raised, says {}", host.name), || {
            let told = host.session("shop");
            let raised = told["level"] == u32::from(LEVEL) && told["below"] == Value::Array(vec![]);
            if raised { Ok(()) } else { Err(told.to_string()) }
        });
    }
    works(&lab, &placed, &before);

    lab.laptop.agent(&["session", "down", "shop", "--yes"]).expect(0);
    assert!(lab.running().is_empty(), "{:?}", lab.running());
    copies.never_two();
}

trait Upgrade {
    fn upgrade(&mut self);
}

impl Upgrade for Host {
    fn upgrade(&mut self) {
        self.stop();
        self.program = None;
        self.start();
    }
}

/// Gives the processes of the machines that are never asked to stop.
fn pids(lab: &Lab) -> BTreeMap<String, Pids> {
    lab.running()
        .into_iter()
        .map(|(machine, host)| (machine.clone(), lab.host(&host).pids(&machine)))
        .collect()
}

/// Everybody sees everybody, the session is well, its machines are the processes that they were, and commands and
/// names reach them from every host.
fn works(lab: &Lab, placed: &BTreeMap<String, String>, before: &BTreeMap<String, Pids>) {
    lab.settled();
    lab.session_is(&ALL, "shop", "healthy");
    assert_eq!(&lab.running(), placed);
    assert_eq!(&pids(lab), before, "the machines run on");
    for host in lab.hosts() {
        for machine in placed.keys() {
            assert_eq!(host.ssh(machine, "hostname").trim(), machine, "from {}", host.name);
        }
        eventually(Duration::from_secs(10), &format!("names answer on {}", host.name), || {
            match host.addresses("web.shop.mesh.internal").len() {
                1 => Ok(()),
                count => Err(format!("{count} addresses")),
            }
        });
    }
}

/// As long as one host does not understand more, nothing more is written; a new host says whose agent is older.
fn is_of_the_first_level(host: &Host, older: &[&str]) {
    let told = host.session("shop");
    assert_eq!(told["level"], u32::from(Level::FIRST), "{told}");
    let status = host.status();
    let below: Vec<&Value> =
        status["below"].as_array().expect("a list").iter().map(|row| &row["host"]).collect();
    assert_eq!(below, older, "{status}");
}

fn a_session_begun_by_the_new_one_spans_both(lab: &Lab) {
    let topology = lab.laptop.topology(&tiny_topology("mixed", 3));
    lab.laptop.agent(&["session", "up", &topology]).expect(0);
    lab.session_is(&ALL, "mixed", "healthy");
    let hosts = lab.laptop.session("mixed")["machines"].as_array().map_or(0, Vec::len);
    assert_eq!(hosts, 3);
    lab.nas.agent(&["session", "down", "mixed", "--yes"]).expect(0);
}

fn machines_stop_and_start_by_either(lab: &Lab) {
    for (stops, starts) in [("laptop", "nas"), ("nas", "laptop")] {
        lab.host(stops).agent(&["machine", "stop", "web-1"]).expect(0);
        lab.host(starts).agent(&["machine", "start", "web-1"]).expect(0);
        lab.session_is(&ALL, "shop", "healthy");
    }
}

/// One machine more, and one less again.
fn a_topology_changes_by_the_old_one(lab: &Lab) {
    for count in [4, 3] {
        let topology = lab.nas.topology(&tiny_topology("shop", count));
        lab.nas.agent(&["session", "up", &topology, "--yes"]).expect(0);
        lab.session_is(&ALL, "shop", "healthy");
    }
}
