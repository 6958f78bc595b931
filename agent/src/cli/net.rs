//! `agent net`: the ways to other hosts, and what goes over the network cards of this host's machines.

use proto::wire::api::{Flows, HostFlows, Internals, Lost, MachineFlows, Packets, PathRow, Paths, Sessions};

use super::{
    Cx, Done, check,
    error::Exit,
    ping,
    ui::{or_dash, table, word},
};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show what this host's machines send and get, in their session and to the internet, and what went nowhere
    ///
    /// The first table is about the internet, the second about other machines of the session, the third about the
    /// hosts that this one exchanges packets with. Machines count from their start, hosts from the agent's.
    ///
    /// DENIED are packets to where a machine may not go: its host, its host's network, private and
    /// special addresses. FULL are connections and datagrams beyond what one machine may have at once.
    /// OTHER are fragments and protocols that are not carried, and frames that are none. FORGED are
    /// frames that claimed another's address. REFUSED are packets of which a machine was told that they go nowhere;
    /// IGNORED are those for everybody; MISROUTED came for an address that it does not have. IN TWO are packets that
    /// a narrow path made two of.
    #[command(after_help = "Example:\n  agent net flows")]
    Flows,
    /// Show by which way each other host is reached
    ///
    /// Direct is straight from socket to socket, relayed is through the relay of the host that is named: slower, and as
    /// encrypted from end to end. A host without a way has no connection to this one now.
    #[command(after_help = "Example:\n  agent net paths")]
    Paths,
    Ping(ping::Args),
    /// Show how this host itself stands in the network
    ///
    /// Whether nobody answers because they are down, or because nothing gets out of here; whether UDP passes, what the
    /// router does with ports, where others see this host, which relays there are, which of its addresses others are
    /// told and why, and what the connections with other members carried within the last hour. AT REST is the quietest
    /// minute of it.
    #[command(after_help = "Example:\n  agent net check")]
    Check,
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Flows => {
            let held: Internals = cx.client.get("/v1/internals").await?;
            let known: Sessions = cx.client.get("/v1/sessions").await?;
            cx.ui.show(&flows(held, &known), in_words);
        }
        Verb::Paths => {
            let paths: Paths = cx.client.get("/v1/paths").await?;
            cx.ui.show(&paths, |paths, width| ways(&paths.paths, width));
        }
        Verb::Check => return check::run(cx).await,
        Verb::Ping(args) => return ping::run(cx, args).await,
    }
    Ok(Exit::WELL)
}

/// Gives each machine of this host with its session's name.
pub fn flows(held: Internals, known: &Sessions) -> Flows {
    let machines = held.shims.into_iter().map(|shim| {
        let named = known.sessions.iter().find(|session| session.id == shim.session);
        let session = named.map_or_else(|| shim.session.to_string(), |session| session.name.clone());
        MachineFlows { machine: shim.machine, session, outside: shim.outside, inside: shim.inside }
    });
    Flows { machines: machines.collect(), hosts: held.hosts }
}

/// Lays them out.
pub fn in_words(flows: &Flows, width: Option<u16>) -> String {
    let tables =
        [outside(&flows.machines, width), inside(&flows.machines, width), hosts(&flows.hosts, width)];
    tables.join("\n\n")
}

/// Lays the ways to other hosts out.
pub fn ways(paths: &[PathRow], width: Option<u16>) -> String {
    let row = |path: &PathRow| {
        let via = path.via.as_ref().map(|via| format!("relayed via {via}"));
        let kind = via.or_else(|| path.kind.as_ref().map(word));
        let rtt = path.rtt_ms.map(|rtt| format!("{rtt:.1} ms"));
        vec![
            path.host.clone(),
            word(&path.state),
            or_dash(kind),
            or_dash(rtt),
            or_dash(path.address.as_ref()),
        ]
    };
    table(&["HOST", "STATE", "PATH", "RTT", "ADDRESS"], paths.iter().map(row), width)
}

fn outside(machines: &[MachineFlows], width: Option<u16>) -> String {
    let row = |of: &MachineFlows| {
        let mut cells = vec![named(of)];
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

fn inside(machines: &[MachineFlows], width: Option<u16>) -> String {
    let row = |of: &MachineFlows| {
        let mut cells = vec![named(of)];
        let Some(inside) = of.inside else {
            cells.resize(6, "-".to_owned());
            return cells;
        };
        cells.extend([inside.sent, inside.received].map(packets));
        cells.extend([inside.refused, inside.ignored, inside.misrouted].map(|count| count.to_string()));
        cells
    };
    let head = ["MACHINE", "SENT", "RECEIVED", "REFUSED", "IGNORED", "MISROUTED"];
    table(&head, machines.iter().map(row), width)
}

fn hosts(hosts: &[HostFlows], width: Option<u16>) -> String {
    let row = |of: &HostFlows| {
        let cells = [packets(of.sent), of.in_two.to_string(), packets(of.received), lost(of.lost)];
        [of.host.clone()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    table(&["HOST", "SENT", "IN TWO", "RECEIVED", "LOST"], hosts.iter().map(row), width)
}

fn named(of: &MachineFlows) -> String {
    format!("{}/{}", of.session, of.machine)
}

fn packets(of: Packets) -> String {
    match of.packets {
        0 => "0".to_owned(),
        packets => format!("{packets} ({} KiB)", of.bytes.div_ceil(1024)),
    }
}

fn lost(of: Lost) -> String {
    let all = [
        (of.no_route, "without a way"),
        (of.forged, "forged"),
        (of.stale, "stale"),
        (of.malformed, "malformed"),
        (of.queue_full, "too many"),
        (of.unreachable, "unreachable"),
        (of.too_long, "too long"),
        (of.dns_refused, "questions"),
    ];
    let said = all.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
    let said = said.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "0".to_owned() } else { said }
}
