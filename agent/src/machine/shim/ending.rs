//! How QEMU ended, in words. Pure: what was seen, the exit status and the log give an [`Ending`].

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use super::super::{qmp::Event, record::Ending, stop::Step};

/// Characters of QEMU's own words that are passed on.
const MAX_WORDS: usize = 160;

/// What was seen of a machine's end.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Why it could not be started.
    pub failure: Option<String>,
    /// Whether it was asked to stop.
    pub asked: bool,
    /// The last step of stopping.
    pub pressed: Option<Step>,
    /// Whether it never showed a sign of life.
    pub doubted: bool,
    /// Whether the guest shut down by itself.
    shutdown: bool,
    /// Whether the guest's kernel panicked.
    panicked: bool,
}

impl Seen {
    /// Takes one of QEMU's events into account.
    pub fn on(&mut self, event: &Event) {
        match event.name.as_str() {
            "SHUTDOWN" => self.shutdown |= event.data["guest"] == true,
            "GUEST_PANICKED" => self.panicked = true,
            _ => {}
        }
    }

    /// Concludes.
    pub fn ending(&self, exit: ExitStatus, log: &str) -> Ending {
        let (reason, clean) = self.reason(exit, log);
        let accelerator_doubted = self.doubted;
        Ending { reason, clean, asked: self.asked, accelerator_doubted }
    }

    fn reason(&self, exit: ExitStatus, log: &str) -> (String, bool) {
        if let Some(failure) = &self.failure {
            return (with_words(failure, log), false);
        }
        if self.doubted {
            return ("the guest showed no sign of life under hardware acceleration".into(), false);
        }
        if self.panicked {
            return ("the guest's kernel panicked".into(), false);
        }
        if self.shutdown {
            let reason = if self.asked { "stopped" } else { "the guest shut down" };
            return (reason.into(), true);
        }
        if self.asked && exit.success() {
            return ("stopped; the guest did not shut down in time".into(), true);
        }
        if self.asked && self.pressed == Some(Step::Kill) {
            return ("killed; neither the guest nor QEMU ended in time".into(), false);
        }
        match (exit.code(), exit.signal()) {
            (Some(0), _) => ("QEMU ended".into(), true),
            (Some(code), _) => (with_words(&format!("QEMU failed with exit code {code}"), log), false),
            (None, Some(signal)) => (format!("QEMU was killed by signal {signal}"), false),
            (None, None) => ("QEMU ended".into(), false),
        }
    }
}

/// Adds the last line that QEMU printed.
fn with_words(reason: &str, log: &str) -> String {
    match log.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{reason}: {}", line.trim().chars().take(MAX_WORDS).collect::<String>()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(seen: Seen, wait_status: i32, wanted: (&str, bool)) {
        let log = "qemu-system-x86_64: first\nqemu-system-x86_64: cannot set up guest memory\n\n";
        let ending = seen.ending(ExitStatus::from_raw(wait_status), log);
        assert_eq!((ending.reason.as_str(), ending.clean), wanted);
    }

    fn event(name: &str, guest: bool) -> Event {
        Event { name: name.into(), data: json!({"guest": guest}) }
    }

    fn after(events: &[Event], seen: Seen) -> Seen {
        events.iter().fold(seen, |mut seen, event| {
            seen.on(event);
            seen
        })
    }

    #[test]
    fn every_end_has_its_reason() {
        let asked = Seen { asked: true, ..Seen::default() };
        let off = [event("SHUTDOWN", true)];
        check(after(&off, Seen::default()), 0, ("the guest shut down", true));
        check(after(&off, asked.clone()), 0, ("stopped", true));
        let quit = [event("SHUTDOWN", false)];
        check(after(&quit, asked.clone()), 0, ("stopped; the guest did not shut down in time", true));
        let killed = Seen { pressed: Some(Step::Kill), ..asked };
        check(killed, 9, ("killed; neither the guest nor QEMU ended in time", false));
        let panic = [event("GUEST_PANICKED", false), event("SHUTDOWN", false)];
        check(after(&panic, Seen::default()), 0, ("the guest's kernel panicked", false));
        check(Seen::default(), 11, ("QEMU was killed by signal 11", false));
        let failed = "QEMU failed with exit code 1: qemu-system-x86_64: cannot set up guest memory";
        check(Seen::default(), 256, (failed, false));
        check(Seen::default(), 0, ("QEMU ended", true));
    }
}
