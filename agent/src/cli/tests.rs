//! What the command line reads and shows: arguments, help, tables, JSON, exit codes.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};
use expect_test::{expect, expect_file};
use proto::{
    facts::{Event, Fact},
    id::{Digest, HostId, MachineName, MeshId, SessionId},
    session::{Accelerator, ChangeAction, Guard, How, Phase},
    time::Timestamp,
    topology::Diagnostic,
    wire::api::*,
};

use super::{
    Cli, Noun, config, doctor, down, error, events, host, image, machine, plan, service, session, status,
    token, ui, up, value,
};

fn shop() -> SessionId {
    SessionId([0x0a; 16])
}

fn row(name: &str, host: &str, state: Phase, reason: Option<&str>) -> MachineRow {
    let name: MachineName = name.parse().unwrap();
    MachineRow {
        group: name.group.to_string(),
        address: Some(format!("10.64.7.{}", 10 + name.index)),
        name,
        session: "shop".into(),
        session_id: shop(),
        host: Some(host.into()),
        state,
        guard: Guard::Hold,
        epoch: 1,
        reason: reason.map(str::to_owned),
    }
}

fn session_status(machines: Vec<MachineRow>) -> SessionStatus {
    let service = |group: &str, name: &str, port, here: Option<u16>| ServiceRow {
        name: name.into(),
        group: group.into(),
        session: "shop".into(),
        port,
        fqdn: format!("{group}.shop.mesh.internal"),
        address_here: here.map(|_| "127.64.3.9".into()),
        port_here: here,
    };
    SessionStatus {
        id: shop(),
        name: "shop".into(),
        state: SessionState::Starting,
        generation: 3,
        coordinator: Some("nas".into()),
        voters: vec!["attic".into(), "cellar".into(), "nas".into()],
        subnet: Some("10.64.7.0/24".into()),
        machines,
        services: vec![service("db", "postgres", 5432, None), service("web", "http", 80, Some(8080))],
    }
}

fn progress(machines: Vec<MachineRow>, everywhere: bool) -> UpProgress {
    let status = session_status(machines);
    UpProgress { status, everywhere, behind: Vec::new(), fetching: Vec::new(), away: Vec::new() }
}

fn status() -> Status {
    let member =
        |byte, name: &str, state, path| Member { id: HostId([byte; 32]), name: name.into(), state, path };
    let path = |kind, rtt_ms, via: Option<&str>| Some(Path { kind, rtt_ms, via: via.map(str::to_owned) });
    Status {
        mesh: MeshRef { id: MeshId([1; 32]), name: "home".into() },
        host: ThisHost {
            id: HostId([2; 32]),
            name: "nas".into(),
            version: "0.1.0".into(),
            accelerator: Some(Accelerator::Tcg),
            up_s: 3 * 86_400 + 4 * 3600,
            relay: None,
        },
        dns: Some("127.0.0.1:5300".into()),
        members: vec![
            member(2, "nas", MemberState::Up, path(PathKind::Me, None, None)),
            member(3, "attic", MemberState::Up, path(PathKind::Relayed, Some(48.25), Some("vps"))),
            member(4, "cellar", MemberState::Down, None),
        ],
        sessions: vec![SessionRow {
            id: shop(),
            name: "shop".into(),
            state: SessionState::Healthy,
            ready: 3,
            machines: 3,
            coordinator: Some("nas".into()),
        }],
        warnings: vec![Warning { what: "cellar is down".into(), next: Some("agent host list".into()) }],
        health: vec![],
    }
}

fn plan_report() -> PlanReport {
    let change = |machine: &str, action, host: &str, because: &str| PlanChange {
        machine: machine.parse().unwrap(),
        action,
        how: (action == ChangeAction::Change).then_some(How::InPlace),
        host: host.into(),
        because: because.into(),
    };
    let rejected = |machine: &str, host: &str, because: &str| PlanRejection {
        machine: machine.parse().unwrap(),
        host: host.into(),
        because: because.into(),
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

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("agent").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_has_no_contradictions() {
    Cli::command().debug_assert();
}

#[test]
fn json_and_data_dir_stand_anywhere() {
    for line in [
        "--json --data-dir /d session status shop",
        "session --json status --data-dir /d shop",
        "session status shop --data-dir /d --json",
        "machine ssh --json web-1 --data-dir /d -- uptime --json",
    ] {
        let cli = parse(line).unwrap();
        assert!(cli.json, "{line}");
        assert_eq!(cli.data_dir.as_deref(), Some(std::path::Path::new("/d")), "{line}");
    }
    assert!(!parse("machine ssh web-1 -- jq --json").unwrap().json);
}

#[test]
fn the_contract_s_lines_are_understood() {
    for line in [
        "init --name nas --mesh home --tag room=attic --tag floor=2",
        "join mesh1abc --name attic",
        "join -",
        "run",
        "run --join mesh1abc",
        "token create --expires 7d --uses 100 --admin",
        "token list",
        "token revoke 3f9c",
        "status --json",
        "session plan t.toml --json",
        "session up t.toml --wait ready --timeout 5m",
        "session up t.toml --wait running",
        "session up t.toml --wait none --index 4",
        "session down shop --timeout 2m",
        "session list",
        "machine list",
        "machine ssh web-1",
        "machine ssh shop/web-1 -- uptime -p",
        "machine console web-1",
        "machine start web-1",
        "machine stop web-1",
        "machine dial shop/web-1 22",
        "host list",
        "service list",
        "service open web.shop/http --json",
        "image import /x/tiny.raw --name tiny --replace",
        "image list",
        "image remove tiny",
        "dns query web.shop.mesh.internal",
        "config show",
        "events --json-lines --since 5 --follow",
        "doctor",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_wrong_command_line_is_usage_in_three_lines() {
    let wrong = |line: &str| ui::in_words(&error::usage(&parse(line).unwrap_err()));
    let all = [
        "session up",
        "status --jsn",
        "frobnicate",
        "token create --expires soon",
        "session up t --wait soon",
    ]
    .map(wrong)
    .join("\n\n");
    expect![[r#"
        error: the following required arguments were not provided:
        because: <FILE>
        hint: agent session up --help

        error: unexpected argument '--jsn' found
        because: tip: a similar argument exists: '--json'
        hint: agent status --help

        error: unrecognized subcommand 'frobnicate'
        hint: agent --help

        error: invalid value 'soon' for '--expires <EXPIRES>': "soon" is no duration: write 90s, 5m, 2h or 7d
        hint: agent --help

        error: invalid value 'soon' for '--wait <WAIT>'
        because: [possible values: ready, running, none]
        hint: agent --help"#]]
    .assert_eq(&all);
    let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    assert!(error::wants_json(&args("agent frobnicate --json")));
    assert!(!error::wants_json(&args("agent machine ssh web-1 -- --json")));
}

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let codes = [
        (Kind::Failed, 1),
        (Kind::Usage, 2),
        (Kind::Invalid, 2),
        (Kind::NotFound, 3),
        (Kind::Refused, 4),
        (Kind::Ambiguous, 4),
        (Kind::TimedOut, 5),
        (Kind::Partly, 6),
        (Kind::Unreachable, 7),
    ];
    for (kind, code) in codes {
        assert_eq!(error::Exit::from(kind), error::Exit(code), "{kind:?}");
    }
}

#[test]
fn an_error_is_what_why_and_what_next() {
    let error = Error::new(Kind::NotFound, "there is no session \"shp\"")
        .because("this host knows shop")
        .next("agent session list");
    expect![[r#"
        error: there is no session "shp"
        because: this host knows shop
        hint: agent session list"#]]
    .assert_eq(&ui::in_words(&error));
    expect![[r#"
        {
          "error": {
            "kind": "not-found",
            "what": "there is no session \"shp\"",
            "because": "this host knows shop",
            "next": "agent session list"
          }
        }"#]]
    .assert_eq(&json(&ErrorBody { error }));
}

#[test]
fn every_help_text_teaches() {
    let mut text = String::new();
    help(Cli::command().term_width(100), "agent", &mut text);
    expect_file!["help.txt"].assert_eq(&text);
}

fn help(mut command: clap::Command, path: &str, text: &mut String) {
    command.build();
    let shown = command.clone().bin_name(path).term_width(100).render_long_help();
    text.push_str(&format!("$ {path} --help\n{}\n\n", shown.to_string().trim_end()));
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        help(inner.clone(), &format!("{path} {}", inner.get_name()), text);
        if !inner.has_subcommands() && !inner.is_hide_set() {
            let after = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{path} {} shows no example", inner.get_name());
        }
    }
}

#[test]
fn the_status_screen() {
    expect![[r#"
        host  nas (0202020202)   mesh home   agent 0.1.0   accelerator tcg   up 3d4h
        dns   127.0.0.1:5300   relay -

        MEMBER  STATE  PATH             RTT
        nas     up     self             -
        attic   up     relayed via vps  48.2 ms
        cellar  down   -                -

        SESSION  STATE    READY  COORDINATOR  ID
        shop     healthy  3/3    nas          0a0a0a0a

        warning: cellar is down
        hint: agent host list"#]]
    .assert_eq(&status::in_words(&status(), None));
    expect![[r#"
        {
          "mesh": {
            "id": "0101010101010101010101010101010101010101010101010101010101010101",
            "name": "home"
          },
          "host": {
            "id": "0202020202020202020202020202020202020202020202020202020202020202",
            "name": "nas",
            "version": "0.1.0",
            "accelerator": "tcg",
            "up_s": 273600,
            "relay": null
          },
          "dns": "127.0.0.1:5300",
          "members": [
            {
              "id": "0202020202020202020202020202020202020202020202020202020202020202",
              "name": "nas",
              "state": "up",
              "path": {
                "kind": "self",
                "rtt_ms": null,
                "via": null
              }
            },
            {
              "id": "0303030303030303030303030303030303030303030303030303030303030303",
              "name": "attic",
              "state": "up",
              "path": {
                "kind": "relayed",
                "rtt_ms": 48.25,
                "via": "vps"
              }
            },
            {
              "id": "0404040404040404040404040404040404040404040404040404040404040404",
              "name": "cellar",
              "state": "down",
              "path": null
            }
          ],
          "sessions": [
            {
              "id": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
              "name": "shop",
              "state": "healthy",
              "ready": 3,
              "machines": 3,
              "coordinator": "nas"
            }
          ],
          "warnings": [
            {
              "what": "cellar is down",
              "next": "agent host list"
            }
          ],
          "health": []
        }"#]]
    .assert_eq(&json(&status()));
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
              "because": "in place: memory 512 MiB -> 1024 MiB"
            }
          ],
          "rejected": [
            {
              "machine": "web-1",
              "host": "cellar",
              "because": "1100 MiB free, needs 4096"
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

#[test]
fn a_session_shows_machines_and_services() {
    let status = session_status(vec![
        row("db-1", "nas", Phase::Ready, None),
        row("web-1", "attic", Phase::Waiting, Some("needs db")),
    ]);
    expect![[r#"
        session shop (0a0a0a0a)   starting   plan 3   coordinator nas   voters attic, cellar, nas   network 10.64.7.0/24

        MACHINE  HOST   STATE    GUARD  EPOCH  ADDRESS     REASON
        db-1     nas    ready    hold   1      10.64.7.11
        web-1    attic  waiting  hold   1      10.64.7.11  needs db

        NAME                    SERVICE   PORT  HERE
        db.shop.mesh.internal   postgres  5432  on demand
        web.shop.mesh.internal  http      80    127.64.3.9:8080

        note: every machine behaves as `hold`: it waits for its host and is never started on another one"#]].assert_eq(&session::in_words(&status, None));
    expect![[r#"
        {
          "id": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
          "name": "shop",
          "state": "starting",
          "generation": 3,
          "coordinator": "nas",
          "voters": [
            "attic",
            "cellar",
            "nas"
          ],
          "subnet": "10.64.7.0/24",
          "machines": [
            {
              "name": "db-1",
              "group": "db",
              "session": "shop",
              "session_id": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
              "host": "nas",
              "state": "ready",
              "guard": "hold",
              "epoch": 1,
              "address": "10.64.7.11",
              "reason": null
            },
            {
              "name": "web-1",
              "group": "web",
              "session": "shop",
              "session_id": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
              "host": "attic",
              "state": "waiting",
              "guard": "hold",
              "epoch": 1,
              "address": "10.64.7.11",
              "reason": "needs db"
            }
          ],
          "services": [
            {
              "name": "postgres",
              "group": "db",
              "session": "shop",
              "port": 5432,
              "fqdn": "db.shop.mesh.internal",
              "address_here": null,
              "port_here": null
            },
            {
              "name": "http",
              "group": "web",
              "session": "shop",
              "port": 80,
              "fqdn": "web.shop.mesh.internal",
              "address_here": "127.64.3.9",
              "port_here": 8080
            }
          ]
        }"#]]
    .assert_eq(&json(&status));
}

#[test]
fn progress_is_the_status_with_more_fields() {
    let value = serde_json::to_value(progress(vec![row("db-1", "nas", Phase::Ready, None)], true)).unwrap();
    assert_eq!((value["name"].as_str(), value["everywhere"].as_bool()), (Some("shop"), Some(true)));
    let back: UpProgress = serde_json::from_value(value).unwrap();
    assert!(back.everywhere);
}

#[test]
fn up_is_done_when_all_are_ready_and_everybody_knows() {
    use up::{Verdict::*, Wait, judge};
    let rows = |states: &[Phase]| {
        let row = |(at, state): (usize, &Phase)| row(&format!("web-{}", at + 1), "nas", *state, None);
        states.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let cases = [
        (&[Phase::Ready, Phase::Ready][..], true, Wait::Ready, Done),
        (&[Phase::Ready, Phase::Ready], false, Wait::Ready, Going),
        (&[Phase::Ready, Phase::Booted], true, Wait::Ready, Going),
        (&[Phase::Ready, Phase::Booted], false, Wait::Running, Done),
        (&[Phase::Ready, Phase::Starting], true, Wait::Running, Going),
        (&[Phase::Failed, Phase::Waiting], true, Wait::Ready, Stuck),
        (&[Phase::Failed, Phase::Starting], true, Wait::Ready, Going),
        (&[Phase::Stopped, Phase::Ready], true, Wait::Ready, Stuck),
        (&[Phase::Waiting], true, Wait::Ready, Going),
    ];
    for (states, everywhere, wait, verdict) in cases {
        assert_eq!(judge(&progress(rows(states), everywhere), wait), verdict, "{states:?} {wait:?}");
    }
}

#[test]
fn up_tells_what_changed_and_what_lacks() {
    let old = [row("db-1", "nas", Phase::Starting, None)];
    let new = vec![
        row("db-1", "nas", Phase::Ready, None),
        row("web-1", "attic", Phase::Fetching, None),
        row("web-2", "nas", Phase::Failed, Some("no space left")),
    ];
    let mut answer = progress(new, false);
    answer.fetching =
        vec![Fetching { host: "attic".into(), image: "tiny".into(), done: Some(5 << 20), bytes: 20 << 20 }];
    let text = format!(
        "{}\n{}\n{}",
        up::news(&old, &answer.status.machines).join("\n"),
        up::how_far(&answer),
        up::what_lacks(&answer)
    );
    expect![[r#"
        db-1 on nas ready
        web-1 on attic fetching
        web-2 on nas failed: no space left
        shop: 1/3 ready   attic fetches 5.0 MiB of 20 MiB of tiny   web-1 fetching   web-2 failed
        web-1 is fetching, web-2 is failed (no space left)"#]]
    .assert_eq(&text);
}

#[test]
fn down_is_partly_done_while_a_host_is_away() {
    let progress = |gone, away: &[&str]| DownProgress {
        id: shop(),
        name: "shop".into(),
        gone,
        remaining: Vec::new(),
        away: away.iter().map(|host| host.to_string()).collect(),
        because: vec!["the disk is full".into()],
    };
    assert_eq!(down::ending(&progress(true, &[])), None);
    assert_eq!(down::ending(&progress(true, &["attic"])).unwrap().kind, Kind::Partly);
    let late = down::ending(&progress(false, &["attic"])).unwrap();
    assert_eq!(late.kind, Kind::TimedOut);
    assert_eq!(late.because.unwrap(), "nothing is left but records: the disk is full");
}

#[test]
fn the_other_tables() {
    let hosts = Hosts {
        hosts: vec![
            HostRow {
                id: HostId([2; 32]),
                name: "nas".into(),
                state: MemberState::Up,
                path: Some(Path { kind: PathKind::Me, rtt_ms: None, via: None }),
                version: Some("0.1.0".into()),
                arch: Some("x86_64".into()),
                accelerator: Some(Accelerator::Kvm),
                cpus: Some(4),
                memory_mib: Some(16384),
                memory_used_mib: Some(4096),
                disk_mib: Some(102_400),
                runs_machines: Some(true),
                issuer: true,
                relay: Some("http://203.0.113.4:7440".into()),
                tags: [("room".to_owned(), "attic".to_owned())].into(),
            },
            HostRow {
                id: HostId([3; 32]),
                name: "attic".into(),
                state: MemberState::Down,
                path: None,
                version: None,
                arch: None,
                accelerator: None,
                cpus: None,
                memory_mib: None,
                memory_used_mib: None,
                disk_mib: None,
                runs_machines: None,
                issuer: false,
                relay: None,
                tags: Default::default(),
            },
        ],
    };
    let images = Images {
        images: vec![ImageRow {
            name: Some("tiny".into()),
            digest: Digest([0xab; 32]),
            size: 64 << 20,
            allocated: Some(9_437_184),
            arch: "x86_64".into(),
            hosts: vec!["attic".into(), "nas".into()],
            here: true,
        }],
    };
    let tokens = Tokens {
        tokens: vec![TokenRow {
            id: "3f9c0a1b2c".into(),
            issuer: Some("nas".into()),
            expires: Timestamp(1_795_132_799_999).to_string(),
            uses: 100,
            used: 2,
            admin: false,
            state: "live".into(),
        }],
    };
    let machines = [row("web-1", "nas", Phase::Ready, None)];
    let checks = Checks {
        checks: vec![
            Check {
                name: "qemu".into(),
                state: CheckState::Missing,
                what: "is not installed".into(),
                mend: Some("sudo apt-get install -y qemu-system-x86".into()),
            },
            Check {
                name: "ports".into(),
                state: CheckState::Ok,
                what: "7440 and 7441 are free".into(),
                mend: None,
            },
        ],
    };
    let event = Event::new(
        7,
        Timestamp(0),
        &"nas".parse().unwrap(),
        Fact::MemberUp { member: "attic".parse().unwrap() },
    );
    let all = [
        host::in_words(&hosts, None),
        image::in_words(&images, None),
        token::in_words(&tokens, None),
        session::machines(&machines, true, None),
        doctor::in_words(&checks, None),
        events::in_words(&event),
        host::in_words(&Hosts { hosts: Vec::new() }, None),
    ];
    expect![[r#"
        HOST   STATE  PATH  RTT  VERSION  ARCH    ACCEL  CPU  MEMORY                 DISK     ROLE           TAGS
        nas    up     self  -    0.1.0    x86_64  kvm    4    12 GiB of 16 GiB free  100 GiB  issuer, relay  room=attic
        attic  down   -     -    -        -       -      -    -                      -        -              -

        IMAGE  BLAKE3      SIZE    STORED   ARCH    HERE  HOSTS
        tiny   ababababab  64 MiB  9.0 MiB  x86_64  yes   attic, nas

        TOKEN       STATE  USED   MAKES    EXPIRES                   ISSUER
        3f9c0a1b2c  live   2/100  members  2026-11-19T23:59:59.999Z  nas

        MACHINE     HOST  STATE  GUARD  EPOCH  ADDRESS     REASON
        shop/web-1  nas   ready  hold   1      10.64.7.11

                 CHECK  SEEN
        MISSING  qemu   is not installed
        ok       ports  7440 and 7441 are free
        mend qemu: sudo apt-get install -y qemu-system-x86

             7  1970-01-01T00:00:00.000Z  attic is up

        HOST  STATE  PATH  RTT  VERSION  ARCH  ACCEL  CPU  MEMORY  DISK  ROLE  TAGS"#]].assert_eq(&all.join("\n\n"));
    expect![[r#"
        {
          "id": "0303030303030303030303030303030303030303030303030303030303030303",
          "name": "attic",
          "state": "down",
          "path": null,
          "version": null,
          "arch": null,
          "accelerator": null,
          "cpus": null,
          "memory_mib": null,
          "memory_used_mib": null,
          "disk_mib": null,
          "runs_machines": null,
          "issuer": false,
          "relay": null,
          "tags": {}
        }"#]]
    .assert_eq(&json(&hosts.hosts[1]));
    expect![[r#"
        [
          {
            "images": [
              {
                "name": "tiny",
                "digest": "abababababababababababababababababababababababababababababababab",
                "size": 67108864,
                "allocated": 9437184,
                "arch": "x86_64",
                "hosts": [
                  "attic",
                  "nas"
                ],
                "here": true
              }
            ]
          },
          {
            "tokens": [
              {
                "id": "3f9c0a1b2c",
                "issuer": "nas",
                "expires": "2026-11-19T23:59:59.999Z",
                "uses": 100,
                "used": 2,
                "admin": false,
                "state": "live"
              }
            ]
          },
          {
            "name": "web-1",
            "group": "web",
            "session": "shop",
            "session_id": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
            "host": "nas",
            "state": "ready",
            "guard": "hold",
            "epoch": 1,
            "address": "10.64.7.11",
            "reason": null
          }
        ]"#]]
    .assert_eq(&json(&(images, tokens, &machines[0])));
}

#[test]
fn values_are_read_and_written() {
    let durations = ["90s", "5m", "2h", "7d", "250ms"].map(|text| value::duration(text).unwrap().as_millis());
    assert_eq!(durations, [90_000, 300_000, 7_200_000, 604_800_000, 250]);
    for wrong in ["", "5", "m", "5 m", "-5m", "5w", "99999999999999999999d", "18446744073709551615d"] {
        assert!(value::duration(wrong).is_err(), "{wrong}");
    }
    assert_eq!(value::tag("room=attic"), Ok(("room".into(), "attic".into())));
    assert!(value::tag("room").is_err() && value::tag("=x").is_err() && value::tag("a=b c").is_err());
    let names = ["NAS.local", "my_pc", "3com", "---", "a-", "ö"]
        .map(|host| value::name_of(host).map(|name| name.to_string()));
    assert_eq!(
        names,
        [Some("nas".into()), Some("my-pc".into()), Some("com".into()), None, Some("a".into()), None]
    );
    assert_eq!([5, 65, 3700, 90_000].map(value::span), ["5s", "1m5s", "1h1m", "1d1h"]);
    let sizes = [0, 1023, 1536, 212 << 20, 5 << 40].map(ui::bytes);
    assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "212 MiB", "5.0 TiB"]);
    assert_eq!(image::name_of("https://x.org/a/Tiny-1.qcow2?x=1"), Some("tiny-1".into()));
    assert_eq!(image::name_of("https://x.org"), None);
}

#[test]
fn services_are_named_by_group_session_and_service() {
    let open = service::parse("web.shop/http").unwrap();
    assert_eq!(
        (open.group.as_str(), open.session.as_str(), open.service),
        ("web", "shop", Some("http".parse().unwrap()))
    );
    assert_eq!(service::parse("web.shop").unwrap().service, None);
    for wrong in ["web", "web.", ".shop", "Web.shop", "web.shop/"] {
        assert_eq!(service::parse(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
    }
}

#[test]
fn secrets_are_not_in_debug_text() {
    let join = JoinRequest { token: "hush".into(), name: None };
    let made = TokenCreated {
        id: "3f".into(),
        token: "hush".into(),
        expires: String::new(),
        uses: 1,
        addresses: Vec::new(),
    };
    assert!(!format!("{join:?} {made:?}").contains("hush"));
}

#[test]
fn verbs_are_what_they_say() {
    let Noun::Machine(machine::Verb::Dial { machine, port }) =
        parse("machine dial shop/web-1 22").unwrap().noun
    else {
        panic!("dial is a verb of machine");
    };
    assert_eq!((machine.as_str(), port), ("shop/web-1", 22));
    assert!(matches!(
        parse("config show --default").unwrap().noun,
        Noun::Config(config::Verb::Show { default: true, .. })
    ));
}
