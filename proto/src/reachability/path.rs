//! What we say about the path to a member, out of what is measured on its connection.

use std::net::SocketAddr;

/// How a member is reached now.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Whether packets go straight or through a relay.
    pub kind: PathKind,
    /// Smoothed round trip in milliseconds.
    pub rtt_ms: f64,
    /// URL of the relay that carries it, or the address that answers.
    pub via: String,
}

/// Straight or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// UDP from host to host.
    Direct,
    /// Through a relay of the mesh.
    Relayed,
}

impl PathKind {
    /// Gives the word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            PathKind::Direct => "direct",
            PathKind::Relayed => "relayed",
        }
    }
}

/// One path of a connection as measured.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where it ends.
    pub remote: Remote,
    /// Whether it is the one in use.
    pub selected: bool,
    /// Its smoothed round trip.
    pub rtt_ms: f64,
}

/// Where a measured path ends.
#[derive(Clone, Debug)]
pub enum Remote {
    /// At the host itself.
    Address(SocketAddr),
    /// At a relay, by its URL.
    Relay(String),
}

/// Chooses what to show: the selected path; before one is selected the direct one, then the fastest.
pub fn describe(samples: &[Sample]) -> Option<Path> {
    let rank = |sample: &&Sample| {
        let direct = matches!(sample.remote, Remote::Address(_));
        (!sample.selected, !direct, (sample.rtt_ms * 1000.0) as u64)
    };
    let best = samples.iter().min_by_key(rank)?;
    let (kind, via) = match &best.remote {
        Remote::Address(address) => (PathKind::Direct, address.to_string()),
        Remote::Relay(url) => (PathKind::Relayed, url.clone()),
    };
    Some(Path { kind, rtt_ms: best.rtt_ms, via })
}

/// Tells whether a change is worth a fact: round trips move all the time, ways do not.
pub fn differs(old: Option<&Path>, new: Option<&Path>) -> bool {
    old.map(|path| path.kind) != new.map(|path| path.kind)
        || new.is_some_and(|path| path.kind == PathKind::Relayed)
            && old.map(|path| &path.via) != new.map(|path| &path.via)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(selected: bool, rtt_ms: f64) -> Sample {
        Sample { remote: Remote::Address("192.0.2.7:7440".parse().unwrap()), selected, rtt_ms }
    }

    fn relayed(selected: bool, url: &str) -> Sample {
        Sample { remote: Remote::Relay(url.to_owned()), selected, rtt_ms: 1.0 }
    }

    #[test]
    fn the_selected_path_is_shown() {
        let path = describe(&[direct(false, 1.0), relayed(true, "http://a")]).unwrap();
        assert_eq!((path.kind, path.via.as_str()), (PathKind::Relayed, "http://a"));
    }

    #[test]
    fn before_the_selection_a_direct_path_is_shown() {
        assert_eq!(
            describe(&[relayed(false, "http://a"), direct(false, 9.0)]).unwrap().kind,
            PathKind::Direct
        );
        assert_eq!(describe(&[]), None);
    }

    #[test]
    fn a_new_round_trip_is_no_change_but_another_relay_is() {
        let path = |samples: &[Sample]| describe(samples);
        assert!(!differs(path(&[direct(true, 1.0)]).as_ref(), path(&[direct(true, 5.0)]).as_ref()));
        assert!(differs(
            path(&[relayed(true, "http://a")]).as_ref(),
            path(&[relayed(true, "http://b")]).as_ref()
        ));
        assert!(differs(None, path(&[direct(true, 1.0)]).as_ref()));
        assert!(differs(path(&[direct(true, 1.0)]).as_ref(), None));
    }
}
