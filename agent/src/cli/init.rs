//! `agent init`: makes a mesh of one host, without a daemon.

use std::io::{self, Read};

use proto::{
    id::Name,
    wire::api::{Error, Initialised, Kind, RestoreRequest, Restored},
};

use super::{Cx, Done, error::Exit, reach, value};
use crate::daemon;

/// Make a new mesh with this computer as its first host
///
/// Makes the mesh's root key and this host's key in the data directory. Needs no network and no
/// running agent. Do this once per mesh; every other computer uses `agent join`.
///
/// With --restore, brings the root key of a mesh back by the recovery phrase that was shown when the mesh was made.
/// A host that is in the mesh already, with or without a running agent, holds it from then on and may admit others.
/// Another computer becomes a host of the mesh: any member on the same LAN, or one that --via names, lets it in at
/// sight of the key.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent init --name nas --tag room=attic\n  agent run\n\n\
    When the host that made the mesh is gone:\n  agent init --restore    on any host that is left, asks for the phrase")]
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
    /// Bring a mesh's root key back; the phrase is asked for, or read from stdin, unless it is given
    #[arg(long, value_name = "PHRASE", num_args = 0..=1, default_missing_value = "-")]
    restore: Option<String>,
    /// Where hosts of the mesh are: any token of it, also one that has ended
    #[arg(long, value_name = "TOKEN", requires = "restore")]
    via: Option<String>,
}

/// More than a phrase, less than a wrong file.
const STDIN_MAX: u64 = 4096;

pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.restore.is_some() {
        return restore(cx, args).await;
    }
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

async fn restore(cx: &Cx, args: Args) -> Done {
    let running = cx.client.is_running().await;
    if running && args.via.is_some() {
        return Err(Error::new(Kind::Refused, "the root key is not restored")
            .because("--via needs the ports that this computer's agent has while it runs")
            .next("end the agent, then this again"));
    }
    let recovery = phrase(cx, args.restore.as_deref().unwrap_or("-"))?;
    let restored: Restored = match running {
        true => cx.client.post("/v1/restore", &RestoreRequest { recovery }).await?,
        false => {
            reach::own_only(&cx.data, cx.chosen, "init")?;
            let renamed = args.name.clone();
            let name = args.name.or_else(value::hostname).ok_or_else(|| {
                Error::new(Kind::Usage, "this host needs a name")
                    .because(value::no_name())
                    .next("agent init --restore --name nas")
            })?;
            let founding = mesh::Founding { name, mesh_name: args.mesh, tags: value::tags(args.tags)? };
            daemon::restore(&cx.data, recovery, founding, renamed, args.via).await?
        }
    };
    cx.ui.show(&restored, |restored, _| restored_in_words(restored));
    if !running {
        cx.ui.say(&format!("hint: {}", reach::start(&cx.data)));
    }
    Ok(Exit::WELL)
}

/// Takes the phrase from the command line, or asks for it.
fn phrase(cx: &Cx, given: &str) -> Result<String, Error> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut typed = String::new();
    let read = if cx.ui.can_ask() {
        cx.ui.say("Recovery phrase of the mesh:");
        io::stdin().read_line(&mut typed).map(drop)
    } else {
        io::stdin().lock().take(STDIN_MAX).read_to_string(&mut typed).map(drop)
    };
    read.map_err(|error| {
        Error::new(Kind::Failed, "the recovery phrase cannot be read from stdin").because(error)
    })?;
    Ok(typed)
}

fn restored_in_words(restored: &Restored) -> String {
    let (host, mesh) = (&restored.host.name, &restored.mesh.name);
    let known = match restored.others {
        0 => {
            "no other host of it was met. Those that are left meet it by: agent init --restore --via TOKEN    here, \
             with any token of the mesh"
        }
        1 => "it knows of one other host",
        others => {
            return format!("{host} holds the root key of mesh {mesh}; it knows of {others} other hosts");
        }
    };
    format!("{host} holds the root key of mesh {mesh}; {known}")
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
