//! One comparison of statements with a member, from either side. Whom and when is `proto::membership::Spread`'s to
//! say, what lacks is `MemberSet`'s; here it travels.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    id::{Digest, HostId},
    trust::{Sealed, Short},
    wire::rpc::{Answer, Request},
};

use crate::{
    clock::Clock,
    members::roster::{self, Roster},
    transport::{
        rpc::{self, RpcError},
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
    let Answer::Compared { have, time } = rpc::call(streams, with, &request, WITHIN).await? else {
        return Err(RpcError::Malformed);
    };
    roster.hear_clock(with, time);
    let Some(have) = have else { return Ok(()) };
    let mut trade = Trade::new(roster, &have.into_iter().collect());
    while let Some(request) = trade.next() {
        match rpc::call(streams, with, &request, WITHIN).await? {
            Answer::Statements(statements) => trade.take(roster, with, &statements),
            _ => return Err(RpcError::Malformed),
        }
    }
    Ok(())
}

/// What two sets lack of each other: as much at a time as a message holds.
struct Trade {
    given: Vec<Sealed>,
    wanted: Vec<Short>,
}

impl Trade {
    fn new(roster: &Roster, theirs: &BTreeSet<Short>) -> Trade {
        let (given, wanted) = roster.roll().set.differences(theirs);
        Trade { given, wanted }
    }

    /// Gives the next question, none when all is given and taken.
    fn next(&mut self) -> Option<Request> {
        if self.given.is_empty() && self.wanted.is_empty() {
            return None;
        }
        let given = roster::pack(&self.given);
        self.given.drain(..given.len());
        Some(Request::Statements { given, wanted: self.wanted.clone() })
    }

    /// Takes what came. Something wanted comes each time, or it is not there any more: so this has an end.
    fn take(&mut self, roster: &Roster, from: HostId, statements: &[Vec<u8>]) {
        roster.take(roster::unpack(statements), Some(from));
        let came: BTreeSet<Short> = statements.iter().map(|bytes| Short::of(&Digest::of(bytes))).collect();
        let before = self.wanted.len();
        self.wanted.retain(|name| !came.contains(name));
        if self.wanted.len() == before {
            self.wanted.clear();
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::{
        limits::MAX_RPC_BYTES,
        seal::Seed,
        trust::{Capabilities, Grant, May, Statement},
        wire,
    };

    use super::*;
    use crate::{
        Founding,
        identity::{self, Identity},
    };

    /// A statement nearly as large as allowed.
    fn large(identity: &Identity, number: u8) -> Sealed {
        let made = Clock.timestamp();
        let tags = BTreeMap::from([("note".to_owned(), "x".repeat(3_500))]);
        let grant = Grant {
            token: Seed([number; 32]).public(),
            made,
            expires: made.plus_ms(60_000),
            max_uses: 1,
            capabilities: Capabilities::NONE,
            tags,
            may: May::ALL,
        };
        Statement::Grant(grant).seal(identity.mesh, &identity.seed)
    }

    #[test]
    fn sets_that_differ_by_more_than_a_message_holds_are_equal_after_one_comparison() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = ("nas".parse().unwrap(), "home".parse().unwrap());
        let founding = Founding { name: names.0, mesh_name: names.1, tags: BTreeMap::new() };
        let (identity, _) = identity::create(dir.path(), founding, Clock.timestamp()).unwrap();
        let ours = Roster::load(&identity).unwrap();
        let mut copy = identity.clone();
        copy.data = other.path().to_owned();
        let theirs = Roster::load(&copy).unwrap();
        theirs.take(ours.roll().set.all(), None);
        let differing = |from: u8, to: u8| (from..to).map(|number| large(&identity, number)).collect();
        assert_eq!(ours.take(differing(0, 120), None), (120, 0));
        assert_eq!(theirs.take(differing(120, 240), None), (120, 0));

        let me = identity.host();
        let summary = ours.roll().set.summary();
        let Answer::Compared { have: Some(have), .. } = compared(&theirs, me, summary, &[]) else {
            panic!("the sets are equal")
        };
        let mut trade = Trade::new(&ours, &have.into_iter().collect());
        let is_small = |bytes: Vec<u8>| bytes.len() < MAX_RPC_BYTES / 16;
        let mut asked = 0;
        while let Some(request) = trade.next() {
            asked += 1;
            assert!(asked < 10 && is_small(wire::encode(&request)));
            let Request::Statements { given, wanted } = request else { panic!("{request:?}") };
            let answer = exchanged(&theirs, me, &given, wanted);
            assert!(is_small(wire::encode(&answer)));
            let Answer::Statements(statements) = answer else { panic!("{answer:?}") };
            trade.take(&ours, me, &statements);
        }
        assert!(asked > 1, "more than one message was needed");
        assert_eq!(ours.roll().set.summary(), theirs.roll().set.summary());
    }
}
