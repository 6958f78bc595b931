//! The settings of this host, in four layers: `default.toml` < DATA/config.toml < environment
//! `AGENT_*` < `--set`. Each value remembers where it came from, for `agent config show`.
//! Pure: texts in, [`Config`] or every mistake out. The callers read the file and the environment.

mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use merge::{DEFAULT, Layers, Setting};
use proto::reachability::{fallback::Foreign, proof::Public};

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the owner gives to the mesh.
    pub policy: Policy,
    /// Relaying.
    pub relay: Relay,
    /// First UDP port to try: traffic between hosts; the next one is address discovery.
    pub listen_port: u16,
    /// Whether this host's router is asked to map its ports.
    pub listen_map: bool,
    /// Names.
    pub dns: Dns,
    /// Doors for programs of this host.
    pub net: Net,
    /// Group whose members may use the local API, where root runs the agent.
    pub api_group: Option<String>,
    /// Whether this host is fit to be a voter; `None` = found out.
    pub steady: Option<bool>,
    /// What placement wishes are matched with.
    pub tags: BTreeMap<String, String>,
}

/// What the owner gives to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether machines may run here.
    pub machines: bool,
    /// Whether services of machines may be published in this host's own network.
    pub publish: bool,
    /// CPUs for machines; `None` = all.
    pub cpus: Option<u32>,
    /// Memory for machines in MiB; `None` = found out.
    pub memory_mib: Option<u64>,
    /// Disk for machines in MiB; `None` = found out.
    pub disk_mib: Option<u64>,
    /// Whether machines may go into this host's own network.
    pub lan: bool,
}

/// Relaying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Whether this host relays for others; `None` = when it is reached from outside.
    pub serve: Option<bool>,
    /// Relays of strangers that it may fall back on.
    pub fallback: Foreign,
}

/// What this host's programs may use beside names, without root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// Where others reach this host from outside; `None` = found out.
    pub public: Option<Public>,
    /// First port to try for the front door of browsers; `None` = there is none.
    pub browser: Option<u16>,
    /// First port to try for the SOCKS proxy; `None` = there is none.
    pub socks: Option<u16>,
    /// Whether this host itself is on the networks of its sessions.
    pub host_interface: bool,
}

/// Names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Port on 127.0.0.1; `None` = found out and kept.
    pub port: Option<u16>,
    /// The zone of all names, without a final dot.
    pub zone: String,
}

/// One mistake in a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct Mistake {
    /// Where it stands.
    pub origin: String,
    /// What is wrong.
    pub what: String,
}

/// Builds the settings from their layers, or tells every mistake.
pub fn load(layers: &Layers) -> Result<(Config, Vec<Setting>), Vec<Mistake>> {
    let settings = merge::merge(layers)?;
    let mut reader = Reader { settings: &settings, mistakes: Vec::new() };
    let config = reader.config();
    if reader.mistakes.is_empty() { Ok((config, settings)) } else { Err(reader.mistakes) }
}

/// Turns merged texts into values and collects what does not fit.
struct Reader<'a> {
    settings: &'a [Setting],
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn config(&mut self) -> Config {
        let policy = Policy {
            machines: self.read("policy.machines", "true or false", parse_bool).unwrap_or(true),
            publish: self.read("policy.publish", "true or false", parse_bool).unwrap_or(false),
            cpus: self.read("policy.cpus", "\"all\" or a number from 1", word("all", parse_count)).flatten(),
            memory_mib: self.read("policy.memory", SIZE, word("auto", parse_mib)).flatten(),
            disk_mib: self.read("policy.disk", SIZE, word("auto", parse_mib)).flatten(),
            lan: self.read("policy.lan", "true or false", parse_bool).unwrap_or(false),
        };
        let relay = Relay {
            serve: self
                .read("relay.serve", "\"auto\", \"on\" or \"off\"", word("auto", parse_bool))
                .flatten(),
            fallback: self.read("relay.fallback", FALLBACK, |text| text.parse().ok()).unwrap_or_default(),
        };
        let port = "\"auto\" or a port from 1 to 65535";
        let dns = Dns {
            port: self.read("dns.port", port, word("auto", parse_port)).flatten(),
            zone: self.read("dns.zone", "a domain such as mesh.internal", parse_zone).unwrap_or_default(),
        };
        let port = "\"off\" or a port from 1 to 65535";
        let net = Net {
            public: self.read("net.public", PUBLIC, word("auto", |text| text.parse().ok())).flatten(),
            browser: self.read("net.browser", port, word("off", parse_port)).flatten(),
            socks: self.read("net.socks", port, word("off", parse_port)).flatten(),
            host_interface: self.read("net.host_interface", "true or false", parse_bool).unwrap_or(false),
        };
        Config {
            policy,
            relay,
            // The pair's second port must exist.
            listen_port: self
                .read("listen.port", "a port from 1 to 65534", |text| parse_port(text).filter(|p| *p < 65535))
                .unwrap_or_default(),
            listen_map: self.read("listen.map", "true or false", parse_bool).unwrap_or(true),
            dns,
            net,
            api_group: self
                .read("api.group", "\"none\" or the name of a group", word("none", parse_group))
                .flatten(),
            steady: self.read("steady", "\"auto\", \"yes\" or \"no\"", word("auto", parse_bool)).flatten(),
            tags: self.tags(),
        }
    }

    /// Reads one value; `None` after a mistake was noted.
    fn read<T>(&mut self, key: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let setting = self.settings.iter().find(|setting| setting.key == key)?;
        let value = parse(&setting.value);
        if value.is_none() {
            let what = format!("{key} is {:?}, it must be {wanted}", setting.value);
            self.mistakes.push(Mistake { origin: setting.origin.to_string(), what });
        }
        value
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        let tags = self.settings.iter().filter_map(|setting| {
            Some((setting.key.strip_prefix("tags.")?.to_owned(), setting.value.clone()))
        });
        tags.collect()
    }
}

const PUBLIC: &str = "\"auto\", or an address with or without a port such as 203.0.113.9:7440";

const FALLBACK: &str = "a list of relays such as [\"https://relay.example.org\"], or [] for none";
const SIZE: &str = "\"auto\" or a size such as \"4G\"";

/// Lets one word stand for "found out by the program".
fn word<T>(auto: &'static str, parse: fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Option<T>> {
    move |text| if text == auto { Some(None) } else { parse(text).map(Some) }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "on" | "yes" => Some(true),
        "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

fn parse_count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| *count > 0)
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn parse_mib(text: &str) -> Option<u64> {
    proto::size::mib(text).ok()
}

fn parse_group(text: &str) -> Option<String> {
    let may = |letter: char| letter.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&letter);
    ((1..=32).contains(&text.len()) && text.chars().all(may)).then(|| text.to_owned())
}

fn parse_zone(text: &str) -> Option<String> {
    let zone = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Our longest name in front of it: _SERVICE._tcp.GROUP.SESSION and its dots, 108 bytes.
    (zone.len() <= 140 && zone.split('.').all(label)).then_some(zone)
}
