//! How a host that is out of its mesh ends: its machines are stopped, for nobody else may be sure that they are, and
//! what it had of the mesh is put aside. Disks stay; nothing is deleted.

use std::{path::Path, time::SystemTime};

use proto::{
    trust::OutBecause,
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, take};
use crate::{
    host::{data::DataDir, log, runtime, words::words},
    machine::halt,
};

/// Stops all machines. Gives those that may still run.
pub(super) async fn halt(data: &DataDir) -> std::io::Result<Vec<String>> {
    halt_since(data, SystemTime::UNIX_EPOCH).await
}

/// Stops every machine that was launched here since a moment.
pub(super) async fn halt_since(data: &DataDir, moment: SystemTime) -> std::io::Result<Vec<String>> {
    let run = data.run()?;
    let left = halt::since(&data.sessions(), &run, moment).await;
    for left in &left {
        log::say(&format!("a machine may still run: {left}"));
    }
    runtime::leave(&run);
    Ok(left)
}

/// Ends an agent whose host is out: well when it left by itself.
pub(super) async fn ended(data: &DataDir, out: &mesh::Out, mesh_name: &str) -> ApiResult<()> {
    halt(data).await.map_err(|error| super::failed(&error))?;
    let aside = || mesh::identity::put_aside(data.path(), mesh::Clock.timestamp());
    match out.because {
        OutBecause::Left => {
            let aside = aside().map_err(|error| super::failed(&error))?;
            log::say(&format!(
                "this host left the mesh {mesh_name}; its machines are stopped, and their disks are in {}",
                aside.display()
            ));
            Ok(())
        }
        OutBecause::Removed | OutBecause::Evicted => {
            Err(is_out(out.because, mesh_name, &out.since.to_string()))
        }
    }
}

/// Says that this host is out, and what leads into a mesh again.
pub(super) fn is_out(because: OutBecause, mesh_name: &str, since: &str) -> Error {
    let how = because.in_words();
    let from = if because == OutBecause::Left { "" } else { " from" };
    Error::new(Kind::Failed, "this host is out of its mesh")
        .because(format!(
            "it {how}{from} the mesh {mesh_name} at {since}; its machines do not run, their disks are kept"
        ))
        .next("agent leave    puts what is left aside; then agent join TOKEN")
}

/// Says so of a directory whose host is out of its mesh.
pub fn out(data: &Path) -> Option<Error> {
    let place = mesh::identity::place(data, mesh::Clock.timestamp()).ok()?;
    let out = place.out?;
    Some(is_out(out.because, &place.mesh_name, &out.since.to_string()))
}

/// Puts aside what a host that is out has of its mesh, without an agent.
pub async fn leave(data: &DataDir) -> ApiResult<api::Left> {
    let _lock = take(data)?;
    let failed = |error: mesh::IdentityError| {
        Error::new(Kind::Failed, "this host did not leave").because(words(&error)).next("agent doctor")
    };
    let place = mesh::identity::place(data.path(), mesh::Clock.timestamp()).map_err(|error| match error {
        mesh::IdentityError::Missing => Error::new(Kind::Refused, "this host did not leave")
            .because(words(&error))
            .next("agent init --name NAME    or agent join TOKEN"),
        error => failed(error),
    })?;
    if place.out.is_none() {
        return Err(Error::new(Kind::Unreachable, "this host did not leave")
            .because("its agent does not run, so that nobody would hear of it")
            .next("agent run, then agent leave    or on another host: agent host remove NAME"));
    }
    let still = halt(data).await.map_err(|error| super::failed(&error))?;
    if let Some(first) = still.first() {
        return Err(Error::new(Kind::Failed, "this host did not leave")
            .because(format!("a machine may still run: {first}"))
            .next("end its QEMU, then agent leave"));
    }
    mesh::identity::put_aside(data.path(), mesh::Clock.timestamp()).map_err(failed)?;
    Ok(api::Left {
        mesh: api::MeshRef { id: place.mesh, name: place.mesh_name },
        host: api::HostRef { id: place.host, name: place.name },
        unheard: Vec::new(),
    })
}
