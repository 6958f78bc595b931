//! How a plan is shown, and `agent session plan`.

use std::{fmt::Write as _, path::Path};

use proto::{
    session::ChangeAction,
    topology::Diagnostic,
    wire::api::{Diagnostics, Error, Kind, PlanChange, PlanReport, Wanted},
};

use super::{
    Cx, Done,
    error::Exit,
    intent::{self, Wrong},
    ui::{bytes, table},
};

/// What every plan of this version ends with.
pub const HOLD: &str =
    "every machine behaves as `hold`: it waits for its host and is never started on another one";

pub async fn run(cx: &Cx, file: &Path) -> Done {
    let wanted = read(cx, file)?;
    let report: PlanReport = cx.client.post("/v1/sessions/plan", &wanted).await?;
    cx.ui.show(&report, in_words);
    match obstacles(&report) {
        Some(error) => Err(error),
        None => Ok(Exit::WELL),
    }
}

/// Reads a topology for a request; its mistakes are shown here, for `plan` and `up` alike.
pub fn read(cx: &Cx, file: &Path) -> Result<Wanted, Error> {
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

/// Makes an error of what stands in the way of a plan.
pub fn obstacles(report: &PlanReport) -> Option<Error> {
    let first = report.obstacles.first()?;
    let more = report.obstacles.len() - 1;
    let because = format!("{}: {}", first.machine, first.because);
    Some(
        Error::new(
            Kind::Refused,
            format!("{} cannot run as it is written; nothing was changed", report.session),
        )
        .because(if more == 0 { because } else { format!("{because}; and {more} more") })
        .next("agent host list"),
    )
}

pub(super) fn mistakes(file: &Path, diagnostics: &[Diagnostic]) -> String {
    let tell = |mistake: &Diagnostic| {
        let line = mistake.line.map(|line| format!("{line}:")).unwrap_or_default();
        let hint = if mistake.hint.is_empty() { String::new() } else { format!("\n    {}", mistake.hint) };
        format!("{}:{line} {}{hint}", file.display(), mistake.what)
    };
    diagnostics.iter().map(tell).collect::<Vec<_>>().join("\n")
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
        let _ = writeln!(text, "  not {host}: {because} ({})", machines.join(", "));
    }
    for obstacle in &report.obstacles {
        let _ = writeln!(text, "! {}: {}", obstacle.machine, obstacle.because);
    }
    for fetch in &report.fetch {
        let _ = writeln!(text, "fetch: {} of {} to {}", bytes(fetch.bytes), fetch.image, fetch.host);
    }
    if !report.obstacles.is_empty() {
        return text;
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
    hosts: String,
    because: String,
}

/// What the planner adds to a reason; the note below says it once for all.
const WAITS: &str = "; waits for this host when it dies (guard hold)";

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
            hosts: hosts(group.iter().map(|change| change.host.as_str())),
            because: first.because.strip_suffix(WAITS).unwrap_or(&first.because).to_owned(),
        });
        rest = others;
    }
    lines
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
    for rejected in &report.rejected {
        let (host, because) = (rejected.host.as_str(), rejected.because.as_str());
        let machine = rejected.machine.to_string();
        match gathered.iter_mut().find(|(h, b, _)| *h == host && *b == because) {
            Some((.., machines)) => machines.push(machine),
            None => gathered.push((host, because, vec![machine])),
        }
    }
    gathered
}
