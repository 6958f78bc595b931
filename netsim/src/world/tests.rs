//! 500 seeds keep every invariant, and each broken rule is caught.

use proto::run::Mutant;

use super::*;

/// Runs these seeds on all cores and gives the failures.
fn failures(seeds: std::ops::Range<u64>, rules: Rules) -> Vec<Failure> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = |first: u64| {
        let seeds = seeds.clone();
        std::thread::spawn(move || {
            let mine = (seeds.start + first..seeds.end).step_by(threads as usize);
            mine.filter_map(|seed| check(seed, rules).err()).collect::<Vec<_>>()
        })
    };
    let running: Vec<_> = (0..threads).map(share).collect();
    running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn five_hundred_worlds_keep_every_promise() {
    let failures = failures(0..500, Rules::default());
    let Some(first) = failures.iter().min_by_key(|failure| failure.log.len()) else { return };
    let seeds: Vec<u64> = failures.iter().map(|failure| failure.seed).collect();
    let log = first.log.join("\n");
    panic!(
        "{log}\nseed {}: {}\nreplay({}) shows this; all failing seeds: {seeds:?}",
        first.seed, first.what, first.seed
    );
}

#[test]
fn every_rule_that_is_broken_on_purpose_is_noticed() {
    let mutants = [
        (Mutant::MovesHeldMachines, "runs on"),
        (Mutant::TakesOldShares, "went back"),
        (Mutant::ReportsDropsEarly, "although its removal was written down"),
        (Mutant::IgnoresDrops, "not settled"),
        (Mutant::IgnoresNeeds, "was ever ready"),
        (Mutant::TakesSilenceForDeath, "at once"),
        (Mutant::IgnoresNeedsLater, "was ready again"),
        (Mutant::ReplacesUnasked, "although nobody said so"),
        (Mutant::AnswersOldEpochs, "never said it is ready"),
        (Mutant::ForgetsWhatRuns, "at once"),
        (Mutant::NeverWakes, "not settled"),
        (Mutant::KeepsReadiness, "its services never answered"),
        (Mutant::ActsWhileBusy, "at once"),
        (Mutant::StartsUnasked, "never granted"),
        (Mutant::StartsOnOldDisks, "although its removal was written down"),
    ];
    for (mutant, complaint) in mutants {
        let caught = (0..200).find_map(|seed| check(seed, Rules::without(mutant)).err());
        let caught = caught.unwrap_or_else(|| panic!("{mutant:?} is not noticed"));
        assert!(caught.what.contains(complaint), "{mutant:?}: {}", caught.what);
    }
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    assert_eq!(replay(11), replay(11));
    assert_ne!(replay(11), replay(12));
}
