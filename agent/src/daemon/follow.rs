//! Tells gossip which images are here.

use std::collections::BTreeMap;

use proto::{
    id::Digest,
    wire::record::{Body, ImageRecord, RecordKey},
};

use crate::session::hub::Hub;

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
