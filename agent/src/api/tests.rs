//! Names that people type, and what they find.

use expect_test::{Expect, expect};
use proto::{
    id::SessionId,
    session::{Guard, Phase},
    wire::api::{Error, Kind, MachineRow, SessionRow, SessionState},
};

use super::resolve::{Spelled, find_machine, find_session, spelled};

fn machine(session: &str, id: u8, name: &str) -> MachineRow {
    let name: proto::id::MachineName = name.parse().unwrap();
    MachineRow {
        group: name.group.to_string(),
        name,
        session: session.into(),
        session_id: SessionId([id; 16]),
        host: None,
        state: Phase::Ready,
        guard: Guard::Hold,
        epoch: 1,
        address: None,
        reason: None,
        why: None,
    }
}

fn session(name: &str, id: u8) -> SessionRow {
    SessionRow {
        id: SessionId([id; 16]),
        name: name.into(),
        state: SessionState::Healthy,
        ready: 1,
        machines: 1,
        coordinator: None,
    }
}

fn said(error: Error) -> String {
    let Error { kind, what, because, next, .. } = error;
    format!("{kind:?}: {what} | {} | {}", because.unwrap_or_default(), next.unwrap_or_default())
}

fn found(text: &str, expect: Expect) {
    let rows = [
        machine("shop", 0x0a, "db-1"),
        machine("shop", 0x0a, "web-1"),
        machine("shop", 0x0a, "web-2"),
        machine("blog", 0x0b, "web-1"),
        machine("twin", 0x0c, "web-1"),
        machine("twin", 0x0d, "web-1"),
    ];
    let row = find_machine(&rows, text).map(|row| format!("{}/{}", row.session_id.short(), row.name));
    expect.assert_eq(&row.unwrap_or_else(said));
}

#[test]
fn a_machine_is_found_by_the_shortest_name_that_is_clear() {
    found("db-1", expect!["0a0a0a0a/db-1"]);
    found("db", expect!["0a0a0a0a/db-1"]);
    found("shop/web-1", expect!["0a0a0a0a/web-1"]);
    found("web-1.shop", expect!["0a0a0a0a/web-1"]);
    found(
        crate::api::resolve::without_zone("web-1.shop.mesh.internal", "mesh.internal"),
        expect!["0a0a0a0a/web-1"],
    );
    found("0c0c0c/web-1", expect!["0c0c0c0c/web-1"]);
    found(
        "web-1",
        expect![[
            r#"Ambiguous: "web-1" fits 4 machines | it may be shop/web-1, blog/web-1, 0c0c0c0c/web-1, 0d0d0d0d/web-1 | name one of them, such as shop/web-1"#
        ]],
    );
    found(
        "twin/web-1",
        expect![[
            r#"Ambiguous: "twin/web-1" fits 2 machines | it may be 0c0c0c0c/web-1, 0d0d0d0d/web-1 | name one of them, such as 0c0c0c0c/web-1"#
        ]],
    );
    found(
        "shop/web",
        expect![[
            r#"Ambiguous: "shop/web" fits 2 machines | it may be shop/web-1, shop/web-2 | name one of them, such as shop/web-1"#
        ]],
    );
    found(
        "web-3",
        expect![[
            r#"NotFound: there is no machine "web-3" | there are shop/db-1, shop/web-1, shop/web-2, blog/web-1, 0c0c0c0c/web-1, 0d0d0d0d/web-1 | agent machine list"#
        ]],
    );
}

#[test]
fn a_session_is_found_by_name_or_id() {
    let rows = [session("shop", 0x0a), session("twin", 0x0c), session("twin", 0x0d)];
    let find = |text: &str| find_session(&rows, text).map_or_else(said, |row| row.id.short());
    expect![[r#"
        0a0a0a0a
        0d0d0d0d
        NotFound: there is no session "0d0" | this host knows shop, twin, twin | agent session list
        Ambiguous: 2 sessions are called "twin" | their ids are 0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c and 0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d | use the id in place of the name
        NotFound: there is no session "blog" | this host knows shop, twin, twin | agent session list"#]].assert_eq(&["shop", "0d0d", "0d0", "twin", "blog"].map(find).join("\n"));
    expect![[r#"NotFound: there is no session "shop" | this host knows no session | agent session up topology.toml"#]].assert_eq(&said(find_session(&[], "shop").unwrap_err()));
}

#[test]
fn a_service_is_spelled_as_lists_print_it_and_as_machines_are() {
    let read = |text: &str| match spelled(text, "mesh.internal") {
        Ok(Spelled::OfLabel { session, label, service }) => {
            format!("{} of {label} in {session}", service.map_or("-".into(), |name| name.to_string()))
        }
        Ok(Spelled::OfHost { host, service }) => format!("{service} on {host}"),
        Err(error) => {
            assert_eq!(error.kind, Kind::Usage, "{text}");
            error.because.unwrap()
        }
    };
    for (text, wanted) in [
        ("web.shop", "- of web in shop"),
        ("web.shop.mesh.internal", "- of web in shop"),
        ("web.shop.mesh.internal.", "- of web in shop"),
        ("web-1.shop", "- of web-1 in shop"),
        ("web.0a0a0a0a", "- of web in 0a0a0a0a"),
        ("shop/web-1", "- of web-1 in shop"),
        ("http.web.shop", "http of web in shop"),
        ("http.web.shop.mesh.internal", "http of web in shop"),
        ("web.shop/http", "http of web in shop"),
        ("web.shop.mesh.internal/http", "http of web in shop"),
        ("shop/web-1/http", "http of web-1 in shop"),
        ("files.nas.host", "files on nas"),
        ("files.nas.host.mesh.internal", "files on nas"),
        ("nas.host/files", "files on nas"),
        ("nas.host", "it is a host, which may publish several"),
        ("web", "it has no dot"),
        ("web.", "it has no dot"),
        (".shop", "a part of it is empty"),
        ("web.shop/", "\"\" is no name: a letter a-z, then letters, digits and '-', 31 characters at most"),
        ("a.b.c.d", "it has too many parts"),
        ("http.web.shop/http", "it has too many parts"),
        ("a/b/c/d", "it has too many parts"),
    ] {
        assert_eq!(read(text), wanted, "{text}");
    }
    assert!(spelled("Web.shop", "mesh.internal").is_err());
}
