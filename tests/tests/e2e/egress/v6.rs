//! IPv6 of a guest: out while its host has a way, told at once while it has none.

use std::net::Ipv6Addr;

use super::*;

const TOPOLOGY: &str = r#"
session = "six"

[machines.out]
image = "tiny"
memory = "128MiB"
"#;
const SITE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x80);
/// The router of the host's network, which is `SITE` as well.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
const NAS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5);

#[test]
fn a_guest_goes_out_by_ipv6_while_its_host_has_a_way_and_is_told_at_once_while_it_has_none() {
    if !lab_or_skip("a_guest_goes_out_by_ipv6_while_its_host_has_a_way_and_is_told_at_once_while_it_has_none")
    {
        return;
    }
    let lab = netsim::Lab::up("host site\nhost nas").expect("a lab");
    for host in ["site", "nas"] {
        let on = "for wire in all default eth0; do echo 0 >/proc/sys/net/ipv6/conf/$wire/disable_ipv6; done";
        in_shell(&lab, host, on);
    }
    let address = |of: Ipv6Addr| format!("ip addr add {of}/64 dev eth0 nodad");
    in_shell(&lab, "site", &format!("{}; {}", address(ROUTER), address(SITE)));
    serve_pages(&lab, "site", SITE.into(), Arc::default());
    serve_pages(&lab, "site", ROUTER.into(), Arc::default());
    let known = BTreeMap::from([("site", Ipv4Addr::new(203, 0, 113, 80))]);
    let asked = serve_names(&lab, "site", SITE.into(), known);
    allow_pings(&lab, "nas");

    let host = Host::first("nas", Place::Namespace(lab.namespace("nas").expect("a host of the lab")));
    host.import_tiny();
    let file = host.topology(TOPOLOGY);
    host.agent(&["session", "up", &file]).expect(0);
    let seconds = |tried: &str| tried.rsplit("took ").next().and_then(|took| took.trim().parse::<u64>().ok());
    let told_at_once = || {
        let tried = host.ssh("out-1", &timed(&format!("wget -q -O - http://[{SITE}]/page 2>&1")));
        assert!(!tried.contains("hello") && seconds(&tried).is_some_and(|took| took <= 2), "{tried}");
    };

    told_at_once();
    in_shell(&lab, "nas", &format!("{}; ip -6 route add default via {ROUTER}", address(NAS)));
    eventually(Duration::from_secs(20), "the guest goes out by IPv6", || {
        let page = host.ssh("out-1", &format!("timeout 10 wget -q -O - http://[{SITE}]/page 2>&1; true"));
        if page == "hello /page" { Ok(()) } else { Err(page) }
    });
    let ping = host.ssh("out-1", &format!("ping -c 1 -W 2 {SITE} 2>&1; true"));
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    host.ssh("out-1", &format!("nslookup -type=a site.example {SITE}"));
    assert_eq!(asked.count("site"), 1, "a datagram went out and came back");

    // Its host, and who is on its host's wire.
    serve_pages(&lab, "nas", NAS.into(), Arc::default());
    for near in [NAS, ROUTER] {
        let tried = host.ssh("out-1", &timed(&format!("wget -q -O - http://[{near}]/page 2>&1")));
        assert!(!tried.contains("hello"), "{near}: {tried}");
    }

    in_shell(&lab, "nas", "ip -6 route del default");
    eventually(Duration::from_secs(20), "it is seen that the way is gone", || {
        let tried = host.ssh("out-1", &timed(&format!("wget -q -O - http://[{SITE}]/page 2>&1")));
        if tried.contains("hello") { Err(tried) } else { Ok(()) }
    });
    told_at_once();
}

/// Says how many seconds a command of a guest took.
fn timed(command: &str) -> String {
    let now = "$(cut -d. -f1 /proc/uptime)";
    format!("begin={now}; timeout 10 {command}; echo took $(({now} - begin))")
}
