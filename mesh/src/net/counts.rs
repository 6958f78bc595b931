//! What the session network carried and lost, by reason, with each other host and among the machines of this one:
//! numbers for people and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packets between this host and another one since the agent's start; or between the machines of this host, and what
/// of theirs was lost before it was known where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent to that host.
    pub sent: u64,
    /// ..their bytes.
    pub sent_bytes: u64,
    /// ..of these packets, in two datagrams.
    pub sent_in_two: u64,
    /// Came from it and were given to a machine of this host.
    pub delivered: u64,
    /// ..their bytes.
    pub delivered_bytes: u64,
    /// Lost: no machine of the session has the address, or it is not attached.
    pub no_route: u64,
    /// Lost: the source is not a machine of the host that sent it.
    pub forged: u64,
    /// Lost: the source is an older incarnation.
    pub stale: u64,
    /// Lost: no packet, or no datagram of ours.
    pub malformed: u64,
    /// Lost: a machine or the way to a host takes packets slower than they come.
    pub queue_full: u64,
    /// Lost: the other host is not reachable now.
    pub unreachable: u64,
    /// Lost: longer than two datagrams of this path.
    pub too_long: u64,
    /// DNS questions beyond what one machine may have open.
    pub dns_refused: u64,
}

/// One thing to be counted; packets that arrived somewhere with their bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Sent(usize),
    SentInTwo(usize),
    Delivered(usize),
    NoRoute,
    Forged,
    Stale,
    Malformed,
    QueueFull,
    Unreachable,
    TooLong,
    DnsRefused,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    sent_in_two: AtomicU64,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    no_route: AtomicU64,
    forged: AtomicU64,
    stale: AtomicU64,
    malformed: AtomicU64,
    queue_full: AtomicU64,
    unreachable: AtomicU64,
    too_long: AtomicU64,
    dns_refused: AtomicU64,
}

impl Counters {
    pub fn add(&self, what: Count) {
        let one = |counter: &AtomicU64| _ = counter.fetch_add(1, Relaxed);
        let carried = |packets: &AtomicU64, all: &AtomicU64, bytes: usize| {
            one(packets);
            all.fetch_add(bytes as u64, Relaxed);
        };
        match what {
            Count::Sent(bytes) => carried(&self.sent, &self.sent_bytes, bytes),
            Count::SentInTwo(bytes) => {
                one(&self.sent_in_two);
                carried(&self.sent, &self.sent_bytes, bytes);
            }
            Count::Delivered(bytes) => carried(&self.delivered, &self.delivered_bytes, bytes),
            Count::NoRoute => one(&self.no_route),
            Count::Forged => one(&self.forged),
            Count::Stale => one(&self.stale),
            Count::Malformed => one(&self.malformed),
            Count::QueueFull => one(&self.queue_full),
            Count::Unreachable => one(&self.unreachable),
            Count::TooLong => one(&self.too_long),
            Count::DnsRefused => one(&self.dns_refused),
        }
    }

    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Counts {
            sent: get(&self.sent),
            sent_bytes: get(&self.sent_bytes),
            sent_in_two: get(&self.sent_in_two),
            delivered: get(&self.delivered),
            delivered_bytes: get(&self.delivered_bytes),
            no_route: get(&self.no_route),
            forged: get(&self.forged),
            stale: get(&self.stale),
            malformed: get(&self.malformed),
            queue_full: get(&self.queue_full),
            unreachable: get(&self.unreachable),
            too_long: get(&self.too_long),
            dns_refused: get(&self.dns_refused),
        }
    }
}
