//! Tells gossip what this host has seen, so that those who wait for it need not ask. Decides nothing.

use mesh::Mesh;
use proto::{
    picture::{Change, acks},
    wire::record::{Body, RecordKey},
};
use tokio_util::sync::CancellationToken;

use super::Pictures;

/// Publishes what this host has seen whenever that changes, until the daemon ends.
pub async fn run(mesh: Mesh, pictures: Pictures, stop: CancellationToken) {
    // What others have seen is nothing that this host sees.
    let wakes = pictures.wakes(|change| !matches!(change, Change::Seen(_)));
    let (mut roll, mut ends, mut told) = (mesh.roll(), acks::Ends::default(), None);
    loop {
        ends.hear(roll.borrow_and_update().set.tombstones());
        let seen = acks::seen(&pictures.now(), &ends);
        if told.as_ref() != Some(&seen) {
            mesh.publish(RecordKey::Seen, Some(Body::Seen(seen.clone()))).await;
            told = Some(seen);
        }
        // Cancel-safe: a token, a wake that stays, a watch.
        tokio::select! {
            () = stop.cancelled() => return,
            () = wakes.changed() => {}
            changed = roll.changed() => if changed.is_err() { return },
        }
    }
}
