//! What the system lets this process have, and how it is shared out: connections of others never take
//! the descriptors that the local API, our files and our machines need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Linux's SIGXFSZ: a file would grow beyond `ulimit -f`.
const SIGXFSZ: i32 = 25;
/// Descriptors of a program that is not ours: what Linux gives by default. Some programs look at each.
const FOREIGN: u64 = 1024;
/// Where the system sets no limit.
const PLENTY: u64 = 1 << 20;

/// How many descriptors each part may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections to the local API, consoles included.
    pub api: usize,
    /// TCP connections to the name server.
    pub names: usize,
    /// Connections through forwards, of two descriptors each.
    pub forwarded: usize,
    /// Ports on which forwards listen, of two descriptors each: the connection that came last waits at
    /// its port for a place.
    pub listening: usize,
    /// Connections of browsers to the front door, of two descriptors each.
    pub browsing: usize,
    /// Connections through SOCKS, of two descriptors each.
    pub proxied: usize,
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    // It fails only where a system forbids it; then less is possible, and that is all.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}

/// Turns a file that may not grow into an error of that write: the signal would end the process. A
/// program that is begun from here is ended by it as ever. Call it inside a runtime.
pub fn catch_file_size() {
    // The handler stays when the stream is dropped.
    drop(signal(SignalKind::from_raw(SIGXFSZ)));
}

/// Gives a program that is not ours the usual number of descriptors, before it is begun.
pub fn lower() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft > FOREIGN) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(FOREIGN), ..limit }).ok();
    }
}

/// Shares out what this process may have.
pub fn shares() -> Shares {
    share_out(getrlimit(Resource::Nofile).current.unwrap_or(PLENTY))
}

/// Tells how far files may grow, in bytes, if that is limited.
pub fn file_bytes() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

fn share_out(limit: u64) -> Shares {
    let part = |of: u64, least: u64, most: u64| {
        usize::try_from((limit / of).clamp(least, most)).unwrap_or(usize::MAX)
    };
    Shares {
        api: part(8, 4, 512),
        names: part(32, 2, 256),
        forwarded: part(16, 2, 8192),
        listening: part(16, 2, 4096),
        browsing: part(32, 1, 1024),
        proxied: part(64, 1, 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_never_hold_half_of_all_descriptors() {
        for limit in [48_u64, 64, 256, 1024, 4096, 1 << 20] {
            let Shares { api, names, forwarded, listening, browsing, proxied } = share_out(limit);
            let all = api + names + 2 * (forwarded + listening + browsing + proxied);
            assert!(all as u64 * 2 <= limit, "{limit}: {all}");
        }
        let usual = Shares { api: 128, names: 32, forwarded: 64, listening: 64, browsing: 32, proxied: 16 };
        assert_eq!(share_out(1024), usual);
    }
}
