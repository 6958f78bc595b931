//! A service that is reached by UDP, from a host in another home.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use tests::{BOOT, Host, Lab, eventually, lab_or_skip, tiny_topology};

/// Longer than a datagram and its answer take through two homes.
const SOON: Duration = Duration::from_secs(2);
/// The port of [`ECHO`] in the machine.
const PORT: u16 = 7007;
/// A program for x86-64 that says back every datagram to its port: socket, bind, then recvfrom and sendto for ever. No
/// tool of the guest serves UDP.
const ECHO: &str = "b829000000bf02000000be0200000031d20f0589c34881ec00060000c7042402001b5fc7442404000000\
    0048c744240800000000b83100000089df4889e6ba100000000f05c744241010000000b82d00000089df488d742420ba780500004531d2\
    4989e04c8d4c24100f0589c2b82c00000089df488d7424204531d24989e041b9100000000f05ebbc";

#[test]
fn a_udp_service_answers_programs_of_a_host_in_another_home() {
    if !lab_or_skip("a_udp_service_answers_programs_of_a_host_in_another_home") {
        return;
    }
    let lab = Lab::joined();
    lab.nas.import_tiny();
    fs::write(lab.nas.scratch().join("echo"), program()).expect("a file");
    let service = format!("[machines.web.services.echo]\nport = {PORT}\nprotocol = \"udp\"\n");
    let echo = "memory = \"128MiB\"\nfiles = { \"/etc/echo\" = { source = \"echo\", mode = \"0755\" } }\n\
                setup = [\"/etc/echo >/dev/null 2>&1 </dev/null &\"]";
    let topology = tiny_topology("shop", 1)
        .replace("memory = \"128MiB\"", echo)
        .replace("place = { spread = \"host\" }", "place = { hosts = [\"nas\"] }");
    lab.nas.agent(&["session", "up", &lab.nas.topology(&format!("{topology}{service}"))]).expect(0);

    for host in [&lab.nas, &lab.laptop] {
        let here = listed(host);
        let answer =
            eventually(BOOT, &format!("an answer on {}", host.name), || said_back(&lab, host, here, "hello"));
        assert_eq!(answer, "hello");
        let long = "x".repeat(1252);
        assert_eq!(eventually(BOOT, "a long one", || said_back(&lab, host, here, &long)), long);
    }
    let opened = lab.laptop.agent(&["service", "open", "echo.web.shop"]).expect(0);
    assert_eq!(opened.stdout.trim(), format!("udp://{}", listed(&lab.laptop)));
    let refused = lab.laptop.agent(&["service", "forward", "0:echo.web.shop"]).expect(4);
    assert!(refused.stderr.contains("hint: agent service open echo.web.shop"), "{refused:?}");

    let here = listed(&lab.laptop);
    lab.nas.agent(&["machine", "stop", "shop/web-1"]).expect(0);
    lab.nas.reaches("web-1", "stopped");
    said_back(&lab, &lab.laptop, here, "nobody").expect_err("no machine is there");
}

fn program() -> Vec<u8> {
    let code: Vec<u8> = (0..ECHO.len() / 2)
        .map(|at| u8::from_str_radix(&ECHO[2 * at..2 * at + 2], 16).expect("hex"))
        .collect();
    let (base, before) = (0x40_0000_u64, 120_u64);
    let length = before + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable of x86-64 with one segment, which is all of the file.
    file.extend([2_u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([base + before, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend([0, base, base, length, length, 0x1000].map(u64::to_le_bytes).concat());
    file.extend(code);
    file
}

/// Tells where a host reaches the service.
#[track_caller]
fn listed(host: &Host) -> SocketAddr {
    eventually(BOOT, &format!("{} lists it", host.name), || {
        let list = host.json(&["service", "list"]);
        let rows = list["services"].as_array().expect("a list").clone();
        let row = rows.into_iter().find(|row| row["name"] == "echo").ok_or("no service")?;
        let text = |value: &Value| value.to_string().replace('"', "");
        assert_eq!(row["protocol"], "udp", "{row}");
        let here = format!("{}:{}", text(&row["address_here"]), text(&row["port_here"]));
        here.parse().map_err(|error| format!("{error}: {row}"))
    })
}

/// Says something from where `host` is, and gives what comes back.
fn said_back(lab: &Lab, host: &Host, here: SocketAddr, what: &str) -> Result<String, String> {
    let what = what.to_owned();
    lab.inside(host, move || -> std::io::Result<String> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(here)?;
        socket.send(what.as_bytes())?;
        let mut buffer = [0; 2000];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
    .map_err(|error| error.to_string())
}
