//! `agent token`: the invitations of the mesh.

use std::time::Duration;

use proto::{
    trust::Capability,
    wire::api::{Error, Kind, Named, TokenCreate, TokenCreated, TokenRow, Tokens},
};

use super::{
    Cx, Done,
    error::Exit,
    ui::{or_dash, table},
    value,
};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Make a token and print the command that joins with it
    ///
    /// Works on hosts that may admit others. A token may be used by many hosts until it expires, and
    /// its secret is shown only now.
    #[command(
        after_help = "Example:\n  agent token create --expires 1d --uses 3\n  agent token create --can run,store\n  agent token create --json | jq -r .token"
    )]
    Create {
        /// How long it can be used
        #[arg(long, default_value = "7d", value_parser = value::lifetime)]
        expires: Duration,
        /// How many hosts may use it
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// Hosts that join with it may admit others
        #[arg(long)]
        admin: bool,
        /// What hosts that join with it may do: run, store, relay, vote, operate [default: everything]
        ///
        /// run = machines may be placed there; store = images are fetched from there; relay = its relay is used;
        /// vote = sessions are stored there; operate = people there may start, change, end and enter sessions.
        #[arg(long, value_name = "WHAT,..", value_delimiter = ',', conflicts_with = "admin")]
        can: Option<Vec<Capability>>,
    },
    /// List the tokens of the mesh; their secrets are not kept
    #[command(after_help = "Example:\n  agent token list")]
    List,
    /// End a token now; hosts that joined with it stay
    #[command(after_help = "Example:\n  agent token revoke 3f9c0a1b2c")]
    Revoke {
        /// The token's id, or a beginning of it
        id: String,
    },
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Create { expires, uses, admin, can } => {
            let create = TokenCreate { expires_s: expires.as_secs(), uses, admin, can };
            let made: TokenCreated = cx.client.post("/v1/token/create", &create).await?;
            let shown = cx.ui.show_or_fail(&made, |made, _| format!("agent join {}", made.token));
            if let Err(unwritten) = shown {
                return Err(unmade(cx, made.id, unwritten).await);
            }
            cx.ui.say(&about(&made));
        }
        Verb::List => {
            let tokens: Tokens = cx.client.get("/v1/tokens").await?;
            cx.ui.show(&tokens, in_words);
        }
        Verb::Revoke { id } => {
            let revoked: Named = cx.client.post("/v1/token/revoke", &Named { id }).await?;
            cx.ui.show(&revoked, |revoked, _| format!("token {} is revoked", revoked.id));
        }
    }
    Ok(Exit::WELL)
}

/// Ends a token that nobody has seen, and tells what became of it.
async fn unmade(cx: &Cx, id: String, unwritten: Error) -> Error {
    let revoked: Result<Named, Error> = cx.client.post("/v1/token/revoke", &Named { id: id.clone() }).await;
    let why = unwritten.because.map(|why| format!(": {why}")).unwrap_or_default();
    let because = format!("its secret is shown only once, and {}{why}", unwritten.what);
    match revoked {
        Ok(_) => Error::new(Kind::Failed, "no token was made")
            .because(because)
            .next("agent token create    with a stdout that can be read"),
        Err(error) => Error::new(Kind::Failed, format!("the token {id} was made and is lost"))
            .because(format!("{because}; it could not be revoked: {}", error.what))
            .next(format!("agent token revoke {id}")),
    }
}

fn about(made: &TokenCreated) -> String {
    let kinds = match made.addresses[..] {
        [] => "no address yet: it works on this host's own network only".to_owned(),
        _ => format!("it leads here by: {}", made.addresses.join(", ")),
    };
    format!(
        "Paste the line above on another computer, then `agent run` there.\n\
         token {}: {} hosts until {}; {kinds}",
        made.id, made.uses, made.expires
    )
}

/// Says what a member may do.
pub(super) fn may(capabilities: &[Capability]) -> String {
    let words: Vec<&str> = capabilities.iter().map(|capability| capability.as_str()).collect();
    match words[..] {
        [] => "nothing".to_owned(),
        _ if words.len() == Capability::ALL.len() => "everything".to_owned(),
        _ => words.join(", "),
    }
}

pub(super) fn in_words(tokens: &Tokens, width: Option<u16>) -> String {
    let row = |token: &TokenRow| {
        let used = format!("{}/{}", token.used, token.uses);
        let makes = if token.admin { "issuers" } else { "members" }.to_owned();
        let issuer = or_dash(token.issuer.as_ref());
        let can = may(&token.capabilities);
        vec![token.id.clone(), token.state.clone(), used, makes, can, token.expires.clone(), issuer]
    };
    table(
        &["TOKEN", "STATE", "USED", "MAKES", "MAY", "EXPIRES", "ISSUER"],
        tokens.tokens.iter().map(row),
        width,
    )
}
