//! Which packets may leave and arrive, by the directory alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use proto::session::{GroupEntry, Guard, MachineEntry, Prefix};

use super::*;

const SESSION: SessionId = SessionId([9; 16]);
const HERE: HostId = HostId([1; 32]);
const THERE: HostId = HostId([2; 32]);

/// web-1 (.2) and web-3 (.4) here, web-2 (.3) there in its fifth epoch.
fn routes() -> Routes {
    let entry = |index: u8, host, epoch| MachineEntry {
        machine: format!("web-{index}").parse().unwrap(),
        host,
        epoch: Epoch(epoch),
        address: Ipv4Addr::new(10, 64, 7, 1 + index),
        guard: Guard::Hold,
        user: None,
        run: true,
    };
    let group = GroupEntry {
        services: BTreeMap::new(),
        http: BTreeSet::new(),
        needs: BTreeSet::new(),
        machines: vec![entry(1, HERE, 2), entry(2, THERE, 5), entry(3, HERE, 1)],
        publish: BTreeMap::new(),
    };
    let subnet = Prefix { base: Ipv4Addr::new(10, 64, 7, 0), len: 24 };
    let groups = BTreeMap::from([("web".parse().unwrap(), group)]);
    Routes::new(SESSION, &Directory { subnet, groups }, HERE)
}

fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 64, 7, from], [10, 64, 7, to], 64)
        .udp(1, 2)
        .write_to_vec(&mut bytes, b"hi")
        .unwrap();
    bytes
}

#[test]
fn packets_leave_for_the_host_of_their_destination() {
    let (routes, web_1) = (routes(), "web-1".parse().unwrap());
    let leaving = |from, to, epoch| routes.leaving(&packet(from, to), &web_1, Epoch(epoch));
    assert_eq!(leaving(2, 3, 2), Ok(Next::Host(THERE)));
    assert_eq!(leaving(2, 4, 2), Ok(Next::Here(&"web-3".parse().unwrap())));
    assert_eq!(leaving(2, 4, 3), Ok(Next::Here(&"web-3".parse().unwrap())), "newer than we know");
    assert_eq!(leaving(2, 9, 2), Err(Lost::NoRoute));
    assert_eq!(leaving(4, 3, 2), Err(Lost::Forged));
    assert_eq!(leaving(2, 3, 1), Err(Lost::Stale));
    assert_eq!(routes.leaving(b"junk", &web_1, Epoch(2)), Err(Lost::Malformed));
}

fn packet_v6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv6(from.octets(), to.octets(), 64)
        .udp(1, 2)
        .write_to_vec(&mut bytes, b"hi")
        .unwrap();
    bytes
}

#[test]
fn a_machines_ipv6_address_leads_where_its_other_one_does() {
    let (routes, web_1) = (routes(), "web-1".parse().unwrap());
    let at = |name: &str| overlay::machine_v6(SESSION, &name.parse().unwrap());
    let leaving = |from, to, epoch| routes.leaving(&packet_v6(from, to), &web_1, Epoch(epoch));
    assert_eq!(leaving(at("web-1"), at("web-2"), 2), Ok(Next::Host(THERE)));
    assert_eq!(leaving(at("web-1"), at("web-3"), 2), Ok(Next::Here(&"web-3".parse().unwrap())));
    assert_eq!(leaving(at("web-3"), at("web-2"), 2), Err(Lost::Forged));
    assert_eq!(leaving(at("web-1"), at("web-2"), 1), Err(Lost::Stale));
    assert_eq!(leaving(at("web-1"), at("web-9"), 2), Err(Lost::NoRoute));
    let elsewhere = overlay::machine_v6(SessionId([8; 16]), &"web-2".parse().unwrap());
    assert_eq!(leaving(at("web-1"), elsewhere, 2), Err(Lost::NoRoute), "another session's");
    let arriving = |from, to, host, epoch| routes.arriving(&packet_v6(from, to), host, Epoch(epoch)).cloned();
    assert_eq!(arriving(at("web-2"), at("web-1"), THERE, 5), Ok(web_1.clone()));
    assert_eq!(arriving(at("web-2"), at("web-1"), THERE, 4), Err(Lost::Stale));
    assert_eq!(arriving(at("web-3"), at("web-1"), THERE, 5), Err(Lost::Forged));
    assert_eq!(
        routes.leaving(&packet_v6(at("web-1"), at("web-2"))[..39], &web_1, Epoch(2)),
        Err(Lost::Malformed)
    );
}

#[test]
fn an_incarnation_that_moved_away_is_not_heard_here() {
    let routes = routes();
    let web_2 = "web-2".parse().unwrap();
    assert_eq!(routes.leaving(&packet(3, 2), &web_2, Epoch(4)), Err(Lost::Stale));
}

#[test]
fn packets_arrive_only_from_the_host_of_their_source_and_its_newest_epoch() {
    let routes = routes();
    let arriving = |from, to, host, epoch| routes.arriving(&packet(from, to), host, Epoch(epoch)).cloned();
    assert_eq!(arriving(3, 2, THERE, 5), Ok("web-1".parse().unwrap()));
    assert_eq!(arriving(3, 2, THERE, 6), Ok("web-1".parse().unwrap()));
    assert_eq!(arriving(3, 2, THERE, 4), Err(Lost::Stale));
    assert_eq!(arriving(3, 2, HostId([3; 32]), 5), Err(Lost::Forged));
    assert_eq!(arriving(4, 2, THERE, 5), Err(Lost::Forged));
    assert_eq!(arriving(9, 2, THERE, 5), Err(Lost::Forged));
    assert_eq!(arriving(3, 3, THERE, 5), Err(Lost::NoRoute));
    assert_eq!(arriving(3, 9, THERE, 5), Err(Lost::NoRoute));
}

#[test]
fn machines_are_found_by_name() {
    let routes = routes();
    assert_eq!(routes.host_of(&"web-2".parse().unwrap()), Some(THERE));
    assert_eq!(routes.host_of(&"web-9".parse().unwrap()), None);
    let current = |name: &str, epoch| routes.is_current(&name.parse().unwrap(), Epoch(epoch));
    assert!(current("web-1", 2) && current("web-1", 3) && !current("web-1", 1));
    assert!(!current("web-2", 5), "runs elsewhere");
}
