//! What nobody writes is not read.

use openraft::SnapshotMeta;

use super::*;

const NODE: u64 = 1;

fn members(voting: &[&[u64]], hosts: &[u64]) -> Members {
    let voting = voting.iter().map(|set| set.iter().copied().collect()).collect();
    Members { voting, hosts: hosts.iter().map(|node| (*node, HostId([1; 32]))).collect() }
}

fn at(index: u64) -> Place {
    Place { term: 1, node: NODE, index }
}

fn is_read<T: Written>(form: T::Form) -> bool {
    decode::<T>(&wire::encode(&form)).is_ok()
}

#[test]
fn a_list_of_members_in_which_nobody_or_somebody_unknown_votes_is_not_read() {
    let cases = [
        (members(&[&[1]], &[1]), true),
        (members(&[&[1], &[1, 2]], &[1, 2, 3]), true),
        (members(&[], &[]), false),
        (members(&[&[]], &[1]), false),
        (members(&[&[1], &[]], &[1]), false),
        (members(&[&[1], &[1], &[1]], &[1]), false),
        (members(&[&[1, 2]], &[1]), false),
    ];
    for (members, sound) in cases {
        let said = format!("{:?} {:?}", members.voting, members.hosts.keys());
        assert_eq!(is_read::<Record>(Entry { place: at(1), what: What::Members(members) }), sound, "{said}");
    }
    let snapshot = |place, members| Snapshot {
        about: About { last: Some(at(3)), members: Named { place, members }, name: "x".into() },
        data: Vec::new(),
    };
    let read = is_read::<(SnapshotMeta<u64, Voter>, Vec<u8>)>;
    assert!(read(snapshot(None, members(&[], &[]))), "before the first list");
    assert!(!read(snapshot(Some(at(1)), members(&[], &[]))));
    assert!(!read(snapshot(None, members(&[&[]], &[]))));
}

#[test]
fn a_number_after_which_none_can_come_is_not_read_and_not_taken_for_none() {
    let end = || Some(at(u64::MAX));
    assert!(is_read::<LogId<u64>>(at(u64::MAX - 1)) && !is_read::<LogId<u64>>(at(u64::MAX)));
    let vote = VoteForm { term: 1, node: NODE, committed: true };
    assert!(is_read::<Vote<u64>>(vote) && !is_read::<Vote<u64>>(VoteForm { term: u64::MAX, ..vote }));
    let frame = |call| Frame { to: 1, from: 2, call };
    let calls = [
        Call::Ask { last: end() },
        Call::Vote { vote, last: end() },
        Call::Append { vote, before: end(), entries: Vec::new(), committed: None },
        Call::Append { vote, before: None, entries: Vec::new(), committed: end() },
    ];
    for call in calls {
        assert!(!is_read::<net::Frame>(frame(call)));
    }
    assert!(!is_read::<net::Response>(ResponseForm::AppendedTo(end())));
    assert!(!is_read::<net::Response>(ResponseForm::Vote { vote, granted: true, last: end() }));
}

#[test]
fn entries_that_do_not_follow_what_they_are_said_to_follow_are_not_read() {
    let vote = VoteForm { term: 1, node: NODE, committed: true };
    let sent = |before: Option<u64>, indices: &[u64]| {
        let entries = indices.iter().map(|index| Entry { place: at(*index), what: What::Blank }).collect();
        let call = Call::Append { vote, before: before.map(at), entries, committed: None };
        is_read::<net::Frame>(Frame { to: 1, from: 2, call })
    };
    assert!(sent(None, &[0, 1, 2]) && sent(Some(6), &[7, 8]) && sent(Some(6), &[]));
    assert!(!sent(None, &[1]) && !sent(Some(6), &[6]) && !sent(Some(6), &[7, 9]));
}
