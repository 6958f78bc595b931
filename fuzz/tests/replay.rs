//! Everything that the fuzzer has found worth keeping is read again in every run of the tests.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use proto::random::Random;

#[test]
fn what_was_ever_found_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let kept: BTreeSet<String> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(kept, targets, "a corpus for each target, and none for others");
    for (name, target) in fuzz::TARGETS {
        let mut read = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display());
            target(&fs::read(path).unwrap());
            read += 1;
        }
        assert!(read > 4, "the corpus of {name} has {read} files");
    }
}

#[test]
fn nothing_and_noise_break_nothing() {
    let mut random = Random::new(1);
    let mut noise =
        |length: usize| -> Vec<u8> { std::iter::repeat_with(|| random.draw() as u8).take(length).collect() };
    for (_, target) in fuzz::TARGETS {
        target(&[]);
        (0..300).for_each(|length| target(&noise(length)));
    }
}
