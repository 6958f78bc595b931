//! What hosts publish themselves, by name.

use super::*;

/// The same, where `attic` and `nas` publish their files and the asker knows a way to those of `attic`.
fn with_published() -> Zone {
    let mut zone = zone(&shop());
    for host in zone.hosts.values_mut() {
        host.published.insert("files".parse().unwrap(), 445);
    }
    let ports = [("files".parse().unwrap(), 8445)].into();
    zone.host_forwards =
        [(host_id("attic"), Forward { address: Ipv4Addr::new(127, 64, 0, 9), ports })].into();
    zone
}

#[test]
fn what_a_host_publishes_is_reached_by_name_on_every_host() {
    check(
        &with_published(),
        View::Host,
        "A files.attic.host.mesh.internal
         SRV _files._tcp.attic.host.mesh.internal
         A files.nas.host.mesh.internal
         SRV _files._tcp.nas.host.mesh.internal
         AAAA files.attic.host.mesh.internal
         A _tcp.attic.host.mesh.internal
         A photos.attic.host.mesh.internal
         SRV _photos._tcp.attic.host.mesh.internal
         A files.vps.host.mesh.internal
         A x.files.attic.host.mesh.internal
         PTR 9.0.64.127.in-addr.arpa",
        expect![[r#"
            A files.attic.host.mesh.internal: 127.64.0.9
            SRV _files._tcp.attic.host.mesh.internal: files.attic.host.mesh.internal:8445
            A files.nas.host.mesh.internal: 127.0.0.1
            SRV _files._tcp.nas.host.mesh.internal: files.nas.host.mesh.internal:445
            AAAA files.attic.host.mesh.internal: NoData
            A _tcp.attic.host.mesh.internal: NoData
            A photos.attic.host.mesh.internal: NoName
            SRV _photos._tcp.attic.host.mesh.internal: NoName
            A files.vps.host.mesh.internal: NoName
            A x.files.attic.host.mesh.internal: NoName
            PTR 9.0.64.127.in-addr.arpa: attic.host.mesh.internal
        "#]],
    );
}

#[test]
fn what_a_program_is_told_of_a_host_listens_by_then() {
    let leads = |name: &str, kind| published::forward_for(&with_published(), name, kind);
    let attic = Some(host_id("attic"));
    assert_eq!(leads("FILES.attic.host.mesh.internal.", Kind::A), attic);
    assert_eq!(leads("_files._tcp.attic.host.mesh.internal", Kind::Srv), attic);
    assert_eq!(leads("attic.host.mesh.internal", Kind::A), attic);
    assert_eq!(leads("files.nas.host.mesh.internal", Kind::A), None, "this host's own");
    assert_eq!(leads("web.shop.mesh.internal", Kind::A), None);
}

#[test]
fn guests_are_led_to_nothing_that_a_host_publishes() {
    check(
        &with_published(),
        View::Guest(SESSION, Egress::Lan),
        "A files.attic.host.mesh.internal\nA files.nas.host.mesh.internal",
        expect![[r#"
            A files.attic.host.mesh.internal: NoData
            A files.nas.host.mesh.internal: NoData
        "#]],
    );
}

#[test]
fn a_host_elsewhere_is_answered_by_the_way_to_what_it_publishes() {
    let attic = |zone: &Zone| ask(zone, View::Host, "A attic.host.mesh.internal");
    let mut zone = with_published();
    assert!(attic(&zone).contains("127.64.0.9"), "{}", attic(&zone));
    // In one network its own address is the shortest way, and leads to all of it.
    zone.hosts.get_mut(&host_id("attic")).unwrap().near = true;
    assert!(attic(&zone).contains("192.168.1.3"), "{}", attic(&zone));
    zone.hosts.get_mut(&host_id("attic")).unwrap().near = false;
    zone.hosts.get_mut(&host_id("attic")).unwrap().published.clear();
    assert!(attic(&zone).contains("192.168.1.3"), "{}", attic(&zone));
}
