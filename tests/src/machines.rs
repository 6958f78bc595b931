//! A host's machines as its CLI tells them and as its processes are: what stories wait for, compare and kill.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use agent::machine::{ShimStatus, record};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Host, eventually};

/// A tiny guest boots in 4 s here; a machine that many share takes many times that.
pub const BOOT: Duration = Duration::from_secs(120);

/// The two processes of a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pids {
    /// The shim.
    pub shim: i32,
    /// Its QEMU.
    pub qemu: i32,
}

impl Host {
    /// Gives the row of `agent machine list` of one machine, if there is one.
    #[track_caller]
    pub fn machine(&self, name: &str) -> Option<Value> {
        let list = self.json(&["machine", "list"]);
        let rows = list["machines"].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row["name"] == name)
    }

    /// Waits until a machine is in `state`, and gives its row.
    #[track_caller]
    pub fn reaches(&self, machine: &str, state: &str) -> Value {
        eventually(BOOT, &format!("{machine} is {state}"), || {
            let row = self.machine(machine).ok_or("it is not listed")?;
            if row["state"] == state { Ok(row) } else { Err(row.to_string()) }
        })
    }

    /// Waits until a machine is no longer in `state`, and gives its row.
    #[track_caller]
    pub fn leaves(&self, machine: &str, state: &str) -> Value {
        eventually(BOOT, &format!("{machine} is not {state} any more"), || {
            let row = self.machine(machine).ok_or("it is not listed")?;
            if row["state"] == state { Err(row.to_string()) } else { Ok(row) }
        })
    }

    /// Gives the directory of the only session that this host keeps.
    #[track_caller]
    pub fn session_dir(&self) -> PathBuf {
        let dirs = self.session_dirs();
        assert_eq!(dirs.len(), 1, "{dirs:?}");
        dirs.into_iter().next().expect("one")
    }

    /// Lists the directories of all sessions that this host keeps.
    pub fn session_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("sessions")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Gives the processes of a running machine.
    #[track_caller]
    pub fn pids(&self, machine: &str) -> Pids {
        let path = self.session_dir().join(machine).join("shim");
        let status =
            record::load::<ShimStatus>(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let status = status.unwrap_or_else(|| panic!("{machine} was not started"));
        let qemu = status.qemu.as_ref().unwrap_or_else(|| panic!("{machine} has no QEMU: {status:?}"));
        let pids = Pids { shim: status.shim.pid, qemu: qemu.pid };
        assert!(alive(pids.shim) && alive(pids.qemu), "{machine} does not run: {status:?}");
        pids
    }

    /// Counts the QEMUs of this host by machine.
    pub fn qemus(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for (_, line) in self.processes("qemu-system") {
            let mut words = line.split_whitespace().skip_while(|word| *word != "-name").skip(1);
            let name = words.next().unwrap_or("?").split(['.', ',']).next().unwrap_or("?");
            *found.entry(name.to_owned()).or_default() += 1;
        }
        found
    }

    /// Gives every fact of one kind that this host recorded, oldest first.
    #[track_caller]
    pub fn facts(&self, kind: &str) -> Vec<Value> {
        let answer = self.agent(&["events", "--json-lines"]).expect(0);
        let facts = answer.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
        facts.filter(|fact: &Value| fact["kind"] == kind).collect()
    }
}

/// Tells whether a process lives. A zombie, which only waits to be reaped, does not.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Kills one process at once, as a crash would.
#[track_caller]
pub fn kill(pid: i32) {
    let process = Pid::from_raw(pid).expect("a pid");
    kill_process(process, Signal::KILL).unwrap_or_else(|error| panic!("{pid}: {error}"));
}
