//! Makes this host a member, without a daemon or before it begins.

use std::time::Duration;

use mesh::{Joined, Joining, Ports};
use proto::{
    id::Name,
    reasons::Code,
    trust::JoinRefusal,
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, take};
use crate::{
    host::{data::DataDir, log},
    session::actions::words,
};

/// Between two tries of a join that found no issuer.
const JOIN_AGAIN: Duration = Duration::from_secs(5);

/// Joins a mesh without a daemon.
pub async fn join(data: &DataDir, request: api::JoinRequest) -> ApiResult<api::Joined> {
    let _lock = take(data)?;
    if mesh::identity::exists(data.path()) {
        return join_again(data, &request);
    }
    join_locked(data, &request).await
}

/// Writes down what a token of this host's own mesh tells of members, for the next start.
fn join_again(data: &DataDir, request: &api::JoinRequest) -> ApiResult<api::Joined> {
    let token = request.token.parse().map_err(mesh::MeetError::from);
    let noted = token.and_then(|token| mesh::note(data.path(), &token)).map_err(|error| {
        Error::new(Kind::Refused, "this host did not join").because(words(&error)).next("agent status")
    })?;
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

async fn join_locked(data: &DataDir, request: &api::JoinRequest) -> ApiResult<api::Joined> {
    let what = "this host did not join";
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
            Err(Error::new(Kind::TimedOut, "the join is pending")
                .because(format!("members answer, but no issuer can be reached: {}", names.join(", ")))
                .next("agent run, which tries again until one of them is back"))
        }
        Err(error) => {
            let (kind, next) = match &error {
                mesh::JoinError::Unreachable(_) | mesh::JoinError::Bind(_) => {
                    (Kind::Failed, "check that the host that made the token runs and can be reached")
                }
                mesh::JoinError::Identity(mesh::IdentityError::Exists) => (Kind::Refused, "agent status"),
                mesh::JoinError::Refused(JoinRefusal::NameTaken(_)) => {
                    (Kind::Refused, "agent join TOKEN --name OTHER")
                }
                _ => (Kind::Refused, "ask for a new one: agent token create"),
            };
            let why = match &error {
                mesh::JoinError::Refused(refusal) => Some(Box::new(Code::of(refusal))),
                _ => None,
            };
            Err(Error { why, ..Error::new(kind, what).because(words(&error)).next(next) })
        }
    }
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

/// Tries again while members answer and no issuer does; every other failure ends it.
pub(super) async fn until_member(data: &DataDir, request: api::JoinRequest) -> ApiResult<()> {
    loop {
        match join_locked(data, &request).await {
            Ok(joined) => {
                log::say(&format!("joined the mesh {} as {}", joined.mesh.name, joined.host.name));
                return Ok(());
            }
            Err(error) if error.kind == Kind::TimedOut => {
                log::say(&format!("{error}: {}", error.because.as_deref().unwrap_or_default()));
                tokio::time::sleep(JOIN_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}
