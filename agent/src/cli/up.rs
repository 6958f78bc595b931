//! `agent session up`: sends the intent, then watches until the session is as it was asked to be.
//! What to think of an answer is [`judge`]; the loop around it only polls.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    session::Phase,
    wire::api::{Error, Kind, MachineRow, PlanRequest, UpAnswer, UpProgress},
};
use tokio::time::{self, Instant};

use super::{
    Cx, Done,
    error::Exit,
    plan, session,
    ui::{Moving, bytes, one_line, word},
    value,
};
use crate::cli::client::quoted;

/// How often the daemon is asked; it answers from memory and by one round to the other hosts.
const POLL: Duration = Duration::from_millis(400);
/// A machine that has failed or stopped for this long stays so: what an older incarnation said is
/// replaced before.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A daemon that is being restarted is back by then.
const AWAY_AT_MOST: Duration = Duration::from_secs(20);

/// How long `up` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wait {
    /// Every machine is ready and every host knows it
    Ready,
    /// Every machine's QEMU runs
    Running,
    /// Not at all: the plan is committed
    None,
}

/// Run a topology
///
/// Plans, commits, and returns when every machine is ready and every host of the mesh knows it.
/// Running it again with a changed file changes the session; with the same file it does nothing.
/// A machine keeps its disk: a larger one grows in place, and another `setup`, `files`, `env`,
/// `ssh_keys` or `user` applies to new machines. Where only an empty disk would do, it asks; without
/// a terminal it ends with 4 unless --replace says so. Ctrl-C detaches: the session goes on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent session plan topology.toml\n  agent session up topology.toml --timeout 10m"
)]
pub struct Args {
    /// The topology file, or `-` for stdin
    file: PathBuf,
    /// What to wait for
    #[arg(long, value_enum, default_value = "ready")]
    wait: Wait,
    /// How long to wait; the session goes on afterwards
    #[arg(long, default_value = "5m", value_parser = value::duration)]
    timeout: Duration,
    /// Refuse when the session has another index than `plan` showed
    #[arg(long)]
    index: Option<u64>,
    /// Let this machine's disk be replaced by an empty one (repeatable; a group stands for all of its
    /// machines; `all` = wherever the change needs it)
    #[arg(long, value_name = "MACHINE|all")]
    replace: Vec<String>,
    /// Do not ask; started disks are replaced with --replace only
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let mut wanted = plan::read(cx, &args.file)?;
    wanted.index = args.index;
    wanted.replace = value::replace(&wanted.topology, &args.replace)?;
    let name = wanted.topology.session.clone();
    // Cancel-safe: the agent carries a request to its end by itself, and watching changes nothing.
    tokio::select! {
        done = commit(cx, wanted, &args) => done,
        _ = tokio::signal::ctrl_c() => {
            cx.ui.say(&format!("\n{name} goes on without this terminal\nhint: agent session status {name}"));
            Ok(Exit::INTERRUPTED)
        }
    }
}

async fn commit(cx: &Cx, mut wanted: PlanRequest, args: &Args) -> Done {
    let mut answer: UpAnswer = cx.client.post("/v1/sessions/up", &wanted).await?;
    let asked = !answer.plan.replaces.is_empty() && !args.yes && cx.ui.can_ask();
    if asked {
        let lost = plan::lost(&answer.plan).join("\n  ");
        if !cx.ui.asks(&format!("These machines lose their disks and everything on them:\n  {lost}\nGo on?"))
        {
            let what = format!("{} stays as it is", answer.plan.session);
            return Err(Error::new(Kind::Refused, what).because("you said no"));
        }
        wanted.replace.machines.extend(answer.plan.replaces.iter().map(|change| change.machine.clone()));
        answer = cx.client.post("/v1/sessions/up", &wanted).await?;
    }
    let refused = plan::obstacles(&answer.plan).or_else(|| plan::losses(&answer.plan, &args.file));
    if let Some(error) = refused {
        cx.ui.show(&answer.plan, plan::in_words);
        return Err(error);
    }
    let Some(id) = answer.id else {
        return Err(Error::new(Kind::Failed, format!("{} was not committed", answer.plan.session))
            .because("the agent gave no reason")
            .next("agent events"));
    };
    cx.ui.say(&format!("{}: {} is committed", answer.plan.session, said(answer.generation)));
    plan::told(&answer.plan).iter().for_each(|line| cx.ui.say(line));
    if args.wait == Wait::None {
        cx.ui.show(&answer, |_, _| String::new());
        return Ok(Exit::WELL);
    }
    let committed = answer.generation.unwrap_or(0);
    watch(cx, &answer.plan.session, &id.to_string(), committed, args).await
}

fn said(generation: Option<u64>) -> String {
    generation.map_or_else(|| "the plan".to_owned(), |generation| format!("plan {generation}"))
}

async fn watch(cx: &Cx, name: &str, id: &str, committed: u64, args: &Args) -> Done {
    let path = format!("/v1/session/up?session={}", quoted(id));
    let (moving, start) = (cx.ui.moving(), Instant::now());
    let mut seen = Shown::default();
    let mut ticks = time::interval(POLL);
    loop {
        ticks.tick().await;
        match time::timeout_at(start + args.timeout, cx.client.get::<UpProgress>(&path)).await {
            Ok(Ok(progress)) => seen.take(progress, &moving),
            Ok(Err(error)) if error.kind == Kind::Unreachable && seen.heard.elapsed() < AWAY_AT_MOST => {
                moving.set("the agent does not answer, trying again".to_owned());
            }
            // It was there when the plan was committed.
            Ok(Err(error)) if error.kind == Kind::NotFound => return Err(ended_meanwhile(name, &args.file)),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        let verdict = match &seen.last {
            // This host still shows the plan before the one that was committed.
            Some(progress) if progress.status.generation < committed => Verdict::Going,
            Some(progress) => judge(progress, args.wait),
            None => Verdict::Going,
        };
        let stuck = matches!(verdict, Verdict::Stuck) && seen.stuck_for(Instant::now()) >= STUCK_AFTER;
        let late = start.elapsed() >= args.timeout;
        if verdict != Verdict::Done && !stuck && !late {
            continue;
        }
        drop(moving);
        return end(cx, name, &seen, verdict, start.elapsed());
    }
}

fn ended_meanwhile(name: &str, file: &Path) -> Error {
    Error::new(Kind::Failed, format!("{name} was ended while it was waited for"))
        .because("its `session down` came from another terminal or member")
        .next(format!("agent session up {}", file.display()))
}

/// Shows the session as it was last seen, and how the wait ended.
fn end(cx: &Cx, name: &str, seen: &Shown, verdict: Verdict, took: Duration) -> Done {
    if let Some(progress) = &seen.last {
        cx.ui.show(progress, |progress, width| session::in_words(&progress.status, width));
    }
    let because = seen.last.as_ref().map_or_else(|| "the agent did not answer".to_owned(), what_lacks);
    let seconds = took.as_secs_f64();
    match verdict {
        Verdict::Done => {
            cx.ui.say(&format!("{name} is up after {seconds:.1} s"));
            Ok(Exit::WELL)
        }
        Verdict::Stuck if seen.stuck_for(Instant::now()) >= STUCK_AFTER => {
            Err(Error::new(Kind::Partly, format!("{name} is up in part"))
                .because(because)
                .next(seen.last.as_ref().map_or_else(|| format!("agent session status {name}"), next)))
        }
        _ => Err(Error::new(Kind::TimedOut, format!("{name} is not ready after {seconds:.0} s; it goes on"))
            .because(because)
            .next(format!("agent session status {name}"))),
    }
}

/// What the loop remembers between two answers.
struct Shown {
    last: Option<UpProgress>,
    heard: Instant,
    stuck_since: Option<Instant>,
}

impl Default for Shown {
    fn default() -> Shown {
        Shown { last: None, heard: Instant::now(), stuck_since: None }
    }
}

impl Shown {
    fn take(&mut self, progress: UpProgress, moving: &Moving) {
        self.heard = Instant::now();
        let old = self.last.as_ref().map_or(&[][..], |last| &last.status.machines[..]);
        for line in news(old, &progress.status.machines) {
            moving.leave(&line);
        }
        moving.set(how_far(&progress));
        let stuck = judge(&progress, Wait::Ready) == Verdict::Stuck;
        self.stuck_since = if stuck { self.stuck_since.or(Some(self.heard)) } else { None };
        self.last = Some(progress);
    }

    fn stuck_for(&self, now: Instant) -> Duration {
        self.stuck_since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// What an answer means for somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not there yet.
    Going,
    /// As it was asked to be.
    Done,
    /// Nothing moves any more, and not all is well.
    Stuck,
}

/// Decides whether the wait is over.
pub fn judge(progress: &UpProgress, wait: Wait) -> Verdict {
    let machines = &progress.status.machines;
    let there = |row: &MachineRow| match wait {
        Wait::Ready => row.state == Phase::Ready,
        Wait::Running => matches!(row.state, Phase::Running | Phase::Booted | Phase::Ready),
        Wait::None => true,
    };
    let ended = |row: &MachineRow| matches!(row.state, Phase::Failed | Phase::Stopped);
    // A machine that waits for an ended one does not move either.
    let still = |row: &MachineRow| there(row) || ended(row) || row.state == Phase::Waiting;
    match () {
        () if machines.iter().all(there) && (progress.everywhere || wait != Wait::Ready) => Verdict::Done,
        () if machines.iter().any(ended) && machines.iter().all(still) => Verdict::Stuck,
        () => Verdict::Going,
    }
}

pub(super) fn how_far(progress: &UpProgress) -> String {
    let machines = &progress.status.machines;
    let ready = machines.iter().filter(|row| row.state == Phase::Ready).count();
    let mut parts = vec![format!("{}: {ready}/{} ready", progress.status.name, machines.len())];
    for fetch in &progress.fetching {
        let done = fetch.done.map(|done| format!("{} of ", bytes(done))).unwrap_or_default();
        parts.push(format!("{} fetches {done}{} of {}", fetch.host, bytes(fetch.bytes), fetch.image));
    }
    let rest = machines.iter().filter(|row| row.state != Phase::Ready);
    parts.extend(rest.map(|row| format!("{} {}", row.name, word(&row.state))));
    if ready == machines.len() && !progress.behind.is_empty() {
        parts.push(format!("telling {}", progress.behind.join(", ")));
    }
    parts.join("   ")
}

/// Tells what changed between two answers, one line a machine.
pub(super) fn news(old: &[MachineRow], new: &[MachineRow]) -> Vec<String> {
    let changed = new.iter().filter(|row| {
        let before = old.iter().find(|before| before.name == row.name);
        before.is_none_or(|before| (before.state, &before.reason) != (row.state, &row.reason))
    });
    let tell = |row: &MachineRow| {
        let host = row.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let reason = row.reason.as_ref().map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
        format!("{}{host} {}{reason}", row.name, word(&row.state))
    };
    changed.map(tell).collect()
}

/// Names the command that tells most about why a session is not up: never a console that nobody can
/// reach.
pub(super) fn next(progress: &UpProgress) -> String {
    let session = &progress.status.name;
    let away = |row: &MachineRow| row.host.as_ref().is_some_and(|host| progress.away.contains(host));
    let mut ended = progress.status.machines.iter().filter(|row| !away(row));
    let failed = ended.clone().find(|row| row.state == Phase::Failed);
    match (failed, ended.find(|row| row.state == Phase::Stopped)) {
        (Some(row), _) => format!("agent machine console {session}/{}    shows what it said last", row.name),
        (None, Some(row)) => format!("agent machine start {session}/{}", row.name),
        (None, None) if !progress.away.is_empty() => {
            "agent host list    shows which hosts are away".to_owned()
        }
        (None, None) => format!("agent session status {session}"),
    }
}

pub(super) fn what_lacks(progress: &UpProgress) -> String {
    let rest = progress.status.machines.iter().filter(|row| row.state != Phase::Ready);
    let mut lacks: Vec<String> = rest
        .map(|row| {
            let reason =
                row.reason.as_ref().map(|reason| format!(" ({})", one_line(reason))).unwrap_or_default();
            format!("{} is {}{reason}", row.name, word(&row.state))
        })
        .collect();
    if lacks.is_empty() && !progress.everywhere {
        lacks.push(format!("{} see it otherwise or do not answer", progress.behind.join(", ")));
    }
    lacks.join(", ")
}

#[cfg(test)]
mod tests;
