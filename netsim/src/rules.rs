//! Pure: a lab as the `ip`, `tc` and `nft` commands that build it, and the addresses they give.
//!
//! ```text
//!   host --eth0-- (bridge lan) router (wan) --pN--\
//!                                                  bridge br0 of `net`, 203.0.113.1/24
//!   host --eth0--------------------------------pN--/
//! ```
//! Each host, each router and the public net is a namespace `PREFIX-NAME`. `netns` carries the steps out.

use std::{fmt, net::Ipv4Addr};

use crate::lab::{Families, Home, Layout, Link, Nat};

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `ip` with these words.
    Ip(String),
    /// `tc` with these words.
    Tc(String),
    /// A file below /proc/sys/net, in a namespace.
    Set {
        /// The namespace.
        namespace: String,
        /// Below /proc/sys/net.
        key: &'static str,
        /// What to write.
        value: &'static str,
    },
    /// `nft -f` in a namespace.
    Nft {
        /// The namespace.
        namespace: String,
        /// The rule set.
        rules: String,
    },
    /// A server that maps ports for who asks, in a router's namespace.
    Mapper {
        /// The namespace.
        namespace: String,
        /// Where it is asked.
        lan: Ipv4Addr,
        /// The address whose ports it maps.
        public: Ipv4Addr,
    },
    /// Two TAP devices with a wire of ours between them.
    Wire {
        /// Namespace and device.
        ends: [(String, String); 2],
        /// What the wire does.
        link: Link,
    },
}

/// Everything that `netns` needs to build, use and remove a lab.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// All namespaces.
    pub namespaces: Vec<String>,
    /// In this order.
    pub steps: Vec<Step>,
    /// The hosts of the file.
    pub hosts: Vec<HostAddress>,
    /// The far ends of the links of hosts and homes, to cut and mend them.
    pub ports: Vec<Port>,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// Its name in the file.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its address on its own network.
    pub address: Ipv4Addr,
    /// The address that the public net sees.
    pub public: Ipv4Addr,
}

/// The far end of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The host or home whose link it is.
    pub name: String,
    /// Where the far end is.
    pub namespace: String,
    /// Its device.
    pub device: String,
    /// What the link does, as the file has it.
    pub link: Link,
}

/// The public net itself: the address of the bridge, where tests put what must be reachable by all.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The ports that a `shifted` router uses: none of them is a port that programs pick by themselves, so that a mapping
/// never happens to keep its port.
const SHIFTED_PORTS: &str = "10000-19999";

/// Gives the steps that build a lab whose namespaces begin with `prefix`.
pub fn blueprint(layout: &Layout, prefix: &str) -> Blueprint {
    let mut build = Build {
        prefix,
        made: Blueprint { namespaces: vec![], steps: vec![], hosts: vec![], ports: vec![] },
        public_hosts: 0,
    };
    build.public_net(layout);
    for (index, home) in layout.homes.iter().enumerate() {
        build.router(layout, index, home);
    }
    for index in 0..layout.hosts.len() {
        build.host(layout, index);
    }
    build.made
}

struct Build<'a> {
    prefix: &'a str,
    made: Blueprint,
    public_hosts: u8,
}

impl Build<'_> {
    fn ip(&mut self, words: String) {
        self.made.steps.push(Step::Ip(words));
    }

    fn namespace(&mut self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.prefix);
        self.made.namespaces.push(namespace.clone());
        self.ip(format!("netns add {namespace}"));
        // Labs are IPv4: link-local IPv6 would be a path that no home has to the outside.
        self.set(&namespace, "ipv6/conf/all/disable_ipv6", "1");
        self.ip(format!("-n {namespace} link set lo up"));
        namespace
    }

    fn set(&mut self, namespace: &str, key: &'static str, value: &'static str) {
        self.made.steps.push(Step::Set { namespace: namespace.into(), key, value });
    }

    fn bridge(&mut self, namespace: &str, device: &str, address: Ipv4Addr) {
        self.ip(format!("-n {namespace} link add {device} type bridge"));
        self.ip(format!("-n {namespace} addr add {address}/24 dev {device}"));
        self.ip(format!("-n {namespace} link set {device} up"));
    }

    fn public_net(&mut self, layout: &Layout) {
        let net = self.namespace("net");
        self.bridge(&net, "br0", PUBLIC);
        if layout.hosts.iter().any(|host| host.ip.v6) {
            self.speaks_v6(&net, true);
            self.ip(format!("-n {net} addr add {PUBLIC_V6}::1/64 dev br0 nodad"));
        }
    }

    /// Lets a namespace have IPv6; what is told of others' routers and prefixes is not heard.
    fn speaks_v6(&mut self, namespace: &str, forwards: bool) {
        self.set(namespace, "ipv6/conf/all/disable_ipv6", "0");
        self.set(namespace, "ipv6/conf/all/accept_dad", "0");
        if forwards {
            self.set(namespace, "ipv6/conf/all/forwarding", "1");
        }
    }

    /// Connects `near` with a new port of the bridge `far`, and remembers the port for cutting.
    fn connect(&mut self, name: &str, near: (&str, &str), far: (&str, &str), link: &Link) {
        let (namespace, device) = near;
        let (far_namespace, bridge) = far;
        let port = format!("p{}", self.made.ports.len() + 1);
        if link.needs_wire() {
            let ends = [(namespace.into(), device.into()), (far_namespace.into(), port.clone())];
            self.made.steps.push(Step::Wire { ends, link: *link });
        } else {
            self.ip(format!(
                "link add {device} netns {namespace} type veth peer name {port} netns {far_namespace}"
            ));
            if link.rate_bps > 0 {
                for (namespace, device) in [near, (far_namespace, port.as_str())] {
                    self.made.steps.push(Step::Tc(token_bucket(namespace, device, link.rate_bps)));
                }
            }
        }
        self.ip(format!("-n {far_namespace} link set {port} master {bridge} up"));
        self.made.ports.push(Port {
            name: name.into(),
            namespace: far_namespace.into(),
            device: port,
            link: *link,
        });
    }

    fn address(&mut self, namespace: &str, device: &str, address: Ipv4Addr, router: Ipv4Addr) {
        self.ip(format!("-n {namespace} addr add {address}/24 dev {device}"));
        self.ip(format!("-n {namespace} link set {device} up"));
        self.ip(format!("-n {namespace} route add default via {router}"));
    }

    fn router(&mut self, layout: &Layout, index: usize, home: &Home) {
        let namespace = self.namespace(&home.name);
        let (far, bridge, wan, gateway) = match home.within {
            None => ("net", "br0", home_address(index), PUBLIC),
            Some(outer) => {
                let behind = u8::try_from(index).unwrap_or(0).saturating_add(100);
                (layout.homes[outer].name.as_str(), "lan", lan_address(outer, behind), lan_address(outer, 1))
            }
        };
        let far = format!("{}-{far}", self.prefix);
        self.connect(&home.name, (&namespace, "wan"), (&far, bridge), &home.link);
        self.address(&namespace, "wan", wan, gateway);
        self.bridge(&namespace, "lan", lan_address(index, 1));
        self.set(&namespace, "ipv4/ip_forward", "1");
        let inside = layout.hosts.iter().filter(|host| host.home == Some(index));
        let hosts: Vec<Ipv4Addr> =
            (2..).zip(inside.clone()).map(|(last, _)| lan_address(index, last)).collect();
        self.made.steps.push(Step::Nft { namespace: namespace.clone(), rules: router_rules(home, &hosts) });
        if home.nat == Nat::Static {
            let net = format!("{}-net", self.prefix);
            self.set(&net, "ipv4/ip_forward", "1");
            for host in &hosts {
                self.ip(format!("-n {net} route add {} via {wan}", static_address(*host)));
            }
        }
        if home.maps {
            let lan = lan_address(index, 1);
            self.made.steps.push(Step::Mapper { namespace: namespace.clone(), lan, public: wan });
        }
        let ips: Vec<Families> = inside.map(|host| host.ip).collect();
        self.router_v6(&namespace, index, ips.iter().any(|ip| ip.v6), ips.iter().any(|ip| ip.ula));
    }

    /// Gives a home prefixes of its own, and a router that lets in only answers.
    fn router_v6(&mut self, namespace: &str, index: usize, v6: bool, ula: bool) {
        if !v6 && !ula {
            return;
        }
        self.speaks_v6(namespace, true);
        if ula {
            self.ip(format!("-n {namespace} addr add {}1/64 dev lan nodad", lan_ula(index)));
        }
        if v6 {
            let (net, wan) = (format!("{}-net", self.prefix), format!("{PUBLIC_V6}::f{index}"));
            self.ip(format!("-n {namespace} addr add {}1/64 dev lan nodad", lan_v6(index)));
            self.ip(format!("-n {namespace} addr add {wan}/64 dev wan nodad"));
            self.ip(format!("-n {namespace} -6 route add default via {PUBLIC_V6}::1"));
            self.ip(format!("-n {net} -6 route add {}/64 via {wan}", lan_v6(index)));
            let rules = FILTER_V6.to_owned();
            self.made.steps.push(Step::Nft { namespace: namespace.to_owned(), rules });
        }
    }

    fn host(&mut self, layout: &Layout, index: usize) {
        let host = &layout.hosts[index];
        let namespace = self.namespace(&host.name);
        let (address, public, router, far) = match host.home {
            None => {
                self.public_hosts += 1;
                let address = Ipv4Addr::new(203, 0, 113, 10 + self.public_hosts);
                (address, address, PUBLIC, (format!("{}-net", self.prefix), "br0"))
            }
            Some(home) => {
                let before = layout.hosts[..index].iter().filter(|other| other.home == Some(home)).count();
                let far = format!("{}-{}", self.prefix, layout.homes[home].name);
                let address = lan_address(home, 2 + u8::try_from(before).unwrap_or(u8::MAX - 2));
                (address, seen_address(layout, home, address), lan_address(home, 1), (far, "lan"))
            }
        };
        self.connect(&host.name, (&namespace, "eth0"), (&far.0, far.1), &host.link);
        if host.ip.v4 {
            self.address(&namespace, "eth0", address, router);
        } else {
            self.ip(format!("-n {namespace} link set eth0 up"));
        }
        self.host_v6(&namespace, host.ip, host.home, address.octets()[3]);
        self.made.hosts.push(HostAddress { name: host.name.clone(), namespace, address, public });
    }
}

impl Build<'_> {
    fn host_v6(&mut self, namespace: &str, ip: Families, home: Option<usize>, last: u8) {
        if !ip.v6 && !ip.ula {
            return;
        }
        self.speaks_v6(namespace, false);
        let v6 = home.map_or(format!("{PUBLIC_V6}::"), lan_v6);
        if ip.v6 {
            self.ip(format!("-n {namespace} addr add {v6}{last}/64 dev eth0 nodad"));
            self.ip(format!("-n {namespace} -6 route add default via {v6}1"));
        }
        if let Some(home) = home.filter(|_| ip.ula) {
            self.ip(format!("-n {namespace} addr add {}{last}/64 dev eth0 nodad", lan_ula(home)));
        }
    }
}

/// The public net's prefix of IPv6.
const PUBLIC_V6: &str = "2001:db8:0:1";
/// What a home's router lets through of IPv6.
const FILTER_V6: &str = "\
table ip6 filter {
  chain through {
    type filter hook forward priority 0; policy drop
    ct state established,related accept
    meta l4proto icmpv6 accept
    iifname \"lan\" accept
  }
}
";

fn lan_v6(home: usize) -> String {
    format!("2001:db8:0:{}::", 100 + home)
}

fn lan_ula(home: usize) -> String {
    format!("fd00:0:0:{}::", 1 + home)
}

/// The address by which the public net sees a host of a home.
fn seen_address(layout: &Layout, home: usize, host: Ipv4Addr) -> Ipv4Addr {
    match &layout.homes[home] {
        Home { nat: Nat::Static, .. } => static_address(host),
        Home { within: Some(outer), .. } => seen_address(layout, *outer, lan_address(*outer, 2)),
        _ => home_address(home),
    }
}

/// The public address that a `static` router gives a host alone: its home's number and its own.
fn static_address(host: Ipv4Addr) -> Ipv4Addr {
    let [_, _, home, last] = host.octets();
    Ipv4Addr::new(198, 51, 100, home.saturating_mul(16).saturating_add(last))
}

/// Homes count down from the end of the public net, hosts up from its start.
fn home_address(home: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 250 - u8::try_from(home).unwrap_or(0))
}

fn lan_address(home: usize, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1 + u8::try_from(home).unwrap_or(0), last)
}

/// The bucket holds 20 ms, the queue 50 ms: what a home's uplink does.
fn token_bucket(namespace: &str, device: &str, rate_bps: u64) -> String {
    let burst = (rate_bps / 8 / 50).max(16 * 1024);
    format!("-n {namespace} qdisc add dev {device} root tbf rate {rate_bps}bit burst {burst} latency 50ms")
}

fn router_rules(home: &Home, hosts: &[Ipv4Addr]) -> String {
    let masquerade = match home.nat {
        Nat::Open | Nat::Cone | Nat::Static => "masquerade".to_string(),
        // A range without `random`: the kernel gives a source the mapping that it already has, whoever the destination.
        Nat::Shifted => format!("meta l4proto {{ tcp, udp }} masquerade to :{SHIFTED_PORTS}"),
        Nat::Symmetric => "masquerade fully-random".to_string(),
    };
    let (outward, inward) = own_ways(home, hosts);
    let inward = match inward.as_str() {
        "" => String::new(),
        ways => format!("\n  chain pre {{\n    type nat hook prerouting priority -100\n{ways}  }}"),
    };
    let maps = if home.maps {
        "  map tcps { type inet_service : ipv4_addr . inet_service; }\n  \
         map udps { type inet_service : ipv4_addr . inet_service; }\n"
    } else {
        ""
    };
    let forward = if inward.is_empty() { "" } else { "\n    ct status dnat accept" };
    let udp = if home.udp { "" } else { "\n    meta l4proto udp drop" };
    format!(
        r#"table ip nat {{
{maps}  chain post {{
    type nat hook postrouting priority 100
{outward}    oifname "wan" {masquerade}
  }}{inward}
}}
table ip filter {{
  chain through {{
    type filter hook forward priority 0; policy drop{udp}
    ct state established,related accept
    iifname "lan" accept{forward}
  }}
  chain into {{
    type filter hook input priority 0; policy drop
    ct state established,related accept
    iifname {{ "lan", "lo" }} accept
  }}
}}
"#
    )
}

/// The ways that single hosts have out and in, beside what all have.
fn own_ways(home: &Home, hosts: &[Ipv4Addr]) -> (String, String) {
    let pairs = |inward: bool| {
        let pair = |host: &Ipv4Addr| match inward {
            true => format!("{} : {host}", static_address(*host)),
            false => format!("{host} : {}", static_address(*host)),
        };
        hosts.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    let mut inward = String::new();
    if home.maps {
        inward += "    iifname \"wan\" dnat ip addr . port to tcp dport map @tcps\n    \
                   iifname \"wan\" dnat ip addr . port to udp dport map @udps\n";
    }
    match (home.nat, hosts) {
        (Nat::Static, [_, ..]) => {
            inward += &format!("    iifname \"wan\" dnat to ip daddr map {{ {} }}\n", pairs(true));
            let outward = format!("    oifname \"wan\" snat to ip saddr map {{ {} }}\n", pairs(false));
            (outward, inward)
        }
        (Nat::Open, [host, ..]) => {
            inward += &format!("    iifname \"wan\" meta l4proto {{ tcp, udp }} dnat to {host}\n");
            (String::new(), inward)
        }
        _ => (String::new(), inward),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Ip(words) => write!(f, "ip {words}"),
            Step::Tc(words) => write!(f, "tc {words}"),
            Step::Set { namespace, key, value } => write!(f, "in {namespace}: {key} = {value}"),
            Step::Nft { namespace, rules } => write!(f, "in {namespace}: nft\n{}", rules.trim_end()),
            Step::Mapper { namespace, lan, public } => {
                write!(f, "in {namespace}: {lan} maps ports of {public}")
            }
            Step::Wire { ends: [a, b], link } => {
                let rate =
                    if link.rate_bps > 0 { format!(" {} bit/s", link.rate_bps) } else { String::new() };
                let (delay, jitter, loss) = (link.delay_us, link.jitter_us, link.loss * 100.0);
                write!(f, "wire {} {} -- {} {}: {delay}us +-{jitter}us {loss}%{rate}", a.0, a.1, b.0, b.1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::lab::parse;

    fn check(text: &str, found: Expect) {
        let blueprint = blueprint(&parse(text).expect("a lab"), "x");
        let steps = blueprint.steps.iter().map(|step| format!("{step}\n"));
        let hosts =
            blueprint.hosts.iter().map(|host| format!("{} {} {}\n", host.name, host.address, host.public));
        found.assert_eq(&steps.chain(hosts).collect::<String>());
    }

    #[test]
    fn a_public_host_hangs_on_the_bridge() {
        check(
            "host vps rate=10mbit",
            expect![[r#"
            ip netns add x-net
            in x-net: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-net link set lo up
            ip -n x-net link add br0 type bridge
            ip -n x-net addr add 203.0.113.1/24 dev br0
            ip -n x-net link set br0 up
            ip netns add x-vps
            in x-vps: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-vps link set lo up
            ip link add eth0 netns x-vps type veth peer name p1 netns x-net
            tc -n x-vps qdisc add dev eth0 root tbf rate 10000000bit burst 25000 latency 50ms
            tc -n x-net qdisc add dev p1 root tbf rate 10000000bit burst 25000 latency 50ms
            ip -n x-net link set p1 master br0 up
            ip -n x-vps addr add 203.0.113.11/24 dev eth0
            ip -n x-vps link set eth0 up
            ip -n x-vps route add default via 203.0.113.1
            vps 203.0.113.11 203.0.113.11
        "#]],
        );
    }

    #[test]
    fn a_home_is_a_router_with_rules() {
        check(
            "home attic nat=cone delay=10ms loss=1%\nhost nas in attic\nhost tv in attic",
            expect![[r#"
            ip netns add x-net
            in x-net: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-net link set lo up
            ip -n x-net link add br0 type bridge
            ip -n x-net addr add 203.0.113.1/24 dev br0
            ip -n x-net link set br0 up
            ip netns add x-attic
            in x-attic: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-attic link set lo up
            wire x-attic wan -- x-net p1: 10000us +-0us 1%
            ip -n x-net link set p1 master br0 up
            ip -n x-attic addr add 203.0.113.250/24 dev wan
            ip -n x-attic link set wan up
            ip -n x-attic route add default via 203.0.113.1
            ip -n x-attic link add lan type bridge
            ip -n x-attic addr add 192.168.1.1/24 dev lan
            ip -n x-attic link set lan up
            in x-attic: ipv4/ip_forward = 1
            in x-attic: nft
            table ip nat {
              chain post {
                type nat hook postrouting priority 100
                oifname "wan" masquerade
              }
            }
            table ip filter {
              chain through {
                type filter hook forward priority 0; policy drop
                ct state established,related accept
                iifname "lan" accept
              }
              chain into {
                type filter hook input priority 0; policy drop
                ct state established,related accept
                iifname { "lan", "lo" } accept
              }
            }
            ip netns add x-nas
            in x-nas: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-nas link set lo up
            ip link add eth0 netns x-nas type veth peer name p2 netns x-attic
            ip -n x-attic link set p2 master lan up
            ip -n x-nas addr add 192.168.1.2/24 dev eth0
            ip -n x-nas link set eth0 up
            ip -n x-nas route add default via 192.168.1.1
            ip netns add x-tv
            in x-tv: ipv6/conf/all/disable_ipv6 = 1
            ip -n x-tv link set lo up
            ip link add eth0 netns x-tv type veth peer name p3 netns x-attic
            ip -n x-attic link set p3 master lan up
            ip -n x-tv addr add 192.168.1.3/24 dev eth0
            ip -n x-tv link set eth0 up
            ip -n x-tv route add default via 192.168.1.1
            nas 192.168.1.2 203.0.113.250
            tv 192.168.1.3 203.0.113.250
        "#]],
        );
    }

    fn home(nat: Nat) -> Home {
        Home { name: "attic".into(), within: None, nat, maps: false, udp: true, link: Link::default() }
    }

    #[test]
    fn an_open_home_exposes_its_first_host() {
        expect![[r#"
            table ip nat {
              chain post {
                type nat hook postrouting priority 100
                oifname "wan" masquerade
              }
              chain pre {
                type nat hook prerouting priority -100
                iifname "wan" meta l4proto { tcp, udp } dnat to 192.168.1.2
              }
            }
            table ip filter {
              chain through {
                type filter hook forward priority 0; policy drop
                ct state established,related accept
                iifname "lan" accept
                ct status dnat accept
              }
              chain into {
                type filter hook input priority 0; policy drop
                ct state established,related accept
                iifname { "lan", "lo" } accept
              }
            }
        "#]]
        .assert_eq(&router_rules(&home(Nat::Open), &[lan_address(0, 2)]));
    }

    #[test]
    fn a_router_that_maps_ports_has_a_place_for_them_and_one_may_block_udp() {
        let rules = router_rules(&Home { maps: true, udp: false, ..home(Nat::Cone) }, &[]);
        let new: Vec<&str> =
            rules.lines().filter(|line| !router_rules(&home(Nat::Cone), &[]).contains(line)).collect();
        expect![[r#"
            [
                "  map tcps { type inet_service : ipv4_addr . inet_service; }",
                "  map udps { type inet_service : ipv4_addr . inet_service; }",
                "  chain pre {",
                "    type nat hook prerouting priority -100",
                "    iifname \"wan\" dnat ip addr . port to tcp dport map @tcps",
                "    iifname \"wan\" dnat ip addr . port to udp dport map @udps",
                "    meta l4proto udp drop",
                "    ct status dnat accept",
            ]
        "#]]
        .assert_debug_eq(&new);
    }

    #[test]
    fn a_static_home_gives_each_host_an_address_of_its_own() {
        let rules = router_rules(&home(Nat::Static), &[lan_address(0, 2), lan_address(0, 3)]);
        let new: Vec<&str> = rules.lines().filter(|line| line.contains(" map ")).collect();
        expect![[r#"
            [
                "    oifname \"wan\" snat to ip saddr map { 192.168.1.2 : 198.51.100.18, 192.168.1.3 : 198.51.100.19 }",
                "    iifname \"wan\" dnat to ip daddr map { 198.51.100.18 : 192.168.1.2, 198.51.100.19 : 192.168.1.3 }",
            ]
        "#]]
        .assert_debug_eq(&new);
    }

    #[test]
    fn shifted_and_symmetric_routers_differ_in_one_line() {
        let line = |nat| router_rules(&home(nat), &[]).lines().nth(3).unwrap_or("").trim().to_string();
        expect![[r#"
            oifname "wan" meta l4proto { tcp, udp } masquerade to :10000-19999
            oifname "wan" masquerade fully-random
        "#]]
        .assert_eq(&format!("{}\n{}\n", line(Nat::Shifted), line(Nat::Symmetric)));
    }
}
