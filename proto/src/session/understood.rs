//! Pure: what a topology becomes where not everybody who reads the session understands all of it. A voter that skips
//! what it does not know keeps another state than the others, and once it leads it tells hosts that state.

use std::borrow::Cow;

use crate::{
    level::{Feature, Level},
    topology::{Egress, Intent},
};

/// Names what readers of the first level stumble over.
pub fn feature(intent: &Intent) -> Option<Feature> {
    let mut groups = intent.topology.groups.values();
    groups.any(|group| group.egress != Egress::None).then_some(Feature::Egress)
}

/// Leaves out what is not understood at this level. What is left is safe: machines that reach nothing outside.
pub fn understood(intent: &Intent, level: Level) -> Cow<'_, Intent> {
    match feature(intent) {
        Some(feature) if !level.allows(feature) => {
            let mut less = intent.clone();
            less.topology.groups.values_mut().for_each(|group| group.egress = Egress::None);
            Cow::Owned(less)
        }
        _ => Cow::Borrowed(intent),
    }
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
    fn what_everybody_understands_stays_as_it_is() {
        let wanted = fixture::intent("web 1 256");
        assert!(matches!(understood(&wanted, Level::FIRST), Cow::Borrowed(_)));
    }
}
