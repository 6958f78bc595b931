//! `agent dns setup` and `undo`: has this system's own resolver ask the agent for names of its zone, and takes that back.

use std::path::{Path, PathBuf};

use proto::wire::api::{Error, Kind, Status};

use super::super::{
    Cx, Done, config,
    error::Exit,
    steps::{in_words, run, told},
};
use crate::{
    dns,
    host::words::words,
    install::{
        Scope,
        carry::{self, CarryError, Root},
        names::{self, Hook, RECORD, look},
        plan::{Plan, Record},
    },
};

#[derive(Debug, Default, clap::Args)]
pub struct Place {
    /// Show what would be written, removed and run, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take this directory for the root of the system, and run nothing
    #[arg(long, hide = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// How names are to be hooked in, and what was before.
pub struct Planned {
    /// What is done.
    pub plan: Plan,
    hook: Hook,
    before: Option<Record>,
}

pub async fn setup(cx: &Cx, place: Place) -> Done {
    allowed(cx, &place, "setup")?;
    let root = Root(place.root);
    let planned = plan(cx, &root).await?;
    if place.dry_run {
        cx.ui.show(&planned.plan, |plan, _| in_words(plan));
        return Ok(Exit::WELL);
    }
    let done = hook_in(cx, &root, &planned)?;
    told(cx, &planned.plan, &done)
}

/// Decides it for `agent install --dns`.
pub async fn by_install(cx: &Cx, root: &Root, dry_run: bool) -> Result<Planned, Error> {
    allowed(cx, &Place { dry_run, root: root.0.clone() }, "setup")?;
    plan(cx, root).await
}

/// Decides how names are hooked in, and refuses what would harm somebody.
async fn plan(cx: &Cx, root: &Root) -> Result<Planned, Error> {
    let config = config::load(&cx.data, Vec::new())?.0.dns;
    let before = carry::record(root, Some(Path::new(RECORD)));
    others(cx, before.as_ref())?;
    let hooked = before.as_ref().and_then(|record| record.names.as_ref()).map(|hook| hook.port);
    let port = port(cx, config.port.or(hooked)).await?;
    let planned = names::setup(&look::look(root), (&config.zone, port), cx.data.path(), before.as_ref());
    let (plan, hook) = planned.map_err(|cannot| {
        let next = cannot.next();
        Error::new(Kind::Refused, "names of the mesh are not hooked in").because(cannot).next(next)
    })?;
    if let Some(path) = carry::foreign(&plan, root, before.as_ref()).first() {
        return Err(not("hooked in", &CarryError::Foreign(path.display().to_string())));
    }
    Ok(Planned { plan, hook, before })
}

/// Does it, and gives what is told of it.
pub fn hook_in(cx: &Cx, root: &Root, planned: &Planned) -> Result<String, Error> {
    let Planned { plan, hook, before } = planned;
    let empty = Record { scope: Scope::System, files: vec![], made: vec![], linger: false, names: None };
    let record = Record { names: Some(hook.clone()), ..before.clone().unwrap_or(empty) };
    let kept = (Some(Path::new(RECORD)), Some(record));
    carry::write(plan, root, (Path::new(""), Scope::System), kept)
        .map_err(|error| not("hooked in", &error))?;
    run(cx, root, &plan.run).map_err(|error| not("hooked in", &error))?;
    let Hook { resolver, zone, port, .. } = hook;
    Ok(format!("{} asks 127.0.0.1:{port} for names of {zone}", resolver.name()))
}

pub async fn undo(cx: &Cx, place: Place) -> Done {
    allowed(cx, &place, "undo")?;
    let root = Root(place.root);
    let Some(record) = carry::record(&root, Some(Path::new(RECORD))) else {
        return Err(Error::new(Kind::NotFound, "names of the mesh are not hooked in")
            .because(format!("there is no {RECORD}"))
            .next("agent dns status"));
    };
    let plan = names::undo(&record);
    if place.dry_run {
        cx.ui.show(&plan, |plan, _| in_words(plan));
        return Ok(Exit::WELL);
    }
    take_back(cx, &root, &record)?;
    run(cx, &root, &plan.run).map_err(|error| not("taken back", &error))?;
    let resolver = record.names.map_or("nobody", |hook| hook.resolver.name());
    told(cx, &plan, &format!("{resolver} does not ask the agent for names"))
}

/// Removes what was hooked in. The resolver is still to read its files again.
pub fn take_back(cx: &Cx, root: &Root, record: &Record) -> Result<(), Error> {
    let removed =
        carry::remove(root, Some(Path::new(RECORD)), record).map_err(|error| not("removed", &error))?;
    for path in &removed.changed {
        cx.ui.say(&format!("{} was changed since and stays", path.display()));
    }
    Ok(())
}

/// Who does not own the system's settings is told the line that does it.
fn allowed(cx: &Cx, place: &Place, verb: &str) -> Result<(), Error> {
    if place.dry_run || place.root.is_some() || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("`agent dns {verb}` changes settings of this system"))
        .because("those are root's")
        .next(by_root(cx, verb)))
}

/// Gives the line with which root does it for the agent that is spoken to.
pub fn by_root(cx: &Cx, verb: &str) -> String {
    let (program, data) = (std::env::current_exe().ok(), cx.data.path());
    match program.filter(|_| data != Path::new(crate::host::data::SYSTEM)) {
        None => format!("sudo agent dns {verb}"),
        // Root finds neither a user's program nor a user's data by itself.
        Some(program) => format!("sudo {} dns {verb} --data-dir {}", program.display(), data.display()),
    }
}

/// Gives the port of the name server: where it runs, else where it would, which the hook then keeps for it.
async fn port(cx: &Cx, wanted: Option<u16>) -> Result<u16, Error> {
    if let Ok(status) = cx.client.get::<Status>("/v1/status").await {
        let told = status.dns.and_then(|dns| dns.rsplit_once(':')?.1.parse().ok());
        return told.ok_or_else(|| {
            Error::new(Kind::Unreachable, "this agent serves no names")
                .because("its name server has no port")
                .next("agent doctor")
        });
    }
    match wanted.or_else(|| dns::kept(&cx.data.path().join("dns.port"))) {
        Some(port) => Ok(port),
        None => dns::free().await.map_err(|error| {
            Error::new(Kind::Failed, "there is no port for the name server")
                .because(error)
                .next("set dns.port in config.toml, then again")
        }),
    }
}

/// Refuses to take the zone away from another agent of this computer.
fn others(cx: &Cx, before: Option<&Record>) -> Result<(), Error> {
    let hook = before.and_then(|record| record.names.as_ref());
    match hook.filter(|hook| hook.data != cx.data.path()) {
        None => Ok(()),
        Some(hook) => Err(Error::new(Kind::Refused, "another agent's names are hooked in")
            .because(format!("that of {}", hook.data.display()))
            .next("sudo agent dns undo    then again")),
    }
}

fn not(what: &str, error: &CarryError) -> Error {
    let (kind, next) = match error {
        CarryError::Foreign(_) => (Kind::Refused, "move it away, then again"),
        _ => (
            Kind::Failed,
            "agent dns setup --dry-run    shows every step; sudo agent dns undo takes them back",
        ),
    };
    Error::new(kind, format!("names of the mesh are not {what}")).because(words(error)).next(next)
}
