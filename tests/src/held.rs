//! What the agent and the shims of a host hold, as `GET /v1/internals` and the kernel tell it. Every story ends
//! with a look: what a story opened must be closed again when it is over, whatever else it shows.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use proto::wire::api::Internals;

use crate::Host;

/// What ends by itself is over by then: the last connections of those who left, ten seconds long, and those
/// who ask for them on a loaded machine.
const SETTLES: Duration = Duration::from_secs(40);
// Descriptors and tasks are as measured, with little room: an agent alone holds 31 and 51, one in a
// mesh of three with a session and a machine 41 and 80, a shim 20 and 12.
/// An agent of its own: its runtime, files, sockets and listeners.
const AGENT: Allowed = Allowed { descriptors: 35, tasks: 56, anonymous_kib: 96 * 1024 };
/// Each other member: connections, streams, relays.
const PEER: Allowed = Allowed { descriptors: 4, tasks: 12, anonymous_kib: 8 * 1024 };
/// Each session: its Raft log, the listeners of its services.
const SESSION: Allowed = Allowed { descriptors: 8, tasks: 14, anonymous_kib: 8 * 1024 };
/// Each machine here: the status and the packets of its shim, its checks.
const MACHINE: Allowed = Allowed { descriptors: 4, tasks: 8, anonymous_kib: 4 * 1024 };
/// A shim with one agent: QEMU's sockets, its own, and two connections.
const SHIM: Allowed = Allowed { descriptors: 22, tasks: 13, anonymous_kib: 40 * 1024 };

/// What one process may hold when nothing is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowed {
    descriptors: usize,
    tasks: usize,
    anonymous_kib: u64,
}

impl Allowed {
    fn plus(self, other: Allowed, times: usize) -> Allowed {
        Allowed {
            descriptors: self.descriptors + other.descriptors * times,
            tasks: self.tasks + other.tasks * times,
            anonymous_kib: self.anonymous_kib + other.anonymous_kib * times as u64,
        }
    }
}

impl Host {
    /// Asks the agent what it and its shims hold.
    pub fn held(&self) -> Result<Internals, String> {
        let socket = self.data().join("api.sock");
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(&socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET /v1/internals HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().map_err(|error| format!("{}: {error}", socket.display()))?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {text}"))?;
        serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
    }

    /// Says what is held too much now. An agent that is not there holds nothing.
    pub fn held_too_much(&self) -> Result<(), String> {
        let Ok(held) = self.held() else { return Ok(()) };
        let peers = self.agent(&["host", "list", "--json"]);
        let peers = match peers.code {
            0 => peers.json()["hosts"].as_array().map_or(0, Vec::len).saturating_sub(1),
            _ => 0,
        };
        let mut seen = String::new();
        let inherits = Allowed { descriptors: inherited(), tasks: 0, anonymous_kib: 0 };
        let shim_allowed = SHIM.plus(inherits, 1);
        let allowed = AGENT
            .plus(inherits, 1)
            .plus(PEER, peers)
            .plus(SESSION, self.session_dirs().len())
            .plus(MACHINE, held.shims.len());
        if held.flows > 0 {
            writeln!(seen, "the agent of {} carries {} connections", self.name, held.flows).ok();
        }
        let own = Allowed {
            descriptors: held.descriptors,
            tasks: held.tasks,
            anonymous_kib: held.anonymous_kib.unwrap_or(0),
        };
        compare(&mut seen, &format!("the agent of {}", self.name), own, allowed);
        for shim in &held.shims {
            let who = format!("the shim of {} on {}", shim.machine, self.name);
            let busy = shim.dials.unwrap_or(0) + shim.callers.unwrap_or(0);
            if busy > 0 {
                writeln!(seen, "{who} has {:?} dials and {:?} callers", shim.dials, shim.callers).ok();
            }
            let own = Allowed {
                descriptors: shim.descriptors,
                tasks: shim.tasks.unwrap_or(0),
                anonymous_kib: shim.anonymous_kib.unwrap_or(0),
            };
            compare(&mut seen, &who, own, shim_allowed);
        }
        if std::env::var_os("SHOW_HELD").is_some() {
            eprintln!("{}: {held:?}, {peers} peers, {} sessions", self.name, self.session_dirs().len());
        }
        if seen.is_empty() { Ok(()) } else { Err(seen) }
    }

    /// Waits until everything that was opened is closed again, or says what is not. A service that is checked
    /// all the time is quiet in between.
    pub(crate) fn settles(&self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            match self.held_too_much() {
                Err(_) if start.elapsed() < SETTLES => std::thread::sleep(Duration::from_millis(100)),
                judged => return judged,
            }
        }
    }
}

/// Counts what every program that is started here inherits from whoever started the tests.
fn inherited() -> usize {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let stays = |entry: &std::fs::DirEntry| {
        let number = entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0);
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        number > 2 && flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    };
    std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten().filter(stays).count()
}

fn compare(seen: &mut String, who: &str, own: Allowed, allowed: Allowed) {
    let over = own.descriptors > allowed.descriptors
        || own.tasks > allowed.tasks
        || own.anonymous_kib > allowed.anonymous_kib;
    if over {
        writeln!(seen, "{who} holds {own:?}, more than {allowed:?}").ok();
    }
}
