//! `agent session down`: commits the end, then watches until nothing is left.

use std::time::Duration;

use proto::wire::api::{DownProgress, Error, Kind, SessionStatus};
use tokio::time::{self, Instant};

use super::{Cx, Done, error::Exit, ui::one_line, value};
use crate::cli::client::quoted;

/// Machines are given half a minute to shut down; nobody needs to know within a blink.
const POLL: Duration = Duration::from_millis(400);

/// End a session and remove its machines and their disks
///
/// Returns when everything is gone on the hosts that answer; a host that is away removes its
/// machines when it returns.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent session down shop\n\nEnds with 6 when a host is away.")]
pub struct Args {
    /// The session, by name or id
    session: String,
    /// How long to wait; the end is committed and goes on afterwards
    #[arg(long, default_value = "2m", value_parser = value::duration)]
    timeout: Duration,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let query = quoted(&args.session);
    let status: SessionStatus = cx.client.get(&format!("/v1/session?session={query}")).await?;
    let (name, count) = (&status.name, status.machines.len());
    if !args.yes && !cx.ui.agrees(&format!("{name}: {count} machines and their disks go. Go on?")) {
        return Err(Error::new(Kind::Failed, format!("{name} stays")).because("you said no"));
    }
    let path = format!("/v1/session/down?session={}", status.id);
    // Cancel-safe: the agent carries the request to its end by itself, and watching changes nothing.
    tokio::select! {
        done = end(cx, &path, args.timeout) => done,
        _ = tokio::signal::ctrl_c() => {
            cx.ui.say(&format!("\n{name} goes on ending without this terminal\nhint: agent session list"));
            Ok(Exit::INTERRUPTED)
        }
    }
}

async fn end(cx: &Cx, path: &str, within: Duration) -> Done {
    let first: DownProgress = cx.client.post(path, &()).await?;
    watch(cx, first, path, within).await
}

async fn watch(cx: &Cx, mut progress: DownProgress, path: &str, within: Duration) -> Done {
    let (moving, start) = (cx.ui.moving(), Instant::now());
    let mut ticks = time::interval(POLL);
    let mut told = Vec::new();
    while !progress.gone && start.elapsed() < within {
        moving.set(format!("{}: {}", progress.name, what_is_left(&progress)));
        // Said once where it stays, also without a terminal: it may be long until it goes on.
        if progress.because != told {
            told.clone_from(&progress.because);
            told.iter()
                .for_each(|because| cx.ui.say(&format!("{}: waits: {}", progress.name, one_line(because))));
        }
        ticks.tick().await;
        if let Ok(answer) = time::timeout_at(start + within, cx.client.get(path)).await {
            // Once it is forgotten, only its id is left of it.
            let name = progress.name;
            progress = DownProgress { name, ..answer? };
        }
    }
    drop(moving);
    cx.ui.show(&progress, |progress, _| in_words(progress));
    match ending(&progress) {
        Some(error) => Err(error),
        None => Ok(Exit::WELL),
    }
}

/// Decides what to say when the wait is over.
pub(super) fn ending(progress: &DownProgress) -> Option<Error> {
    let name = &progress.name;
    let (away, left) = (progress.away.join(", "), what_is_left(progress));
    let next = "agent session list";
    match (progress.gone, progress.away.is_empty()) {
        (true, true) => None,
        (true, false) => Some(
            Error::new(Kind::Partly, format!("{name} is gone, but for hosts that are away"))
                .because(format!("{away} does not answer; it removes its machines when it returns"))
                .next(format!("if it never does: {}", removals(&progress.away))),
        ),
        (false, _) => Some(
            Error::new(Kind::TimedOut, format!("{name} is not gone yet; it goes on"))
                .because(left)
                .next(next),
        ),
    }
}

/// Says what ends the wait for hosts that are gone for good.
fn removals(hosts: &[String]) -> String {
    let each: Vec<String> = hosts.iter().map(|host| format!("agent host remove {host}")).collect();
    each.join("; ")
}

fn in_words(progress: &DownProgress) -> String {
    if progress.gone { format!("{} is gone", progress.name) } else { String::new() }
}

fn what_is_left(progress: &DownProgress) -> String {
    let left: Vec<String> =
        progress.remaining.iter().map(|left| format!("{} on {}", left.machine, left.host)).collect();
    let left = match &left[..] {
        [] if progress.behind.is_empty() => "nothing is left but records".to_owned(),
        [] => format!("nothing is left but records; no word yet from {}", progress.behind.join(", ")),
        left => format!("still there: {}", left.join(", ")),
    };
    // What keeps it from going on, if that is known.
    std::iter::once(left).chain(progress.because.iter().cloned()).collect::<Vec<_>>().join(": ")
}
