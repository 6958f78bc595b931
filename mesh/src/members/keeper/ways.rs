//! What the keeper asks on a way that may be too narrow, and what it tells of ways that became others.

use std::time::Duration;

use futures::FutureExt;
use proto::{id::HostId, wire::rpc::Request};

use super::{Keeper, members};
use crate::{clock::Clock, members::view::Members, transport::rpc};

/// More than one packet holds: it fills the longest that the way carries.
const LONG: usize = 2_000;
/// For so long an answer to that is waited for, beside a few round trips: until a silent path has been left.
const LONG_ANSWER: Duration = Duration::from_secs(4);

impl Keeper {
    /// Asks a member something as long as a packet may be; the machine hears whether an answer came.
    pub(super) fn ask_long(&mut self, host: HostId) {
        let (streams, path) = (self.streams.clone(), self.gate.path(&host));
        let rtt = Duration::from_millis(path.map_or(0, |path| path.rtt_ms as u64));
        let ask = async move {
            let request = Request::Long(vec![0; LONG]);
            rpc::call(&streams, host, &request, LONG_ANSWER + 4 * rtt).await.is_ok()
        };
        self.asking.spawn(ask.map(move |answered| (host, answered)));
    }

    /// Tells what became of the ways to members with whom a connection is kept.
    pub(super) fn tell_turns(&mut self, members: &Members) {
        // The connection with anybody else comes and goes with what there is to say.
        let kept = self.kept.borrow().clone();
        let others = members.hosts.iter().filter(|(host, _)| **host != members.me && kept.contains(host));
        let ways = others.map(|(host, member)| (*host, member.path.clone())).collect();
        for told in self.turns.note(&ways, Clock.moment()) {
            if let Some(member) = members.get(told.host) {
                let fact = members::turn(told, member);
                tracing::debug!(%fact);
                self.facts.send(fact).ok();
            }
        }
    }
}
