//! Asks the system for this host's interfaces; `addresses` says what they are good for.

use std::{collections::BTreeMap, fs, path::Path};

use netwatch::interfaces::{IpNet, State};
use proto::addresses::Net;

use crate::addresses::{Interface, Interfaces, Signs, classify, default_routes_v4, default_routes_v6};

const SYSFS: &str = "/sys/class/net";

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
        let kind = classify(name, &signs(name), default.is_some() && (only_ppp || !name.starts_with("ppp")));
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
fn signs(name: &str) -> Signs {
    let dir = Path::new(SYSFS).join(name);
    let is_hardware = |dir: &Path| dir.join("device").exists();
    let Ok(link_type) = fs::read_to_string(dir.join("type")) else { return Signs::default() };
    // What lies below: the ports of a bridge, the device of a VLAN, the members of a bond.
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let lower = names(&dir).into_iter().filter_map(|entry| Some(entry.strip_prefix("lower_")?.to_owned()));
    let below = names(&dir.join("brif")).into_iter().chain(lower);
    let uevent = fs::read_to_string(dir.join("uevent")).unwrap_or_default();
    let devtype = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
    Signs {
        link_type: link_type.trim().parse().ok(),
        hardware: is_hardware(&dir),
        on_hardware: below.into_iter().any(|name| is_hardware(&Path::new(SYSFS).join(name))),
        bridge: dir.join("bridge").exists(),
        port: dir.join("brport").exists(),
        devtype: devtype.to_owned(),
    }
}
