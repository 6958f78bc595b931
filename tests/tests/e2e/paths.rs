//! By which way hosts are reached, as `agent net paths` and `agent net ping` tell it: straight, through the relay of a
//! member, or not at all.

use std::{process::Command, time::Duration};

use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip};

/// Until a way that leads nowhere any more is left, or a host is known to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_ping_tells_by_which_way_a_host_answers_and_fails_where_a_direct_one_is_required() {
    if !lab_or_skip("a_ping_tells_by_which_way_a_host_answers_and_fails_where_a_direct_one_is_required") {
        return;
    }
    let mut lab = Lab::joined();
    let nas = &lab.nas;
    let pings = nas.agent(&["net", "ping", "vps", "--count", "2", "--require", "direct", "--json"]);
    let pings = pings.expect(0).json();
    assert_eq!((&pings["host"], &pings["sent"]), (&"vps".into(), &2.into()));
    let answers = pings["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 2, "{pings}");
    // There and back over a wire of 8 ms each way, one more or less.
    let ms = |field: &str| pings[field].as_f64().expect("milliseconds");
    assert!(ms("least_ms") >= 14.0 && ms("least_ms") <= ms("median_ms"), "{pings}");
    let vps = &answers[1]["path"];
    assert_eq!((&vps["kind"], &vps["via"], &vps["state"]), (&"direct".into(), &Value::Null, &"up".into()));
    let address = vps["address"].as_str().and_then(|address| address.rsplit_once(':')).expect("an address").0;

    assert_eq!(row(nas, "vps")["kind"], "direct");
    assert_eq!(row(nas, "laptop")["state"], "up");
    nas.agent(&["net", "ping", "nobody"]).expect(3);
    nas.agent(&["net", "ping", "nas"]).expect(2);

    only_reaches(&lab, address);
    let relayed = eventually(PATIENCE, "the relay carries what has no other way", || {
        let asked = nas.agent(&["net", "ping", "laptop", "--count", "1", "--require", "direct"]);
        let relayed = asked.code == 8 && asked.stdout.contains("relayed via vps");
        if relayed { Ok(asked) } else { Err(format!("{asked:?}")) }
    });
    assert!(relayed.stdout.starts_with("laptop  "), "{relayed:?}");
    assert!(relayed.stderr.contains("laptop is not reached directly"), "{relayed:?}");
    let way = row(nas, "laptop");
    assert_eq!((&way["kind"], &way["via"]), (&"relayed".into(), &"vps".into()), "{way}");

    lab.laptop.stop();
    let nas = &lab.nas;
    let silent = eventually(PATIENCE, "nobody answers", || {
        let asked = nas.agent(&["net", "ping", "laptop", "--count", "1"]);
        if asked.code == 7 { Ok(asked) } else { Err(format!("{asked:?}")) }
    });
    assert!(silent.stderr.contains("laptop does not answer"), "{silent:?}");
    lab.laptop.start();
}

/// Gives the way to a member, as `agent net paths` lists it.
fn row(host: &Host, member: &str) -> Value {
    let paths = host.json(&["net", "paths"]);
    let rows = paths["paths"].as_array().expect("paths");
    rows.iter().find(|row| row["host"] == member).unwrap_or_else(|| panic!("no {member} in {paths}")).clone()
}

/// Lets `nas` say nothing by UDP, but to one address.
fn only_reaches(lab: &Lab, address: &str) {
    let rules = format!(
        "add table ip mute; add chain ip mute out {{ type filter hook output priority 0; }}; \
         add rule ip mute out ip protocol udp ip daddr != {{ {address}, 127.0.0.0/8 }} drop"
    );
    let done = lab.inside(&lab.nas, move || Command::new("nft").arg(rules).output()).expect("nft");
    assert!(done.status.success(), "{done:?}");
}
