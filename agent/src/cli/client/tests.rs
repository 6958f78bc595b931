//! The client against real routes on a real socket; what the daemon would answer is written here.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use axum::{
    Extension, Router,
    extract::Request,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use proto::{
    facts::Fact,
    id::Name,
    time::Timestamp,
    wire::api::{ErrorBody, Named, Step},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

use super::*;
use crate::{
    api::{self, Lasting, listen},
    app::Pipe,
    facts,
};

/// Far above what any of these take; a hang is a failure, not a wait.
const SOON: Duration = Duration::from_secs(20);

fn serve(socket: &Path, routes: Router) -> Client {
    let listener = api::Bounded::new(listen(socket, None).unwrap(), 8);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Client::new(socket.to_owned())
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    (dir, socket)
}

#[tokio::test]
async fn without_a_daemon_the_hint_is_to_run_one() {
    let (dir, socket) = place();
    let client = Client::new(socket.clone());
    assert!(!client.is_running().await);
    let error = client.get::<Named>("/v1/status").await.unwrap_err();
    assert!(error.next.is_some_and(|next| next.starts_with("agent init")), "it is in no mesh yet");
    fs::create_dir(dir.path().join("identity")).unwrap();
    let error = client.get::<Named>("/v1/status").await.unwrap_err();
    assert_eq!((error.kind, error.next.as_deref()), (Kind::Unreachable, Some("agent run")));
    // What a killed daemon leaves behind is no daemon, and no obstacle for the next one.
    drop(listen(&socket, None).unwrap());
    let error = client.get::<Named>("/v1/status").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    drop(listen(&socket, None).unwrap());
}

#[tokio::test]
async fn the_socket_is_its_owner_s_alone_and_may_lie_deep() {
    let (dir, _) = place();
    let deep = dir.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let socket = deep.join("api.sock");
    let named = || async { axum::Json(Named { id: "deep".into() }) };
    let client = serve(&socket, Router::new().route("/v1/x", get(named)));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client.get::<Named>("/v1/x").await.unwrap().id, "deep");
}

#[tokio::test]
async fn an_error_arrives_as_it_was_said() {
    let (_dir, socket) = place();
    let said = Error::new(Kind::Refused, "no").because("a reason").next("agent status");
    let body = serde_json::to_string(&ErrorBody { error: said.clone() }).unwrap();
    let routes = Router::new()
        .route("/v1/no", post(move || async move { (axum::http::StatusCode::CONFLICT, body) }))
        .route("/v1/odd", get(|| async { (axum::http::StatusCode::IM_A_TEAPOT, "tea") }));
    let client = serve(&socket, routes);
    assert_eq!(client.post::<Named>("/v1/no", &()).await.unwrap_err(), said);
    let odd = client.get::<Named>("/v1/odd").await.unwrap_err();
    assert_eq!((odd.kind, odd.because.as_deref()), (Kind::Unreachable, Some("it answered 418 I'm a teapot")));
}

#[tokio::test]
async fn lines_come_one_by_one_however_they_are_cut() {
    let (_dir, socket) = place();
    let lines = || async {
        let parts = ["{\"a\"", ":1}\n{\"b\":2}\n\n{\"c", "\":3}\n"].map(Ok::<_, std::io::Error>);
        axum::body::Body::from_stream(futures::stream::iter(parts))
    };
    let mut lines =
        serve(&socket, Router::new().route("/v1/lines", get(lines))).lines("/v1/lines").await.unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        all.push(String::from_utf8(line.to_vec()).unwrap());
    }
    assert_eq!(all, ["{\"a\":1}", "{\"b\":2}", "", "{\"c\":3}"]);
}

#[tokio::test]
async fn a_raw_connection_carries_bytes_and_ends_both_ways() {
    let (_dir, socket) = place();
    let (machine, inside) = tokio::io::duplex(64);
    let slot = std::sync::Arc::new(std::sync::Mutex::new(Some(inside)));
    let raw = move |request: Request| async move {
        let pipe = slot.lock().unwrap().take();
        let pipe = pipe.ok_or(Error::new(Kind::NotFound, "taken"));
        let pipe = pipe.and_then(|pipe| Ok((Box::new(pipe) as Pipe, Lasting::of(1).take()?)));
        api::upgrade(pipe, request)
    };
    let client = serve(&socket, Router::new().route("/v1/raw", get(raw)));
    let mut raw = client.raw("/v1/raw").await.unwrap();
    let (mut from, mut to) = tokio::io::split(machine);
    raw.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    timeout(SOON, from.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"hello");
    // The client's end of input is passed on; the machine may still answer.
    raw.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, from.read(&mut heard)).await.unwrap().unwrap(), 0);
    to.write_all(b"bye").await.unwrap();
    drop((from, to));
    let mut rest = Vec::new();
    timeout(SOON, raw.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"bye");
    assert_eq!(client.raw("/v1/raw").await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn events_follow_what_happens_without_gap_or_repeat() {
    let (dir, socket) = place();
    let host: Name = "nas".parse().unwrap();
    let (log, mut recorder) = facts::open(&dir.path().join("facts"), &host).unwrap();
    let mut record =
        |name: &str| recorder.record(Fact::MemberUp { member: name.parse().unwrap() }, Timestamp(0));
    record("one");
    record("two");
    let follow = {
        let log = log.clone();
        move || async move { api::events_body(log, 1, Lasting::of(1).take().ok()) }
    };
    let once = move || async move { api::events_body(log, 0, None) };
    let client = serve(&socket, Router::new().route("/v1/follow", get(follow)).route("/v1/once", get(once)));
    let mut lines = client.lines("/v1/follow").await.unwrap();
    let mut seqs = Vec::new();
    for name in ["three", "four", "five"] {
        record(name);
        let line = timeout(SOON, lines.next()).await.unwrap().unwrap().unwrap();
        seqs.push(serde_json::from_slice::<proto::facts::Event>(&line).unwrap().seq);
    }
    assert_eq!(seqs, [2, 3, 4]);
    let mut once = client.lines("/v1/once").await.unwrap();
    let mut count = 0;
    while timeout(SOON, once.next()).await.unwrap().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 5, "without --follow it ends");
}

#[tokio::test]
async fn a_long_request_tells_how_far_it_is_and_ends_with_its_result() {
    let (_dir, socket) = place();
    let work = || async {
        api::steps(Lasting::of(1).take(), |telling| async move {
            let progress = proto::wire::api::Progress { stage: "copying".into(), done: 1, total: None };
            telling.send(progress).await.map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
            Ok::<_, Error>(Named { id: "tiny".into() })
        })
    };
    let client = serve(&socket, Router::new().route("/v1/work", post(work)));
    let mut lines = client.post_lines("/v1/work", &()).await.unwrap();
    let mut steps = Vec::new();
    while let Some(line) = timeout(SOON, lines.next()).await.unwrap().unwrap() {
        steps.push(serde_json::from_slice::<Step<Named>>(&line).unwrap());
    }
    assert!(matches!(&steps[..], [Step::Progress(_), Step::Done(named)] if named.id == "tiny"), "{steps:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_long_request() {
    let (_dir, socket) = place();
    let (alive, ended) = oneshot::channel::<()>();
    let slot = std::sync::Arc::new(std::sync::Mutex::new(Some(alive)));
    let work = move || async move {
        let alive = slot.lock().unwrap().take();
        api::steps(Lasting::of(1).take(), |telling| async move {
            let _alive = alive;
            let progress = proto::wire::api::Progress { stage: "copying".into(), done: 1, total: None };
            telling.send(progress).await.map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
            std::future::pending::<Result<Named, Error>>().await
        })
    };
    let client = serve(&socket, Router::new().route("/v1/work", post(work)));
    let mut lines = client.post_lines("/v1/work", &()).await.unwrap();
    assert!(timeout(SOON, lines.next()).await.unwrap().unwrap().is_some());
    drop(lines);
    assert!(timeout(SOON, ended).await.unwrap().is_err(), "the work was dropped");
}

#[tokio::test]
async fn a_change_is_carried_to_its_end_without_its_client() {
    let (_dir, socket) = place();
    let (begun, begins) = oneshot::channel::<()>();
    let (go, went) = oneshot::channel::<()>();
    let (done, ends) = oneshot::channel::<()>();
    let slot = std::sync::Arc::new(std::sync::Mutex::new(Some((begun, went, done))));
    let change = move || async move {
        let (begun, went, done) = slot.lock().unwrap().take().expect("asked once");
        api::finish(async move {
            begun.send(()).map_err(|()| Error::new(Kind::Failed, "the test is gone"))?;
            went.await.map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
            done.send(()).map_err(|()| Error::new(Kind::Failed, "the test is gone"))?;
            Ok(Named { id: "shop".into() })
        })
        .await
    };
    let client = serve(&socket, Router::new().route("/v1/change", post(change)));
    let asking = tokio::spawn(async move { client.post::<Named>("/v1/change", &()).await });
    timeout(SOON, begins).await.unwrap().unwrap();
    asking.abort();
    assert!(asking.await.is_err());
    go.send(()).unwrap();
    timeout(SOON, ends).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_stays_leaves_room_for_short_questions() {
    const MOST: usize = 8;
    let (dir, socket) = place();
    let (log, _recorder) = facts::open(&dir.path().join("facts"), &"nas".parse().unwrap()).unwrap();
    let (_stop, stopped) = oneshot::channel::<()>();
    let listener = listen(&socket, None).unwrap();
    let follow = move |lasting: Extension<Lasting>| async move {
        match lasting.take() {
            Ok(place) => api::events_body(log, 0, Some(place)),
            Err(error) => (StatusCode::CONFLICT, axum::Json(ErrorBody { error })).into_response(),
        }
    };
    let answer = || async { axum::Json(Named { id: "well".into() }) };
    let routes = Router::new().route("/v1/follow", get(follow)).route("/v1/status", get(answer));
    tokio::spawn(api::serve(listener, MOST, routes, async move { drop(stopped.await) }));
    let client = Client::new(socket);
    let mut stay = Vec::new();
    let refused = loop {
        assert!(stay.len() < MOST, "who stays takes everything");
        match timeout(SOON, client.lines("/v1/follow")).await.unwrap() {
            Ok(lines) => stay.push(lines),
            Err(error) => break error,
        }
    };
    assert_eq!((stay.len(), refused.kind), (MOST * 3 / 4, Kind::Refused));
    assert!(refused.because.unwrap().contains("ulimit -n"));
    let status = timeout(SOON, client.get::<Named>("/v1/status")).await.unwrap().unwrap();
    assert_eq!(status.id, "well");
    // A place comes back with the end of whoever had it.
    stay.clear();
    let again = async {
        while client.lines("/v1/follow").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, again).await.unwrap();
}

#[tokio::test]
async fn the_server_stops_although_somebody_follows() {
    let (dir, socket) = place();
    let (log, _recorder) = facts::open(&dir.path().join("facts"), &"nas".parse().unwrap()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = listen(&socket, None).unwrap();
    let events = move || async move { api::events_body(log, 0, Lasting::of(1).take().ok()) };
    let routes = Router::new().route("/v1/events", axum::routing::get(events));
    let server = tokio::spawn(api::serve(listener, 8, routes, async move { drop(stopped.await) }));
    let client = Client::new(socket);
    let _follower = client.lines("/v1/events?follow=true").await.unwrap();
    drop(stop);
    timeout(SOON, server).await.unwrap().unwrap().unwrap();
}

#[test]
fn names_are_safe_in_a_query() {
    assert_eq!(quoted("shop/web-1"), "shop%2Fweb-1");
    assert_eq!(quoted("a&b=c d%\u{e4}"), "a%26b%3Dc%20d%25%C3%A4");
}
