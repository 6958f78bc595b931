//! What is typed: arguments, values, help, and the words and exit codes of failures.

use super::*;

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
        "join mesh1abc --name attic --replace attic",
        "host list",
        "host evict attic --yes --now",
        "host remove attic --yes",
        "host rename attic loft",
        "host promote attic",
        "host demote attic",
        "leave --yes",
        "service list",
        "service open web.shop/http --json",
        "service forward 8080:http.web.shop --json",
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
    let args = |line: &str| line.split(' ').map(std::ffi::OsString::from).collect::<Vec<_>>();
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
        (Kind::NotDirect, 8),
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
            "why": null,
            "next": "agent session list"
          }
        }"#]]
    .assert_eq(&json(&ErrorBody { error }));
}

#[test]
fn every_help_text_teaches() {
    let mut text = String::new();
    help(Cli::command().term_width(100), "agent", &mut text);
    expect_file!["../help.txt"].assert_eq(&text);
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
fn what_goes_with_a_host_is_said_before_anybody_is_asked() {
    let lost = |session: &str, machines: &[&str], votes, stands| SessionLoss {
        session: session.into(),
        machines: machines.iter().map(|machine| (*machine).into()).collect(),
        votes,
        stands,
    };
    let loss = HostLoss {
        host: "attic".into(),
        state: MemberState::Down,
        here: false,
        sessions: vec![lost("blog", &[], true, false), lost("shop", &["db-1", "web-2"], true, true)],
        published: vec!["photos".into()],
        tokens: vec!["3f9c0a1b2c".into()],
        last_issuer: true,
        older: vec!["nas".into()],
    };
    expect![[r#"
        blog: loses a vote on attic; no majority of its voters is left
        shop: loses db-1, web-2 and their disks and a vote on attic
        names that go: photos
        tokens that end: 3f9c0a1b2c
        attic alone may admit hosts: without it nobody can, but by the recovery phrase
        older agents go on talking to it until they are updated: nas"#]]
    .assert_eq(&host::losses(&loss, "evict").join("\n"));
    assert_eq!(host::losses(&loss, "remove").len(), 4, "its tokens live on, and nobody is cut off");
}

#[test]
fn a_token_that_nobody_could_use_is_not_made() {
    for line in ["token create --expires 0s", "token create --expires 500ms", "token create --uses 0"] {
        assert!(parse(line).is_err(), "{line}");
    }
}
