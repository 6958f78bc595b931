//! By which way hosts are reached, as `agent net paths` and `agent net ping` tell it: straight, through the relay of a
//! member, or not at all.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

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

/// Two homes that find each other, and a relay beside them.
const HOMES: &str = "host vps\nhome attic nat=cone delay=4ms\nhome flat nat=cone delay=4ms\nhost nas in attic\nhost laptop in flat\n";
/// What `nas` publishes.
const ECHO: &str = "echo.nas.host.mesh.internal";
const PORT: u16 = 8096;
/// The promise is three seconds; a loaded machine takes its time.
const GAP: Duration = Duration::from_secs(6);

#[test]
fn a_direct_way_that_is_cut_or_too_narrow_is_left_for_the_relay_and_told_with_its_reason() {
    if !lab_or_skip("a_direct_way_that_is_cut_or_too_narrow_is_left_for_the_relay_and_told_with_its_reason") {
        return;
    }
    let lab = Lab::joined_on(HOMES);
    eventually(PATIENCE, "the homes reach each other directly", || is(&lab.laptop, "nas", "direct"));
    serve(&lab);
    lab.nas.agent(&["service", "publish", "echo", "--port", &PORT.to_string()]).expect(0);
    let here = eventually(PATIENCE, "laptop reaches what nas publishes", || reached(&lab, &lab.laptop));

    // A conversation goes on through the relay, and loses nothing.
    let talk = lab.inside(&lab.laptop, move || TcpStream::connect(here)).expect("a connection");
    let talking = thread::spawn(move || longest_gap(talk, 200));
    lab.play("wait 1s\nsplit nas | laptop");
    let gap = talking.join().expect("no panic").expect("every byte comes back");
    assert!(gap < GAP, "nothing came for {gap:?}");
    eventually(PATIENCE, "the relay carries it", || is(&lab.laptop, "nas", "relayed"));
    eventually(PATIENCE, "that is told", || told(&lab.laptop, "nas", "path.degraded", "direct-silent"));

    // Small packets pass between nas and vps, and longer ones vanish.
    assert_eq!(is(&lab.vps, "nas", "direct"), Ok(()));
    let here = eventually(PATIENCE, "vps reaches what nas publishes", || reached(&lab, &lab.vps));
    lab.play("block attic udp 1124");
    eventually(PATIENCE, "what is long arrives again", || reached(&lab, &lab.vps));
    assert!(lab.inside(&lab.vps, move || converse(here, 100_000)).is_ok());
    eventually(PATIENCE, "and the way is not called direct", || is(&lab.vps, "nas", "relayed"));

    let check = lab.nas.json(&["net", "check"]);
    assert_eq!((&check["udp"], &check["standing"]), (&"works".into(), &"well".into()), "{check}");
    let rtts = lab.vps.json(&["host", "rtt"]);
    assert_eq!(rtts["hosts"], serde_json::json!(["laptop", "nas", "vps"]), "{rtts}");
    assert_eq!(rtts["rtts"].as_array().map(Vec::len), Some(6), "{rtts}");
}

fn is(host: &Host, member: &str, kind: &str) -> Result<(), String> {
    let row = row(host, member);
    if row["kind"] == kind { Ok(()) } else { Err(row.to_string()) }
}

fn told(host: &Host, member: &str, kind: &str, code: &str) -> Result<(), String> {
    let events = host.agent(&["events", "--json-lines"]).expect(0).stdout;
    let is_told = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("a fact");
        event["kind"] == kind && event["member"] == member && event["why"]["code"] == code
    };
    if events.lines().any(is_told) { Ok(()) } else { Err(events) }
}

/// Listens on the loopback of `nas`, and gives everybody back what they say.
fn serve(lab: &Lab) {
    let listener =
        lab.inside(&lab.nas, || TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone()?, stream);
                std::io::copy(&mut from, &mut to)
            });
        }
    });
}

/// Says something there that fills many packets, and gets it back.
fn reached(lab: &Lab, host: &Host) -> Result<SocketAddr, String> {
    let address = host.addresses(ECHO).first().cloned().ok_or("no address yet")?;
    let here = SocketAddr::new(address.parse().expect("an address"), PORT);
    lab.inside(host, move || converse(here, 20_000)).map_err(|error| error.to_string())?;
    Ok(here)
}

fn converse(here: SocketAddr, bytes: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(here)?;
    stream.set_read_timeout(Some(GAP))?;
    stream.set_write_timeout(Some(GAP))?;
    let said = vec![7; bytes];
    let mut heard = vec![0; bytes];
    stream.write_all(&said)?;
    stream.read_exact(&mut heard)?;
    if heard == said { Ok(()) } else { Err(std::io::Error::other("something else came back")) }
}

/// Talks for so many turns, and gives the longest time that one took.
fn longest_gap(mut stream: TcpStream, turns: u32) -> std::io::Result<Duration> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut longest = Duration::ZERO;
    for turn in 0..turns {
        let (said, start) = ([turn.to_be_bytes(); 64].concat(), Instant::now());
        let mut heard = vec![0; said.len()];
        stream.write_all(&said)?;
        stream.read_exact(&mut heard)?;
        assert_eq!(heard, said, "turn {turn}");
        longest = longest.max(start.elapsed());
        thread::sleep(Duration::from_millis(30));
    }
    Ok(longest)
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
