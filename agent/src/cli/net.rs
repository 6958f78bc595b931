//! `agent net`: what goes over the network cards of this host's machines.

use proto::wire::api::{Flows, Internals, MachineFlows, Sessions};

use super::{Cx, Done, error::Exit, ui::table};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show what this host's machines have open to the internet, and what of theirs went nowhere
    ///
    /// DENIED are packets to where a machine may not go: its host, its host's network, private and
    /// special addresses. FULL are connections and datagrams beyond what one machine may have at once.
    /// OTHER are fragments and protocols that are not carried, and frames that are none. FORGED are
    /// frames that claimed another's address.
    #[command(after_help = "Example:\n  agent net flows")]
    Flows,
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Flows => {
            let held: Internals = cx.client.get("/v1/internals").await?;
            let known: Sessions = cx.client.get("/v1/sessions").await?;
            cx.ui.show(&flows(held, &known), |flows, width| in_words(&flows.machines, width));
        }
    }
    Ok(Exit::WELL)
}

/// Gives each machine of this host with its session's name.
pub fn flows(held: Internals, known: &Sessions) -> Flows {
    let machines = held.shims.into_iter().map(|shim| {
        let named = known.sessions.iter().find(|session| session.id == shim.session);
        let session = named.map_or_else(|| shim.session.to_string(), |session| session.name.clone());
        MachineFlows { machine: shim.machine, session, outside: shim.outside }
    });
    Flows { machines: machines.collect() }
}

/// Lays them out.
pub fn in_words(machines: &[MachineFlows], width: Option<u16>) -> String {
    let row = |of: &MachineFlows| {
        let mut cells = vec![format!("{}/{}", of.session, of.machine)];
        let Some(outside) = of.outside else {
            cells.resize(8, "-".to_owned());
            return cells;
        };
        cells.extend([outside.connections, outside.sockets].map(|count| count.to_string()));
        cells.push(format!("{} KiB", outside.waiting_bytes.div_ceil(1024)));
        let other = outside.uncarried + outside.malformed;
        cells.extend([outside.denied, outside.full, other, outside.spoofed].map(|count| count.to_string()));
        cells
    };
    let head = ["MACHINE", "CONNECTIONS", "SOCKETS", "WAITING", "DENIED", "FULL", "OTHER", "FORGED"];
    table(&head, machines.iter().map(row), width)
}
