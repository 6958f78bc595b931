//! Tokens: making one that says how to find this mesh, listing them, ending one.

use std::net::SocketAddr;

use proto::{
    addresses::{is_public, pick},
    id::{HostId, Name},
    reachability::fallback::Foreign,
    seal::{PublicKey, Seed},
    time::Timestamp,
    trust::{
        Bootstrap, Capabilities, Grant, GrantState, May, Revocation, Statement, Token, TokenError,
        token::{MAX_ADDRESSES, MAX_BOOTSTRAP},
    },
    wire::record::{Reach, RelayOffer},
};

use crate::{
    gossip::Records,
    identity::Identity,
    members::{
        roster::{Roll, Roster, SayError},
        view as members,
    },
};

/// What a token shall allow.
#[derive(Clone, Copy, Debug)]
pub struct TokenWish {
    /// How long it lives.
    pub expires_ms: u64,
    /// Distinct hosts that may use it.
    pub uses: u32,
    /// Whether it makes issuers.
    pub admin: bool,
    /// What its hosts may do.
    pub may: May,
}

/// A token that was made. Its text is a secret.
#[derive(Clone)]
pub struct Made {
    /// The name by which it is listed and revoked.
    pub id: String,
    /// What the new host pastes.
    pub text: String,
    /// When it ends.
    pub expires: Timestamp,
    /// Distinct hosts that may use it.
    pub uses: u32,
    /// What it holds: `lan`, `public`, `relay`.
    pub kinds: Vec<&'static str>,
}

/// A token as the mesh knows it.
#[derive(Clone, Debug)]
pub struct TokenView {
    /// Its name.
    pub id: String,
    /// When it was made.
    pub made: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Distinct hosts that may use it.
    pub max_uses: u32,
    /// Distinct hosts that used it.
    pub uses: u32,
    /// Whether it makes issuers.
    pub admin: bool,
    /// What its hosts may do.
    pub may: May,
    /// Whether it lets anyone in.
    pub state: GrantState,
}

/// Why a token was not made or ended.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// This host may not.
    #[error("only an issuer may do this; issuers are {}", names(.0))]
    NotIssuer(Vec<Name>),
    /// Nobody could reach this host with it.
    #[error("this host has no address that others could reach")]
    NoAddress,
    /// There is no such token.
    #[error("no token {0}")]
    Unknown(String),
    /// The addresses do not fit.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The statement was not accepted, or could not be stored.
    #[error(transparent)]
    Said(#[from] SayError),
}

fn names(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// Gives the name of a token: the start of its public key.
pub(super) fn id(token: &PublicKey) -> String {
    HostId(*token).short()
}

/// Makes a token and tells the mesh its public half.
pub(crate) fn create(
    roster: &Roster,
    identity: &Identity,
    bootstrap: Vec<Bootstrap>,
    wanted: TokenWish,
) -> Result<Made, TokensError> {
    check_issuer(&roster.roll(), identity)?;
    if bootstrap.iter().all(|entry| entry.addresses.is_empty() && entry.relay.is_none()) {
        return Err(TokensError::NoAddress);
    }
    let kinds = kinds(&bootstrap);
    let seed = Seed(rand::random());
    let made = roster.now();
    let expires = made.plus_ms(wanted.expires_ms);
    let capabilities = if wanted.admin { Capabilities::ISSUE } else { Capabilities::NONE };
    let grant = Grant {
        token: seed.public(),
        made,
        expires,
        max_uses: wanted.uses,
        capabilities,
        tags: Default::default(),
        may: wanted.may,
    };
    let name = id(&grant.token);
    let token = Token::new(identity.mesh, seed, bootstrap)?;
    let signer = identity.root().filter(|_| wanted.admin).unwrap_or(&identity.seed);
    roster.say(&Statement::Grant(grant), signer)?;
    Ok(Made { id: name, text: token.to_string(), expires, uses: wanted.uses, kinds })
}

/// Lists the tokens, the newest first.
pub(crate) fn list(roster: &Roster) -> Vec<TokenView> {
    let (roll, now) = (roster.roll(), roster.now());
    let view = |grant: &Grant| TokenView {
        id: id(&grant.token),
        made: grant.made,
        expires: grant.expires,
        max_uses: grant.max_uses,
        uses: roll.set.uses(&grant.token),
        admin: grant.capabilities.may_issue(),
        may: grant.may,
        state: roll.set.grant_state(&grant.token, now),
    };
    roll.set.grants().into_iter().map(view).collect()
}

/// Ends a token.
pub(crate) fn revoke(roster: &Roster, identity: &Identity, name: &str) -> Result<(), TokensError> {
    let roll = roster.roll();
    check_issuer(&roll, identity)?;
    let grants = roll.set.grants();
    let grant = grants.iter().find(|grant| id(&grant.token) == name);
    let token = grant.ok_or_else(|| TokensError::Unknown(name.to_owned()))?.token;
    let statement = Statement::Revocation(Revocation { token, made: roster.now() });
    Ok(roster.say(&statement, &identity.seed)?)
}

fn check_issuer(roll: &Roll, identity: &Identity) -> Result<(), TokensError> {
    match roll.set.is_issuer(identity.host()) {
        true => Ok(()),
        false => Err(TokensError::NotIssuer(roll.issuers())),
    }
}

/// Chooses the ways in that a token names: this host, then members that others reach easily.
pub(crate) fn bootstrap(
    me: HostId,
    own: &Reach,
    (records, foreign): (&Records, &Foreign),
    roll: &Roll,
) -> Vec<Bootstrap> {
    let others = roll.members.values().filter(|member| member.host != me);
    let mut others: Vec<(HostId, Reach)> =
        others.filter_map(|member| Some((member.host, members::reach(records, member)?))).collect();
    others.sort_by_key(|(host, reach)| (reach.serves.is_none(), !roll.set.is_issuer(*host), *host));
    let relays: Vec<RelayOffer> = own
        .serves
        .iter()
        .chain(others.iter().filter_map(|(_, reach)| reach.serves.as_ref()))
        .chain(foreign.relays())
        .cloned()
        .collect();
    let all = std::iter::once((me, own.clone())).chain(others);
    let entries = all.map(|(host, reach)| entry(host, &reach, &relays));
    entries.filter(|entry| !entry.addresses.is_empty() || entry.relay.is_some()).take(MAX_BOOTSTRAP).collect()
}

fn entry(host: HostId, reach: &Reach, relays: &[RelayOffer]) -> Bootstrap {
    // Through its own relay, or through its home relay if a member of ours serves it.
    let home = |offer: &&RelayOffer| {
        reach.relays.iter().any(|url| url.trim_end_matches('/') == offer.url.trim_end_matches('/'))
    };
    let relay = relays.iter().find(home).or(reach.serves.as_ref()).cloned();
    let addresses = pick(&reach.addresses, MAX_ADDRESSES, SocketAddr::ip);
    Bootstrap { host, addresses, relay }
}

fn kinds(bootstrap: &[Bootstrap]) -> Vec<&'static str> {
    let mut addresses = bootstrap.iter().flat_map(|entry| &entry.addresses);
    let lan = addresses.clone().any(|address| !is_public(&address.ip()));
    let public = addresses.any(|address| is_public(&address.ip()));
    let relay = bootstrap.iter().any(|entry| entry.relay.is_some());
    [("lan", lan), ("public", public), ("relay", relay)]
        .into_iter()
        .filter_map(|(kind, has)| has.then_some(kind))
        .collect()
}
