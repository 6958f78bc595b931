//! `agent dns`: asks this host's own name server, over UDP as any program would; `setup` hooks it into the system.

pub mod setup;
mod status;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, RecordType},
};
use proto::wire::api::{Error, Kind, Status};
use serde::Serialize;

use super::{Cx, Done, error::Exit};
use crate::dns::ask;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Ask this host's name server; prints one address a line
    ///
    /// Groups are GROUP.SESSION.mesh.internal, machines MACHINE.SESSION.mesh.internal, hosts
    /// HOST.host.mesh.internal. Ends with 3 when there is no address.
    #[command(
        after_help = "Example:\n  curl http://$(agent dns query web.shop.mesh.internal | head -1):8080/\n  agent dns query _http._tcp.web.shop.mesh.internal --type srv"
    )]
    Query {
        /// The whole name
        name: String,
        /// What to ask for
        #[arg(long = "type", value_enum, default_value = "address")]
        wanted: RecordKind,
    },
    /// Have every program of this system find names of the mesh
    ///
    /// Tells the system's own resolver that this agent answers for the zone: systemd-resolved, dnsmasq (also
    /// NetworkManager's), unbound, or macOS. All other names go where they went. `agent dns undo` removes what was written.
    #[command(after_help = "Example:\n  sudo agent dns setup --dry-run\n  sudo agent dns setup")]
    Setup(setup::Place),
    /// Take back what `agent dns setup` wrote
    #[command(after_help = "Example:\n  sudo agent dns undo")]
    Undo(setup::Place),
    /// See whether programs of this system find names of the mesh, tried as they would
    #[command(after_help = "Example:\n  agent dns status")]
    Status {
        /// Take this directory for the root of the system
        #[arg(long, hide = true, value_name = "DIR")]
        root: Option<PathBuf>,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RecordKind {
    /// IPv4 and IPv6 addresses
    Address,
    /// Ports and the names they are on: one `PORT NAME` a line
    Srv,
    /// The name of an address
    Ptr,
}

#[derive(Serialize)]
struct Found {
    name: String,
    server: String,
    code: String,
    addresses: Vec<String>,
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Query { name, wanted } => query(cx, name, wanted).await,
        Verb::Setup(place) => setup::setup(cx, place).await,
        Verb::Undo(place) => setup::undo(cx, place).await,
        Verb::Status { root } => status::status(cx, root).await,
    }
}

async fn query(cx: &Cx, name: String, wanted: RecordKind) -> Done {
    let status: Status = cx.client.get("/v1/status").await?;
    let server: SocketAddr = status.dns.as_deref().and_then(|dns| dns.parse().ok()).ok_or_else(|| {
        Error::new(Kind::Unreachable, "this agent serves no names")
            .because("its name server has no port")
            .next("agent doctor")
    })?;
    let (asked, kinds) = question(&name, wanted)?;
    let mut found = Found { name, server: server.to_string(), code: String::new(), addresses: Vec::new() };
    for kind in kinds {
        let answer = ask(server, &asked, *kind).await?;
        found.code = answer.metadata.response_code.to_string();
        found.addresses.extend(answer.answers.iter().filter_map(|record| in_words(&record.data)));
        if answer.metadata.response_code != ResponseCode::NoError {
            break;
        }
    }
    if !found.addresses.is_empty() || cx.ui.json() {
        cx.ui.show(&found, |found, _| found.addresses.join("\n"));
    }
    if found.addresses.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("{} has no answer", found.name))
            .because(format!("{server} says {}", found.code))
            .next("agent service list"));
    }
    Ok(Exit::WELL)
}

fn question(name: &str, wanted: RecordKind) -> Result<(Name, &'static [RecordType]), Error> {
    let wrong =
        |because: String| Error::new(Kind::Usage, format!("{name:?} cannot be asked for")).because(because);
    let parse = |text: &str| Name::from_str(text).map_err(|error| wrong(error.to_string()));
    let (mut asked, kinds): (Name, &[RecordType]) = match wanted {
        RecordKind::Address => (parse(name)?, &[RecordType::A, RecordType::AAAA]),
        RecordKind::Srv => (parse(name)?, &[RecordType::SRV]),
        RecordKind::Ptr => match name.parse::<IpAddr>() {
            Ok(address) => (Name::from(address), &[RecordType::PTR]),
            Err(_) => (parse(name)?, &[RecordType::PTR]),
        },
    };
    asked.set_fqdn(true);
    Ok((asked, kinds))
}

fn in_words(data: &RData) -> Option<String> {
    match data {
        RData::A(address) => Some(address.to_string()),
        RData::AAAA(address) => Some(address.to_string()),
        RData::SRV(service) => {
            Some(format!("{} {}", service.port, service.target.to_string().trim_end_matches('.')))
        }
        RData::PTR(name) => Some(name.to_string().trim_end_matches('.').to_owned()),
        _ => None,
    }
}
