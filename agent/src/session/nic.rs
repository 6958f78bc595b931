//! Connects a machine's network edge with the session network and its names: a few functions around
//! its shim. Nothing is carried here.

use std::sync::Arc;

use bytes::Bytes;
use mesh::net::{Local, Net};
use proto::{
    id::{HostId, MachineName, SessionId},
    names::View,
    session::{Directory, MachineSpec},
};

use crate::{
    dns::{Answers, Resolve},
    machine::Shim,
};

/// The port that stands for a machine's serial console where streams into machines are opened: no TCP
/// service can have it.
pub const CONSOLE_PORT: u16 = 0;

/// The session network and the names of this host's machines.
#[derive(Clone)]
pub struct Edges {
    /// This host.
    pub me: HostId,
    /// The session network.
    pub net: Net,
    /// Answers names.
    pub resolve: Resolve,
}

impl Edges {
    /// Takes a machine off the network.
    pub fn detach(&self, session: SessionId, machine: &MachineName) {
        self.net.detach(session, machine);
    }

    /// Takes in where the machines of a session are.
    pub fn route(&self, session: SessionId, directory: &Directory) {
        self.net.set_routes(session, directory, self.me);
    }
}

/// Attaches a running machine. Again for the same incarnation: nothing happens, because the sockets of
/// a restarted shim have the same paths.
pub fn attach(edges: &Edges, session: SessionId, spec: &MachineSpec, shim: &Shim) {
    let (network, dial) = (shim.clone(), shim.clone());
    let answers = Arc::new(Answers::new(View::Guest(session, spec.egress), edges.resolve.clone()));
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
        resolve: Arc::new(move |message: Bytes, carrier| {
            let answers = answers.clone();
            Box::pin(async move { answers.answer(&message, carrier).await.map(Bytes::from) })
        }),
    };
    if !edges.net.attach(session, &spec.machine, spec.epoch, local) {
        tracing::warn!(machine = %spec.machine, epoch = %spec.epoch, "a newer incarnation has the network");
    }
}
