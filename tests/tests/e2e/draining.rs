//! A machine that is to stop: whoever is connected may finish, and nobody else is led there.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{BOOT, Host, Place, eventually, lab_or_skip, tiny_topology};

/// The guest's answer, on a host that does much else.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_machine_that_is_to_stop_lets_connections_end_and_gets_no_new_ones() {
    if !lab_or_skip("a_machine_that_is_to_stop_lets_connections_end_and_gets_no_new_ones") {
        return;
    }
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    let echo = "memory = \"128MiB\"\nsetup = [\"nc -ll -p 7001 -e cat >/dev/null 2>&1 </dev/null &\"]";
    let mut topology = tiny_topology("shop", 1).replace("memory = \"128MiB\"", echo);
    topology
        .push_str("\n[machines.web.services.echo]\nport = 7001\nready = { tcp = true, interval = \"1s\" }\n");
    host.agent(&["session", "up", &host.topology(&topology)]).expect(0);

    let row = echo_row(&host);
    assert_eq!((&row["ready"], &row["draining"]), (&1.into(), &0.into()), "{row}");
    let text = |key: &str| row[key].to_string().replace('"', "");
    let here: SocketAddr =
        format!("{}:{}", text("address_here"), text("port_here")).parse().expect("an address");
    let mut open = connect(here);
    said_back(&mut open, "before").expect("an echo");

    let stopping = host.begin(&["machine", "stop", "web-1"]);
    eventually(SOON, "the list says that it drains", || {
        let row = echo_row(&host);
        if row["draining"] == 1 && row["ready"] == 0 { Ok(()) } else { Err(row.to_string()) }
    });
    said_back(&mut open, "meanwhile").expect("what is under way goes on");
    said_back(&mut connect(here), "new").expect_err("nobody new is led there");

    let left = Instant::now();
    drop(open);
    stopping.ended(BOOT).expect(0);
    host.reaches("web-1", "stopped");
    eprintln!("stopped {:?} after the last one left", left.elapsed());
    assert_eq!(echo_row(&host)["draining"], 0);
}

fn echo_row(host: &Host) -> Value {
    let list = host.json(&["service", "list"]);
    let rows = list["services"].as_array().expect("a list").clone();
    rows.into_iter().find(|row| row["name"] == "echo").expect("the service")
}

fn connect(here: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(here).expect("a listener");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    stream
}

/// Says a word and hears it.
fn said_back(stream: &mut TcpStream, word: &str) -> std::io::Result<()> {
    stream.write_all(word.as_bytes())?;
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(String::from_utf8_lossy(&heard), word);
    Ok(())
}
