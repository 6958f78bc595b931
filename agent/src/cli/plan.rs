//! How a plan is shown, and `agent session plan`.

use std::{fmt::Write as _, path::Path};

use proto::{
    id::MachineName,
    reasons::Cause,
    session::ChangeAction,
    topology::Diagnostic,
    wire::api::{Diagnostics, Error, Kind, PlanChange, PlanReport, PlanRequest},
};

use super::{
    Cx, Done,
    error::Exit,
    intent::{self, Wrong},
    ui::{bytes, one_line, table},
    value,
};

/// What every plan of this version ends with.
pub const HOLD: &str =
    "every machine behaves as `hold`: it waits for its host and is never started on another one";

pub async fn run(cx: &Cx, file: &Path, replace: &[String]) -> Done {
    let mut wanted = read(cx, file)?;
    wanted.replace = value::replace(&wanted.topology, replace)?;
    let report: PlanReport = cx.client.post("/v1/sessions/plan", &wanted).await?;
    cx.ui.show(&report, in_words);
    match obstacles(&report) {
        Some(error) => Err(error),
        None => Ok(Exit::WELL),
    }
}

/// Reads a topology for a request; its mistakes are shown here, for `plan` and `up` alike.
pub fn read(cx: &Cx, file: &Path) -> Result<PlanRequest, Error> {
    let read = intent::read(file);
    let file = if file == Path::new("-") { Path::new("stdin") } else { file };
    match read {
        Ok(intent) => Ok(intent.into()),
        Err(Wrong::Error(error)) => Err(error),
        Err(Wrong::Mistakes(diagnostics)) => {
            let count = diagnostics.len();
            if cx.ui.json() {
                cx.ui.show(&Diagnostics { diagnostics }, |_, _| String::new());
            } else {
                cx.ui.say(&mistakes(file, &diagnostics));
            }
            let noun = if count == 1 { "mistake" } else { "mistakes" };
            Err(Error::new(Kind::Invalid, format!("{} has {count} {noun}", file.display()))
                .because("nothing was changed"))
        }
    }
}

/// Obstacles and disks that are told one by one; of more, their number.
const TOLD: usize = 20;

/// Makes an error of what stands in the way of a plan: each reason once, with its machines.
pub fn obstacles(report: &PlanReport) -> Option<Error> {
    let mut gathered: Vec<(&str, Vec<String>)> = Vec::new();
    for obstacle in &report.obstacles {
        let (because, machine) = (obstacle.because.as_str(), obstacle.machine.to_string());
        match gathered.iter_mut().find(|(reason, _)| *reason == because) {
            Some((_, machines)) => machines.push(machine),
            None => gathered.push((because, vec![machine])),
        }
    }
    let lines =
        gathered.iter().map(|(because, machines)| format!("{}: {}", machines.join(", "), one_line(because)));
    let because = some_of(lines.collect(), "obstacles")?;
    let what = format!("{} cannot run as it is written; nothing was changed", report.session);
    Some(Error::new(Kind::Refused, what).because(because).next("agent host list"))
}

/// Makes an error of started disks that would be lost although nobody said so.
pub fn losses(report: &PlanReport, file: &Path) -> Option<Error> {
    let because = some_of(lost(report), "machines")?;
    let machines: Vec<String> = report.replaces.iter().map(|change| change.machine.to_string()).collect();
    let told = if machines.len() > 4 { "all".to_owned() } else { machines.join(" --replace ") };
    let what = format!("{}: disks would be lost, and nobody said so; nothing was changed", report.session);
    let next = format!("agent session up {} --replace {told}", file.display());
    Some(Error::new(Kind::Refused, what).because(because).next(next))
}

/// Tells whose disks would be lost, by name; one line for machines with the same reason.
pub fn lost(report: &PlanReport) -> Vec<String> {
    let named = |line: Line| format!("{} on {}: {}", line.names.join(", "), line.hosts, line.because);
    together(&report.replaces).into_iter().map(named).collect()
}

/// Tells what a person should know of what was just committed: whose disk goes, and what does not
/// reach a machine that exists.
pub fn told(report: &PlanReport) -> Vec<String> {
    let changes = together(&report.changes).into_iter();
    let worth = |line: &Line| matches!(line.mark.as_str(), "~" | "-") || line.later;
    changes.filter(worth).map(Line::in_words).collect()
}

/// Joins lines, of very many only the first; `None` of none.
fn some_of(mut lines: Vec<String>, what: &str) -> Option<String> {
    let more = lines.len().saturating_sub(TOLD);
    lines.truncate(TOLD);
    if more > 0 {
        lines.push(format!("and {more} more {what}"));
    }
    (!lines.is_empty()).then(|| lines.join("\n  "))
}

/// Mistakes that are printed; of more, their number.
const MISTAKES: usize = 50;

pub(super) fn mistakes(file: &Path, diagnostics: &[Diagnostic]) -> String {
    let tell = |mistake: &Diagnostic| {
        let line = mistake.line.map(|line| format!("{line}:")).unwrap_or_default();
        let hint = if mistake.hint.is_empty() { String::new() } else { format!("\n    {}", mistake.hint) };
        format!("{}:{line} {}{hint}", file.display(), mistake.what)
    };
    let mut lines: Vec<String> = diagnostics.iter().take(MISTAKES).map(tell).collect();
    if diagnostics.len() > MISTAKES {
        lines.push(format!("and {} more", diagnostics.len() - MISTAKES));
    }
    lines.join("\n")
}

/// Lays a plan out: what happens, who was not chosen, what travels, what stands in the way.
pub fn in_words(report: &PlanReport, width: Option<u16>) -> String {
    let mut text = format!("session {}\n", report.session);
    let lines = together(&report.changes);
    if !lines.is_empty() {
        let rows = lines.into_iter().map(|line| vec![line.mark, line.machines, line.hosts, line.because]);
        let _ = writeln!(text, "{}", table(&["", "MACHINES", "HOSTS", "WHY"], rows, width));
    }
    for (host, because, machines) in rejections(report) {
        let because = one_line(because);
        let _ = writeln!(text, "  not {host}: {because} ({})", machines.join(", "));
    }
    for fetch in &report.fetch {
        let _ = writeln!(text, "fetch: {} of {} to {}", bytes(fetch.bytes), fetch.image, fetch.host);
    }
    // What stands in the way is told by the error that follows.
    if !report.obstacles.is_empty() {
        return text;
    }
    if !report.replaces.is_empty() {
        let machines: Vec<String> = report.replaces.iter().map(|change| change.machine.to_string()).collect();
        let _ = writeln!(text, "! `up` replaces started disks only with --replace: {}", machines.join(", "));
    }
    let all: u64 = report.fetch.iter().map(|fetch| fetch.bytes).sum();
    let _ = writeln!(
        text,
        "fetch: {} inside the mesh, nothing from outside     index {}",
        bytes(all),
        report.index
    );
    let notes = report.notes.iter().map(String::as_str).filter(|note| *note != HOLD);
    for note in [HOLD].into_iter().chain(notes) {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

struct Line {
    mark: String,
    machines: String,
    names: Vec<String>,
    hosts: String,
    because: String,
    /// Whether part of it reaches new machines only.
    later: bool,
}

impl Line {
    fn in_words(self) -> String {
        format!("{} {} on {}: {}", self.mark, self.machines, self.hosts, self.because)
    }
}

/// Puts machines of one group with the same fate and the same reason on one line.
fn together(changes: &[PlanChange]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut rest = changes;
    while let Some(first) = rest.first() {
        let same = |change: &PlanChange| {
            change.machine.group == first.machine.group
                && change.action == first.action
                && change.because == first.because
        };
        let count = rest.iter().take_while(|change| same(change)).count();
        let (group, others) = rest.split_at(count);
        lines.push(Line {
            mark: mark(first.action).to_owned(),
            machines: if count == 1 {
                first.machine.to_string()
            } else {
                format!("{} x{count}", first.machine.group)
            },
            names: group.iter().map(|change| change.machine.to_string()).collect(),
            hosts: hosts(group.iter().map(|change| change.host.as_str())),
            because: one_line(&because(first)),
            later: known(first).is_some_and(Cause::applies_later),
        });
        rest = others;
    }
    lines
}

/// Why something happens to a machine. What holds for every machine, the note below says once for all.
fn because(change: &PlanChange) -> String {
    known(change).map_or_else(|| change.because.clone(), Cause::briefly)
}

/// The cause of a change, if this version knows it.
fn known(change: &PlanChange) -> Option<&Cause> {
    change.why.as_ref().map(|why| &why.reason).filter(|cause| **cause != Cause::Other)
}

fn mark(action: ChangeAction) -> &'static str {
    match action {
        ChangeAction::Create => "+",
        ChangeAction::Change => "~",
        ChangeAction::Remove => "-",
        ChangeAction::Keep => "=",
    }
}

/// Names one host for all machines, or one for each in their order.
fn hosts<'a>(hosts: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = hosts.collect();
    if all.iter().all(|host| *host == all[0]) {
        all.truncate(1);
    }
    all.join(", ")
}

/// Gathers rejections by host and reason.
fn rejections(report: &PlanReport) -> Vec<(&str, &str, Vec<String>)> {
    let mut gathered: Vec<(&str, &str, Vec<String>)> = Vec::new();
    // A machine that fits nowhere has every host's reason in its obstacle.
    let stuck = |machine: &MachineName| report.obstacles.iter().any(|obstacle| obstacle.machine == *machine);
    for rejected in report.rejected.iter().filter(|rejected| !stuck(&rejected.machine)) {
        let (host, because) = (rejected.host.as_str(), rejected.because.as_str());
        let machine = rejected.machine.to_string();
        match gathered.iter_mut().find(|(h, b, _)| *h == host && *b == because) {
            Some((.., machines)) => machines.push(machine),
            None => gathered.push((host, because, vec![machine])),
        }
    }
    gathered
}

#[cfg(test)]
mod tests;
