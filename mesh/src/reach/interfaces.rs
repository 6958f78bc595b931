//! Asks the system for this host's interfaces; `addresses` says what they are good for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use netwatch::interfaces::{IpNet, State};
use proto::addresses::Net;

use crate::reach::addresses::{Interface, Interfaces, Signs, classify, default_routes_v4, default_routes_v6};

const SYSFS: &str = "/sys/class/net";
/// How deep interfaces lie on each other: a bridge on a VLAN on a bond on hardware is three.
const MAX_DEPTH: usize = 4;

/// Asks the system.
pub async fn interfaces() -> Interfaces {
    let state = State::new().await;
    let defaults = defaults(&state);
    let leads_out = |other: &&String| !other.starts_with("ppp");
    let only_ppp = !defaults.keys().any(|name| leads_out(&name));
    let up = state.interfaces.values().filter(|interface| interface.is_up());
    let all = up.filter_map(|interface| {
        let name = interface.name();
        let default = defaults.get(name).copied();
        let nets = lasting_first(interface.addrs());
        let kind = classify(
            name,
            &signs(Path::new(SYSFS), name),
            default.is_some() && (only_ppp || !name.starts_with("ppp")),
        );
        (!nets.is_empty()).then(|| Interface { name: name.to_owned(), kind, default, nets })
    });
    Interfaces::new(all.collect())
}

/// Gives the metric of each interface's default route.
fn defaults(state: &State) -> BTreeMap<String, u32> {
    let v4 = fs::read_to_string("/proc/net/route").ok();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").ok();
    if v4.is_none() && v6.is_none() {
        return state.default_route_interface.iter().map(|name| (name.clone(), 0)).collect();
    }
    let mut defaults = BTreeMap::new();
    // The way out by IPv4 counts before that by IPv6, whose metrics are of another scale.
    let v4 = default_routes_v4(&v4.unwrap_or_default());
    let v6 = default_routes_v6(&v6.unwrap_or_default());
    let v6 = v6.into_iter().map(|(name, metric)| (name, metric.saturating_add(1 << 20)));
    for (name, metric) in v4.into_iter().chain(v6) {
        let known = defaults.entry(name).or_insert(metric);
        *known = metric.min(*known);
    }
    defaults
}

/// Lists the addresses of an interface, those first that will be there for long.
fn lasting_first(nets: impl Iterator<Item = IpNet>) -> Vec<Net> {
    let mut found: Vec<(bool, Net)> = Vec::new();
    for net in nets.filter(|net| !net.addr().is_loopback()) {
        let (fleeting, len) = match &net {
            IpNet::V4(net) => (false, net.prefix_len()),
            IpNet::V6 { net, flags, .. } => {
                if flags.tentative || flags.duplicated {
                    continue;
                }
                (flags.deprecated || flags.temporary, net.prefix_len())
            }
        };
        found.push((fleeting, Net { address: net.addr(), len }));
    }
    found.sort_by_key(|(fleeting, net)| (*fleeting, net.address.is_ipv6(), *net));
    found.into_iter().map(|(_, net)| net).collect()
}

/// Reads what Linux shows of an interface; elsewhere there is nothing to read.
fn signs(sysfs: &Path, name: &str) -> Signs {
    let dir = sysfs.join(name);
    let Ok(link_type) = fs::read_to_string(dir.join("type")) else { return Signs::default() };
    let uevent = fs::read_to_string(dir.join("uevent")).unwrap_or_default();
    let devtype = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
    Signs {
        link_type: link_type.trim().parse().ok(),
        hardware: is_hardware(&dir),
        on_hardware: is_on_hardware(sysfs, name),
        bridge: dir.join("bridge").exists(),
        port: dir.join("brport").exists(),
        devtype: devtype.to_owned(),
    }
}

fn is_hardware(dir: &Path) -> bool {
    dir.join("device").exists()
}

/// Tells whether there is hardware anywhere below an interface, as below a bridge on a VLAN on a bond.
fn is_on_hardware(sysfs: &Path, name: &str) -> bool {
    let (mut level, mut looked) = (BTreeSet::from([name.to_owned()]), BTreeSet::new());
    for _ in 0..MAX_DEPTH {
        looked.extend(level.iter().cloned());
        let below = level.iter().flat_map(|name| below(sysfs, name));
        level = below.filter(|name| !looked.contains(name)).collect();
        if level.iter().any(|name| is_hardware(&sysfs.join(name))) {
            return true;
        }
    }
    false
}

/// Lists what lies right below an interface: the ports of a bridge, the device of a VLAN, the members of a bond.
fn below(sysfs: &Path, name: &str) -> Vec<String> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let dir = sysfs.join(name);
    let lower = names(&dir).into_iter().filter_map(|entry| Some(entry.strip_prefix("lower_")?.to_owned()));
    lower.chain(names(&dir.join("brif"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::addresses::Kind;

    /// A tree as under /sys/class/net. `NAME[ SIGN ..]: BELOW ..`, one interface a line.
    fn tree(text: &str) -> tempfile::TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (head, below) = line.split_once(':').unwrap();
            let mut words = head.split(' ');
            let dir = sysfs.path().join(words.next().unwrap());
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("type"), "1\n").unwrap();
            words.for_each(|sign| fs::create_dir(dir.join(sign)).unwrap());
            for name in below.split_whitespace() {
                fs::create_dir(dir.join(format!("lower_{name}"))).unwrap();
                if dir.join("bridge").exists() {
                    fs::create_dir_all(dir.join("brif").join(name)).unwrap();
                }
            }
        }
        sysfs
    }

    #[test]
    fn what_lies_on_hardware_over_any_number_of_others_is_a_lan() {
        let sysfs = tree(
            "eth0 device:
             eth1 device:
             bond0: eth0 eth1
             bond0.10: bond0
             eth0.10: eth0
             br0 bridge: bond0
             br1 bridge: eth0.10 vnet0
             br2 bridge: bond0.10
             br3 bridge: vnet1
             vnet0 brport:
             vnet1 brport:
             dummy0:
             br4 bridge: dummy0
             ring0: ring1
             ring1: ring0",
        );
        let kind = |name: &str| classify(name, &signs(sysfs.path(), name), false);
        for name in ["eth0", "bond0", "bond0.10", "eth0.10", "br0", "br1", "br2"] {
            assert_eq!(kind(name), Kind::Lan, "{name}");
        }
        for name in ["br3", "br4", "vnet0", "vnet1"] {
            assert_eq!(kind(name), Kind::Inner, "{name}");
        }
        for name in ["dummy0", "ring0", "ring1"] {
            assert_eq!(kind(name), Kind::Soft, "{name}");
        }
    }
}
