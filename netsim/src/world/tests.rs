//! Many seeds keep every invariant, each broken rule is caught, and no rule stands here.

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
        // Whom an old epoch makes ready, others take for ready too.
        (Mutant::AnswersOldEpochs, "never said it is ready | was ever ready"),
        (Mutant::ForgetsWhatRuns, "at once"),
        (Mutant::NeverWakes, "not settled | not converged"),
        (Mutant::KeepsReadiness, "its services never answered"),
        (Mutant::ActsWhileBusy, "at once | acts without end"),
        (Mutant::StartsUnasked, "never granted"),
        (Mutant::StartsOnOldDisks, "although its removal was written down"),
        (Mutant::LeadsOn, "is wrong about leading"),
        (Mutant::ReplacesVotersAtOnce, "although it was away for a moment only"),
        (Mutant::NeverVerifies, "votes without its log"),
        (Mutant::KeepsFirstVoters, "voters of"),
        (Mutant::RaisesAlone, "votes by a log that needs level"),
        (Mutant::WritesUnderstoodByFew, "votes by a log that needs level"),
        (Mutant::TakesOldVoters, "votes by a log that needs level | voters of"),
        (Mutant::BuriesAtOnce, "is buried although"),
        (Mutant::CommitsUnseen, "was committed over"),
        (Mutant::GrantsUnwritten, "never granted"),
        (Mutant::BelievesAnybody, "has a share that nobody wrote"),
        (Mutant::NeverPulls, "not converged 60 s after"),
        (Mutant::NeverAsksForVoices, "not converged 60 s after"),
        (Mutant::ShowsUnfetched, "before its files are there"),
        (Mutant::AsksOneHolder, "not converged | not settled"),
        (Mutant::TakesBuried, "although that is buried"),
    ];
    for (mutant, complaint) in mutants {
        let caught = (0..2000).find_map(|seed| check(seed, Rules::without(mutant)).err());
        let caught = caught.unwrap_or_else(|| panic!("{mutant:?} is not noticed"));
        println!("{mutant:?} is noticed by seed {}", caught.seed);
        assert!(complaint.split(" | ").any(|one| caught.what.contains(one)), "{mutant:?}: {}", caught.what);
    }
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    assert_eq!(replay(11), replay(11));
    assert_ne!(replay(11), replay(12));
}

#[test]
fn some_worlds_have_older_programs_that_join_and_are_upgraded_and_sessions_are_raised_afterwards() {
    let logs: Vec<Vec<String>> = (0..60).map(replay).collect();
    let tells = |what: &str| logs.iter().filter(|log| log.iter().any(|line| line.contains(what))).count();
    assert!(
        tells("joins, of level 1") > 0
            && tells(&format!("joins, of level {LEVEL}")) > 0
            && tells(&format!("the session is of level {LEVEL}")) > 0
    );
    let raised_after_upgrade = logs.iter().filter(|log| {
        let upgraded = log.iter().position(|line| line.contains(&format!("has a program of level {LEVEL}")));
        let raised = log.iter().position(|line| line.contains(&format!("the session is of level {LEVEL}")));
        upgraded.zip(raised).is_some_and(|(upgraded, raised)| upgraded < raised)
    });
    assert!(raised_after_upgrade.count() > 0);
    let never = |log: &&Vec<String>| {
        !log.iter().any(|line| line.contains(&format!("the session is of level {LEVEL}")))
    };
    assert!(logs.iter().filter(never).count() > 0, "somebody stays behind");
}

/// `make sim` names how many seeds, from the first one.
#[test]
fn as_many_worlds_as_are_asked_for_keep_every_promise() {
    let Ok(seeds) = std::env::var("SEEDS") else { return println!("SKIPPED: SEEDS names no number") };
    let seeds = seeds.parse().expect("SEEDS is a number");
    let begun = std::time::Instant::now();
    let failures = failures(0..seeds, Rules::default());
    let told: Vec<String> =
        failures.iter().map(|failure| format!("seed {}: {}", failure.seed, failure.what)).collect();
    println!("{seeds} seeds in {:.1} s, {} broken", begun.elapsed().as_secs_f64(), told.len());
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// What no file of the world names: rules, and what readers of a picture make.
const RULES: &[&str] = &[
    "reconcile::reconcile",
    "reconcile::phase",
    "reconcile::ends",
    "slice::",
    "order::",
    "voters::choose",
    "voices::voices",
    "voices::majority",
    "plan::propose",
    "may_start(",
    "supersedes(",
    "schedule::",
    "overlay::",
    "fn backoff",
    "waits_for(",
    // What readers of a picture make is made by them alone.
    "HostFacts {",
    "Inventory { hosts",
    "MachineEntry {",
    "MachineRow {",
    "HostEntry {",
    "Phase::",
    "Guard::",
    "Failover::Restart",
];

/// What each question is answered by, wherever the world asks it.
const ASKED: &[&str] = &[
    "inventory::inventory(",
    "readiness::ready(",
    "readiness::is_ready(",
    "zone::zone(",
    "acks::seen(",
    "acks::behind(",
    "told::sessions(",
    "told::memory_used_mib(",
    "heads::speakers(",
    "route::coordinator(",
    "lead::share_for(",
    "picture.apply(",
    "Silence",
];

/// The times of the world, by their files: of its surroundings, of its faults, and of what it waits for.
const TIMES: &[(&str, &str, &str)] = &[
    ("agent.rs", "TICK_MS", "how often the shell of an agent looks, as a watch would wake it"),
    ("agent.rs", "STAGE_MS", "how long the shell lets a stage of its end take"),
    ("calls.rs", "CALL_MS", "how long the shell waits for an answer"),
    ("fault.rs", "TROUBLE_MS", "how long faults go on"),
    ("fault.rs", "FIRST_MS", "when they begin"),
    ("fault.rs", "SOFT_MS", "the promise: what is soft converges within it"),
    ("fault.rs", "REST_MS", "the promise: everything is well within it"),
    ("picture.rs", "HEARD_MS", "the model of gossip's failure detector, a library's"),
    ("quorum.rs", "ELECTION_MS", "the model of Raft"),
];

/// A time of which a decision of the product depends stands in `proto`: here are none that nobody defended.
#[test]
fn every_time_of_the_world_is_of_its_surroundings() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/world");
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "tests.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("Duration::from"), "{name} names a time in passing");
        for line in text.lines().filter(|line| line.contains("const ")) {
            let named = line.trim_start_matches("pub ").trim_start_matches("const ");
            let constant = named.split(':').next().unwrap_or_default().to_owned();
            if constant.ends_with("_MS") {
                found.insert((name.clone(), constant));
            }
        }
    }
    let defended = TIMES.iter().map(|(file, name, _)| ((*file).to_owned(), (*name).to_owned())).collect();
    assert_eq!(found, defended);
}

/// The files of the world that drive machines call no rule beside them: what they name of `proto::session` and
/// `proto::run` are values, machines and their events. The model of Raft applies commands, as every log does.
#[test]
fn the_world_has_no_rule_of_its_own() {
    let mut all = String::new();
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/world");
    let mut looked = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "tests.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        looked += 1;
        all.push_str(&text);
        // What must never be is said in its own words.
        if name == "invariants.rs" {
            continue;
        }
        for rule in RULES {
            assert!(!text.contains(rule), "{name} names {rule}");
        }
        assert!(name == "quorum.rs" || !text.contains("state::apply"), "{name} applies commands");
    }
    assert!(looked >= 10, "the files were not found");
    for question in ASKED {
        assert!(all.contains(question), "nobody asks {question}");
    }
    let script = include_str!("../script.rs");
    assert!(
        script.contains("rows::machines(")
            && script.contains("rows::session(")
            && !script.contains("Phase::")
    );
}
