//! One host from an empty directory to a running shop and back: every verb a person uses on the way,
//! and what each shows to programs.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;
use tests::{Answer, BOOT, Host, Place, eventually, http_get};

/// Anonymous memory of a shim whose machine is ready: there are as many shims on a host as machines.
const SHIM_KIB: u64 = 5 * 1024;

/// Copies the example to the host, so that the story can edit it.
fn shop(host: &Host) -> String {
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("examples/shop");
    for name in ["topology.toml", "index.cgi", "stock.txt"] {
        fs::copy(example.join(name), host.scratch().join(name)).expect("the example");
    }
    host.scratch().join("topology.toml").to_str().expect("UTF-8").to_owned()
}

/// Changes the topology as an editor would.
#[track_caller]
fn edit(file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("the topology");
    assert!(text.contains(from), "no {from:?} in\n{text}");
    fs::write(file, text.replace(from, to)).expect("the topology");
}

/// Asserts that an object has all these fields; `null` counts, absent does not.
#[track_caller]
fn has(object: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        assert!(object.get(field).is_some(), "no {field:?} in {object}");
    }
}

#[track_caller]
fn list<'a>(object: &'a Value, field: &str) -> &'a Vec<Value> {
    object[field].as_array().unwrap_or_else(|| panic!("no list {field:?} in {object}"))
}

#[track_caller]
fn texts<'a>(rows: &'a [Value], field: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[field].as_str().unwrap_or_else(|| panic!("{field:?} of {row}"))).collect()
}

/// The address that this host's name server gives for a name.
#[track_caller]
fn address(host: &Host, name: &str) -> std::net::IpAddr {
    let answer = host.agent(&["dns", "query", name]).expect(0);
    let line = answer.stdout.lines().next().expect("an address");
    line.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn an_empty_host_lists_nothing_and_is_content() {
    let mut host = Host::new("nas", Place::Here);
    let made = host.json(&["init", "--name", "nas", "--mesh", "home", "--tag", "room=attic"]);
    has(&made, "mesh host recovery");
    assert_eq!((&made["mesh"]["name"], &made["host"]["name"]), (&"home".into(), &"nas".into()));
    assert_eq!(made["host"]["id"].as_str().map(str::len), Some(64));
    assert!(made["recovery"].as_str().is_some_and(|phrase| phrase.len() > 40), "{made}");
    host.start();
    for (noun, field) in [
        ("session", "sessions"),
        ("machine", "machines"),
        ("image", "images"),
        ("service", "services"),
        ("token", "tokens"),
    ] {
        assert_eq!(list(&host.json(&[noun, "list"]), field), &Vec::<Value>::new(), "{noun} list");
        host.agent(&[noun, "list"]).expect(0);
    }
    let hosts = host.json(&["host", "list"]);
    assert_eq!(texts(list(&hosts, "hosts"), "name"), ["nas"]);

    let status = host.json(&["status"]);
    has(&status, "mesh host dns members sessions");
    has(&status["host"], "id name version accelerator");
    assert!(status["dns"].as_str().is_some_and(|dns| dns.parse::<SocketAddr>().is_ok()), "{status}");
    let me = &list(&status, "members")[0];
    has(me, "id name state path");
    assert_eq!((&me["id"], &me["state"]), (&made["host"]["id"], &"up".into()));
    assert_eq!(me["path"], serde_json::json!({"kind": "self", "rtt_ms": null, "via": null}));
    host.stop();
    assert!(!host.data().join("api.sock").exists(), "the socket stays");
    assert!(host.runtime().is_none_or(|run| !run.exists()), "the runtime directory stays");
}

#[test]
fn a_shop_runs_on_one_host_is_used_and_leaves_nothing() {
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    let images = host.json(&["image", "list"]);
    let tiny = &list(&images, "images")[0];
    assert_eq!((&tiny["name"], &tiny["here"]), (&"tiny".into(), &true.into()));
    let file = shop(&host);
    the_plan_creates_everything_and_changes_nothing(&host, &file);
    let up = host.agent(&["session", "up", &file]).expect(0);
    each_change_of_state_was_a_line(&up);
    the_session_is_told_in_full(&host);
    a_shim_takes_little_memory_of_its_own(&host);
    a_page_is_made_by_one_guest_with_data_of_another(&host);
    commands_run_in_machines_and_their_exit_codes_come_back(&host);
    the_console_shows_what_was_said_and_takes_keys(&host);
    services_are_listed_and_open(&host);
    up_again_changes_nothing(&host, &file);
    a_machine_stops_and_starts(&host);
    fewer_and_more_machines(&host, &file);
    more_memory_is_there_when_up_returns(&host, &file);
    events_tell_the_story(&host);
    down_leaves_nothing(&host);
}

fn the_plan_creates_everything_and_changes_nothing(host: &Host, file: &str) {
    let plan = host.json(&["session", "plan", file]);
    has(&plan, "changes rejected obstacles fetch index");
    let changes = list(&plan, "changes");
    for change in changes {
        has(change, "machine action host because");
        assert_eq!((&change["action"], &change["host"]), (&"create".into(), &"nas".into()));
        assert!(change["because"].as_str().is_some_and(|because| !because.is_empty()), "{change}");
    }
    assert_eq!(texts(changes, "machine"), ["db-1", "web-1", "web-2"]);
    for nothing in ["rejected", "obstacles", "fetch"] {
        assert!(list(&plan, nothing).is_empty(), "{plan}");
    }
    assert_eq!(plan["index"], 0);
    assert!(list(&host.json(&["session", "list"]), "sessions").is_empty(), "a plan changes nothing");
}

fn the_session_is_told_in_full(host: &Host) {
    let status = host.json(&["session", "status", "shop"]);
    has(&status, "id name generation coordinator voters state machines services");
    assert_eq!(status["state"], "healthy");
    assert_eq!((&status["coordinator"], &status["voters"]), (&"nas".into(), &serde_json::json!(["nas"])));
    for machine in list(&status, "machines") {
        has(machine, "name group host state guard epoch address reason");
        assert_eq!((&machine["state"], &machine["guard"]), (&"ready".into(), &"hold".into()), "{machine}");
    }
    for service in list(&status, "services") {
        has(service, "name group port fqdn address_here port_here");
    }
    let sessions = host.json(&["status"]);
    let row = &list(&sessions, "sessions")[0];
    has(row, "id name state ready machines coordinator");
    assert_eq!((&row["ready"], &row["machines"]), (&3.into(), &3.into()));
}

fn a_shim_takes_little_memory_of_its_own(host: &Host) {
    let held = host.held().expect("what the agent holds");
    assert_eq!(held.shims.len(), 3);
    for shim in held.shims {
        let kib = shim.anonymous_kib.expect("its memory");
        assert!(kib <= SHIM_KIB, "the shim of {} has {kib} KiB of its own", shim.machine);
    }
}

fn a_page_is_made_by_one_guest_with_data_of_another(host: &Host) {
    let web = address(host, "web.shop.mesh.internal");
    assert!(web.to_string().starts_with("127."), "{web} is no address of this host");
    let (status, body) = http_get(SocketAddr::new(web, 8080), "/").expect("a page");
    assert!(status.contains("200"), "{status}");
    assert!(body.contains("served by web-") && body.contains("stock, from db:\n  apples 12"), "{body}");
    let missing = host.agent(&["dns", "query", "nobody.shop.mesh.internal"]).expect(3);
    assert_eq!(missing.stdout, "");
}

fn commands_run_in_machines_and_their_exit_codes_come_back(host: &Host) {
    let answer = host.agent(&[
        "machine",
        "ssh",
        "shop/web-1",
        "--",
        "hostname; wget -q -O - http://db:8080/stock.txt; exit 7",
    ]);
    let answer = answer.expect(7);
    assert!(answer.stdout.starts_with("web-1\napples 12"), "{answer:?}");
    let inside = host.agent(&["machine", "ssh", "db-1", "--", "ping -c 1 -W 5 web-2"]);
    assert_eq!(inside.code, 0, "the other guests have names: {inside:?}");
    let missing = host.agent(&["machine", "ssh", "web-9", "--", "true"]).expect(255);
    assert!(missing.stderr.contains("shop/web-1"), "it says which there are: {missing:?}");
}

fn the_console_shows_what_was_said_and_takes_keys(host: &Host) {
    let mut console = host.begin(&["machine", "console", "db-1"]);
    let shows = |console: &tests::Running, what: &str| {
        eventually(Duration::from_secs(30), &format!("the console shows {what:?}"), || {
            let seen = console.stdout();
            if seen.contains(what) { Ok(()) } else { Err(seen) }
        });
    };
    shows(&console, "ready: db-1");
    console.types("echo typed $((6 * 7))\n");
    shows(&console, "typed 42");
}

fn services_are_listed_and_open(host: &Host) {
    let services = host.json(&["service", "list"]);
    assert_eq!(texts(list(&services, "services"), "name"), ["stock", "http"]);
    let opened = host.json(&["service", "open", "db.shop/stock"]);
    has(&opened, "url address port");
    let text = format!("{}:{}", opened["address"].as_str().expect("an address"), opened["port"]);
    assert_eq!(opened["url"], format!("http://{text}"));
    let (_, body) = http_get(text.parse().expect("an address"), "/stock.txt").expect("the stock");
    assert!(body.starts_with("apples 12"), "{body}");
    host.agent(&["service", "open", "db.shop/nothing"]).expect(3);
}

fn up_again_changes_nothing(host: &Host, file: &str) {
    let plan = host.json(&["session", "plan", file]);
    assert!(list(&plan, "changes").iter().all(|change| change["action"] == "keep"), "{plan}");
    let before = [host.pids("db-1"), host.pids("web-1"), host.pids("web-2")];
    let again = host.json(&["session", "up", file]);
    assert_eq!((&again["generation"], &again["state"]), (&1.into(), &"healthy".into()));
    assert_eq!([host.pids("db-1"), host.pids("web-1"), host.pids("web-2")], before);
}

fn a_machine_stops_and_starts(host: &Host) {
    let row = host.json(&["machine", "stop", "web-2"]);
    assert_ne!(row["state"], "ready", "the answer shows that it stops: {row}");
    host.reaches("web-2", "stopped");
    assert_eq!(host.qemus().get("web-2"), None);
    assert_eq!(host.json(&["session", "status", "shop"])["state"], "healthy", "it was asked for");
    for _ in 0..4 {
        let web = address(host, "web.shop.mesh.internal");
        let (_, body) = http_get(SocketAddr::new(web, 8080), "/").expect("a page");
        assert!(body.contains("served by web-1"), "{body}");
    }
    host.agent(&["machine", "start", "web-2"]).expect(0);
    host.reaches("web-2", "ready");
}

fn fewer_and_more_machines(host: &Host, file: &str) {
    let (db, web) = (host.pids("db-1"), host.pids("web-1"));
    edit(file, "count = 2", "count = 1");
    let plan = host.json(&["session", "plan", file]);
    assert_eq!(texts(list(&plan, "changes"), "action"), ["keep", "keep", "remove"], "{plan}");
    let status = host.json(&["session", "up", file]);
    assert_eq!(texts(list(&status, "machines"), "name"), ["db-1", "web-1"]);
    let dir = host.session_dir().join("web-2");
    eventually(BOOT, "web-2 is gone", || {
        let left = host.qemus();
        if left.contains_key("web-2") || dir.exists() { Err(format!("{left:?}")) } else { Ok(()) }
    });
    edit(file, "count = 1", "count = 2");
    let plan = host.json(&["session", "plan", file]);
    assert_eq!(texts(list(&plan, "changes"), "action"), ["keep", "keep", "create"], "{plan}");
    let status = host.json(&["session", "up", file]);
    let again = &list(&status, "machines")[2];
    assert_eq!(
        (&again["name"], &again["state"], &again["epoch"]),
        (&"web-2".into(), &"ready".into(), &2.into())
    );
    assert_eq!((host.pids("db-1"), host.pids("web-1")), (db, web), "the others were not touched");
}

fn more_memory_is_there_when_up_returns(host: &Host, file: &str) {
    edit(file, "role  = \"database\"", "role  = \"database\"\nmemory = \"160MiB\"");
    let plan = host.json(&["session", "plan", file]);
    let changes = list(&plan, "changes");
    assert_eq!(texts(changes, "action"), ["change", "keep", "keep"], "{plan}");
    assert!(texts(changes, "because")[0].starts_with("in place: memory 128 -> 160 MiB"), "{plan}");
    let (before, web) = (host.pids("db-1"), host.pids("web-1"));
    let status = host.json(&["session", "up", file]);
    assert_ne!(host.pids("db-1"), before, "up returned before the change was made: {status}");
    assert_eq!(host.pids("web-1"), web, "the others were not touched");
    let line = &host.processes("-name db-1.")[0].1;
    assert!(line.contains("size=160M"), "{line}");
}

fn events_tell_the_story(host: &Host) {
    let answer = host.agent(&["events", "--json-lines"]).expect(0);
    let facts: Vec<Value> = answer.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    for fact in &facts {
        has(fact, "seq time host kind");
    }
    for kind in ["agent-started", "image-ready", "plan-committed", "machine-phase"] {
        assert!(facts.iter().any(|fact| fact["kind"] == kind), "no {kind} in\n{}", answer.stdout);
    }
    let seq = facts[facts.len() - 2]["seq"].to_string();
    let last = host.agent(&["events", "--json-lines", "--since", &seq]).expect(0);
    assert_eq!(last.stdout.lines().next(), answer.stdout.lines().last());
}

/// Without a terminal `up` says what happens as it happens: what a machine waits for, then that it is ready.
fn each_change_of_state_was_a_line(up: &Answer) {
    for machine in ["db-1", "web-1", "web-2"] {
        let said: Vec<&str> =
            up.stderr.lines().filter(|line| line.starts_with(&format!("{machine} on nas "))).collect();
        let begun = if machine == "db-1" { "running" } else { "needs db" };
        let begun = said.iter().position(|line| line.contains(begun));
        let ready = said.iter().position(|line| *line == format!("{machine} on nas ready"));
        assert!(begun.is_some() && begun < ready, "{machine}: {}", up.stderr);
    }
}

fn down_leaves_nothing(host: &Host) {
    let refused = host.agent(&["image", "remove", "tiny"]).expect(4);
    assert!(refused.stderr.contains("shop/db-1"), "it says who uses it: {refused:?}");
    host.agent(&["session", "down", "shop"]).expect(0);
    assert_eq!(host.qemus().len() + host.processes(" shim ").len(), 0);
    assert!(host.session_dirs().is_empty(), "{:?}", host.session_dirs());
    let run = host.runtime().expect("a runtime directory");
    let left = fs::read_dir(run).expect("it").flatten().map(|entry| entry.path());
    // The file that says whose it is stays.
    let left: Vec<_> = left.filter(|path| !path.ends_with("data")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(list(&host.json(&["session", "list"]), "sessions").is_empty());
    host.agent(&["session", "status", "shop"]).expect(3);
    host.agent(&["dns", "query", "web.shop.mesh.internal"]).expect(3);
    assert_eq!(host.facts("session-gone").len(), 1);
    host.agent(&["image", "remove", "tiny"]).expect(0);
    assert!(list(&host.json(&["image", "list"]), "images").is_empty());
}
