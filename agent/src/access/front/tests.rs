//! The front door before machines that are a small web server each, asked as a browser asks: over real sockets.

use axum::{Router, extract::Request as Asked, response::IntoResponse, routing::any};
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::access::fixture;

/// Connections of the front door at once.
const MOST: usize = 8;
const WITHIN: Duration = Duration::from_secs(20);

struct Opened {
    port: u16,
    forwards: Forwards,
    _dir: TempDir,
    stop: CancellationToken,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Answers with its name, the port, what it was asked, and how it was told that the request came.
async fn told(machine: String, port: u16, request: Asked) -> axum::response::Response {
    let head = {
        let said = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or("-").to_owned()
        };
        let (host, by, te) = (said("host"), said("x-forwarded-for"), said("te"));
        let (secret, other) = (said("x-secret"), said("x-other"));
        let asked = format!("{} {}", request.method(), request.uri());
        format!("{machine}:{port} {asked} host={host} for={by} te={te} secret={secret} other={other}")
    };
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    format!("{head} body={}\n", String::from_utf8_lossy(&body)).into_response()
}

/// Says yes to every wish to speak something else, and repeats what it hears.
async fn echo(mut request: Asked) -> axum::response::Response {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..read]).await.unwrap();
        }
    });
    let head = [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, head).into_response()
}

async fn serve_web(machine: proto::id::MachineName, port: u16, stream: DuplexStream) {
    let name = machine.to_string();
    let routes = Router::new()
        .route("/socket", any(echo))
        .fallback(any(move |request: Asked| told(name, port, request)));
    let service = TowerToHyperService::new(routes);
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok();
}

async fn opened(ready: &'static [&'static str]) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let forwards = fixture::forwards(&dir, ready, serve_web);
    let bound = bind(free_port(), &dir.path().join("browser.port")).await.unwrap();
    let (port, stop) = (bound.port, CancellationToken::new());
    let front = Front { forwards: forwards.clone(), pictures: fixture::pictures(), host: "nas".into(), port };
    tokio::spawn(serve(bound, front, MOST, stop.clone()));
    Opened { port, forwards, _dir: dir, stop }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends bytes and gives all that comes until the front door closes, or `until` is seen.
async fn say(stream: &mut TcpStream, bytes: &str, until: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&heard).contains(until) {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                read => heard.extend_from_slice(&buffer[..read]),
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.expect("an answer in time");
    String::from_utf8(heard).unwrap()
}

async fn get(opened: &Opened, host: &str, more: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
    let request =
        format!("GET /a?b=1 HTTP/1.1\r\nHost: {host}:{}\r\nConnection: close\r\n{more}\r\n", opened.port);
    say(&mut stream, &request, "\u{0}").await
}

#[tokio::test]
async fn a_name_leads_to_a_ready_machine_and_says_how_the_request_came() {
    let opened = opened(&["web-2"]).await;
    let answer = get(&opened, "web.shop.localhost", "TE: trailers\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let host = format!("host=web.shop.localhost:{}", opened.port);
    assert!(answer.contains(&format!("web-2:80 GET /a?b=1 {host} for=127.0.0.1 te=- ")), "{answer}");
    let admin = get(&opened, "admin.web.shop.localhost", "").await;
    assert!(admin.contains("web-2:9000 GET"), "{admin}");
}

#[tokio::test]
async fn a_connection_carries_requests_to_several_sites_and_bodies() {
    let opened = opened(&["web-1"]).await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
    for (host, port) in
        [("web.shop.localhost", 80), ("admin.web.shop.localhost", 9000), ("web.shop.localhost", 80)]
    {
        let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello");
        let answer = say(&mut stream, &request, "body=hello").await;
        assert!(answer.contains(&format!("web-1:{port} POST / ")), "{answer}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let opened = opened(&["web-1"]).await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
    let origin = format!("http://web.shop.localhost:{}", opened.port);
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: web.shop.localhost\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    let answer = say(&mut stream, &request, "\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.to_lowercase().contains("upgrade: websocket"),
        "{answer}"
    );
    assert_eq!(say(&mut stream, "ping", "ping").await, "ping");
}

#[tokio::test]
async fn a_foreign_page_gets_nothing_not_even_a_socket() {
    let opened = opened(&["web-1"]).await;
    for more in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
        let answer =
            get(&opened, "web.shop.localhost", &format!("Origin: https://evil.example\r\n{more}")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("web-1:80"), "{answer}");
    }
    let rebound = get(&opened, "evil.example", "").await;
    assert!(rebound.starts_with("HTTP/1.1 421"), "{rebound}");
}

#[tokio::test]
async fn the_index_lists_everything_with_links_to_what_a_browser_can_show() {
    let opened = opened(&["web-1"]).await;
    let index = get(&opened, "localhost", "").await;
    assert!(index.contains(&format!("href=\"http://web.shop.localhost:{}/\"", opened.port)), "{index}");
    assert!(index.contains(&format!("href=\"http://admin.web.shop.localhost:{}/\"", opened.port)), "{index}");
    assert!(index.contains("db sql") && !index.contains("http://db."), "{index}");
    assert!(index.to_lowercase().contains("content-security-policy: default-src 'none'"), "{index}");
}

#[tokio::test]
async fn nothing_ready_and_unknown_names_are_told_with_the_next_step() {
    let opened = opened(&[]).await;
    let answer = get(&opened, "web.shop.localhost", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("no machine behind it is ready"),
        "{answer}"
    );
    let unknown = get(&opened, "web.blog.localhost", "").await;
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("there is no session"), "{unknown}");
}

#[tokio::test]
async fn a_taken_port_means_another_one_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("browser.port");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let stands_in = bind(port, &kept).await.unwrap().port;
    assert_ne!(stands_in, port);
    drop(taken);
    assert_eq!(bind(port, &kept).await.unwrap().port, stands_in, "a bookmark stays good");
}

/// Opens a WebSocket.
async fn socket(opened: &Opened) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
    let wish = "GET /socket HTTP/1.1\r\nHost: web.shop.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = say(&mut stream, wish, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream
}

#[tokio::test]
async fn sockets_have_a_place_and_a_count_until_they_end() {
    let opened = opened(&["web-1", "web-2"]).await;
    let mut sockets = Vec::new();
    for _ in 0..MOST {
        sockets.push(socket(&opened).await);
    }
    assert_eq!(opened.forwards.connections(), MOST, "each is counted at its machine");
    let mut next = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    next.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(300), next.read(&mut byte)).await;
    assert!(early.is_err(), "it waits for a place: {early:?}");
    sockets.pop();
    let answer = say(&mut next, "", "\u{0}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(sockets);
    until_so(|| opened.forwards.connections() == 0).await;
}

/// Waits until something is so.
async fn until_so(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WITHIN, so).await.expect("in time");
}

#[tokio::test]
async fn what_is_no_plain_request_is_refused_and_its_connection_ends() {
    let opened = opened(&["web-1"]).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: web.shop.localhost\r\nHost: evil.example\r\n\r\n", "400"),
        ("CONNECT web.shop.localhost:80 HTTP/1.1\r\nHost: web.shop.localhost:80\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n", "421"),
        ("POST / HTTP/1.1\r\nHost: web.shop.localhost\r\nOrigin: null\r\nContent-Length: 9\r\n\r\n", "403"),
    ] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
        let answer = say(&mut stream, request, "\u{0}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_connection_goes_no_further() {
    let opened = opened(&["web-1"]).await;
    let more = "Connection: x-secret, Host\r\nX-Secret: 7\r\nX-Other: 8\r\n";
    let answer = get(&opened, "web.shop.localhost", more).await;
    let host = format!("host=web.shop.localhost:{}", opened.port);
    assert!(answer.contains(&host) && answer.contains("secret=- other=8"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn who_neither_asks_nor_sends_what_was_promised_loses_the_place() {
    let opened = opened(&["web-1"]).await;
    for (said, told) in [
        ("", ""),
        ("GET / HTTP/1.1\r\nHost: web.sh", ""),
        ("POST / HTTP/1.1\r\nHost: web.shop.localhost\r\nContent-Length: 9\r\n\r\nhell", "HTTP/1.1 408"),
    ] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, opened.port)).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with(told) && heard.is_empty() == told.is_empty(), "{said:?}: {heard}");
    }
    until_so(|| opened.forwards.connections() == 0).await;
}
