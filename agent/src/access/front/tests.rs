//! The front door before machines that are a small web server each, asked as a browser asks: over real sockets.

use axum::{Router, extract::Request as Asked, response::IntoResponse, routing::any};
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::access::fixture;

const WITHIN: Duration = Duration::from_secs(20);

struct Opened {
    port: u16,
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
        format!("{machine}:{port} {} {} host={host} for={by} te={te}", request.method(), request.uri())
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
    let bound = bind(free_port()).await.unwrap();
    let (port, stop) = (bound.port, CancellationToken::new());
    let front = Front { forwards, pictures: fixture::pictures(), host: "nas".into(), port };
    tokio::spawn(serve(bound, front, 8, stop.clone()));
    Opened { port, _dir: dir, stop }
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
    assert!(answer.contains(&format!("web-2:80 GET /a?b=1 {host} for=127.0.0.1 te=- body=")), "{answer}");
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
async fn a_taken_port_means_the_next_one() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let bound = bind(port).await.unwrap();
    assert!(bound.port > port, "{}", bound.port);
}
