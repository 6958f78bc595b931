//! How a member enters a machine of this host: it is told the machine's public keys, and this host signs for it what the
//! machine's ssh server asks. Whether it may is judged before (`Request::needs`); who got a signature is told.

use std::{io, sync::Arc};

use proto::{
    facts::Fact,
    id::{HostId, MachineName, SessionId},
    seal::Sig,
    session::Share,
    wire::rpc::{LoginKeys, Refusal},
};

use super::{ground::Ground, store::Store};
use crate::machine::keys::{self, Keys};

/// An ssh server asks less than a tenth of this.
const MAX_QUESTION: usize = 4096;

/// Gives the keys of a machine of this host; `None` = it is entered by its session's.
pub async fn keys(
    all: (&Ground, &Store),
    session: SessionId,
    machine: &MachineName,
) -> Result<Option<LoginKeys>, Refusal> {
    let (_, keys) = find(all, session, machine).await?;
    Ok(keys.map(|keys| keys.public()))
}

/// Signs what the ssh server of a machine of this host asks.
pub async fn login(
    all: (&Ground, &Store),
    from: HostId,
    (session, machine): (SessionId, &MachineName),
    question: &[u8],
) -> Result<Sig, Refusal> {
    let (share, keys) = find(all, session, machine).await?;
    let asked = |keys: Keys| keys.sign(question);
    let signature = keys.filter(|_| question.len() <= MAX_QUESTION).and_then(asked);
    let refusal = || Refusal::Failed("this is not what the machine's ssh server asks".into());
    let signature = signature.ok_or_else(refusal)?;
    let (by, session) = (all.0.picture().name(from), share.name.to_string());
    all.0.tell(Fact::MachineEntered { session, machine: machine.clone(), by });
    Ok(signature)
}

async fn find(
    (ground, store): (&Ground, &Store),
    session: SessionId,
    machine: &MachineName,
) -> Result<(Arc<Share>, Option<Keys>), Refusal> {
    let share = ground.share(session).ok_or(Refusal::UnknownSession)?;
    if !share.machines.iter().any(|spec| spec.machine == *machine) {
        return Err(Refusal::Failed(format!("{machine} is not on this host")));
    }
    let dir = store.machine(session, machine);
    let looked = tokio::task::spawn_blocking(move || (keys::of(&dir), keys::is_made(&dir))).await;
    let (read, made) = looked.unwrap_or_else(|error| (Err(io::Error::other(error)), false));
    let keys =
        read.map_err(|error| Refusal::Failed(format!("the machine's keys cannot be read: {error}")))?;
    match keys.is_none() && share.mandate.is_some() && !made {
        true => Err(Refusal::Failed(format!("the disk of {machine} is not made yet"))),
        false => Ok((share, keys)),
    }
}
