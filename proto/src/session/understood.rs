//! Pure: what a topology becomes where not everybody who reads the session understands all of it. A voter that skips
//! what it does not know keeps another state than the others, and once it leads it tells hosts that state.

use std::borrow::Cow;

use crate::{
    level::{Feature, Level},
    topology::{Egress, Intent},
};

/// Names what needs the highest level of its readers.
pub fn feature(intent: &Intent) -> Option<Feature> {
    let groups = intent.topology.groups.values();
    groups.filter_map(|group| of(group.egress)).max_by_key(|feature| feature.since())
}

/// Leaves out what is not understood at this level. What is left is safe: machines that reach less.
pub fn understood(intent: &Intent, level: Level) -> Cow<'_, Intent> {
    match feature(intent) {
        Some(feature) if !level.allows(feature) => {
            let mut less = intent.clone();
            for group in less.topology.groups.values_mut() {
                group.egress = at_most(group.egress, level);
            }
            Cow::Owned(less)
        }
        _ => Cow::Borrowed(intent),
    }
}

/// Names what readers of a machine's way out have to understand.
fn of(egress: Egress) -> Option<Feature> {
    match egress {
        Egress::None => None,
        Egress::Internet => Some(Feature::Egress),
        Egress::Lan => Some(Feature::Lan),
    }
}

fn at_most(egress: Egress, level: Level) -> Egress {
    let less =
        [egress, Egress::Internet].into_iter().find(|way| of(*way).is_none_or(|way| level.allows(way)));
    less.unwrap_or(Egress::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{level::LEVEL, session::fixture};

    #[test]
    fn below_its_level_a_topology_asks_for_nothing_that_readers_would_skip() {
        let wanted = fixture::intent("web 1 256 internet\ndb 1 256");
        let before = Level::from(u32::from(Feature::Egress.since()) - 1);
        let less = understood(&wanted, before);
        assert_eq!(*less, fixture::intent("web 1 256\ndb 1 256"));
        assert_eq!((feature(&wanted), feature(&less)), (Some(Feature::Egress), None));
        assert_eq!(*understood(&wanted, LEVEL), wanted);
    }

    #[test]
    fn where_owners_are_not_asked_machines_reach_the_internet_at_most() {
        let wanted = fixture::intent("web 1 256 lan\ndb 1 256\nout 1 256 internet");
        let less = understood(&wanted, Feature::Egress.since());
        assert_eq!(*less, fixture::intent("web 1 256 internet\ndb 1 256\nout 1 256 internet"));
        assert_eq!((feature(&wanted), feature(&less)), (Some(Feature::Lan), Some(Feature::Egress)));
        assert_eq!(*understood(&wanted, Level::FIRST), fixture::intent("web 1 256\ndb 1 256\nout 1 256"));
        assert_eq!(*understood(&wanted, Feature::Lan.since()), wanted);
    }

    #[test]
    fn what_everybody_understands_stays_as_it_is() {
        let wanted = fixture::intent("web 1 256");
        assert!(matches!(understood(&wanted, Level::FIRST), Cow::Borrowed(_)));
    }
}
