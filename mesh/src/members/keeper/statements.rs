//! How the keeper hears statements and passes them on: the shell of `Spread`, and of `Returning`, which waits for them.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use proto::{
    id::HostId,
    membership::{returning, spread},
    reachability::Event,
    time::Moment,
};

use super::Keeper;
use crate::{clock::Clock, members::exchange, transport::rpc::RpcError};

/// A comparison of statements that came to an end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    with: HostId,
    begun: Moment,
    compared: bool,
}

impl Keeper {
    /// Asks the machine with whom statements are compared, and does it.
    pub(super) async fn spread(&mut self, event: spread::Event) {
        for effect in self.spread.on(event, Clock.moment()) {
            match effect {
                spread::Effect::Compare { with, news } => {
                    let (streams, roster) = (self.streams.clone(), self.roster.clone());
                    let compare = async move { exchange::compare(&streams, &roster, with, &news).await };
                    self.comparing.spawn(ended(with, Clock.moment(), compare));
                }
                spread::Effect::KeepHouse => {
                    self.roster.catch_up();
                    self.keep_house();
                    let changed = self.book.age();
                    self.reach_out(Event::Ways(changed)).await;
                }
            }
        }
    }

    /// Tells the machines how a comparison ended. What it brought is known by now.
    pub(super) async fn compared(&mut self, Ended { with, begun, compared }: Ended) {
        if !compared {
            return self.spread(spread::Event::Failed(with)).await;
        }
        self.come_back(returning::Event::Compared { with, begun }).await;
        self.spread(spread::Event::Compared(with)).await;
    }

    /// Asks the machine whether this host, if it was away, serves again, and does what that takes.
    pub(super) async fn come_back(&mut self, event: returning::Event) {
        for effect in self.gate.come_back(event) {
            match effect {
                returning::Effect::Wait => {
                    tracing::info!("this host was away; it serves once it has heard from the mesh");
                    self.gate.start_over();
                }
                returning::Effect::Compare(with) => self.spread(spread::Event::Wanted(with)).await,
                returning::Effect::Serve => tracing::debug!("this host serves"),
            }
        }
    }
}

/// Waits for a comparison and tells how it ended, whatever happens in it: one that never came back would hold its
/// place for ever.
async fn ended(with: HostId, begun: Moment, compare: impl Future<Output = Result<(), RpcError>>) -> Ended {
    match AssertUnwindSafe(compare).catch_unwind().await {
        Ok(Ok(())) => return Ended { with, begun, compared: true },
        Ok(Err(error)) => tracing::debug!(host = %with.short(), %error, "statements not compared"),
        Err(_) => tracing::error!(host = %with.short(), "a comparison of statements panicked"),
    }
    Ended { with, begun, compared: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_comparison_that_panics_is_one_that_failed() {
        let (with, begun) = (HostId([1; 32]), Moment(7));
        let panicking = async { panic!("on purpose") };
        assert_eq!(ended(with, begun, panicking).await, Ended { with, begun, compared: false });
        let fine = async { Ok(()) };
        assert_eq!(ended(with, begun, fine).await, Ended { with, begun, compared: true });
    }
}
