//! How the mesh's root key comes back by its recovery phrase: on a host that is a member, which becomes an issuer; or on
//! another computer, which any member takes in at sight of the key (`proto::trust::join::restore`). Who meets nobody is
//! the mesh's only host, until it is told of another.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    id::{HostId, Name},
    seal::Seed,
    trust::{Bootstrap, Certificate, JoinRefusal, Statement, Token, TokenError, mesh_id},
};

use super::stranger::{Caller, JoinError, LetIn, Told};
use crate::{
    clock::Clock,
    identity::{self, Founding, Identity, IdentityError, phrase},
    members::{
        rights::{self, RightsError},
        roster::Roster,
    },
    reach::{interfaces::interfaces, lan},
    transport::endpoint::Ports,
};

pub use crate::identity::phrase::PhraseError;

/// Agents answer within a tenth of a second; networks that wake up take longer.
const SURVEY: Duration = Duration::from_secs(3);

/// What is to be restored. Not `Debug`: the phrase is a secret.
pub struct Restoring {
    /// The data directory that gets the root key.
    pub data: PathBuf,
    /// The recovery phrase.
    pub phrase: String,
    /// What a host is called that is no member yet, and its mesh if nobody is met who knows.
    pub founding: Founding,
    /// What a host wants to be called that is a member already and meets the others; `None` = as it is.
    pub renamed: Option<Name>,
    /// The text of a token of the mesh, a live one or not: where members are.
    pub via: Option<String>,
    /// Where to bind.
    pub ports: Ports,
}

/// A host that holds the root key.
pub struct Restored {
    /// Who it is.
    pub identity: Identity,
    /// Its label.
    pub name: Name,
    /// Its mesh's label.
    pub mesh_name: Name,
    /// How many other members it knows of.
    pub others: usize,
}

/// Why the root key did not come back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The phrase has a mistake.
    #[error(transparent)]
    Phrase(#[from] PhraseError),
    /// The token is none, or of another mesh.
    #[error(transparent)]
    Via(#[from] TokenError),
    /// The token is of another mesh.
    #[error("the token is of another mesh than the recovery phrase")]
    ViaOther,
    /// The directory's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The member may not have it.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The members that were asked do not take this host in.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Brings the root key back, without an agent.
pub async fn restore(restoring: Restoring) -> Result<Restored, RestoreError> {
    let root = phrase::root(&restoring.phrase)?;
    let mesh = mesh_id(&root.public());
    let via: Option<Token> = restoring.via.as_deref().map(str::parse).transpose()?;
    if via.as_ref().is_some_and(|via| via.mesh != mesh) {
        return Err(RestoreError::ViaOther);
    }
    if identity::exists(&restoring.data) {
        return of_member(&restoring, &root, via).await;
    }
    let seed = identity::host_seed(&restoring.data)?;
    let Founding { name, tags, .. } = restoring.founding.clone();
    let now = Clock.timestamp();
    let certificate = identity::first_certificate(HostId(seed.public()), name.clone(), tags, now);
    let certificate = Statement::Certificate(certificate).seal(mesh, &root);
    let token = Token { mesh, seed: root.clone(), bootstrap: bootstrap(via).await };
    let caller = Caller { token, seed, name, certificate: Some(certificate), ports: restoring.ports };
    match met(&caller, restoring.via.is_some()).await? {
        Some(let_in) => {
            // The key first: no directory is a member by it that does not hold it.
            identity::write_root(&restoring.data, &root)?;
            caller.store(&restoring.data, Vec::new(), let_in)?;
        }
        None => {
            identity::prepare_again(root, &restoring.data, restoring.founding, now)?.commit()?;
        }
    }
    described(&restoring.data)
}

/// Brings it back to a member, and lets one that knows nobody meet the others.
async fn of_member(restoring: &Restoring, root: &Seed, via: Option<Token>) -> Result<Restored, RestoreError> {
    let identity = identity::load(&restoring.data)?;
    let roster = Roster::load(&identity)?;
    let kept = rights::restore(&roster, &identity, root);
    let me = identity.host();
    let is_alone = roster.roll().members.keys().all(|host| *host == me);
    let had_it = match kept {
        Err(RightsError::Already(_)) if is_alone || via.is_some() => true,
        kept => kept.map(|()| false)?,
    };
    if is_alone || via.is_some() {
        let set = &roster.roll().set;
        let own = set.certificate(me).cloned().ok_or(RightsError::NoMember)?;
        let label = restoring.renamed.clone().or_else(|| set.label(me)).unwrap_or_else(|| own.name.clone());
        let own = Certificate { serial: own.serial.saturating_add(1), name: label, ..own };
        let caller = Caller {
            token: Token { mesh: identity.mesh, seed: root.clone(), bootstrap: bootstrap(via).await },
            seed: identity.seed.clone(),
            name: own.name.clone(),
            certificate: Some(Statement::Certificate(own).seal(identity.mesh, root)),
            ports: restoring.ports,
        };
        match met(&caller, restoring.via.is_some()).await {
            Ok(Some(let_in)) => drop(caller.store(&restoring.data, set.all(), let_in)?),
            Ok(None) => {}
            // It holds the key since a moment ago, whoever is met.
            Err(error) if !had_it => tracing::warn!(%error, "nobody was met"),
            Err(error) => return Err(error.into()),
        }
    }
    described(&restoring.data)
}

/// Calls the members that are known of. Who named some wants to meet them; else nobody may be there.
async fn met(caller: &Caller, named: bool) -> Result<Option<LetIn>, JoinError> {
    match caller.call().await {
        Ok(Told::Admitted(let_in)) => Ok(Some(*let_in)),
        Ok(Told::Pending(_)) => Err(JoinRefusal::UnknownToken.into()),
        // Those on the LAN may be of other meshes.
        Err(JoinError::Unreachable(_) | JoinError::Refused(JoinRefusal::NotMember)) if !named => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists where members may be: those of the token, or whoever is on the LAN.
async fn bootstrap(via: Option<Token>) -> Vec<Bootstrap> {
    if let Some(token) = via {
        return token.bootstrap;
    }
    let found = lan::survey(&interfaces().await, SURVEY).await;
    let mut hosts: BTreeMap<HostId, Vec<SocketAddr>> = BTreeMap::new();
    found.into_iter().for_each(|(host, address)| hosts.entry(host).or_default().push(address));
    let entry = |(host, addresses)| Bootstrap { host, addresses, relay: None };
    hosts.into_iter().map(entry).collect()
}

fn described(data: &Path) -> Result<Restored, RestoreError> {
    let identity = identity::load(data)?;
    let roll = Roster::load(&identity)?.roll();
    let member = roll.members.get(&identity.host()).ok_or(RightsError::NoMember)?;
    Ok(Restored {
        name: member.name.clone(),
        mesh_name: roll.set.name().cloned().ok_or(RightsError::NoMember)?,
        others: roll.members.len() - 1,
        identity,
    })
}
