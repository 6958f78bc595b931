//! The local API: HTTP on a unix socket in the data directory, open to its owner, and where root runs it to a group.
//! Whoever can open the socket may do everything; nothing here authenticates, decides or prints.

mod answers;
mod held;
mod resolve;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

use std::{future::Future, io, time::Duration};

use axum::{Extension, Router};
use tokio::{net::UnixListener, sync::watch, time};

#[cfg(test)]
pub use answers::{events_body, finish, steps};
#[cfg(test)]
pub use held::{Bounded, Lasting};
pub use routes::router;
#[cfg(test)]
pub use routes::upgrade;
pub use socket::{connect, listen};

/// The protocol name of an upgraded connection: raw bytes both ways.
pub const RAW: &str = "agent-raw";

/// Followers of events never end by themselves; the other requests are short.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Serves the local API until `stop` ends, and then no longer than a moment; to `most` connections at
/// once, of which three quarters may last.
pub async fn serve(
    listener: UnixListener,
    most: usize,
    routes: Router,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = held::Bounded::new(listener, most);
    let (stopped, seen) = watch::channel(false);
    let mut first = seen.clone();
    // An error of `wait_for` means that the sender is gone: that is an end as well.
    let graceful = async move { drop(first.wait_for(|stopped| *stopped).await) };
    let routes = routes.layer(Extension(held::Lasting::of(most)));
    let server = axum::serve(listener, routes).with_graceful_shutdown(graceful);
    let server = async move { server.await };
    tokio::pin!(server);
    // Cancel-safe: the server is only polled, and goes on below.
    tokio::select! {
        ended = &mut server => return ended,
        () = stop => {}
    }
    stopped.send_replace(true);
    time::timeout(LAST_ANSWERS_WITHIN, server).await.unwrap_or(Ok(()))
}
