//! Pure: what the network shows of a guest, and where we are in finding out whether one that boots answers on its address.

use std::time::{Duration, Instant};

/// How long one attempt to get an answer out of a guest that is booting lasts. The next begins at once.
pub const KNOCK: Duration = Duration::from_secs(1);
/// Port "echo". Nobody listens there, so the guest's kernel answers by refusing, and that is enough.
pub const KNOCK_PORT: u16 = 7;

/// What the network shows of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// It sent a frame.
    pub alive: bool,
    /// It answers on its address.
    pub booted: bool,
    /// It has its IPv6 address.
    pub v6: bool,
}

/// Where we are in finding out whether the guest answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// It has not sent a frame yet.
    Waiting,
    /// The next knock is due.
    Due(Instant),
    /// A knock is on its way, as dial `id`, and is given up at `until`.
    Open {
        /// The dial.
        id: u64,
        /// When it is given up.
        until: Instant,
    },
    /// It has answered.
    Answered,
}

impl Knock {
    /// Tells when there is something to do.
    pub fn due(self) -> Option<Instant> {
        match self {
            Knock::Due(at) | Knock::Open { until: at, .. } => Some(at),
            Knock::Waiting | Knock::Answered => None,
        }
    }
}
