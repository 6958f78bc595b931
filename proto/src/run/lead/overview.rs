//! Everything that a coordinator looks at: the group, the hard state, the members.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    id::{HostId, Name},
    level::Level,
    session::State,
    trust::May,
};

/// A member of the mesh, as a coordinator looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its label.
    pub name: Name,
    /// Whether it is heard.
    pub up: bool,
    /// Whether it is fit to vote: no battery, or up for a day.
    pub steady: bool,
    /// What it understands, as it told last; `None` = it never told.
    pub level: Option<Level>,
    /// What its certificate lets it do.
    pub may: May,
}

/// Where this host's log stands in the session's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It votes or learns.
    Inside,
    /// It was taken out while it was away, and never comes back under its node id.
    Removed,
    /// The log names it nowhere: it was never taken in.
    Outside,
}

/// The session's group as this host's log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The leader.
    pub leader: Option<HostId>,
    /// Whether this host leads. It may have been deposed already: only a quorum round is sure.
    pub leading: bool,
    /// The Raft term.
    pub term: u64,
    /// The voters' hosts by the node ids of their logs.
    pub voters: BTreeMap<u64, HostId>,
    /// Voters whose logs are older than what they acknowledged to this leader.
    pub outdated: BTreeSet<u64>,
    /// Where this host's own log stands.
    pub place: Place,
    /// Why the log cannot be written any more.
    pub stopped: Option<String>,
}

impl Standing {
    /// Lists the hosts that vote.
    pub(super) fn hosts(&self) -> BTreeSet<HostId> {
        self.voters.values().copied().collect()
    }
}

/// Everything that a coordinator looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// The group.
    pub group: Standing,
    /// The hard state as far as this log has it.
    pub state: Option<Arc<State>>,
    /// The members of the mesh, this host included.
    pub members: BTreeMap<HostId, Member>,
    /// The hosts that are out of the mesh for good. Nothing is waited for from them.
    pub out: BTreeSet<HostId>,
    /// Whether a statement says that the session has ended and nothing of it is left.
    pub buried: bool,
    /// Whether this host has a share of the session: then the host's own machine clears everything away.
    pub shared: bool,
}

impl Overview {
    /// Lists the members that are not out.
    pub(super) fn present(&self) -> impl Iterator<Item = (&HostId, &Member)> {
        self.members.iter().filter(|(host, _)| !self.out.contains(host))
    }

    /// Lists those of them that are heard.
    pub(super) fn up(&self) -> impl Iterator<Item = HostId> {
        self.present().filter(|(_, member)| member.up).map(|(host, _)| *host)
    }
}
