//! How many hosts store a session's hard state and vote, and which. An even number is never asked
//! for: it tolerates no more deaths than the odd one below it, and freezes sooner.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::HostId, limits::VOTER_SILENT_MS};

/// A member as a possible voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether gossip sees it.
    pub up: bool,
    /// Whether it has no battery, has been up for a day, or its owner says so.
    pub steady: bool,
    /// Milliseconds since it was last seen; 0 while up.
    pub silent_ms: u64,
    /// Whether it understands the session's level: one that does not cannot read the log.
    pub understands: bool,
    /// Whether its certificate lets it vote: nobody hears one that may not.
    pub may: bool,
}

/// Chooses the voters that a session should have. `me` is the coordinator, who asks and so stays.
/// Current voters are kept: each change costs a copy of the log and is a moment of weakness.
/// A voter is replaced once it was silent for long, and only if someone can take its place; the
/// dead alone never shrink the set, because each removal lowers what the living may lose. One that does not
/// understand the session, or may not vote, is as good as dead.
pub fn choose(
    candidates: &BTreeMap<HostId, Candidate>,
    current: &BTreeSet<HostId>,
    me: HostId,
) -> BTreeSet<HostId> {
    let fit = |id: &HostId| candidates.get(id).is_some_and(|c| c.up && c.steady && c.understands && c.may);
    let is_fresh = |c: &Candidate| c.understands && c.may && (c.up || c.silent_ms < VOTER_SILENT_MS);
    let fresh = |id: &HostId| candidates.get(id).is_some_and(is_fresh);
    let present: BTreeSet<HostId> =
        current.iter().copied().filter(|id| *id == me || candidates.contains_key(id)).collect();
    let wanted = size(candidates.keys().filter(|id| fit(id)).count()).max(odd(present.len()));
    // Myself, the living voters, new ones, and silent voters only while nobody replaces them.
    let living = current.iter().filter(|id| fresh(id));
    let new = candidates.keys().filter(|id| fit(id) && !current.contains(id));
    let silent = current.iter().filter(|id| candidates.contains_key(id) && !fresh(id));
    let mut chosen = Vec::new();
    for id in std::iter::once(&me).chain(living).chain(new).chain(silent) {
        if !chosen.contains(id) {
            chosen.push(*id);
        }
    }
    chosen.truncate(odd(chosen.len().min(wanted)));
    chosen.into_iter().collect()
}

/// Tells whether so many of the voters are out of the mesh for good that the others are no quorum any more, and never
/// will be. Who does not know the voters (they are none then) judges by those whose word counts in the session, among
/// whom they are: one that stays may know better.
pub fn lost(voters: &BTreeSet<HostId>, voices: &BTreeSet<HostId>, out: &BTreeSet<HostId>) -> bool {
    match voters.len() {
        0 => !voices.is_empty() && voices.is_subset(out),
        all => voters.difference(out).count() * 2 <= all,
    }
}

/// Gives the number of voters for so many members that are up and steady.
fn size(steady: usize) -> usize {
    match steady {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}

fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1).max(1) } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates by letter: `U` up and steady, `u` up with a battery, `o` up with an agent that is too old, `x` up
    /// and not allowed to vote, `d`
    /// down for a minute, `D` down for an hour, `-` no member. The host's number is its place from 0.
    fn check(members: &str, current: &[u8], chosen: &[u8]) {
        let host = |n: u8| HostId([n; 32]);
        let well = Candidate { up: true, steady: true, silent_ms: 0, understands: true, may: true };
        let candidate = |c| match c {
            'U' => Some(well),
            'u' => Some(Candidate { steady: false, ..well }),
            'o' => Some(Candidate { understands: false, ..well }),
            'x' => Some(Candidate { may: false, ..well }),
            'd' => Some(Candidate { up: false, silent_ms: 60_000, ..well }),
            'D' => Some(Candidate { up: false, silent_ms: 3_600_000, ..well }),
            _ => None,
        };
        let candidates =
            (0..).zip(members.chars()).filter_map(|(n, c)| Some((host(n), candidate(c)?))).collect();
        let current = current.iter().map(|n| host(*n)).collect();
        let expected: BTreeSet<HostId> = chosen.iter().map(|n| host(*n)).collect();
        assert_eq!(super::choose(&candidates, &current, host(0)), expected, "{members}");
    }

    #[test]
    fn one_voter_up_to_two_members_three_up_to_six_then_five() {
        check("U", &[0], &[0]);
        check("UU", &[0], &[0]);
        check("UUU", &[0], &[0, 1, 2]);
        check("UUUUUU", &[0], &[0, 1, 2]);
        check("UUUUUUU", &[0], &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_quorum_is_lost_once_half_of_it_is_out_for_good() {
        let hosts = |numbers: &[u8]| numbers.iter().map(|n| HostId([*n; 32])).collect::<BTreeSet<HostId>>();
        let check = |voters: &[u8], voices: &[u8], out: &[u8], expected: bool| {
            assert_eq!(
                lost(&hosts(voters), &hosts(voices), &hosts(out)),
                expected,
                "{voters:?} without {out:?}"
            );
        };
        check(&[1, 2, 3], &[1, 2, 3], &[1], false);
        check(&[1, 2, 3], &[1, 2, 3], &[1, 3], true);
        check(&[1, 2], &[1, 2, 3], &[2], true);
        check(&[1], &[1], &[1], true);
        check(&[1], &[1, 2], &[2], false);
        check(&[], &[1, 2], &[1, 2, 3], true);
        check(&[], &[1, 2], &[1], false);
        check(&[], &[], &[1], false);
    }

    #[test]
    fn laptops_on_battery_do_not_count() {
        check("UuU", &[0], &[0]);
        check("UuUU", &[0], &[0, 2, 3]);
    }

    #[test]
    fn who_does_not_understand_the_session_does_not_vote() {
        check("UUo", &[0], &[0]);
        check("UoUU", &[0], &[0, 2, 3]);
        check("UoUU", &[0, 1, 2], &[0, 2, 3]);
        check("UoU", &[0, 1, 2], &[0, 1, 2]);
    }

    #[test]
    fn who_may_not_vote_is_no_voter_and_is_replaced() {
        check("UxUx", &[0], &[0]);
        check("UxUU", &[0], &[0, 2, 3]);
        check("UxUU", &[0, 1, 2], &[0, 2, 3]);
    }

    #[test]
    fn voters_are_kept_while_they_live() {
        check("UUUUU", &[0, 3, 4], &[0, 3, 4]);
        check("UuUUu", &[0, 1, 4], &[0, 1, 4]);
    }

    #[test]
    fn a_silent_voter_is_replaced_after_ten_minutes() {
        check("UdUU", &[0, 1, 2], &[0, 1, 2]);
        check("UDUU", &[0, 1, 2], &[0, 2, 3]);
    }

    #[test]
    fn the_dead_alone_do_not_shrink_the_set() {
        check("UDU", &[0, 1, 2], &[0, 1, 2]);
        check("UDD", &[0, 1, 2], &[0, 1, 2]);
    }

    #[test]
    fn leaving_the_mesh_shrinks_it_to_an_odd_number() {
        check("U-U", &[0, 1, 2], &[0]);
        check("UUUU-", &[0, 1, 4], &[0, 1, 2]);
    }
}
