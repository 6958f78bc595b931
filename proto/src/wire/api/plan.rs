//! What `session plan` and `session up` are asked with, and what they answer.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Error, Kind};
use crate::{
    id::{MachineName, Name, SessionId},
    reasons::{Cause, Hindrance, Unchosen, Why},
    session::{ChangeAction, How, Replace},
    topology::{Contents, Diagnostic, Intent, Parcel, Topology},
};

/// What `plan` and `up` are asked with: a [`Parcel`] whose file contents are base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
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

impl From<Parcel> for PlanRequest {
    fn from(Parcel { intent, contents }: Parcel) -> PlanRequest {
        let file = |(path, content)| Some((path, BASE64.encode(contents.get(&content)?)));
        let files = intent.files.into_iter().filter_map(file).collect();
        PlanRequest {
            topology: intent.topology,
            files,
            ssh_keys: intent.ssh_keys,
            index: None,
            replace: Replace::default(),
        }
    }
}

impl TryFrom<PlanRequest> for Parcel {
    type Error = Error;
    fn try_from(wanted: PlanRequest) -> Result<Parcel, Error> {
        let mut contents = Contents::default();
        let decode = |(path, text): (String, String)| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok((path, contents.add(&bytes))),
            Err(error) => Err(Error::new(Kind::Usage, format!("{path} is not base64")).because(error)),
        };
        let files = wanted.files.into_iter().map(decode).collect::<Result<_, _>>()?;
        let intent = Intent { topology: wanted.topology, files, ssh_keys: wanted.ssh_keys };
        match intent.flaws().into_iter().next() {
            Some(flaw) => Err(Error::new(Kind::Invalid, flaw.what).because(flaw.hint)),
            None => Ok(Parcel { intent, contents }),
        }
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
    /// Why, in words.
    pub because: String,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Cause>>,
}

/// A host that was not chosen for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRejection {
    /// The machine.
    pub machine: MachineName,
    /// The host.
    pub host: String,
    /// Why, in words.
    pub because: String,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Unchosen>>,
}

/// Why a machine cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanObstacle {
    /// The machine.
    pub machine: MachineName,
    /// Why, naming what would help.
    pub because: String,
    /// The same as a value.
    #[serde(default)]
    pub why: Option<Why<Hindrance>>,
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
