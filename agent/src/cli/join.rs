//! `agent join`: makes this computer a member, through the daemon if one runs, else by itself.

use std::io::{self, BufRead, IsTerminal, Read};

use proto::{
    id::Name,
    trust::Token,
    wire::api::{Error, JoinRequest, Joined, Kind},
};

use super::{Cx, Done, error::Exit, reach, value};
use crate::daemon;

/// More than `agent token create` prints, less than a wrong file.
const STDIN_MAX: u64 = 64 * 1024;

/// Join the mesh that a token is of
///
/// Takes the token that `agent token create` printed on a host of the mesh. Works with and without a
/// running agent, and says success only after data went both ways. On a host that is in that mesh
/// already, the token tells where the others are: so hosts that all moved at once meet again.
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
    /// Take the name back that this computer had before it was wiped; a host that may admit others must have
    /// confirmed that by `agent host remove NAME`
    #[arg(long, value_name = "NAME")]
    replace: Option<Name>,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let request = request(&args.token, own_name(args.name, args.replace)?)?;
    let joined: Joined = if cx.client.is_running().await {
        cx.client.post("/v1/join", &request).await?
    } else {
        reach::own_only(&cx.data, cx.chosen, "join")?;
        daemon::join(&cx.data, request).await?
    };
    cx.ui.show(&joined, |joined, _| {
        if joined.again.is_some() {
            return again_in_words(joined);
        }
        let by = joined.by.as_ref().map(|by| format!(", let in by {by}")).unwrap_or_default();
        format!("{} is a host of mesh {}{by}", joined.host.name, joined.mesh.name)
    });
    if !cx.client.is_running().await && joined.again.as_ref().is_none_or(|again| !again.silent.is_empty()) {
        cx.ui.say(&format!("hint: {}", reach::start(&cx.data)));
    }
    Ok(Exit::WELL)
}

/// A host that takes a name back is called so.
fn own_name(name: Option<Name>, replace: Option<Name>) -> Result<Option<Name>, Error> {
    match (name, replace) {
        (Some(name), Some(old)) if name != old => Err(Error::new(Kind::Usage, "a host has one name")
            .because(format!("--name says {name}, --replace says {old}"))
            .next(format!("agent join TOKEN --name {old} --replace {old}"))),
        (name, replace) => Ok(name.or(replace)),
    }
}

/// Tells a member what came of a token of its own mesh.
pub fn again_in_words(joined: &Joined) -> String {
    let (host, mesh) = (&joined.host.name, &joined.mesh.name);
    let Some(again) = &joined.again else { return format!("{host} is a host of mesh {mesh}") };
    let came = match (&again.reached[..], &again.silent[..]) {
        ([], []) => "the token names nobody else".to_owned(),
        ([], silent) if again.tried => format!(
            "the token's addresses are tried: {} {} not answer yet",
            silent.join(", "),
            if silent.len() == 1 { "does" } else { "do" }
        ),
        ([], silent) => {
            format!("the token's addresses of {} are tried when the agent runs", silent.join(", "))
        }
        (reached, _) => format!("the token's addresses are tried: {} reached", reached.join(", ")),
    };
    format!("{host} is in the mesh {mesh} already; {came}")
}

/// Takes the token from the command line or, as `-`, from stdin.
pub fn request(token: &str, name: Option<Name>) -> Result<JoinRequest, Error> {
    let token = match token {
        "-" => {
            let stdin = io::stdin();
            read(stdin.lock().take(STDIN_MAX), stdin.is_terminal()).map_err(|error| {
                Error::new(Kind::Failed, "the token cannot be read from stdin").because(error)
            })?
        }
        token => Token::find(token),
    };
    if token.is_empty() {
        return Err(
            Error::new(Kind::Usage, "the token is empty").next("agent token create    on a host of the mesh")
        );
    }
    Ok(JoinRequest { token, name: name.or_else(value::hostname) })
}

/// Reads until the token is there: the other end of a pipe may stay open. Who types ends with a blank line.
fn read(mut input: impl BufRead, typed: bool) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let line = input.read_until(b'\n', &mut text)?;
        let found = Token::find(&String::from_utf8_lossy(&text));
        let blank = text[text.len() - line..].trim_ascii().is_empty();
        if line == 0 || found.parse::<Token>().is_ok() || (typed && blank && !found.is_empty()) {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{id::MeshId, seal::Seed};

    use super::*;

    fn token() -> String {
        Token::new(MeshId([3; 32]), Seed([7; 32]), Vec::new()).unwrap().to_string()
    }

    #[test]
    fn a_token_is_found_however_it_was_pasted() {
        let token = token();
        let (head, tail) = token.split_at(30);
        let (second, third) = tail.split_at(40);
        for text in [
            token.clone(),
            format!("  {token}\n"),
            format!("\n\n{token}\n"),
            format!("\u{feff}{token}\r\n"),
            format!("{head}\n{second}\n{third}\n"),
            format!("\r\n  {head}\r\n  {second}\r\n  {third}\r\n"),
            format!("{head} {second}\u{a0}{third}"),
            format!("agent join {token} --name attic\nPaste the line above\n"),
            format!("agent join {head}\n{second}\n{third}\nPaste the line above\n"),
            token.to_ascii_uppercase(),
        ] {
            assert_eq!(Token::find(&text).to_ascii_lowercase(), token, "{text:?}");
            assert_eq!(request(&text, None).unwrap().token.to_ascii_lowercase(), token, "{text:?}");
            let piped = read(text.as_bytes(), false).unwrap();
            assert_eq!(piped.to_ascii_lowercase(), token, "{text:?}");
            assert_eq!(text.replace("agent join", "").parse::<Token>().is_ok(), !text.contains("agent"));
        }
    }

    #[test]
    fn a_host_that_takes_a_name_back_has_that_name() {
        let name = |text: &str| Some(text.parse::<Name>().unwrap());
        assert_eq!(own_name(None, name("nas")).unwrap(), name("nas"));
        assert_eq!(own_name(name("nas"), name("nas")).unwrap(), name("nas"));
        assert_eq!(own_name(name("nas"), name("attic")).unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn what_is_no_token_is_passed_on_to_be_refused() {
        assert_eq!(Token::find("agent join mesh1abc --name attic\nPaste the line above\n"), "mesh1abc");
        assert_eq!(Token::find(" other \n"), "other");
        assert_eq!(Token::find(" \n"), "");
        assert_eq!(read(&b"other\n\nmore\n"[..], true).unwrap(), "other");
        assert_eq!(read(&b"\n\n"[..], true).unwrap(), "");
        assert_eq!(request("\u{feff} \n", None).unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn a_pipe_that_stays_open_does_not_hold_a_join_up() {
        let open = io::Read::chain(io::Cursor::new(format!("\n{}\n", token()).into_bytes()), Never);
        assert_eq!(read(io::BufReader::with_capacity(1, open), false).unwrap(), token());
    }

    struct Never;

    impl Read for Never {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("it waits for more")
        }
    }
}
