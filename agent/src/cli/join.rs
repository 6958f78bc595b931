//! `agent join`: makes this computer a member, through the daemon if one runs, else by itself.

use std::io::{self, BufRead, Read};

use proto::{
    id::Name,
    wire::api::{Error, JoinRequest, Joined, Kind},
};

use super::{Cx, Done, error::Exit, value};
use crate::daemon;

/// More than `agent token create` prints, less than a wrong file.
const STDIN_MAX: u64 = 64 * 1024;

/// Join the mesh that a token is of
///
/// Takes the token that `agent token create` printed on a host of the mesh. Works with and without a
/// running agent, and says success only after data went both ways.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent join mesh1abc... --name attic\n  \
    ssh nas agent token create | agent join - --name attic\n\n\
    Ends with 0 = joined, 4 = refused, 5 = pending: no host that may admit others is reachable now.")]
pub struct Args {
    /// The token, or `-` to read it from stdin
    token: String,
    /// This host's name in the mesh [default: the hostname]
    #[arg(long)]
    name: Option<Name>,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let request = request(&args.token, args.name)?;
    let joined: Joined = if cx.client.is_running().await {
        cx.client.post("/v1/join", &request).await?
    } else {
        daemon::join(&cx.data, request).await?
    };
    cx.ui.show(&joined, |joined, _| {
        let by = joined.by.as_ref().map(|by| format!(", let in by {by}")).unwrap_or_default();
        format!("{} is a host of mesh {}{by}", joined.host.name, joined.mesh.name)
    });
    if !cx.client.is_running().await {
        cx.ui.say("hint: agent run");
    }
    Ok(Exit::WELL)
}

/// Takes the token from the command line or, as `-`, from stdin.
pub fn request(token: &str, name: Option<Name>) -> Result<JoinRequest, Error> {
    let mut token = token.to_owned();
    if token == "-" {
        token.clear();
        io::stdin().lock().take(STDIN_MAX).read_line(&mut token).map_err(|error| {
            Error::new(Kind::Failed, "the token cannot be read from stdin").because(error)
        })?;
    }
    let token = token_in(&token);
    if token.is_empty() {
        return Err(
            Error::new(Kind::Usage, "the token is empty").next("agent token create    on a host of the mesh")
        );
    }
    Ok(JoinRequest { token, name: name.or_else(value::hostname) })
}

/// Finds the token in what was pasted or piped: `agent token create` prints a whole command.
fn token_in(text: &str) -> String {
    let word = text.split_whitespace().find(|word| word.starts_with("mesh1"));
    word.unwrap_or_else(|| text.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_command_is_as_good_as_its_token() {
        let printed = "agent join mesh1abc --name attic\nPaste the line above\n";
        for text in [printed, "mesh1abc", "  mesh1abc\n"] {
            assert_eq!(token_in(text), "mesh1abc");
        }
        assert_eq!(token_in(" other \n"), "other");
        assert_eq!(token_in(" \n"), "");
    }
}
