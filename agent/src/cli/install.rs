//! `agent install` and `agent uninstall`: shows a plan, or has it carried out and tells what came of it.

use std::path::{Path, PathBuf};

use clap_complete::Shell;
use proto::wire::api::{Error, Kind};

use super::{
    Cx, Done,
    dns::setup as names,
    error::Exit,
    pages,
    steps::{in_words, run, told},
};
use crate::install::{
    Scope,
    carry::{self, CarryError, Root},
    layout::Layout,
    look,
    names::{Hook, RECORD, undo},
    plan::{self, Computer, Pages, Plan, Record},
};

/// Install this program as a service of this computer
///
/// As root for the whole computer, otherwise for this user, below their home. The service starts with
/// the computer and again after a crash, and never ends machines. `agent uninstall` removes what was
/// written, and only that.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo ./agent install\n  ./agent install --dry-run")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Make the content of a package below --root
    #[arg(long, hide = true, requires = "root")]
    package: bool,
    /// Have every program of this system find names of the mesh as well: `agent dns setup`
    #[arg(long, conflicts_with = "package")]
    dns: bool,
}

/// Remove what `agent install` wrote; the mesh, images and disks stay
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo agent uninstall --dry-run\n  sudo agent uninstall")]
pub struct Remove {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Show what would be written, removed and run, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Where program and pages go [default: /usr/local as root, else ~/.local]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Take this directory for the root of the system, and run nothing
    #[arg(long, hide = true, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Place {
    fn layout(&self) -> Result<Layout, Error> {
        let prefix = self.prefix.as_deref().map(std::path::absolute).transpose();
        let prefix = prefix.map_err(|error| Error::new(Kind::Usage, "--prefix is no path").because(error))?;
        if rustix::process::geteuid().is_root() {
            return Ok(Layout::system(&prefix.unwrap_or_else(|| "/usr/local".into())));
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = home.ok_or_else(|| {
            Error::new(Kind::Failed, "there is no home to install into").next("set HOME, or run it as root")
        })?;
        Ok(Layout::user(&home, &prefix.unwrap_or_else(|| home.join(".local"))))
    }
}

pub async fn install(cx: &Cx, args: Args) -> Done {
    let Args { place, package, dns } = args;
    let root = Root(place.root.clone());
    let layout = if package { Layout::package() } else { place.layout()? };
    let seen = seen(cx, &layout, root.0.is_some()).await;
    if root.0.is_none() && layout.scope == Scope::System {
        unpackaged()?;
    }
    // What cannot be done is told before anything is.
    let hook = match dns {
        true => Some(names::by_install(cx, &root, place.dry_run).await?),
        false => None,
    };
    let seen = Computer { named: seen.named || dns, ..seen };
    let plan = if package {
        Plan { write: plan::files(&layout, &pages(), &seen), ..Plan::default() }
    } else {
        plan::install(&layout, &pages(), &seen)
    };
    if place.dry_run {
        let whole = hook.iter().fold(plan, |plan, hook| plan.and(&hook.plan));
        cx.ui.show(&whole, |plan, _| in_words(plan));
        return Ok(Exit::WELL);
    }
    let before = carry::record(&root, layout.record.as_deref());
    let foreign = carry::foreign(&plan, &root, before.as_ref());
    if !foreign.is_empty() {
        let names: Vec<String> = foreign.iter().map(|path| path.display().to_string()).collect();
        return Err(not("installed", CarryError::Foreign(names.join(", "))));
    }
    let program = std::env::current_exe()
        .map_err(|error| Error::new(Kind::Failed, "this program does not find itself").because(error))?;
    let mut record = carry::write(&plan, &root, (&program, layout.scope), (layout.record.as_deref(), before))
        .map_err(|error| not("installed", error))?;
    let ran = run(cx, &root, &plan.run).map_err(|error| not("finished", error))?;
    if ran.iter().any(|line| line.starts_with("loginctl enable-linger"))
        && let Some(at) = &layout.record
    {
        record.linger = true;
        let kept = carry::keep(&root, at, &record);
        kept.map_err(|error| not("installed", CarryError::File(at.clone(), error)))?;
    }
    let mut done = format!("installed: {}", layout.program.display());
    let mut whole = plan;
    if let Some(hook) = hook {
        done = format!("{done}\n{}", names::hook_in(cx, &root, &hook)?);
        whole = whole.and(&hook.plan);
    }
    told(cx, &whole, &done)
}

pub async fn uninstall(cx: &Cx, args: Remove) -> Done {
    let Remove { place } = args;
    let root = Root(place.root.clone());
    let layout = place.layout()?;
    if root.0.is_none() && layout.scope == Scope::System {
        unpackaged()?;
    }
    let Some(record) = carry::record(&root, layout.record.as_deref()) else {
        let at = layout.record.as_deref().unwrap_or(Path::new("?")).display().to_string();
        return Err(Error::new(Kind::NotFound, "nothing is installed here")
            .because(format!("there is no {at}"))
            .next("agent uninstall --prefix DIR    with the one that it was installed with"));
    };
    let seen = seen(cx, &layout, root.0.is_some()).await;
    let hooked = hooked(cx, &root, layout.scope)?;
    let plan = plan::uninstall(&layout, &record, &seen);
    let plan = hooked.iter().fold(plan, |plan, hooked| plan.and(&undo(hooked)));
    if place.dry_run {
        cx.ui.show(&plan, |plan, _| in_words(plan));
        return Ok(Exit::WELL);
    }
    run(cx, &root, &plan.first).map_err(|error| not("finished", error))?;
    let mut record = record;
    if let Some(hooked) = hooked {
        names::take_back(cx, &root, &hooked)?;
        // Both records are in one directory, which whoever was first has made.
        record.made.extend(hooked.made);
    }
    let removed =
        carry::remove(&root, layout.record.as_deref(), &record).map_err(|error| not("removed", error))?;
    run(cx, &root, &plan.run).map_err(|error| not("finished", error))?;
    for path in &removed.changed {
        cx.ui.say(&format!("{} was changed since and stays", path.display()));
    }
    told(cx, &plan, &format!("removed: {} files", removed.files))
}

/// Gives how names are hooked in that are taken back with the agent.
fn hooked(cx: &Cx, root: &Root, scope: Scope) -> Result<Option<Record>, Error> {
    let hooked = carry::record(root, Some(Path::new(RECORD)));
    let own = |hook: &Hook| hook.data == cx.data.path();
    match scope {
        Scope::System => Ok(hooked),
        // Afterwards the program would be gone that could do it.
        Scope::User if hooked.and_then(|record| record.names).as_ref().is_some_and(own) => {
            Err(Error::new(Kind::Refused, "programs of this system ask this agent for names")
                .because("`agent dns setup` told the system's resolver so, and its settings are root's")
                .next(format!("{}    then again", names::by_root(cx, "undo"))))
        }
        Scope::User => Ok(None),
    }
}

async fn seen(cx: &Cx, layout: &Layout, elsewhere: bool) -> Computer {
    if elsewhere {
        return look::anywhere(layout.scope, Path::new(crate::host::data::SYSTEM));
    }
    look::look(&cx.data, cx.chosen, cx.client.process().await)
}

/// Refuses to meddle with what a package manager keeps.
fn unpackaged() -> Result<(), Error> {
    match look::packaged() {
        None => Ok(()),
        Some(unit) => Err(Error::new(Kind::Refused, "the agent of this computer came as a package")
            .because(format!("{} is there", unit.display()))
            .next("sudo systemctl enable --now agent    or remove the package first")),
    }
}

fn pages() -> Pages {
    let completions = [Shell::Bash, Shell::Zsh, Shell::Fish].map(pages::completion);
    Pages { completions, manual: pages::manual() }
}

fn not(what: &str, error: CarryError) -> Error {
    let (kind, next) = match &error {
        CarryError::Foreign(_) => (
            Kind::Refused,
            "move them away, then again; what you add to a service goes into `systemctl edit agent`",
        ),
        CarryError::File(_, io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
            (Kind::Failed, "sudo, with the same words")
        }
        _ => (Kind::Failed, "agent install --dry-run    shows every step; agent uninstall takes them back"),
    };
    let because = crate::host::words::words(&error);
    Error::new(kind, format!("the agent is not {what}")).because(because).next(next)
}
