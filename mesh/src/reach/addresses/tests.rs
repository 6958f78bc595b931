//! Tables: what a computer has, and what it tells.

use super::*;

/// `NAME KIND[ default=METRIC]: ADDRESS/LEN ..`, one interface a line.
fn interfaces(text: &str) -> Interfaces {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let interface = |line: &str| {
        let (head, nets) = line.split_once(": ").unwrap();
        let words: Vec<&str> = head.split(' ').collect();
        let kind = match words[1] {
            "lan" => Kind::Lan,
            "soft" => Kind::Soft,
            "tunnel" => Kind::Tunnel,
            "inner" => Kind::Inner,
            other => panic!("{other}"),
        };
        let default = words.get(2).map(|word| word.strip_prefix("default=").unwrap().parse().unwrap());
        let net = |word: &str| {
            let (address, len) = word.split_once('/').unwrap();
            Net { address: address.parse().unwrap(), len: len.parse().unwrap() }
        };
        Interface { name: words[0].into(), kind, default, nets: nets.split(' ').map(net).collect() }
    };
    Interfaces::new(lines.map(interface).collect())
}

/// Everything on the interfaces, and `outside` beside it, as iroh lists it: sorted by number.
fn told(text: &str, outside: &str) -> String {
    let interfaces = interfaces(text);
    let seen = outside.split_whitespace().map(|word| word.parse().unwrap());
    let mut own: Vec<SocketAddr> =
        interfaces.addresses().map(|ip| SocketAddr::new(ip, 7440)).chain(seen).collect();
    own.sort();
    interfaces.choose(&own).iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
}

const SIX_BRIDGES: &str = "
    docker0 inner: 172.17.0.1/16
    br-1 inner: 172.18.0.1/16
    br-2 inner: 172.19.0.1/16
    br-3 inner: 172.20.0.1/16
    br-4 inner: 172.21.0.1/16
    br-5 inner: 172.22.0.1/16";

#[test]
fn container_bridges_are_not_told_by_a_host_with_a_lan() {
    assert_eq!(told(&format!("eth0 lan default=100: 192.168.1.2/24{SIX_BRIDGES}"), ""), "192.168.1.2");
    let three = "
        docker0 inner: 172.17.0.1/16
        br-1 inner: 172.18.0.1/16
        br-2 inner: 172.19.0.1/16
        eth0 lan: 192.168.9.9/24 fd00::9/64";
    assert_eq!(told(three, ""), "192.168.9.9 fd00::9", "a LAN without a way out is a LAN");
    assert_eq!(told(SIX_BRIDGES, "").split(' ').count(), 6, "who has nothing else tells what there is");
}

#[test]
fn the_way_out_comes_first_then_other_lans_then_what_others_see() {
    let desk = "
        aaa lan: 10.0.0.2/24
        eth0 lan default=100: 192.168.1.2/24 2001:db8::7/64 2001:db8::8/64 2001:db8::9/64
        wlan0 lan default=600: 192.168.7.2/24
        tailscale0 tunnel: 100.64.0.9/32";
    assert_eq!(
        told(desk, "203.0.113.9:4711"),
        "192.168.1.2 2001:db8::7 192.168.7.2 10.0.0.2 203.0.113.9 2001:db8::8",
    );
    let crowded = "
        eth0 lan default=100: 192.168.1.2/24 fd00::2/64
        eth1 lan: 192.168.2.2/24 fd00:1::2/64
        eth2 lan: 192.168.3.2/24 fd00:2::2/64
        eth3 lan: 192.168.4.2/24 fd00:3::2/64";
    assert_eq!(
        told(crowded, "203.0.113.9:4711"),
        "192.168.1.2 fd00::2 192.168.2.2 fd00:1::2 192.168.3.2 203.0.113.9",
        "however many LANs there are, one address is for those outside",
    );
}

#[test]
fn every_family_is_told() {
    let host = "eth0 lan default=100: 2001:db8::1/64 2001:db8::2/64 2001:db8::3/64 2001:db8::4/64 \
                2001:db8::5/64 2001:db8::6/64 2001:db8::7/64 203.0.113.4/24";
    assert_eq!(told(host, ""), "2001:db8::1 203.0.113.4 2001:db8::2 2001:db8::3 2001:db8::4 2001:db8::5");
}

#[test]
fn a_vpn_is_told_last_even_when_it_takes_all_traffic() {
    let laptop = "
        wlan0 lan: 192.168.1.7/24
        tun0 tunnel default=50: 100.64.3.4/10
        docker0 inner: 172.17.0.1/16";
    assert_eq!(told(laptop, ""), "192.168.1.7 100.64.3.4");
    assert_eq!(told("tun0 tunnel default=50: 100.64.3.4/10", ""), "100.64.3.4");
}

#[test]
fn the_only_network_is_a_lan_whatever_it_is_made_of() {
    let container = "eth0 soft default=0: 172.17.0.2/16";
    assert_eq!(told(container, "203.0.113.9:4711"), "172.17.0.2 203.0.113.9");
    let laboratory = format!("eth0 soft: 10.1.0.2/24{SIX_BRIDGES}");
    assert_eq!(told(&laboratory, ""), "10.1.0.2");
    assert_eq!(interfaces(&laboratory).lans().len(), 1);
    let host = "eth0 lan default=1: 192.168.1.2/24\nveth1 soft: 10.88.0.1/16";
    assert_eq!(told(host, ""), "192.168.1.2");
}

#[test]
fn a_bridge_that_leads_out_is_a_lan() {
    let proxmox = "
        vmbr0 inner default=0: 192.168.1.2/24
        vmbr1 inner: 10.10.0.1/24";
    assert_eq!(told(proxmox, ""), "192.168.1.2");
}

#[test]
fn the_kind_of_an_interface_is_read_from_what_the_system_shows() {
    let ethernet = Signs { link_type: Some(1), ..Signs::default() };
    let cases = [
        ("eth0", Signs { hardware: true, ..ethernet.clone() }, false, Kind::Lan),
        ("docker0", Signs { bridge: true, devtype: "bridge".into(), ..ethernet.clone() }, false, Kind::Inner),
        ("br0", Signs { bridge: true, on_hardware: true, ..ethernet.clone() }, false, Kind::Lan),
        ("bond0", Signs { on_hardware: true, ..ethernet.clone() }, false, Kind::Lan),
        ("eth0.7", Signs { on_hardware: true, devtype: "vlan".into(), ..ethernet.clone() }, false, Kind::Lan),
        ("veth12ab", Signs { port: true, ..ethernet.clone() }, false, Kind::Inner),
        ("eth0", ethernet.clone(), true, Kind::Soft),
        ("tap0", ethernet.clone(), false, Kind::Soft),
        ("tun0", Signs { link_type: Some(65534), ..Signs::default() }, true, Kind::Tunnel),
        (
            "wg0",
            Signs { link_type: Some(65534), devtype: "wireguard".into(), ..Signs::default() },
            false,
            Kind::Tunnel,
        ),
        ("wwan0", Signs { link_type: Some(65534), hardware: true, ..Signs::default() }, false, Kind::Lan),
        ("ppp0", Signs { link_type: Some(512), ..Signs::default() }, true, Kind::Lan),
        ("ppp0", Signs { link_type: Some(512), ..Signs::default() }, false, Kind::Tunnel),
        // A system that shows nothing but names.
        ("en0", Signs::default(), false, Kind::Lan),
        ("utun3", Signs::default(), true, Kind::Tunnel),
        ("bridge100", Signs::default(), false, Kind::Inner),
    ];
    for (name, signs, default, kind) in cases {
        assert_eq!(classify(name, &signs, default), kind, "{name} {signs:?}");
    }
}

#[test]
fn default_routes_are_read_and_the_halves_of_a_vpn_are_none() {
    let v4 = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
tun0\t00000000\t0100400A\t0003\t0\t0\t0\t00000080\t0\t0\t0
tun0\t00000080\t0100400A\t0003\t0\t0\t0\t00000080\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
wlan0\t00000000\t0107A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
cut off";
    assert_eq!(default_routes_v4(v4), [("eth0".to_owned(), 100), ("wlan0".to_owned(), 600)]);
    let zero = "00000000000000000000000000000000";
    let v6 = format!(
        "{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n\
         fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth1\n\
         {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
         cut off"
    );
    assert_eq!(default_routes_v6(&v6), [("eth0".to_owned(), 0x400)]);
}

#[test]
fn networks_are_told_by_their_first_address() {
    let all = interfaces("eth0 lan: 192.168.1.77/24 fd00::1/64 192.168.1.78/24\nppp0 tunnel: 10.1.2.3/32");
    let shown: Vec<String> =
        all.prefixes().iter().map(|prefix| format!("{}/{}", prefix.base, prefix.len)).collect();
    assert_eq!(shown, ["10.1.2.3/32", "192.168.1.0/24"]);
    assert_eq!(interfaces("ppp0 tunnel: 10.1.2.3/0").prefixes()[0].base.to_string(), "0.0.0.0");
}
