//! Which ways hosts find to each other behind routers of every kind: a table of pairs, direct or by relay, and after how
//! long. `make nat-matrix` plays and prints all of it; a few kinds are played with every run of the tests.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tests::{Host, Place, lab_or_skip};

/// How long ways may take to be found and to settle. A relayed one may become direct until then.
const SETTLING: Duration = Duration::from_secs(25);
/// How often they are asked for.
const LOOK: Duration = Duration::from_millis(400);

/// A host, and what stands before it.
struct Kind {
    name: &'static str,
    /// Its home in the lab's words, after its name; none = on the public net.
    homes: &'static str,
    /// Whether everybody is let in, by UDP.
    open: bool,
    /// Whether each destination sees another port of it.
    hard: bool,
    udp: bool,
}

const KINDS: [Kind; 9] = [
    Kind { name: "public", homes: "", open: true, hard: false, udp: true },
    Kind { name: "cone", homes: "home AT nat=cone", open: false, hard: false, udp: true },
    Kind { name: "shifted", homes: "home AT nat=shifted", open: false, hard: false, udp: true },
    Kind { name: "symmetric", homes: "home AT nat=symmetric", open: false, hard: true, udp: true },
    Kind { name: "exposed", homes: "home AT nat=open", open: true, hard: false, udp: true },
    Kind { name: "static", homes: "home AT nat=static", open: true, hard: false, udp: true },
    Kind { name: "mapped", homes: "home AT nat=symmetric ports=mapped", open: true, hard: true, udp: true },
    Kind {
        name: "double",
        homes: "home AT-outer nat=cone\nhome AT in AT-outer nat=cone",
        open: false,
        hard: false,
        udp: true,
    },
    Kind { name: "blocked", homes: "home AT nat=cone udp=blocked", open: false, hard: false, udp: false },
];

/// Tells whether two hosts must find a direct way: one of them lets everybody in, or neither changes its port by
/// destination, so that both know where to knock.
fn must_be_direct(a: &Kind, b: &Kind) -> bool {
    a.udp && b.udp && (a.open || b.open || !(a.hard || b.hard))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Direct(Duration),
    Relayed(Duration),
}

/// Plays all pairs of these kinds in one lab, with a public host that serves the relay; gives what each found.
fn play(kinds: &[&Kind]) -> BTreeMap<(usize, usize), Found> {
    let mut text = "seed 1\n".to_owned();
    for kind in kinds {
        let home = format!("at-{}", kind.name);
        match kind.homes {
            "" => text += &format!("host {}\n", kind.name),
            homes => text += &format!("{}\nhost {} in {home}\n", homes.replace("AT", &home), kind.name),
        }
    }
    let network = netsim::Lab::up(&text).expect("a lab");
    let place = |name: &str| Place::Namespace(network.namespace(name).expect("a host of the lab"));
    let first = Host::first(kinds[0].name, place(kinds[0].name));
    let token = first.token(&[]);
    let joined = kinds[1..].iter().map(|kind| Host::joined(kind.name, place(kind.name), &token));
    let hosts: Vec<Host> = std::iter::once(first).chain(joined).collect();

    let (began, mut found) = (Instant::now(), BTreeMap::new());
    let done = |found: &BTreeMap<(usize, usize), Found>| {
        let pairs =
            (0..kinds.len()).flat_map(|a| (0..kinds.len()).map(move |b| (a, b))).filter(|(a, b)| a != b);
        pairs.into_iter().all(|(a, b)| match found.get(&(a, b)) {
            Some(Found::Direct(_)) => true,
            Some(Found::Relayed(_)) => !must_be_direct(kinds[a], kinds[b]),
            None => false,
        })
    };
    while !done(&found) && began.elapsed() < SETTLING {
        for (a, host) in hosts.iter().enumerate() {
            let rows = host.json(&["net", "paths"])["paths"].clone();
            for row in rows.as_array().into_iter().flatten() {
                let Some(b) = kinds.iter().position(|kind| row["host"] == kind.name) else { continue };
                let now = began.elapsed();
                match (row["kind"].as_str(), found.get(&(a, b))) {
                    (Some("direct"), None | Some(Found::Relayed(_))) => {
                        found.insert((a, b), Found::Direct(now));
                    }
                    (Some("relayed"), None) => {
                        found.insert((a, b), Found::Relayed(now));
                    }
                    _ => {}
                }
            }
        }
        std::thread::sleep(LOOK);
    }
    found
}

/// Lays the table out.
fn in_words(kinds: &[&Kind], found: &BTreeMap<(usize, usize), Found>) -> String {
    let cell = |a: usize, b: usize| match found.get(&(a, b)) {
        _ if a == b => "-".to_owned(),
        Some(Found::Direct(after)) => format!("direct {:.1}", after.as_secs_f64()),
        Some(Found::Relayed(after)) => format!("relay {:.1}", after.as_secs_f64()),
        None => "NONE".to_owned(),
    };
    let head = kinds.iter().map(|kind| format!("{:>11}", kind.name)).collect::<String>();
    let mut text = format!("{:<10}{head}   (seconds until it was found)\n", "");
    for (a, kind) in kinds.iter().enumerate() {
        let cells = (0..kinds.len()).map(|b| format!("{:>11}", cell(a, b))).collect::<String>();
        text += &format!("{:<10}{cells}\n", kind.name);
    }
    text
}

/// Asserts that all reach each other, and directly wherever that is possible.
#[track_caller]
fn judge(kinds: &[&Kind]) {
    let found = play(kinds);
    let table = in_words(kinds, &found);
    println!("{table}");
    for (a, from) in kinds.iter().enumerate() {
        for (b, to) in kinds.iter().enumerate().filter(|(b, _)| *b != a) {
            let way = found.get(&(a, b));
            assert!(way.is_some(), "{} does not reach {}\n{table}", from.name, to.name);
            let direct = matches!(way, Some(Found::Direct(_)));
            let wrong = must_be_direct(from, to) && !direct;
            assert!(!wrong, "{} reaches {} by relay\n{table}", from.name, to.name);
            assert!(from.udp && to.udp || !direct, "{} to {}: UDP is blocked\n{table}", from.name, to.name);
        }
    }
}

fn named(names: &[&str]) -> Vec<&'static Kind> {
    KINDS.iter().filter(|kind| names.contains(&kind.name)).collect()
}

#[test]
fn hosts_behind_a_few_kinds_of_routers_reach_each_other_directly_where_that_is_possible() {
    if !lab_or_skip("hosts_behind_a_few_kinds_of_routers_reach_each_other_directly_where_that_is_possible") {
        return;
    }
    judge(&named(&["public", "shifted", "symmetric", "double", "blocked"]));
}

/// Minutes: `make nat-matrix`.
#[test]
#[ignore = "make nat-matrix"]
fn hosts_behind_every_kind_of_router_reach_each_other_directly_where_that_is_possible() {
    if lab_or_skip("hosts_behind_every_kind_of_router_reach_each_other_directly_where_that_is_possible") {
        judge(&KINDS.iter().collect::<Vec<_>>());
    }
}
