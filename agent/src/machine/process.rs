//! A process named so that it cannot be mistaken: pid, start time and boot. A pid alone is reused;
//! all three never are. Signals go through a pidfd that is opened first and checked afterwards.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use minicbor::{Decode, Encode};
use proto::run::host::Life;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

/// One process of one boot of this host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Process {
    /// Its pid while it lives.
    #[n(0)]
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    #[n(1)]
    pub start: u64,
    /// The boot of this host, from the kernel.
    #[n(2)]
    pub boot: String,
}

impl Process {
    /// Tells this process from every other in one number.
    pub fn life(&self) -> Life {
        let hash = blake3::hash(format!("{} {} {}", self.pid, self.start, self.boot).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Life(u64::from_le_bytes(first))
    }
}

/// A living process that was checked to be the one that is meant.
pub struct Living {
    pidfd: AsyncFd<OwnedFd>,
}

/// Names this boot of the host.
pub fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Process {
    /// Names the living process `pid`.
    pub fn of(pid: u32) -> io::Result<Process> {
        let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start = start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Process { pid, start, boot: boot()? })
    }

    /// Tells whether it lives. One that has ended and was not reaped runs nothing.
    pub fn runs(&self) -> io::Result<bool> {
        if boot()? != self.boot {
            return Ok(false);
        }
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => Ok(start_time(&stat) == Some(self.start) && !ended(&stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes hold of the process; `None` when it has ended. Needs a tokio runtime.
    pub fn living(&self) -> io::Result<Option<Living>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        if boot()? != self.boot {
            return Ok(None);
        }
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now: the pidfd holds on to one process, and this tells which.
        match u32::try_from(self.pid).map(Process::of) {
            Ok(Ok(seen)) if seen.start == self.start => {
                // Owned here until it is dropped, which is all that the newer, `unsafe` form asks for.
                #[allow(deprecated)]
                let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
                Ok(Some(Living { pidfd }))
            }
            _ => Ok(None),
        }
    }
}

impl Process {
    /// Tells whether a signal or a debugger has stopped it: it hears nothing until it is let go on.
    pub fn stands_still(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
        matches!(state, Some("T" | "t"))
    }
}

impl Living {
    /// Asks it to end, as a person would; QEMU flushes its disks first.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it for certain, and its children that asked to die with it.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Waits for its end; false when it still lives after `within`.
    pub async fn ended(&self, within: Duration) -> bool {
        timeout(within, self.pidfd.readable()).await.is_ok_and(|ready| ready.is_ok())
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is in brackets and may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Field 3: whether the process only waits to be reaped.
fn ended(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_brackets_and_spaces_does_not_shift_the_start_time() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("nonsense"), None);
    }

    #[tokio::test]
    async fn a_process_of_another_start_or_boot_is_not_the_one_that_is_meant() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.living().unwrap().is_some() && me.runs().unwrap());
        assert!(!Process { start: me.start + 1, ..me.clone() }.runs().unwrap());
        assert!(Process { start: me.start + 1, ..me.clone() }.living().unwrap().is_none());
        assert!(Process { boot: "another".into(), ..me }.living().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_killed_process_is_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let living = process.living().unwrap().unwrap();
        assert!(!living.ended(Duration::ZERO).await && process.runs().unwrap());
        living.kill().unwrap();
        assert!(living.ended(Duration::from_secs(5)).await);
        assert!(!process.runs().unwrap(), "nobody reaped it yet");
        child.wait().unwrap();
    }
}
