//! `agent init`: makes a mesh of one host, without a daemon.

use proto::{
    id::Name,
    wire::api::{Error, Initialised, Kind},
};

use super::{Cx, Done, error::Exit, reach, value};
use crate::daemon;

/// Make a new mesh with this computer as its first host
///
/// Makes the mesh's root key and this host's key in the data directory. Needs no network and no
/// running agent. Do this once per mesh; every other computer uses `agent join`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent init --name nas --tag room=attic\n  agent run")]
pub struct Args {
    /// This host's name in the mesh [default: the hostname]
    #[arg(long)]
    name: Option<Name>,
    /// The mesh's name
    #[arg(long, default_value = "home")]
    mesh: Name,
    /// A tag that placement wishes can ask for; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = value::tag)]
    tags: Vec<(String, String)>,
}

pub fn run(cx: &Cx, args: Args) -> Done {
    reach::own_only(&cx.data, cx.chosen, "init")?;
    let name = args.name.or_else(value::hostname).ok_or_else(|| {
        Error::new(Kind::Usage, "this host needs a name")
            .because(value::no_name())
            .next("agent init --name nas")
    })?;
    let told = |made: &Initialised| cx.ui.show_or_fail(made, |made, _| in_words(made)).map_err(not_made);
    let made = daemon::init(&cx.data, name, args.mesh, value::tags(args.tags)?, told)?;
    cx.ui.say(&format!("mesh {} has its first host, {}", made.mesh.name, made.host.name));
    let run = reach::start(&cx.data);
    cx.ui.say(&format!("hint: {run}    then, on each other computer, what `agent token create` prints"));
    Ok(Exit::WELL)
}

fn in_words(made: &Initialised) -> String {
    format!(
        "Recovery phrase of the root key of mesh {}, shown only now. Write it down:\n\n    {}\n",
        made.mesh.name, made.recovery
    )
}

/// A mesh whose recovery phrase nobody has seen would be lost with this host.
fn not_made(unwritten: Error) -> Error {
    let because = format!("its recovery phrase is shown only once, and {}", unwritten.what);
    Error::new(Kind::Failed, "no mesh was made")
        .because(match unwritten.because {
            Some(why) => format!("{because}: {why}"),
            None => because,
        })
        .next("agent init    with a stdout that can be read")
}
