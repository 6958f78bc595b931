//! Makes a mesh of one host, without a daemon.

use std::collections::BTreeMap;

use proto::{
    id::Name,
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, take};
use crate::{host::data::DataDir, host::words::words};

/// Makes a mesh of one host in `data`. It is told before it is made: when that fails,
/// there is none.
pub fn init(
    data: &DataDir,
    name: Name,
    mesh: Name,
    tags: BTreeMap<String, String>,
    tell: impl FnOnce(&api::Initialised) -> ApiResult<()>,
) -> ApiResult<api::Initialised> {
    let what = "no mesh was made";
    if mesh::identity::exists(data.path()) {
        return Err(Error::new(Kind::Refused, what)
            .because(format!("{} belongs to a mesh already", data.path().display()))
            .next("agent status, or use another --data-dir"));
    }
    let _lock = take(data)?;
    let founding = mesh::Founding { name: name.clone(), mesh_name: mesh.clone(), tags };
    let failed = |error: mesh::IdentityError| {
        Error::new(Kind::Failed, what).because(words(&error)).next("agent doctor")
    };
    let prepared = mesh::identity::prepare(data.path(), founding, mesh::Clock.timestamp()).map_err(failed)?;
    let identity = prepared.identity();
    let made = api::Initialised {
        mesh: api::MeshRef { id: identity.mesh, name: mesh.to_string() },
        host: api::HostRef { id: identity.host(), name: name.to_string() },
        recovery: prepared.recovery(),
    };
    tell(&made)?;
    prepared.commit().map_err(failed)?;
    Ok(made)
}
