//! How long files and functions are: what a person can hold in mind. Exceptions are named with their
//! reason, and one that is not needed any more is a failure as well.

use super::{Source, none, sources};

/// Lines of a file, without its own tests. Files of tests only are as long as their subject has cases.
const FILE_LINES: usize = 500;
/// Lines of a function, from its name to its last brace.
const FUNCTION_LINES: usize = 60;

const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    ("mesh/src/assembly.rs", "build", "what there is to build, in its order"),
    ("agent/src/machine/shim/mod.rs", "supervise", "every arm of one loop"),
    ("netsim/src/world/fault.rs", "suffer", "one arm a fault"),
    ("netsim/src/rules.rs", "a_home_is_a_router_with_rules", "the rules as text"),
    ("agent/src/cli/tests/sessions.rs", "a_session_in_json", "the JSON as text"),
    ("agent/src/cli/tests/tables.rs", "the_status_in_json", "the JSON as text"),
    ("proto/src/run/host/tests.rs", "events", "one line an event"),
    (
        "tests/tests/e2e/join.rs",
        "a_token_that_is_not_good_is_refused_quickly_and_its_secret_is_told_to_nobody",
        "one story",
    ),
];

/// Gives the functions of a file with their lines. What rustfmt made, ends where its indentation does.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = begun(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &&str| {
            let rest = line.strip_prefix(indent).unwrap_or_default();
            rest == "}" || (!rest.starts_with(' ') && (rest.ends_with('}') || rest.ends_with(';')))
        };
        let length = lines[at..].iter().position(ends).map_or(1, |last| last + 1);
        found.push((name.to_owned(), length));
    }
    found
}

/// Gives the name of the function that begins in this line.
fn begun(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.split(['(', '<']).next().unwrap_or(name))
}

#[test]
fn no_file_is_longer_than_500_lines_without_its_tests() {
    let long = |source: &Source| {
        let lines = source.without_tests().lines().count();
        (lines > FILE_LINES).then(|| format!("{} has {lines} lines", source.path))
    };
    none(sources().iter().filter(|source| !source.is_test()).filter_map(long).collect());
}

#[test]
fn no_function_is_longer_than_60_lines() {
    let mut found = Vec::new();
    for source in sources() {
        for (name, lines) in functions(&source.text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES)
        {
            found.push((source.path.clone(), name, lines));
        }
    }
    let is = |(path, name, _): &(String, String, usize), known: &(&str, &str, &str)| {
        path == known.0 && name == known.1
    };
    let mut complaints: Vec<String> = Vec::new();
    for one in found.iter().filter(|one| !LONG_FUNCTIONS.iter().any(|known| is(one, known))) {
        complaints.push(format!("{}: {} has {} lines", one.0, one.1, one.2));
    }
    for known in LONG_FUNCTIONS.iter().filter(|known| !found.iter().any(|one| is(one, known))) {
        complaints.push(format!("{}: {} is no exception any more", known.0, known.1));
    }
    none(complaints);
}

#[test]
fn a_function_ends_where_its_indentation_does() {
    let text = "impl A {\n    pub(crate) async fn one<T>(\n        a: T,\n    ) -> T\n    where\n        T: Copy,\n    {\n        a\n    }\n\n    fn two() {}\n}\n\nfn three();\n";
    let all = functions(text);
    assert_eq!(all, [("one".to_owned(), 8), ("two".to_owned(), 1), ("three".to_owned(), 1)]);
}
