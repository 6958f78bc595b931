//! A host whose own networks leave no room where guests usually live.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use tests::{Host, Place, http_get, lab_or_skip, tiny_topology};

#[test]
fn a_vpn_over_all_of_10_refuses_no_session() {
    if !lab_or_skip("a_vpn_over_all_of_10_refuses_no_session") {
        return;
    }
    let network = netsim::Lab::up("host solo").expect("a lab");
    let namespace = network.namespace("solo").expect("a host of the lab");
    for words in ["tuntap add dev vpn0 mode tun", "addr add 10.8.0.2/8 dev vpn0", "link set vpn0 up"] {
        let mut command = Command::new("ip");
        command.args(["-n", &namespace]).args(words.split(' '));
        assert!(command.status().expect("ip").success(), "{words}");
    }
    let host = Host::first("solo", Place::Namespace(namespace));
    host.import_tiny();
    let file = host.topology(&tiny_topology("shop", 2));
    let plan = host.json(&["session", "plan", &file]);
    assert_eq!(plan["obstacles"], serde_json::json!([]), "{plan}");
    host.agent(&["session", "up", &file]).expect(0);
    let status = host.json(&["session", "status", "shop"]);
    let subnet = status["subnet"].as_str().expect("a network");
    assert!(subnet.starts_with("172."), "{subnet}");
    let inside = host.agent(&["machine", "ssh", "web-1", "--", "ping -c 1 -W 5 web-2 && ip addr"]).expect(0);
    assert!(inside.stdout.contains(" 172."), "{inside:?}");
    let forward = host.agent(&["dns", "query", "web.shop.mesh.internal"]).expect(0).stdout;
    let address = forward.lines().next().expect("an address");
    let address: IpAddr = address.parse().expect("an address");
    let page =
        network.inside("solo", move || http_get(SocketAddr::new(address, 8080), "/")).expect("the host");
    assert!(page.expect("a page").0.contains("200"));
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}
