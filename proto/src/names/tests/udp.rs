//! Services that are reached by UDP: found under a label of their own, and by no browser.

use super::*;
use crate::names::sites;

fn dns() -> Zone {
    let state = up(created(), "web 2 256 service=http:80 udp=dns:53\ndb 1 256 udp=time:123", HOSTS);
    let mut zone = zone(&state);
    let web = zone.forwards.get_mut(&(SESSION, "web".to_owned())).unwrap();
    web.ports.insert("dns".parse().unwrap(), 8053);
    zone
}

#[test]
fn each_service_is_found_by_what_it_speaks_alone() {
    let questions = "SRV _dns._udp.web.shop.mesh.internal
        SRV _dns._tcp.web.shop.mesh.internal
        SRV _http._udp.web.shop.mesh.internal
        SRV _http._tcp.web.shop.mesh.internal
        SRV _udp.web.shop.mesh.internal
        SRV _tcp.db.shop.mesh.internal
        SRV _udp.db.shop.mesh.internal";
    expect![[r#"
        SRV _dns._udp.web.shop.mesh.internal: web.shop.mesh.internal:8053
        SRV _dns._tcp.web.shop.mesh.internal: NoName
        SRV _http._udp.web.shop.mesh.internal: NoName
        SRV _http._tcp.web.shop.mesh.internal: web.shop.mesh.internal:8080
        SRV _udp.web.shop.mesh.internal: NoData
        SRV _tcp.db.shop.mesh.internal: NoName
        SRV _udp.db.shop.mesh.internal: NoData
    "#]]
    .assert_eq(&ask(&dns(), View::Host, questions));
    expect![[r#"
        SRV _dns._udp.web.shop.mesh.internal: web-1.shop.mesh.internal:53 web-2.shop.mesh.internal:53
    "#]]
    .assert_eq(&ask(&dns(), GUEST, "SRV _dns._udp.web.shop.mesh.internal"));
    let forward = forward_for(&dns(), "_dns._udp.web.shop.mesh.internal", Kind::Srv);
    assert_eq!(forward, Some((SESSION, "web".to_owned())), "its port listens before it is told");
}

#[test]
fn a_browser_is_led_to_no_service_of_datagrams() {
    let zone = dns();
    let asked = |name: &str| match sites::site(&zone.sessions, name) {
        Ok(sites::Site::Service { port, .. }) => port.to_string(),
        Ok(other) => format!("{other:?}"),
        Err(none) => none.to_string(),
    };
    assert_eq!(asked("web.shop.localhost"), "80");
    assert_eq!(asked("dns.web.shop.localhost"), "web in shop has no service \"dns\"; it has: http");
    assert_eq!(asked("db.shop.localhost"), "db in shop has no service \"http\"; it has: ");
}
