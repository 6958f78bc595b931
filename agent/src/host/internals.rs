//! What the agent and the shims of this host hold: descriptors, tasks, connections, memory. For people who
//! suspect a leak, and for the tests that make sure of none. Reads only.

use std::{fs, io, path::Path, time::Duration};

use futures::{StreamExt, stream};
use proto::wire::api::{HostFlows, Inside, Internals, Lost, Outside, Packets, ShimInternals};
use tokio::{runtime::Handle, time::timeout};

use crate::machine::{Paths, ShimStatus, record, wire};

/// A shim that lives answers at once; one that does not is shown without what only it knows.
const ANSWER: Duration = Duration::from_secs(2);
/// Shims that are asked at once.
const AT_ONCE: usize = 16;

/// Looks at this process and at every living shim below `sessions`, whose sockets are in `run`.
pub async fn look(sessions: &Path, run: &Path) -> io::Result<Internals> {
    let asked = stream::iter(machines(sessions)).map(|dir| async move { shim(&dir, run).await });
    let mut shims: Vec<_> =
        asked.buffer_unordered(AT_ONCE).filter_map(futures::future::ready).collect().await;
    shims.sort_by(|a, b| (a.session, &a.machine).cmp(&(b.session, &b.machine)));
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    Ok(Internals {
        pid,
        descriptors: descriptors(pid)?,
        tasks: Handle::current().metrics().num_alive_tasks(),
        flows: mesh::net::splices(),
        anonymous_kib: anonymous_kib(pid),
        shims,
        hosts: Vec::new(),
    })
}

/// Lists every directory that may be a machine's.
fn machines(sessions: &Path) -> Vec<std::path::PathBuf> {
    let children = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    children(sessions).flat_map(|session| children(&session).collect::<Vec<_>>()).collect()
}

/// Looks at the shim of one machine, if one lives.
async fn shim(dir: &Path, run: &Path) -> Option<ShimInternals> {
    let paths = Paths::new(dir, run);
    let status = record::load::<ShimStatus>(&paths.status()).ok()??;
    status.shim.living().ok()??;
    let asked = timeout(ANSWER, wire::counts(&paths.control(), ANSWER)).await;
    let counts = asked.ok().and_then(Result::ok);
    let pid = status.shim.pid;
    Some(ShimInternals {
        machine: status.machine.to_string(),
        session: status.session,
        epoch: status.epoch.0,
        pid,
        descriptors: descriptors(pid).ok()?,
        tasks: counts.map(|counts| counts.tasks),
        dials: counts.map(|counts| counts.dials),
        callers: counts.map(|counts| counts.callers),
        anonymous_kib: anonymous_kib(pid),
        outside: counts.map(outside),
        inside: counts.map(inside),
    })
}

fn outside(counts: wire::Counts) -> Outside {
    Outside {
        connections: counts.connections,
        sockets: counts.sockets,
        waiting_bytes: counts.waiting,
        denied: counts.denied,
        full: counts.full,
        uncarried: counts.uncarried,
        spoofed: counts.spoofed,
        malformed: counts.malformed,
    }
}

fn inside(counts: wire::Counts) -> Inside {
    Inside {
        sent: Packets { packets: counts.sent, bytes: counts.sent_bytes },
        received: Packets { packets: counts.received, bytes: counts.received_bytes },
        refused: counts.refused,
        misrouted: counts.misrouted,
        ignored: counts.ignored,
    }
}

/// Puts what the session network did with one host, of this name, into a row.
pub fn host_flows(host: String, counts: mesh::net::Counts) -> HostFlows {
    HostFlows {
        host,
        sent: Packets { packets: counts.sent, bytes: counts.sent_bytes },
        in_two: counts.sent_in_two,
        received: Packets { packets: counts.delivered, bytes: counts.delivered_bytes },
        lost: Lost {
            no_route: counts.no_route,
            forged: counts.forged,
            stale: counts.stale,
            malformed: counts.malformed,
            queue_full: counts.queue_full,
            unreachable: counts.unreachable,
            too_long: counts.too_long,
            dns_refused: counts.dns_refused,
        },
    }
}

/// Counts the open descriptors of a process. Looking at oneself opens one, which is not counted.
fn descriptors(pid: i32) -> io::Result<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let own = pid == rustix::process::getpid().as_raw_nonzero().get();
    Ok(open - usize::from(own))
}

fn anonymous_kib(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let before = look(dir.path(), dir.path()).await.unwrap();
        let held = [fs::File::open("/dev/null").unwrap(), fs::File::open("/dev/null").unwrap()];
        let task = tokio::spawn(std::future::pending::<()>());
        let after = look(dir.path(), dir.path()).await.unwrap();
        // Other tests may run in this process at the same time.
        assert!(after.descriptors >= held.len() + 3 && before.descriptors >= 3);
        assert_eq!(after.tasks, before.tasks + 1);
        assert!(after.anonymous_kib.is_some_and(|kib| kib > 100), "{after:?}");
        task.abort();
    }
}
