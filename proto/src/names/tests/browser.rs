//! What a browser finds, and who may ask.

use super::*;

#[test]
fn a_browser_finds_services_by_name_and_is_told_why_not() {
    use sites::site;

    let state = up(
        created(),
        "web 2 256 service=http:80 service=admin:9000\ndb 1 256 service=sql:5432\nidle 1 256",
        HOSTS,
    );
    let sessions = [(SESSION, Arc::new(slice::share(&state, host_id("nas"))))].into();
    let asked = |name: &str| match site(&sessions, name) {
        Ok(sites::Site::Index) => "index".to_owned(),
        Ok(sites::Site::Service { label, port, .. }) => format!("{label} {port}"),
        Err(none) => none.to_string(),
    };
    assert_eq!(asked("localhost"), "index");
    assert_eq!(asked("web.shop.localhost"), "web 80");
    assert_eq!(asked("WEB.Shop.localhost."), "web 80");
    assert_eq!(asked("web-2.shop.localhost"), "web-2 80");
    assert_eq!(asked("admin.web.shop.localhost"), "web 9000");
    assert_eq!(asked("db.shop.localhost"), "db 5432");
    assert_eq!(asked("idle.shop.localhost"), "idle in shop has no service \"http\"; it has: ");
    assert_eq!(asked("x.web.shop.localhost"), "web in shop has no service \"x\"; it has: admin, http");
    assert_eq!(asked("no.shop.localhost"), "shop has no group or machine \"no\"");
    assert_eq!(asked("web.no.localhost"), "there is no session \"no\"");
    assert_eq!(asked("shop.localhost"), "\"shop.localhost\" is not GROUP.SESSION.localhost");
    assert_eq!(asked("a.b.web.shop.localhost"), "\"a.b.web.shop.localhost\" is not GROUP.SESSION.localhost");
    for foreign in ["evil.example", "localhost.evil.example", "weblocalhost", "127.0.0.1", ""] {
        assert!(matches!(site(&sessions, foreign), Err(sites::NoSite::Foreign(_))), "{foreign}");
    }
}

#[test]
fn what_a_browser_is_sent_to_leads_back_to_the_service() {
    let state =
        up(created(), "web 2 256 service=http:80 service=admin:9000\ndb 1 256 service=sql:5432", HOSTS);
    let sessions = [(SESSION, Arc::new(slice::share(&state, host_id("nas"))))].into();
    let name = |group: &str, service: &str| {
        sites::name(&sessions, SESSION, &group.parse().unwrap(), &service.parse().unwrap())
    };
    assert_eq!(name("web", "http").as_deref(), Some("web.shop.localhost"));
    assert_eq!(name("db", "sql"), None, "a database is no page");
}

#[test]
fn only_pages_of_the_same_session_that_came_through_this_door_are_friends() {
    for (origin, to) in [
        ("http://api.shop.localhost:7080", "web.shop.localhost"),
        ("http://WEB.shop.localhost.:7080", "web.shop.localhost"),
        ("http://localhost:7080", "localhost"),
        ("http://127.0.0.1:7080", "localhost"),
        ("http://[::1]:7080", "localhost"),
    ] {
        assert!(sites::is_friend(origin, 7080, to), "{origin}");
    }
    assert!(sites::is_friend("http://web.shop.localhost", 80, "web.shop.localhost"));
    for stranger in [
        "https://evil.example",
        "http://web.blog.localhost:7080",
        "http://localhost:7080",
        "http://shop.localhost.evil.example:7080",
        "http://web.shop.localhost:3000",
        "http://web.shop.localhost",
        "http://web.shop.localhost:72616",
        "https://web.shop.localhost:7080",
        "web.shop.localhost:7080",
        "null",
        "",
    ] {
        assert!(!sites::is_friend(stranger, 7080, "web.shop.localhost"), "{stranger}");
    }
    assert!(!sites::is_friend("http://127.0.0.1:3000", 7080, "localhost"), "another program of this host");
}
