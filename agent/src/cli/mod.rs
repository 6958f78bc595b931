//! The command line: which words there are, and which file answers each. One noun a file; a verb's
//! doc comment is its help. Nothing here prints but through [`ui::Ui`], and no file decides an exit
//! code but [`error`].

mod check;
pub(crate) mod client;
mod config;
mod console;
mod dns;
mod doctor;
mod down;
mod error;
mod events;
mod file;
mod forward;
mod host;
mod image;
mod init;
mod install;
mod intent;
mod join;
mod leave;
mod machine;
mod net;
mod out;
mod pages;
mod ping;
mod plain;
mod plan;
mod reach;
mod run;
mod service;
mod session;
mod ssh;
mod ssh_agent;
mod status;
mod steps;
mod table;
#[cfg(test)]
mod tests;
mod token;
mod ui;
mod up;
mod upgrade;
mod value;
pub use join::again_in_words as joined_again;
pub use value::{hostname, no_name, span};

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use proto::wire::api::{Error, Kind};

use crate::{
    cli::client::Client,
    host::{data::DataDir, limits, log},
    install::program::About,
};
use error::Exit;
use ui::Ui;

/// Virtual machines on the computers you own, without a control server.
///
/// `agent init` makes a mesh, `agent join TOKEN` on each other computer makes it a member, whatever
/// router it sits behind. `agent session up topology.toml` then runs virtual machines spread over
/// them, with a private network and a name for each, such as web.shop.mesh.internal.
#[derive(Debug, Parser)]
#[command(name = "agent", version,  arg_required_else_help = true, disable_help_subcommand = true, after_help = EXAMPLE)]
pub struct Cli {
    /// Print one JSON object on stdout; an error is one JSON line on stderr
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// Where this host keeps everything [default: AGENT_DATA_DIR, else /var/lib/agent as root, else
    /// ~/.local/share/agent]
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    noun: Noun,
}

const EVERYWHERE: &str = "Everywhere";

const EXAMPLE: &str = "\
Example, two computers and one topology:
  nas$   agent init --name nas && agent run
  nas$   agent token create
  attic$ agent run --join TOKEN --name attic
  nas$   agent session up topology.toml

Exit codes: 0 well, 1 failed, 2 usage or invalid file, 3 not found, 4 refused, 5 timed out and still
going on, 6 partly done, 7 agent or mesh unreachable, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Noun {
    Init(init::Args),
    Join(join::Args),
    Leave(leave::Args),
    Run(run::Args),
    Status(status::Args),
    /// Run a topology: plan, up, status, list, down
    #[command(subcommand)]
    Session(session::Verb),
    /// Enter, watch, start and stop single machines
    #[command(subcommand)]
    Machine(machine::Verb),
    /// See the hosts of the mesh, and say who goes, is called what, and may admit others
    #[command(subcommand)]
    Host(host::Verb),
    /// Reach the services of machines from this host
    #[command(subcommand)]
    Service(service::Verb),
    /// See by which ways hosts are reached, and what machines send over the network
    #[command(subcommand)]
    Net(net::Verb),
    /// Bring disk images into the mesh
    #[command(subcommand)]
    Image(image::Verb),
    /// Let other computers join
    #[command(subcommand)]
    Token(token::Verb),
    /// Ask this host's name server, and have the whole system ask it
    #[command(subcommand)]
    Dns(dns::Verb),
    /// See the settings of this host
    #[command(subcommand)]
    Config(config::Verb),
    Events(events::Args),
    Doctor(doctor::Args),
    Install(install::Args),
    Uninstall(install::Remove),
    Upgrade(upgrade::Args),
    Completions(pages::Completions),
    #[command(hide = true)]
    Man(pages::Man),
}

/// What every verb works with.
#[derive(Debug)]
pub struct Cx {
    ui: Ui,
    data: DataDir,
    /// Whether that directory was named, on the command line or in the environment.
    chosen: bool,
    client: Client,
}

type Done = Result<Exit, Error>;

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&Ui::new(error::wants_json(&args)), &error).into(),
    };
    let ui = Ui::new(cli.json);
    let done = match DataDir::choose(cli.data_dir.as_deref()) {
        Ok(own) => {
            let chosen = DataDir::is_chosen(cli.data_dir.as_deref());
            let data = reach::choose(own, chosen);
            start(Cx { client: Client::new(data.socket()), ui: ui.clone(), data, chosen }, cli.noun)
        }
        Err(error) => Err(Error::new(Kind::Failed, "no data directory can be chosen")
            .because(error)
            .next("set HOME or name one with --data-dir DIR")),
    };
    ui.end(done).into()
}

/// Tells what clap found. Programs that ask for the version are told what another agent needs to know of this one.
fn unparsed(ui: &Ui, error: &clap::Error) -> Exit {
    if error.kind() == clap::error::ErrorKind::DisplayVersion && ui.json() {
        ui.show(&About::this(), |_, _| String::new());
        return ui.end(Ok(Exit::WELL));
    }
    ui.usage(error)
}

fn start(cx: Cx, noun: Noun) -> Done {
    let daemon = matches!(noun, Noun::Run(_));
    log::start(daemon);
    let runtime = if daemon {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    let runtime =
        runtime.map_err(|error| Error::new(Kind::Failed, "the program cannot start").because(error))?;
    let done = runtime.block_on(async {
        if daemon {
            limits::raise();
        }
        limits::catch_file_size();
        dispatch(&cx, noun).await
    });
    // A blocking read of stdin would hold the program after its work.
    runtime.shutdown_background();
    log::flush();
    done
}

async fn dispatch(cx: &Cx, noun: Noun) -> Done {
    match noun {
        Noun::Init(args) => init::run(cx, args).await,
        Noun::Join(args) => join::run(cx, args).await,
        Noun::Leave(args) => leave::run(cx, args).await,
        Noun::Run(args) => run::run(cx, args).await,
        Noun::Status(args) => status::run(cx, args).await,
        Noun::Session(verb) => session::run(cx, verb).await,
        Noun::Machine(verb) => machine::run(cx, verb).await,
        Noun::Host(verb) => host::run(cx, verb).await,
        Noun::Service(verb) => service::run(cx, verb).await,
        Noun::Net(verb) => net::run(cx, verb).await,
        Noun::Image(verb) => image::run(cx, verb).await,
        Noun::Token(verb) => token::run(cx, verb).await,
        Noun::Dns(verb) => dns::run(cx, verb).await,
        Noun::Config(verb) => config::run(cx, verb),
        Noun::Events(args) => events::run(cx, args).await,
        Noun::Doctor(args) => doctor::run(cx, args).await,
        Noun::Install(args) => install::install(cx, args).await,
        Noun::Uninstall(args) => install::uninstall(cx, args).await,
        Noun::Upgrade(args) => upgrade::run(cx, args).await,
        Noun::Completions(args) => pages::completions(cx, args),
        Noun::Man(args) => pages::man(cx, args),
    }
}
