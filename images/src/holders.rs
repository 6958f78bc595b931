//! Pure: whom to ask for an image next. A host that failed waits longer each time; one that sent wrong
//! bytes waits longest, but is asked again when nobody else has the image. Nothing here connects.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use iroh::EndpointId;
use proto::backoff::BackOff;

/// Waits after failures of a host; one that came back is used again within a minute.
const BACK_OFF: BackOff = BackOff::new(2_000, 60_000);
/// Wrong bytes come from a bad disk or a bad host; both stay bad for a while.
const CORRUPT_BACKOFF: Duration = Duration::from_secs(600);

/// A member that says it has an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Whom to dial.
    pub id: EndpointId,
    /// Its name, for facts and messages.
    pub name: String,
    /// Whether it has all of it.
    pub complete: bool,
    /// Whether packets reach it without a relay.
    pub direct: bool,
    /// Round trip in milliseconds, when known.
    pub rtt_ms: Option<f64>,
}

/// How a try with a holder ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not reached, stalled, or stopped early.
    Absent,
    /// It sent bytes that are not of this image.
    Corrupt,
}

/// What was learnt of the holders of one image.
#[derive(Debug, Default)]
pub(crate) struct Tried(BTreeMap<EndpointId, (u32, Instant)>);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Ask this one now.
    Ask(Holder),
    /// Ask nobody before this moment, unless the holders change.
    Wait(Instant),
    /// Nobody has it.
    Nobody,
}

impl Tried {
    /// Notes that a holder failed at `now`.
    pub(crate) fn failed(&mut self, id: EndpointId, failure: Failure, now: Instant) {
        let (count, until) = self.0.entry(id).or_insert((0, now));
        let backoff = match failure {
            Failure::Absent => BACK_OFF.after(count.saturating_add(1)),
            Failure::Corrupt => CORRUPT_BACKOFF,
        };
        *count += 1;
        *until = now + backoff;
    }

    /// Notes that a holder sent something that was right.
    pub(crate) fn served(&mut self, id: EndpointId) {
        self.0.remove(&id);
    }

    /// Chooses among `holders`: those not in back-off; complete before partial, fewer failures first,
    /// direct before relayed, near before far.
    pub(crate) fn choose(&self, holders: &[Holder], now: Instant) -> Next {
        let free = |holder: &&Holder| self.0.get(&holder.id).is_none_or(|(_, until)| *until <= now);
        let rank = |holder: &Holder| {
            let failures = self.0.get(&holder.id).map_or(0, |(count, _)| *count);
            // Whole tenths of a millisecond order well enough, and are a total order.
            let rtt = holder.rtt_ms.map_or(u64::MAX, |rtt| (rtt.max(0.0) * 10.0) as u64);
            (!holder.complete, failures, !holder.direct, rtt, holder.id)
        };
        if let Some(best) = holders.iter().filter(free).min_by_key(|holder| rank(holder)) {
            return Next::Ask(best.clone());
        }
        let soonest =
            holders.iter().filter_map(|holder| self.0.get(&holder.id)).map(|(_, until)| *until).min();
        soonest.map_or(Next::Nobody, Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(seed: u8, complete: bool, direct: bool, rtt_ms: f64) -> Holder {
        let id = iroh::SecretKey::from_bytes(&[seed; 32]).public();
        Holder { id, name: format!("h{seed}"), complete, direct, rtt_ms: Some(rtt_ms) }
    }

    fn asked(tried: &Tried, holders: &[Holder], now: Instant) -> String {
        match tried.choose(holders, now) {
            Next::Ask(holder) => holder.name,
            Next::Wait(until) => format!("wait {:?}", until - now),
            Next::Nobody => "nobody".to_owned(),
        }
    }

    #[test]
    fn complete_direct_and_near_holders_come_first() {
        let now = Instant::now();
        let holders = [
            holder(1, false, true, 1.0),
            holder(2, true, false, 2.0),
            holder(3, true, true, 9.0),
            holder(4, true, true, 4.0),
        ];
        for (left, want) in [(4, "h4"), (3, "h3"), (2, "h2"), (1, "h1"), (0, "nobody")] {
            assert_eq!(asked(&Tried::default(), &holders[..left], now), want);
        }
    }

    #[test]
    fn a_failed_holder_lets_the_next_one_go_first_and_is_asked_again_later() {
        let now = Instant::now();
        let holders = [holder(1, true, true, 1.0), holder(2, true, true, 2.0)];
        let mut tried = Tried::default();
        tried.failed(holders[0].id, Failure::Absent, now);
        assert_eq!(asked(&tried, &holders, now), "h2");
        tried.failed(holders[1].id, Failure::Corrupt, now);
        assert_eq!(asked(&tried, &holders, now), "wait 2s");
        assert_eq!(asked(&tried, &holders, now + BACK_OFF.after(1)), "h1");
        assert_eq!(asked(&tried, &holders[1..], now), "wait 600s");
    }

    #[test]
    fn waiting_doubles_up_to_a_minute_and_ends_when_the_holder_serves() {
        let now = Instant::now();
        let holders = [holder(1, true, true, 1.0)];
        let mut tried = Tried::default();
        for want in ["2s", "4s", "8s", "16s", "32s", "60s", "60s"] {
            tried.failed(holders[0].id, Failure::Absent, now);
            assert_eq!(asked(&tried, &holders, now), format!("wait {want}"));
        }
        tried.served(holders[0].id);
        assert_eq!(asked(&tried, &holders, now), "h1");
    }
}
