//! Whose word on a session a host believes: shares, heads and Raft messages of others count for
//! nothing, because they would let any member take over a host's machines.
//! The chain starts with the hosts that the session's birth names, a statement that only the host
//! which started it can sign; whoever is believed names further voters in its head.
//! A voter that was replaced goes on being believed: it is still a member, and evicting is another rule.

use std::collections::BTreeSet;

use crate::id::HostId;

/// Follows the chain from the hosts that are believed already. `names` gives the voters that a host's
/// own head names, if it has published one.
pub fn voices<'a>(
    believed: impl IntoIterator<Item = HostId>,
    names: impl Fn(HostId) -> Option<&'a [HostId]>,
) -> BTreeSet<HostId> {
    let mut open: Vec<HostId> = believed.into_iter().collect();
    let mut voices = BTreeSet::new();
    while let Some(host) = open.pop() {
        if voices.insert(host) {
            open.extend(names(host).into_iter().flatten());
        }
    }
    voices
}

/// For a host that can ask none of those it believes: whom more than half of the members that know of
/// the session believe. One member alone convinces nobody, unless all that are believed are out of the mesh (`alone`):
/// of two hosts that are left, the one that knows is the only one who can tell the other.
pub fn majority(answers: &[BTreeSet<HostId>], alone: bool) -> BTreeSet<HostId> {
    let knowing: Vec<_> = answers.iter().filter(|answer| !answer.is_empty()).collect();
    let named: BTreeSet<HostId> = knowing.iter().flat_map(|answer| answer.iter().copied()).collect();
    let believed = |host: &HostId| {
        let count = knowing.iter().filter(|answer| answer.contains(host)).count();
        (count > 1 || alone) && count > knowing.len() / 2
    };
    named.into_iter().filter(believed).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(believed: &[u8], heads: &[(u8, &[u8])], expected: &[u8]) {
        let host = |n: &u8| HostId([*n; 32]);
        let all = |list: &[u8]| list.iter().map(host).collect::<Vec<HostId>>();
        let heads: BTreeMap<HostId, Vec<HostId>> =
            heads.iter().map(|(owner, named)| (host(owner), all(named))).collect();
        let found = voices(all(believed), |host| heads.get(&host).map(Vec::as_slice));
        assert_eq!(found, all(expected).into_iter().collect());
    }

    #[test]
    fn those_whom_the_believed_name_are_believed() {
        check(&[1], &[], &[1]);
        check(&[1], &[(1, &[1, 2, 3])], &[1, 2, 3]);
        check(&[1], &[(1, &[2]), (2, &[3]), (3, &[1])], &[1, 2, 3]);
    }

    #[test]
    fn more_than_half_convince_a_host_that_can_ask_nobody_else() {
        let answer = |hosts: &[u8]| hosts.iter().map(|n| HostId([*n; 32])).collect::<BTreeSet<HostId>>();
        assert_eq!(majority(&[answer(&[9])], false), answer(&[]));
        assert_eq!(majority(&[answer(&[9])], true), answer(&[9]), "where nobody else is left");
        assert_eq!(majority(&[answer(&[2]), answer(&[2, 9]), answer(&[])], false), answer(&[2]));
        for alone in [false, true] {
            assert_eq!(majority(&[answer(&[2]), answer(&[2]), answer(&[9])], alone), answer(&[2]));
            assert_eq!(majority(&[answer(&[2]), answer(&[9])], alone), answer(&[]));
        }
    }

    #[test]
    fn nobody_names_himself() {
        check(&[1], &[(9, &[9, 1])], &[1]);
        check(&[], &[(9, &[9])], &[]);
    }
}
