//! One comparison of statements with a member, from either side. Whom and when is `proto::membership::Spread`'s to
//! say, what lacks is `MemberSet`'s; here it travels.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    id::{Digest, HostId},
    limits::MAX_RPC_BYTES,
    trust::Short,
    wire::rpc::{Answer, Request},
};

use crate::{
    clock::Clock,
    members::roster::{self, Roster},
    transport::{
        protocols::RPC,
        rpc::{self, Exchange, RpcError},
        swarm::Streams,
    },
};

/// The longest that one question of a comparison may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Compares sets with a member, telling it `news`, and gives and takes what lacks.
pub(crate) async fn compare(
    streams: &Streams,
    roster: &Roster,
    with: HostId,
    news: &[Digest],
) -> Result<(), RpcError> {
    let set = roster.roll().set.clone();
    let news = roster::pack(&set.some(&news.iter().copied().collect()));
    let request = Request::Compare { summary: set.summary(), news, time: Clock.timestamp() };
    let Answer::Compared { have, time } = ask(streams, with, &request).await? else {
        return Err(RpcError::Malformed);
    };
    roster.hear_clock(with, time);
    let Some(have) = have else { return Ok(()) };
    let (given, wanted) = roster.roll().set.differences(&have.into_iter().collect());
    if given.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let request = Request::Statements { given: roster::pack(&given), wanted };
    match ask(streams, with, &request).await? {
        Answer::Statements(statements) => {
            roster.take(roster::unpack(&statements), Some(with));
            Ok(())
        }
        _ => Err(RpcError::Malformed),
    }
}

async fn ask(streams: &Streams, with: HostId, request: &Request) -> Result<Answer, RpcError> {
    let request = proto::wire::encode(request);
    let protocol = Exchange { protocol: RPC, limit: MAX_RPC_BYTES };
    let answer = rpc::ask(streams, &protocol, with, &request, WITHIN).await?;
    proto::wire::decode(&answer, MAX_RPC_BYTES).map_err(|_| RpcError::Malformed)
}

/// Answers a member that compares.
pub(crate) fn compared(roster: &Roster, from: HostId, summary: Digest, news: &[Vec<u8>]) -> Answer {
    roster.take(roster::unpack(news), Some(from));
    let set = &roster.roll().set;
    let have = (set.summary() != summary).then(|| set.names());
    Answer::Compared { have, time: Clock.timestamp() }
}

/// Takes what a member gives and answers with what it wants.
pub(crate) fn exchanged(roster: &Roster, from: HostId, given: &[Vec<u8>], wanted: Vec<Short>) -> Answer {
    let wanted: BTreeSet<Short> = wanted.into_iter().collect();
    let named = roster.roll().set.named(&wanted);
    roster.take(roster::unpack(given), Some(from));
    Answer::Statements(roster::pack(&named))
}
