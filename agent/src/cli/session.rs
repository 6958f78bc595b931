//! `agent session`: the verbs on running topologies, and how one is shown.

use std::path::PathBuf;

use proto::wire::api::{MachineRow, SessionStatus, Sessions};

use super::{
    Cx, Done, down,
    error::Exit,
    plan, service, status,
    ui::{bend, or_dash, spread, table, word},
    up,
};
use crate::cli::client::quoted;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show what `up` would do, and change nothing
    ///
    /// The marks: + created, ~ changed, - removed with its disk, = kept. A change says "in place", or
    /// "replace" when the machine would start with an empty disk. Below are the hosts that were not
    /// chosen and why, and what travels. Ends with 4 when something stands in the way, with 2 when the
    /// file is wrong.
    #[command(
        after_help = "Example:\n  agent session plan topology.toml\n  agent session plan topology.toml --json | jq .obstacles"
    )]
    Plan {
        /// The topology file, or `-` for stdin
        file: PathBuf,
        /// Plan as `up --replace` would
        #[arg(long, value_name = "MACHINE|all")]
        replace: Vec<String>,
    },
    Up(up::Args),
    /// Show a session: its machines, where they are, and its services
    #[command(after_help = "Example:\n  agent session status shop")]
    Status {
        /// The session, by name or id
        session: String,
    },
    /// List the sessions that this host knows
    #[command(after_help = "Example:\n  agent session list")]
    List,
    Down(down::Args),
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Plan { file, replace } => plan::run(cx, &file, &replace).await,
        Verb::Up(args) => up::run(cx, args).await,
        Verb::Down(args) => down::run(cx, args).await,
        Verb::Status { session } => {
            let status: SessionStatus =
                cx.client.get(&format!("/v1/session?session={}", quoted(&session))).await?;
            cx.ui.show(&status, in_words);
            Ok(Exit::WELL)
        }
        Verb::List => {
            let list: Sessions = cx.client.get("/v1/sessions").await?;
            cx.ui.show(&list, |list, width| status::sessions(&list.sessions, width));
            Ok(Exit::WELL)
        }
    }
}

/// Lays one session out.
pub fn in_words(session: &SessionStatus, width: Option<u16>) -> String {
    let voters = if session.voters.is_empty() { "-".to_owned() } else { session.voters.join(", ") };
    let parts = [
        format!("session {} ({})", session.name, session.id.short()),
        word(&session.state),
        format!("plan {}", session.generation),
        format!("coordinator {}", or_dash(session.coordinator.as_ref())),
        format!("voters {voters}"),
        format!("network {}", or_dash(session.subnet.as_ref())),
    ];
    let heading = spread(&parts.each_ref().map(String::as_str), "   ", width);
    let mut text = format!("{heading}\n\n{}", machines(&session.machines, false, width));
    if !session.services.is_empty() {
        text.push_str(&format!("\n\n{}", service::in_words(&session.services, &[], width)));
    }
    if let Some(below) = status::below(&session.below) {
        let level = session.level;
        let note = format!(
            "note: {below}; such a host neither votes here nor gets machines: this session is of level {level}"
        );
        text.push_str(&format!("\n\n{}", bend(&note, width)));
    }
    text.push_str(&format!("\n\n{}", bend(&format!("note: {}", plan::HOLD), width)));
    text
}

/// Lays machines out, with their session where there may be several.
pub fn machines(rows: &[MachineRow], sessions: bool, width: Option<u16>) -> String {
    let heading = ["MACHINE", "HOST", "STATE", "GUARD", "EPOCH", "ADDRESS", "REASON"];
    let row = |row: &MachineRow| {
        let name = if sessions { format!("{}/{}", row.session, row.name) } else { row.name.to_string() };
        vec![
            name,
            or_dash(row.host.as_ref()),
            word(&row.state),
            word(&row.guard),
            row.epoch.to_string(),
            or_dash(row.address.as_ref()),
            row.reason.clone().unwrap_or_default(),
        ]
    };
    table(&heading, rows.iter().map(row), width)
}
