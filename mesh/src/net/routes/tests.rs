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
        udp: BTreeSet::new(),
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
    let leaving =
        |from, to, epoch| routes.leaving(&packet(from, to), (&web_1, Epoch(epoch)), &Known::default());
    assert_eq!(leaving(2, 3, 2), Ok(Next::Host(THERE)));
    assert_eq!(leaving(2, 4, 2), Ok(Next::Here(&"web-3".parse().unwrap())));
    assert_eq!(leaving(2, 4, 3), Ok(Next::Here(&"web-3".parse().unwrap())), "newer than we know");
    assert_eq!(leaving(2, 9, 2), Err(Lost::NoRoute));
    assert_eq!(leaving(4, 3, 2), Err(Lost::Forged));
    assert_eq!(leaving(2, 3, 1), Err(Lost::Stale));
    assert_eq!(routes.leaving(b"junk", (&web_1, Epoch(2)), &Known::default()), Err(Lost::Malformed));
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
    let leaving =
        |from, to, epoch| routes.leaving(&packet_v6(from, to), (&web_1, Epoch(epoch)), &Known::default());
    assert_eq!(leaving(at("web-1"), at("web-2"), 2), Ok(Next::Host(THERE)));
    assert_eq!(leaving(at("web-1"), at("web-3"), 2), Ok(Next::Here(&"web-3".parse().unwrap())));
    assert_eq!(leaving(at("web-3"), at("web-2"), 2), Err(Lost::Forged));
    assert_eq!(leaving(at("web-1"), at("web-2"), 1), Err(Lost::Stale));
    assert_eq!(leaving(at("web-1"), at("web-9"), 2), Err(Lost::NoRoute));
    let elsewhere = overlay::machine_v6(SessionId([8; 16]), &"web-2".parse().unwrap());
    assert_eq!(leaving(at("web-1"), elsewhere, 2), Err(Lost::NoRoute), "another session's");
    let arriving = |from, to, host, epoch| routes.arriving(&packet_v6(from, to), host, Epoch(epoch));
    assert_eq!(arriving(at("web-2"), at("web-1"), THERE, 5), Ok(Next::Here(&web_1)));
    assert_eq!(arriving(at("web-2"), at("web-1"), THERE, 4), Err(Lost::Stale));
    assert_eq!(arriving(at("web-3"), at("web-1"), THERE, 5), Err(Lost::Forged));
    assert_eq!(
        routes.leaving(&packet_v6(at("web-1"), at("web-2"))[..39], (&web_1, Epoch(2)), &Known::default()),
        Err(Lost::Malformed)
    );
}

#[test]
fn an_incarnation_that_moved_away_is_not_heard_here() {
    let routes = routes();
    let web_2 = "web-2".parse().unwrap();
    assert_eq!(routes.leaving(&packet(3, 2), (&web_2, Epoch(4)), &Known::default()), Err(Lost::Stale));
}

#[test]
fn packets_arrive_only_from_the_host_of_their_source_and_its_newest_epoch() {
    let routes = routes();
    let arriving = |from, to, host, epoch| routes.arriving(&packet(from, to), host, Epoch(epoch));
    assert_eq!(arriving(3, 2, THERE, 5), Ok(Next::Here(&"web-1".parse().unwrap())));
    assert_eq!(arriving(3, 2, THERE, 6), Ok(Next::Here(&"web-1".parse().unwrap())));
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

fn from_to(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(from.octets(), to.octets(), 64)
        .udp(1, 2)
        .write_to_vec(&mut bytes, b"hi")
        .unwrap();
    bytes
}

/// What both protocols call a machine and a host.
fn ends_of(machine: u8, host: HostId) -> [(Vec<u8>, Vec<u8>); 2] {
    let name: MachineName = format!("web-{}", machine - 1).parse().unwrap();
    let (v4, v6) = (Ipv4Addr::new(10, 64, 7, machine), overlay::machine_v6(SESSION, &name));
    let (host_v4, host_v6) = (overlay::host_v4(host), overlay::host_v6(SESSION, host));
    [(from_to(host_v4, v4), from_to(v4, host_v4)), (packet_v6(host_v6, v6), packet_v6(v6, host_v6))]
}

#[test]
fn a_host_sends_under_its_own_address_to_machines_alone() {
    let routes = routes();
    for (to_here, _) in ends_of(2, HERE) {
        assert_eq!(routes.own_leaving(&to_here), Ok(Next::Here(&"web-1".parse().unwrap())));
    }
    for (to_there, _) in ends_of(3, HERE) {
        assert_eq!(routes.own_leaving(&to_there), Ok(Next::Host(THERE)));
    }
    for (forged, _) in ends_of(3, THERE) {
        assert_eq!(routes.own_leaving(&forged), Err(Lost::Forged), "another host's");
    }
    assert_eq!(routes.own_leaving(&packet(2, 3)), Err(Lost::Forged), "its own machine's");
    let nowhere = from_to(overlay::host_v4(HERE), overlay::host_v4(THERE));
    assert_eq!(routes.own_leaving(&nowhere), Err(Lost::NoRoute), "hosts are no machines");
}

#[test]
fn what_another_host_sends_itself_is_taken_under_its_own_address() {
    let routes = routes();
    let third = HostId([3; 32]);
    for host in [THERE, third] {
        for (to_web_1, _) in ends_of(2, host) {
            let web_1 = "web-1".parse().unwrap();
            assert_eq!(routes.arriving(&to_web_1, host, Epoch(0)), Ok(Next::Here(&web_1)));
            assert!(routes.own_address(&to_web_1, host).is_some());
            let other = if host == THERE { third } else { THERE };
            assert_eq!(routes.arriving(&to_web_1, other, Epoch(0)), Err(Lost::Forged));
            assert_eq!(routes.own_address(&to_web_1, other), None);
        }
        for (not_here, _) in ends_of(3, host) {
            assert_eq!(routes.arriving(&not_here, host, Epoch(0)), Err(Lost::NoRoute));
        }
    }
    assert_eq!(routes.own_address(&packet(3, 2), THERE), None, "of a machine");
    let to_me = from_to(overlay::host_v4(THERE), overlay::host_v4(HERE));
    assert_eq!(routes.arriving(&to_me, THERE, Epoch(0)), Err(Lost::NoRoute), "from host to host");
}

#[test]
fn machines_answer_hosts() {
    let (routes, web_1) = (routes(), "web-1".parse().unwrap());
    let third = HostId([3; 32]);
    for (_, answer) in ends_of(2, HERE) {
        assert_eq!(routes.leaving(&answer, (&web_1, Epoch(2)), &Known::default()), Ok(Next::Me));
    }
    for (asks, answer) in ends_of(2, third) {
        assert_eq!(routes.leaving(&answer, (&web_1, Epoch(2)), &Known::default()), Err(Lost::NoRoute));
        let mut known = Known::default();
        known.insert(routes.own_address(&asks, third).unwrap(), third);
        assert_eq!(routes.leaving(&answer, (&web_1, Epoch(2)), &known), Ok(Next::Host(third)));
    }
    for (_, answer) in ends_of(3, HERE) {
        assert_eq!(routes.arriving(&answer, THERE, Epoch(5)), Ok(Next::Me));
        assert_eq!(routes.arriving(&answer, THERE, Epoch(4)), Err(Lost::Stale));
        assert_eq!(routes.arriving(&answer, third, Epoch(5)), Err(Lost::Forged));
    }
}
