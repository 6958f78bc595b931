//! Asking a session's coordinator, wherever it is: the way is `proto::run::knowledge::route`'s.

use std::time::Duration;

use mesh::Clock;
use proto::{
    id::SessionId,
    run::knowledge::route,
    wire::rpc::{Answer, Refusal, Request},
};

use super::requests::{self, Requests};

/// One question of this host to another.
const ASK: Duration = Duration::from_secs(5);

/// Handle for asking.
#[derive(Clone)]
pub struct Asking {
    here: Requests,
}

impl Asking {
    /// Makes the handle; what this host coordinates itself is answered by `here`.
    pub fn new(here: Requests) -> Asking {
        Asking { here }
    }

    /// Asks the coordinator of a session, following its hints, for a bounded time.
    pub async fn ask(&self, session: SessionId, request: Request) -> Result<Answer, Refusal> {
        let route = route::Route::new(Clock.moment());
        let until = route.until();
        let answer = tokio::select! {
            answer = self.ask_along(route, session, request) => answer,
            () = Clock.sleep_until(until) => Err(Refusal::NoQuorum),
        };
        match (answer, self.here.table.closed(session)) {
            // Who is away is not the reason, or not the only one.
            (Err(Refusal::NoQuorum), Some(because)) => {
                Err(Refusal::Failed(format!("this host's log of the session cannot be used: {because}")))
            }
            (answer, _) => answer,
        }
    }

    async fn ask_along(
        &self,
        mut route: route::Route,
        session: SessionId,
        request: Request,
    ) -> Result<Answer, Refusal> {
        loop {
            let known = self.here.ground.share(session).is_some() || self.here.table.log(session).is_some();
            match route.next(self.here.coordinator(session), known, Clock.moment()) {
                route::Step::GiveUp(refusal) => return Err(refusal),
                route::Step::Pause(at) => Clock.sleep_until(at).await,
                route::Step::Ask(host) => {
                    let answer = if host == self.here.ground.me() {
                        Some(requests::answer(&self.here, host, request.clone()).await)
                    } else {
                        let called = self.here.ground.mesh.call(host, request.clone(), ASK).await;
                        called.inspect_err(|error| tracing::debug!(%host, %error, "no answer")).ok()
                    };
                    if let Some(result) = route.answered(host, answer) {
                        return result;
                    }
                }
            }
        }
    }
}
