//! A guest in its host's own network: only where the host's owner allows it, only that network, and never the host.

use super::*;

const TOPOLOGY: &str = r#"
session = "near"

[defaults]
image = "tiny"
memory = "128MiB"

[machines.far]

[machines.near]
egress = "lan"
"#;
const FORBIDDEN: &str = "its owner lets no machine into its network (policy.lan)";

#[test]
fn a_guest_reaches_its_hosts_network_where_the_owner_allows_it_and_nothing_else_on_this_side() {
    if !lab_or_skip(
        "a_guest_reaches_its_hosts_network_where_the_owner_allows_it_and_nothing_else_on_this_side",
    ) {
        return;
    }
    let lab = netsim::Lab::up(NETWORK).expect("a lab");
    let [site, nas, printer] = ["site", "nas", "printer"].map(|name| lab.address(name).expect("a host"));
    for (host, at) in [("site", site), ("printer", printer)] {
        serve_pages(&lab, host, at.into(), Arc::default());
    }
    allow_pings(&lab, "nas");
    let watch = Watch::begin(&lab, nas, printer);
    let place = Place::Namespace(lab.namespace("nas").expect("a host of the lab"));
    let mut host = Host::new("nas", place);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    host.import_tiny();
    let file = host.topology(TOPOLOGY);

    let refused = host.agent(&["session", "up", &file]).expect(4);
    assert!(refused.stderr.contains(FORBIDDEN), "{refused:?}");
    allow(&mut host, true);
    host.agent(&["session", "up", &file]).expect(0);

    let page = |machine: &str, at: Ipv4Addr| {
        host.ssh(machine, &format!("timeout 10 wget -q -O - http://{at}/page 2>/dev/null; echo"))
    };
    assert_eq!(page("near-1", printer), "hello /page\n");
    assert_eq!(page("near-1", site), "hello /page\n");
    assert_eq!((page("far-1", printer), page("far-1", site)), ("\n".into(), "hello /page\n".into()));
    let ping = |machine| host.ssh(machine, &format!("ping -c 1 -W 2 {printer} 2>&1; true"));
    assert!(ping("near-1").contains(" 0% packet loss"), "{}", ping("near-1"));
    assert!(ping("far-1").contains("100% packet loss"), "{}", ping("far-1"));
    for (what, address) in watch.targets().into_iter().filter(|(_, at)| at.ip() != printer) {
        let tried = host.ssh(
            "near-1",
            &format!("timeout 10 wget -q -O - http://{address}/ >/dev/null 2>&1 && echo reached; echo tried"),
        );
        assert_eq!(tried, "tried\n", "{what}");
    }
    watch.nobody_came();
    let named = |machine| host.ssh(machine, "nslookup nas.host.mesh.internal 2>&1; true");
    assert!(named("near-1").contains(&nas.to_string()), "{}", named("near-1"));
    assert!(named("far-1").contains("NXDOMAIN"), "{}", named("far-1"));

    the_owners_word_is_taken_back(&mut host);
}

fn the_owners_word_is_taken_back(host: &mut Host) {
    allow(host, false);
    eventually(Duration::from_secs(60), "the owner's word counts for what runs as well", || {
        let status = host.json(&["session", "status", "near"]);
        let machines = status["machines"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| {
            let row = machines.iter().find(|row| row["machine"] == name || row["name"] == name);
            row.map(|row| (row["state"].to_string(), row["reason"].to_string())).unwrap_or_default()
        };
        let ((near, why), (far, _)) = (of("near-1"), of("far-1"));
        let told = near.contains("waiting") && why.contains("policy.lan") && far.contains("ready");
        if told { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Starts the agent again with another word of its owner.
fn allow(host: &mut Host, lan: bool) {
    host.stop();
    fs::write(host.data().join("config.toml"), format!("[policy]\nlan = {lan}\n")).expect("a file");
    host.start();
}
