//! What the topology wants done in a guest before its services count, and how we hear that it is.
//! Pure: texts for the seed, and a reader of the serial console.
//!
//! An open port says nothing of setup: most images start their servers by themselves. So the last
//! step of setup is ours: it writes one line on the serial line, which every guest with a Linux kernel
//! has, whatever its network and its cloud-init can do. The guest tells it at each boot; the host keeps
//! the good news beside the disk.

use proto::session::{MachineSpec, reconcile::Setup};

/// Runs the commands and tells. cloud-init runs what lies here at each boot; `runcmd` names it as well,
/// for guests that know only that.
pub const RUNNER: &str = "/var/lib/cloud/scripts/per-boot/mesh-setup";
/// Where the commands are written.
pub const COMMANDS: &str = "/var/lib/mesh/commands.sh";
/// What our line on the console begins with, behind whatever a login prompt left there.
const MARK: &[u8] = b"mesh-setup: ";
/// Characters of a command, and of what it printed last: a reason has room for 200 in all.
const MAX_COMMAND: usize = 50;
const MAX_PRINTED: usize = 95;
/// Bytes of a line that are looked at; a prompt and our line are shorter.
const MAX_LINE: usize = 512;

/// `begun` and `ended` make it once: what was cut short is told, not repeated, because nobody knows
/// whether the commands may run twice.
pub const RUNNER_TEXT: &str = r#"#!/bin/sh
# Carries out the topology's commands, once in the life of this disk, and tells the host at each boot
# how that went. To try again by hand: rm -r /var/lib/mesh/begun, then run this file.
cd /var/lib/mesh || exit 1
if mkdir begun 2>/dev/null; then
    rm -f step from ended
    (umask 077 && : >output)
    tail -f output 2>/dev/null &
    shown=$!
    (cd / && HOME=${HOME:-/root} exec sh /var/lib/mesh/commands.sh </dev/null >>/var/lib/mesh/output 2>&1)
    echo $? >ended
    sync
    kill $shown
fi
code=$(cat ended 2>/dev/null)
step=$(cat step 2>/dev/null)
from=$(cat from 2>/dev/null)
last=$(tail -c +$((${from:-0} + 1)) output 2>/dev/null | grep '[^[:space:]]' | tail -n 1 | tr -cd ' -~' | cut -c 1-200)
case $code in
    0) word=done last= ;;
    '') word="interrupted ${step:-0}" ;;
    *) word="failed ${step:-0} $code" ;;
esac
for tty in /dev/ttyS0 /dev/ttyAMA0 /dev/console; do
    [ -c $tty ] && printf '\nmesh-setup: %s. %s\n' "$word" "$last" 2>/dev/null >$tty && break
done
[ "$word" = done ]
"#;

/// Tells whether the seed asks a guest for anything that its services may rest on.
pub fn wanted(spec: &MachineSpec) -> bool {
    !(spec.setup.is_empty() && spec.files.is_empty() && spec.env.is_empty())
}

/// Gives the script of the topology's commands; `env` is read first, if there is any.
pub fn commands(setup: &[String], env: Option<&str>) -> String {
    let mut script = String::from("set -e\n");
    script.extend(env.map(|path| format!(". {path}\n")));
    for (number, command) in (1..).zip(setup) {
        // What is printed from here on is this command's.
        script += &format!(
            "echo {number} >/var/lib/mesh/step; wc -c </var/lib/mesh/output >/var/lib/mesh/from || :\n{command}\n"
        );
    }
    script
}

/// Reads the console for our line.
#[derive(Default)]
pub struct Scan {
    commands: Vec<String>,
    line: Vec<u8>,
}

impl Scan {
    /// Reads the console of a guest that was given these commands.
    pub fn of(commands: &[String]) -> Scan {
        Scan { commands: commands.to_vec(), line: Vec::new() }
    }

    /// Takes a piece of output; gives the last that the guest told in it.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Setup> {
        let mut told = None;
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    told = read(&self.line, &self.commands).or(told);
                    self.line.clear();
                }
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        told
    }
}

/// Of the guest are the numbers and what its command printed last; the command is the topology's.
fn read(line: &[u8], commands: &[String]) -> Option<Setup> {
    let start = line.windows(MARK.len()).rposition(|part| part == MARK)? + MARK.len();
    let said = String::from_utf8_lossy(&line[start..]);
    let (said, printed) = said.split_once('.')?;
    let words: Vec<&str> = said.split(' ').collect();
    let command = |step: &str| {
        let number: usize = step.parse().ok()?;
        let text = number.checked_sub(1).and_then(|at| commands.get(at));
        Some(match text.map(|text| shortened(text.trim().lines().next().unwrap_or_default(), MAX_COMMAND)) {
            Some(text) => format!("command {number} ({text})"),
            None => format!("command {number}"),
        })
    };
    let mut failed = match words.as_slice() {
        ["done"] => return Some(Setup::Done),
        ["failed", step, code] => {
            format!("setup {} ended with exit code {}", command(step)?, code.parse::<u32>().ok()?)
        }
        ["interrupted", step] => format!("setup was cut short in {}", command(step)?),
        _ => return None,
    };
    let printed = shortened(printed.trim(), MAX_PRINTED);
    if !printed.is_empty() {
        failed += &format!(": {printed}");
    }
    Some(Setup::Failed(failed))
}

/// Nothing that could steer a terminal, and no more than a line has room for.
fn shortened(text: &str, most: usize) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    let mut short: String = printable.clone().take(most).collect();
    if printable.count() > most {
        short.push_str(" ...");
    }
    short
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::CommandExt, process::Command};

    use rustix::process::{Pid, Signal};

    use super::*;

    #[test]
    fn the_line_is_found_in_pieces_behind_a_prompt_and_nothing_else_is_taken_for_it() {
        let mut scan = Scan::of(&["true".into(), format!("  apt-get install {}\nrm x", "y".repeat(99))]);
        assert_eq!(scan.push(b"web-1 login: mesh-se"), None);
        assert_eq!(scan.push(b"tup: done.\r"), Some(Setup::Done));
        assert_eq!(scan.push(b"\nmesh-setup: done, surely\n"), None);
        assert_eq!(scan.push(b"mesh-setup: failed 2 ; rm.\n"), None);
        assert_eq!(scan.push(&[b'x'; 10_000]), None);
        let failed =
            format!("setup command 2 (apt-get install {} ...) ended with exit code 127", "y".repeat(34));
        let told = scan.push(b"\nmesh-setup: done.\nmesh-setup: failed 2 127.\n");
        assert_eq!(told, Some(Setup::Failed(failed)));
        let told = scan.push(b"mesh-setup: failed 1 2. sh: \x1b[31mno. \xff\n");
        let failed = "setup command 1 (true) ended with exit code 2: sh: [31mno. \u{fffd}";
        assert_eq!(told, Some(Setup::Failed(failed.into())));
        let told = scan.push(format!("mesh-setup: failed 0 2. {}\n", "z".repeat(300)).as_bytes());
        let Some(Setup::Failed(failed)) = told else { panic!("{told:?}") };
        assert!(
            failed.starts_with("setup command 0 ended with exit code 2: zzz") && failed.ends_with("z ...")
        );
        assert!(failed.len() < 200);
        let cut = Setup::Failed("setup was cut short in command 3".into());
        assert_eq!(scan.push(b"mesh-setup: interrupted 3.\n"), Some(cut));
    }

    /// Runs the runner with its directory and its serial line in `dir`, and reads what it told.
    fn boot(dir: &std::path::Path) -> Option<Setup> {
        let line = dir.join("line");
        fs::write(&line, "").unwrap();
        let at = dir.to_str().unwrap();
        let text = RUNNER_TEXT
            .replace("/var/lib/mesh", at)
            .replace("/dev/ttyS0", line.to_str().unwrap())
            .replace("[ -c ", "[ -e ");
        // What it leaves in the background goes with its group.
        let mut runner = Command::new("sh").args(["-c", &text]).process_group(0).spawn().unwrap();
        runner.wait().unwrap();
        rustix::process::kill_process_group(Pid::from_child(&runner), Signal::KILL).ok();
        let commands = fs::read_to_string(dir.join("texts")).unwrap();
        let commands: Vec<String> = commands.lines().map(str::to_owned).collect();
        Scan::of(&commands).push(&fs::read(line).unwrap())
    }

    fn prepare(setup: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        let setup: Vec<String> = setup.iter().map(|command| command.replace("DIR", at)).collect();
        let script = commands(&setup, None).replace("/var/lib/mesh", at);
        fs::write(dir.path().join("commands.sh"), script).unwrap();
        fs::write(dir.path().join("texts"), setup.join("\n")).unwrap();
        dir
    }

    #[test]
    fn commands_run_once_and_how_they_went_is_told_at_each_boot() {
        let dir = prepare(&["x=5", "echo $x >>DIR/ran"]);
        assert_eq!(boot(dir.path()), Some(Setup::Done));
        assert_eq!(boot(dir.path()), Some(Setup::Done));
        assert_eq!(fs::read(dir.path().join("ran")).unwrap(), b"5\n");
    }

    #[test]
    fn the_command_that_failed_is_named_and_none_follows_it() {
        for (wrong, code, printed) in [
            ("false", 1, ""),
            ("exit 3", 3, ""),
            ("echo one; printf 'two\\n\\n' >&2; exit 4", 4, ": two"),
            ("sleep 600 & exit 5", 5, ""),
        ] {
            let dir = prepare(&["echo before", wrong, "touch DIR/after"]);
            let failed = format!("setup command 2 ({wrong}) ended with exit code {code}{printed}");
            let failed = Setup::Failed(failed);
            assert_eq!(boot(dir.path()), Some(failed.clone()), "{wrong}");
            assert_eq!(boot(dir.path()), Some(failed), "{wrong}");
            assert!(!dir.path().join("after").exists());
        }
    }

    #[test]
    fn a_command_that_cannot_be_read_is_told_in_the_shells_words() {
        let dir = prepare(&["true", "echo 'open", "touch DIR/after"]);
        let told = boot(dir.path());
        let Some(Setup::Failed(failed)) = &told else { panic!("{told:?}") };
        assert!(failed.starts_with("setup command 2 (echo 'open) ended with exit code 2: "), "{failed}");
        assert!(!dir.path().join("after").exists());
    }

    #[test]
    fn setup_that_a_power_cut_ended_is_told_and_not_repeated() {
        let dir = prepare(&["kill -9 $PPID $$", "touch DIR/after"]);
        assert_eq!(boot(dir.path()), None);
        let cut = Setup::Failed("setup was cut short in command 1 (kill -9 $PPID $$)".into());
        assert_eq!(boot(dir.path()), Some(cut));
    }
}
