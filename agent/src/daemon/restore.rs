//! Brings a mesh's root key back by its recovery phrase, without a daemon.

use mesh::{JoinError, Ports, RestoreError, Restoring, RightsError};
use proto::{
    id::Name,
    trust::JoinRefusal,
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, take};
use crate::{host::data::DataDir, host::words::words};

/// Takes the root key into `data`, of a member or of nobody yet.
pub async fn restore(
    data: &DataDir,
    phrase: String,
    founding: mesh::Founding,
    renamed: Option<Name>,
    via: Option<String>,
) -> ApiResult<api::Restored> {
    let _lock = take(data)?;
    // Any pair of ports will do for one join; the first start of the agent chooses for good.
    let ports = Ports::Fixed(mesh::FIRST_PORT);
    let restoring = Restoring { data: data.path().to_owned(), phrase, founding, renamed, via, ports };
    let restored = mesh::restore(restoring).await.map_err(|error| not_restored(&error))?;
    Ok(api::Restored {
        mesh: api::MeshRef { id: restored.identity.mesh, name: restored.mesh_name.to_string() },
        host: api::HostRef { id: restored.identity.host(), name: restored.name.to_string() },
        others: restored.others as u64,
    })
}

/// Says why the root key is not here, and what helps.
pub fn not_restored(error: &RestoreError) -> Error {
    let refused = Error::new(Kind::Refused, "the root key is not restored").because(words(error));
    match error {
        RestoreError::Phrase(_) => refused.next("type all of what `agent init` showed when the mesh was made"),
        RestoreError::Via(_) | RestoreError::ViaOther => {
            refused.next("agent init --restore    on a host that is left of the mesh, or without --via on its LAN")
        }
        RestoreError::Rights(RightsError::Already(_)) => refused.next("agent host list"),
        RestoreError::Rights(RightsError::OtherMesh) => refused.next("agent init --restore --data-dir DIR"),
        RestoreError::Join(JoinError::Refused(JoinRefusal::NameTaken(name))) => refused.next(format!(
            "agent init --restore --name OTHER    then, where {name} is gone for good: agent host remove {name}"
        )),
        RestoreError::Join(JoinError::Refused(JoinRefusal::UnknownToken)) => {
            Error::new(Kind::Refused, "the root key is not restored")
                .because("the hosts that answer are of a version that takes nobody in by it")
                .next("update them, or agent init --restore    on one of them")
        }
        RestoreError::Join(JoinError::Refused(JoinRefusal::Out(_))) => {
            refused.next("agent leave, then agent init --restore again")
        }
        RestoreError::Rights(RightsError::NoMember) => refused.next("agent leave, then agent init --restore again"),
        RestoreError::Join(JoinError::Unreachable(_)) => Error::new(Kind::Failed, "the root key is not restored")
            .because(words(error))
            .next("agent init --restore    on a host that is left of the mesh"),
        _ => refused.next("agent doctor"),
    }
}
