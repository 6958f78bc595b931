//! Homes without any public host: they meet by what a router maps, and by the relay that comes of it.

use std::time::Duration;

use serde_json::Value;
use tests::{Host, Place, eventually, lab_or_skip};

/// Two homes and a strict one; nobody has a public address, and routers do not lead a home back into itself.
const HOMES: &str = "seed 1
home attic nat=cone ports=mapped
home flat nat=symmetric
home office nat=symmetric udp=blocked
host nas in attic ip=4+6
host laptop in flat
host desk in office
";
/// Far longer than a router, a dial back and gossip take together.
const PATIENCE: Duration = Duration::from_secs(60);

fn place(network: &netsim::Lab, name: &str) -> Place {
    Place::Namespace(network.namespace(name).expect("a host of the lab"))
}

/// Gives how `host` reaches `other`, once that is so.
#[track_caller]
fn way(host: &Host, other: &str, kind: &str) -> Value {
    eventually(PATIENCE, &format!("{} reaches {other}: {kind}", host.name), || {
        let paths = host.json(&["net", "paths"]);
        let rows = paths["paths"].as_array().into_iter().flatten();
        // Whose a relay is its owner's record tells.
        let told = |row: &&Value| kind == "direct" || row["via"].is_string();
        let row = rows.filter(|row| row["host"] == other && row["kind"] == kind).find(told).cloned();
        row.ok_or_else(|| paths.to_string())
    })
}

#[test]
fn homes_meet_by_a_mapped_port_and_a_relay_is_served_once_a_member_has_dialled_it() {
    if !lab_or_skip("homes_meet_by_a_mapped_port_and_a_relay_is_served_once_a_member_has_dialled_it") {
        return;
    }
    let network = netsim::Lab::up(HOMES).expect("a lab");
    let nas = Host::first("nas", place(&network, "nas"));
    let public = network.hosts().iter().find(|host| host.name == "nas").expect("nas").public;
    // Its IPv6 address is public from the first moment, and nobody else here has any.
    eventually(PATIENCE, "a way in from outside", || {
        let told = nas.json(&["net", "check"])["addresses"].to_string();
        if told.contains(&format!("{public}:7440")) { Ok(()) } else { Err(told) }
    });
    let token = nas.token(&[]);
    assert_eq!(nas.json(&["status"])["host"]["relay"], Value::Null, "nobody has dialled it");

    let laptop = Host::joined("laptop", place(&network, "laptop"), &token);
    let direct = way(&laptop, "nas", "direct");
    assert_eq!(direct["address"], format!("{public}:7440"), "{direct}");
    let relay = eventually(PATIENCE, "nas serves a relay", || {
        let relay = nas.json(&["status"])["host"]["relay"].clone();
        if relay.is_string() { Ok(relay) } else { Err(relay.to_string()) }
    });
    assert_eq!(relay, format!("http://{public}:7440"));

    // Who may not use UDP at all comes in by that relay, and is reached by it, also by nas itself.
    let desk = Host::joined("desk", place(&network, "desk"), &nas.token(&[]));
    for (host, other) in [(&desk, "nas"), (&desk, "laptop"), (&laptop, "desk"), (&nas, "desk")] {
        assert_eq!(way(host, other, "relayed")["via"], "nas", "{} to {other}", host.name);
    }
}

#[test]
fn homes_without_any_way_in_meet_by_a_relay_of_strangers_and_talk_directly() {
    if !lab_or_skip("homes_without_any_way_in_meet_by_a_relay_of_strangers_and_talk_directly") {
        return;
    }
    let homes = "seed 1\nhost relay\nhome attic nat=shifted\nhome flat nat=cone\nhome office nat=cone udp=blocked\n\
                 host nas in attic\nhost laptop in flat\nhost desk in office\n";
    let network = netsim::Lab::up(homes).expect("a lab");
    // Nobody of the mesh: whoever knows it may use it.
    let relay =
        network.inside("relay", || netsim::relay::start(7440)).expect("a host of the lab").expect("a relay");
    let url = format!("http://{}:7440", network.address("relay").expect("a host of the lab"));
    let host = |name: &str| {
        let mut host = Host::new(name, place(&network, name));
        host.env.push(("AGENT_RELAY_FALLBACK".into(), format!("{url}{}", relay.pinned)));
        host
    };
    let join = |name: &str, token: &str| {
        let mut host = host(name);
        host.agent(&["join", token, "--name", name]).expect(0);
        host.start();
        host
    };
    let mut nas = host("nas");
    nas.agent(&["init", "--name", "nas"]).expect(0);
    nas.start();
    let made = nas.json(&["token", "create"]);
    assert!(made["addresses"].to_string().contains("relay"), "{made}");
    let token = made["token"].as_str().expect("a text").to_owned();

    let mut laptop = join("laptop", &token);
    way(&laptop, "nas", "direct");
    way(&nas, "laptop", "direct");
    let desk = join("desk", &token);
    let told = way(&desk, "nas", "relayed");
    assert_eq!(told["via"], "fallback", "{told}");
    assert!(told["address"].as_str().expect("a URL").starts_with(&url), "{told}");
    let said = desk.agent(&["net", "paths"]).expect(0).stdout;
    assert!(said.contains("relayed via fallback"), "{said}");

    // All off at once, the first is started last: the others meet without it.
    let mut nas = nas;
    nas.stop();
    laptop.stop();
    laptop.start();
    way(&laptop, "desk", "relayed");
    nas.start();
    way(&laptop, "nas", "direct");
    drop(relay);
}
