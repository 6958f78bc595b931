//! A service that a topology has hosts publish in their own network: others there, who are no members, reach it, where
//! the owner of the host allows it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use serde_json::Value;
use tests::{Host, Place, eventually, http_get, lab_or_skip, tiny_topology};

const HOME: &str = "seed 1\nhome attic nat=cone\nhost nas in attic\nhost desk in attic\nhost tv in attic\n";
/// Far longer than gossip takes.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8099;
const TAKEN: u16 = 8100;

#[test]
fn others_in_the_network_of_a_host_reach_what_it_publishes_if_its_owner_allows_it() {
    if !lab_or_skip("others_in_the_network_of_a_host_reach_what_it_publishes_if_its_owner_allows_it") {
        return;
    }
    let (home, nas, desk) = home();
    let other =
        home.inside("nas", || TcpListener::bind((Ipv4Addr::UNSPECIFIED, TAKEN))).expect("a host of the lab");
    let other = other.expect("a free port");

    let file = desk.topology(&topology());
    eventually(PATIENCE, "both hosts offer themselves", || {
        let plan = desk.agent(&["session", "plan", &file]);
        let told = [
            format!("http.web is published in the network of nas, on port {PORT}"),
            "http.web is not published by desk: its owner does not let it".to_owned(),
        ];
        if told.iter().all(|told| plan.stdout.contains(told)) { Ok(()) } else { Err(format!("{plan:?}")) }
    });
    desk.agent(&["session", "up", &file]).expect(0);

    // The machine runs on desk; the television knows nas alone, and nothing of a mesh.
    let there: SocketAddr = ([192, 168, 1, 2], PORT).into();
    let page =
        |there: SocketAddr| home.inside("tv", move || http_get(there, "/")).expect("a host of the lab");
    let (_, told) = eventually(PATIENCE, "the page is there", || page(there));
    assert!(!told.is_empty());
    page(([192, 168, 1, 3], PORT).into()).expect_err("desk's owner has not allowed it");
    let on_nas = lan(&nas, "http");
    assert_eq!(on_nas["nas"]["url"], format!("http://{there}"), "{on_nas}");
    let seen = lan(&desk, "http");
    assert_eq!(seen["nas"]["url"], format!("http://{there}"), "{seen}");
    assert!(text(&seen["desk"]["because"]).contains("publish = true"), "{seen}");

    // What is in the way is named, and once it is gone, tried again.
    let because = text(&lan(&nas, "admin")["nas"]["because"]);
    assert!(because.contains(&format!("(process {}) has port {TAKEN}", std::process::id())), "{because}");
    let told = nas.facts("lan-refused");
    assert_eq!(told[0]["because"], because, "{told:?}");
    drop(other);
    eventually(PATIENCE, "the free port is taken", || {
        let now = lan(&nas, "admin");
        if now["nas"]["url"].is_string() { Ok(()) } else { Err(now.to_string()) }
    });

    desk.agent(&["session", "down", "shop", "--yes"]).expect(0);
    eventually(PATIENCE, "nothing listens any more", || match page(there) {
        Err(_) => Ok(()),
        Ok(page) => Err(format!("{page:?}")),
    });
}

/// A home with a host whose owner lets it publish, and one whose owner does not.
fn home() -> (netsim::Lab, Host, Host) {
    let home = netsim::Lab::up(HOME).expect("a lab");
    let place = |name: &str| Place::Namespace(home.namespace(name).expect("a host of the lab"));
    let mut nas = Host::new("nas", place("nas"));
    nas.agent(&["init", "--name", "nas"]).expect(0);
    fs::write(nas.data().join("config.toml"), "[policy]\npublish = true\n").expect("a file");
    nas.start();
    let desk = Host::joined("desk", place("desk"), &nas.token(&[]));
    desk.import_tiny();
    (home, nas, desk)
}

/// A machine on `desk` with two services.
fn topology() -> String {
    let publish = format!("port = 8080\npublish = {{ lan = {PORT}, on = [\"nas\", \"desk\"] }}\n");
    let admin = format!(
        "[machines.web.services.admin]\nport = 8081\npublish = {{ lan = {TAKEN}, on = [\"nas\"] }}\n"
    );
    let topology = tiny_topology("shop", 1)
        .replace("port = 8080\n", &publish)
        .replace("place = { spread = \"host\" }", "place = { hosts = [\"desk\"] }");
    format!("{topology}{admin}")
}

/// Gives what `service list` tells of a service's hosts, by host.
#[track_caller]
fn lan(host: &Host, service: &str) -> Value {
    let list = host.json(&["service", "list"]);
    let rows = list["services"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == service).expect("the service");
    let hosts = row["lan"].as_array().expect("a list");
    hosts.iter().map(|row| (text(&row["host"]), row.clone())).collect::<serde_json::Map<_, _>>().into()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
