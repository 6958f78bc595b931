//! Pure: how this system's own resolver is told of the mesh's zone, so that every program finds its names, and how that
//! is taken back. Other names are never sent to us: a resolver that cannot keep the two apart is left alone, and told why.
//!
//! ```text
//! systemd-resolved 258    a DNS delegate (systemd.dns-delegate(5))
//! systemd-resolved 246    a global server with a routing-only domain (resolved.conf(5)); the first with port numbers
//! NetworkManager          dnsmasq.d, where NetworkManager runs dnsmasq itself
//! dnsmasq, unbound        a file in their own directory
//! macOS                   /etc/resolver/ZONE (resolver(5))
//! ```

pub mod look;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

pub use super::hook::{Hook, Resolver};
use super::plan::{Command, File, Plan, Record};
use crate::host::resolv::servers;

/// Where is written what was hooked in, and by that what is removed one day.
pub const RECORD: &str = "/usr/local/lib/agent/names.json";
/// The first resolved that takes the port of a server.
const WITH_PORTS: u32 = 246;
/// The first one that has delegates.
const WITH_DELEGATES: u32 = 258;
/// Where resolved itself listens.
const RESOLVED_STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// What this system's names are resolved by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether this is macOS.
    pub macos: bool,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Whether programs ask resolved past that file (`/etc/nsswitch.conf`).
    pub nss_resolve: bool,
    /// systemd-resolved, when it runs.
    pub resolved: Option<Resolved>,
    /// Whether NetworkManager is told to run dnsmasq.
    pub managed_dnsmasq: bool,
    /// Whether a dnsmasq of its own runs, and reads the files of `/etc/dnsmasq.d`.
    pub dnsmasq: Option<bool>,
    /// Whether unbound runs, and reads the files of `/etc/unbound/unbound.conf.d`.
    pub unbound: Option<bool>,
    /// Whether this is Linux inside Windows.
    pub wsl: bool,
}

/// A running systemd-resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its version, if it says so.
    pub version: Option<u32>,
    /// Whether its settings name servers for all names.
    pub own_servers: bool,
    /// Whether it has learned servers from networks.
    pub learned_servers: bool,
}

/// Why the zone cannot be hooked in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cannot {
    /// Programs ask servers that cannot be told of one zone.
    #[error(
        "programs here ask {0} for every name, and there is nobody between who could ask us for names of the zone"
    )]
    Plain(String),
    /// Somebody answers on loopback whom we do not know.
    #[error("programs here ask {0}, and it is no resolver whose settings are known")]
    Unknown(IpAddr),
    /// resolved is too old.
    #[error("systemd-resolved {0} takes no port of a name server")]
    Old(u32),
    /// It has servers of its own beside which ours would stand.
    #[error(
        "the settings of systemd-resolved name servers (DNS=), and before version {WITH_DELEGATES} it would ask ours for all names as well"
    )]
    OwnServers,
    /// It would have ours alone.
    #[error("systemd-resolved knows no server but its built-in ones, and would ask ours for all names")]
    NoServers,
    /// A resolver does not read its directory.
    #[error("{0} does not read {1}")]
    Unread(&'static str, &'static str),
    /// Another one is hooked in.
    #[error("{} is told of the zone, and programs here ask {}", .0.name(), .1.name())]
    Moved(Resolver, Resolver),
    /// It is hooked in by a file that would stay.
    #[error("it is told of the zone by {}, and would be by another file", .0.display())]
    Elsewhere(PathBuf),
}

impl Cannot {
    /// Gives what helps.
    pub fn next(&self) -> String {
        match self {
            Cannot::Plain(_) => "install systemd-resolved, or dnsmasq, then again; until then: http://GROUP.SESSION.localhost:7080/    or agent dns query NAME",
            Cannot::Unknown(_) => "have it ask 127.0.0.1 at the port that `agent status` shows for names of the zone",
            Cannot::Old(_) => "set dns.port = 53 in config.toml, then DNS=127.0.0.1 and Domains=~ZONE in /etc/systemd/resolved.conf",
            Cannot::OwnServers => "give the servers to the network's link instead (DNS= of its .network file, or nmcli), or use systemd 258",
            Cannot::NoServers => "let the network tell its servers (DHCP), or use systemd 258",
            Cannot::Unread("dnsmasq", _) => "add conf-dir=/etc/dnsmasq.d to /etc/dnsmasq.conf, then again",
            Cannot::Unread(..) => "add include: \"/etc/unbound/unbound.conf.d/*.conf\" to /etc/unbound/unbound.conf, then again",
            Cannot::Moved(..) | Cannot::Elsewhere(_) => "sudo agent dns undo    then sudo agent dns setup",
        }
        .to_owned()
    }
}

/// Finds out whom programs ask.
pub fn resolver(seen: &Surroundings) -> Result<Resolver, Cannot> {
    if seen.macos {
        return Ok(Resolver::MacOs);
    }
    let asked: Vec<IpAddr> = servers(&seen.resolv_conf).collect();
    let stub = asked.iter().any(|server| RESOLVED_STUBS.contains(server));
    if let Some(resolved) = seen.resolved.filter(|_| stub || seen.nss_resolve) {
        let delegates = resolved.version.is_some_and(|version| version >= WITH_DELEGATES);
        return match resolved {
            Resolved { version: Some(old), .. } if old < WITH_PORTS => Err(Cannot::Old(old)),
            Resolved { own_servers: true, .. } if !delegates => Err(Cannot::OwnServers),
            Resolved { learned_servers: false, .. } if !delegates => Err(Cannot::NoServers),
            _ => Ok(Resolver::Resolved),
        };
    }
    // Without any server named, C libraries ask the one on loopback (resolv.conf(5)).
    let first = asked.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !first.is_loopback() {
        return Err(Cannot::Plain(first.to_string()));
    }
    match seen {
        Surroundings { managed_dnsmasq: true, .. } => Ok(Resolver::NetworkManager),
        Surroundings { dnsmasq: Some(true), .. } => Ok(Resolver::Dnsmasq),
        Surroundings { dnsmasq: Some(false), .. } => Err(Cannot::Unread("dnsmasq", "/etc/dnsmasq.d")),
        Surroundings { unbound: Some(true), .. } => Ok(Resolver::Unbound),
        Surroundings { unbound: Some(false), .. } => {
            Err(Cannot::Unread("unbound", "/etc/unbound/unbound.conf.d"))
        }
        _ => Err(Cannot::Unknown(first)),
    }
}

/// Decides how the zone is hooked in; `before` is what was by an earlier time.
pub fn setup(
    seen: &Surroundings,
    (zone, port): (&str, u16),
    data: &Path,
    before: Option<&Record>,
) -> Result<(Plan, Hook), Cannot> {
    let resolver = resolver(seen)?;
    let hooked = before.and_then(|record| record.names.as_ref());
    if let Some(other) = hooked.filter(|hook| hook.resolver != resolver) {
        return Err(Cannot::Moved(other.resolver, resolver));
    }
    let hook = Hook { resolver, zone: zone.to_owned(), port, data: data.to_owned() };
    let delegates =
        seen.resolved.and_then(|resolved| resolved.version).is_some_and(|version| version >= WITH_DELEGATES);
    let (path, text) = file(&hook, delegates);
    let mut files = before.into_iter().flat_map(|record| &record.files);
    if let Some((other, _)) = files.find(|(written, _)| *written != path) {
        return Err(Cannot::Elsewhere(other.clone()));
    }
    let write = vec![File { path, mode: 0o644, text: Some(text) }];
    let say = vec![format!("what it does: agent dns status    and back: sudo agent dns undo")];
    Ok((Plan { write, run: reload(resolver), say, ..Plan::default() }, hook))
}

/// Decides how what a record names is taken back.
pub fn undo(record: &Record) -> Plan {
    let mut remove: Vec<PathBuf> = record.files.iter().map(|(path, _)| path.clone()).collect();
    remove.push(RECORD.into());
    remove.extend(record.made.clone());
    let run = record.names.as_ref().map(|hook| reload(hook.resolver)).unwrap_or_default();
    Plan { remove, run, ..Plan::default() }
}

fn file(hook: &Hook, delegates: bool) -> (PathBuf, String) {
    let Hook { zone, port, .. } = hook;
    let head = "# Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.\n";
    let dnsmasq = || format!("{head}server=/{zone}/127.0.0.1#{port}\nrebind-domain-ok=/{zone}/\n");
    let (path, text) = match hook.resolver {
        Resolver::Resolved if delegates => (
            "/etc/systemd/dns-delegate.d/agent-mesh.dns-delegate",
            format!("{head}[Delegate]\nDNS=127.0.0.1:{port}\nDomains=~{zone}\n"),
        ),
        Resolver::Resolved => (
            "/etc/systemd/resolved.conf.d/agent-mesh.conf",
            format!("{head}[Resolve]\nDNS=127.0.0.1:{port}\nDomains=~{zone}\n"),
        ),
        Resolver::NetworkManager => ("/etc/NetworkManager/dnsmasq.d/agent-mesh.conf", dnsmasq()),
        Resolver::Dnsmasq => ("/etc/dnsmasq.d/agent-mesh.conf", dnsmasq()),
        // Nobody signs `.internal`, and its names lead to loopback.
        Resolver::Unbound => (
            "/etc/unbound/unbound.conf.d/agent-mesh.conf",
            format!(
                "{head}server:\n    do-not-query-localhost: no\n    domain-insecure: \"{zone}\"\n    private-domain: \"{zone}\"\n\
                 forward-zone:\n    name: \"{zone}\"\n    forward-addr: 127.0.0.1@{port}\n"
            ),
        ),
        Resolver::MacOs => {
            return (
                Path::new("/etc/resolver").join(zone),
                format!("{head}nameserver 127.0.0.1\nport {port}\n"),
            );
        }
    };
    (path.into(), text)
}

/// Gives what makes a resolver read its files again. Where that fails, the next start does.
pub fn reload(resolver: Resolver) -> Vec<Command> {
    let words: &[&str] = match resolver {
        Resolver::Resolved => &["systemctl", "try-reload-or-restart", "systemd-resolved"],
        // Starts its dnsmasq anew, which reads files only then.
        Resolver::NetworkManager => &["nmcli", "general", "reload", "dns-full"],
        Resolver::Dnsmasq => &["systemctl", "try-restart", "dnsmasq"],
        Resolver::Unbound => &["systemctl", "try-reload-or-restart", "unbound"],
        Resolver::MacOs => return Vec::new(),
    };
    let otherwise = format!("it counts once {} was started again", resolver.name());
    vec![Command { otherwise: Some(otherwise), ..Command::new(words) }]
}

/// Says who does not see the zone although it is hooked in.
pub fn blind(seen: &Surroundings) -> Vec<&'static str> {
    let stub = servers(&seen.resolv_conf).any(|server| RESOLVED_STUBS.contains(&server));
    let beside = seen.resolved.is_some() && !stub;
    let mut blind = vec![
        "browsers that use DNS over HTTPS: http://GROUP.SESSION.localhost:7080/ works in all of them",
        "containers: they have a loopback of their own",
    ];
    if beside {
        blind.push(
            "programs that read /etc/resolv.conf themselves (Go, musl): it does not name systemd-resolved",
        );
    }
    if seen.wsl {
        blind.push("programs of Windows: this is a computer of its own inside it");
    }
    blind
}
