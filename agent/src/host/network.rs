//! What this host's own network looks like, as the kernel tells it, for guests that must not reach it: its
//! addresses, every prefix of every routing table but the default ones, and which of them are its LAN: those on the
//! wire that leads to its default router. The reading is here, the parsing is pure.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mesh::link::HostNet;

/// IPv4's tables, the addresses of the host among them.
const TABLES_V4: &str = "/proc/net/fib_trie";
/// IPv4's main table, with the interface of each route.
const ROUTES_V4: &str = "/proc/net/route";
/// IPv6's tables. A host without IPv6 has no such file.
const TABLES_V6: &str = "/proc/net/ipv6_route";
const ADDRESSES_V6: &str = "/proc/net/if_inet6";
/// A prefix that is no longer leads to the internet: the default route, and the halves of it that VPNs put
/// before it. Of IPv6 the whole of its unicast is as good as a default.
const DEFAULT_V4: u8 = 1;
const DEFAULT_V6: u8 = 3;
/// Bytes of a table that are read. A computer that knows more ways is a router of the internet itself.
const MOST_BYTES: u64 = 4 << 20;
/// Prefixes that are looked through for every connection.
const MOST_PREFIXES: usize = 4096;

const LOOPBACK: &str = "lo";
/// What interfaces say of themselves that have neighbours: Ethernet, and wireless as if it were.
const ETHERNET: &str = "1";

type Prefixes = Vec<(IpAddr, u8)>;

/// A way out of an interface: to what is on its wire, or to a router there.
struct Way<'a> {
    prefix: (IpAddr, u8),
    by_router: bool,
    interface: &'a str,
}

/// Reads it. What cannot be read, or not whole, is an error: a guest reaches nothing until it is known what
/// it must not reach.
pub fn read() -> io::Result<HostNet> {
    let none = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(String::new()),
        _ => Err(error),
    };
    let (routes_v6, addresses_v6) = (text(TABLES_V6).or_else(none)?, text(ADDRESSES_V6).or_else(none)?);
    let (mut own, mut nearer) = of_v4(&text(TABLES_V4)?)?;
    own.extend(addresses_of_v6(&addresses_v6)?);
    let ways_v6 = ways_of_v6(&routes_v6)?;
    nearer.extend(ways_v6.iter().map(|way| way.prefix).filter(|(_, length)| *length > DEFAULT_V6));
    let routes_v4 = text(ROUTES_V4).or_else(none)?;
    let mut ways = ways_of_v4(&routes_v4)?;
    ways.extend(ways_v6);
    let lan = lan(&ways, has_neighbours);
    let v6 = leads_out_by_v6(&ways, &own);
    for prefixes in [&mut own, &mut nearer] {
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.len() > MOST_PREFIXES {
            return Err(confused("this host has too many routes"));
        }
    }
    // Without a loopback address it is not what it should be.
    if own.is_empty() {
        Err(confused("this host has no address"))
    } else {
        Ok(HostNet { own, nearer, lan, v6 })
    }
}

fn text(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    if length as u64 == MOST_BYTES { Err(confused("this host has too many routes")) } else { Ok(text) }
}

/// Says whether others are on an interface's wire: a VPN's has a far end alone. One that says nothing of itself is
/// taken for a wire, as it is where `/sys` is not to be seen.
fn has_neighbours(interface: &str) -> bool {
    let kind = text(&format!("/sys/class/net/{interface}/type"));
    kind.map_or(true, |kind| kind.trim() == ETHERNET)
}

/// Gives what is on the wires that lead to a default router.
fn lan(ways: &[Way], has_neighbours: impl Fn(&str) -> bool) -> Prefixes {
    let leads_out = |interface: &str| {
        let default = |way: &&Way| way.by_router && way.interface == interface && way.prefix.1 == 0;
        ways.iter().find(default).is_some_and(|way| has_neighbours(way.interface))
    };
    let on_wire = ways.iter().filter(|way| !way.by_router && leads_out(way.interface));
    on_wire.map(|way| way.prefix).collect()
}

/// Says whether the internet is reached by IPv6: by an address of it, and a way that is none of the loopback's, where
/// what goes nowhere is kept.
fn leads_out_by_v6(ways: &[Way], own: &[(IpAddr, u8)]) -> bool {
    let global = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.segments()[0] >> 13 == 1);
    let out = |way: &Way| {
        let (base, length) = way.prefix;
        length <= DEFAULT_V6 && (length == 0 && base.is_ipv6() || global(&base)) && way.interface != LOOPBACK
    };
    own.iter().any(|(address, _)| global(address)) && ways.iter().any(out)
}

fn confused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads `/proc/net/fib_trie`: `|-- ADDRESS`, and below it a line `/LENGTH SCOPE TYPE` for each of its routes.
fn of_v4(tables: &str) -> io::Result<(Prefixes, Prefixes)> {
    let (mut own, mut nearer) = (Vec::new(), Vec::new());
    let mut base: Option<IpAddr> = None;
    for line in tables.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            let address: Option<Ipv4Addr> = address.parse().ok();
            base = Some(address.ok_or_else(|| confused("a route is not understood"))?.into());
        } else if let Some(route) = line.strip_prefix('/') {
            let mut words = route.split_whitespace();
            let length = words.next().and_then(|length| length.parse().ok());
            let (Some(length), Some(base)) = (length, base) else {
                return Err(confused("a route is not understood"));
            };
            if words.nth(1) == Some("LOCAL") {
                own.push((base, length));
            } else if length > DEFAULT_V4 {
                nearer.push((base, length));
            }
        }
    }
    Ok((own, nearer))
}

/// Reads `/proc/net/route`, below its heading: interface, base, router, four numbers, mask. Addresses are
/// numbers as they lie in this computer's memory.
fn ways_of_v4(routes: &str) -> io::Result<Vec<Way<'_>>> {
    let all: Option<Vec<_>> = routes.lines().skip(1).map(way_of_v4).collect();
    all.ok_or_else(|| confused("a route is not understood"))
}

fn way_of_v4(line: &str) -> Option<Way<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [interface, base, router, _, _, _, _, mask, ..] = *words else { return None };
    let address = |word| Some(Ipv4Addr::from(u32::from_str_radix(word, 16).ok()?.to_ne_bytes()));
    let prefix = (IpAddr::V4(address(base)?), address(mask)?.to_bits().count_ones() as u8);
    Some(Way { prefix, by_router: !address(router)?.is_unspecified(), interface })
}

/// Reads `/proc/net/ipv6_route`, all in hexadecimal: a prefix and its length, where from, router, four numbers,
/// interface.
fn ways_of_v6(routes: &str) -> io::Result<Vec<Way<'_>>> {
    let all: Option<Vec<_>> = routes.lines().map(way_of_v6).collect();
    all.ok_or_else(|| confused("a route is not understood"))
}

fn way_of_v6(line: &str) -> Option<Way<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [base, length, _, _, router, _, _, _, _, interface] = *words else { return None };
    let bits = |word| u128::from_str_radix(word, 16).ok();
    let prefix = (IpAddr::V6(Ipv6Addr::from_bits(bits(base)?)), u8::from_str_radix(length, 16).ok()?);
    Some(Way { prefix, by_router: bits(router)? != 0, interface })
}

/// Reads `/proc/net/if_inet6`: an address begins each line, in hexadecimal.
fn addresses_of_v6(addresses: &str) -> io::Result<Prefixes> {
    let address = |line: &str| {
        let bits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some((IpAddr::V6(Ipv6Addr::from_bits(bits)), 128))
    };
    let all: Option<Prefixes> = addresses.lines().map(address).collect();
    all.ok_or_else(|| confused("an address is not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        /1 universe UNICAST
     |-- 128.0.0.0
        /1 universe UNICAST
     |-- 9.9.0.0
        /16 universe UNICAST
        /24 universe UNICAST tos=16
     |-- 192.168.1.0
        /24 link UNICAST
Id 51820:
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 11.0.0.0
        /7 universe UNICAST
Local:
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 192.168.1.5
        /32 host LOCAL
     |-- 192.168.1.255
        /32 link BROADCAST
     |-- 198.51.100.64
        /28 host LOCAL
";

    fn shown(prefixes: &Prefixes) -> Vec<String> {
        prefixes.iter().map(|(base, length)| format!("{base}/{length}")).collect()
    }

    #[test]
    fn every_prefix_of_every_table_but_a_default_is_near() {
        let (own, nearer) = of_v4(TRIE).unwrap();
        assert_eq!(shown(&own), ["127.0.0.0/8", "192.168.1.5/32", "198.51.100.64/28"]);
        let expected = ["9.9.0.0/16", "9.9.0.0/24", "192.168.1.0/24", "11.0.0.0/7", "192.168.1.255/32"];
        assert_eq!(shown(&nearer), expected, "a VPN's two halves of the internet are a default");
    }

    #[test]
    fn ipv6_is_read_as_well() {
        let none = "00000000000000000000000000000000";
        let rest = format!("{none} 00 {none} 00000400 1 0 1 eth0");
        let routes = format!(
            "20010db8000000000000000000000000 40 {rest}\n00000000000000000000000000000000 00 {rest}\n\
             20000000000000000000000000000000 03 {rest}\nfd000000000000000000000000000000 08 {rest}\n"
        );
        let prefixes = ways_of_v6(&routes).unwrap().iter().map(|way| way.prefix).collect();
        assert_eq!(shown(&prefixes), ["2001:db8::/64", "::/0", "2000::/3", "fd00::/8"]);
        let addresses = "20010db8000000000000000000000005 02 40 00 80     eth0\n";
        assert_eq!(shown(&addresses_of_v6(addresses).unwrap()), ["2001:db8::5/128"]);
    }

    #[test]
    fn the_lan_is_what_is_on_the_wire_that_leads_to_the_default_router() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let route = |interface: &str, base, router, flags: u32, mask| {
            let (base, router, mask) = (hex(base), hex(router), hex(mask));
            format!("{interface}\t{base}\t{router}\t{flags:04X}\t0\t0\t100\t{mask}\t0\t0\t0\n")
        };
        let (nobody, all) = ([0; 4], [255, 255, 255, 0]);
        let text = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            route("eth0", nobody, [192, 168, 1, 1], 3, nobody),
            route("eth0", [192, 168, 1, 0], nobody, 1, all),
            route("eth0", [10, 7, 0, 0], [192, 168, 1, 9], 3, [255, 255, 0, 0]),
            route("docker0", [172, 17, 0, 0], nobody, 1, [255, 255, 0, 0]),
            route("wg0", [10, 8, 0, 0], nobody, 1, all),
            route("tun0", nobody, [10, 9, 0, 1], 3, nobody),
            route("tun0", [10, 9, 0, 0], nobody, 1, all),
        ]
        .concat();
        let none = "00000000000000000000000000000000";
        let text_v6 = format!(
            "{none} 00 {none} 00 fe800000000000000000000000000001 00000400 1 0 00000003     eth2\n\
             fd000001000000000000000000000000 40 {none} 00 {none} 00000100 1 0 00000001     eth2\n\
             {none} 00 {none} 00 {none} ffffffff 1 0 00200200       lo\n\
             00000000000000000000000000000001 80 {none} 00 {none} 00000000 4 0 80200001       lo\n"
        );
        let mut ways = ways_of_v4(&text).unwrap();
        ways.extend(ways_of_v6(&text_v6).unwrap());
        let found = lan(&ways, |interface| interface != "tun0");
        assert_eq!(shown(&found), ["192.168.1.0/24", "fd00:1::/64"]);
    }

    #[test]
    fn the_internet_is_reached_by_ipv6_with_an_address_of_it_and_a_way() {
        let none = "00000000000000000000000000000000";
        let route = |base: &str, length: &str, interface: &str| {
            format!(
                "{base} {length} {none} 00 fe800000000000000000000000000001 00000400 1 0 00000003 {interface}\n"
            )
        };
        let unicast = "20000000000000000000000000000000";
        let own = |address: &str| vec![(address.parse().unwrap(), 128)];
        let (global, local) = (own("2001:db8::5"), own("fd00::5"));
        for (routes, own, reached) in [
            (route(none, "00", "eth0"), &global, true),
            (route(unicast, "03", "wg0"), &global, true),
            (route(none, "00", "eth0"), &local, false),
            (route(none, "00", "lo"), &global, false),
            (route("20010db8000000000000000000000000", "40", "eth0"), &global, false),
            (String::new(), &global, false),
        ] {
            assert_eq!(leads_out_by_v6(&ways_of_v6(&routes).unwrap(), own), reached, "{routes}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_no_empty_network() {
        for trie in
            ["     |-- nonsense\n", "        /24 link UNICAST\n", "     |-- 9.9.0.0\n        /x link\n"]
        {
            assert!(of_v4(trie).is_err(), "{trie}");
        }
        assert!(ways_of_v6("nonsense\n").is_err() && addresses_of_v6("nonsense\n").is_err());
        assert!(ways_of_v4("Iface\tDestination\nnonsense\n").is_err());
        assert!(text("/nowhere").is_err());
    }

    #[test]
    fn this_computer_is_among_what_its_guests_do_not_reach() {
        let here = read().unwrap();
        let loopback = Ipv4Addr::LOCALHOST.into();
        assert!(here.own.iter().any(|&(base, length)| length == 32 && base == loopback));
        assert!(!mesh::link::allowed(proto::topology::Egress::Internet, Some(&here), loopback));
    }
}
