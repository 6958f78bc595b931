//! How QEMU ended, in words. Pure: what was seen, the exit status and the log give an [`Ending`].

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use super::super::{qmp::Event, record::Ending, stop::Step};

/// Characters of QEMU's own words that are passed on.
const MAX_WORDS: usize = 160;

/// What was seen of a machine's end.
#[derive(Clone, Debug, Default)]
pub struct EndSigns {
    /// Why it could not be started.
    pub failure: Option<String>,
    /// Whether it was asked to stop.
    pub asked: bool,
    /// The last step of stopping.
    pub pressed: Option<Step>,
    /// Whether it never showed a sign of life.
    pub doubted: bool,
    /// Why the guest was held, if it was at the end.
    pub paused: Option<String>,
    /// Whether the guest shut down by itself.
    shutdown: bool,
    /// Whether the guest's kernel panicked.
    panicked: bool,
}

impl EndSigns {
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
        if let Some(because) = self.paused.as_ref().filter(|_| self.asked && exit.success()) {
            return (format!("stopped while it was paused: {because}"), true);
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

/// Adds what QEMU printed last.
fn with_words(reason: &str, log: &str) -> String {
    match words(log) {
        Some(words) => format!("{reason}: {words}"),
        None => reason.to_owned(),
    }
}

/// Gives the cause that the last message in a log names, without what people did not write: the program's
/// name, and the arguments that we gave it. A message may go on for some lines.
pub fn words(log: &str) -> Option<String> {
    let told = |line: &&str| !line.is_empty() && !line.contains(": warning: ");
    let lines: Vec<&str> = log.lines().map(str::trim).filter(told).collect();
    let first = lines.iter().rposition(|line| said_by_qemu(line).is_some());
    let message = match first {
        Some(at) => {
            let cause = cause(said_by_qemu(lines[at])?);
            [&[cause.as_str()], &lines[at + 1..]].concat().join(" ")
        }
        None => (*lines.last()?).to_owned(),
    };
    let printable = message.chars().filter(|c| !c.is_control());
    let mut words: String = printable.clone().take(MAX_WORDS).collect();
    if printable.count() > MAX_WORDS {
        words.push_str(" ...");
    }
    Some(words)
}

fn said_by_qemu(line: &str) -> Option<&str> {
    let (program, said) = line.split_once(": ")?;
    let program = program.rsplit('/').next()?;
    program.starts_with("qemu-").then_some(said)
}

/// `-blockdev {"driver": ..}: Could not open ..` becomes `Could not open .. (-blockdev)`.
fn cause(said: &str) -> String {
    let Some((flag, rest)) = said.split_once(' ').filter(|(flag, _)| flag.starts_with('-')) else {
        return said.to_owned();
    };
    let value = if rest.starts_with('{') { json_end(rest) } else { rest.find(": ") };
    match value.and_then(|end| rest.get(end..)?.strip_prefix(": ")) {
        Some(cause) => format!("{cause} ({flag})"),
        None => said.to_owned(),
    }
}

/// Gives where the JSON object at the beginning of a text ends.
fn json_end(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !quoted {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(seen: EndSigns, wait_status: i32, wanted: (&str, bool)) {
        let log = "qemu-system-x86_64: first\nqemu-system-x86_64: cannot set up guest memory\n\n";
        let ending = seen.ending(ExitStatus::from_raw(wait_status), log);
        assert_eq!((ending.reason.as_str(), ending.clean), wanted);
    }

    fn event(name: &str, guest: bool) -> Event {
        Event { name: name.into(), data: json!({"guest": guest}) }
    }

    fn after(events: &[Event], seen: EndSigns) -> EndSigns {
        events.iter().fold(seen, |mut seen, event| {
            seen.on(event);
            seen
        })
    }

    #[test]
    fn every_end_has_its_reason() {
        let asked = EndSigns { asked: true, ..EndSigns::default() };
        let off = [event("SHUTDOWN", true)];
        check(after(&off, EndSigns::default()), 0, ("the guest shut down", true));
        check(after(&off, asked.clone()), 0, ("stopped", true));
        let quit = [event("SHUTDOWN", false)];
        check(after(&quit, asked.clone()), 0, ("stopped; the guest did not shut down in time", true));
        let killed = EndSigns { pressed: Some(Step::Kill), ..asked };
        check(killed, 9, ("killed; neither the guest nor QEMU ended in time", false));
        let panic = [event("GUEST_PANICKED", false), event("SHUTDOWN", false)];
        check(after(&panic, EndSigns::default()), 0, ("the guest's kernel panicked", false));
        check(EndSigns::default(), 11, ("QEMU was killed by signal 11", false));
        let held = EndSigns { asked: true, paused: Some("no space".into()), ..EndSigns::default() };
        check(held, 0, ("stopped while it was paused: no space", true));
        let failed = "QEMU failed with exit code 1: cannot set up guest memory";
        check(EndSigns::default(), 256, (failed, false));
        check(EndSigns::default(), 0, ("QEMU ended", true));
    }

    #[test]
    fn the_cause_is_told_without_the_arguments_and_to_its_end() {
        let check = |log: &str, wanted: &str| assert_eq!(words(log).as_deref(), Some(wanted), "{log}");
        let blockdev = r#"-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/data/a \"b}: /disk.qcow2"},"node-name":"disk"}"#;
        check(
            &format!(
                "qemu-system-x86_64: {blockdev}: Failed to get \"write\" lock\nIs another process using the image [/data/disk.qcow2]?\n"
            ),
            "Failed to get \"write\" lock (-blockdev) Is another process using the image [/data/disk.qcow2]?",
        );
        check(
            &format!(
                "/usr/bin/qemu-system-x86_64: {blockdev}: Could not open '/data/disk.qcow2': Permission denied"
            ),
            "Could not open '/data/disk.qcow2': Permission denied (-blockdev)",
        );
        check(
            "qemu-system-x86_64: -device pvpanic-pci,x=1: Property 'pvpanic-pci.x' not found",
            "Property 'pvpanic-pci.x' not found (-device)",
        );
        check(
            "qemu-system-x86_64: unable to find CPU model 'no: such'",
            "unable to find CPU model 'no: such'",
        );
        check("qemu-system-x86_64: -m 1: \nshim: cannot write", "-m 1: shim: cannot write");
        check("qemu-system-x86_64: cause\nqemu-system-x86_64: warning: TCG is slow", "cause");
        check("shim: there is no intent", "shim: there is no intent");
        check("qemu-system-x86_64: -blockdev {\"never\": ends", "-blockdev {\"never\": ends");
        check(&format!("qemu-system-x86_64: {}", "x".repeat(500)), &format!("{} ...", "x".repeat(MAX_WORDS)));
        assert_eq!(words("\n \n"), None);
    }
}
