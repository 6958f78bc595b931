//! When a session's level is raised: as soon as everybody who stores the session or is brought a share of it
//! understands more. Never beside a change of voters: a host that comes in while the entry is on its way would be
//! sent what it may not understand.

use crate::level::{self, Feature, Level};

/// Says to what a session of this level is raised, if it is: what all of these understand.
pub(super) fn due(from: Level, readers: impl Iterator<Item = Level>) -> Option<Level> {
    let to = level::lowest(readers);
    // The entry itself has a level: it is emitted where everybody understands it, as any other thing.
    (to > from && to.allows(Feature::Raise)).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: u32, readers: &[u32], to: Option<u32>) {
        let readers = readers.iter().map(|level| Level::from(*level));
        assert_eq!(due(from.into(), readers), to.map(Level::from));
    }

    #[test]
    fn a_session_is_raised_to_what_everybody_understands_and_never_lowered() {
        check(1, &[2, 2, 3], Some(2));
        check(1, &[2, 1, 2], None);
        check(2, &[2, 2], None);
        check(3, &[2, 2], None);
        check(2, &[7, 5], Some(5));
        check(1, &[], None);
    }
}
