//! A session by itself, and on its way up and down.

use super::*;

fn lan() -> [LanRow; 2] {
    let row = |host: &str, url: Option<&str>, because: Option<&str>| LanRow {
        host: host.into(),
        port: 8080,
        url: url.map(str::to_owned),
        because: because.map(str::to_owned),
    };
    [
        row("nas", Some("http://192.168.1.2:8080"), None),
        row("attic", None, Some("nginx (process 12) has port 8080")),
    ]
}

fn session_status(machines: Vec<MachineRow>) -> SessionStatus {
    let service = |group: &str, name: &str, port, here: Option<u16>| ServiceRow {
        name: name.into(),
        group: group.into(),
        session: "shop".into(),
        port,
        protocol: proto::topology::Protocol::Tcp,
        fqdn: format!("{group}.shop.mesh.internal"),
        address_here: here.map(|_| "127.64.3.9".into()),
        port_here: here,
        url: here.map(|_| format!("http://{group}.shop.localhost:7080/")),
        machines: 2,
        ready: here.map_or(0, |_| 1),
        draining: here.map_or(0, |_| 1),
        refused: here.map_or(0, |_| 3),
        lan: here.map(|_| lan()).into_iter().flatten().collect(),
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
        level: LEVEL,
        below: vec![],
    }
}

fn progress(machines: Vec<MachineRow>, everywhere: bool) -> UpProgress {
    let status = session_status(machines);
    UpProgress { status, everywhere, behind: Vec::new(), fetching: Vec::new(), away: Vec::new() }
}

fn shop_starting() -> SessionStatus {
    session_status(vec![
        row("db-1", "nas", Phase::Ready, None),
        row("web-1", "attic", Phase::Waiting, Some("needs db")),
    ])
}

#[test]
fn a_session_shows_machines_and_services() {
    let status = shop_starting();
    expect![[r#"
        session shop (0a0a0a0a)   starting   plan 3   coordinator nas   voters attic, cellar, nas   network 10.64.7.0/24

        MACHINE  HOST   STATE    GUARD  EPOCH  ADDRESS     REASON
        db-1     nas    ready    hold   1      10.64.7.11
        web-1    attic  waiting  hold   1      10.64.7.11  needs db

        NAME                    SERVICE   PORT  HERE             MACHINES
        db.shop.mesh.internal   postgres  5432  on demand        0 of 2 ready
        web.shop.mesh.internal  http      80    127.64.3.9:8080  1 of 2 ready, 1 draining, 3 connections refused
        browse: http://web.shop.localhost:7080/
        LAN: http.web.shop is published at nas:8080, http://192.168.1.2:8080
        LAN: http.web.shop is not published at attic:8080: nginx (process 12) has port 8080

        note: every machine behaves as `hold`: it waits for its host and is never started on another one"#]].assert_eq(&session::in_words(&status, None));
}

#[test]
fn a_session_names_those_that_do_not_understand_it() {
    let below = vec![Understands { host: "cellar".into(), level: Some(Level::FIRST) }];
    let told = session::in_words(&SessionStatus { below, ..shop_starting() }, None);
    let note =
        "note: cellar runs an older version; such a host neither votes here nor gets machines: this session";
    assert!(told.contains(&format!("{note} is of level {LEVEL}")), "{told}");
}

#[test]
fn a_session_in_json() {
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
              "reason": null,
              "why": null
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
              "reason": "needs db",
              "why": null
            }
          ],
          "services": [
            {
              "name": "postgres",
              "group": "db",
              "session": "shop",
              "port": 5432,
              "protocol": "tcp",
              "fqdn": "db.shop.mesh.internal",
              "address_here": null,
              "port_here": null,
              "url": null,
              "machines": 2,
              "ready": 0,
              "draining": 0,
              "refused": 0,
              "lan": []
            },
            {
              "name": "http",
              "group": "web",
              "session": "shop",
              "port": 80,
              "protocol": "tcp",
              "fqdn": "web.shop.mesh.internal",
              "address_here": "127.64.3.9",
              "port_here": 8080,
              "url": "http://web.shop.localhost:7080/",
              "machines": 2,
              "ready": 1,
              "draining": 1,
              "refused": 3,
              "lan": [
                {
                  "host": "nas",
                  "port": 8080,
                  "url": "http://192.168.1.2:8080",
                  "because": null
                },
                {
                  "host": "attic",
                  "port": 8080,
                  "url": null,
                  "because": "nginx (process 12) has port 8080"
                }
              ]
            }
          ],
          "level": 8,
          "below": []
        }"#]]
    .assert_eq(&json(&shop_starting()));
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
        behind: Vec::new(),
        because: vec!["the disk is full".into()],
    };
    assert_eq!(down::ending(&progress(true, &[])), None);
    let partly = down::ending(&progress(true, &["attic", "pi"])).unwrap();
    assert_eq!(partly.kind, Kind::Partly);
    assert_eq!(partly.next.unwrap(), "if it never does: agent host remove attic; agent host remove pi");
    let late = down::ending(&progress(false, &["attic"])).unwrap();
    assert_eq!(late.kind, Kind::TimedOut);
    assert_eq!(late.because.unwrap(), "nothing is left but records: the disk is full");
}
