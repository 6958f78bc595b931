//! The bytes of files that shares name, between hosts and on this one's disk: carries out what
//! `proto::run::knowledge` says of them and answers what others ask. Decides nothing.

use std::{io, sync::Arc, time::Duration};

use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    reasons::Because,
    run::knowledge::{Source, piece, source},
    session::{MachineReport, Phase, Share},
    topology::Content,
    wire::rpc::{Answer, Refusal, Request},
};

use super::{ground::Ground, store::Store, table::Table};

/// One piece crosses a slow uplink in two seconds.
const PIECE: Duration = Duration::from_secs(8);

/// Gives a member a piece of bytes, if it may have them and they are here.
pub async fn answer(
    (ground, table, store): (&Ground, &Table, &Store),
    session: SessionId,
    asker: (HostId, bool),
    (content, offset): (Content, u64),
) -> Result<Vec<u8>, Refusal> {
    match find(ground, table, (session, &content), asker)? {
        Source::Log(bytes) => Ok(piece(&bytes, offset).to_vec()),
        Source::Disk => {
            let store = store.clone();
            let read = tokio::task::spawn_blocking(move || store.content(session, &content)).await;
            let bytes = read.map_err(io::Error::other).and_then(|read| read);
            Ok(piece(&bytes.map_err(|_| Refusal::NoContent)?, offset).to_vec())
        }
    }
}

fn find(
    ground: &Ground,
    table: &Table,
    (session, content): (SessionId, &Content),
    asker: (HostId, bool),
) -> Result<Source, Refusal> {
    let state = table.log(session).and_then(|group| group.state().borrow().clone());
    source(state.as_deref(), ground.share(session).as_deref(), asker, content)
}

/// Brings bytes from a host, which may be this one's own log.
pub async fn fetch(
    ground: &Ground,
    table: &Table,
    (session, content): (SessionId, Content),
    from: HostId,
) -> Result<Arc<[u8]>, String> {
    if from != ground.me() {
        let name = ground.picture().members.get(&from).map_or_else(|| from.short(), |m| m.name.to_string());
        let pieces = pieces(ground, session, from, content).await;
        return pieces.map(Arc::from).map_err(|because| format!("{name}: {because}"));
    }
    match find(ground, table, (session, &content), (from, true)) {
        Ok(Source::Log(bytes)) => Ok(bytes),
        _ => Err("its own log does not have it yet".into()),
    }
}

async fn pieces(
    ground: &Ground,
    session: SessionId,
    from: HostId,
    content: Content,
) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        let request = Request::Content { session, content, offset: bytes.len() as u64 };
        match ground.mesh.call(from, request, PIECE).await {
            Ok(Answer::Content(piece)) if piece.is_empty() && content.size > 0 => {
                return Err("it ends too early".into());
            }
            Ok(Answer::Content(piece)) => bytes.extend(piece),
            Ok(Answer::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => return Err("that host answers something else".into()),
            Err(error) => return Err(error.to_string()),
        }
        if bytes.len() as u64 >= content.size {
            break;
        }
    }
    if Content::of(&bytes) == content { Ok(bytes) } else { Err("it is not what was asked for".into()) }
}

/// Tells people that a share waits for bytes that nobody gives.
pub async fn lacks(ground: Ground, share: Arc<Share>, because: String) {
    let (session, why) = (share.session, Because::ContentLacks { seen: because });
    let because = why.to_string();
    tracing::warn!(session = %share.name, because, "a share waits");
    let fact = Fact::ContentLacks { session: share.name.clone(), because };
    ground.tell(fact);
    // Where a share is shown, the host's own machine speaks.
    if ground.share(session).is_none() {
        let report = |spec: &proto::session::MachineSpec| {
            MachineReport::new(spec.machine.clone(), spec.epoch, (Phase::Fetching, Some(why.clone())))
        };
        ground.report(session, 0, share.machines.iter().map(report).collect()).await;
    }
}
