//! What a plan shows, and why there is none.

use super::*;

fn plan_report() -> PlanReport {
    let change = |machine: &str, action, host: &str, because: &str| PlanChange {
        machine: machine.parse().unwrap(),
        action,
        how: (action == ChangeAction::Change).then_some(How::InPlace),
        host: host.into(),
        because: because.into(),
        why: None,
    };
    let rejected = |machine: &str, host: &str, because: &str| PlanRejection {
        machine: machine.parse().unwrap(),
        host: host.into(),
        because: because.into(),
        why: None,
    };
    PlanReport {
        session: "shop".into(),
        changes: vec![
            change("cache-1", ChangeAction::Change, "nas", "in place: memory 512 MiB -> 1024 MiB"),
            change("db-1", ChangeAction::Keep, "nas", "unchanged"),
            change("old-1", ChangeAction::Remove, "attic", "no longer in the topology"),
            change("web-1", ChangeAction::Create, "nas", "image is here"),
            change("web-2", ChangeAction::Create, "attic", "spread"),
        ],
        rejected: vec![
            rejected("web-1", "cellar", "1100 MiB free, needs 4096"),
            rejected("web-2", "cellar", "1100 MiB free, needs 4096"),
            rejected("web-2", "laptop", "down"),
        ],
        obstacles: Vec::new(),
        replaces: Vec::new(),
        fetch: vec![PlanFetch { host: "attic".into(), image: "tiny".into(), bytes: 212 << 20 }],
        index: 1184,
        notes: vec!["web listens on no LAN".into()],
    }
}

#[test]
fn a_plan_shows_marks_reasons_and_bytes() {
    expect![[r#"
        session shop
           MACHINES  HOSTS  WHY
        ~  cache-1   nas    in place: memory 512 MiB -> 1024 MiB
        =  db-1      nas    unchanged
        -  old-1     attic  no longer in the topology
        +  web-1     nas    image is here
        +  web-2     attic  spread
          not cellar: 1100 MiB free, needs 4096 (web-1, web-2)
          not laptop: down (web-2)
        fetch: 212 MiB of tiny to attic
        fetch: 212 MiB inside the mesh, nothing from outside     index 1184
        note: every machine behaves as `hold`: it waits for its host and is never started on another one
        note: web listens on no LAN
    "#]]
    .assert_eq(&plan::in_words(&plan_report(), None));
    expect![[r#"
        {
          "session": "shop",
          "changes": [
            {
              "machine": "cache-1",
              "action": "change",
              "how": "in place",
              "host": "nas",
              "because": "in place: memory 512 MiB -> 1024 MiB",
              "why": null
            }
          ],
          "rejected": [
            {
              "machine": "web-1",
              "host": "cellar",
              "because": "1100 MiB free, needs 4096",
              "why": null
            }
          ],
          "obstacles": [],
          "replaces": [],
          "fetch": [
            {
              "host": "attic",
              "image": "tiny",
              "bytes": 222298112
            }
          ],
          "index": 1184,
          "notes": [
            "web listens on no LAN"
          ]
        }"#]]
    .assert_eq(&json(&PlanReport {
        changes: plan_report().changes.drain(..1).collect(),
        rejected: plan_report().rejected.drain(..1).collect(),
        ..plan_report()
    }));
}

#[test]
fn obstacles_are_told_all_at_once_and_refuse() {
    let obstacle = |machine: &str, because: &str| PlanObstacle {
        machine: machine.parse().unwrap(),
        because: because.into(),
        why: None,
    };
    let obstacles = vec![
        obstacle("db-1", "no host knows the image \"tini\""),
        obstacle("web-1", "needs 4096 MiB; nas has 100 free"),
    ];
    let report = PlanReport {
        changes: Vec::new(),
        rejected: Vec::new(),
        fetch: Vec::new(),
        obstacles,
        ..plan_report()
    };
    expect![[r#"
        session shop
    "#]]
    .assert_eq(&plan::in_words(&report, None));
    let error = plan::obstacles(&report).unwrap();
    assert_eq!(error.kind, Kind::Refused);
    expect![[r#"
        error: shop cannot run as it is written; nothing was changed
        because: db-1: no host knows the image "tini"
          web-1: needs 4096 MiB; nas has 100 free
        hint: agent host list"#]]
    .assert_eq(&ui::in_words(&error));
    assert_eq!(plan::obstacles(&plan_report()), None);
}

#[test]
fn mistakes_in_a_file_have_lines_and_hints() {
    let diagnostics = vec![
        Diagnostic { line: Some(4), what: "unknown key \"cpu\"".into(), hint: "did you mean cpus?".into() },
        Diagnostic { line: None, what: "session is missing".into(), hint: "session = \"shop\"".into() },
    ];
    expect![[r#"
        t.toml:4: unknown key "cpu"
            did you mean cpus?
        t.toml: session is missing
            session = "shop""#]]
    .assert_eq(&plan::mistakes(std::path::Path::new("t.toml"), &diagnostics));
    expect![[r#"
        {
          "diagnostics": [
            {
              "line": 4,
              "what": "unknown key \"cpu\"",
              "hint": "did you mean cpus?"
            },
            {
              "line": null,
              "what": "session is missing",
              "hint": "session = \"shop\""
            }
          ]
        }"#]]
    .assert_eq(&json(&Diagnostics { diagnostics }));
}
