//! Who observes whom, and who keeps a connection to whom: pure functions of the member list, so that both ends agree.
//! Members stand in a circle by a hash of their ids, which nobody chooses; each is observed by those that follow it.
//! A new member moves a few others only; the whole circle is mixed anew when the mesh has doubled or halved.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::HostId;

/// How many observers a host has: two of them can err together, and their probes cost a host 300 bytes a second.
const OBSERVERS: usize = 4;
/// Up to so many members everybody keeps a connection to everybody.
pub const FULL: usize = 16;
/// With fewer connections than this, whoever is known is good enough: neighbours become known by others.
const FEW: usize = 3;
/// Neighbours on each side in a second circle: ways across that the first one does not have.
const ACROSS: usize = 2;

/// The members in their circles.
#[derive(Clone, Debug, Default)]
pub struct Circle {
    first: Places,
    second: Places,
}

#[derive(Clone, Debug, Default)]
struct Places {
    order: Vec<HostId>,
    at: BTreeMap<HostId, usize>,
}

impl Places {
    fn of(members: &BTreeSet<HostId>, which: u8) -> Places {
        // The size that a mesh grows out of by doubling: within it the circle stays as it is.
        let size = members.len().checked_ilog2().unwrap_or(0);
        let place = |host: &HostId| {
            let mut hash = blake3::Hasher::new_derive_key("mesh liveness circle 1");
            hash.update(&[which]).update(&size.to_le_bytes()).update(&host.0);
            (*hash.finalize().as_bytes(), *host)
        };
        let mut placed: Vec<([u8; 32], HostId)> = members.iter().map(place).collect();
        placed.sort_unstable();
        let order: Vec<HostId> = placed.into_iter().map(|(_, host)| host).collect();
        let at = order.iter().enumerate().map(|(at, host)| (*host, at)).collect();
        Places { order, at }
    }

    /// Gives the hosts that stand at these distances behind one, without itself and each once.
    fn beside(&self, host: &HostId, distances: impl Iterator<Item = usize>) -> Vec<HostId> {
        let Some(at) = self.at.get(host) else { return Vec::new() };
        let mut found = Vec::new();
        for distance in distances {
            let other = self.order[(at + distance) % self.order.len()];
            if other != *host && !found.contains(&other) {
                found.push(other);
            }
        }
        found
    }

    fn after(&self, host: &HostId, count: usize) -> Vec<HostId> {
        self.beside(host, 1..=count)
    }

    fn before(&self, host: &HostId, count: usize) -> Vec<HostId> {
        let length = self.order.len();
        // Once around is far enough: a circle of few has no more than that.
        self.beside(host, (1..=count.min(length)).map(|distance| length - distance))
    }
}

impl Circle {
    /// Arranges the members.
    pub fn of(members: &BTreeSet<HostId>) -> Circle {
        Circle { first: Places::of(members, 1), second: Places::of(members, 2) }
    }

    /// Lists who observes a host.
    pub fn observers(&self, host: &HostId) -> Vec<HostId> {
        self.first.after(host, OBSERVERS)
    }

    /// Lists whom a host observes.
    pub fn observed(&self, by: &HostId) -> Vec<HostId> {
        self.first.before(by, OBSERVERS)
    }

    /// Lists the members with whom a host keeps a connection, whatever it has to say.
    pub fn neighbours(&self, host: &HostId) -> BTreeSet<HostId> {
        if self.first.order.len() <= FULL {
            return self.first.order.iter().copied().filter(|other| other != host).collect();
        }
        let Circle { first, second } = self;
        let near = [first.after(host, OBSERVERS), first.before(host, OBSERVERS)];
        let across = [second.after(host, ACROSS), second.before(host, ACROSS)];
        near.into_iter().chain(across).flatten().collect()
    }
}

/// Lists whom of those that it knows a way to a host connects with: its neighbours, and anybody while it has hardly
/// any connection.
pub fn sought(
    neighbours: &BTreeSet<HostId>,
    known: &BTreeSet<HostId>,
    connected: &BTreeSet<HostId>,
) -> BTreeSet<HostId> {
    match connected.len() < FEW {
        true => known.clone(),
        false => known.intersection(neighbours).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u16) -> BTreeSet<HostId> {
        (0..count).map(|number| HostId(*blake3::hash(&number.to_le_bytes()).as_bytes())).collect()
    }

    #[test]
    fn everybody_has_four_observers_and_observes_four_and_both_ends_agree() {
        for count in [6, 20, 100, 500] {
            let all = members(count);
            let circle = Circle::of(&all);
            for host in &all {
                let (observers, observed) = (circle.observers(host), circle.observed(host));
                assert_eq!((observers.len(), observed.len()), (OBSERVERS, OBSERVERS));
                assert!(!observers.contains(host) && !observed.contains(host));
                assert!(observers.iter().all(|other| circle.observed(other).contains(host)));
            }
        }
    }

    #[test]
    fn in_a_small_mesh_everybody_observes_everybody_once() {
        assert!(Circle::of(&members(1)).observers(members(1).first().unwrap()).is_empty());
        assert!(Circle::default().observers(&HostId([1; 32])).is_empty());
        for count in 2..=5 {
            let all = members(count);
            let circle = Circle::of(&all);
            for host in &all {
                let others: BTreeSet<HostId> = all.iter().copied().filter(|other| other != host).collect();
                assert_eq!(circle.observers(host).len(), others.len());
                assert_eq!(circle.observers(host).into_iter().collect::<BTreeSet<_>>(), others);
                assert_eq!(circle.observed(host).into_iter().collect::<BTreeSet<_>>(), others);
            }
        }
    }

    #[test]
    fn neighbours_are_mutual_few_and_hold_the_mesh_together() {
        for count in [1, 2, 16, 17, 100, 500] {
            let all = members(count);
            let circle = Circle::of(&all);
            let most = if usize::from(count) <= FULL { FULL - 1 } else { 2 * (OBSERVERS + ACROSS) };
            for host in &all {
                let neighbours = circle.neighbours(host);
                assert!(neighbours.len() <= most && !neighbours.contains(host));
                assert!(neighbours.iter().all(|other| circle.neighbours(other).contains(host)));
                let watched = circle.observers(host).into_iter().chain(circle.observed(host));
                assert!(watched.into_iter().all(|other| neighbours.contains(&other)));
            }
            // Far ends are a few steps away from each other.
            let first = *all.first().unwrap();
            let (mut reached, mut steps) = (BTreeSet::from([first]), 0);
            while reached.len() < all.len() {
                reached = reached.iter().flat_map(|host| circle.neighbours(host)).chain([first]).collect();
                steps += 1;
                assert!(steps <= 16);
            }
        }
    }

    #[test]
    fn a_host_with_hardly_a_connection_seeks_anybody_and_else_its_neighbours() {
        let known = members(20);
        let mut all = known.iter().copied();
        let connected: BTreeSet<HostId> = all.by_ref().take(FEW - 1).collect();
        let neighbours: BTreeSet<HostId> = all.take(4).chain([HostId([9; 32])]).collect();
        assert_eq!(sought(&neighbours, &known, &connected), known);
        let more = connected.iter().chain(&neighbours).copied().collect();
        assert_eq!(sought(&neighbours, &known, &more), known.intersection(&neighbours).copied().collect());
    }

    #[test]
    fn a_new_member_changes_a_few_neighbourhoods() {
        let (mut all, before) = (members(100), Circle::of(&members(100)));
        all.insert(HostId([9; 32]));
        let after = Circle::of(&all);
        let changed = all.iter().filter(|host| before.observers(host) != after.observers(host));
        assert!(changed.count() <= 1 + OBSERVERS);
    }
}
