//! What is told of a plan that cannot be, or that would cost something.

use expect_test::expect;
use proto::{
    reasons::{Chosen, Why},
    session::How,
    wire::api::PlanObstacle,
};

use super::*;
use crate::cli::ui;

fn change(machine: &str, action: ChangeAction, how: Option<How>, because: &str) -> PlanChange {
    let machine = machine.parse().unwrap();
    PlanChange { machine, action, how, host: "nas".into(), because: because.into(), why: None }
}

fn because(machine: &str, action: ChangeAction, cause: Cause) -> PlanChange {
    let why = Some(Why::new(cause.clone()));
    PlanChange { why, ..change(machine, action, None, &cause.to_string()) }
}

fn report() -> PlanReport {
    PlanReport {
        session: "shop".into(),
        changes: Vec::new(),
        rejected: Vec::new(),
        obstacles: Vec::new(),
        replaces: Vec::new(),
        fetch: Vec::new(),
        index: 3,
        notes: Vec::new(),
    }
}

fn replacing(machines: u32) -> PlanReport {
    let because = "replace: disk 900 -> 500 MiB (a disk never shrinks); its disk starts empty";
    let lost = |n| change(&format!("web-{n}"), ChangeAction::Change, Some(How::Replace), because);
    let replaces: Vec<PlanChange> = (1..=machines).map(lost).collect();
    PlanReport { changes: replaces.clone(), replaces, ..report() }
}

#[test]
fn disks_that_would_be_lost_are_listed_with_the_command_that_allows_it() {
    let error = losses(&replacing(2), Path::new("shop.toml")).unwrap();
    assert_eq!(error.kind, Kind::Refused);
    expect![[r#"
        error: shop: disks would be lost, and nobody said so; nothing was changed
        because: web-1, web-2 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks); its disk starts empty
        hint: agent session up shop.toml --replace web-1 --replace web-2"#]].assert_eq(&ui::in_words(&error));
    let many = losses(&replacing(9), Path::new("shop.toml")).unwrap();
    assert_eq!(many.next.as_deref(), Some("agent session up shop.toml --replace all"));
    expect![[r#"
        session shop
           MACHINES  HOSTS  WHY
        ~  web x2    nas    replace: disk 900 -> 500 MiB (a disk never shrinks); its disk starts empty
        ! `up` replaces started disks only with --replace: web-1, web-2
        fetch: 0 B inside the mesh, nothing from outside     index 3
        note: every machine behaves as `hold`: it waits for its host and is never started on another one
    "#]]
    .assert_eq(&in_words(&replacing(2), None));
    assert_eq!(losses(&report(), Path::new("shop.toml")), None);
    let json = serde_json::to_value(replacing(1)).unwrap();
    assert_eq!(json["replaces"][0]["machine"], "web-1");
    assert_eq!(json["changes"][0]["how"], "replace");
}

#[test]
fn what_goes_and_what_does_not_come_is_told_after_the_commit() {
    let changes = vec![
        because("app-1", ChangeAction::Create, Cause::Placed { chosen: Chosen::OnlyOne, waits: true }),
        because("db-1", ChangeAction::Keep, Cause::Kept { later: Vec::new() }),
        because("job-1", ChangeAction::Keep, Cause::Kept { later: vec!["setup".into()] }),
        change(
            "old-1",
            ChangeAction::Remove,
            None,
            "old is not in the topology any more; its disk goes with it",
        ),
        change(
            "web-1",
            ChangeAction::Change,
            Some(How::InPlace),
            "in place: disk 900 -> 1200 MiB; it restarts",
        ),
    ];
    expect![[r#"
        = job-1 on nas: unchanged; setup changed since it was made: applies to new machines
        - old-1 on nas: old is not in the topology any more; its disk goes with it
        ~ web-1 on nas: in place: disk 900 -> 1200 MiB; it restarts"#]]
    .assert_eq(&told(&PlanReport { changes: changes.clone(), ..report() }).join("\n"));
    expect![[r#"
        session shop
           MACHINES  HOSTS  WHY
        +  app-1     nas    the only host that fits
        =  db-1      nas    unchanged
    "#]]
    .assert_eq(
        &in_words(&PlanReport { changes, ..report() }, None)
            .lines()
            .take(4)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
}

#[test]
fn an_obstacle_is_told_once() {
    let obstacle = |n| PlanObstacle {
        machine: format!("web-{n}").parse().unwrap(),
        because: "no image named tini".into(),
        why: None,
    };
    let rejected = proto::wire::api::PlanRejection {
        machine: "web-1".parse().unwrap(),
        host: "nas".into(),
        because: "down".into(),
        why: None,
    };
    let report =
        PlanReport { obstacles: (1..=3).map(obstacle).collect(), rejected: vec![rejected], ..report() };
    let text = format!("{}{}", in_words(&report, None), ui::in_words(&obstacles(&report).unwrap()));
    expect![[r#"
        session shop
        error: shop cannot run as it is written; nothing was changed
        because: web-1, web-2, web-3: no image named tini
        hint: agent host list"#]]
    .assert_eq(&text);
    let different = |n: u32| PlanObstacle { because: format!("{n} MiB free"), ..obstacle(n) };
    let many = PlanReport { obstacles: (1..=30).map(different).collect(), ..report };
    let because = obstacles(&many).unwrap().because.unwrap();
    assert!(because.ends_with("\n  and 10 more obstacles") && because.lines().count() == 21, "{because}");
}

#[test]
fn of_many_mistakes_fifty_are_printed_and_then_their_number() {
    let mistake = |n| Diagnostic { line: Some(n), what: format!("mistake {n}"), hint: String::new() };
    let text = mistakes(Path::new("t.toml"), &(1..=73).map(mistake).collect::<Vec<_>>());
    assert_eq!(text.lines().count(), 51);
    assert!(text.ends_with("t.toml:50: mistake 50\nand 23 more"), "{text}");
}

#[test]
fn replace_takes_machines_groups_and_all() {
    let text =
        "session = \"shop\"\n[machines.web]\nimage = \"tiny\"\ncount = 2\n[machines.db]\nimage = \"tiny\"\n";
    let topology = proto::topology::parse(text).0.unwrap();
    let read = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        value::replace(&topology, &words).map(|replace| {
            let machines: Vec<String> = replace.machines.iter().map(|machine| machine.to_string()).collect();
            format!("{} {}", replace.all, machines.join(" "))
        })
    };
    assert_eq!(read(&[]).unwrap(), "false ");
    assert_eq!(read(&["web-2", "db-1"]).unwrap(), "false db-1 web-2");
    assert_eq!(read(&["web", "all"]).unwrap(), "true web-1 web-2");
    let error = read(&["web-3"]).unwrap_err();
    assert_eq!((error.kind, error.because.as_deref()), (Kind::Usage, Some("did you mean web-1?")));
}
