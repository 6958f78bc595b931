//! What the connections with members carried within the last hour, by the minute.

use std::collections::{BTreeMap, VecDeque};

use super::deaf::Sounding;
use crate::{id::HostId, time::Moment};

/// What a minute is.
const MINUTE_MS: u64 = 60_000;
/// Minutes that count.
const MINUTES: usize = 60;

/// Bytes of datagrams, of all protocols together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// What was sent.
    pub sent: u64,
    /// What came.
    pub received: u64,
}

/// What was carried lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// For so long it was counted.
    pub counted_ms: u64,
    /// All of it.
    pub all: Bytes,
    /// In the quietest whole minute: what the mesh costs when nothing happens. `None` = no minute is whole yet.
    pub least_a_minute: Option<Bytes>,
}

/// Counts.
#[derive(Clone, Debug)]
pub struct Traffic {
    began: Moment,
    /// When the newest minute began.
    minute: Moment,
    minutes: VecDeque<Bytes>,
    seen: BTreeMap<(HostId, usize), Bytes>,
}

impl Traffic {
    /// Begins to count.
    pub fn new(now: Moment) -> Traffic {
        Traffic {
            began: now,
            minute: now,
            minutes: VecDeque::from([Bytes::default()]),
            seen: BTreeMap::new(),
        }
    }

    /// Takes every open connection. What one carried after the last look before its end is lost.
    pub fn note(&mut self, open: &[Sounding], now: Moment) {
        self.pass(now);
        let before = std::mem::take(&mut self.seen);
        for sounding in open {
            let key = (sounding.host, sounding.connection);
            let is = Bytes { sent: sounding.sent, received: sounding.received };
            let was = before.get(&key).copied().unwrap_or_default();
            if let Some(minute) = self.minutes.back_mut() {
                minute.sent += is.sent.saturating_sub(was.sent);
                minute.received += is.received.saturating_sub(was.received);
            }
            self.seen.insert(key, is);
        }
    }

    /// Tells what was carried lately.
    pub fn lately(&self, now: Moment) -> Lately {
        let sum = |sum: Bytes, one: &Bytes| Bytes {
            sent: sum.sent + one.sent,
            received: sum.received + one.received,
        };
        let whole = self.minutes.iter().take(self.minutes.len().saturating_sub(1));
        Lately {
            counted_ms: now.since_ms(self.began).min(MINUTE_MS * MINUTES as u64),
            all: self.minutes.iter().fold(Bytes::default(), sum),
            least_a_minute: whole.min_by_key(|minute| minute.sent + minute.received).copied(),
        }
    }

    fn pass(&mut self, now: Moment) {
        let passed = now.since_ms(self.minute) / MINUTE_MS;
        for _ in 0..passed.min(MINUTES as u64) {
            self.minutes.push_back(Bytes::default());
        }
        self.minute = self.minute.plus_ms(passed * MINUTE_MS);
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::deaf::Carried, *};

    fn sounding(connection: usize, sent: u64, received: u64) -> Sounding {
        let carried = Carried::default();
        Sounding { host: HostId([1; 32]), connection, sent, received, direct: true, relayed: false, carried }
    }

    #[test]
    fn an_hour_is_counted_whatever_connections_come_and_go() {
        let start = Moment(1_000_000);
        let mut traffic = Traffic::new(start);
        traffic.note(&[sounding(1, 100, 10)], start);
        traffic.note(&[sounding(1, 150, 10), sounding(2, 7, 7)], start.plus_ms(1_000));
        traffic.note(&[sounding(2, 8, 7)], start.plus_ms(2_000));
        let lately = traffic.lately(start.plus_ms(2_000));
        assert_eq!(lately.all, Bytes { sent: 158, received: 17 });
        assert_eq!((lately.counted_ms, lately.least_a_minute), (2_000, None));
    }

    #[test]
    fn the_quietest_minute_is_what_the_mesh_costs_at_rest_and_what_is_older_than_an_hour_is_gone() {
        let start = Moment(1_000_000);
        let (mut traffic, mut sent) = (Traffic::new(start), 0);
        for minute in 0..200 {
            sent += if minute == 170 { 5 } else { 60 };
            traffic.note(&[sounding(1, sent, 0)], start.plus_ms(minute * MINUTE_MS));
        }
        let lately = traffic.lately(start.plus_ms(199 * MINUTE_MS));
        assert_eq!(lately.all.sent, 59 * 60 + 5);
        assert_eq!(lately.least_a_minute, Some(Bytes { sent: 5, received: 0 }));
        assert_eq!(lately.counted_ms, 3_600_000);
        traffic.note(&[], start.plus_ms(1_000 * MINUTE_MS));
        assert_eq!(traffic.lately(start.plus_ms(1_000 * MINUTE_MS)).all, Bytes::default());
    }
}
