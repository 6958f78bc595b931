//! What a person sees who opens a link in the browser of a member: pages of machines by name, without root and without
//! any set-up of names.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use tests::{Host, Place, eventually, programs_or_skip};

const TOPOLOGY: &str = r#"
session = "shop"

[machines.web]
image = "tiny"
memory = "128MiB"
count = 2
services = { http = { port = 8080, ready = { http = "/", interval = "1s", grace = "60s" } } }
"#;

#[test]
fn a_browser_opens_a_machine_by_name_without_any_set_up() {
    let mut host = Host::first("nas", Place::Here);
    host.import_tiny();
    let file = host.topology(TOPOLOGY);
    let up = host.agent(&["session", "up", &file]).expect(0);
    let (url, door) = door(&host);
    assert!(up.stdout.contains(&format!("browse: {url}")), "{up:?}");

    let page = ask(door, "web.shop.localhost", "");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(ask(door, "web-2.shop.localhost", "").starts_with("HTTP/1.1 200"));
    let index = ask(door, "localhost", "");
    assert!(index.contains(&format!("href=\"{url}\"")) && index.contains("2 of 2 ready"), "{index}");
    assert!(ask(door, "web.shop.localhost", "Origin: https://evil.example\r\n").starts_with("HTTP/1.1 403"));
    assert!(ask(door, "evil.example", "").starts_with("HTTP/1.1 421"));
    by_socks(&host, &page);
    in_a_real_browser(&host, &url);

    // One machine less is nobody's business; without any the page says so, and what to do.
    host.agent(&["machine", "stop", "web-1"]).expect(0);
    for _ in 0..4 {
        assert!(ask(door, "web.shop.localhost", "").starts_with("HTTP/1.1 200"));
    }
    host.agent(&["machine", "stop", "web-2"]).expect(0);
    host.reaches("web-2", "stopped");
    let away = ask(door, "web.shop.localhost", "");
    assert!(away.starts_with("HTTP/1.1 503") && away.contains("agent session status"), "{away}");

    host.agent(&["machine", "start", "web-1"]).expect(0);
    host.reaches("web-1", "ready");
    host.stop();
    host.start();
    let (again, door) = self::door(&host);
    assert_eq!(again, url, "a bookmark stays good");
    eventually(Duration::from_secs(20), "the page is back", || {
        let page = ask(door, "web.shop.localhost", "");
        page.starts_with("HTTP/1.1 200").then_some(()).ok_or(page)
    });
    host.agent(&["session", "down", "shop"]).expect(0);
    assert!(ask(door, "web.shop.localhost", "").starts_with("HTTP/1.1 404"));
}

/// The link that `service list` prints, and where its port listens.
fn door(host: &Host) -> (String, SocketAddr) {
    let services = host.json(&["service", "list"]);
    let url = services["services"][0]["url"].as_str().expect("a link").to_owned();
    let port = url.strip_prefix("http://web.shop.localhost:").and_then(|rest| rest.strip_suffix('/'));
    let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{url}"));
    assert_eq!(host.json(&["status"])["browser"], format!("http://localhost:{port}/"));
    (url, ([127, 0, 0, 1], port).into())
}

/// Asks as a browser does that was told a name.
fn ask(door: SocketAddr, name: &str, more: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&door, Duration::from_secs(5)).expect("the front door");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let request =
        format!("GET / HTTP/1.1\r\nHost: {name}:{}\r\nConnection: close\r\n{more}\r\n", door.port());
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The same page through the SOCKS proxy, by the name of the zone.
fn by_socks(host: &Host, page: &str) {
    let proxy = host.json(&["status"])["socks"].as_str().expect("a proxy").to_owned();
    let proxy: SocketAddr = proxy.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&proxy, Duration::from_secs(5)).expect("the proxy");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let name = b"web.shop.mesh.internal";
    let mut asked = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).expect("short")];
    asked.extend_from_slice(name);
    asked.extend_from_slice(&8080_u16.to_be_bytes());
    stream.write_all(&asked).expect("a wish");
    let mut told = [0; 12];
    stream.read_exact(&mut told).expect("an answer");
    assert_eq!(told[..4], [5, 0, 5, 0], "{told:?}");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a page");
    let body = |text: &str| text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    assert!(body(page).is_some_and(|body| !body.is_empty()), "{page}");
    assert!(String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
}

/// Chromium resolves the name by itself and shows the page.
fn in_a_real_browser(host: &Host, url: &str) {
    if !programs_or_skip("the part with a real browser", &["chromium"]) {
        return;
    }
    let profile = host.scratch().join("profile");
    let args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--timeout=30000"];
    let shown = Command::new("chromium")
        .args(args)
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url)
        .output()
        .expect("chromium runs");
    let page = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && page.contains("<html") && page.contains("web-"), "{shown:?}");
}
