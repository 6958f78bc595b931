//! Why a machine is where it is in its life, when the phase alone does not say it: why it waits, failed, is
//! away. Words of a guest, of QEMU or of a disk stand in a reason as they were found. No reason holds a number
//! that ticks: a report changes only when something happened.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{OTHER, list};
use crate::id::Name;

/// Why a machine is in its phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[cbor(map)]
pub enum Because {
    /// Its older incarnation goes first.
    #[n(1)]
    OlderRemoved,
    /// It runs with what it was launched with, and shall have something else.
    #[n(2)]
    Restarting,
    /// QEMU holds the guest.
    #[n(3)]
    Paused {
        /// What is wrong with its disk.
        #[n(0)]
        seen: String,
    },
    /// It runs, and shall not.
    #[n(4)]
    Stopping,
    /// It could not be stopped.
    #[n(5)]
    StopFailed {
        /// What was seen.
        #[n(0)]
        seen: String,
        /// Which try comes next.
        #[n(1)]
        attempt: u32,
        /// After how long.
        #[n(2)]
        after_s: u64,
    },
    /// It shall not run, and nobody knows whether it does.
    #[n(6)]
    StoppingUnseen {
        /// What was seen.
        #[n(0)]
        seen: String,
    },
    /// It may run, and does not answer.
    #[n(7)]
    Unseen {
        /// What was seen.
        #[n(0)]
        seen: String,
        /// How long silence is borne.
        #[n(1)]
        within_min: u64,
    },
    /// The guest has not answered since its start.
    #[n(8)]
    Silent,
    /// The user does not want it to run.
    #[n(9)]
    StoppedByUser,
    /// What it needs is not ready.
    #[n(10)]
    Needs {
        /// The groups.
        #[n(0)]
        groups: Vec<Name>,
    },
    /// The coordinator has not allowed its first start yet.
    #[n(11)]
    AsksForStart {
        /// Why the last question came to nothing.
        #[n(0)]
        failed: Option<String>,
    },
    /// The guest is still being set up.
    #[n(12)]
    SetupPending,
    /// What the topology has for the guest was not done.
    #[n(13)]
    SetupFailed {
        /// What the guest said.
        #[n(0)]
        seen: String,
    },
    /// A check does not pass, within its grace.
    #[n(14)]
    NotReady {
        /// The service.
        #[n(0)]
        service: Name,
    },
    /// A check does not pass, although its grace is over.
    #[n(15)]
    NoAnswer {
        /// The service.
        #[n(0)]
        service: Name,
        /// Its port.
        #[n(1)]
        port: u16,
        /// Its grace.
        #[n(2)]
        after_s: u64,
    },
    /// QEMU ended, and the topology wants no other start.
    #[n(16)]
    EndedForGood {
        /// How it ended.
        #[n(0)]
        seen: String,
    },
    /// QEMU ended, and what it needs is not ready.
    #[n(17)]
    EndedNeeds {
        /// How it ended.
        #[n(0)]
        seen: String,
        /// The groups.
        #[n(1)]
        groups: Vec<Name>,
    },
    /// QEMU ended, and is started again.
    #[n(18)]
    Ended {
        /// How it ended.
        #[n(0)]
        seen: String,
        /// Which try comes next.
        #[n(1)]
        attempt: u32,
        /// After how long.
        #[n(2)]
        after_s: u64,
    },
    /// It could not be started, or its image did not come.
    #[n(19)]
    Unstarted {
        /// What was seen.
        #[n(0)]
        seen: String,
        /// Which try comes next.
        #[n(1)]
        attempt: u32,
        /// After how long.
        #[n(2)]
        after_s: u64,
    },
    /// Its image is on the way.
    #[n(20)]
    Fetching {
        /// What is here, in tens.
        #[n(0)]
        percent: u8,
    },
    /// Its host has said nothing of it yet.
    #[n(21)]
    Unreported,
    /// Its host is not heard.
    #[n(22)]
    HostAway {
        /// The host.
        #[n(0)]
        host: String,
    },
    /// Files that it needs are nowhere to be had.
    #[n(23)]
    ContentLacks {
        /// What was seen.
        #[n(0)]
        seen: String,
    },
    /// There is a reason that found no room in what its host tells gossip.
    #[n(24)]
    Untold,
    /// Its host's owner lets no machine into the host's network, as this one is to go (`egress = "lan"`).
    #[n(25)]
    LanForbidden,
    /// Its host's owner gives the host to no machines: none starts there.
    #[n(26)]
    OwnerForbids,
    /// Its host's certificate does not let the host run machines: none starts there.
    #[n(27)]
    MayNotRun,
    /// Its host is out of the mesh for good.
    #[n(28)]
    HostOut {
        /// The host's last label.
        #[n(0)]
        host: String,
        /// The session.
        #[n(1)]
        session: Name,
    },
    /// Something that only a later version says.
    #[default]
    #[serde(other)]
    #[n(0)]
    Other,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::Other => f.write_str(OTHER),
            Because::OlderRemoved => f.write_str("its older incarnation is being removed"),
            Because::Restarting => f.write_str("restarting: its settings changed"),
            Because::Paused { seen } => write!(f, "{seen}; it goes on as soon as that is mended"),
            Because::Stopping => f.write_str("stopping"),
            Because::StopFailed { seen, attempt, after_s } => {
                write!(f, "stopping: {seen}; {}", next(*attempt, *after_s))
            }
            Because::StoppingUnseen { seen } => write!(f, "stopping, although unknown to us: {seen}"),
            Because::Unseen { seen, within_min } => write!(
                f,
                "unknown to us: {seen}; looked for again and again; \
                 what is silent is started anew after {within_min} min"
            ),
            Because::Silent => {
                f.write_str("the guest has not answered, a minute after its start; its console shows why")
            }
            Because::StoppedByUser => f.write_str("stopped by the user"),
            Because::Needs { groups } => f.write_str(&needs(groups)),
            Because::AsksForStart { failed } => {
                f.write_str("asks the coordinator for its first start")?;
                failed.iter().try_for_each(|failed| write!(f, ": {failed}"))
            }
            Because::SetupPending => f.write_str("its setup is not done yet"),
            Because::SetupFailed { seen } => f.write_str(seen),
            Because::NotReady { service } => write!(f, "{service} is not ready yet"),
            Because::NoAnswer { service, port, after_s } => {
                write!(f, "{service} does not answer on port {port}, {after_s} s after the start")
            }
            Because::EndedForGood { seen } => write!(f, "{seen}; not started again (restart policy)"),
            Because::EndedNeeds { seen, groups } => write!(f, "{seen}; {}", needs(groups)),
            Because::Ended { seen, attempt, after_s } | Because::Unstarted { seen, attempt, after_s } => {
                write!(f, "{seen}; {}", next(*attempt, *after_s))
            }
            Because::ContentLacks { seen } => write!(f, "its files cannot be fetched: {seen}"),
            Because::Fetching { percent } => write!(f, "{percent} % of the image is here"),
            Because::LanForbidden => f.write_str(
                "its host's owner lets no machine into the host's network; policy.lan = true in the host's \
                 config.toml allows it, egress = \"internet\" does without",
            ),
            Because::OwnerForbids => f.write_str(
                "its host's owner lets it run no machines; policy.machines = true in the host's config.toml allows it",
            ),
            Because::MayNotRun => f.write_str("its host is not allowed to run machines: its certificate limits it"),
            Because::Untold => f.write_str("its host says why: gossip had no room for it"),
            Because::Unreported => f.write_str("its host has not reported yet"),
            Because::HostAway { host } => f.write_str(&away(host)),
            Because::HostOut { host, session } => f.write_str(&out(host, session)),
        }
    }
}

fn away(host: &str) -> String {
    format!(
        "{host} is not heard; the machine waits for it (guard: hold); if {host} is gone for good: \
         agent host remove {host}"
    )
}

fn out(host: &str, session: &Name) -> String {
    format!(
        "{host} is out of the mesh, and the machine's disk with it; agent session up with the topology of \
         {session} begins it anew elsewhere"
    )
}

fn needs(groups: &[Name]) -> String {
    format!("needs {}, not ready yet", list(groups))
}

fn next(attempt: u32, after_s: u64) -> String {
    format!("try {attempt} follows after {after_s} s")
}
