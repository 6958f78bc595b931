//! The main job: three hosts behind different NATs, one token, one topology, guests that find each
//! other, names that answer everywhere, and nothing left afterwards.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proto::time::Timestamp;
use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip};

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop/topology.toml");
/// How late a name may be after the machine's readiness.
const NAMES_WITHIN_MS: u64 = 2000;

#[test]
fn a_session_spans_two_homes_and_answers_everywhere() {
    if !lab_or_skip("a_session_spans_two_homes_and_answers_everywhere") {
        return;
    }
    let lab = Lab::joined();
    every_member_shows_a_path(&lab);
    image_reaches_every_host(&lab);
    plan_gives_reasons(&lab.nas);

    let copies = lab.copies();
    let watched = lab.hosts().map(|host| watch_name(host, "web-1.shop.mesh.internal"));
    let start = Instant::now();
    let up = lab.nas.agent(&["session", "up", SHOP]).expect(0);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "ready after {took:?}\n{}", up.stderr);

    let status = placed_on_three_hosts(&lab);
    let ready = first_ready(&lab, &status, "web-1");
    for watch in watched {
        let (host, found) = watch.join().expect("the name is found");
        assert_soon_after(&ready, found, &format!("web-1 on {host}"));
    }
    names_reach_guests(&lab, &status);
    pages_come_from_every_host(&lab, &status);
    guests_behind_two_nats_are_near(&lab, &status);
    ssh_reaches_every_machine_from_every_host(&lab, &status);

    lab.laptop.agent(&["session", "down", "shop", "--yes"]).expect(0);
    nothing_is_left(&lab);
    copies.never_two();
}

fn every_member_shows_a_path(lab: &Lab) {
    for host in lab.hosts() {
        let what = format!("{} measures a path to everyone", host.name);
        eventually(Duration::from_secs(30), &what, || {
            let status = host.status();
            for member in status["members"].as_array().expect("members") {
                let path = &member["path"];
                let myself = member["name"] == host.name.as_str();
                let right = match path["kind"].as_str() {
                    Some("self") => myself,
                    Some("direct") => !myself && path["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0),
                    Some("relayed") => !myself && path["rtt_ms"].is_number() && path["via"] == "vps",
                    _ => false,
                };
                if !right {
                    return Err(member.to_string());
                }
            }
            Ok(())
        });
    }
}

fn image_reaches_every_host(lab: &Lab) {
    lab.vps.import_tiny();
    for host in lab.hosts() {
        // The import returned, so everyone knows it.
        let images = host.json(&["image", "list"]);
        assert_eq!(images["images"][0]["name"], "tiny", "{} knows {images}", host.name);
    }
}

fn plan_gives_reasons(host: &Host) {
    let plan = host.json(&["session", "plan", SHOP]);
    let changes = plan["changes"].as_array().expect("changes");
    assert_eq!(changes.len(), 3, "{plan}");
    for change in changes {
        assert_eq!(change["action"], "create", "{plan}");
        assert!(change["because"].as_str().is_some_and(|because| !because.is_empty()), "{plan}");
    }
    assert_eq!(plan["obstacles"], Value::Array(vec![]), "{plan}");
    // Two of three hosts lack the image.
    assert_eq!(plan["fetch"].as_array().map(Vec::len), Some(2), "{plan}");
    assert_eq!(host.agent(&["session", "status", "shop"]).code, 3, "a plan changes nothing");
}

/// Asks again and again for the name of a machine, which is there once the machine is ready, and says
/// when that was.
fn watch_name(host: &Host, name: &str) -> thread::JoinHandle<(String, u64)> {
    let mut query = host.cli(&["dns", "query", name]);
    let host = host.name.clone();
    thread::spawn(move || {
        let what = format!("{host} answers");
        eventually(Duration::from_secs(120), &what, || {
            let output = query.output().map_err(|error| error.to_string())?;
            if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
        });
        (host, now_ms())
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("a date")
}

/// Gives when a machine became ready, as its own host wrote it down.
fn first_ready(lab: &Lab, status: &Value, machine: &str) -> String {
    let row = machines(status).iter().find(|row| row["name"] == machine).expect("the machine");
    ready_times(lab.host(text(&row["host"])), machine).first().expect("it became ready").clone()
}

fn ready_times(host: &Host, machine: &str) -> Vec<String> {
    let events = host.agent(&["events", "--json-lines"]).expect(0).stdout;
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let ready = events.filter(|event| {
        event["kind"] == "machine-phase" && event["phase"] == "ready" && event["machine"] == machine
    });
    ready.map(|event| event["time"].as_str().expect("a time").to_owned()).collect()
}

/// Times are RFC 3339 of one length, so they compare as text.
#[track_caller]
fn assert_soon_after(ready: &str, found_ms: u64, what: &str) {
    let earliest = Timestamp(found_ms - NAMES_WITHIN_MS).to_string();
    let found = Timestamp(found_ms);
    assert!(earliest.as_str() <= ready, "{what}: right at {found}, ready at {ready}");
}

fn placed_on_three_hosts(lab: &Lab) -> Value {
    let status = eventually(Duration::from_secs(30), "three voters, known everywhere", || {
        let [first, second, third] = lab.hosts().map(|host| told_by_everyone(host.session("shop")));
        if first["voters"].as_array().map(Vec::len) != Some(3) || first != second || second != third {
            return Err(format!("vps: {first}\nnas: {second}\nlaptop: {third}"));
        }
        Ok(first)
    });
    assert_eq!(status["state"], "healthy", "{status}");
    let mut hosts: Vec<&str> = machines(&status).iter().map(|row| text(&row["host"])).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["laptop", "nas", "vps"], "{status}");
    assert!(machines(&status).iter().all(|row| row["guard"] == "hold"), "{status}");
    status
}

/// Where a service listens differs from host to host; everything else is told by all.
fn told_by_everyone(mut status: Value) -> Value {
    for service in status["services"].as_array_mut().into_iter().flatten() {
        let service = service.as_object_mut().expect("a service");
        service.remove("address_here");
        service.remove("port_here");
    }
    status
}

fn machines(status: &Value) -> &[Value] {
    status["machines"].as_array().expect("machines")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// A machine that becomes ready anew is found by a guest that asks all the time.
fn names_reach_guests(lab: &Lab, status: &Value) {
    for machine in machines(status).iter().filter(|row| row["group"] == "web") {
        let answer = lab.vps.ssh(text(&machine["name"]), "nslookup db; nslookup web.shop.mesh.internal");
        for row in machines(status) {
            assert!(answer.contains(text(&row["address"])), "{row} is not in {answer}");
        }
    }
    let host = machines(status).iter().find(|row| row["name"] == "web-1").expect("web-1");
    let address = text(&host["address"]);
    lab.nas.agent(&["machine", "stop", "web-1"]).expect(0);
    // Where a machine is, its peers know by its own name, ready or not.
    assert!(lab.vps.ssh("db-1", "nslookup web-1").contains(address));
    let gone = format!("while nslookup web | grep -qw {address}; do sleep 0.1; done; echo gone; ");
    let back = format!("until nslookup web | grep -qw {address}; do sleep 0.1; done; echo back; cat");
    let mut asking = lab.vps.cli(&["machine", "ssh", "db-1", "--", &format!("{gone}{back}")]);
    let mut asking = asking.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the agent starts");
    let mut lines = BufReader::new(asking.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "gone");
    lab.laptop.agent(&["machine", "start", "web-1"]).expect(0);
    assert_eq!(next(), "back");
    let found = now_ms();
    drop(asking.stdin.take());
    asking.wait().expect("ssh ends");
    let ready = ready_times(lab.host(text(&host["host"])), "web-1");
    assert_soon_after(ready.last().expect("it is ready"), found, "web-1 in a guest");
    lab.session_is(&["vps", "nas", "laptop"], "shop", "healthy");
}

/// Also from the host that has no machine of that group: three hosts, two web machines, one database.
fn pages_come_from_every_host(lab: &Lab, status: &Value) {
    let stock = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop/stock.txt"));
    let first = stock.lines().next().expect("a line");
    for host in lab.hosts() {
        for name in ["web.shop.mesh.internal", "web-1.shop.mesh.internal", "web-2.shop.mesh.internal"] {
            let addresses = host.addresses(name);
            let address = addresses.first().unwrap_or_else(|| panic!("{} knows no {name}", host.name));
            let address: SocketAddr = format!("{address}:8080").parse().expect("an address");
            let (line, page) = lab.http(host, address, "/").expect("a page");
            assert!(line.contains("200"), "{name} on {}: {line}\n{page}", host.name);
            assert!(page.contains(first), "made with the database's data, on {}: {page}", host.name);
        }
        for service in host.session("shop")["services"].as_array().expect("services") {
            let address = format!("{}:{}", text(&service["address_here"]), service["port_here"]);
            let page = lab.http(host, address.parse().expect("an address"), "/");
            assert!(page.is_ok(), "{service} on {}: {page:?}", host.name);
        }
    }
    assert_eq!(machines(status).len(), 3);
}

fn guests_behind_two_nats_are_near(lab: &Lab, status: &Value) {
    let on = |host: &str| machines(status).iter().find(|row| row["host"] == host).expect("a machine");
    let (here, there) = (on("nas"), on("laptop"));
    let ping = format!("ping -c 10 -i 0.2 {}", text(&there["address"]));
    let answer = lab.vps.ssh(text(&here["name"]), &ping);
    // round-trip min/avg/max = 47.1/48.2/51.0 ms
    let average = answer
        .rsplit_once("min/avg/max = ")
        .and_then(|(_, numbers)| numbers.split('/').nth(1))
        .and_then(|number| number.parse::<f64>().ok())
        .unwrap_or_else(|| panic!("no round trip in {answer}"));
    eprintln!("guest to guest over two NATs: {average} ms");
    assert!(average < 100.0, "{answer}");
    assert!(answer.contains(" 0% packet loss"), "{answer}");
}

fn ssh_reaches_every_machine_from_every_host(lab: &Lab, status: &Value) {
    thread::scope(|scope| {
        for host in lab.hosts() {
            scope.spawn(move || {
                for machine in machines(status) {
                    let name = text(&machine["name"]);
                    assert_eq!(host.ssh(name, "hostname").trim(), name, "from {}", host.name);
                }
                let failing = host.agent(&["machine", "ssh", "shop/db-1", "--", "exit 7"]);
                assert_eq!(failing.code, 7, "{failing:?}");
            });
        }
    });
}

fn nothing_is_left(lab: &Lab) {
    assert!(lab.running().is_empty(), "{:?}", lab.running());
    for host in lab.hosts() {
        let shims = host.processes(" shim ");
        assert!(shims.is_empty(), "on {}: {shims:?}", host.name);
        let sessions = entries(&host.data().join("sessions"));
        assert!(sessions.is_empty(), "on {}: {sessions:?}", host.name);
        let mut sockets = entries(&host.runtime().expect("a runtime directory"));
        // The file that says whose it is stays.
        sockets.retain(|path| !path.ends_with("/data"));
        assert!(sockets.is_empty(), "on {}: {sockets:?}", host.name);
        assert_eq!(host.agent(&["session", "status", "shop"]).code, 3);
        assert_eq!(host.agent(&["dns", "query", "web.shop.mesh.internal"]).code, 3);
        assert_eq!(host.json(&["machine", "list"])["machines"], Value::Array(vec![]));
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().display().to_string()).collect()
}
