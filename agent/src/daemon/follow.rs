//! Tells gossip which images are here.

use std::{collections::BTreeMap, sync::Arc};

use images::Images;
use mesh::Mesh;
use proto::{
    id::Digest,
    trust::Capability,
    wire::record::{Body, ImageRecord, RecordKey},
};
use tokio_util::sync::CancellationToken;

/// Publishes a record for every image of this host, until the daemon ends.
pub async fn images(mesh: Mesh, images: Images, stop: CancellationToken) {
    let mut watch = images.watch();
    let mut told: BTreeMap<Digest, ImageRecord> = BTreeMap::new();
    let mut roll = mesh.roll();
    loop {
        // Who may not hold images for others says nothing of its own.
        let may = roll.borrow_and_update().may(mesh.me(), Capability::Store);
        let now = if may { watch.borrow_and_update().clone() } else { Arc::default() };
        for (digest, record) in now.iter().filter(|(digest, record)| told.get(digest) != Some(record)) {
            mesh.publish(RecordKey::Image(*digest), Some(Body::Image(record.clone()))).await;
        }
        for digest in told.keys().filter(|digest| !now.contains_key(digest)) {
            mesh.publish(RecordKey::Image(*digest), None).await;
        }
        told = (*now).clone();
        // Cancel-safe: a token and a watch.
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
            changed = roll.changed() => if changed.is_err() { return },
        }
    }
}
