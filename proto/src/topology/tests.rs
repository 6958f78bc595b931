//! What people write, and what they are told.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::{Diagnostic, Intent, parse};

fn check(text: &str, expected: Expect) {
    let (topology, found) = parse(text);
    assert_eq!(topology.is_some(), found.is_empty(), "a topology comes with mistakes, or neither comes");
    let line = |d: &Diagnostic| {
        let line = d.line.map_or("-".to_owned(), |line| line.to_string());
        format!("{line}: {}\n   {}\n", d.what, d.hint)
    };
    let shown = match topology {
        Some(topology) => format!("{topology:#?}\n"),
        None => found.iter().map(line).collect(),
    };
    expected.assert_eq(&shown);
}

#[test]
fn the_smallest_topology_has_defaults_for_everything_else() {
    check(
        "session = \"s\"\n[machines.a]\nimage = \"tiny\"\n",
        expect![[r#"
            Topology {
                session: s,
                groups: {
                    a: Group {
                        image: Named(
                            "tiny",
                        ),
                        cpus: 1,
                        memory_mib: 512,
                        disk_mib: None,
                        count: 1,
                        role: None,
                        needs: {},
                        failover: Restart,
                        restart: Always,
                        place: Place {
                            spread_host: false,
                            tags: {},
                            hosts: {},
                            near: {},
                            apart: {},
                        },
                        setup: [],
                        files: {},
                        env: {},
                        ssh_keys: [],
                        user: None,
                        services: {},
                        egress: Internet,
                    },
                },
            }
        "#]],
    );
}

#[test]
fn everything_that_works_in_this_version_can_be_written() {
    let text = r#"
session = "shop"
[defaults]
image = "tiny"
env = { A = "1", B = "2" }
[machines.db]
cpus = 2
memory = "1GB"
disk = "8g"
role = "database"
failover = "hold"
egress = "none"
[machines.db.services.postgres]
port = 5432
ready = { tcp = true, interval = "500ms", grace = "5m" }
[machines.web]
image = "blake3:0101010101010101010101010101010101010101010101010101010101010101"
count = 2
needs = ["db"]
restart = "on-failure"
place = { spread = "host", tags = { room = "attic" }, hosts = ["nas"], near = ["db"] }
setup = ["echo hello"]
files = { "/etc/app.toml" = "app.toml", "/bin/x" = { source = "x", mode = "0755", owner = "root:root" } }
env = { B = "3" }
ssh_keys = ["~/.ssh/id.pub"]
user = "me"
services.http = { port = 80, ready = { http = "/" } }
"#;
    let (topology, found) = parse(text);
    assert_eq!(found, []);
    let topology = topology.unwrap();
    let web = &topology.groups[&"web".parse().unwrap()];
    assert_eq!((web.env["A"].as_str(), web.env["B"].as_str()), ("1", "3"));
    assert_eq!(web.files["/bin/x"].mode, 0o755);
    let db = &topology.groups[&"db".parse().unwrap()];
    assert_eq!((db.memory_mib, db.disk_mib, db.cpus), (1024, Some(8192), 2));
    assert_eq!(db.services.values().next().unwrap().ready.as_ref().unwrap().grace_ms, 300_000);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    check(
        r#"session = "Shop"
colour = "red"
[machines.web]
imgae = "tiny"
memory = "512X"
cpus = 0
needs = ["bd"]
replicas = 3
restart = "sometimes"
files = { "etc/x" = "x" }
[machines.web.services.http]
prot = 80
[machines.db-1]
image = "tiny"
"#,
        expect![[r#"
            1: session: "Shop" is no name: a letter a-z, then letters, digits and '-', 31 characters at most
               choose another name
            2: unknown key colour
               known keys here: defaults, machines, session
            3: machines.web has no image
               write image = "NAME"
            4: unknown key machines.web.imgae
               did you mean image?
            5: machines.web.memory = "512X" is no size
               write a number and a unit, such as "512M", "2G" or "2GiB"
            6: machines.web.cpus = 0 is out of range
               write a number from 1 to 256
            8: unknown key machines.web.replicas
               known keys here: arch, count, cpus, disk, egress, env, env_file, failover, files, firmware, image, memory, needs, place, restart, role, secret, services, setup, ssh_keys, start, user, user_data, volumes
            9: machines.web.restart = "sometimes" is not known
               write "always" or "on-failure" or "never"
            10: machines.web.files.etc/x is no absolute path of a file
               write the full path in the machine, such as "/etc/app.toml"
            11: machines.web.services.http has no port
               write port = NUMBER
            12: unknown key machines.web.services.http.prot
               did you mean port?
            13: the group db-1 ends in a number
               machines are numbered by us: web-1, web-2; choose a name without a number at the end
        "#]],
    );
}

#[test]
fn what_comes_later_is_refused_by_name_and_never_ignored() {
    check(
        r#"session = "s"
[machines.a]
image = { x86_64 = "tiny" }
volumes.data = { size = "1GiB", mount = "/data" }
user_data = "x"
gpu = true

[machines.b]
image = "https://example.org/disk.qcow2"
[machines.c]
image = "./disk.qcow2"
"#,
        expect![[r#"
            3: machines.a.image per architecture is not supported yet
               name one image; hosts of other architectures are not chosen
            4: machines.a.volumes is not supported yet
               disks are lost with their machine in this version
            5: machines.a.user_data is not supported yet
               use setup, files and env
            6: machines.a.gpu is not supported: devices are not passed through
               remove it
            9: machines.b.image: an URL is not supported yet
               fetch it first: agent image pull URL --sha256 HEX --name NAME, then image = "NAME"
            11: machines.c.image: a path is not supported yet
               import it first: agent image import PATH --name NAME, then image = "NAME"
        "#]],
    );
}

#[test]
fn groups_may_only_need_what_exists_and_never_in_a_circle() {
    check(
        r#"session = "host"
[defaults]
image = "tiny"
[machines.a]
needs = ["b"]
[machines.b]
needs = ["c"]
[machines.c]
needs = ["a", "d"]
services.x = { port = 80 }
services.y = { port = 80 }
[machines.e]
needs = ["e"]
env = { "A-B" = "1" }
"#,
        expect![[r#"
            1: the name host is reserved
               choose another name
            4: the groups need each other in a circle: a -> b -> c -> a
               remove one of these needs
            8: machines.c.needs names d, which is no group
               groups here: a, b, c, e
            8: machines.c: the services x and y have the same port 80
               give each service its own port
            12: machines.e.needs names the group itself
               remove it
            12: machines.e.env: "A-B" is no name of a variable
               use letters, digits and _
        "#]],
    );
}

#[test]
fn broken_toml_is_told_with_its_line() {
    check(
        "session = \"s\"\n[machines.a\nimage = \n",
        expect![[r#"
            2: unclosed table, expected `]`
               this is not TOML: https://toml.io
        "#]],
    );
}

#[test]
fn an_empty_file_says_what_to_write() {
    check(
        "",
        expect![[r#"
            -: the session has no name
               write session = "NAME" at the top
        "#]],
    );
    check(
        "session = \"s\"\n",
        expect![[r#"
        -: the topology has no machines
           add a table such as [machines.web]
    "#]],
    );
}

#[test]
fn sizes_beyond_reason_are_mistakes_of_the_file() {
    let sizes = |memory: &str, disk: &str| {
        format!("session = \"s\"\n[machines.a]\nimage = \"tiny\"\nmemory = {memory}\ndisk = {disk}\n")
    };
    check(
        &sizes("\"1MiB\"", "\"16777215TiB\""),
        expect![[r#"
        4: machines.a.memory = "1MiB" is too small
           no guest that is made for virtual machines boots with less than 64MiB
        5: machines.a.disk = "16777215TiB" is too large
           at most 64TiB are possible
    "#]],
    );
    check(
        &sizes("512", "\"8\""),
        expect![[r#"
        4: machines.a.memory is an integer, not a size in quotes with its unit, such as "512M"
           write a size in quotes with its unit, such as "512M"
        5: machines.a.disk = "8" is no size
           say the unit, such as "512M" or "2G"
    "#]],
    );
    check(
        &sizes("\"99999999999999999999T\"", "\"64K\""),
        expect![[r#"
        4: machines.a.memory = "99999999999999999999T" is no size
           it is larger than anything that can be stored
        5: machines.a.disk = "64K" is no size
           write a whole number of MiB from 1 on, such as "512M"
    "#]],
    );
    check(
        &sizes("\"1.5.5G\"", "\"-1G\""),
        expect![[r#"
        4: machines.a.memory = "1.5.5G" is no size
           write a number and a unit, such as "512M", "2G" or "2GiB"
        5: machines.a.disk = "-1G" is no size
           write a number and a unit, such as "512M", "2G" or "2GiB"
    "#]],
    );
}

#[test]
fn texts_that_no_system_takes_are_mistakes_of_the_file() {
    check(
        r#"session = "s"
[machines.a]
image = "tiny"
setup = ["echo \u0000"]
env = { A = "x\u0000y" }
[machines.a.files]
"/etc/../root/.profile" = "x"
"/etc/./x" = "x"
"/etc/a\u0000b" = "x"
"/etc/fine" = "../beside/app.toml"
"#,
        expect![[r#"
            4: machines.a.setup holds a NUL character
               remove it: no system reads on behind it
            5: machines.a.env.A holds a NUL character
               remove it: no system reads on behind it
            7: machines.a.files./etc/../root/.profile is no plain path of a file
               write the path without . and .. and line ends, as `realpath` prints it
            8: machines.a.files./etc/./x is no plain path of a file
               write the path without . and .. and line ends, as `realpath` prints it
            9: machines.a.files./etc/a\0b is no plain path of a file
               write the path without . and .. and line ends, as `realpath` prints it
        "#]],
    );
}

#[test]
fn texts_of_all_machines_are_bounded_by_their_number_too() {
    let lines = |count: usize| vec!["\"x\""; count].join(", ");
    let text = |count| {
        format!("session = \"s\"\n[machines.a]\nimage = \"tiny\"\ncount = 200\nsetup = [{}]\n", lines(count))
    };
    let checked = |count| {
        let (topology, mistakes) = parse(&text(count));
        assert_eq!(mistakes, []);
        let intent =
            Intent { topology: topology.unwrap(), files: BTreeMap::new(), ssh_keys: BTreeMap::new() };
        intent.flaws().first().map(|flaw| flaw.what.clone())
    };
    assert_eq!(checked(50), None);
    assert_eq!(
        checked(51).as_deref(),
        Some("setup, env, files and keys are 10200, counted for each machine")
    );
}

#[test]
fn no_file_is_the_directory_of_another() {
    check(
        r#"session = "s"
[machines.a]
image = "tiny"
[machines.a.files]
"/srv/a" = "x"
"/srv/ab/c" = "x"
"/srv/a/b/c" = "x"
"#,
        expect![[r#"
            7: machines.a.files./srv/a/b/c would be inside /srv/a, which is a file
               choose another path
        "#]],
    );
}

#[test]
fn a_line_end_of_another_system_is_a_line_end() {
    let text = "session = \"s\"\r\n[machines.a]\r\nimage = \"tiny\"\r\nsetup = [\"\"\"\r\nif true; then\r\n  echo a\r\nfi\r\n\"\"\"]\r\n";
    let (topology, found) = parse(text);
    assert_eq!(found, []);
    assert_eq!(topology.unwrap().groups[&"a".parse().unwrap()].setup, ["if true; then\n  echo a\nfi\n"]);
}

#[test]
fn files_of_absurd_size_are_answered_at_once() {
    // A rule that grows with the square of a file would be ended by the time limit of the tests.
    check(
        "session = \"s\"\n[machines.a]\nimage = \"tiny\"\ncount = 4294967295\n",
        expect![[r#"
        4: machines.a.count = 4294967295 is out of range
           write a number from 1 to 200
    "#]],
    );
    let group = |i: usize| format!("[machines.g{i}x]\nneeds = [\"g{}x\", \"nobody\"]\nimage = \"\"\n", i + 1);
    let text: String = (0..4_000).map(group).collect();
    let (topology, found) = parse(&text);
    assert!(topology.is_none() && found.len() > 4_000, "{}", found.len());
    assert!(found.iter().any(|mistake| mistake.what == "the topology has 4000 groups"));
    let bytes: usize = found.iter().map(|mistake| mistake.what.len() + mistake.hint.len()).sum();
    assert!(bytes < 10 * text.len(), "{bytes} bytes about {}", text.len());
    let keys: String = (0..20_000).map(|i| format!("k{i} = 1\n")).collect();
    assert_eq!(parse(&keys).1.len(), 20_001);
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered_and_never_panics(text in "(?s).{0,400}") {
        let (topology, found) = parse(&text);
        assert_eq!(topology.is_some(), found.is_empty());
    }

    #[test]
    fn any_assembly_of_known_keys_is_answered(lines in proptest::collection::vec("(session|\\[machines\\.[a-z]{1,3}\\]|image|cpus|needs|place|ready|files|services\\.x) ?=? ?(\"[a-z:/.]{0,6}\"|[0-9]{1,4}|\\[\"a\"\\]|\\{ *\\}|true|)", 0..12)) {
        let (topology, found) = parse(&lines.join("\n"));
        assert_eq!(topology.is_some(), found.is_empty());
    }
}

#[test]
fn a_service_says_which_hosts_publish_it_and_where() {
    let text = r#"session = "s"
[machines.web]
image = "tiny"
services.http = { port = 80, publish = { lan = 8080, on = ["nas", "attic"] } }
services.admin = { port = 81, publish = { lan = 8080, on = ["den"] } }
"#;
    let (topology, flaws) = parse(text);
    assert_eq!(flaws, []);
    let told: Vec<String> = super::published(&topology.unwrap().groups)
        .map(|(group, service, publish)| {
            let on: Vec<&str> = publish.on.iter().map(crate::id::Name::as_str).collect();
            format!("{service}.{group} {} {}", publish.lan, on.join(","))
        })
        .collect();
    assert_eq!(told, ["admin.web 8080 den", "http.web 8080 attic,nas"]);
    check(
        r#"session = "s"
[machines.a]
image = "tiny"
services.one = { port = 80, publish = { lan = 8080, on = ["nas"] } }
services.two = { port = 81, publish = { lan = 8080, on = ["den", "nas"] } }
services.three = { port = 82, publish = { on = ["nas"] } }
services.four = { port = 83, publish = { lan = 0, on = [] } }
services.five = { port = 84, publish = { lan = 9000, on = ["N A S"], wan = true } }
"#,
        expect![[r#"
            2: one.a and two.a are both published on port 8080 of nas
               give each its own port
            6: machines.a.services.three.publish does not say where
               write { lan = PORT, on = ["HOST"] }
            7: machines.a.services.four.publish.lan = 0 is out of range
               write a number from 1 to 65535
            8: machines.a.services.five.publish.on: "N A S" is no name: a letter a-z, then letters, digits and '-', 31 characters at most
               choose another name
            8: unknown key machines.a.services.five.publish.wan
               did you mean lan?
        "#]],
    );
}

#[test]
fn a_service_of_datagrams_shares_a_port_with_one_of_connections_and_is_not_checked() {
    let (topology, flaws) = parse(
        r#"session = "s"
[machines.dns]
image = "tiny"
services.tcp = { port = 53, ready = { tcp = true } }
services.udp = { port = 53, protocol = "udp" }
"#,
    );
    assert_eq!(flaws, []);
    let topology = topology.unwrap();
    let services = &topology.groups.values().next().unwrap().services;
    let told: Vec<crate::topology::Protocol> = services.values().map(|service| service.protocol).collect();
    assert_eq!(told, [crate::topology::Protocol::Tcp, crate::topology::Protocol::Udp]);
    check(
        r#"session = "s"
[machines.dns]
image = "tiny"
services.one = { port = 53, protocol = "udp" }
services.two = { port = 53, protocol = "udp" }
services.three = { port = 54, protocol = "sctp" }
services.four = { port = 55, protocol = "udp", ready = { tcp = true } }
services.five = { port = 56, protocol = "udp", publish = { lan = 53, on = ["nas"] } }
"#,
        expect![[r#"
            2: machines.dns: the services one and two have the same port 53
               give each service its own port
            6: machines.dns.services.three.protocol = "sctp" is not known
               write "tcp" or "udp"
            7: machines.dns.services.four.ready: a UDP service cannot be checked
               remove ready: the machine is ready once it has booted and its other services answer
            8: machines.dns.services.five.publish of a UDP service is not supported yet
               remove it
        "#]],
    );
}
