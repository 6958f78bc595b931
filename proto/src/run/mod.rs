//! The machines that run sessions: what a host and what a coordinator do next, and what an agent knows of
//! sessions. Each is `on(event, now: Moment) -> Vec<Effect>`: agents drive them with what happens, the world
//! of `netsim` with what may. Here stands only what they share: the rules that a world may break on purpose,
//! to see that its invariants notice. An agent's rules are always whole.

pub mod birth;
pub mod host;
pub mod knowledge;
pub mod lead;

/// A rule that a world breaks on purpose. It is broken where the rule stands, so that what is proved is that
/// code and not a copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The coordinator moves the machines of silent hosts, as if `hold` meant nothing.
    MovesHeldMachines,
    /// Hosts take an older share for a newer one.
    TakesOldShares,
    /// Hosts say that they removed a machine before they did.
    ReportsDropsEarly,
    /// Hosts start machines before what they need.
    IgnoresNeeds,
    /// Hosts start machines again before what they need.
    IgnoresNeedsLater,
    /// The planner and the hard state let started disks go although nobody said so.
    ReplacesUnasked,
    /// Names follow the readiness of any incarnation.
    AnswersOldEpochs,
    /// Hosts do not remove what their share says must go.
    IgnoresDrops,
    /// Hosts take a process that does not answer for a dead one.
    TakesSilenceForDeath,
    /// A new agent does not look for what an earlier one left running.
    ForgetsWhatRuns,
    /// Hosts do not come back when time alone changes something.
    NeverWakes,
    /// The readiness of an earlier process of a machine counts for the next one.
    KeepsReadiness,
    /// Hosts begin an action for a machine while another is under way.
    ActsWhileBusy,
    /// Hosts start an incarnation for the first time without the coordinator's word.
    StartsUnasked,
    /// Hosts start an incarnation on the disk of an earlier one.
    StartsOnOldDisks,
    /// A coordinator that another one followed goes on saying that it leads.
    LeadsOn,
    /// The coordinator replaces voters that are away for a moment.
    ReplacesVotersAtOnce,
    /// The coordinator does not ask voters whether they still have their logs.
    NeverVerifies,
    /// The coordinator takes in no voters when the mesh grows.
    KeepsFirstVoters,
    /// The coordinator raises a session to its own level, whatever others understand.
    RaisesAlone,
    /// A topology is written whole where some voters would skip a part of it.
    WritesUnderstoodByFew,
    /// The coordinator takes in voters that do not understand the session.
    TakesOldVoters,
    /// The coordinator buries a session whose machines are still there.
    BuriesAtOnce,
    /// The coordinator commits a topology over a plan that its user has not seen.
    CommitsUnseen,
    /// The coordinator lets machines start without writing it down.
    GrantsUnwritten,
    /// Hosts take shares from anybody.
    BelievesAnybody,
    /// Hosts show shares before what these name is here.
    ShowsUnfetched,
    /// Hosts ask the same host again and again for what a share names.
    AsksOneHolder,
    /// Hosts do not ask for shares that they lack.
    NeverPulls,
    /// Hosts do not ask others whom to believe.
    NeverAsksForVoices,
    /// Hosts take shares of sessions that have ended.
    TakesBuried,
}

/// Which rules hold: all of them, or all but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    broken: Option<Mutant>,
}

impl Rules {
    /// All rules but this one hold.
    pub fn without(rule: Mutant) -> Rules {
        Rules { broken: Some(rule) }
    }

    /// Tells whether this rule is broken on purpose. Never in a release: the branch is not compiled.
    #[inline]
    pub fn broken(self, rule: Mutant) -> bool {
        cfg!(debug_assertions) && self.broken == Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rule_that_is_named_is_broken() {
        let rules = Rules::without(Mutant::IgnoresDrops);
        assert!(rules.broken(Mutant::IgnoresDrops));
        assert!(!rules.broken(Mutant::IgnoresNeeds));
        assert!(!Rules::default().broken(Mutant::IgnoresDrops));
    }
}
