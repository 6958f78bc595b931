//! A program of one home that listens on its own computer alone, reached by name from another home.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{Host, Lab, eventually, lab_or_skip};

const PORT: u16 = 8096;
const NAME: &str = "files.nas.host.mesh.internal";
/// Far longer than gossip takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_one_home_publishes_is_reached_from_another_whatever_router_is_between() {
    if !lab_or_skip("what_one_home_publishes_is_reached_from_another_whatever_router_is_between") {
        return;
    }
    let mut lab = Lab::joined();
    serve(&lab);
    assert!(lab.laptop.addresses(NAME).is_empty(), "nobody has published anything");

    let said = lab.nas.agent(&["service", "publish", "files", "--port", &PORT.to_string()]).expect(0);
    assert_eq!(said.stdout.trim(), format!("{NAME}:{PORT}"));
    for host in [&lab.laptop, &lab.vps] {
        let here = reached(&lab, host);
        let row = listed(host).unwrap_or_else(|| panic!("{} lists it", host.name));
        assert_eq!((&row["host"], &row["fqdn"]), (&"nas".into(), &NAME.into()), "{row}");
        assert_eq!(row["address_here"], here.ip().to_string().as_str(), "{row}");
    }
    // Its own addresses mean somebody else in that home, if anybody.
    let here = lab.laptop.addresses(NAME);
    assert_eq!(lab.laptop.addresses("nas.host.mesh.internal"), here);
    assert_eq!(lab.nas.addresses(NAME), ["127.0.0.1"], "on its own host it is where it is");

    // It is its owner's word until that is taken back.
    lab.nas.stop();
    lab.nas.start();
    let here = reached(&lab, &lab.laptop);
    lab.nas.agent(&["service", "unpublish", "files"]).expect(0);
    eventually(PATIENCE, "laptop hears that it is published no more", || {
        let found = lab.laptop.addresses(NAME);
        if found.is_empty() && listed(&lab.laptop).is_none() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let refused = lab.http(&lab.laptop, here, "/");
    assert!(refused.is_err(), "nas connects nobody to what it does not publish: {refused:?}");
}

/// Listens on the loopback of `nas`, and answers whoever comes.
fn serve(lab: &Lab) {
    let listener =
        lab.inside(&lab.nas, || TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 1024];
            let asked = stream.read(&mut head).is_ok_and(|bytes| bytes > 0);
            if asked {
                // Who asked may be gone.
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nfiles of nas").ok();
            }
        }
    });
}

/// Waits until `host` gets the page by its name, and gives the address that it was found at.
#[track_caller]
fn reached(lab: &Lab, host: &Host) -> SocketAddr {
    eventually(PATIENCE, &format!("{} reaches {NAME}", host.name), || {
        let found = host.addresses(NAME);
        let address = found.first().ok_or("the name is not known")?;
        let address: SocketAddr = format!("{address}:{PORT}").parse().map_err(|error| format!("{error}"))?;
        let (_, page) = lab.http(host, address, "/")?;
        if page == "files of nas" { Ok(address) } else { Err(page) }
    })
}

/// Gives the row of `agent service list` of what is published, if there is one.
fn listed(host: &Host) -> Option<Value> {
    host.json(&["service", "list"])["published"].as_array().expect("a list").first().cloned()
}
