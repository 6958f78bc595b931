//! Names as hosts and guests see them.

use std::net::Ipv6Addr;

use expect_test::{Expect, expect};

use super::*;
use crate::{
    addresses::Net,
    session::{
        Command, State,
        fixture::{SESSION, command, created, host_id, up},
        slice,
    },
    time::Timestamp,
};

const HOSTS: &str = "attic 900 image\nnas 900 image";
const GUEST: View = View::Guest(SESSION, Egress::Internet);

mod browser;
mod of_hosts;
mod udp;

fn shop() -> State {
    up(created(), "web 2 256 service=http:80\ndb 1 256", HOSTS)
}

fn ready(session: SessionId, machine: &str) -> (SessionId, MachineName) {
    (session, machine.parse().unwrap())
}

/// The zone on `nas`: web-1 is on nas, web-2 and db-1 are on attic, all ready.
fn zone(state: &State) -> Zone {
    let host = |name: &str, address: &str| {
        let addresses = vec![address.parse().unwrap(), "fd00::7".parse().unwrap()];
        let same_computer = name == "nas";
        let (name, id) = (name.parse().unwrap(), host_id(name));
        (id, HostEntry { name, addresses, same_computer, near: same_computer, published: BTreeMap::new() })
    };
    let sessions: BTreeMap<_, _> = [(SESSION, Arc::new(slice::share(state, host_id("nas"))))].into();
    let nearest = |group: &str, machine: &str| ((SESSION, group.parse().unwrap()), machine.parse().unwrap());
    let forward = |label: &str, last: u8, port: u16| {
        let ports = [("http".parse().unwrap(), port)].into();
        ((SESSION, label.to_owned()), Forward { address: Ipv4Addr::new(127, 64, 0, last), ports })
    };
    Zone {
        zone: DEFAULT_ZONE.into(),
        hosts: [host("attic", "192.168.1.3"), host("nas", "192.168.1.2")].into(),
        labels: labels(&sessions),
        sessions,
        nearest: [nearest("web", "web-1"), nearest("db", "db-1")].into(),
        ready: ["web-1", "web-2", "db-1"].map(|machine| ready(SESSION, machine)).into(),
        v6: BTreeSet::new(),
        forwards: [forward("web", 1, 8080), forward("db", 2, 0), forward("web-1", 3, 8080)].into(),
        host_forwards: BTreeMap::new(),
        here: Here::default(),
    }
}

fn ask(zone: &Zone, view: View, questions: &str) -> String {
    let line = |question: &str| {
        let (kind, name) = question.trim().split_once(' ').unwrap();
        let kind = match kind {
            "A" => Kind::A,
            "AAAA" => Kind::Aaaa,
            "SRV" => Kind::Srv,
            "PTR" => Kind::Ptr,
            _ => Kind::Other,
        };
        let text = match answer(zone, view, name, kind) {
            Resolution::Addresses(list) => list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            Resolution::Services(list) => {
                list.iter().map(|t| format!("{}:{}", t.name, t.port)).collect::<Vec<_>>().join(" ")
            }
            Resolution::Name(name) => name,
            other => format!("{other:?}"),
        };
        format!("{}: {text}\n", question.trim())
    };
    questions.trim().lines().map(line).collect()
}

fn check(zone: &Zone, view: View, questions: &str, expected: Expect) {
    expected.assert_eq(&ask(zone, view, questions));
}

#[test]
fn guests_get_the_addresses_of_ready_machines() {
    let questions = "
        A web.shop.mesh.internal
        A WEB.Shop.mesh.internal.
        AAAA web.shop.mesh.internal
        A web-2.shop.mesh.internal
        SRV _http._tcp.web.shop.mesh.internal";
    check(
        &zone(&shop()),
        GUEST,
        questions,
        expect![[r#"
        A web.shop.mesh.internal: 10.78.84.11 10.78.84.12
        A WEB.Shop.mesh.internal.: 10.78.84.11 10.78.84.12
        AAAA web.shop.mesh.internal: NoData
        A web-2.shop.mesh.internal: 10.78.84.12
        SRV _http._tcp.web.shop.mesh.internal: web-1.shop.mesh.internal:80 web-2.shop.mesh.internal:80
    "#]],
    );
}

#[test]
fn a_guest_with_ipv6_is_found_by_it_and_one_without_is_not() {
    let mut zone = zone(&shop());
    zone.v6 = ["web-2", "web-3"].map(|machine| ready(SESSION, machine)).into();
    zone.ready.remove(&ready(SESSION, "db-1"));
    zone.v6.insert(ready(SESSION, "db-1"));
    let address = overlay::machine_v6(SESSION, &"web-2".parse().unwrap());
    let reversed = |address: Ipv6Addr| {
        let digits = format!("{:032x}", address.to_bits());
        digits.chars().rev().map(|digit| format!("{digit}.")).collect::<String>() + "ip6.arpa"
    };
    let gateway = overlay::gateway_v6(overlay::subnet_v6(SESSION));
    let questions = format!(
        "AAAA web.shop.mesh.internal
        A web.shop.mesh.internal
        AAAA web-1.shop.mesh.internal
        AAAA web-2.shop.mesh.internal
        AAAA db.shop.mesh.internal
        PTR {}
        A {}
        PTR {}
        PTR {}
        PTR 1.2.ip6.arpa
        PTR é.ip6.arpa",
        reversed(address),
        reversed(address),
        reversed(gateway),
        reversed("2001:db8::1".parse().unwrap()),
    );
    check(
        &zone,
        GUEST,
        &questions,
        expect![[r#"
            AAAA web.shop.mesh.internal: fd4d:faef:5724:ae90:5083:9eff:fe56:2970
            A web.shop.mesh.internal: 10.78.84.11 10.78.84.12
            AAAA web-1.shop.mesh.internal: NoData
            AAAA web-2.shop.mesh.internal: fd4d:faef:5724:ae90:5083:9eff:fe56:2970
            AAAA db.shop.mesh.internal: NoData
            PTR 0.7.9.2.6.5.e.f.f.f.e.9.3.8.0.5.0.9.e.a.4.2.7.5.f.e.a.f.d.4.d.f.ip6.arpa: web-2.shop.mesh.internal
            A 0.7.9.2.6.5.e.f.f.f.e.9.3.8.0.5.0.9.e.a.4.2.7.5.f.e.a.f.d.4.d.f.ip6.arpa: NoData
            PTR 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.e.a.4.2.7.5.f.e.a.f.d.4.d.f.ip6.arpa: NoName
            PTR 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa: Refused
            PTR 1.2.ip6.arpa: Refused
            PTR é.ip6.arpa: Refused
        "#]],
    );
    check(
        &zone,
        View::Host,
        &format!("AAAA web.shop.mesh.internal\nPTR {}", reversed(address)),
        expect![[r#"
            AAAA web.shop.mesh.internal: NoData
            PTR 0.7.9.2.6.5.e.f.f.f.e.9.3.8.0.5.0.9.e.a.4.2.7.5.f.e.a.f.d.4.d.f.ip6.arpa: Refused
        "#]],
    );
}

#[test]
fn a_host_is_answered_by_addresses_that_the_asker_can_use() {
    let net = |address: &str, len| Net { address: address.parse().unwrap(), len };
    let mut zone = zone(&shop());
    zone.here = Here {
        lans: vec![net("192.168.1.2", 24)],
        inner: vec![net("172.17.0.1", 16), net("172.18.0.1", 16)],
        tunnels: Vec::new(),
    };
    let told = ["172.17.0.1", "10.0.0.7", "192.168.1.3", "172.18.0.1", "192.168.1.3"];
    for host in ["attic", "nas"] {
        let entry = zone.hosts.get_mut(&host_id(host)).unwrap();
        entry.addresses = told.map(|address| address.parse().unwrap()).to_vec();
    }
    let questions = "
        A attic.host.mesh.internal
        AAAA attic.host.mesh.internal
        A nas.host.mesh.internal";
    check(
        &zone,
        View::Host,
        questions,
        expect![[r#"
        A attic.host.mesh.internal: 192.168.1.3 10.0.0.7
        AAAA attic.host.mesh.internal: NoData
        A nas.host.mesh.internal: 172.17.0.1 10.0.0.7 192.168.1.3 172.18.0.1
    "#]],
    );
}

#[test]
fn hosts_get_forward_addresses_and_the_port_that_listens() {
    let questions = "
        A web.shop.mesh.internal
        A web-1.shop.mesh.internal
        A nas.host.mesh.internal
        AAAA nas.host.mesh.internal
        SRV _http._tcp.web.shop.mesh.internal
        PTR 1.0.64.127.in-addr.arpa
        PTR 9.0.64.127.in-addr.arpa
        PTR 1.1.168.192.in-addr.arpa";
    check(
        &zone(&shop()),
        View::Host,
        questions,
        expect![[r#"
        A web.shop.mesh.internal: 127.64.0.1
        A web-1.shop.mesh.internal: 127.64.0.3
        A nas.host.mesh.internal: 192.168.1.2
        AAAA nas.host.mesh.internal: fd00::7
        SRV _http._tcp.web.shop.mesh.internal: web.shop.mesh.internal:8080
        PTR 1.0.64.127.in-addr.arpa: web.shop.mesh.internal
        PTR 9.0.64.127.in-addr.arpa: NoName
        PTR 1.1.168.192.in-addr.arpa: Refused
    "#]],
    );
}

#[test]
fn what_is_declared_but_not_ready_is_no_data_and_the_rest_no_name() {
    let mut zone = zone(&shop());
    zone.ready.clear();
    zone.nearest.clear();
    let questions = "
        A web.shop.mesh.internal
        A nearest.web.shop.mesh.internal
        A web-1.shop.mesh.internal
        A web-3.shop.mesh.internal
        A app.shop.mesh.internal
        A shop.mesh.internal
        A other.mesh.internal
        A mesh.internal
        A vps.host.mesh.internal
        SRV _http._tcp.web.shop.mesh.internal
        SRV _sql._tcp.web.shop.mesh.internal
        SRV _tcp.web.shop.mesh.internal
        TXT web.shop.mesh.internal
        A example.com
        A notmesh.internal
        A xmesh.internal";
    check(
        &zone,
        GUEST,
        questions,
        expect![[r#"
        A web.shop.mesh.internal: NoData
        A nearest.web.shop.mesh.internal: NoData
        A web-1.shop.mesh.internal: 10.78.84.11
        A web-3.shop.mesh.internal: NoName
        A app.shop.mesh.internal: NoName
        A shop.mesh.internal: NoData
        A other.mesh.internal: NoName
        A mesh.internal: NoData
        A vps.host.mesh.internal: NoName
        SRV _http._tcp.web.shop.mesh.internal: NoData
        SRV _sql._tcp.web.shop.mesh.internal: NoName
        SRV _tcp.web.shop.mesh.internal: NoData
        TXT web.shop.mesh.internal: NoData
        A example.com: Refused
        A notmesh.internal: Refused
        A xmesh.internal: Refused
    "#]],
    );
    check(
        &zone,
        View::Host,
        "A web.shop.mesh.internal\nA web-1.shop.mesh.internal",
        expect![[r#"
        A web.shop.mesh.internal: 127.64.0.1
        A web-1.shop.mesh.internal: NoData
    "#]],
    );
}

#[test]
fn only_what_is_ready_is_answered() {
    let mut one = zone(&shop());
    one.ready = [ready(SESSION, "web-2")].into();
    check(
        &one,
        GUEST,
        "A web.shop.mesh.internal\nA web-1.shop.mesh.internal\nSRV _http._tcp.web.shop.mesh.internal",
        expect![[r#"
        A web.shop.mesh.internal: 10.78.84.12
        A web-1.shop.mesh.internal: 10.78.84.11
        SRV _http._tcp.web.shop.mesh.internal: web-2.shop.mesh.internal:80
    "#]],
    );
    check(
        &one,
        View::Host,
        "A web-1.shop.mesh.internal\nA web-2.shop.mesh.internal",
        expect![[r#"
        A web-1.shop.mesh.internal: NoData
        A web-2.shop.mesh.internal: NoData
    "#]],
    );
}

#[test]
fn the_nearest_is_one_ready_machine_of_a_group() {
    let questions = "
        A nearest.web.shop.mesh.internal
        A Nearest.DB.shop.mesh.internal.
        A nearest.web-1.shop.mesh.internal
        A nearest.no.shop.mesh.internal
        A x.nearest.web.shop.mesh.internal
        A nearest.shop.mesh.internal
        A nearest.mesh.internal";
    check(
        &zone(&shop()),
        GUEST,
        questions,
        expect![[r#"
        A nearest.web.shop.mesh.internal: 10.78.84.11
        A Nearest.DB.shop.mesh.internal.: 10.78.84.10
        A nearest.web-1.shop.mesh.internal: NoName
        A nearest.no.shop.mesh.internal: NoName
        A x.nearest.web.shop.mesh.internal: NoName
        A nearest.shop.mesh.internal: NoName
        A nearest.mesh.internal: NoName
    "#]],
    );
    check(
        &zone(&shop()),
        View::Host,
        "A nearest.web.shop.mesh.internal",
        expect![[r#"
        A nearest.web.shop.mesh.internal: 127.64.0.3
    "#]],
    );
}

#[test]
fn the_forward_that_an_answer_leads_to_is_the_one_that_must_listen() {
    let zone = zone(&shop());
    let of = |kind, name: &str| forward_for(&zone, name, kind).map(|(_, label)| label);
    assert_eq!(of(Kind::A, "Web.shop.mesh.internal.").as_deref(), Some("web"));
    assert_eq!(of(Kind::A, "web-1.shop.mesh.internal").as_deref(), Some("web-1"));
    assert_eq!(of(Kind::A, "nearest.web.shop.mesh.internal").as_deref(), Some("web-1"));
    assert_eq!(of(Kind::Srv, "_http._tcp.web.shop.mesh.internal").as_deref(), Some("web"));
    for none in ["web.no.mesh.internal", "no.shop.mesh.internal", "nas.host.mesh.internal", "web.shop", ""] {
        assert_eq!(of(Kind::A, none), None, "{none}");
    }
    assert_eq!(of(Kind::Aaaa, "web.shop.mesh.internal"), None);
}

#[test]
fn guests_know_hosts_only_where_they_may_go_to_their_network() {
    let questions = "
        A attic.host.mesh.internal
        A host.mesh.internal
        A no.host.mesh.internal";
    for closed in [Egress::None, Egress::Internet] {
        check(
            &zone(&shop()),
            View::Guest(SESSION, closed),
            questions,
            expect![[r#"
                A attic.host.mesh.internal: NoName
                A host.mesh.internal: NoName
                A no.host.mesh.internal: NoName
            "#]],
        );
    }
    check(
        &zone(&shop()),
        View::Guest(SESSION, Egress::Lan),
        questions,
        expect![[r#"
            A attic.host.mesh.internal: 192.168.1.3
            A host.mesh.internal: NoData
            A no.host.mesh.internal: NoName
        "#]],
    );
}

#[test]
fn no_name_leads_where_its_owner_cannot_be() {
    let mut zone = zone(&shop());
    let lies = ["127.0.0.1", "127.64.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.251", "255.255.255.255"];
    let more = ["::1", "::", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "192.168.1.3", "fd00::7"];
    for host in ["attic", "nas"] {
        let entry = zone.hosts.get_mut(&host_id(host)).unwrap();
        entry.addresses = lies.iter().chain(&more).map(|address| address.parse().unwrap()).collect();
    }
    let share = Arc::make_mut(zone.sessions.get_mut(&SESSION).unwrap());
    let entries = share.directory.groups.values_mut().flat_map(|group| &mut group.machines);
    let outside = entries.filter(|entry| entry.machine.to_string() == "web-1");
    outside.for_each(|entry| entry.address = Ipv4Addr::new(192, 168, 1, 1));
    let questions = "
        A attic.host.mesh.internal
        AAAA attic.host.mesh.internal
        A nas.host.mesh.internal
        A web.shop.mesh.internal
        A web-1.shop.mesh.internal
        A nearest.web.shop.mesh.internal";
    check(
        &zone,
        View::Guest(SESSION, Egress::Lan),
        questions,
        expect![[r#"
            A attic.host.mesh.internal: 192.168.1.3
            AAAA attic.host.mesh.internal: fd00::7
            A nas.host.mesh.internal: 192.168.1.3
            A web.shop.mesh.internal: 10.78.84.12
            A web-1.shop.mesh.internal: NoData
            A nearest.web.shop.mesh.internal: NoData
        "#]],
    );
}

#[test]
fn a_group_of_many_is_answered_whole() {
    let many = up(created(), "web 30 64", "attic 9000 image");
    let mut zone = zone(&many);
    zone.ready = (1..=30).map(|i| ready(SESSION, &format!("web-{i}"))).collect();
    let Resolution::Addresses(found) = answer(&zone, GUEST, "web.shop.mesh.internal", Kind::A) else {
        panic!("no addresses");
    };
    assert_eq!(found.len(), 30);
}

#[test]
fn a_name_above_one_that_exists_exists() {
    let questions = "
        A _tcp.web.shop.mesh.internal
        A _tcp.db.shop.mesh.internal
        PTR 64.127.in-addr.arpa
        PTR 0.64.127.in-addr.arpa
        PTR 1.64.127.in-addr.arpa
        PTR 127.in-addr.arpa
        PTR 01.0.64.127.in-addr.arpa
        PTR x.1.0.64.127.in-addr.arpa
        A 1.0.64.127.in-addr.arpa";
    check(
        &zone(&shop()),
        View::Host,
        questions,
        expect![[r#"
            A _tcp.web.shop.mesh.internal: NoData
            A _tcp.db.shop.mesh.internal: NoName
            PTR 64.127.in-addr.arpa: NoData
            PTR 0.64.127.in-addr.arpa: NoData
            PTR 1.64.127.in-addr.arpa: NoName
            PTR 127.in-addr.arpa: Refused
            PTR 01.0.64.127.in-addr.arpa: NoName
            PTR x.1.0.64.127.in-addr.arpa: NoName
            A 1.0.64.127.in-addr.arpa: NoData
        "#]],
    );
}

#[test]
fn every_name_of_ours_is_in_one_zone() {
    let zone = zone(&shop());
    let of = |view, name: &str| origin(&zone, view, name).unwrap_or_else(|| "-".into());
    assert_eq!(of(View::Host, "MESH.internal."), "mesh.internal");
    assert_eq!(of(View::Host, "web.shop.Mesh.internal"), "mesh.internal");
    assert_eq!(of(View::Host, "9.0.64.127.in-addr.arpa"), "64.127.in-addr.arpa");
    assert_eq!(of(View::Host, "9.0.128.127.in-addr.arpa"), "-");
    assert_eq!(of(View::Host, "9.84.78.10.in-addr.arpa"), "-");
    assert_eq!(of(GUEST, "9.84.78.10.in-addr.arpa"), "84.78.10.in-addr.arpa");
    assert_eq!(of(GUEST, "78.10.in-addr.arpa"), "-");
    assert_eq!(of(GUEST, "example.com"), "-");
}

#[test]
fn of_two_sessions_with_one_name_the_older_keeps_it() {
    let mut zone = zone(&shop());
    let young = SessionId([0xab; 16]);
    let share = Share { session: young, stamp: Timestamp(2), ..Share::clone(&zone.sessions[&SESSION]) };
    zone.sessions.insert(young, Arc::new(share));
    zone.labels = labels(&zone.sessions);
    zone.forwards.insert(
        (young, "web".into()),
        Forward { address: Ipv4Addr::new(127, 64, 0, 9), ports: BTreeMap::new() },
    );
    let questions = "
        A web.shop.mesh.internal
        A web.shop-abab.mesh.internal
        PTR 9.0.64.127.in-addr.arpa";
    check(
        &zone,
        View::Host,
        questions,
        expect![[r#"
        A web.shop.mesh.internal: 127.64.0.1
        A web.shop-abab.mesh.internal: 127.64.0.9
        PTR 9.0.64.127.in-addr.arpa: web.shop-abab.mesh.internal
    "#]],
    );
    // A guest's search list holds its session's own name, so that must be its own session.
    let address = zone.sessions[&young].directory.groups.values().next().unwrap().machines[0].address;
    zone.ready.insert(ready(young, "db-1"));
    let own = answer(&zone, View::Guest(young, Egress::Internet), "db.shop.mesh.internal", Kind::A);
    assert_eq!(own, Resolution::Addresses(vec![address.into()]));
    Arc::make_mut(zone.sessions.get_mut(&SESSION).unwrap()).ended = true;
    assert_eq!(labels(&zone.sessions), [("shop".to_owned(), young)].into());
}

#[test]
fn other_sessions_do_not_exist_for_a_guest() {
    let mut zone = zone(&shop());
    let other = SessionId([0xab; 16]);
    let share = Share::clone(&zone.sessions[&SESSION]);
    let share = Share { session: other, name: "blog".parse().unwrap(), ..share };
    zone.sessions.insert(other, Arc::new(share));
    zone.labels = labels(&zone.sessions);
    check(
        &zone,
        View::Guest(other, Egress::Internet),
        "A web.shop.mesh.internal\nA web.blog.mesh.internal",
        expect![[r#"
        A web.shop.mesh.internal: NoName
        A web.blog.mesh.internal: NoData
    "#]],
    );
}

#[test]
fn an_ended_session_has_no_names() {
    let ended = zone(&command(shop(), Command::End));
    check(
        &ended,
        View::Host,
        "A web.shop.mesh.internal\nA shop.mesh.internal",
        expect![[r#"
        A web.shop.mesh.internal: NoName
        A shop.mesh.internal: NoName
    "#]],
    );
    check(
        &ended,
        GUEST,
        "A web.shop.mesh.internal",
        expect![[r#"
        A web.shop.mesh.internal: NoName
    "#]],
    );
}

#[test]
fn guests_find_the_names_of_their_neighbours_addresses() {
    let state = shop();
    let address = state.addresses[&"web-1".parse().unwrap()].octets();
    let [a, b, c, d] = address;
    let name = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
    assert_eq!(
        answer(&zone(&state), GUEST, &name, Kind::Ptr),
        Resolution::Name("web-1.shop.mesh.internal".into())
    );
    for bad in ["in-addr.arpa", "1.2.3.in-addr.arpa", "x.1.2.3.in-addr.arpa", "1.1.1.1.1.in-addr.arpa"] {
        assert_eq!(answer(&zone(&state), GUEST, bad, Kind::Ptr), Resolution::Refused, "{bad}");
    }
}

#[test]
fn forward_addresses_are_loopback_and_differ() {
    let of = |label, i| forward_address(host_id("nas"), SESSION, label, i);
    assert!(
        (0..1000)
            .all(|i| FORWARD_RANGE.contains(of("web", i)) && !matches!(of("web", i).octets()[3], 0 | 255))
    );
    assert_ne!(of("web", 0), of("web", 1));
    assert_ne!(of("web", 0), of("db", 0));
    assert_eq!(of("web", 3), of("web", 3));
}
