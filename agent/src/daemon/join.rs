//! Makes this host a member, without a daemon or before it begins.

use mesh::{Joined, Joining, Ports};
use proto::{
    backoff::BackOff,
    id::Name,
    reasons::Code,
    trust::JoinRefusal,
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, take};
use crate::{
    host::words::words,
    host::{data::DataDir, log, notify},
};

/// Between two tries of a join: a mesh that is not there now may come back at any time, with a router or a power line.
const AGAIN: BackOff = BackOff::new(2_000, 30_000);

const NOT_JOINED: &str = "this host did not join";

/// Joins a mesh without a daemon.
pub async fn join(data: &DataDir, request: api::JoinRequest) -> ApiResult<api::Joined> {
    let _lock = take(data)?;
    if mesh::identity::exists(data.path()) {
        return join_again(data, &request);
    }
    join_locked(data, &request).await.map_err(|missed| missed.error)
}

/// A join that did not come about.
struct Missed {
    error: Error,
    /// Whether the mesh was not there, so that the same may succeed later.
    absent: bool,
}

impl From<Error> for Missed {
    fn from(error: Error) -> Missed {
        Missed { error, absent: false }
    }
}

/// Writes down what a token of this host's own mesh tells of members, for the next start.
fn join_again(data: &DataDir, request: &api::JoinRequest) -> ApiResult<api::Joined> {
    let token = request.token.parse().map_err(mesh::MeetError::from);
    let noted = token
        .and_then(|token| mesh::note(data.path(), &token))
        .map_err(|error| Error::new(Kind::Refused, NOT_JOINED).because(words(&error)).next("agent status"))?;
    let silent = noted.members.iter().map(Name::to_string).collect();
    Ok(api::Joined {
        mesh: api::MeshRef {
            id: noted.identity.mesh,
            name: noted.mesh_name.map_or_else(String::new, |name| name.to_string()),
        },
        host: api::HostRef { id: noted.identity.host(), name: noted.name.to_string() },
        by: None,
        again: Some(api::Again { tried: false, reached: Vec::new(), silent }),
    })
}

async fn join_locked(data: &DataDir, request: &api::JoinRequest) -> Result<api::Joined, Missed> {
    let name = request.name.clone().or_else(crate::cli::hostname).ok_or_else(|| {
        Error::new(Kind::Usage, "this host needs a name")
            .because(crate::cli::no_name())
            .next("agent join TOKEN --name NAME")
    })?;
    let joining = Joining {
        data: data.path().to_owned(),
        token: request.token.clone(),
        name: name.clone(),
        // Any pair will do for one join; the first start of the agent chooses for good.
        ports: Ports::Fixed(mesh::FIRST_PORT),
    };
    match mesh::join(joining).await {
        Ok(Joined::Member { identity, mesh_name }) => Ok(api::Joined {
            mesh: api::MeshRef {
                id: identity.mesh,
                name: mesh_name.map_or_else(String::new, |name| name.to_string()),
            },
            host: api::HostRef { id: identity.host(), name: name.to_string() },
            by: None,
            again: None,
        }),
        Ok(Joined::Pending { issuers }) => {
            let names: Vec<&str> = issuers.iter().map(Name::as_str).collect();
            let error = Error::new(Kind::TimedOut, "the join is pending")
                .because(format!("members answer, but no issuer can be reached: {}", names.join(", ")))
                .next("agent run, which tries again until one of them is back");
            Err(Missed { error, absent: true })
        }
        Err(error) => Err(missed(&error)),
    }
}

/// Says why this host did not join, and what helps.
fn missed(error: &mesh::JoinError) -> Missed {
    let (kind, next) = match error {
        mesh::JoinError::Busy(_) => (Kind::TimedOut, "try again in a moment"),
        mesh::JoinError::Unreachable(_) | mesh::JoinError::Bind(_) => {
            (Kind::Failed, "check that the host that made the token runs and can be reached")
        }
        mesh::JoinError::Identity(mesh::IdentityError::Exists) => (Kind::Refused, "agent status"),
        mesh::JoinError::Refused(JoinRefusal::NameTaken(name)) => {
            let back = format!(
                "agent join TOKEN --name OTHER    or, if {name} was this computer before it was wiped, on a host \
                         that may admit others: agent host remove {name} --yes, then this again"
            );
            return Missed { error: refusal(Kind::Refused, error).next(back), absent: false };
        }
        mesh::JoinError::Refused(JoinRefusal::Out(_)) => (Kind::Refused, "agent leave, then join again"),
        _ => (Kind::Refused, "ask for a new one: agent token create"),
    };
    let absent = matches!(
        error,
        mesh::JoinError::Busy(_) | mesh::JoinError::Unreachable(_) | mesh::JoinError::Bind(_)
    );
    Missed { error: refusal(kind, error).next(next), absent }
}

fn refusal(kind: Kind, error: &mesh::JoinError) -> Error {
    let why = match error {
        mesh::JoinError::Refused(refusal) => Some(Box::new(Code::of(refusal))),
        _ => None,
    };
    Error { why, ..Error::new(kind, NOT_JOINED).because(words(error)) }
}

/// Gives the join that must come first, if any; without identity and token there is nothing to run.
pub(super) fn first(data: &DataDir, join: Option<api::JoinRequest>) -> ApiResult<Option<api::JoinRequest>> {
    if mesh::identity::exists(data.path()) {
        // The command line of a service stays when its token ends: it never keeps a member from running.
        match join.map(|request| join_again(data, &request)) {
            Some(Ok(joined)) => log::say(&crate::cli::joined_again(&joined)),
            Some(Err(error)) => {
                log::say(&format!("--join is passed over: {}", error.because.unwrap_or(error.what)));
            }
            None => {}
        }
        return Ok(None);
    }
    let kept = || mesh::identity::pending(data.path());
    let pending = || kept().map(|(token, name)| api::JoinRequest { token, name: Some(name) });
    join.or_else(pending).map(Some).ok_or_else(|| {
        Error::new(Kind::Failed, "the agent cannot run")
            .because(format!("{} belongs to no mesh yet", data.path().display()))
            .next("agent init --name NAME    or agent join TOKEN")
    })
}

/// Tries again for as long as the mesh is not there; a mesh that says no ends it. Token and name are kept, so that the
/// next start goes on without them.
pub(super) async fn until_member(data: &DataDir, request: api::JoinRequest) -> ApiResult<()> {
    let mut failures = 0_u32;
    loop {
        match join_locked(data, &request).await {
            Ok(joined) => {
                log::say(&format!("joined the mesh {} as {}", joined.mesh.name, joined.host.name));
                return Ok(());
            }
            Err(Missed { error, absent: false }) => {
                mesh::identity::forget_pending(data.path());
                return Err(error);
            }
            Err(Missed { error, .. }) => {
                failures = failures.saturating_add(1);
                keep(data, &request);
                let because = error.because.as_deref().unwrap_or_default();
                let pause = AGAIN.after_ms(failures);
                let waits =
                    format!("waits for the mesh of its token: {because}; next try in {} s", pause / 1000);
                log::say(&waits);
                // A manager that waited for the mesh would give up at some time.
                notify::ready(&waits);
                mesh::Clock.sleep_until(mesh::Clock.moment().plus_ms(pause)).await;
            }
        }
    }
}

/// Keeps what is waited for. Without it this process still waits.
fn keep(data: &DataDir, request: &api::JoinRequest) {
    let Some(name) = request.name.clone().or_else(crate::cli::hostname) else { return };
    if let Err(error) = mesh::identity::set_pending(data.path(), &request.token, &name) {
        tracing::warn!(%error, "the token is not kept for the next start");
    }
}
