//! What the picture says, and what it wakes.

use expect_test::{Expect, expect};

use super::{fixture::*, *};
use crate::{
    addresses::{Here, Net},
    names::{self, HostEntry, Kind, Resolution, View, Zone},
    session::{
        Command, State,
        fixture::{SESSION, command, created, host_id, host_name, up},
    },
    topology::Egress,
    trust::Tombstone,
};

const HOSTS: &str = "attic 900 image\nnas 900 image";
const MEMBERS: &str = "attic\nnas\nvps";

/// web-1 is on nas, web-2 and db-1 are on attic.
fn shop() -> State {
    up(created(), "web 2 256 service=http:80\ndb 1 256", HOSTS)
}

/// What `vps` sees of the shop.
fn seen(state: &State, text: &str) -> Picture {
    picture("vps", Some(state), text)
}

fn ready(state: &State, text: &str, expected: &str) {
    let picture = seen(state, text);
    let share = picture.share(SESSION).unwrap();
    let names: Vec<String> = readiness::ready(&picture, share).iter().map(ToString::to_string).collect();
    assert_eq!(names.join(" "), expected);
}

#[test]
fn who_holds_the_current_epoch_says_whether_it_is_ready() {
    ready(
        &shop(),
        &format!("{MEMBERS}\nnas: web-1@1 ready\nattic: web-2@1 ready, db-1@1 waiting"),
        "web-1 web-2",
    );
}

#[test]
fn another_hosts_word_on_a_machine_is_not_believed() {
    ready(&shop(), &format!("{MEMBERS}\nattic: web-1@1 ready, web-2@1 ready"), "web-2");
}

#[test]
fn an_older_incarnations_readiness_is_not_believed() {
    ready(&shop(), &format!("{MEMBERS}\nnas: web-1@0 ready\nattic: web-2@2 ready"), "");
}

#[test]
fn a_silent_hosts_last_word_is_not_believed() {
    ready(&shop(), "attic\nnas down\nvps\nnas: web-1@1 ready\nattic: db-1@1 ready", "db-1");
}

#[test]
fn a_host_believes_itself_by_what_it_sees_now_and_also_while_nobody_is_heard() {
    let state = shop();
    let mut picture = picture("nas", Some(&state), "nas down\nnas: web-1@1 ready");
    picture.apply(Input::Records(Arc::default()));
    assert_eq!(readiness::ready(&picture, &picture.shares[&SESSION]), ["web-1".parse().unwrap()].into());
    picture.apply(Input::Reports(Arc::default()));
    assert_eq!(readiness::ready(&picture, &picture.shares[&SESSION]), BTreeSet::new());
}

#[test]
fn connections_go_to_ready_machines_here_then_to_the_nearest() {
    let behind = |me: &str, text: &str, label: &str| {
        let state = shop();
        let picture = picture(me, Some(&state), &format!("{text}\nnas: web-1@1 ready\nattic: web-2@1 ready"));
        let found = readiness::behind(&picture, &picture.shares[&SESSION], label);
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(behind("vps", "attic rtt=9\nnas rtt=2\nvps", "web"), "web-1 web-2");
    assert_eq!(behind("vps", "attic rtt=1\nnas rtt=2\nvps", "web"), "web-2 web-1");
    assert_eq!(behind("attic", "attic\nnas rtt=0\nvps", "web"), "web-2 web-1");
    assert_eq!(behind("vps", "attic\nnas\nvps", "web-2"), "web-2");
    assert_eq!(behind("vps", "attic\nnas\nvps", "db"), "");
    assert_eq!(behind("vps", "attic down\nnas\nvps", "web"), "web-1");
}

#[test]
fn a_machine_that_is_to_stop_gets_no_new_connections_and_drains() {
    let state = shop();
    let mut picture = seen(&state, &format!("{MEMBERS}\nnas: web-1@1 ready\nattic: web-2@1 ready"));
    let drains = |picture: &Picture| {
        let share = &picture.shares[&SESSION];
        let all = share.directory.machines().filter(|entry| readiness::drains(picture, SESSION, entry));
        all.map(|entry| entry.machine.to_string()).collect::<Vec<_>>()
    };
    let behind = |picture: &Picture| {
        let found = readiness::behind(picture, &picture.shares[&SESSION], "web");
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!((behind(&picture).len(), drains(&picture)), (2, Vec::new()));

    // Its host has not said a word since, and nobody waits for one.
    let mut share = (*picture.shares[&SESSION]).clone();
    let web = share.directory.groups.get_mut(&"web".parse().unwrap()).unwrap();
    web.machines.iter_mut().filter(|entry| entry.machine.to_string() == "web-1").for_each(|e| e.run = false);
    picture.apply(Input::Shares(Arc::new([(SESSION, Arc::new(share.clone()))].into())));
    assert_eq!((behind(&picture), drains(&picture)), (vec!["web-2".to_owned()], vec!["web-1".to_owned()]));
    assert!(!readiness::ready(&picture, &share).contains(&"web-1".parse().unwrap()));

    share.ended = true;
    picture.apply(Input::Shares(Arc::new([(SESSION, Arc::new(share))].into())));
    assert_eq!(behind(&picture), Vec::<String>::new(), "nor does any machine of a session that ends");
}

#[test]
fn names_follow_the_picture() {
    let picture = seen(&shop(), &format!("{MEMBERS}\nnas: web-1@1 ready\nattic: web-2@0 ready"));
    let zone = zone::zone(&picture, Zone { zone: names::DEFAULT_ZONE.into(), ..Zone::default() });
    let web = |name: &str| names::answer(&zone, View::Guest(SESSION, Egress::Internet), name, Kind::A);
    // What is told of an older epoch of web-2 counts for nothing.
    let one = web("web.shop.mesh.internal");
    assert!(matches!(&one, Resolution::Addresses(found) if found.len() == 1), "{one:?}");
    assert_eq!(web("web-1.shop.mesh.internal"), one);
    assert_eq!(web("nearest.web.shop.mesh.internal"), one);
    assert_eq!(web("web-3.shop.mesh.internal"), Resolution::NoName);
    let same = |host: &HostEntry| host.same_computer;
    let here: Vec<String> =
        zone.hosts.iter().filter(|(_, host)| same(host)).map(|(id, _)| host_name(*id)).collect();
    assert_eq!(here, ["vps"]);
}

#[test]
fn a_host_is_near_where_packets_to_it_stay_in_a_network_of_ones_own() {
    let net = |address: &str| Net { address: address.parse().unwrap(), len: 24 };
    let here = Here { lans: vec![net("192.168.1.5")], inner: Vec::new(), tunnels: Vec::new() };
    let is_near = |attic: &str| {
        let picture = seen(&shop(), &format!("attic at=192.168.1.2:7440 {attic}\nnas\nvps"));
        let zone = zone::zone(&picture, Zone { here: here.clone(), ..Zone::default() });
        zone.hosts[&host_id("attic")].near
    };
    assert!(is_near("via=192.168.1.2:7440"));
    assert!(!is_near("via=203.0.113.250:7440"), "another home has the same network");
    assert!(!is_near("via=https://relay.example/"));
    assert!(is_near("down"), "nothing but its addresses is known");
    assert!(is_near("via=192.168.1.5:7441"), "an agent on this computer");
}

#[test]
fn the_zone_says_what_hosts_publish() {
    let picture = seen(&shop(), "attic publishes=445\nnas\nvps");
    let zone = zone::zone(&picture, Zone { zone: names::DEFAULT_ZONE.into(), ..Zone::default() });
    assert_eq!(zone.hosts[&host_id("attic")].published, [("files".parse().unwrap(), 445)].into());
    let publisher = |name: &str, port| zone::publisher(&picture, name, port);
    assert_eq!(publisher("files.attic.host", 445), Some(host_id("attic")));
    assert_eq!(publisher("files.attic.host", 446), None);
    assert_eq!(publisher("photos.attic.host", 445), None);
    assert_eq!(publisher("files.nas.host", 445), None);
}

#[test]
fn every_group_and_machine_has_a_label() {
    let picture = seen(&shop(), MEMBERS);
    let share = picture.share(SESSION).unwrap();
    assert_eq!(zone::forwarded(share), ["db", "db-1", "web", "web-1", "web-2"]);
    assert_eq!(zone::group(share, "web-2").unwrap().services.len(), 1);
    assert!(zone::group(share, "web-3").is_none());
}

fn changes(before: &str, after: &str, expected: Expect) {
    let state = shop();
    let mut picture = seen(&state, before);
    let changed = observe(&mut picture, Some(&state), after);
    let line = |change: &Change| match change {
        Change::Host(host) => format!("host {}\n", host_name(*host)),
        Change::Session(session) => format!("session {session}\n"),
        Change::Image(digest) => format!("image {}\n", digest.short()),
        Change::Seen(host) => format!("seen {}\n", host_name(*host)),
    };
    expected.assert_eq(&changed.iter().map(line).collect::<String>());
}

#[test]
fn round_trips_and_free_disk_wake_nobody() {
    changes("attic rtt=1 disk=5\nvps", "attic rtt=70 disk=4\nvps", expect![""]);
}

#[test]
fn what_was_observed_is_known_although_it_wakes_nobody() {
    let mut picture = seen(&shop(), "attic rtt=1 disk=5\nvps");
    assert_eq!(observe(&mut picture, Some(&shop()), "attic rtt=70 disk=4\nvps"), BTreeSet::new());
    assert_eq!(picture.members[&host_id("attic")].rtt_ms(), Some(70.0));
    assert_eq!(picture.host_record(host_id("attic")).unwrap().disk_mib, 4);
}

#[test]
fn a_host_that_falls_silent_changes_the_sessions_with_machines_on_it() {
    changes(
        "attic\nnas\nvps",
        "attic\nnas down\nvps",
        expect![[r#"
            host nas
            session 07070707070707070707070707070707
        "#]],
    );
    changes(
        "attic\nvps",
        "attic\nvps down",
        expect![[r#"
        host vps
    "#]],
    );
}

#[test]
fn another_way_to_a_host_changes_the_host_only() {
    changes(
        "attic\nvps",
        "attic relayed\nvps",
        expect![[r#"
        host attic
    "#]],
    );
}

#[test]
fn a_report_changes_its_session_and_an_image_itself() {
    changes(
        "attic\nattic has 3 tiny@1\nattic: web-2@1 waiting",
        "attic\nattic has 3 tiny@2\nattic: web-2@1 ready",
        expect![[r#"
            session 07070707070707070707070707070707
            image 0303030303
        "#]],
    );
}

#[test]
fn the_same_observations_change_nothing() {
    let text = "attic\nattic has 3 tiny@1\nattic: web-2@1 waiting";
    changes(text, text, expect![""]);
}

#[test]
fn a_new_share_changes_its_session() {
    let (state, text) = (shop(), MEMBERS);
    let mut picture = seen(&state, text);
    let ended = command(state, Command::End);
    assert_eq!(observe(&mut picture, Some(&ended), text), [Change::Session(SESSION)].into());
    assert_eq!(observe(&mut picture, None, text), [Change::Session(SESSION)].into());
}

fn status(text: &str, expected: Expect) {
    let picture = seen(&shop(), text);
    let share = picture.share(SESSION).unwrap();
    let row = rows::session(&picture, share, Some(host_id("nas")));
    let mut lines = format!(
        "{:?} {}/{} by {}\n",
        row.state,
        row.ready,
        row.machines,
        row.coordinator.unwrap_or_default()
    );
    for row in rows::machines(&picture, share) {
        let reason = row.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        lines += &format!("{} on {} {:?}{reason}\n", row.name, row.host.unwrap_or_default(), row.state);
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_session_is_healthy_when_all_is_ready_or_stopped() {
    status(
        &format!("{MEMBERS}\nnas: web-1@1 ready\nattic: web-2@1 stopped, db-1@1 ready"),
        expect![[r#"
            Healthy 2/3 by nas
            db-1 on attic Ready
            web-1 on nas Ready
            web-2 on attic Stopped
        "#]],
    );
}

#[test]
fn a_session_starts_while_somebody_has_not_reported() {
    status(
        &format!("{MEMBERS}\nattic: web-2@1 fetching, db-1@1 ready"),
        expect![[r#"
            Starting 1/3 by nas
            db-1 on attic Ready
            web-1 on nas Waiting: its host has not reported yet
            web-2 on attic Fetching
        "#]],
    );
}

#[test]
fn a_session_is_degraded_while_a_machine_failed_or_its_host_is_away() {
    status(
        "attic\nnas down\nvps\nnas: web-1@1 ready\nattic: web-2@1 ready, db-1@1 ready",
        expect![[r#"
            Degraded 2/3 by nas
            db-1 on attic Ready
            web-1 on nas Failed: nas is not heard; the machine waits for it (guard: hold); if nas is gone for good: agent host remove nas
            web-2 on attic Ready
        "#]],
    );
    let failed = "attic\nnas\nvps\nattic: web-2@1 failed";
    assert_eq!(rows::state(&seen(&shop(), failed), &seen(&shop(), failed).shares[&SESSION]), api_degraded());
}

fn api_degraded() -> crate::wire::api::SessionState {
    crate::wire::api::SessionState::Degraded
}

#[test]
fn hosts_are_listed_with_this_one_first() {
    let picture = picture("nas", None, "attic\nnas\nvps down");
    let names: Vec<String> = rows::hosts(&picture).into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["nas", "attic", "vps"]);
}

#[test]
fn of_two_givings_of_a_name_the_newest_wins() {
    let of = |text: &str| {
        let rows = rows::images(&picture("nas", None, text));
        let line = |row: &crate::wire::api::ImageRow| {
            format!("{} {} {}", row.name.clone().unwrap_or("-".into()), row.digest.0[0], row.hosts.join("+"))
        };
        rows.iter().map(line).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of("attic\nnas\nattic has 9 tiny@1\nnas has 1 tiny@2"), "- 9 attic, tiny 1 nas");
    assert_eq!(
        of("attic\nnas\nattic has 9 tiny@2,old@1\nnas has 1 tiny@1"),
        "- 1 nas, old 9 attic, tiny 9 attic"
    );
    assert_eq!(of("attic\nnas\nattic has 1 tiny@5\nnas has 2 tiny@5"), "- 1 attic, tiny 2 nas");
    assert_eq!(of("attic\nnas\nattic has 1 tiny@5\nnas has 1 tiny@5"), "tiny 1 attic+nas");
    assert_eq!(of("attic\nnas\nattic part 1 tiny@5"), "tiny 1 ");
}

#[test]
fn what_a_member_calls_an_image_is_looked_at_first() {
    let names = ["debian:12", "\u{1b}[2J", "a\nb", "blake3:00", "", "http://x/y", "-x"];
    let mut picture = Picture::new(host_id("nas"));
    let record = ImageRecord {
        names: names.iter().map(|name| ((*name).to_owned(), crate::time::Timestamp(7))).collect(),
        size: 1,
        allocated: 1,
        arch: "x86_64".to_owned(),
        complete: true,
    };
    let key = (host_id("attic"), RecordKey::Image(Digest([2; 32])));
    picture.apply(Input::Records(Arc::new([(key, Body::Image(record))].into())));
    let known = images::all(&picture);
    assert_eq!(known.len(), 1, "the image itself is there");
    assert_eq!(known[0].names, ["debian:12"]);
    assert_eq!(images::names(&picture, Digest([2; 32])).len(), 1);
}

#[test]
fn who_may_not_hold_images_for_others_gives_no_names_and_is_asked_for_none() {
    let text = "attic only=run,vote\nvps\nnas\nattic has 1 tiny@9, other@9\nvps has 2 tiny@5\nvps has 1";
    let picture = picture("nas", None, text);
    let names: Vec<(String, u8)> =
        images::meanings(&picture).into_iter().map(|(name, (digest, _))| (name, digest.0[0])).collect();
    assert_eq!(names, [("tiny".to_owned(), 2)]);
    let holders =
        |n: u8| images::holdings(&picture, Digest([n; 32])).into_iter().map(|h| h.name).collect::<Vec<_>>();
    assert_eq!((holders(1), holders(2)), (vec!["vps".to_owned()], vec!["vps".to_owned()]));
}

#[test]
fn images_are_fetched_from_members_that_are_heard() {
    let text = "attic relayed rtt=5\nnas\nvps down\nattic part 1 tiny@5\nnas has 1 tiny@5\nvps has 1 tiny@5";
    let holdings = images::holdings(&picture("nas", None, text), Digest([1; 32]));
    let line = |h: &images::Holding| format!("{} {} {} {:?}", h.name, h.complete, h.direct, h.rtt_ms);
    assert_eq!(holdings.iter().map(line).collect::<Vec<_>>(), ["attic false false Some(5.0)"]);
}

#[test]
fn the_planner_sees_what_other_sessions_hold_and_who_has_what() {
    let text = "attic used=7:100 used=8:30\nnas down\nattic has 1 tiny@5\nnas has 2 tiny@4";
    let inventory = inventory::inventory(&picture("nas", None, text), SESSION);
    let attic = &inventory.hosts[&host_id("attic")];
    assert_eq!((attic.memory_used_mib, attic.up), (30, true));
    assert_eq!(attic.images, [Digest([1; 32])].into());
    assert!(!inventory.hosts[&host_id("nas")].up);
    let images: Vec<&str> = inventory.images.keys().map(String::as_str).collect();
    assert_eq!(images, [&format!("blake3:{}", Digest([2; 32]))[..], "tiny"]);
}

#[test]
fn a_number_that_a_member_made_up_ends_nothing() {
    let huge = u64::MAX;
    let text = format!("attic used=8:{huge} used=9:{huge}\nnas");
    let picture = picture("nas", None, &text);
    assert_eq!(inventory::inventory(&picture, SESSION).hosts[&host_id("attic")].memory_used_mib, huge);
    assert_eq!(rows::hosts(&picture)[1].memory_used_mib, Some(huge));
}

#[test]
fn troubles_of_others_and_absent_hosts_are_warned_of() {
    let picture = picture("nas", None, "attic trouble=no_space issuer\nnas trouble=mine\nvps down\npi down");
    let hosts = rows::hosts(&picture);
    let mut warnings = health::warnings(&picture, &hosts);
    warnings.extend(health::single_issuer(&hosts));
    let lines: Vec<String> = warnings.into_iter().map(|warning| warning.what).collect();
    assert_eq!(
        lines,
        [
            "attic: no space",
            "pi and vps are down: not heard for too long",
            "attic alone may admit new hosts; keep its recovery phrase safe"
        ]
    );
    assert_eq!(health::troubles(&picture, &["attic", "vps"].into()), ["attic: no space"]);
}

#[test]
fn who_alone_may_admit_others_is_warned_of_with_what_helps() {
    let warning = |text: &str| health::single_issuer(&rows::hosts(&picture("nas", None, text)));
    let told = |text: &str| warning(text).map(|warning| (warning.what, warning.next.unwrap()));
    let owned = |what: &str, next: &str| Some((what.to_owned(), next.to_owned()));
    assert_eq!(told("attic issuer\nnas"), None, "of two hosts one always is");
    assert_eq!(told("attic issuer\nnas issuer\nvps"), None);
    assert_eq!(
        told("attic issuer\nnas\nvps"),
        owned(
            "attic alone may admit new hosts; keep its recovery phrase safe",
            "on attic: agent host promote NAME"
        )
    );
    assert_eq!(
        told("attic down issuer\nnas\nvps"),
        owned(
            "attic alone may admit new hosts, and it is down",
            "agent init --restore    with the recovery phrase, if it is gone for good"
        )
    );
}

#[test]
fn a_host_that_hears_nobody_is_led_to_its_own_network_first() {
    let next = |text: &str| {
        let picture = picture("nas", None, text);
        health::warnings(&picture, &rows::hosts(&picture)).pop().and_then(|warning| warning.next).unwrap()
    };
    assert_eq!(next("nas\nvps\npi down"), "on pi: agent run; if gone for good: agent host remove pi");
    assert_eq!(
        next("nas\nvps down\npi down"),
        "agent net check    and if this host is well, on pi, vps: agent run; if gone for good: agent host remove NAME"
    );
}

#[test]
fn whoever_speaks_for_a_session_is_heard_believed_or_not() {
    let mut picture = seen(&shop(), MEMBERS);
    let head = |version: u64, voters: &[&str]| {
        Body::Head(crate::wire::record::HeadRecord {
            name: "shop".parse().unwrap(),
            stamp: crate::time::Timestamp(1),
            term: 1,
            recovery: 0,
            version,
            generation: crate::id::Generation(1),
            voters: voters.iter().map(|host| host_id(host)).collect(),
            ended: false,
        })
    };
    let of = |host: &str| (host_id(host), RecordKey::Head(SESSION));
    let records = Records::from([
        (of("attic"), head(3, &["attic", "nas"])),
        (of("nas"), head(4, &["nas"])),
        (of("pi"), head(900, &["pi"])),
    ]);
    assert_eq!(picture.apply(Input::Records(Arc::new(records))).len(), 4, "three hosts and a session");
    let speakers: Vec<_> =
        heads::speakers(&picture).map(|(host, session)| (host_name(host), session)).collect();
    assert_eq!(speakers.len(), 3);
    assert!(["attic", "nas", "pi"].iter().all(|host| speakers.contains(&((*host).to_owned(), SESSION))));
    let said = |host: &str| heads::said(&picture, host_id(host), SESSION).map(|head| head.version);
    assert_eq!((said("nas"), said("pi"), said("vps")), (Some(4), Some(900), None), "believed or not");
}

/// Lets hosts say what they would with these pictures, in the picture of `me`.
fn saying(me: &str, state: Option<&State>, text: &str, others: &[(&str, &str)]) -> Picture {
    let mut mine = picture(me, state, text);
    let mut records = Records::clone(&mine.records);
    for (host, text) in others {
        let seen = acks::seen(&picture(host, state, text), &acks::Ends::default());
        records.insert((host_id(host), RecordKey::Seen), Body::Seen(seen));
    }
    mine.apply(Input::Records(Arc::new(records)));
    mine
}

fn hosts(found: &BTreeSet<HostId>) -> String {
    let mut names: Vec<String> = found.iter().map(|host| host_name(*host)).collect();
    names.sort();
    names.join(" ")
}

const ALL_READY: &str =
    "attic\nnas\nvps\nvps: x-1@1 ready\nnas: web-1@1 ready\nattic: web-2@1 ready, db-1@1 ready";
const ONE_WAITS: &str =
    "attic\nnas\nvps\nvps: x-1@1 ready\nnas: web-1@1 ready\nattic: web-2@1 ready, db-1@1 waiting";
const ONE_STOPPED: &str =
    "attic\nnas\nvps\nvps: x-1@1 ready\nnas: web-1@1 ready\nattic: web-2@1 ready, db-1@1 stopped";

#[test]
fn up_waits_until_every_host_says_that_it_sees_the_same() {
    let state = shop();
    let behind = |mine: &str, others: &[(&str, &str)]| {
        let picture = saying("vps", Some(&state), mine, others);
        hosts(&acks::behind(&picture, &picture.shares[&SESSION]))
    };
    assert_eq!(behind(ALL_READY, &[("nas", ALL_READY), ("attic", ALL_READY)]), "");
    assert_eq!(behind(ALL_READY, &[("nas", ONE_WAITS), ("attic", ALL_READY)]), "nas");
    assert_eq!(behind(ALL_READY, &[("nas", ONE_STOPPED), ("attic", ALL_READY)]), "nas");
    assert_eq!(behind(ONE_STOPPED, &[("nas", ONE_STOPPED), ("attic", ONE_STOPPED)]), "");
    assert_eq!(behind(ALL_READY, &[("attic", ALL_READY)]), "nas", "it has said nothing");
    assert_eq!(behind(ONE_WAITS, &[("nas", ALL_READY), ("attic", ONE_WAITS)]), "attic nas vps");
    let down = ALL_READY.replace("nas\n", "nas down\n");
    assert_eq!(behind(&down, &[("attic", &down)]), "", "who is away is not waited for");
}

#[test]
fn a_host_of_an_older_agent_is_not_waited_for() {
    let state = shop();
    let mut picture = saying("vps", Some(&state), ALL_READY, &[("attic", ALL_READY)]);
    let nas = (host_id("nas"), RecordKey::Host);
    let mut records = Records::clone(&picture.records);
    match records.get_mut(&nas) {
        Some(Body::Host(record)) => record.tells_seen = false,
        other => panic!("{other:?}"),
    }
    picture.apply(Input::Records(Arc::new(records.clone())));
    assert_eq!(hosts(&acks::behind(&picture, &picture.shares[&SESSION])), "");
    // Of one that has said nothing at all, nobody knows how old its agent is.
    records.remove(&nas);
    picture.apply(Input::Records(Arc::new(records)));
    assert_eq!(hosts(&acks::behind(&picture, &picture.shares[&SESSION])), "nas");
}

#[test]
fn what_was_seen_of_another_share_does_not_count() {
    let state = shop();
    let mut picture = saying("vps", Some(&state), ALL_READY, &[("nas", ALL_READY), ("attic", ALL_READY)]);
    let newer = Share { version: state.version + 1, ..Share::clone(&picture.shares[&SESSION]) };
    assert_eq!(hosts(&acks::behind(&picture, &newer)), "attic nas vps", "this host has not acted on it");
    let acted = Acted { version: newer.version, ..picture.reports[&SESSION].clone() };
    picture.apply(Input::Reports(Arc::new([(SESSION, acted)].into())));
    assert_eq!(hosts(&acks::behind(&picture, &newer)), "attic nas");
}

fn tombstone(session: u8, made: u64) -> Tombstone {
    Tombstone { session: SessionId([session; 16]), made: crate::time::Timestamp(made), mandate: None }
}

#[test]
fn down_waits_until_every_host_says_that_it_knows_of_the_end_and_has_nothing() {
    let state = shop();
    let of = |host: &str, state: Option<&State>, ended: &[Tombstone]| {
        let mut ends = acks::Ends::default();
        ends.hear(ended.iter());
        let mut picture = picture("vps", None, MEMBERS);
        let mut records = Records::clone(&picture.records);
        let seen = acks::seen(&super::fixture::picture(host, state, MEMBERS), &ends);
        records.insert((host_id(host), RecordKey::Seen), Body::Seen(seen));
        picture.apply(Input::Records(Arc::new(records)));
        hosts(&acks::unaware_of_end(&picture, SESSION))
    };
    let end = Tombstone { session: SESSION, made: crate::time::Timestamp(1), mandate: None };
    assert_eq!(of("nas", None, &[]), "attic nas", "it may still be told to start something");
    assert_eq!(of("nas", Some(&state), std::slice::from_ref(&end)), "attic nas", "it has a share of it");
    assert_eq!(of("nas", None, &[end]), "attic");
}

#[test]
fn ends_are_told_in_the_order_in_which_they_are_heard() {
    let mut ends = acks::Ends::default();
    let most = crate::limits::MAX_ENDS_TOLD as u8;
    // One whose clock is far ahead said so before all others.
    let mut all = vec![tombstone(200, u64::MAX)];
    ends.hear(all.iter());
    for n in 0..most {
        all.push(tombstone(n, u64::from(n)));
        ends.hear(all.iter());
    }
    let told = |ends: &acks::Ends| acks::seen(&picture("nas", None, "nas"), ends).ended;
    let (mut only, mut first) = (acks::Ends::default(), acks::Ends::default());
    only.hear([tombstone(most - 1, 0)].iter());
    first.hear([tombstone(200, 0)].iter());
    assert_eq!(told(&ends).len(), usize::from(most));
    assert_eq!(told(&ends)[0], told(&only)[0]);
    assert!(!told(&ends).contains(&told(&first)[0]), "the oldest made room");
}

#[test]
fn an_import_waits_until_every_host_says_that_it_knows_the_name() {
    let text = "attic\nnas\nnas has 1 tiny@5";
    let unaware = |mine: &str, theirs: &str, name: &str, digest: u8| {
        let picture = saying("nas", None, mine, &[("attic", theirs)]);
        hosts(&acks::unaware_of_name(&picture, name, Digest([digest; 32])))
    };
    assert_eq!(unaware(text, text, "tiny", 1), "");
    assert_eq!(unaware(text, "attic\nnas", "tiny", 1), "attic");
    assert_eq!(unaware(text, "attic\nnas\nnas has 2 tiny@4", "tiny", 1), "attic", "with other content");
    assert_eq!(unaware(text, text, "other", 1), "attic nas");
}

#[test]
fn what_is_said_of_what_was_seen_fits_one_record() {
    let mut picture = picture("nas", None, "nas");
    let id = |n: u8| SessionId([n; 16]);
    let share = crate::session::slice::share(&shop(), host_id("vps"));
    let many = (0..crate::limits::MAX_SESSIONS as u8).map(|n| {
        let ended = false;
        (id(n), Arc::new(Share { session: id(n), version: u64::MAX, ended, ..share.clone() }))
    });
    let shares: Shares = many.collect();
    picture.apply(Input::Shares(Arc::new(shares)));
    let names = (0..1000).map(|n| (format!("image-{n}"), crate::time::Timestamp(n))).collect();
    let record = ImageRecord { names, size: 1, allocated: 1, arch: "x86_64".into(), complete: true };
    picture.apply(Input::Images(Arc::new([(Digest([1; 32]), record)].into())));
    let (mut ends, all) = (acks::Ends::default(), (100..250).map(|n| tombstone(n, 1)).collect::<Vec<_>>());
    ends.hear(all.iter());
    let mut seen = acks::seen(&picture, &ends);
    assert_eq!(seen.sessions.len(), crate::limits::MAX_SESSIONS);
    assert_eq!(seen.names.len(), crate::limits::MAX_NAMES_TOLD);
    assert_eq!(seen.ended.len(), crate::limits::MAX_ENDS_TOLD);
    // The longest that words can be.
    seen.sessions
        .values_mut()
        .chain(&mut seen.names)
        .chain(&mut seen.ended)
        .for_each(|word| *word = u32::MAX);
    let record = crate::seal::SignedRecord {
        mesh: crate::id::MeshId([255; 32]),
        host: HostId(crate::seal::Seed([3; 32]).public()),
        generation: u64::MAX,
        seq: u64::MAX,
        key: RecordKey::Seen,
        body: Some(Body::Seen(seen)),
    };
    let sealed = record.seal(&crate::seal::Seed([3; 32])).unwrap();
    let opened = crate::seal::SignedRecord::open(&sealed, record.mesh, record.host, &RecordKey::Seen);
    assert_eq!(opened, Ok(record));
}

#[test]
fn a_mesh_is_of_the_lowest_level_that_its_members_told_and_says_who_holds_it_there() {
    let told = |text: &str| {
        let picture = picture("nas", None, text);
        let below: Vec<String> = level::behind(&picture)
            .into_iter()
            .map(|one| {
                format!("{}={}", one.host, one.level.map_or("?".to_owned(), |level| level.to_string()))
            })
            .collect();
        format!("{} {}", level::mesh_level(&picture), below.join(" "))
    };
    assert_eq!(told("nas level=2\nattic level=2"), "2 ");
    assert_eq!(told("nas level=3\nattic level=2\ncellar level=3"), "2 attic=2");
    assert_eq!(told("nas level=2\ndesk level=1 down\nattic level=1"), "1 attic=1 desk=1", "also who is away");
    assert_eq!(told("nas level=2\nattic level=-"), "1 attic=?", "who never told counts for the first");
    let mut cut = picture("nas", None, "nas level=2\nattic level=1");
    let mut members = Members::clone(&cut.members);
    members.get_mut(&host_id("attic")).unwrap().state = MemberState::Evicted;
    cut.apply(Input::Members(Arc::new(members)));
    assert_eq!(level::mesh_level(&cut), Level::from(2), "who was cut off does not count");
    assert_eq!(level::below(&cut, Level::from(2)), []);
}

#[test]
fn a_host_that_is_out_counts_for_nothing_and_its_machines_say_so() {
    let state = shop();
    let text = "nas has 1 tiny@1\nnas issuer\nattic\ncellar";
    let mut picture = picture("cellar", Some(&state), text);
    let (nas, label) = (host_id("nas"), Some("nas".parse().unwrap()));
    let hosts = inventory::inventory(&picture, SESSION).hosts;
    assert!(hosts.contains_key(&nas) && !images::meanings(&picture).is_empty());
    let changed = picture.apply(Input::Out(Arc::new([(nas, label)].into())));
    assert!(changed.contains(&Change::Host(nas)) && changed.contains(&Change::Session(SESSION)));
    assert_eq!(picture.apply(Input::Out(picture.out.clone())), [].into());

    let inventory = inventory::inventory(&picture, SESSION);
    assert!(!inventory.hosts.contains_key(&nas) && inventory.out == [nas].into());
    assert!(images::meanings(&picture).is_empty() && images::all(&picture).is_empty());
    assert!(!picture.is_up(nas) && !zone::zone(&picture, Default::default()).hosts.contains_key(&nas));
    let share = picture.share(SESSION).unwrap().clone();
    let told = rows::machines(&picture, &share).into_iter().find(|row| row.host.as_deref() == Some("nas"));
    let because = told.unwrap().reason.unwrap();
    assert!(because.starts_with("nas is out of the mesh, and the machine's disk with it"), "{because}");
}

#[test]
fn what_is_warned_of_hosts_that_are_away_says_what_helps_when_they_are_gone_for_good() {
    let next = |text: &str| {
        let picture = picture("nas", None, text);
        health::warnings(&picture, &rows::hosts(&picture)).pop().unwrap().next.unwrap()
    };
    assert_eq!(next("nas\nattic\nvps down"), "on vps: agent run; if gone for good: agent host remove vps");
    assert_eq!(
        next("nas\nattic\nvps down\npi down"),
        "on pi, vps: agent run; if gone for good: agent host remove NAME"
    );
}
