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
/// Bytes of a line that are looked at; a prompt and our line are shorter.
const MAX_LINE: usize = 512;

/// `begun` and `ended` make it once: what was cut short is told, not repeated, because nobody knows
/// whether the commands may run twice.
pub const RUNNER_TEXT: &str = r#"#!/bin/sh
# Carries out the topology's commands, once in the life of this disk, and tells the host at each boot
# how that went. To try again by hand: rm -r /var/lib/mesh/begun, then run this file.
cd /var/lib/mesh || exit 1
if mkdir begun 2>/dev/null; then
    rm -f step ended
    (cd / && HOME=${HOME:-/root} exec sh /var/lib/mesh/commands.sh </dev/null)
    echo $? >ended
    sync
fi
code=$(cat ended 2>/dev/null)
step=$(cat step 2>/dev/null)
case $code in
    0) word=done ;;
    '') word="interrupted ${step:-0}" ;;
    *) word="failed ${step:-0} $code" ;;
esac
for tty in /dev/ttyS0 /dev/ttyAMA0 /dev/console; do
    [ -c $tty ] && printf '\nmesh-setup: %s.\n' "$word" 2>/dev/null >$tty && break
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
        script += &format!("echo {number} >/var/lib/mesh/step\n{command}\n");
    }
    script
}

/// Reads the console for our line.
#[derive(Default)]
pub struct Scan {
    line: Vec<u8>,
}

impl Scan {
    /// Takes a piece of output; gives the last that the guest told in it.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Setup> {
        let mut told = None;
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    told = read(&self.line).or(told);
                    self.line.clear();
                }
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        told
    }
}

/// Only numbers are taken from the guest; the words are ours.
fn read(line: &[u8]) -> Option<Setup> {
    let start = line.windows(MARK.len()).rposition(|part| part == MARK)? + MARK.len();
    let (said, _) = std::str::from_utf8(&line[start..]).ok()?.split_once('.')?;
    let words: Vec<&str> = said.split(' ').collect();
    let number = |text: &str| text.parse::<u32>().ok();
    let failed = match words.as_slice() {
        ["done"] => return Some(Setup::Done),
        ["failed", step, code] => {
            format!("setup command {} ended with exit code {}", number(step)?, number(code)?)
        }
        ["interrupted", step] => format!("setup was cut short in command {}", number(step)?),
        _ => return None,
    };
    Some(Setup::Failed(failed))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn the_line_is_found_in_pieces_behind_a_prompt_and_nothing_else_is_taken_for_it() {
        let mut scan = Scan::default();
        assert_eq!(scan.push(b"web-1 login: mesh-se"), None);
        assert_eq!(scan.push(b"tup: done.\r"), Some(Setup::Done));
        assert_eq!(scan.push(b"\nmesh-setup: done, surely\n"), None);
        assert_eq!(scan.push(b"mesh-setup: failed 2 ; rm.\n"), None);
        assert_eq!(scan.push(&[b'x'; 10_000]), None);
        let failed = Setup::Failed("setup command 2 ended with exit code 127".into());
        assert_eq!(scan.push(b"\nmesh-setup: done.\nmesh-setup: failed 2 127.\n"), Some(failed));
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
        Command::new("sh").args(["-c", &text]).status().unwrap();
        Scan::default().push(&fs::read(line).unwrap())
    }

    fn prepare(setup: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        let setup: Vec<String> = setup.iter().map(|command| command.replace("DIR", at)).collect();
        let script = commands(&setup, None).replace("/var/lib/mesh", at);
        fs::write(dir.path().join("commands.sh"), script).unwrap();
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
        for (wrong, code) in [("false", 1), ("exit 3", 3), ("echo 'open", 2)] {
            let dir = prepare(&["true", wrong, "touch DIR/after"]);
            let failed = Setup::Failed(format!("setup command 2 ended with exit code {code}"));
            assert_eq!(boot(dir.path()), Some(failed.clone()), "{wrong}");
            assert_eq!(boot(dir.path()), Some(failed), "{wrong}");
            assert!(!dir.path().join("after").exists());
        }
    }

    #[test]
    fn setup_that_a_power_cut_ended_is_told_and_not_repeated() {
        let dir = prepare(&["kill -9 $PPID $$", "touch DIR/after"]);
        assert_eq!(boot(dir.path()), None);
        let cut = Setup::Failed("setup was cut short in command 1".into());
        assert_eq!(boot(dir.path()), Some(cut));
    }
}
