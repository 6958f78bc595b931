//! `agent events`: what happened on this host.

use proto::facts::Event;

use super::{Cx, Done, error::Exit, ui::one_line};

/// See what happened on this host
///
/// Facts are numbered from 1, also over restarts; the newest 10,000 are kept.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent events --since 1200\n  agent events --json-lines --follow | jq -c 'select(.kind == \"machine-phase\")'"
)]
pub struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json_lines: bool,
    /// Only facts after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let path = format!("/v1/events?since={}&follow={}", args.since, args.follow);
    let mut lines = cx.client.lines(&path).await?;
    let people = !args.json_lines && !cx.ui.json();
    loop {
        // Both arms are cancel-safe; after Ctrl-C nothing more is read.
        let line = tokio::select! {
            line = lines.next() => line?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::INTERRUPTED),
        };
        let Some(line) = line else { return Ok(Exit::WELL) };
        let taken = match serde_json::from_slice::<Event>(&line) {
            Ok(event) if people => cx.ui.tell(&in_words(&event)),
            // A newer daemon's fact is shown as it came.
            Err(_) if people => cx.ui.tell(&String::from_utf8_lossy(&line)),
            _ => cx.ui.line(&line),
        };
        if !taken {
            return Ok(Exit::WELL);
        }
    }
}

pub(super) fn in_words(event: &Event) -> String {
    format!("{:>6}  {}  {}", event.seq, event.time, one_line(&event.fact.to_string()))
}
