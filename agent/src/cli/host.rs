//! `agent host`: what the members offer.

use proto::wire::api::{HostRow, Hosts};

use super::{
    Cx, Done,
    error::Exit,
    status::path,
    token::may,
    ui::{bytes, or_dash, table, word},
};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List the hosts of the mesh and what they give to it
    #[command(after_help = "Example:\n  agent host list\n  agent host list -v")]
    List {
        /// Show what each host may do, too
        #[arg(short, long)]
        verbose: bool,
    },
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::List { verbose } => {
            let hosts: Hosts = cx.client.get("/v1/hosts").await?;
            cx.ui.show(&hosts, if verbose { in_full } else { in_words });
            Ok(Exit::WELL)
        }
    }
}

const HEADING: [&str; 12] =
    ["HOST", "STATE", "PATH", "RTT", "VERSION", "ARCH", "ACCEL", "CPU", "MEMORY", "DISK", "ROLE", "TAGS"];

pub(super) fn in_words(hosts: &Hosts, width: Option<u16>) -> String {
    table(&HEADING, hosts.hosts.iter().map(row), width)
}

/// With what each may do.
pub(super) fn in_full(hosts: &Hosts, width: Option<u16>) -> String {
    let heading: Vec<&str> = HEADING.into_iter().chain(["MAY"]).collect();
    let full = |host: &HostRow| row(host).into_iter().chain([may(&host.capabilities)]).collect();
    table(&heading, hosts.hosts.iter().map(full), width)
}

fn row(host: &HostRow) -> Vec<String> {
    let (path, rtt) = path(host.path.as_ref());
    let mib = |mib: u64| bytes(mib << 20);
    let memory = host.memory_mib.map(|all| match host.memory_used_mib {
        Some(used) => format!("{} of {} free", mib(all.saturating_sub(used)), mib(all)),
        None => mib(all),
    });
    let mut roles = Vec::new();
    roles.extend(host.issuer.then_some("issuer"));
    roles.extend(host.relay.as_ref().map(|_| "relay"));
    roles.extend((host.runs_machines == Some(false)).then_some("no machines"));
    let tags: Vec<String> = host.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        host.name.clone(),
        word(&host.state),
        path,
        rtt,
        or_dash(host.version.as_ref()),
        or_dash(host.arch.as_ref()),
        or_dash(host.accelerator.map(|found| word(&found))),
        or_dash(host.cpus),
        or_dash(memory),
        or_dash(host.disk_mib.map(mib)),
        or_dash(Some(roles.join(", ")).filter(|roles| !roles.is_empty())),
        or_dash(Some(tags.join(" ")).filter(|tags| !tags.is_empty())),
    ]
}
