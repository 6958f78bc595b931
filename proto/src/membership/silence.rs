//! Who is only suspected: a host that was heard until a moment ago may have hiccups.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, time::Moment};

/// How long a host that gossip has lost is only suspected: a hiccup of a loaded host ends sooner.
const SILENCE_MS: u64 = 3_000;

/// When each host was heard last.
#[derive(Clone, Debug, Default)]
pub struct Silence(BTreeMap<HostId, Moment>);

impl Silence {
    /// Notes who is heard now; gives those who were until a moment ago.
    pub fn note(&mut self, live: &BTreeSet<HostId>, now: Moment) -> BTreeSet<HostId> {
        self.0.extend(live.iter().map(|host| (*host, now)));
        self.0.retain(|_, heard| now.since_ms(*heard) < SILENCE_MS);
        self.0.keys().filter(|host| !live.contains(*host)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_falls_silent_is_suspected_first_and_then_down() {
        let (host, mut silence) = (HostId([1; 32]), Silence::default());
        let (heard, nobody) = (BTreeSet::from([host]), BTreeSet::new());
        assert!(silence.note(&heard, Moment(0)).is_empty());
        assert_eq!(silence.note(&nobody, Moment(SILENCE_MS - 1)), heard);
        assert!(silence.note(&nobody, Moment(SILENCE_MS)).is_empty());
        assert!(silence.note(&nobody, Moment(SILENCE_MS + 1)).is_empty());
    }
}
