//! `agent status`: the one screen.

use proto::wire::api::{Member, Path, PathKind, SessionRow, Status, Understands};

use super::{
    Cx, Done,
    error::Exit,
    ui::{or_dash, set_in, spread, table, word},
    value::span,
};

/// See this host, the mesh and its sessions on one screen
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent status\n  agent status --json | jq '.members[] | {name, state, path}'"
)]
pub struct Args {}

pub async fn run(cx: &Cx, Args {}: Args) -> Done {
    let status: Status = cx.client.get("/v1/status").await?;
    cx.ui.show(&status, in_words);
    Ok(Exit::WELL)
}

/// Lays the screen out.
pub fn in_words(status: &Status, width: Option<u16>) -> String {
    let host = &status.host;
    let heading = [
        format!("host  {} ({})", host.name, host.id.short()),
        format!("mesh {}", status.mesh.name),
        format!("agent {}", host.version),
        format!("accelerator {}", or_dash(host.accelerator.map(|found| word(&found)))),
        format!("up {}", span(host.up_s)),
    ];
    let mut served = vec![
        format!("dns   {}", or_dash(status.dns.as_ref())),
        format!("relay {}", or_dash(host.relay.as_ref())),
        format!("browser {}", or_dash(status.browser.as_ref())),
        format!("socks {}", or_dash(status.socks.as_ref())),
    ];
    served.extend(status.interface.as_ref().map(|name| format!("interface {name}")));
    let served: Vec<&str> = served.iter().map(String::as_str).collect();
    let mut parts = vec![
        spread(&heading.each_ref().map(String::as_str), "   ", width),
        spread(&served, "   ", width),
        String::new(),
        table(&["MEMBER", "STATE", "PATH", "RTT"], status.members.iter().map(member), width),
    ];
    if !status.sessions.is_empty() {
        parts.extend([String::new(), sessions(&status.sessions, width)]);
    }
    let below = below(&status.below).map(|who| set_in(&format!("level {}: {who}", status.level)));
    parts.extend(below.into_iter().flat_map(|line| [String::new(), line]));
    for trouble in &status.health {
        parts.extend([String::new(), format!("NOT WELL: {}", set_in(&trouble.what))]);
        parts.push(format!("because: {}", set_in(&trouble.because)));
        parts.extend(trouble.next.iter().map(|next| format!("hint: {}", set_in(next))));
    }
    for warning in &status.warnings {
        parts.extend([String::new(), format!("warning: {}", set_in(&warning.what))]);
        parts.extend(warning.next.iter().map(|next| format!("hint: {}", set_in(next))));
    }
    parts.join("\n")
}

/// Says who understands less than others, if anybody does.
pub fn below(below: &[Understands]) -> Option<String> {
    let names = |told: bool| -> Vec<&str> {
        below.iter().filter(|one| one.level.is_some() == told).map(|one| one.host.as_str()).collect()
    };
    let older = match &names(true)[..] {
        [] => None,
        [one] => Some(format!("{one} runs an older version")),
        many => Some(format!("{} run older versions", many.join(", "))),
    };
    let unheard = match &names(false)[..] {
        [] => None,
        [one] => Some(format!("{one} has never told its version")),
        many => Some(format!("{} have never told their versions", many.join(", "))),
    };
    let all: Vec<String> = older.into_iter().chain(unheard).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Lays a list of sessions out.
pub fn sessions(rows: &[SessionRow], width: Option<u16>) -> String {
    let rows = rows.iter().map(|row| {
        let ready = format!("{}/{}", row.ready, row.machines);
        vec![row.name.clone(), word(&row.state), ready, or_dash(row.coordinator.as_ref()), row.id.short()]
    });
    table(&["SESSION", "STATE", "READY", "COORDINATOR", "ID"], rows, width)
}

fn member(member: &Member) -> Vec<String> {
    let (path, rtt) = path(member.path.as_ref());
    vec![member.name.clone(), word(&member.state), path, rtt]
}

/// Writes a path and its round trip.
pub fn path(path: Option<&Path>) -> (String, String) {
    let Some(path) = path else { return ("-".to_owned(), "-".to_owned()) };
    let kind = match (path.kind, &path.via) {
        (PathKind::Relayed, Some(via)) => format!("relayed via {via}"),
        (kind, _) => word(&kind),
    };
    (kind, or_dash(path.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))))
}
