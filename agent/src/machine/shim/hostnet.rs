//! What the host's own network looks like to a guest that must not reach it, as the kernel tells it: its
//! addresses, and every prefix of every routing table but the default ones. The reading is here, the
//! parsing is pure.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mesh::link::HostNet;

/// IPv4's tables, the addresses of the host among them.
const TABLES_V4: &str = "/proc/net/fib_trie";
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

type Prefixes = Vec<(IpAddr, u8)>;

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
    nearer.extend(routes_of_v6(&routes_v6)?);
    for prefixes in [&mut own, &mut nearer] {
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.len() > MOST_PREFIXES {
            return Err(confused("this host has too many routes"));
        }
    }
    // Without a loopback address it is not what it should be.
    if own.is_empty() { Err(confused("this host has no address")) } else { Ok(HostNet { own, nearer }) }
}

fn text(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    if length as u64 == MOST_BYTES { Err(confused("this host has too many routes")) } else { Ok(text) }
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

/// Reads `/proc/net/ipv6_route`: a prefix and its length begin each line, in hexadecimal.
fn routes_of_v6(routes: &str) -> io::Result<Prefixes> {
    let route = |line: &str| {
        let mut words = line.split_whitespace();
        let base = u128::from_str_radix(words.next()?, 16).ok()?;
        let length = u8::from_str_radix(words.next()?, 16).ok()?;
        Some((IpAddr::V6(Ipv6Addr::from_bits(base)), length))
    };
    let all: Option<Prefixes> = routes.lines().map(route).collect();
    let mut all = all.ok_or_else(|| confused("a route is not understood"))?;
    all.retain(|&(_, length)| length > DEFAULT_V6);
    Ok(all)
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
        let rest = "00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 1 0 3 eth0";
        let routes = format!(
            "20010db8000000000000000000000000 40 {rest}\n00000000000000000000000000000000 00 {rest}\n\
             20000000000000000000000000000000 03 {rest}\nfd000000000000000000000000000000 08 {rest}\n"
        );
        assert_eq!(shown(&routes_of_v6(&routes).unwrap()), ["2001:db8::/64", "fd00::/8"]);
        let addresses = "20010db8000000000000000000000005 02 40 00 80     eth0\n";
        assert_eq!(shown(&addresses_of_v6(addresses).unwrap()), ["2001:db8::5/128"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_no_empty_network() {
        for trie in
            ["     |-- nonsense\n", "        /24 link UNICAST\n", "     |-- 9.9.0.0\n        /x link\n"]
        {
            assert!(of_v4(trie).is_err(), "{trie}");
        }
        assert!(routes_of_v6("nonsense\n").is_err() && addresses_of_v6("nonsense\n").is_err());
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
