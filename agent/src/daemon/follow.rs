//! Keeps this host in step with the mesh: asks for shares that gossip says are newer, and tells
//! gossip which images are here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proto::{
    id::{Digest, SessionId},
    picture::{Change, heads},
    wire::{
        record::{Body, ImageRecord, RecordKey},
        rpc::{Answer, Request},
    },
};

use crate::session::hub::Hub;

/// A coordinator pushes new shares at once; only what did not arrive in this time is asked for.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two rounds of questions about hosts that speak for a session and are not believed.
const DOUBT: Duration = Duration::from_secs(5);
/// One question for a share.
const ASK: Duration = Duration::from_secs(5);

/// Asks for every share that is older than its session's head, until the daemon ends.
pub async fn heads(hub: Hub) {
    let wakes = hub.deps().pictures.wakes(|change| matches!(change, Change::Session(_)));
    let stop = hub.deps().stop.clone();
    let mut doubt_at = Instant::now();
    loop {
        let behind = behind(&hub);
        let sleep = if behind.is_empty() { Duration::from_secs(5) } else { PATIENCE };
        // Every arm only wakes the loop.
        tokio::select! {
            () = stop.cancelled() => return,
            () = wakes.changed(), if behind.is_empty() => {}
            () = tokio::time::sleep(sleep) => {}
        }
        for session in behind.intersection(&self::behind(&hub)) {
            pull(&hub, *session).await;
        }
        if Instant::now() >= doubt_at {
            doubt_at = Instant::now() + DOUBT;
            for session in hub.doubted() {
                hub.ask_voices(session).await;
            }
        }
        hub.keep_voices().await;
    }
}

fn behind(hub: &Hub) -> BTreeSet<SessionId> {
    let (picture, heads) = (hub.picture(), hub.heads());
    let lacking = heads
        .iter()
        .filter(|(session, (_, head))| heads::is_behind(&picture, **session, head) && !hub.buried(**session));
    lacking.map(|(session, _)| *session).collect()
}

async fn pull(hub: &Hub, session: SessionId) {
    let Some((host, _)) = hub.head(session).filter(|(host, _)| *host != hub.me()) else { return };
    match hub.deps().mesh.call(host, Request::GetShare(session), ASK).await {
        Ok(Answer::Share(share)) if share.session == session => {
            if let Err(refusal) = hub.accept(host, *share).await {
                tracing::debug!(%session, %refusal, "the share that was asked for is not taken");
            }
        }
        Ok(answer) => tracing::debug!(%session, ?answer, "no share"),
        Err(error) => tracing::debug!(%session, %error, "no share"),
    }
}

/// Publishes a record for every image of this host, until the daemon ends.
pub async fn images(hub: Hub) {
    let mut watch = hub.deps().images.watch();
    let stop = hub.deps().stop.clone();
    let mut told: BTreeMap<Digest, ImageRecord> = BTreeMap::new();
    loop {
        let now = watch.borrow_and_update().clone();
        for (digest, record) in now.iter().filter(|(digest, record)| told.get(digest) != Some(record)) {
            hub.deps().mesh.publish(RecordKey::Image(*digest), Some(Body::Image(record.clone()))).await;
        }
        for digest in told.keys().filter(|digest| !now.contains_key(digest)) {
            hub.deps().mesh.publish(RecordKey::Image(*digest), None).await;
        }
        told = (*now).clone();
        // Cancel-safe: a token and a watch.
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
    }
}
