//! Whether QEMU holds the guest because of its disk, why, and when it is let go on. Pure: events,
//! moments and free bytes come in. A full disk is looked at, so that the guest goes on soon after there is
//! room; other errors are tried again with a pause that doubles.

use std::time::{Duration, Instant};

use proto::backoff::BackOff;

use super::super::qmp::Event;

/// Bytes that must be free before a guest that ran out of them goes on: less would be gone at once.
const ROOM_BYTES: u64 = 16 * 1024 * 1024;
/// Between two looks at a full disk.
const LOOK: Duration = Duration::from_secs(1);
/// The pauses before a guest is let go on.
const PAUSES: BackOff = BackOff::new(1_000, 60_000);
/// A guest that ran for so long is over the errors before.
const STEADY: Duration = Duration::from_secs(30);
/// Characters of QEMU's own words.
const MAX_WORDS: usize = 100;

/// What QEMU said of the disk, and what follows.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    /// The error that was told last, until the guest runs again.
    error: Option<Error>,
    /// Whether QEMU has stopped the guest, for whatever reason.
    stopped: bool,
    /// Whether the guest is held.
    held: bool,
    /// Tries that led to the next error at once.
    tries: u32,
    due: Option<Instant>,
    resumed: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Error {
    words: String,
    full: bool,
}

impl Pause {
    /// Takes one of QEMU's events; tells whether the guest is held now and was not before, or the reverse.
    pub fn on(&mut self, event: &Event, now: Instant) -> bool {
        match event.name.as_str() {
            // Up to QEMU 10.2 no more than one a second is told, so it may come after the STOP that it explains.
            "BLOCK_IO_ERROR" if event.data["action"] == "stop" => {
                self.error = Some(error(event));
                self.hold(now)
            }
            "STOP" => {
                self.stopped = true;
                self.hold(now)
            }
            "RESUME" => {
                (self.error, self.due, self.resumed) = (None, None, Some(now));
                self.stopped = false;
                std::mem::take(&mut self.held)
            }
            _ => false,
        }
    }

    fn hold(&mut self, now: Instant) -> bool {
        if !self.stopped || self.error.is_none() || self.held {
            return false;
        }
        let steady = self.resumed.is_none_or(|since| now.saturating_duration_since(since) >= STEADY);
        self.tries = if steady { 0 } else { self.tries.saturating_add(1) };
        self.held = true;
        self.due = Some(now + PAUSES.after(self.tries.saturating_add(1)));
        true
    }

    /// Gives why the guest is held, if it is.
    pub fn because(&self) -> Option<&str> {
        self.error.as_ref().filter(|_| self.held).map(|error| error.words.as_str())
    }

    /// Gives how long a guest gets to shut down: none, while it is held and hears nothing.
    pub fn patience(&self, within: Duration) -> Duration {
        if self.held { Duration::ZERO } else { within }
    }

    /// When to look next, while the guest is held.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Decides whether the guest is let go on now. `room` is what is free for its disk; `None` = unknown.
    pub fn step(&mut self, room: Option<u64>, now: Instant) -> bool {
        let full = self.error.as_ref().is_some_and(|error| error.full);
        if full && room.is_some_and(|room| room < ROOM_BYTES) {
            self.due = Some(now + LOOK);
            return false;
        }
        // Should QEMU say nothing to it, it is told again.
        self.due = Some(now + PAUSES.after(self.tries.saturating_add(2)));
        true
    }
}

fn error(event: &Event) -> Error {
    let said = event.data["reason"].as_str().unwrap_or("no reason given");
    let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    let full = event.data["nospace"] == true;
    let words = match event.data["operation"].as_str() {
        _ if full => "no space is left for its disk on this host".to_owned(),
        Some("read") => format!("its disk cannot be read: {said}"),
        _ => format!("its disk cannot be written: {said}"),
    };
    Error { words, full }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn event(name: &str) -> Event {
        Event { name: name.into(), data: json!({}) }
    }

    fn failed(nospace: bool, reason: &str) -> Event {
        let data = json!({"action": "stop", "operation": "write", "nospace": nospace, "reason": reason});
        Event { name: "BLOCK_IO_ERROR".into(), data }
    }

    #[test]
    fn a_full_disk_is_looked_at_until_there_is_room() {
        let (mut pause, start) = (Pause::default(), Instant::now());
        assert!(!pause.on(&failed(true, "No space left on device"), start));
        assert!(pause.because().is_none() && pause.patience(S) == S, "it is told before QEMU stops");
        assert!(pause.on(&event("STOP"), start));
        assert_eq!(pause.because(), Some("no space is left for its disk on this host"));
        assert_eq!(pause.patience(60 * S), Duration::ZERO);
        for second in 1..100 {
            let now = start + second * S;
            assert_eq!(pause.due(), Some(now), "each second");
            assert!(!pause.step(Some(ROOM_BYTES - 1), now));
        }
        assert!(pause.step(Some(ROOM_BYTES), start + 100 * S));
        assert!(pause.on(&event("RESUME"), start + 100 * S));
        assert!(pause.because().is_none() && pause.due().is_none() && pause.patience(S) == S);
    }

    #[test]
    fn other_errors_are_tried_again_ever_more_slowly_until_the_guest_ran_for_a_while() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let mut hold = |pause: &mut Pause, ran: Duration| {
            now += ran;
            pause.on(&failed(false, "Input/output error"), now);
            assert!(pause.on(&event("STOP"), now));
            let waits = pause.due().unwrap() - now;
            now = pause.due().unwrap();
            assert!(pause.step(None, now));
            assert!(pause.on(&event("RESUME"), now));
            waits.as_secs()
        };
        let waits: Vec<u64> = (0..8).map(|_| hold(&mut pause, S)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(hold(&mut pause, STEADY), 1);
        pause.on(&failed(false, "Input/output error"), Instant::now());
        pause.on(&event("STOP"), Instant::now());
        assert_eq!(pause.because(), Some("its disk cannot be written: Input/output error"));
    }

    #[test]
    fn an_error_that_is_told_after_the_stop_holds_the_guest_all_the_same() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        assert!(!pause.on(&event("STOP"), now));
        assert!(pause.on(&failed(false, "Input/output error"), now + S));
        assert_eq!(pause.because(), Some("its disk cannot be written: Input/output error"));
        assert_eq!(pause.due(), Some(now + 2 * S));
        assert!(!pause.on(&failed(true, "No space left on device"), now + S), "it is held already");
        assert!(pause.on(&event("RESUME"), now + 2 * S));
        assert!(!pause.on(&failed(true, "No space left on device"), now + 2 * S), "it runs");
    }

    #[test]
    fn a_stop_for_another_reason_is_none_of_ours() {
        let mut pause = Pause::default();
        let reported = Event {
            name: "BLOCK_IO_ERROR".into(),
            data: json!({"action": "report", "nospace": true, "reason": "x"}),
        };
        let now = Instant::now();
        for event in [event("STOP"), event("RESUME"), reported, event("STOP")] {
            assert!(!pause.on(&event, now));
        }
        assert!(pause.due().is_none());
    }
}
