//! The status screen and the tables of lists.

use super::*;

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
        browser: Some("http://localhost:7080/".into()),
        socks: None,
        interface: None,
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
        level: LEVEL,
        below: vec![],
    }
}

#[test]
fn the_status_screen() {
    expect![[r#"
        host  nas (0202020202)   mesh home   agent 0.1.0   accelerator tcg   up 3d4h
        dns   127.0.0.1:5300   relay -   browser http://localhost:7080/   socks -

        MEMBER  STATE  PATH             RTT
        nas     up     self             -
        attic   up     relayed via vps  48.2 ms
        cellar  down   -                -

        SESSION  STATE    READY  COORDINATOR  ID
        shop     healthy  3/3    nas          0a0a0a0a

        warning: cellar is down
        hint: agent host list"#]]
    .assert_eq(&status::in_words(&status(), None));
}

#[test]
fn who_runs_an_older_version_is_named_and_nothing_is_said_while_all_are_alike() {
    let told = |below: &[(&str, Option<u32>)]| {
        let one = |(host, level): &(&str, Option<u32>)| Understands {
            host: (*host).to_owned(),
            level: level.map(Level::from),
        };
        let (level, below) = (Level::FIRST, below.iter().map(one).collect());
        let text = status::in_words(&Status { level, below, ..status() }, None);
        text.lines().filter(|line| line.starts_with("level")).collect::<Vec<_>>().join("|")
    };
    assert_eq!(told(&[]), "");
    assert_eq!(told(&[("cellar", Some(1))]), "level 1: cellar runs an older version");
    assert_eq!(
        told(&[("attic", Some(1)), ("cellar", Some(1)), ("vps", None)]),
        "level 1: attic, cellar run older versions; vps has never told its version"
    );
}

#[test]
fn the_status_in_json() {
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
          "browser": "http://localhost:7080/",
          "socks": null,
          "interface": null,
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
          "health": [],
          "level": 8,
          "below": []
        }"#]]
    .assert_eq(&json(&status()));
}

fn hosts() -> Hosts {
    Hosts {
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
                capabilities: Capability::ALL.into(),
                relay: Some("http://203.0.113.4:7440".into()),
                tags: [("room".to_owned(), "attic".to_owned())].into(),
            },
            HostRow {
                capabilities: vec![Capability::Run, Capability::Store],
                ..HostRow::bare(HostId([3; 32]), "attic".into(), MemberState::Down)
            },
        ],
    }
}

#[test]
fn hosts_are_listed_with_what_they_offer() {
    let hosts = hosts();
    expect![[r#"
        HOST   STATE  PATH  RTT  VERSION  ARCH    ACCEL  CPU  MEMORY                 DISK     ROLE           TAGS
        nas    up     self  -    0.1.0    x86_64  kvm    4    12 GiB of 16 GiB free  100 GiB  issuer, relay  room=attic
        attic  down   -     -    -        -       -      -    -                      -        -              -"#]]
    .assert_eq(&host::in_words(&hosts, None));
    let full = host::in_full(&hosts, None);
    let ends: Vec<&str> = full.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
    assert_eq!(ends, ["MAY", "everything", "run, store"]);
    expect![[r#"
        HOST  STATE  PATH  RTT  VERSION  ARCH  ACCEL  CPU  MEMORY  DISK  ROLE  TAGS"#]]
    .assert_eq(&host::in_words(&Hosts { hosts: Vec::new() }, None));
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
          "capabilities": [
            "run",
            "store"
          ],
          "relay": null,
          "tags": {}
        }"#]]
    .assert_eq(&json(&hosts.hosts[1]));
}

fn images() -> Images {
    Images {
        images: vec![ImageRow {
            name: Some("tiny".into()),
            digest: Digest([0xab; 32]),
            size: 64 << 20,
            allocated: Some(9_437_184),
            arch: "x86_64".into(),
            hosts: vec!["attic".into(), "nas".into()],
            here: true,
        }],
    }
}

fn tokens() -> Tokens {
    Tokens {
        tokens: vec![TokenRow {
            id: "3f9c0a1b2c".into(),
            issuer: Some("nas".into()),
            expires: Timestamp(1_795_132_799_999).to_string(),
            uses: 100,
            used: 2,
            admin: false,
            capabilities: vec![Capability::Run],
            state: "live".into(),
        }],
    }
}

#[test]
fn images_tokens_and_machines_are_listed() {
    let (images, tokens) = (images(), tokens());
    let machines = [row("web-1", "nas", Phase::Ready, None)];
    expect![[r#"
        IMAGE  BLAKE3      SIZE    STORED   ARCH    HERE  HOSTS
        tiny   ababababab  64 MiB  9.0 MiB  x86_64  yes   attic, nas"#]]
    .assert_eq(&image::in_words(&images, None));
    expect![[r#"
        TOKEN       STATE  USED   MAKES    MAY  EXPIRES                   ISSUER
        3f9c0a1b2c  live   2/100  members  run  2026-11-19T23:59:59.999Z  nas"#]]
    .assert_eq(&token::in_words(&tokens, None));
    expect![[r#"
        MACHINE     HOST  STATE  GUARD  EPOCH  ADDRESS     REASON
        shop/web-1  nas   ready  hold   1      10.64.7.11"#]]
    .assert_eq(&session::machines(&machines, true, None));
}

#[test]
fn images_tokens_and_machines_in_json() {
    let row = row("web-1", "nas", Phase::Ready, None);
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
                "capabilities": [
                  "run"
                ],
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
            "reason": null,
            "why": null
          }
        ]"#]]
    .assert_eq(&json(&(images(), tokens(), row)));
}

#[test]
fn what_machines_have_open_is_a_table() {
    let shim = |machine: &str, session, outside, inside| ShimInternals {
        machine: machine.into(),
        session,
        epoch: 1,
        pid: 7,
        descriptors: 20,
        tasks: None,
        dials: None,
        callers: None,
        anonymous_kib: None,
        outside,
        inside,
    };
    let outside = Outside {
        connections: 3,
        sockets: 2,
        waiting_bytes: 5000,
        denied: 7,
        full: 0,
        uncarried: 1,
        spoofed: 9,
        malformed: 1,
    };
    let inside = Inside {
        sent: Packets { packets: 7, bytes: 9000 },
        received: Packets { packets: 0, bytes: 0 },
        refused: 2,
        misrouted: 1,
        ignored: 30,
    };
    let shims = vec![
        shim("web-1", shop(), Some(outside), Some(inside)),
        shim("db-1", SessionId([11; 16]), None, None),
    ];
    let host = |host: &str, lost| HostFlows {
        host: host.into(),
        sent: inside.sent,
        in_two: 3,
        received: Packets { packets: 12, bytes: 40 },
        lost,
    };
    let lost = Lost { stale: 4, queue_full: 1, ..Lost::default() };
    let hosts = vec![host("attic", Lost::default()), host("nas", lost)];
    let held = Internals { pid: 1, descriptors: 9, tasks: 9, flows: 0, anonymous_kib: None, shims, hosts };
    let flows = net::flows(held, &Sessions { sessions: status().sessions });
    expect![[r#"
        MACHINE                                CONNECTIONS  SOCKETS  WAITING  DENIED  FULL  OTHER  FORGED
        shop/web-1                             3            2        5 KiB    7       0     2      9
        0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b/db-1  -            -        -        -       -     -      -

        MACHINE                                SENT       RECEIVED  REFUSED  IGNORED  MISROUTED
        shop/web-1                             7 (9 KiB)  0         2        30       1
        0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b/db-1  -          -         -        -        -

        HOST   SENT       IN TWO  RECEIVED    LOST
        attic  7 (9 KiB)  3       12 (1 KiB)  0
        nas    7 (9 KiB)  3       12 (1 KiB)  4 stale, 1 too many"#]]
    .assert_eq(&net::in_words(&flows, None));
}

#[test]
fn ways_to_hosts_are_a_table_and_a_ping_a_line() {
    let way = |host: &str, kind: Option<PathKind>, via: Option<&str>, address: Option<&str>| PathRow {
        host: host.into(),
        state: if kind.is_some() { MemberState::Up } else { MemberState::Down },
        kind,
        rtt_ms: kind.map(|_| 12.34),
        via: via.map(str::to_owned),
        address: address.map(str::to_owned),
    };
    let relayed = way("laptop", Some(PathKind::Relayed), Some("vps"), Some("http://203.0.113.7:7440"));
    let rows = [
        relayed,
        way("nas", Some(PathKind::Direct), None, Some("192.0.2.7:7440")),
        way("pi", None, None, None),
    ];
    expect![[r#"
        HOST    STATE  PATH             RTT      ADDRESS
        laptop  up     relayed via vps  12.3 ms  http://203.0.113.7:7440
        nas     up     direct           12.3 ms  192.0.2.7:7440
        pi      down   -                -        -"#]]
    .assert_eq(&net::ways(&rows, None));
    let ways: Vec<String> = rows.iter().map(ping::way).collect();
    let expected = ["relayed via vps http://203.0.113.7:7440", "direct 192.0.2.7:7440", "not known"];
    assert_eq!(ways, expected);
    let answer = |ms: f64| Pinged { ms, path: rows[1].clone() };
    let pings = ping::sum("nas".into(), 4, [3.0, 1.0, 2.0].map(answer).into());
    assert_eq!(ping::in_words(&pings), "3 of 4 answered: least 1.0, half within 2.0, most 3.0 ms");
    assert_eq!(ping::in_words(&ping::sum("nas".into(), 1, Vec::new())), "0 of 1 answered");
}

/// A host whose UDP does not pass.
fn blocked() -> NetCheck {
    let standing = Standing::UdpBlocked;
    let address = |address: &str, published, because: &str| AddressRow {
        address: address.into(),
        published,
        because: because.into(),
    };
    NetCheck {
        host: "nas".into(),
        standing,
        because: standing.to_string(),
        next: standing.next().map(str::to_owned),
        udp: Udp::Blocked,
        nat: Some(Mapping::EndpointDependent),
        public: vec!["203.0.113.9:31111".into()],
        mapped: Some("203.0.113.9:7440".into()),
        proved: None,
        fallback: Some("https://relay.example".into()),
        relay: None,
        relays: vec![
            RelayRow {
                host: Some("vps".into()),
                url: "http://203.0.113.7:7440".into(),
                home: true,
                connected: Some(true),
            },
            RelayRow { host: None, url: "https://relay.example".into(), home: false, connected: None },
        ],
        addresses: vec![
            address("192.168.1.2:7440", true, "on a LAN"),
            address("172.17.0.1:7440", false, "inside this computer"),
        ],
        traffic: TrafficRow {
            seconds: 600,
            sent_bytes: 2048,
            received_bytes: 4096,
            idle_sent_bps: Some(3.4),
            idle_received_bps: Some(6.8),
        },
    }
}

#[test]
fn how_a_host_stands_is_a_sentence_and_tables() {
    let mut check = blocked();
    expect![[r#"
        nas: UDP does not pass here: everything goes through relays, by TCP
        hint: agent doctor    names the ports that this host's firewall must let pass

        udp      does not pass; TCP does
        router   gives another port for each destination: direct ways are found to some
        seen at  203.0.113.9:31111
        way in   the router maps 203.0.113.9:7440; the fallback relay https://relay.example
        relay    none is served here
        traffic  2.0 KiB sent and 4.0 KiB received in 10m0s; at rest 3 and 7 bytes a second

        ADDRESS           PUBLISHED  WHY
        192.168.1.2:7440  yes        on a LAN
        172.17.0.1:7440   no         inside this computer

        RELAY OF  URL                      USE
        vps       http://203.0.113.7:7440  others reach this host through it
        -         https://relay.example    offered"#]]
    .assert_eq(&check::in_words(&check, None));
    (check.next, check.traffic.idle_sent_bps, check.relays) = (None, None, Vec::new());
    (check.mapped, check.fallback) = (None, None);
    let quiet = check::in_words(&check, None);
    assert!(!quiet.contains("hint") && !quiet.contains("at rest") && !quiet.contains("RELAY OF"), "{quiet}");
}

#[test]
fn distances_are_a_matrix_and_many_are_a_list() {
    let rtt = |from: &str, to: &str, kind| RttRow { from: from.into(), to: to.into(), rtt_ms: 12.34, kind };
    let rtts = vec![rtt("nas", "vps", PathKind::Direct), rtt("vps", "nas", PathKind::Relayed)];
    let mut all =
        Rtts { hosts: vec!["nas".into(), "pi".into(), "vps".into()], rtts, silent: vec!["pi".into()] };
    expect![[r#"
        FROM  nas        pi  vps
        nas   -          -   12.3 ms
        pi    -          -   -
        vps   12.3 ms r  -   -

        no answer: pi"#]]
    .assert_eq(&host::distances(&all, None));
    all.hosts.extend((0..9).map(|number| format!("host{number}")));
    all.silent.clear();
    expect![[r#"
        FROM  TO   RTT
        nas   vps  12.3 ms
        vps   nas  12.3 ms r"#]]
    .assert_eq(&host::distances(&all, None));
}

#[test]
fn checks_and_events_are_lines() {
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
    let both = [doctor::in_words(&checks, None), events::in_words(&event)];
    expect![[r#"
                 CHECK  SEEN
        MISSING  qemu   is not installed
        ok       ports  7440 and 7441 are free
        mend qemu: sudo apt-get install -y qemu-system-x86

             7  1970-01-01T00:00:00.000Z  attic is up"#]]
    .assert_eq(&both.join("\n\n"));
}
