//! Connects a machine's network edge with the session network and its names: three functions around
//! its shim. Nothing is carried here.

use std::sync::Arc;

use bytes::Bytes;
use mesh::net::Local;
use proto::{id::SessionId, names::View, session::MachineSpec};

use super::sessions::Sessions;
use crate::{dns, machine::Shim};

/// The port that stands for a machine's serial console where streams into machines are opened: no TCP
/// service can have it.
pub const CONSOLE_PORT: u16 = 0;

/// Attaches a running machine. Again for the same incarnation: nothing happens, because the sockets of
/// a restarted shim have the same paths.
pub fn attach(sessions: &Sessions, session: SessionId, spec: &MachineSpec, shim: &Shim) {
    let (network, dial) = (shim.clone(), shim.clone());
    let (zone, resolve) = (sessions.deps().zone.clone(), sessions.deps().resolve.clone());
    let local = Local {
        network: Arc::new(move || {
            let shim = network.clone();
            Box::pin(async move { Ok(shim.network().await?.into_inner()) })
        }),
        dial: Arc::new(move |port| {
            let shim = dial.clone();
            Box::pin(async move {
                match port {
                    CONSOLE_PORT => shim.console().await,
                    port => shim.dial(port).await,
                }
            })
        }),
        resolve: Arc::new(move |message: Bytes| {
            let (zone, resolve) = (zone.clone(), resolve.clone());
            Box::pin(async move {
                dns::answer_guest(&message, View::Guest(session), &zone, &resolve).await.map(Bytes::from)
            })
        }),
    };
    if !sessions.deps().net.attach(session, &spec.machine, spec.epoch, local) {
        tracing::warn!(machine = %spec.machine, epoch = %spec.epoch, "a newer incarnation has the network");
    }
}
