//! What the host's own network looks like to a guest that must not reach it, as the kernel tells it.
//! The reading is here, the parsing is pure.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

use mesh::link::HostNet;

/// A route that covers more than this is a way out, not a wire: a VPN's 0.0.0.0/1 is no neighbourhood.
const WIRE: u8 = 8;

/// Reads it. What cannot be read is not there; the ranges that are never reached stay closed.
pub fn read() -> HostNet {
    let (trie, routes) = (fs::read_to_string("/proc/net/fib_trie"), fs::read_to_string("/proc/net/route"));
    HostNet { addresses: addresses(&trie.unwrap_or_default()), on_link: on_link(&routes.unwrap_or_default()) }
}

/// Lists the addresses of `/proc/net/fib_trie` that are the host's own.
fn addresses(trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
        } else if line.trim() == "/32 host LOCAL" {
            found.extend(last.map(IpAddr::V4));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Lists the prefixes of `/proc/net/route` that need no gateway.
fn on_link(routes: &str) -> Vec<(IpAddr, u8)> {
    let route = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let mut number = || u32::from_str_radix(words.next()?, 16).ok().map(u32::from_be);
        let (base, gateway) = (number()?, number()?);
        let mask = words.nth(4)?;
        let len = u32::from_str_radix(mask, 16).ok()?.count_ones() as u8;
        (gateway == 0 && len >= WIRE).then(|| (IpAddr::V4(Ipv4Addr::from_bits(base)), len))
    };
    routes.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_wires_are_read_and_ways_out_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 192.168.1.5\n           /32 host LOCAL\n     |-- 192.168.1.255\n           \
                    /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n           /32 host LOCAL\n     \
                    |-- 192.168.1.5\n           /32 host LOCAL\n";
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                      eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nnonsense\n";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(addresses(trie), [ip("127.0.0.1"), ip("192.168.1.5")]);
        assert_eq!(on_link(routes), [(ip("192.168.1.0"), 24)]);
    }
}
