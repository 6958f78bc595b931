//! `agent upgrade`: a newer program takes this one's place, and machines run on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use proto::wire::api::{Error, Kind, Status};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Cx, Done, error::Exit};
use crate::{
    host::words::words,
    install::{
        look,
        program::About,
        swap::{self, Daemon, Place, SwapError},
    },
};

/// How long the new agent may take until it answers.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// How long it must be there to count as well.
const STEADY: Duration = Duration::from_secs(3);
/// How long one that ended by itself may have another in its place.
const OTHERS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Put another agent program in the place of this one, under running machines
///
/// Asks FILE what it is, replaces the installed program by it and restarts the agent; machines run on
/// and are found again. When the new agent does not come up, the old program comes back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo agent upgrade ./agent-0.2.0/agent")]
pub struct Args {
    /// The program
    file: PathBuf,
}

#[derive(Serialize)]
struct Upgraded {
    program: PathBuf,
    from: String,
    to: String,
    restarted: bool,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let file = fs::canonicalize(&args.file).map_err(|error| super::error::unreadable(&args.file, &error))?;
    let about = swap::ask(&file).await.map_err(not)?;
    let daemon = cx.client.process().await.map(Daemon::look).transpose().map_err(not)?;
    let program = match &daemon {
        Some(daemon) => daemon.program.clone(),
        None => std::env::current_exe().map_err(|error| {
            Error::new(Kind::Failed, "the agent is not upgraded").because(error).next("agent doctor")
        })?,
    };
    check(&program, &file)?;
    let place = Place::take(&program, &file).map_err(not)?;
    let restarted = match &daemon {
        Some(daemon) => {
            cx.ui.say(&format!("the agent is restarted; machines run on ({})", program.display()));
            renew(cx, daemon, &place, &about).await?;
            true
        }
        None => false,
    };
    place.keep();
    let from = env!("CARGO_PKG_VERSION").to_owned();
    cx.ui.show(&Upgraded { program, from, to: about.version, restarted }, |done, _| {
        let rest = if done.restarted { "it runs" } else { "no agent runs now; the next start is of it" };
        format!("{} is agent {}; {rest}", done.program.display(), done.to)
    });
    Ok(Exit::WELL)
}

fn check(program: &Path, file: &Path) -> Result<(), Error> {
    let refused = |because: String, next: &str| {
        Err(Error::new(Kind::Refused, "the agent is not upgraded").because(because).next(next))
    };
    if program == file {
        return refused(format!("{} is what is installed", file.display()), "name the newer file");
    }
    if look::packaged().is_some() && program.starts_with("/usr/bin") {
        let because = format!("{} came with a package", program.display());
        return refused(
            because,
            "sudo apt-get install ./agent_VERSION.deb    which leaves machines running as well",
        );
    }
    Ok(())
}

/// Restarts the daemon with what lies in its place now, and takes it back unless it comes up.
async fn renew(cx: &Cx, daemon: &Daemon, place: &Place, about: &About) -> Result<(), Error> {
    let begun = daemon.restart().await;
    let (mut child, failed) = match begun {
        Ok(mut child) => {
            let up = comes_up(cx, daemon, child.as_mut(), &about.version).await;
            (child, up.err())
        }
        Err(error) => (None, Some(words(&error))),
    };
    let Some(because) = failed else { return Ok(()) };
    place.give_back().map_err(not)?;
    if let Some(child) = &mut child {
        // It may have ended by itself.
        child.kill().ok();
        child.wait().ok();
    }
    let mut child = daemon.restart().await.map_err(not)?;
    let back = match comes_up(cx, daemon, child.as_mut(), env!("CARGO_PKG_VERSION")).await {
        Ok(()) => "the old one is back and runs".to_owned(),
        Err(error) => format!("the old one is back, and does not run either: {error}"),
    };
    Err(Error::new(Kind::Failed, "the agent is not upgraded")
        .because(format!("the new one did not come up ({because}); {back}"))
        .next("AGENT_LOG=debug FILE run, with another --data-dir, to see why"))
}

/// Waits until another process answers as the wanted version, and still does a moment later.
async fn comes_up(
    cx: &Cx,
    before: &Daemon,
    mut child: Option<&mut Child>,
    version: &str,
) -> Result<(), String> {
    let mut deadline = Instant::now() + UP_WITHIN;
    let mut since: Option<(i32, Instant)> = None;
    let mut ended = None;
    loop {
        if let Some(Ok(Some(status))) = child.as_deref_mut().map(Child::try_wait) {
            // Somebody who supervises it may have begun one of their own, which came first.
            (child, ended) = (None, Some(status));
            deadline = deadline.min(Instant::now() + OTHERS_WITHIN);
        }
        let process = cx.client.process().await.filter(|pid| *pid != before.process.pid);
        let answer = match process {
            Some(_) => cx.client.get::<Status>("/v1/status").await.ok(),
            None => None,
        };
        let running = process.filter(|_| answer.is_some_and(|status| status.host.version == version));
        since = match (running, since) {
            (Some(pid), Some((was, at))) if pid == was => Some((was, at)),
            (Some(pid), _) => Some((pid, Instant::now())),
            (None, _) => None,
        };
        if since.is_some_and(|(_, at)| at.elapsed() >= STEADY) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            if let Some(status) = ended {
                return Err(format!("it ended with {status}"));
            }
            return Err(format!("it did not answer as agent {version} within {} s", UP_WITHIN.as_secs()));
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn not(error: SwapError) -> Error {
    let (kind, next) = match &error {
        SwapError::Unfit(..) => (Kind::Refused, "take one that fits; its data stay as they are"),
        SwapError::Unseen(..) | SwapError::File(..) => (Kind::Failed, "sudo, with the same words"),
        SwapError::Asked(..) | SwapError::Mute(_) => {
            (Kind::Failed, "check that FILE is the agent, for this computer")
        }
        SwapError::Restart(_) => (Kind::Failed, "systemctl status agent, or agent run"),
    };
    Error::new(kind, "the agent is not upgraded").because(words(&error)).next(next)
}
