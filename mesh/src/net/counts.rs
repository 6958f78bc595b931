//! What the session network carried and lost, by reason: numbers for people and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packets and DNS questions since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to a machine of this host.
    pub delivered: u64,
    /// Sent to another host.
    pub sent: u64,
    /// ..of these, in two datagrams.
    pub sent_in_two: u64,
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

/// One thing to be counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Delivered,
    Sent,
    SentInTwo,
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
pub(super) struct Counters([AtomicU64; 11]);

impl Counters {
    pub fn add(&self, what: Count) {
        self.0[what as usize].fetch_add(1, Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let get = |what: Count| self.0[what as usize].load(Relaxed);
        Counts {
            delivered: get(Count::Delivered),
            sent: get(Count::Sent),
            sent_in_two: get(Count::SentInTwo),
            no_route: get(Count::NoRoute),
            forged: get(Count::Forged),
            stale: get(Count::Stale),
            malformed: get(Count::Malformed),
            queue_full: get(Count::QueueFull),
            unreachable: get(Count::Unreachable),
            too_long: get(Count::TooLong),
            dns_refused: get(Count::DnsRefused),
        }
    }
}
