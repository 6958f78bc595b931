//! Everything that can happen, as one closed enum. What a user reads, the event stream and later
//! the counters are views of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Epoch, Generation, MachineName, Name},
    reasons::{Because, Code, NoKvm, Plight, Turned, Why},
    session::Phase,
    time::Timestamp,
};

/// A fact with its place in this host's sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the facts of this host, from 1, also over restarts.
    pub seq: u64,
    /// When it was seen, RFC 3339 UTC.
    pub time: String,
    /// The host that saw it, by name.
    pub host: String,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

impl Event {
    /// Joins a fact with its place.
    pub fn new(seq: u64, now: Timestamp, host: &Name, fact: Fact) -> Event {
        Event { seq, time: now.to_string(), host: host.to_string(), fact }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Fact {
    /// The agent serves its API.
    AgentStarted {
        /// Its version.
        version: String,
    },
    /// The agent ends in order.
    AgentStopped,
    /// A host became a member, as seen here.
    MemberJoined {
        /// Its name.
        member: Name,
    },
    /// A member is seen again.
    MemberUp {
        /// Its name.
        member: Name,
    },
    /// Gossip has not heard a member for too long.
    MemberDown {
        /// Its name.
        member: Name,
    },
    /// Two computers run as this member: its data directory was copied.
    MemberTwice {
        /// Its name.
        member: Name,
    },
    /// A member left by itself.
    MemberLeft {
        /// Its name.
        member: String,
    },
    /// A member is gone for good, as somebody said who may.
    MemberRemoved {
        /// Its name.
        member: String,
        /// The host that said so; `null` = the root key.
        by: Option<String>,
    },
    /// A member was cut off.
    MemberEvicted {
        /// Its name.
        member: String,
        /// The host that said so; `null` = the root key.
        by: Option<String>,
    },
    /// This host is out of the mesh.
    HostOut {
        /// `left`, `removed` or `evicted`.
        because: String,
        /// The host that said so; `null` = the root key.
        by: Option<String>,
    },
    /// A way to a member was found, or a direct one for the first time.
    #[serde(rename = "path.fixed")]
    PathFixed(PathTurn),
    /// A member that was reached directly is reached through a relay.
    #[serde(rename = "path.degraded")]
    PathDegraded(PathTurn),
    /// The way to a member is well again.
    #[serde(rename = "path.restored")]
    PathRestored(PathTurn),
    /// There is no way to a member any more.
    #[serde(rename = "path.lost")]
    PathLost(PathTurn),
    /// The path to a member changed, as earlier versions tell it.
    PathChanged {
        /// Its name.
        member: Name,
        /// `direct` or `relayed`.
        path: String,
        /// Round trip in milliseconds.
        rtt_ms: Option<f64>,
        /// The host whose relay is used.
        via: Option<String>,
    },
    /// A join was refused here.
    JoinRefused {
        /// Why; never the token.
        because: String,
        /// The same as a value.
        #[serde(default)]
        why: Option<Code>,
    },
    /// A gossip message was dropped by the firewall or a record's signature was wrong.
    GossipRefused {
        /// Who sent it.
        member: String,
        /// Why.
        because: String,
        /// The same as a value.
        #[serde(default)]
        why: Option<Code>,
    },
    /// A relay's address discovery shows another certificate than its host signed.
    RelayCertificateDiffers {
        /// Hash of the certificate that was shown.
        shown: String,
    },
    /// This host serves a relay.
    RelayServed {
        /// Its URL.
        url: String,
    },
    /// This host serves a relay no more: nobody reaches it from outside.
    RelayWithdrawn {
        /// Its URL.
        url: String,
    },
    /// An image is complete here.
    ImageReady {
        /// Its name or hash.
        image: String,
        /// Size in bytes.
        bytes: u64,
        /// Where it came from: `import`, a URL, or host names.
        from: String,
    },
    /// A provider of an image was given up.
    ImageProviderDropped {
        /// The image.
        image: String,
        /// The host.
        provider: String,
        /// Why.
        because: String,
    },
    /// A plan was committed.
    PlanCommitted {
        /// The session.
        session: Name,
        /// The plan.
        generation: Generation,
    },
    /// Another host coordinates a session now.
    CoordinatorChanged {
        /// The session.
        session: Name,
        /// The coordinator.
        coordinator: Name,
    },
    /// The voters of a session changed.
    VotersChanged {
        /// The session.
        session: Name,
        /// Their names.
        voters: Vec<Name>,
    },
    /// This host's log of a session was of no use; it was put aside, and a new one takes its place.
    LogReplaced {
        /// The session.
        session: Name,
        /// What is wrong with it.
        because: String,
    },
    /// Files that a session's machines here need are nowhere to be had; it is tried again and again.
    ContentLacks {
        /// The session.
        session: Name,
        /// Why the last that was asked did not give it.
        because: String,
    },
    /// A share asks for what no operator signed. This host goes on with the one that it has.
    ShareRefused {
        /// The session.
        session: Name,
        /// Who brought it.
        coordinator: String,
        /// What nobody signed.
        because: String,
    },
    /// This host listens for a service in its own network.
    LanPublished {
        /// The session.
        session: Name,
        /// `SERVICE.GROUP`.
        service: String,
        /// Where it listens.
        addresses: Vec<String>,
    },
    /// This host was asked to listen for a service in its own network, and does not.
    LanRefused {
        /// The session.
        session: Name,
        /// `SERVICE.GROUP`.
        service: String,
        /// The port that was asked for.
        port: u16,
        /// Why.
        because: String,
    },
    /// A session has ended and nothing of it is left here.
    SessionGone {
        /// The session.
        session: Name,
    },
    /// A machine of this host entered another phase of its life.
    MachinePhase {
        /// The session.
        session: Name,
        /// The machine.
        machine: MachineName,
        /// Its incarnation.
        epoch: Epoch,
        /// The phase.
        phase: Phase,
        /// Why, when the phase does not say it.
        because: Option<String>,
        /// The same as a value.
        #[serde(default)]
        why: Option<Why<Because>>,
    },
    /// A machine's process was found running by a new agent.
    MachineAdopted {
        /// The session.
        session: Name,
        /// The machine.
        machine: MachineName,
    },
    /// QEMU ended and is started again.
    MachineRestarted {
        /// The session.
        session: Name,
        /// The machine.
        machine: MachineName,
        /// Why it ended.
        because: String,
    },
    /// This host signed a login into one of its machines.
    MachineEntered {
        /// The session.
        session: String,
        /// The machine.
        machine: MachineName,
        /// The host from which it was entered.
        by: String,
    },
    /// Nothing can be stored on this host, or soon nothing can.
    StorageTrouble {
        /// What is wrong.
        what: String,
        /// What was seen.
        because: String,
        /// The same as a value.
        #[serde(default)]
        why: Option<Why<Plight>>,
    },
    /// Its storage is well again.
    StorageWell,
    /// An accelerator that exists was not good enough.
    AcceleratorRefused {
        /// What was measured.
        because: String,
        /// The same as a value.
        #[serde(default)]
        why: Option<Why<NoKvm>>,
    },
}

/// What became of the way to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathTurn {
    /// Its name.
    pub member: Name,
    /// `direct` or `relayed` before, or null.
    pub from: Option<String>,
    /// The same now.
    pub to: Option<String>,
    /// The host whose relay is used now.
    pub via: Option<String>,
    /// Round trip in milliseconds now.
    pub rtt_ms: Option<f64>,
    /// The same before.
    pub rtt_before_ms: Option<f64>,
    /// Why.
    pub because: String,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Turned>>,
}

impl PathTurn {
    fn say(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        write!(f, "path to {} {what}: {}", self.member, self.to.as_deref().unwrap_or("none"))?;
        self.via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        self.rtt_ms.iter().try_for_each(|rtt| write!(f, ", {rtt:.1} ms"))?;
        let before = |from: &String| match self.rtt_before_ms {
            Some(rtt) => write!(f, ", was {from}, {rtt:.1} ms"),
            None => write!(f, ", was {from}"),
        };
        self.from.iter().try_for_each(before)?;
        write!(f, "; {}", self.because)
    }
}

fn after(because: &Option<String>) -> String {
    because.iter().map(|because| format!(": {because}")).collect()
}

fn by_whom(by: &Option<String>) -> String {
    by.iter().map(|by| format!(" by {by}")).collect()
}

fn list(words: &[impl ToString]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Fact {
    /// Writes one line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::AgentStarted { version } => write!(f, "agent {version} started"),
            Fact::AgentStopped => write!(f, "agent stopped; machines run on"),
            Fact::MemberJoined { member } => write!(f, "{member} joined the mesh"),
            Fact::MemberUp { member } => write!(f, "{member} is up"),
            Fact::MemberDown { member } => write!(f, "{member} is down: not heard for too long"),
            Fact::MemberTwice { member } => write!(
                f,
                "two computers run as {member}: its data directory was copied; delete the copy, and let that \
                 computer join by itself"
            ),
            Fact::MemberLeft { member } => write!(f, "{member} left the mesh"),
            Fact::MemberRemoved { member, by } => write!(f, "{member} was removed{}", by_whom(by)),
            Fact::MemberEvicted { member, by } => write!(f, "{member} was evicted{}", by_whom(by)),
            Fact::HostOut { because, by } => {
                write!(f, "this host is out of the mesh: {because}{}", by_whom(by))
            }
            Fact::PathFixed(turn) => turn.say(f, "found"),
            Fact::PathDegraded(turn) => turn.say(f, "got worse"),
            Fact::PathRestored(turn) => turn.say(f, "is well again"),
            Fact::PathLost(turn) => turn.say(f, "is lost"),
            Fact::PathChanged { member, path, rtt_ms, via } => {
                write!(f, "path to {member}: {path}")?;
                via.iter().try_for_each(|via| write!(f, " via {via}"))?;
                rtt_ms.iter().try_for_each(|rtt| write!(f, ", {rtt:.1} ms"))
            }
            Fact::JoinRefused { because, .. } => write!(f, "a join was refused: {because}"),
            Fact::GossipRefused { member, because, .. } => {
                write!(f, "gossip from {member} refused: {because}")
            }
            Fact::RelayCertificateDiffers { shown } => {
                write!(f, "a relay's address discovery showed an unknown certificate {shown}")
            }
            Fact::RelayServed { url } => write!(f, "serving a relay at {url}"),
            Fact::RelayWithdrawn { url } => {
                write!(f, "no longer serving a relay at {url}: nobody reaches it from outside")
            }
            Fact::ImageReady { image, bytes, from } => {
                write!(f, "image {image} is here, {bytes} bytes from {from}")
            }
            Fact::ImageProviderDropped { image, provider, because } => {
                write!(f, "image {image}: gave up on {provider}: {because}")
            }
            Fact::PlanCommitted { session, generation } => {
                write!(f, "{session}: plan {generation} committed")
            }
            Fact::CoordinatorChanged { session, coordinator } => {
                write!(f, "{session}: coordinated by {coordinator}")
            }
            others => others.of_sessions(f),
        }
    }
}

impl Fact {
    /// The rest of it: what happens to sessions and machines, and to what they stand on.
    fn of_sessions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::VotersChanged { session, voters } => write!(f, "{session}: voters are {}", list(voters)),
            Fact::LogReplaced { session, because } => {
                write!(f, "{session}: its log on this host was replaced: {because}")
            }
            Fact::ShareRefused { session, coordinator, because } => {
                write!(f, "{session}: what {coordinator} asks of this host is refused: {because}")
            }
            Fact::ContentLacks { session, because } => write!(f, "{session}: {because}; it is tried again"),
            Fact::LanPublished { session, service, addresses } => {
                write!(f, "{session}: {service} is published at {}", list(addresses))
            }
            Fact::LanRefused { session, service, port, because } => {
                write!(f, "{session}: {service} is not published on port {port}: {because}")
            }
            Fact::SessionGone { session } => write!(f, "{session}: gone from this host"),
            Fact::MachinePhase { .. }
            | Fact::MachineAdopted { .. }
            | Fact::MachineRestarted { .. }
            | Fact::MachineEntered { .. } => self.of_machines(f),
            Fact::StorageTrouble { what, because, .. } => write!(f, "{what}: {because}"),
            Fact::StorageWell => write!(f, "the data directory can be written again"),
            Fact::AcceleratorRefused { because, .. } => {
                write!(f, "hardware acceleration is not used: {because}")
            }
            // These are told by who calls this.
            Fact::AgentStarted { .. }
            | Fact::AgentStopped
            | Fact::MemberJoined { .. }
            | Fact::MemberUp { .. }
            | Fact::MemberDown { .. }
            | Fact::MemberTwice { .. }
            | Fact::MemberLeft { .. }
            | Fact::MemberRemoved { .. }
            | Fact::MemberEvicted { .. }
            | Fact::HostOut { .. }
            | Fact::PathFixed(_)
            | Fact::PathDegraded(_)
            | Fact::PathRestored(_)
            | Fact::PathLost(_)
            | Fact::PathChanged { .. }
            | Fact::JoinRefused { .. }
            | Fact::GossipRefused { .. }
            | Fact::RelayCertificateDiffers { .. }
            | Fact::RelayServed { .. }
            | Fact::RelayWithdrawn { .. }
            | Fact::ImageReady { .. }
            | Fact::ImageProviderDropped { .. }
            | Fact::PlanCommitted { .. }
            | Fact::CoordinatorChanged { .. } => Ok(()),
        }
    }

    fn of_machines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::MachinePhase { session, machine, phase, because, .. } => {
                write!(f, "{session}/{machine}: {}{}", format!("{phase:?}").to_lowercase(), after(because))
            }
            Fact::MachineAdopted { session, machine } => {
                write!(f, "{session}/{machine}: found running, adopted")
            }
            Fact::MachineRestarted { session, machine, because } => {
                write!(f, "{session}/{machine}: starting again: {because}")
            }
            Fact::MachineEntered { session, machine, by } => {
                write!(f, "{session}/{machine}: entered from {by}")
            }
            // These are told by who calls this.
            _ => Ok(()),
        }
    }
}
