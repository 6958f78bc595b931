//! What may be done about hosts that are members already: who goes, what they are called, who may admit others. Each
//! makes the statements that say so; nothing here sends.

use proto::{
    id::{HostId, Name},
    seal::{PublicKey, Seed},
    trust::{Certificate, Eviction, OutBecause, Rename, Revocation, Statement, mesh_id},
};

use crate::{
    identity::{Identity, IdentityError},
    members::{
        roster::{Roll, Roster, SayError},
        tokens,
    },
};

/// What putting a host out did beside that.
#[derive(Clone, Debug, Default)]
pub struct Dead {
    /// The tokens that ended with it.
    pub tokens: Vec<String>,
}

/// Why nothing was done about a host.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// It is no member.
    #[error("no member has this key")]
    NoMember,
    /// This host may not.
    #[error("only an issuer may do this; issuers are {}", listed(.0))]
    NotIssuer(Vec<Name>),
    /// The root key is not here.
    #[error("only the root key may do this, and it is not on this host{}", likely(.0))]
    NoRoot(Vec<Name>),
    /// A host does not put itself out.
    #[error("a host does not put itself out; it leaves")]
    Itself,
    /// Another host is called so.
    #[error("another host is called {0}")]
    Taken(Name),
    /// It is so already.
    #[error("{0}")]
    Already(&'static str),
    /// The root key is another mesh's.
    #[error("the recovery phrase is of another mesh")]
    OtherMesh,
    /// The root key cannot be stored.
    #[error(transparent)]
    Kept(#[from] IdentityError),
    /// The statement was not accepted, or could not be stored.
    #[error(transparent)]
    Said(#[from] SayError),
}

fn listed(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

fn likely(names: &[Name]) -> String {
    if names.is_empty() { String::new() } else { format!("; most likely on {}", listed(names)) }
}

/// Lists the hosts that most likely hold the root key: the issuers that joined by no token made the mesh, or were
/// made of its recovery phrase.
pub(crate) fn root_holders(roll: &Roll) -> Vec<Name> {
    let holders = roll.members.values().filter(|member| member.is_issuer() && member.grant.is_none());
    holders.map(|member| member.name.clone()).collect()
}

/// Lists the tokens that die with a host that is cut off.
pub(crate) fn tokens_of(roster: &Roster, host: HostId) -> Vec<String> {
    roster.roll().set.tokens_of(host, roster.now()).iter().map(tokens::id).collect()
}

/// Puts a host out of the mesh for good.
pub(crate) fn put_out(
    roster: &Roster,
    identity: &Identity,
    host: HostId,
    reason: OutBecause,
) -> Result<Dead, RightsError> {
    let roll = roster.roll();
    if host == identity.host() {
        return Err(RightsError::Itself);
    }
    let member = roll.members.get(&host).ok_or(RightsError::NoMember)?;
    let signer = match identity.root() {
        Some(root) => root,
        None if member.is_issuer() => return Err(RightsError::NoRoot(root_holders(&roll))),
        None => issuer(&roll, identity)?,
    };
    let (own, made) = (&identity.seed, roster.now());
    let mut said: Vec<(Statement, &Seed)> = Vec::new();
    let mut dead: Vec<PublicKey> = Vec::new();
    if reason == OutBecause::Evicted {
        dead = roll.set.tokens_of(host, made);
        // Hosts of an older version know no eviction, but the ends of tokens.
        said.extend(
            dead.iter().map(|token| (Statement::Revocation(Revocation { token: *token, made }), own)),
        );
        if member.is_issuer() {
            said.extend(roll.set.taken_over(host, made).into_iter().map(|again| (again, own)));
        }
    }
    said.push((Statement::Eviction(Eviction { host, made, reason }), signer));
    roster.say_all(&said)?;
    Ok(Dead { tokens: dead.iter().map(tokens::id).collect() })
}

/// Says that this host leaves.
pub(crate) fn leave(roster: &Roster, identity: &Identity) -> Result<(), RightsError> {
    let (host, made) = (identity.host(), roster.now());
    let left = Statement::Eviction(Eviction { host, made, reason: OutBecause::Left });
    Ok(roster.say_all(&[(left, &identity.seed)])?)
}

/// Gives a host another label.
pub(crate) fn rename(
    roster: &Roster,
    identity: &Identity,
    host: HostId,
    name: Name,
) -> Result<(), RightsError> {
    let roll = roster.roll();
    let member = roll.members.get(&host).ok_or(RightsError::NoMember)?;
    if member.name == name {
        return Err(RightsError::Already("it is called so already"));
    }
    if roll.members.values().any(|member| member.name == name) {
        return Err(RightsError::Taken(name));
    }
    let own = host == identity.host();
    let signer = if own { &identity.seed } else { issuer(&roll, identity)? };
    Ok(roster.say_all(&[(Statement::Rename(Rename { host, name, made: roster.now() }), signer)])?)
}

/// Makes a member an issuer, or an issuer a plain member again.
pub(crate) fn set_issuer(
    roster: &Roster,
    identity: &Identity,
    host: HostId,
    shall: bool,
) -> Result<(), RightsError> {
    let roll = roster.roll();
    let member = roll.members.get(&host).ok_or(RightsError::NoMember)?;
    let root = identity.root().ok_or_else(|| RightsError::NoRoot(root_holders(&roll)))?;
    if member.is_issuer() == shall {
        return Err(RightsError::Already(match shall {
            true => "it may admit others already",
            false => "it may not admit others already",
        }));
    }
    if host == identity.host() {
        return Err(RightsError::Already("the host that holds the root key stays an issuer"));
    }
    let now = roster.now();
    let change = |certificate: Option<Certificate>| {
        certificate.map(Statement::Certificate).ok_or(RightsError::NoMember)
    };
    if shall {
        return Ok(roster.say_all(&[(change(roll.set.promotion(host, now))?, root)])?);
    }
    let again = roll.set.taken_over(host, now).into_iter().map(|again| (again, &identity.seed));
    let mut said: Vec<(Statement, &Seed)> = again.collect();
    said.push((change(roll.set.demotion(host, now))?, root));
    Ok(roster.say_all(&said)?)
}

/// Takes the mesh's root key back, and makes this host an issuer that it was given to by nobody.
pub(crate) fn restore(roster: &Roster, identity: &Identity, root: &Seed) -> Result<(), RightsError> {
    let (set, host) = (&roster.roll().set, identity.host());
    if mesh_id(&root.public()) != identity.mesh {
        return Err(RightsError::OtherMesh);
    }
    if identity.holds_root() && set.member(host).is_some_and(|own| own.is_issuer() && own.grant.is_none()) {
        return Err(RightsError::Already("it holds the root key already"));
    }
    let certificate = set.promotion(host, roster.now()).ok_or(RightsError::NoMember)?;
    identity.keep_root(root)?;
    let certificate = Certificate { grant: None, ..certificate };
    Ok(roster.say_all(&[(Statement::Certificate(certificate), root)])?)
}

fn issuer<'a>(roll: &Roll, identity: &'a Identity) -> Result<&'a Seed, RightsError> {
    match roll.set.is_issuer(identity.host()) {
        true => Ok(&identity.seed),
        false => Err(RightsError::NotIssuer(roll.issuers())),
    }
}
