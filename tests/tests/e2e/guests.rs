//! Guests among themselves: by IPv6 as by IPv4, over two homes, while agents and paths come and go, and never beyond
//! their own session.

use std::{net::Ipv6Addr, time::Duration};

use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip, tiny_topology};

const ALL: [&str; 3] = ["vps", "nas", "laptop"];
/// Lines of a slow page, one every half second.
const LINES: usize = 60;

#[test]
fn guests_reach_each_other_by_ipv6_and_what_they_began_outlives_agents_and_paths() {
    if !lab_or_skip("guests_reach_each_other_by_ipv6_and_what_they_began_outlives_agents_and_paths") {
        return;
    }
    let mut lab = Lab::joined();
    lab.vps.import_tiny();
    for (session, count) in [("shop", 3), ("other", 1)] {
        let topology = lab.vps.topology(&tiny_topology(session, count));
        lab.vps.agent(&["session", "up", &topology]).expect(0);
    }
    lab.session_is(&ALL, "shop", "healthy");
    let placed = lab.vps.session("shop");
    let of = |host: &str| machine_on(&placed, host);
    let [here, there] = [of("nas"), of("laptop")].map(|machine| (address_v6(&lab.vps, &machine), machine));

    names_lead_to_both_addresses(&lab.vps, &here, &there);
    the_largest_packets_cross_two_homes(&lab.vps, &here.1, there.0);
    let public = address_v6(&lab.vps, &of("vps"));
    a_way_that_gets_narrow_is_followed(&lab, &here.1, public);
    nobody_of_another_session_is_reached(&lab.vps, &placed, &there);
    a_download_outlives_agents_and_paths(&mut lab, &here.1, there);

    lab.vps.agent(&["session", "down", "other", "--yes"]).expect(0);
    lab.vps.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

fn machine_on(status: &Value, host: &str) -> String {
    let rows = status["machines"].as_array().expect("machines");
    let row =
        rows.iter().find(|row| row["host"] == host).unwrap_or_else(|| panic!("none on {host}: {status}"));
    format!("shop/{}", row["name"].as_str().expect("a name"))
}

/// Runs a command while the way to the machine may be broken: what came of it is told, not judged.
fn tried(host: &Host, machine: &str, command: &str) -> String {
    let answer = host.agent(&["machine", "ssh", machine, "--", command]);
    if answer.code == 0 { answer.stdout } else { format!("{answer:?}") }
}

/// Gives the only IPv6 address of the session that a guest made itself.
fn address_v6(host: &Host, machine: &str) -> Ipv6Addr {
    let mut found = None;
    eventually(Duration::from_secs(30), &format!("{machine} has an IPv6 address"), || {
        let told = host.ssh(machine, "ip -6 addr show dev eth0 scope global | grep -v tentative");
        let words: Vec<&str> = told.split_whitespace().collect();
        let mut all = words.windows(2).filter(|pair| pair[0] == "inet6").map(|pair| pair[1]);
        let first = all.next().and_then(|address| address.strip_suffix("/64")?.parse::<Ipv6Addr>().ok());
        found = first.filter(|address| address.octets()[0] == 0xfd && all.next().is_none());
        found.map(drop).ok_or(told)
    });
    found.expect("an address")
}

fn names_lead_to_both_addresses(
    host: &Host,
    (from_address, from): &(Ipv6Addr, String),
    (to_address, to): &(Ipv6Addr, String),
) {
    let name = format!("{}.shop.mesh.internal", to.trim_start_matches("shop/"));
    eventually(Duration::from_secs(30), &format!("{name} has an IPv6 address"), || {
        let told = host.ssh(from, &format!("nslookup {name}; nslookup {to_address}; true"));
        let all = told.contains(&to_address.to_string())
            && told.contains("Address: 10.")
            && told.contains(&format!("name = {name}"));
        if all { Ok(()) } else { Err(told) }
    });
    let page = host.ssh(from, &format!("wget -q -O - 'http://[{to_address}]:8080/'"));
    assert!(page.contains(to.trim_start_matches("shop/")), "{page}");
    let gateway = Ipv6Addr::from_bits(from_address.to_bits() >> 64 << 64 | 1);
    let told = host.ssh(from, &format!("ping -6 -c 1 -W 5 {gateway}; nslookup {name} {gateway}"));
    assert!(told.contains(" 0% packet loss") && told.contains(&to_address.to_string()), "{told}");
}

/// No datagram between hosts holds 1280 bytes of a guest and our own words on a path as narrow as QUIC allows.
fn the_largest_packets_cross_two_homes(host: &Host, from: &str, to: Ipv6Addr) {
    for bytes in [56, 1232] {
        let told = host.ssh(from, &format!("ping -6 -c 5 -i 0.2 -W 5 -s {bytes} {to}"));
        assert!(told.contains(" 0% packet loss"), "{bytes}: {told}");
    }
    // One byte more goes in two, cut by the guest itself.
    let told = host.ssh(from, &format!("ping -6 -c 2 -i 0.2 -W 5 -s 2000 {to}"));
    assert!(told.contains(" 0% packet loss"), "{told}");
}

/// What is too long for a path that got narrow is lost until QUIC notices; then it goes in two, and whole where it fits.
fn a_way_that_gets_narrow_is_followed(lab: &Lab, from: &str, to: Ipv6Addr) {
    let tell = || {
        let before = sent_to_vps(lab);
        let told = tried(&lab.vps, from, &format!("ping -6 -c 5 -i 0.2 -W 5 -s 1232 {to}"));
        let after = sent_to_vps(lab);
        (told.contains(" 0% packet loss"), after.1 - before.1, format!("{before:?} {after:?} {told}"))
    };
    eventually(Duration::from_secs(60), "the largest packets go whole", || match tell() {
        (true, 0, _) => Ok(()),
        (.., why) => Err(why),
    });
    lab.narrow("nas", 1300);
    eventually(Duration::from_secs(60), "the largest packets go in two", || match tell() {
        (true, 5.., _) => Ok(()),
        (.., why) => Err(why),
    });
    lab.narrow("nas", 1500);
}

/// Gives how many packets nas sent to vps, to which it has a way without a relay, and how many of them in two.
fn sent_to_vps(lab: &Lab) -> (u64, u64) {
    let flows = lab.nas.json(&["net", "flows"]);
    let hosts = flows["hosts"].as_array().expect("hosts");
    let row = hosts.iter().find(|row| row["host"] == "vps").unwrap_or_else(|| panic!("{flows}"));
    let count = |value: &Value| value.as_u64().expect("a count");
    (count(&row["sent"]["packets"]), count(&row["in_two"]))
}

fn nobody_of_another_session_is_reached(host: &Host, shop: &Value, (v6, there): &(Ipv6Addr, String)) {
    let rows = shop["machines"].as_array().expect("machines");
    let name = there.trim_start_matches("shop/");
    let v4 = rows.iter().find(|row| row["name"] == name).expect("a machine")["address"].clone();
    let v4 = v4.as_str().expect("an address");
    for (address, url) in
        [(v4, format!("http://{v4}:8080/")), (&v6.to_string(), format!("http://[{v6}]:8080/"))]
    {
        let tried = host.ssh(
            "other/web-1",
            &format!("ping -c 1 -W 2 {address} 2>&1; timeout 5 wget -q -O - {url} 2>&1 || echo not"),
        );
        assert!(tried.contains("not") && !tried.contains(" 0% packet loss"), "{address}: {tried}");
    }
    let named = host.ssh("other/web-1", &format!("nslookup {name}.shop.mesh.internal 2>&1; true"));
    assert!(named.contains("NXDOMAIN"), "{named}");
}

fn a_download_outlives_agents_and_paths(lab: &mut Lab, from: &str, (address, to): (Ipv6Addr, String)) {
    let page = format!(
        "cat >/srv/www/cgi-bin/slow <<'END'\n#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nn=0\n\
         while [ $n -lt {LINES} ]; do n=$((n + 1)); echo line $n; sleep 0.5; done\nEND\n\
         chmod +x /srv/www/cgi-bin/slow"
    );
    lab.vps.ssh(&to, &page);
    let begin = format!(
        "(wget -q -O /tmp/got 'http://[{address}]:8080/cgi-bin/slow'; echo $? >/tmp/ended) \
         >/dev/null 2>&1 </dev/null & sleep 3; wc -l </tmp/got"
    );
    let first: usize = lab.vps.ssh(from, &begin).trim().parse().expect("a count");
    assert!(first < LINES / 2, "it is slow: {first}");

    lab.laptop.stop();
    lab.laptop.start();
    lab.nas.kill();
    lab.nas.start();
    lab.cut("nas");
    lab.sees(&lab.vps, "nas", "down");
    lab.mend("nas");
    lab.settled();
    eventually(Duration::from_secs(120), "the download ends", || {
        let told = tried(&lab.vps, from, "cat /tmp/ended; wc -l </tmp/got");
        let whole = format!("0\n{LINES}\n");
        if told == whole { Ok(()) } else { Err(told) }
    });
    the_way_is_counted(lab, from, address);
}

/// What was carried between two hosts is counted on both sides, and what one machine sent is its own.
fn the_way_is_counted(lab: &Lab, from: &str, to: Ipv6Addr) {
    lab.vps.ssh(from, &format!("ping -6 -c 10 -i 0.2 {to}"));
    let flows = lab.nas.json(&["net", "flows"]);
    let rows = |list: &str| flows[list].as_array().unwrap_or_else(|| panic!("{list} in {flows}")).clone();
    let hosts = rows("hosts");
    let laptop = hosts.iter().find(|row| row["host"] == "laptop").unwrap_or_else(|| panic!("{flows}"));
    for way in ["sent", "received"] {
        let [packets, bytes] = ["packets", "bytes"].map(|what| laptop[way][what].as_u64().expect("a count"));
        assert!(packets >= 10 && bytes > packets * 40, "{flows}");
    }
    let machine = from.trim_start_matches("shop/");
    let machines = rows("machines");
    let row = machines.iter().find(|row| row["machine"] == machine && row["session"] == "shop").expect("it");
    for way in ["sent", "received"] {
        assert!(row["inside"][way]["packets"].as_u64().is_some_and(|packets| packets > 20), "{flows}");
    }
}
