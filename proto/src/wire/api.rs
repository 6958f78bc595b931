//! JSON for people: what the local API answers and `--json` shows. Field names are a contract
//! (DESIGN section 12): fields are added, never renamed.
//!
//! Hosts are names here, ids are hex text, times are RFC 3339 UTC, and what is not known is `null`:
//! a field is never left out. Nothing here decides or prints.

use std::{collections::BTreeMap, fmt};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, HostId, MachineName, MeshId, Name, SessionId},
    limits::MAX_MACHINES,
    session::{Accelerator, ChangeAction, Guard, How, Phase, Replace},
    topology::{Diagnostic, Intent, Topology},
};

/// Why a request was not carried out: one line each for what failed, the observed reason, and the
/// next thing to type. Shown with `--json` as `{"error": ..}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// Which sort of failure, and so the exit code.
    pub kind: Kind,
    /// What was not done.
    pub what: String,
    /// The observed reason.
    pub because: Option<String>,
    /// The next command or step.
    pub next: Option<String>,
}

/// Which sort of failure. The CLI maps each to one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It was tried and failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A file the user wrote is wrong.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// A plan, a policy or the current state forbids it.
    Refused,
    /// A name fits more than one thing.
    Ambiguous,
    /// The wait is over, the work goes on.
    TimedOut,
    /// Some of it is done, some is not.
    Partly,
    /// The daemon or the mesh does not answer.
    Unreachable,
}

impl Error {
    /// Makes an error that names only what failed.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), because: None, next: None }
    }

    /// Adds the observed reason.
    pub fn because(mut self, because: impl ToString) -> Error {
        self.because = Some(because.to_string());
        self
    }

    /// Adds the next thing to type.
    pub fn next(mut self, next: impl Into<String>) -> Error {
        self.next = Some(next.into());
        self
    }
}

/// An [`Error`] as `--json` and the API's body show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: Error,
}

/// A mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRef {
    /// Hash of its root key.
    pub id: MeshId,
    /// Its label.
    pub name: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRef {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
}

/// What `init` made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialised {
    /// The new mesh.
    pub mesh: MeshRef,
    /// This host, its first issuer.
    pub host: HostRef,
    /// The phrase that brings the root key back; shown once.
    pub recovery: String,
}

impl fmt::Debug for Initialised {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initialised")
            .field("mesh", &self.mesh)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What `join` asks for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's text.
    pub token: String,
    /// The name this host wishes for; `None` = its hostname.
    pub name: Option<Name>,
}

impl fmt::Debug for JoinRequest {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What `join` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The mesh.
    pub mesh: MeshRef,
    /// This host.
    pub host: HostRef,
    /// The member that let it in.
    pub by: Option<String>,
    /// For a host that was in the mesh before: what came of the token's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// What a token's addresses brought to a host that is in its mesh already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Whether an agent runs here that tries them.
    pub tried: bool,
    /// Members of the token that are connected now.
    pub reached: Vec<String>,
    /// Members of the token that are not.
    pub silent: Vec<String>,
}

/// `agent status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The mesh.
    pub mesh: MeshRef,
    /// This host.
    pub host: ThisHost,
    /// Where this agent's DNS server answers, `IP:PORT`.
    pub dns: Option<String>,
    /// Everyone in the mesh, this host first.
    pub members: Vec<Member>,
    /// Sessions this host knows.
    pub sessions: Vec<SessionRow>,
    /// What a person should look at, with the command that helps.
    pub warnings: Vec<Warning>,
    /// What keeps this agent from doing its work; empty = it is well.
    #[serde(default)]
    pub health: Vec<Trouble>,
}

/// The host that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisHost {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// What runs guests here; `null` = no usable QEMU.
    pub accelerator: Option<Accelerator>,
    /// Seconds since the agent started.
    pub up_s: u64,
    /// The relay this host serves.
    pub relay: Option<String>,
}

/// Something that keeps an agent from doing its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// What was seen.
    pub because: String,
    /// The command that helps.
    pub next: Option<String>,
}

/// Something a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is wrong.
    pub what: String,
    /// The command that helps.
    pub next: Option<String>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// How it is reached now; `null` = not known, or not reached.
    pub path: Option<Path>,
}

/// Whether a member is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Heard.
    Up,
    /// Quiet for longer than usual.
    Suspect,
    /// Not heard for too long.
    Down,
    /// Went in order.
    Left,
    /// Was cut off.
    Evicted,
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Which sort.
    pub kind: PathKind,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The host whose relay is used.
    pub via: Option<String>,
}

/// Which sort of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// The host itself.
    #[serde(rename = "self")]
    Me,
    /// Straight from socket to socket.
    Direct,
    /// Through a relay.
    Relayed,
}

/// `agent host list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hosts {
    /// Everyone, this host first.
    pub hosts: Vec<HostRow>,
}

/// One host with what it offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its public key.
    pub id: HostId,
    /// Its label.
    pub name: String,
    /// Whether it is heard.
    pub state: MemberState,
    /// How it is reached now.
    pub path: Option<Path>,
    /// The agent's version.
    pub version: Option<String>,
    /// CPU architecture.
    pub arch: Option<String>,
    /// What runs guests there.
    pub accelerator: Option<Accelerator>,
    /// CPUs given to the mesh.
    pub cpus: Option<u32>,
    /// Memory given to the mesh.
    pub memory_mib: Option<u64>,
    /// Memory that machines hold.
    pub memory_used_mib: Option<u64>,
    /// Disk free for machines.
    pub disk_mib: Option<u64>,
    /// Whether it runs machines of others.
    pub runs_machines: Option<bool>,
    /// Whether it may admit others.
    pub issuer: bool,
    /// Its relay.
    pub relay: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// `agent session list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Sessions this host knows, by name.
    pub sessions: Vec<SessionRow>,
}

/// One session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its identity.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// How it is.
    pub state: SessionState,
    /// Machines that are ready.
    pub ready: u64,
    /// Machines in the plan.
    pub machines: u64,
    /// The host that writes its plan now.
    pub coordinator: Option<String>,
}

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// On its way to ready for the first time since the last change.
    Starting,
    /// Every machine is ready.
    Healthy,
    /// Some machine is not ready.
    Degraded,
    /// No quorum: what runs goes on, nothing can change.
    Frozen,
    /// Its end is committed, machines are going.
    Stopping,
    /// Nothing of it is left.
    Stopped,
}

/// What `plan` and `up` are asked with: an [`Intent`] whose file contents are base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The checked topology.
    pub topology: Topology,
    /// Content of each injected file in base64, by source path as written.
    pub files: BTreeMap<String, String>,
    /// Public keys by group.
    pub ssh_keys: BTreeMap<Name, Vec<String>>,
    /// For `up`: the plan's generation that the user saw; anything else is refused.
    pub index: Option<u64>,
    /// Whose started disks may be lost.
    #[serde(default)]
    pub replace: Replace,
}

impl From<Intent> for Wanted {
    fn from(intent: Intent) -> Wanted {
        let files = intent.files.into_iter().map(|(path, bytes)| (path, BASE64.encode(&bytes))).collect();
        Wanted {
            topology: intent.topology,
            files,
            ssh_keys: intent.ssh_keys,
            index: None,
            replace: Replace::default(),
        }
    }
}

impl TryFrom<Wanted> for Intent {
    type Error = Error;
    fn try_from(wanted: Wanted) -> Result<Intent, Error> {
        let machines = wanted.topology.count();
        if machines > MAX_MACHINES as u64 {
            return Err(Error::new(Kind::Invalid, format!("the topology has {machines} machines"))
                .because(format!("at most {MAX_MACHINES} are possible")));
        }
        let decode = |(path, text): (String, String)| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok((path, bytes)),
            Err(error) => Err(Error::new(Kind::Usage, format!("{path} is not base64")).because(error)),
        };
        let files = wanted.files.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Intent { topology: wanted.topology, files, ssh_keys: wanted.ssh_keys })
    }
}

/// `agent session plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// The session's label.
    pub session: String,
    /// What happens to each machine.
    pub changes: Vec<PlanChange>,
    /// Hosts that were not chosen, and why.
    pub rejected: Vec<PlanRejection>,
    /// What stands in the way; not empty = nothing is done.
    pub obstacles: Vec<PlanObstacle>,
    /// Machines whose started disks would be lost although nobody said that they may be; not empty =
    /// `up` does nothing without `--replace`.
    #[serde(default)]
    pub replaces: Vec<PlanChange>,
    /// Images that would travel.
    pub fetch: Vec<PlanFetch>,
    /// The generation that this plan would replace; `up --index` refuses any other.
    pub index: u64,
    /// What a person should know before saying yes.
    pub notes: Vec<String>,
}

/// What happens to one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// The machine.
    pub machine: MachineName,
    /// What happens.
    pub action: ChangeAction,
    /// For a change: `in place`, or `replace` when an empty disk takes the place of its own.
    pub how: Option<How>,
    /// The host it is on, or was on.
    pub host: String,
    /// Why.
    pub because: String,
}

/// A host that was not chosen for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRejection {
    /// The machine.
    pub machine: MachineName,
    /// The host.
    pub host: String,
    /// Why.
    pub because: String,
}

/// Why a machine cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanObstacle {
    /// The machine.
    pub machine: MachineName,
    /// Why, naming what would help.
    pub because: String,
}

/// An image that would travel to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFetch {
    /// The host that lacks it.
    pub host: String,
    /// The image, by name if it has one.
    pub image: String,
    /// Bytes to travel.
    pub bytes: u64,
}

/// What a topology file with mistakes is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Every mistake.
    pub diagnostics: Vec<Diagnostic>,
}

/// What `up` committed, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpAnswer {
    /// The session; `null` = nothing was committed.
    pub id: Option<SessionId>,
    /// The committed plan's generation; `null` = nothing was committed.
    pub generation: Option<u64>,
    /// What was planned.
    pub plan: PlanReport,
}

/// `agent session status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its identity.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// How it is.
    pub state: SessionState,
    /// The plan's generation; 0 = none yet.
    pub generation: u64,
    /// The host that writes its plan now.
    pub coordinator: Option<String>,
    /// Hosts that store its hard state.
    pub voters: Vec<String>,
    /// Its network, `IP/LEN`.
    pub subnet: Option<String>,
    /// Its machines by name.
    pub machines: Vec<MachineRow>,
    /// Its services.
    pub services: Vec<ServiceRow>,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRow {
    /// Its name, `GROUP-N`.
    pub name: MachineName,
    /// Its group.
    pub group: String,
    /// Its session's label.
    pub session: String,
    /// Its session's identity.
    pub session_id: SessionId,
    /// The host that runs it.
    pub host: Option<String>,
    /// Where it is in its life.
    pub state: Phase,
    /// What guards it.
    pub guard: Guard,
    /// Its incarnation.
    pub epoch: u64,
    /// Its address in the session's network.
    pub address: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its session's label.
    pub session: String,
    /// Its port in the machines.
    pub port: u16,
    /// The group's name in the zone.
    pub fqdn: String,
    /// Where this host reaches it; `null` = nothing listens here now.
    pub address_here: Option<String>,
    /// The port that listens here.
    pub port_here: Option<u16>,
}

/// What `up` polls: the session as this host sees it, and who sees it otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpProgress {
    /// The session.
    #[serde(flatten)]
    pub status: SessionStatus,
    /// Whether every up host's own `session status` says the same.
    pub everywhere: bool,
    /// Up hosts that say otherwise or do not answer.
    pub behind: Vec<String>,
    /// Images on their way: bytes here of bytes in all.
    pub fetching: Vec<Fetching>,
    /// Hosts with machines of the session that are not heard now.
    #[serde(default)]
    pub away: Vec<String>,
}

/// An image on its way to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// The host.
    pub host: String,
    /// The image.
    pub image: String,
    /// Bytes that are there, when known.
    pub done: Option<u64>,
    /// Bytes in all.
    pub bytes: u64,
}

/// What `session down` polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownProgress {
    /// The session.
    pub id: SessionId,
    /// Its label.
    pub name: String,
    /// Whether nothing of it is left on any host that answers.
    pub gone: bool,
    /// Machines that are still there.
    pub remaining: Vec<Remaining>,
    /// Hosts that had machines and do not answer: they stop and delete them when they return.
    pub away: Vec<String>,
    /// What keeps it from going on.
    #[serde(default)]
    pub because: Vec<String>,
}

/// A machine that is not gone yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// The machine.
    pub machine: MachineName,
    /// Its host.
    pub host: String,
}

/// `agent machine list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    /// All machines of all sessions.
    pub machines: Vec<MachineRow>,
}

/// What ssh needs to enter a machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAccess {
    /// Its session's label.
    pub session: String,
    /// Its session's identity.
    pub session_id: SessionId,
    /// The machine.
    pub machine: MachineName,
    /// The login user.
    pub user: String,
    /// The port in the machine.
    pub port: u16,
    /// The session's key: ed25519 seed in hex. Only this socket gives it away.
    pub seed: String,
    /// The machine's public host key, known in advance: `ssh-ed25519 AAAA..`.
    pub host_key: String,
}

impl fmt::Debug for SshAccess {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAccess")
            .field("session", &self.session)
            .field("session_id", &self.session_id)
            .field("machine", &self.machine)
            .field("user", &self.user)
            .field("port", &self.port)
            .field("host_key", &self.host_key)
            .finish_non_exhaustive()
    }
}

/// `agent service list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// All services of all sessions.
    pub services: Vec<ServiceRow>,
}

/// What `service open` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOpen {
    /// The group.
    pub group: Name,
    /// The session, by name or id.
    pub session: String,
    /// The service; `None` = the group's only one.
    pub service: Option<Name>,
}

/// What `service open` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOpened {
    /// `http://..` for services that are checked over HTTP, `tcp://..` for others.
    pub url: String,
    /// The address that listens on this host.
    pub address: String,
    /// The port that listens on this host.
    pub port: u16,
}

/// `agent image list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Images that the mesh knows.
    pub images: Vec<ImageRow>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name; `null` = known by content only.
    pub name: Option<String>,
    /// BLAKE3 of the raw content.
    pub digest: Digest,
    /// Size of the raw content in bytes.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: Option<u64>,
    /// CPU architecture.
    pub arch: String,
    /// Hosts that hold all of it.
    pub hosts: Vec<String>,
    /// Whether this host holds all of it.
    pub here: bool,
}

/// What `image import` asks for. The agent reads the file: it must be on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageImport {
    /// Absolute path of a raw or qcow2 file.
    pub path: String,
    /// The name to give.
    pub name: String,
    /// Whether the name may be taken from other content.
    pub replace: bool,
}

/// What `image pull` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePull {
    /// Where it is.
    pub url: String,
    /// SHA-256 of the file at that place, in hex.
    pub sha256: String,
    /// The name to give.
    pub name: String,
    /// Whether the name may be taken from other content.
    pub replace: bool,
}

/// A line of the answer to a long request: how far it is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step<T> {
    /// It goes on.
    Progress(Progress),
    /// It is done; the last line.
    Done(T),
    /// It failed; the last line.
    Error(Error),
}

/// How far a long request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, such as `copying`.
    pub stage: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, when known.
    pub total: Option<u64>,
}

/// `agent token list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Grants that live or lived.
    pub tokens: Vec<TokenRow>,
}

/// One grant. The secret is not here: nobody keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The token's public key, shortened.
    pub id: String,
    /// The issuer that signed it.
    pub issuer: Option<String>,
    /// When it ends.
    pub expires: String,
    /// Hosts that may use it.
    pub uses: u64,
    /// Hosts that have used it.
    pub used: u64,
    /// Whether it makes issuers.
    pub admin: bool,
    /// `live`, `expired`, `used-up` or `revoked`.
    pub state: String,
}

/// What `token create` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreate {
    /// How long it lives, in seconds.
    pub expires_s: u64,
    /// How many hosts may use it.
    pub uses: u32,
    /// Whether it makes issuers.
    pub admin: bool,
}

/// What `token create` made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token's public key, shortened.
    pub id: String,
    /// The secret; shown once.
    pub token: String,
    /// When it ends.
    pub expires: String,
    /// How many hosts may use it.
    pub uses: u64,
    /// Which kinds of address it holds: `lan`, `public`, `relay`.
    pub addresses: Vec<String>,
}

impl fmt::Debug for TokenCreated {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated")
            .field("id", &self.id)
            .field("expires", &self.expires)
            .field("uses", &self.uses)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Something that was named in a request, such as a revoked token or a removed image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id or name.
    pub id: String,
}

/// `agent doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in one or two words.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was seen.
    pub what: String,
    /// The exact command that mends it.
    pub mend: Option<String>,
}

/// How a checked thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, with a limit.
    Limited,
    /// Needs mending.
    Missing,
}

/// What the agent's processes hold: what must come back to where it was when nothing is asked of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Internals {
    /// The agent's own process.
    pub pid: i32,
    /// Its open descriptors.
    pub descriptors: usize,
    /// Tasks of its runtime.
    pub tasks: usize,
    /// Connections that it carries between two sides.
    pub flows: usize,
    /// Its memory that no file stands behind, in KiB; `null` where the kernel does not tell.
    pub anonymous_kib: Option<u64>,
    /// The shims that live on this host.
    pub shims: Vec<ShimInternals>,
}

/// What one shim holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimInternals {
    /// Its machine.
    pub machine: String,
    /// The machine's session.
    pub session: SessionId,
    /// The machine's incarnation.
    pub epoch: u64,
    /// The process.
    pub pid: i32,
    /// Its open descriptors.
    pub descriptors: usize,
    /// Tasks of its runtime; `null` when it did not answer.
    pub tasks: Option<usize>,
    /// Connections into the guest that have not ended; `null` when it did not answer.
    pub dials: Option<usize>,
    /// Callers whose connection holds a descriptor; `null` when it did not answer.
    pub callers: Option<usize>,
    /// Its memory that no file stands behind, in KiB.
    pub anonymous_kib: Option<u64>,
}
