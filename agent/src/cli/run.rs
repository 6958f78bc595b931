//! `agent run`: the daemon, in the foreground.

use proto::{
    id::Name,
    wire::api::{Error, JoinRequest},
};

use super::{Cx, Done, config, error::Exit, join, reach};
use crate::daemon;

/// Run the agent of this host in the foreground
///
/// Ctrl-C or SIGTERM ends the agent; machines run on and are found again at the next start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent run\n  agent run --join mesh1abc... --name attic\n  \
    agent run --set policy.memory=4GiB --set relay.serve=off\n\n\
    `agent config show` lists every setting. AGENT_LOG=debug says more on stderr.")]
pub struct Args {
    /// Join with this token first; a host that is in that mesh already takes its addresses. `-` reads it from stdin
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// This host's name in the mesh, with --join [default: the hostname]
    #[arg(long, requires = "join")]
    name: Option<Name>,
    /// This data directory was moved here or came back from a backup, and no other computer runs by it any more
    #[arg(long)]
    moved: bool,
    /// Overrule a setting; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    reach::own_only(&cx.data, cx.chosen, "run")?;
    let (config, _) = config::load(&cx.data, args.set)?;
    let join = args.join.map(|token| wanted(cx, &token, args.name)).transpose()?.flatten();
    daemon::run(daemon::Run { data: cx.data.clone(), config, join, moved: args.moved }).await?;
    Ok(Exit::WELL)
}

/// Reads the token. A service is started again with an empty stdin: then what was kept of it counts.
fn wanted(cx: &Cx, token: &str, name: Option<Name>) -> Result<Option<JoinRequest>, Error> {
    let known = mesh::identity::exists(cx.data.path()) || mesh::identity::pending(cx.data.path()).is_some();
    match join::request(token, name) {
        Err(_) if token == "-" && known => Ok(None),
        request => request.map(Some),
    }
}
