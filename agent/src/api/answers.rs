//! How answers are written: one JSON value, or a line for each step of some work or for each fact.

use std::{convert::Infallible, future::Future};

use axum::{
    Json,
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use proto::{
    facts::Event,
    wire::api::{Error, ErrorBody, Kind, Step},
};
use serde::Serialize;
use tokio::sync::mpsc;

use super::held::Place;
use crate::{app::Telling, facts::Log};

/// Progress lines that wait for a slow reader; more are dropped, the newest counts.
const TELLING: usize = 16;

/// Turns a method's answer into a response.
pub(super) async fn answer<T: Serialize>(done: impl Future<Output = Result<T, Error>>) -> Response {
    match done.await {
        Ok(body) => Json(body).into_response(),
        Err(error) => refusal(error),
    }
}

/// Answers what changes something. It goes on to its end also when the client goes away: nothing is
/// left half done because of a Ctrl-C.
pub async fn finish<T: Serialize + Send + 'static>(
    done: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Response {
    let ended = tokio::spawn(done).await;
    answer(async {
        ended.unwrap_or_else(|error| Err(Error::new(Kind::Failed, "the agent stumbled").because(error)))
    })
    .await
}

pub(super) fn refusal(error: Error) -> Response {
    let status = match error.kind {
        Kind::Usage | Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Refused | Kind::Ambiguous => StatusCode::CONFLICT,
        Kind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Kind::Unreachable | Kind::NotDirect => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Failed | Kind::Partly => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(ErrorBody { error })).into_response()
}

/// Answers one JSON line per step, the last one with the result. A client that goes away ends the
/// work: its future is dropped with the body.
pub fn steps<T, F>(place: Result<Place, Error>, work: impl FnOnce(Telling) -> F) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let place = match place {
        Ok(place) => place,
        Err(error) => return refusal(error),
    };
    let (telling, mut told) = mpsc::channel(TELLING);
    let work = work(telling);
    let (lines, body) = mpsc::channel(1);
    let drive = async move {
        let _place = place;
        tokio::pin!(work);
        let last = loop {
            // Both arms are cancel-safe: `recv` keeps what it has not given, `work` is only polled.
            tokio::select! {
                biased;
                Some(progress) = told.recv() => {
                    if lines.send(line(&Step::<T>::Progress(progress))).await.is_err() {
                        return;
                    }
                }
                done = &mut work => break done,
            }
        };
        // What was told in the same breath as the end.
        while let Ok(progress) = told.try_recv() {
            drop(lines.send(line(&Step::<T>::Progress(progress))).await);
        }
        let last = last.map_or_else(Step::Error, Step::Done);
        drop(lines.send(line(&last)).await);
    };
    json_lines(stream::select(from_channel(body), stream::once(drive).filter_map(async |()| None)))
}

/// Gives the facts after `since`; who has a place also gets what happens from now on.
pub fn events_body(log: Log, since: u64, follows: Option<Place>) -> Response {
    match follows {
        Some(place) => json_lines(follow(log, since).map(move |event| {
            let _held = &place;
            line(&event)
        })),
        None => json_lines(stream::iter(log.after(since)).map(|event| line(&event))),
    }
}

fn follow(log: Log, since: u64) -> impl futures::Stream<Item = Event> {
    let batches = stream::unfold((log.changed(), since), move |(mut changed, seen)| {
        let log = log.clone();
        async move {
            // Waits until there is something newer; ends with the recorder.
            let newest = *changed.wait_for(|newest| *newest > seen).await.ok()?;
            Some((stream::iter(log.after(seen)), (changed, newest.max(seen))))
        }
    });
    batches
        .flatten()
        .scan(since, |seen, event| {
            // A batch may already hold what the next one begins with.
            let new = (event.seq > *seen).then(|| event.clone());
            *seen = event.seq.max(*seen);
            futures::future::ready(Some(new))
        })
        .filter_map(futures::future::ready)
}

fn from_channel(mut lines: mpsc::Receiver<Vec<u8>>) -> impl futures::Stream<Item = Vec<u8>> {
    stream::poll_fn(move |context| lines.poll_recv(context))
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types with text keys always become JSON.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn json_lines(lines: impl futures::Stream<Item = Vec<u8>> + Send + 'static) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/jsonl")], body).into_response()
}
