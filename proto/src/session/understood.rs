//! Pure: what a topology becomes where not everybody who reads the session understands all of it. A voter that skips
//! what it does not know keeps another state than the others, and once it leads it tells hosts that state.

use std::borrow::Cow;

use crate::{
    level::{Feature, Level},
    topology::{self, Egress, Group, Intent, Protocol},
};

/// Names what needs the highest level of its readers.
pub fn feature(intent: &Intent) -> Option<Feature> {
    beyond(intent, Level::FIRST).into_iter().max_by_key(|feature| feature.since())
}

/// Lists what is not understood at this level.
pub fn beyond(intent: &Intent, level: Level) -> Vec<Feature> {
    let groups = &intent.topology.groups;
    let outside = groups.values().any(|group| group.egress != Egress::None).then_some(Feature::Egress);
    let lan = groups.values().any(|group| group.egress == Egress::Lan).then_some(Feature::Lan);
    let published = topology::published(groups).next().map(|_| Feature::Publish);
    let mut services = groups.values().flat_map(|group| group.services.values());
    let udp = services.any(|service| service.protocol == Protocol::Udp).then_some(Feature::Udp);
    let all = [outside, lan, published, udp].into_iter().flatten();
    all.filter(|feature| !level.allows(*feature)).collect()
}

/// Leaves out what is not understood at this level. What is left is safe: machines that reach less, and that less
/// reaches.
pub fn understood(intent: &Intent, level: Level) -> Cow<'_, Intent> {
    let beyond = beyond(intent, level);
    if beyond.is_empty() {
        return Cow::Borrowed(intent);
    }
    let mut less = intent.clone();
    for group in less.topology.groups.values_mut() {
        beyond.iter().for_each(|feature| without(group, *feature));
    }
    Cow::Owned(less)
}

fn without(group: &mut Group, feature: Feature) {
    match feature {
        Feature::Egress => group.egress = Egress::None,
        Feature::Lan if group.egress == Egress::Lan => group.egress = Egress::Internet,
        Feature::Publish => group.services.values_mut().for_each(|service| service.publish = None),
        Feature::Udp => group.services.retain(|_, service| service.protocol != Protocol::Udp),
        // Nothing of it is in a topology, or in this one.
        Feature::Lan
        | Feature::Raise
        | Feature::Limits
        | Feature::Probes
        | Feature::Evict
        | Feature::Mandates
        | Feature::Out
        | Feature::Possession
        | Feature::Summary => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{level::LEVEL, session::fixture};

    fn before(feature: Feature) -> Level {
        Level::from(u32::from(feature.since()) - 1)
    }

    #[test]
    fn below_its_level_a_topology_asks_for_nothing_that_readers_would_skip() {
        let wanted = fixture::intent("web 1 256 internet service=http:80 publish=nas\ndb 1 256");
        let none = understood(&wanted, before(Feature::Egress));
        assert_eq!(*none, fixture::intent("web 1 256 service=http:80\ndb 1 256"));
        let less = understood(&wanted, before(Feature::Publish));
        assert_eq!(*less, fixture::intent("web 1 256 internet service=http:80\ndb 1 256"));
        let features = [&wanted, &less, &none].map(feature);
        assert_eq!(features, [Some(Feature::Publish), Some(Feature::Egress), None]);
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
    fn below_its_level_a_service_of_datagrams_does_not_exist() {
        let wanted = fixture::intent("web 1 256 service=http:80 udp=dns:53");
        let less = understood(&wanted, before(Feature::Udp));
        assert_eq!(*less, fixture::intent("web 1 256 service=http:80"));
        assert_eq!([&wanted, &less].map(feature), [Some(Feature::Udp), None]);
    }

    #[test]
    fn what_everybody_understands_stays_as_it_is() {
        let wanted = fixture::intent("web 1 256");
        assert!(matches!(understood(&wanted, Level::FIRST), Cow::Borrowed(_)));
    }
}
